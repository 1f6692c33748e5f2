"""Run the Agents SDK's own tests of its sessions with our `Session` in the place of its own (`our_sessions.py`).

They come from the sdist of the installed version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from ..server.downloads import cached, run

SOAK = "THREADLEDGER_SOAK" in os.environ
SESSIONS = (
    *("tests/memory/test_session.py", "tests/memory/test_session_limit.py"),
    *("tests/memory/test_session_context_wrapper.py", "tests/memory/test_session_persistence_sanitize.py"),
    *("tests/test_soft_cancel.py", "tests/test_max_turns.py"),
)
MORE = (
    *("tests/memory/test_openai_responses_compaction_session.py", "tests/memory/test_compaction_model_visibility.py"),
    *("tests/test_tool_failure_boundaries.py", "tests/test_native_tool_failure_history.py"),
    *("tests/test_tool_batch_failure_history.py", "tests/test_programmatic_tool_calling.py"),
    "tests/test_run_impl_resume_paths.py",
)
"""Tests of agents that keep their history in a session, which run in `make soak`."""

SESSIONS_MIN, MORE_MIN = 172, 520
"""Number of tests that pass at least, in openai-agents 0.24."""

CONNECTIONS = "it counts the connections of SQLiteSession to its file"
CORRUPT = "it writes a damaged row into the table of SQLiteSession; a damaged row of a ledger is refused, not skipped"
LOCKS = "it opens the file of SQLiteSession beside it, to lock its tables or to see that they are not locked"
COMPACTION = "it needs a private method of SQLiteSession by which a compaction replaces the end of a limited history"

NOT_OURS = {
    "test_sqlite_session_close_closes_worker_thread_connections": CONNECTIONS,
    "test_sqlite_session_reaps_connections_from_exited_worker_threads": CONNECTIONS,
    "test_sqlite_session_closes_retired_connections_before_the_next_allocation": CONNECTIONS,
    "test_sqlite_session_keeps_connections_of_live_worker_threads": CONNECTIONS,
    "test_sqlite_session_rollback_failure_evicts_connection": CONNECTIONS,
    "test_sqlite_session_close_retries_quarantined_connection": CONNECTIONS,
    "test_sqlite_session_post_commit_cancellation_propagates_after_known_outcome": CONNECTIONS,
    "test_sqlite_session_pop_item_skips_corrupt_most_recent": CORRUPT,
    "test_sqlite_session_pop_item_returns_none_after_dropping_only_corrupt_rows": CORRUPT,
    "test_sqlite_session_get_items_limit_skips_corrupt_newest_rows": CORRUPT,
    "test_sqlite_session_get_items_session_settings_limit_skips_corrupt_rows": CORRUPT,
    "test_sqlite_session_file_lock_is_shared_across_instances": LOCKS,
    "test_sqlite_session_failed_add_items_releases_write_lock": LOCKS,
    "test_sqlite_session_failed_clear_session_rolls_back": LOCKS,
    "test_sqlite_session_failed_pop_item_releases_write_lock": LOCKS,
    "test_sqlite_session_closed_rejects_empty_add_items": "it wants the words of SQLiteSession: ours names the session",
    "test_automatic_compaction_rollback_budget": COMPACTION,
    "test_settled_clear_failure_invalidates_response_chain": LOCKS,
    "test_settled_pop_failure_invalidates_response_chain": LOCKS,
    "test_automatic_compaction_does_not_reload_unbounded_hidden_history": COMPACTION,
    "test_backend_read_limit_cannot_hide_retained_history_from_compaction": COMPACTION,
    "test_expired_read_overhead_does_not_authorize_hidden_history": COMPACTION,
    "test_handoff_resume_after_cancelled_compaction_commits": CONNECTIONS,
}
"""Tests that reach into SQLiteSession, by their names, and how."""

SECONDS_MAX = 300.0


@pytest.fixture
def sdk_tests() -> Path:
    """Return a folder with the tests of the installed openai-agents."""
    wanted = f"openai-agents=={version('openai-agents')}"

    def fill(place: Path) -> None:
        options = ("--no-deps", "--no-binary", "openai-agents", "--retries", "1", "-q")
        run(sys.executable, "-m", "pip", "download", *options, "--disable-pip-version-check", wanted, cwd=place)
        (archive,) = place.glob("openai_agents-*.tar.gz")
        with tarfile.open(archive) as packed:
            for member in packed.getmembers():
                _, _, member.name = member.name.partition("/")
                if member.name == "pyproject.toml" or member.name.startswith("tests/"):
                    packed.extract(member, place, filter="data")

    return cached(f"openai-agents-{version('openai-agents')}", fill)


def outcomes(folder: Path, result: Path, tests: tuple[str, ...]) -> Any:
    """Run tests in a process of their own, and return `{"passed": [names], "failed": {name: why}}`."""
    plugins = ("-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-p", "our_sessions")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--tb=short", *plugins, *tests]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).parent)}
    env |= {"OUR_SESSIONS_RESULTS": str(result), "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    ended = subprocess.run(
        command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS_MAX
    )
    assert result.exists(), ended.stdout + ended.stderr
    return json.loads(result.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("files", "least"),
    [
        pytest.param(SESSIONS, SESSIONS_MIN, id="sessions"),
        pytest.param(
            MORE,
            MORE_MIN,
            id="more",
            marks=pytest.mark.skipif(not SOAK, reason="other tests of agents run in `make soak`"),
        ),
    ],
)
def test_the_sdk_passes_its_own_tests_of_sessions(
    sdk_tests: Path, tmp_path: Path, files: tuple[str, ...], least: int
) -> None:
    found = outcomes(sdk_tests, tmp_path / "outcomes.json", files)
    others = {name: why for name, why in found["failed"].items() if _test_of(name) not in NOT_OURS}
    assert others == {}
    assert len(found["passed"]) >= least


def _test_of(name: str) -> str:
    return name.rpartition("::")[2].partition("[")[0]
