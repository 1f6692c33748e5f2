"""Compute how a thread has drifted from the journal, as far as a repair needs it.

There are four kinds of drift: missing entries, entries out of order, our entries that the journal no longer contains,
and foreign entries. The functions are pure. Equal texts are distinguished by id if entries carry the ids of our
messages, and otherwise only by their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..conversation import events as e
from ..conversation import parse_message
from ..conversation.messages import JournaledMessage, Message, Role
from ..errors import InvalidMessage
from ..memory import Memory, MemoryFold
from .thread import ThreadItem

ADOPTED = "adopted"
"""Prefix of the idempotency keys of adopted messages."""


@dataclass(frozen=True)
class Ours:
    """Identify our entries in a conversation's thread, including entries that the journal no longer contains."""

    message_ids: frozenset[str] = frozenset()
    """Ids of all messages that were ever journaled."""
    adopted: frozenset[str] = frozenset()
    """The provider's ids of this thread's entries that were journaled as adopted."""
    calls: frozenset[str] = frozenset()
    """Ids of the tool calls that were journaled."""
    results: frozenset[str] = frozenset()
    """Ids of the tool calls whose results were journaled, too."""
    waiting: frozenset[str] = frozenset()
    """Ids of tool calls that wait for their results, so that they are not sent yet."""
    withdrawn: Sequence[ThreadItem] = ()
    """Items that left memory since the thread was linked."""


@dataclass(frozen=True)
class Drift:
    """Describe how a thread differs from the journal."""

    lacking: int = 0
    """Number of the journal's entries that are missing from the thread."""
    moved: int = 0
    """Number of the journal's entries that are in the wrong place."""
    stale: int = 0
    """Number of our entries that the journal no longer contains, or contains with different content."""
    waiting: int = 0
    """Number of tool calls whose results are not journaled yet."""
    foreign: tuple[ThreadItem, ...] = ()
    """Foreign entries that can be journaled, in the thread's order."""
    unfit: int = 0
    """Number of foreign entries that cannot become messages: an empty text, an unsupported role, a tool call without
    its result."""

    @property
    def strangers(self) -> int:
        """Return the number of foreign entries."""
        return len(self.foreign) + self.unfit


NOTHING_ELSE = Ours()


def drift_of(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], ours: Ours = NOTHING_ELSE) -> Drift:
    """Compute the drift of a thread, whose entries are in order as far as they are a prefix of the journal."""
    borne = {(item.message_id, item) for item in thread if item.message_id}
    wanted = [(item.message_id if (item.message_id, item) in borne else "", item) for item in journal]
    known = {item.message_id for item in journal if item.message_id}
    held = 0
    unmatched: list[ThreadItem] = []
    for item in thread:
        if held < len(wanted) and wanted[held] == (item.message_id if item.message_id in known else "", item):
            held += 1
        else:
            unmatched.append(item)
    rest, moved, others = Counter(wanted[held:]), 0, []
    for item in unmatched:
        key = (item.message_id if item.message_id in known else "", item)
        if rest[key] > 0:
            rest[key] -= 1
            moved += 1
        else:
            others.append(item)
    stale, waiting, strangers = _classified(others, ours, known)
    fit = _fit(strangers, ours)
    return Drift(rest.total(), moved, stale, waiting, fit, len(strangers) - len(fit))


def ours_of(
    events: Iterable[e.Event], linked_at: int, adopted_from: str
) -> tuple[Ours, Sequence[JournaledMessage], Memory]:
    """Return the identity of our entries, the messages that left memory since a thread was linked, and the memory.

    `adopted_from` is the prefix of the idempotency keys of messages that were adopted from the thread.
    """
    fold, version = MemoryFold(), 0
    ids: set[str] = set()
    adopted: set[str] = set()
    lost: dict[str, JournaledMessage] = {}
    for event in events:
        version = event.originator_version
        before = fold.messages.copy() if isinstance(event, _CUTTING) and version > linked_at else {}
        fold.take(event)
        lost |= {message_id: each for message_id, each in before.items() if message_id not in fold.messages}
        if isinstance(event, e.MessageJournaled):
            ids.add(event.message_id)
            if event.idempotency_key is not None and event.idempotency_key.startswith(adopted_from):
                adopted.add(event.idempotency_key.removeprefix(adopted_from))
    memory = fold.memory(version)
    if fold.branches.exist:
        shown_ids = {each.message_id for each in memory.messages}
        every = {**fold.messages, **fold.gone}
        lost |= {message_id: each for message_id, each in every.items() if message_id not in shown_ids}
    said = [each.message for each in (*lost.values(), *memory.messages)]
    shown = memory.settled().messages
    waiting = [each.message for each in memory.messages[len(shown) :]]
    ours = Ours(
        frozenset(ids),
        frozenset(adopted),
        frozenset(call.id for message in said for call in message.calls()),
        frozenset(message.tool_call_id for message in said if message.tool_call_id is not None),
        frozenset(call.id for message in waiting for call in message.calls()),
    )
    return ours, tuple(lost.values()), memory


