"""Define the operator's tasks on a database: check it, copy it, and list the notes on threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[int, int], None]
"""Function called with the number of items done and the total."""


def quietly(done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Finding:
    """Describe data that differs from what was stored, and its location."""

    subject: str
    """One of `database`, `position`, `stream`, `version`, `order`, `leaf`, `payload`, `state` and `view`."""
    problem: str
    key: str | None = None
    position: int | None = None
    version: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that `db check` prints."""
        return dict(vars(self))


@dataclass(frozen=True)
class NotedThread:
    """Describe what the notes say about one thread, without calling the provider."""

    stream: str
    mirror: str
    thread_id: str
    version: int
    """Version of the conversation up to which the thread is known to hold the journal."""
    settled: bool
    doubts: int
    """Number of writes to it that had no response and may still land."""
    held: bool
    """Whether a process is currently writing to it."""


class Upkeep(Protocol):
    """Check and copy the database on behalf of its operator."""

    @property
    def schema_before(self) -> int | None:
        """Return the schema's number before this opening upgraded it, or None if there was no upgrade.

        The number is 0 if there was no schema.
        """
        ...

    def check(self, progress: Progress) -> Iterator[Finding]:
        """Check every event (contiguity, leaf hash, payload, state), and run the database's own integrity check."""
        ...

    def back_up(self, path: Path, progress: Progress) -> int:
        """Write a snapshot of the ledger to a new SQLite file and return its number of events.

        Raises:
            Conflict: the file already exists.
            StoreUnavailable: it cannot be written.
        """
        ...

    def copy_to(self, url: str, progress: Progress) -> int:
        """Copy the ledger to another, empty database and return its number of events.

        Raises:
            Conflict: the database is not empty.
            StoreError: it cannot be used.
        """
        ...

    def noted_threads(self, streams: Sequence[str]) -> Sequence[NotedThread]:
        """Return the notes on the threads of these conversations."""
        ...

    def unsettled_threads(self, limit: int) -> Sequence[NotedThread]:
        """Return at most `limit` threads that must be read before anything is written to them."""
        ...
