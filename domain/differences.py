"""List the differences between the journal and a thread, entry by entry: missing, extra or different."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .alignment import differing
from .threads import ThreadItem

Change = Literal["missing", "extra", "different"]
"""Kind of difference. `missing`: only the journal has the entry. `extra`: only the thread has it. `different`: each has
another entry in this place."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Describe one entry in which a thread differs from the journal.

    Places are counted from 1, in the journal as it is rendered for the thread's kind.
    """

    change: Change
    journal: ThreadItem | None = None
    """The journal's entry here; None for an extra entry."""
    thread: ThreadItem | None = None
    """The thread's entry here; None for a missing entry."""
    journal_place: int | None = None
    thread_place: int | None = None

    @property
    def message_id(self) -> str | None:
        """Return the id of the journal's message, or None for an extra entry."""
        return self.journal.message_id if self.journal is not None else None

    @property
    def version(self) -> int | None:
        """Return the version at which the journal's message was stored, or None for an extra entry."""
        return self.journal.version if self.journal is not None else None

    def as_json(self) -> dict[str, Any]:
        """Return a flat object: change, places, the journal's message id and version, and the values of both sides.

        The values are kind, name (role or function), call id and text, as in the journal and as in the thread.
        """
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
    """Return the differences in the thread's order, as many of each change as `compare` counts."""
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