_CUTTING = (e.MessageRetracted, e.MemoryCleared, e.RerunAccepted)


def adoptable(foreign: Sequence[ThreadItem]) -> list[tuple[Message, str]]:
    """Return foreign entries as messages, each with the provider's id of its (first) entry.

    Adjacent calls form one message.
    """
    found: list[tuple[Message, str]] = []
    calling = False
    for item in foreign:
        message = _message_of(item)
        if message is None:
            continue
        if calling and message.tool_calls:
            earlier, item_id = found.pop()
            message = Message(Role.ASSISTANT, None, (*earlier.tool_calls, *message.tool_calls))
            found.append((message, item_id))
        else:
            found.append((message, item.item_id))
        calling = bool(message.tool_calls)
    return found


def _classified(others: Sequence[ThreadItem], ours: Ours, known: set[str]) -> tuple[int, int, Sequence[ThreadItem]]:
    """Return the number of our stale entries, the number of waiting calls, and the foreign entries."""
    withdrawn, ids = Counter(ours.withdrawn), known | ours.message_ids
    stale = waiting = 0
    strangers: list[ThreadItem] = []
    for item in others:
        if item.kind == "tool_call" and item.call_id in ours.waiting:
            waiting += 1
        elif item.message_id in ids or _is_ours(item, ours):
            stale += 1
        elif withdrawn[item] > 0:
            withdrawn[item] -= 1
            stale += 1
        else:
            strangers.append(item)
    return stale, waiting, strangers


def _is_ours(item: ThreadItem, ours: Ours) -> bool:
    """Return whether an entry was journaled as adopted, or repeats a journaled call or result."""
    known = {"tool_call": ours.calls, "tool_result": ours.results}.get(item.kind, frozenset())
    return item.item_id in ours.adopted or item.call_id in known


def _fit(strangers: Sequence[ThreadItem], ours: Ours) -> tuple[ThreadItem, ...]:
    """Return the foreign entries that can become messages: a call only together with the result that follows it."""
    open_calls: dict[str, int] = {}
    fit: list[bool] = []
    for place, item in enumerate(strangers):
        fits = _message_of(item) is not None
        if item.kind == "tool_call":
            fits = fits and item.call_id not in open_calls
            if fits:
                open_calls[item.call_id] = place
                fits = False  # until its result is found
        elif item.kind == "tool_result":
            called = open_calls.get(item.call_id)
            if called is not None:
                fits = fits and called >= 0
                if fits:
                    fit[called] = True
            else:
                fits = fits and item.call_id in ours.calls
            open_calls[item.call_id] = -1
        fit.append(fits)
    return tuple(item for item, fits in zip(strangers, fit, strict=True) if fits)


def _message_of(item: ThreadItem) -> Message | None:
    """Return an entry as a message, or None if it cannot be one or has no id to recognize it by."""
    if not item.item_id:
        return None
    given: dict[str, object]
    if item.kind == "tool_call":
        function = {"name": item.name, "arguments": item.content}
        call = {"id": item.call_id, "type": "function", "function": function}
        given = {"role": "assistant", "content": None, "tool_calls": [call]}
    elif item.kind == "tool_result":
        given = {"role": "tool", "content": item.content, "tool_call_id": item.call_id}
    elif item.name != Role.TOOL and item.content.strip():
        given = {"role": item.name, "content": list(item.parts) or item.content}
    else:
        return None
    try:
        return parse_message(given)
    except InvalidMessage:
        return None
