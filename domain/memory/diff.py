"""Compare the memory of a conversation at two moments, message by message, without side effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..alignment import differing
from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from .memory import Memory


class Fate(StrEnum):
    """Name the change of a message between two moments."""

    SAME = "same"
    ADDED = "came"
    REMOVED = "went"
    MOVED = "moved"
    """The message is in both memories, at another position relative to the messages that kept their order."""
    DIFFERENT = "different"
    """The message is in both memories, with different content."""
    CAME = ADDED  # this and the next are names of earlier versions
    WENT = REMOVED


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """Represent one message: its places in both memories and the event that made the difference.

    Places count from 1; None means that the message is not in that memory.
    """

    change: Fate
    message: JournaledMessage
    """The message in the later memory; if it is no longer there, in the earlier one."""
    place_before: int | None
    place_after: int | None
    reason: str = ""
    earlier: JournaledMessage | None = None
    """The message in the earlier memory, if its content differs."""

    def as_json(self) -> dict[str, Any]:
        """Return the difference as a JSON object, with the text at each of the two moments."""
        text = said(self.message)
        earlier = said(self.earlier) if self.earlier is not None else text
        return {
            "change": self.change.value,
            "place_before": self.place_before,
            "place_after": self.place_after,
            "message_id": self.message.message_id,
            "version": self.message.version,
            "role": self.message.message.role.value,
            "before": earlier if self.place_before is not None else None,
            "after": text if self.place_after is not None else None,
            "reason": self.reason,
        }


def said(journaled: JournaledMessage) -> str:
    """Return what a message says: its text, the types of its other parts, and its tool calls."""
    message = journaled.message
    parts = (
        message.content_as_json() if isinstance(message.content, tuple) else [{"type": "text", "text": message.text}]
    )
    texts = [str(part.get("text", f"[{part.get('type')}]")) for part in parts or () if isinstance(part, dict)]
    texts += [f"{call.name}({call.arguments})" for call in message.calls()]
    return "\n".join(filter(None, texts))


@dataclass(frozen=True)
class MemoryDiff:
    """Compare two memories of one conversation.

    `entries` holds every message of both in reading order: removed messages at their old place, new ones at their new
    place.
    """

    key: str
    before: int
    """Version of the first memory."""
    after: int
    entries: tuple[MemoryChange, ...] = ()

    @property
    def changes(self) -> tuple[MemoryChange, ...]:
        """Return the entries that differ."""
        return tuple(each for each in self.entries if each.change is not Fate.SAME)

    @property
    def same(self) -> bool:
        """Return whether a model would see the same memory at both moments."""
        return not self.changes


def diff_memories(key: str, before: Memory, after: Memory, between: Iterable[e.Event] = ()) -> MemoryDiff:
    """Compare two memories by the ids of their messages: two equal texts are two messages.

    `between` are the events from the older memory to the newer one; they explain why a message was added or removed.
    """
    older, newer = list(before.messages), list(after.messages)
    old_places = {each.message_id: place for place, each in enumerate(older)}
    new_places = {each.message_id: place for place, each in enumerate(newer)}
    kept = _in_order([each.message_id for each in older], [each.message_id for each in newer])
    reasons = _reasons(between, before, after)
    entries: list[MemoryChange] = []
    at = 0

    def take_removed() -> int:
        """Add the messages removed before the next kept one; return the position reached in the older memory."""
        place = at
        while place < len(older) and older[place].message_id not in kept:
            one, place = older[place], place + 1
            if one.message_id not in new_places:
                entries.append(MemoryChange(Fate.REMOVED, one, place, None, reasons.get(one.message_id, "")))
        return place

    for place, one in enumerate(newer, 1):
        message_id = one.message_id
        at = take_removed() + (message_id in kept)
        earlier = older[old_places[message_id]] if message_id in old_places else None
        change = _change(earlier, one, message_id in kept)
        reason = reasons.get(message_id, "") if earlier is None else ""
        place_before = old_places[message_id] + 1 if earlier is not None else None
        changed = earlier if change is Fate.DIFFERENT else None
        entries.append(MemoryChange(change, one, place_before, place, reason, changed))
    take_removed()
    return MemoryDiff(key, before.version, after.version, tuple(entries))


def _change(earlier: JournaledMessage | None, one: JournaledMessage, in_order: bool) -> Fate:
    if earlier is None:
        return Fate.ADDED
    if earlier.message != one.message:
        return Fate.DIFFERENT
    return Fate.SAME if in_order else Fate.MOVED


def _in_order(older: Sequence[str], newer: Sequence[str]) -> set[str]:
    """Return the ids of the messages that kept their order: a longest common subsequence of both memories."""
    both = set(older) & set(newer)
    left, right = [each for each in older if each in both], [each for each in newer if each in both]
    displaced = {each for start, end, _, _ in differing(left, right) for each in left[start:end]}
    return both - displaced


def _reasons(between: Iterable[e.Event], before: Memory, after: Memory) -> dict[str, str]:
    """Return which event made the difference, by message id; the last one counts."""
    ids = {each.message_id: each.version for each in (*before.messages, *after.messages)}
    reasons: dict[str, str] = {}
    met: set[str] = set()
    for event in between:
        version = event.originator_version
        match event:
            case e.MessageJournaled():
                reasons[event.message_id] = f"journaled at version {version}"
                met.add(event.message_id)
            case e.MessageRetracted():
                reasons[event.message_id] = _because(f"retracted at version {version}", event.reason)
            case e.RerunAccepted(superseded_message_id=str(superseded)):
                reasons[superseded] = f"superseded at version {version}: run {event.run_id} answers in its place"
            case e.BranchSelected():
                why = _because(f"another branch was selected at version {version}", event.reason)
                reasons |= dict.fromkeys(ids.keys() - met, why)
            case e.MemoryCleared():
                why = _because(f"memory was cleared at version {version}", event.reason)
                reasons |= {each: why for each, at in ids.items() if at <= event.up_to_version}
            case _:
                pass
    return reasons


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what
