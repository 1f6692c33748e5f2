"""Run the session tests of the Agents SDK against our `Session`: a plugin of pytest that puts it in the place of `SQLiteSession`.

    PYTHONPATH=tests/contrib python -m pytest -p our_sessions tests/memory/test_session.py

The tests have to be those of the installed SDK, in the folder of its sdist.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import agents
import agents.memory
import pytest

from threadledger.contrib.agents import Session

RESULTS = os.environ.get("OUR_SESSIONS_RESULTS")
"""File that gets the outcomes of the tests, as JSON: `{"passed": [names], "failed": {name: why}}`."""

_FOLDER = tempfile.TemporaryDirectory()


class OurSession(Session):
    """Open our session with the arguments of `SQLiteSession`; a database in memory is a file that no other session has."""

    def __init__(self, session_id: str, db_path: str | Path = ":memory:", *, session_settings: Any = None) -> None:
        if str(db_path) == ":memory:":
            db_path = Path(tempfile.mkdtemp(dir=_FOLDER.name)) / "ledger.db"
        super().__init__(session_id, db_path, session_settings=session_settings)


class Outcomes:
    """Collect the outcomes of the tests, and write them to a file at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps({"passed": self.passed, "failed": self.failed}), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Replace the class before a test imports it."""
    # The types know these names as classes, which are not assigned to.
    agents.SQLiteSession = agents.memory.SQLiteSession = OurSession  # type: ignore[misc, assignment]
    if RESULTS is not None:
        config.pluginmanager.register(Outcomes(Path(RESULTS)))


def pytest_unconfigure() -> None:
    """Remove the databases."""
    _FOLDER.cleanup()
