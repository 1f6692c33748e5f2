"""Run openai-python's own tests of its resources against the server, with real ids (`real_ids.py`); they come from its sdist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from .chat_only import ChatOnly
from .downloads import cached, run
from .real_ids import replace_ids

Json = dict[str, Any]

SOAK = "THREADLEDGER_SOAK" in os.environ
BETA = "tests/api_resources/beta"
ASSISTANTS = (
    *(f"{BETA}/test_assistants.py", f"{BETA}/test_threads.py"),
    *(f"{BETA}/threads/test_messages.py", f"{BETA}/threads/test_runs.py", f"{BETA}/threads/runs/test_steps.py"),
)
CHAT = ("tests/api_resources/chat/test_completions.py", "tests/api_resources/chat/completions/test_messages.py")
FILES = (
    *("tests/api_resources/test_files.py", "tests/api_resources/test_vector_stores.py"),
    *("tests/api_resources/vector_stores/test_files.py", "tests/api_resources/vector_stores/test_file_batches.py"),
)
CONVERSATIONS = ("tests/api_resources/test_conversations.py", "tests/api_resources/conversations/test_items.py")
RESPONSES = (
    "tests/api_resources/test_responses.py",
    *(f"tests/api_resources/responses/test_{name}.py" for name in ("input_items", "input_tokens")),
)
PASSED_MIN: Mapping[tuple[str, ...], int] = {
    ASSISTANTS: 116,
    CHAT: 29,
    FILES: 93,
    CONVERSATIONS: 35,
    RESPONSES: 35,
}
"""Number of tests of one client that pass at least, in openai 3.54: of each of the clients that `CLIENTS` selects."""

NOT_SERVED = "compact"
"""Part of the names of the tests of `/responses/compact`, which is not served."""

EXCLUSIVE = re.compile(r".*/test_file_batches\.py::Test(Async)?FileBatches::test_method_create_with_all_params\[")
"""Test whose request gives `file_ids` and `files`, which the SDK's own description calls mutually exclusive."""

CLIENTS = {
    "strict": "not Async and strict",
    "loose": "not Async and loose",
    "awaiting": "Async and strict",
}
"""Selections of tests. The same tests run with a client that checks each answer against its type (strict), with one that does
not, and with the awaiting client. What passes with the first one passes with all; the others are tested in `make soak`."""

SECONDS_MAX = 300.0


@pytest.fixture
def sdk_tests() -> Path:
    """Return a folder with the tests of the installed openai-python."""
    wanted = f"openai=={version('openai')}"

    def fill(place: Path) -> None:
        options = ("--no-deps", "--no-binary", "openai", "--retries", "1", "--disable-pip-version-check", "-q")
        run(sys.executable, "-m", "pip", "download", *options, wanted, cwd=place)
        (archive,) = place.glob("openai-*.tar.gz")
        with tarfile.open(archive) as packed:
            for member in packed.getmembers():
                _, _, member.name = member.name.partition("/")
                if member.name == "pyproject.toml" or member.name.startswith("tests/"):
                    packed.extract(member, place, filter="data")

    return cached(f"openai-python-{version('openai')}", fill)


def outcomes(folder: Path, base_url: str, result: Path, tests: tuple[str, ...], selection: str) -> Any:
    """Run tests in a process of their own, and return `{"passed": [names], "failed": {name: why}}`."""
    plugins = ("-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-p", "real_ids")
    chosen = ("-k", f"{selection} and not {NOT_SERVED}")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--tb=short", *plugins, *chosen, *tests]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).parent)}
    env |= {"TEST_API_BASE_URL": base_url, "REAL_IDS_RESULTS": str(result)}
    ended = subprocess.run(
        command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS_MAX
    )
    assert result.exists(), ended.stdout + ended.stderr
    return json.loads(result.read_text(encoding="utf-8"))


def selections() -> list[Any]:
    """Return the clients whose tests run: the strict one, in a soak all."""
    soak = pytest.mark.skipif(not SOAK, reason="other clients than the strict one are tested in `make soak`")
    return [pytest.param(CLIENTS[name], id=name, marks=soak if name != "strict" else ()) for name in CLIENTS]


def test_the_plugin_replaces_ids_and_no_other_value() -> None:
    query = {"after": "after", "before": "before", "limit": 0, "order": "asc", "model": "model", "run_id": "run_id"}
    body = {
        "assistant_id": "assistant_id",
        "metadata": {"run_id": "run_id"},
        "instructions": "run_id",
        "tool_outputs": [{"tool_call_id": "tool_call_id", "output": "output"}, {}],
    }
    path, queried, sent = replace_ids("/threads/thread_id/runs/run_id/steps", query, body, "real {}".format)
    assert path == "/threads/real thread_id/runs/real run_id/steps"
    assert queried == query | {"after": "real after", "before": "real before", "run_id": "real run_id"}
    assert sent == body | {
        "assistant_id": "real assistant_id",
        "tool_outputs": [{"tool_call_id": "real tool_call_id", "output": "output"}, {}],
    }


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"conversation": "string", "previous_response_id": "resp_123"}, {"conversation": "real conversation"}),
        (
            {"conversation": "string", "previous_response_id": "previous_response_id", "stream": True},
            {"previous_response_id": "real previous_response_id", "stream": True},
        ),
        (
            {"conversation": "conv_of_the_test", "input": "string"},
            {"conversation": "conv_of_the_test", "input": "string"},
        ),
    ],
)
def test_the_plugin_leaves_out_one_of_two_fields_that_the_api_refuses_together(sent: Json, kept: Json) -> None:
    assert replace_ids("/responses", {}, sent, "real {}".format)[2] == kept


@pytest.mark.parametrize("selection", selections())
def test_the_sdk_passes_all_its_own_tests_of_what_is_served(
    open_api: Callable[..., Any], upstream: ChatOnly, sdk_tests: Path, tmp_path: Path, selection: str
) -> None:
    upstream.calls_functions = True
    server = open_api("[serve]\nhosted_tools = 'drop'\n")
    tests = tuple(file for files in PASSED_MIN for file in files)
    found = outcomes(sdk_tests, server.base_url, tmp_path / "outcomes.json", tests, selection)
    failed = {name: why for name, why in found["failed"].items() if not (EXCLUSIVE.match(name) and "Mutually" in why)}
    assert failed == {}
    passed = {files: sum(name.startswith(files) for name in found["passed"]) for files in PASSED_MIN}
    assert {files: number for files, number in passed.items() if number < PASSED_MIN[files]} == {}
    assert upstream.other_paths == []
