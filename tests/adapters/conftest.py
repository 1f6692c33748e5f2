"""What the tests of the adapters share: stores on one file, and a way to run Python in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    """The file behind `db_url`."""
    return tmp_path / "ledger.db"


@pytest.fixture
def open_store_on() -> Iterator[Callable[..., Any]]:
    """Opens ledgers that know nobody outside, on the database of a URL or on a `Database`."""
    from threadledger.adapters.sql import Database, Factory
    from threadledger.domain.journal import Journal
    from threadledger.domain.ledger import Ledger

    opened: list[Any] = []

    def open_one(where: Any) -> Ledger:
        database = Database(where) if isinstance(where, str) else where
        try:
            opened.append(Ledger(Journal(Factory(database=database))))
        except BaseException:
            database.close()
            raise
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def open_store(db_url: str, open_store_on: Callable[..., Any]) -> Callable[[], Any]:
    """Opens ledgers that know nobody outside, each with a `Database` and a `Journal` of its own, on the same file."""
    return lambda: open_store_on(db_url)


@pytest.fixture
def open_any_store(any_db_url: str, open_store_on: Callable[..., Any]) -> Callable[[], Any]:
    """The same on each kind of database."""
    return lambda: open_store_on(any_db_url)


@pytest.fixture
def any_database(any_db_url: str) -> Iterator[Any]:
    """The database of `any_db_url` for a look at its rows, and for doing to them what the store never would."""
    from threadledger.adapters.sql import Database

    database = Database(any_db_url)
    yield database
    database.close()


@pytest.fixture
def run_python() -> Callable[..., list[str]]:
    """Runs the same script in several processes at once and hands over what each printed; none may fail."""

    def run(script: str, *arguments: str, processes: int = 1) -> list[str]:
        command = [sys.executable, "-c", script, *arguments]
        started = [
            subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for number in range(processes)
        ]
        ended = [(process, *process.communicate(timeout=120)) for process in started]
        for process, _, errors in ended:
            assert process.returncode == 0, errors
        return [printed for _, printed, _ in ended]

    return run
