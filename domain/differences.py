"""The journal against a thread, entry by entry: what is missing, what is extra, what is different."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .alignment import differing
from .threads import ThreadItem

Change = Literal["missing", "extra", "different"]
"""`missing`: the journal has it, the thread does not; `extra`: the other way round; `different`: each has something else in
this place."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry in which a thread differs from the journal. Places are counted from 1, in the journal as the thread's kind
    renders it."""

    change: Change
    journal: ThreadItem | None = None
    """What the journal has here; None of an extra entry."""
    thread: ThreadItem | None = None
    """What the thread has here; None of a missing entry."""
    journal_place: int | None = None
    thread_place: int | None = None

    @property
    def message_id(self) -> str | None:
        """Of the journal's message."""
        return self.journal.message_id if self.journal is not None else None

    @property
    def version(self) -> int | None:
        """At which the journal's message was written down."""
        return self.journal.version if self.journal is not None else None

    def as_json(self) -> dict[str, Any]:
        """Flat: change, places, the journal's message and version, then kind, name (role or function), call and text as
        the journal has them and as the thread does."""
        return {
            "change": self.change,
            "journal_place": self.journal_place,
            "thread_place": self.thread_place,
            "message_id": self.message_id,
            "version": self.version,
            **_told("journal", self.journal),
            **_told("thread", self.thread),
        }


def differences(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> list[Difference]:
    """Where a thread read back differs from what the journal says it should hold, in the thread's order; as many of each
    change as `compare` counts."""
    found: list[Difference] = []
    for j1, j2, t1, t2 in differing(journal, thread):
        for j, t in zip(range(j1, j2), range(t1, t2), strict=False):
            found.append(Difference("different", journal[j], thread[t], j + 1, t + 1))
        replaced = min(j2 - j1, t2 - t1)
        found += (Difference("missing", journal[j], journal_place=j + 1) for j in range(j1 + replaced, j2))
        found += (Difference("extra", thread=thread[t], thread_place=t + 1) for t in range(t1 + replaced, t2))
    return found


def _told(whose: str, item: ThreadItem | None) -> dict[str, Any]:
    values = (item.kind, item.name, item.call_id, item.content) if item is not None else (None,) * 4
    return {f"{whose}_{name}": value for name, value in zip(("kind", "name", "call_id", "text"), values, strict=True)}
