"""Implement `Upkeep` for one database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from threadledger.domain import Finding, NotedThread

from .check import check
from .copying import back_up, copy_ledger
from .engine import Database
from .noted import noted_threads, unsettled_threads


class SqlUpkeep:
    """Implement the maintenance operations of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def schema_before(self) -> int | None:
        return self._database.schema_before

    def check(self, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        return check(self._database, progress)

    def back_up(self, path: Path, progress: Callable[[int, int], None]) -> int:
        return back_up(self._database, path, progress)

    def copy_to(self, url: str, progress: Callable[[int, int], None]) -> int:
        target = Database(url)
        try:
            return copy_ledger(self._database, target, progress)
        finally:
            target.close()

    def noted_threads(self, streams: Sequence[str]) -> Sequence[NotedThread]:
        return noted_threads(self._database, streams)

    def unsettled_threads(self, limit: int) -> Sequence[NotedThread]:
        return unsettled_threads(self._database, limit)
