"""Define the entries of a thread, the provider's copy of a memory, and compare them with the journal."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import eq
from typing import Any

from .alignment import differing


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


@dataclass(frozen=True)
class Rendering:
    """Hold what a thread of one kind can hold of a memory, and the number of items that it cannot, by kind."""

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
