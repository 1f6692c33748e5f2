"""Define the notes of workers: which are alive, which of them does what only one may do at a time, and what failed.

They are locks and hints, and no truth: what is to be done follows from the log, and claims keep every item exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ..ids import to_iso

RETURNS_BY = "returns_by"
"""Fact of a worker that has left for other ledgers: until when it is back (ISO 8601)."""


@dataclass(frozen=True)
class WorkerRow:
    """Describe a worker process as it was last seen."""

    worker: str
    """Its machine and process, as shown to people."""
    started_at: datetime
    seen_at: datetime
    is_alive: bool
    """Whether its process runs, on this machine, or was seen within its lease."""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Duty:
    """Hold what one worker at a time does, and what is remembered of it."""

    name: str
    state: Mapping[str, Any] = field(default_factory=dict)
    due_at: datetime | None = None
    held_by: str = ""
    """Who holds it, as shown to people; empty if it is free."""


@dataclass(frozen=True)
class FailedWork:
    """Describe an item of work that failed."""

    kind: str
    subject: str
    attempts: int
    failed_at: datetime
    next_at: datetime | None
    """When it is tried again; None if it is parked."""
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `worker status`; docs/commands.md lists its keys."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "state": "parked" if self.next_at is None else "failed",
            "attempts": self.attempts,
            "failed_at": to_iso(self.failed_at),
            "next_at": to_iso(self.next_at) if self.next_at is not None else None,
            "reason": self.reason,
        }


class WorkerNotes(Protocol):
    """Keep the notes of workers in the ledger's database. Claims are extended in the background while their process runs."""

    def hold(self, duty: str) -> Duty | None:
        """Claim a duty for this process unless another one holds it, and return it; None if another one does."""
        ...

    def keep(self, duty: str, state: Mapping[str, Any], due_at: datetime | None = None) -> bool:
        """Store the state of a duty that this process holds; return whether it still did."""
        ...

    def release(self, duty: str | None = None) -> None:
        """Give up a duty of this process, or all of them, so that another one has them at once."""
        ...

    def duties(self) -> list[Duty]:
        """Return all duties by name."""
        ...

    def seen(self, facts: Mapping[str, Any]) -> None:
        """Note that this process is alive, with facts about it."""
        ...

    def leave(self) -> None:
        """Remove the note of this process: it has stopped in order."""
        ...

    def workers(self) -> list[WorkerRow]:
        """Return the workers that are alive, and those that have ended without leaving, the newest first."""
        ...

    def fail(self, kind: str, subject: str, reason: str, *, most: int) -> FailedWork:
        """Count a failure of an item and return it; with `most` failures it is parked, before that it is tried again later."""
        ...

    def succeed(self, kind: str, subject: str) -> None:
        """Remove the note of an item that failed before."""
        ...

    def due(self, limit: int) -> list[FailedWork]:
        """Return failed items that are to be tried again now, the longest due first, and set their next time a lease later."""
        ...

    def failed(self, limit: int, *, parked: bool | None = None) -> list[FailedWork]:
        """Return failed items, the newest first: all, only those that are parked, or only the others."""
        ...

    def retry(self, kind: str | None = None, subject: str | None = None) -> int:
        """Reopen parked items so that they are tried now, all or those given; return their number."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Return the number of failed items that are tried again (`failed`), and of those that are parked (`parked`)."""
        ...
