"""Provide large ledgers: built once for all workers of a run, and copied for each worker, because some calls write."""

from __future__ import annotations

import fcntl
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import threadledger

from ..conftest import POSTGRES_PLACE, SOAK
from .calls import CONVERSATIONS, MESSAGES, Place
from .ledgers import LONG, SHOWN, fill_conversations, fill_messages, key_of_number, run_of_number
from .metering import Meter

TEN, FEW, TWICE_FEW, THOUSAND, TWO_THOUSAND, FIVE_THOUSAND = 10, 250, 500, 1_000, 2_000, 5_000
MOST = 100_000 if SOAK else 10_000
"""Sizes of the ledgers: number of conversations with about two events each, or of messages of one conversation."""

USED = {CONVERSATIONS: (key_of_number(20), run_of_number(20)), MESSAGES: (LONG, run_of_number(0))}
"""The conversation and the failed run that calls use; the same ones at each size."""

FILL: dict[str, Callable[[str, int], int]] = {CONVERSATIONS: fill_conversations, MESSAGES: fill_messages}

SETTINGS: dict[str, Any] = {
    "openai_api_key": "sk-test",
    "backends": ("chat",),
    "retries": 0,
    "memory_last": SHOWN,
    "synchronous": "NORMAL",
}

WITHOUT_THREADS, WITH_THREADS = "none", "conversations"


class Files:
    """Build the files of ledgers in a folder that all workers of a run share; the first that needs one builds it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def raw(self, axis: str, size: int) -> tuple[Path, int]:
        """Return the file of a ledger without views, and its number of events."""
        path, noted = self._folder / f"{axis}-{size}.db", self._folder / f"{axis}-{size}.json"

        def build() -> None:
            noted.write_text(json.dumps(FILL[axis](f"sqlite:///{path}", size)))

        self._once(noted, build)
        return path, json.loads(noted.read_text())

    def viewed(self, axis: str, size: int) -> tuple[Path, int]:
        """Return the file of a ledger whose views are up to date, and its number of events.

        The view of words is not built for the largest ledgers, which would take a quarter of the time of all tests here.
        """
        raw, events = self.raw(axis, size)
        path = raw.with_name(f"viewed-{raw.name}")

        def build() -> None:
            part = path.with_suffix(".part")
            shutil.copyfile(raw, part)
            with threadledger.open(f"sqlite:///{part}", threads="none") as ledger:
                ledger.failures(limit=1), ledger.conversations(limit=1)
                if size != MOST:
                    ledger.conversations(limit=1, search="parcel")
            part.rename(path)

        self._once(path, build)
        return path, events

    def _once(self, path: Path, build: Callable[[], None]) -> None:
        with (self._folder / f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                build()


class Places:
    """Open this worker's copies of the ledgers, each once, on connections that are metered."""

    def __init__(self, files: Files, folder: Path, provider: Any) -> None:
        self.meter = Meter()
        self.provider = provider
        self._files, self._folder = files, folder
        self._copies: dict[tuple[str, int, str], tuple[Path, int]] = {}
        self._opened: dict[tuple[str, int, str, str], Place] = {}

    def place(self, axis: str, size: int, *, changes: str = "", threads: str = WITHOUT_THREADS) -> Place:
        """Return a ledger whose views are up to date, or nearly so if it is one for calls that change it."""
        key = (axis, size, changes, threads)
        if key not in self._opened:
            self._opened[key] = self._open(axis, *self._copy(axis, size, changes, threads), threads)
        return self._opened[key]

    def fresh(self, axis: str, size: int) -> Place:
        """Return a ledger that has no views; the caller closes it."""
        source, events = self._files.raw(axis, size)
        path = self._folder / "fresh.db"
        for left in self._folder.glob("fresh.db*"):
            left.unlink()
        shutil.copyfile(source, path)
        return self._open(axis, path, events, WITHOUT_THREADS)

    def _copy(self, axis: str, size: int, changes: str, threads: str) -> tuple[Path, int]:
        """Return a copy of a file for calls of one kind. What links threads does not share it with what has none."""
        kind = f"{changes}-{threads}" if changes else "read"
        key = (axis, size, kind)
        if key not in self._copies:
            source, events = self._files.viewed(axis, size)
            path = self._folder / f"{axis}-{size}-{kind}.db"
            shutil.copyfile(source, path)
            self._copies[key] = path, events
        return self._copies[key]

    def close(self) -> None:
        for place in self._opened.values():
            place.ledger.close()
        shutil.rmtree(self._folder)

    def _open(self, axis: str, path: Path, events: int, threads: str) -> Place:
        url = f"sqlite:///{path}"
        ledger = threadledger.open(url, openai_base_url=self.provider.base_url, threads=threads, **SETTINGS)
        return Place(ledger, url, *USED[axis], self._folder, events, _NUMBERS, self.provider)


_NUMBERS = itertools.count(1)
"""Numbers in the names of new conversations and files, which are never used twice."""


@pytest.fixture(scope="session")
def places(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Provide the large ledgers. `tests/conftest.py` removes the folder that the workers share at the end of the run."""
    from threadledger.adapters import Simulator

    with Simulator(seed=7) as provider:
        files = Files(pytestconfig.stash[POSTGRES_PLACE] / "growth")
        opened = Places(files, tmp_path_factory.mktemp("growth"), provider)
        yield opened
        opened.close()
