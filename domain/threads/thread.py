"""Define the entries of a thread, the provider's copy of a memory, and compare them with the journal."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import eq
from typing import Any, Literal

from ..alignment import common_prefix, differing


class ThreadState(StrEnum):
    """List the states of a thread relative to the journal."""

    SAME = "same"
    BEHIND = "behind"
    DRIFTED = "drifted"
    GONE = "gone"
    UNLINKED = "unlinked"


@dataclass(frozen=True, slots=True)
class ThreadItem:
    """Represent one entry of a thread by its comparable fields; `kind` is `message`, `tool_call` or `tool_result`.

    `content` is the text of a message, the JSON arguments of a call, or the output of a result. `name` is the role, the
    function's name, or empty. `message_id` is the id of our message if the thread can hold it.
    """

    kind: str
    name: str
    content: str
    call_id: str = ""
    message_id: str = field(default="", compare=False)
    version: int = field(default=0, compare=False)
    payload: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The provider's own form, for an adapter that needs more than the compared fields."""
    written_at: str = field(default="", compare=False)
    """Time at which the message was written (ISO 8601)."""
    item_id: str = field(default="", compare=False)
    """The provider's id of an entry that was read back."""
    parts: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    """Content parts of an entry that was read back, if `content` names all of them: as a message, it would be equal."""


def in_order_of(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
    """Return a thread's entries, oldest first: in reverse if they match the journal only then.

    A server may ignore the requested order, and the entries of a Conversation have no time that would show it.
    """
    if len(thread) < 2 or not journal or thread[0] == journal[0] or thread[-1] != journal[0]:
        return thread
    reverse = thread[::-1]
    if common_prefix(journal, reverse) == min(len(journal), len(reverse)):
        return reverse
    return reverse if _shared(journal, reverse) > _shared(journal, thread) else thread


def _shared(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> int:
    return len(journal) - sum(j2 - j1 for j1, j2, _, _ in differing(journal, thread))


@dataclass(frozen=True)
class Rendering:
    """Hold the items of a memory that a thread of one kind can represent, and the number of other items, by kind."""

    items: tuple[ThreadItem, ...]
    losses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Hold the result of comparing the journal with a thread, counted in entries."""

    state: ThreadState
    journal: int = 0
    thread: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0


def compare(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Comparison:
    """Compare the entries of a thread that was read back with those that it should hold according to the journal."""
    if len(thread) <= len(journal) and all(map(eq, journal, thread)):
        missing = len(journal) - len(thread)
        state = ThreadState.BEHIND if missing else ThreadState.SAME
        return Comparison(state, len(journal), len(thread), missing=missing)
    counted: Counter[str] = Counter()
    for j1, j2, t1, t2 in differing(journal, thread):
        replaced = min(j2 - j1, t2 - t1)
        counted.update(different=replaced, missing=j2 - j1 - replaced, extra=t2 - t1 - replaced)
    return Comparison(ThreadState.DRIFTED, len(journal), len(thread), **counted)


def digest(items: Sequence[ThreadItem]) -> str:
    """Return the SHA-256 (hex) of the order and content of a thread's entries."""
    canonical = json.dumps([[item.kind, item.name, item.content, item.call_id] for item in items])
    return hashlib.sha256(canonical.encode()).hexdigest()


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
            **_side_fields("journal", self.journal),
            **_side_fields("thread", self.thread),
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


def _side_fields(whose: str, item: ThreadItem | None) -> dict[str, Any]:
    values = (item.kind, item.name, item.call_id, item.content) if item is not None else (None,) * 4
    return {f"{whose}_{name}": value for name, value in zip(("kind", "name", "call_id", "text"), values, strict=True)}
