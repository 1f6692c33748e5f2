"""What an operator asks of the store: is it whole, and where is its copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""


def quietly(done: int, total: int) -> None:
    """The progress that nobody looks at."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was stored, and where."""

    subject: str
    """`database`, `position`, `stream`, `version`, `order`, `leaf`, `payload`, `state` or `view`."""
    problem: str
    key: str | None = None
    position: int | None = None
    version: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For `db check`."""
        return dict(vars(self))


@dataclass(frozen=True)
class NotedThread:
    """What the notebook says of one thread, without asking the provider."""

    stream: str
    mirror: str
    thread_id: str
    version: int
    """Up to which version of the conversation it is known to hold the journal."""
    settled: bool
    doubts: int
    """Writes to it that were never answered and may still land."""
    held: bool
    """Whether somebody is writing to it at this moment."""


class Upkeep(Protocol):
    """The database as its operator sees it."""

    @property
    def schema_before(self) -> int | None:
        """The schema's number before this opening took it forward (0: there was none); None where nothing was to do."""
        ...

    def check(self, progress: Progress) -> Iterator[Finding]:
        """Look at every event: contiguity, leaf hashes, payloads, states, and the database's own integrity check."""
        ...

    def back_up(self, path: Path, progress: Progress) -> int:
        """Write the ledger as it is at this moment into a new SQLite file; returns its number of events.

        Raises:
            Conflict: there is such a file.
            StoreUnavailable: it cannot be written.
        """
        ...

    def copy_to(self, url: str, progress: Progress) -> int:
        """Copy the ledger into another, empty database; returns its number of events.

        Raises:
            Conflict: the database is not empty.
            StoreError: it cannot be used.
        """
        ...

    def noted_threads(self, streams: Sequence[str]) -> Sequence[NotedThread]:
        """What the notebook says of the threads of these conversations."""
        ...

    def unsettled_threads(self, limit: int) -> Sequence[NotedThread]:
        """Threads that have to be read before anything is written to them, at most so many."""
        ...
