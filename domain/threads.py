"""A thread, the provider's copy of a memory: what it holds (`ThreadItem`), and how it differs from the journal."""

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
    """How a thread stands to the journal."""

    SAME = "same"
    BEHIND = "behind"
    DRIFTED = "drifted"
    GONE = "gone"
    UNLINKED = "unlinked"


@dataclass(frozen=True, slots=True)
class ThreadItem:
    """One entry of a thread, in what can be compared: `kind` is `message`, `tool_call` or `tool_result`.

    `content` is the text of a message, the JSON arguments of a call, the output of a result; `name` is the role, the
    function's name, or empty; `message_id` is ours where the thread can carry it.
    """

    kind: str
    name: str
    content: str
    call_id: str = ""
    message_id: str = field(default="", compare=False)
    version: int = field(default=0, compare=False)
    payload: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The provider's own form, where an adapter needs more than the compared fields."""
    written_at: str = field(default="", compare=False)
    """When the message was written (ISO 8601)."""
    item_id: str = field(default="", compare=False)
    """The provider's own id of what was read back."""


@dataclass(frozen=True)
class Rendering:
    """What a thread of one kind can carry of a memory, and what it cannot, counted by kind."""

    items: tuple[ThreadItem, ...]
    losses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The journal against a thread, in items."""

    state: ThreadState
    journal: int = 0
    thread: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0


def compare(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Comparison:
    """How a thread read back differs from what the journal says it should hold."""
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
    """SHA-256 (hex) over order and content of a thread's entries."""
    canonical = json.dumps([[item.kind, item.name, item.content, item.call_id] for item in items])
    return hashlib.sha256(canonical.encode()).hexdigest()
