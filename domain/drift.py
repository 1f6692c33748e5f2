"""How a thread has drifted from the journal, in what it takes to mend it: what it lacks, what is out of order, which entries
are ours though the journal shows them no more, and which are foreign. Pure.

Two equal texts are told apart by id where entries bear the ids of our messages, else only by how many there are.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import events as e
from .errors import InvalidMessage
from .journaled import JournaledMessage
from .memory import Memory, MemoryFold
from .messages import Message, Role
from .parsing import parse_message
from .threads import ThreadItem

ADOPTED = "adopted"
"""What the idempotency keys of adopted messages begin with."""


@dataclass(frozen=True)
class Ours:
    """What of a conversation may stand in its thread though the journal does not show it there."""

    message_ids: frozenset[str] = frozenset()
    """Of all that was ever journaled."""
    adopted: frozenset[str] = frozenset()
    """The provider's ids of the entries of this thread that were journaled as adopted."""
    calls: frozenset[str] = frozenset()
    """The ids of the tool calls that were journaled."""
    results: frozenset[str] = frozenset()
    """The ids of those whose results were, too."""
    waiting: frozenset[str] = frozenset()
    """The ids of calls at the end of memory that wait for their results: they are not shown yet."""
    withdrawn: Sequence[ThreadItem] = ()
    """What memory has lost since the thread was linked."""


@dataclass(frozen=True)
class Drift:
    """A thread beside the journal."""

    lacking: int = 0
    """The journal's entries that the thread does not hold."""
    moved: int = 0
    """Entries of the journal's that stand where they do not belong."""
    stale: int = 0
    """Entries of ours that the journal does not show, or not so."""
    waiting: int = 0
    """Calls to tools whose results are yet to be journaled."""
    foreign: tuple[ThreadItem, ...] = ()
    """What is not ours and can be journaled, in the thread's order."""
    unfit: int = 0
    """What is not ours and memory cannot hold: no words, a role of its own, a tool call without its result."""

    @property
    def strangers(self) -> int:
        """Entries that are not ours."""
        return len(self.foreign) + self.unfit


NOTHING_ELSE = Ours()


def drift_of(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], ours: Ours = NOTHING_ELSE) -> Drift:
    """What it takes to mend a thread. In order is what is, in the thread's order, a beginning of the journal."""
    borne = {(item.message_id, item) for item in thread if item.message_id}
    wanted = [(item.message_id if (item.message_id, item) in borne else "", item) for item in journal]
    known = {item.message_id for item in journal if item.message_id}
    held = 0
    beside: list[ThreadItem] = []
    for item in thread:
        if held < len(wanted) and wanted[held] == (item.message_id if item.message_id in known else "", item):
            held += 1
        else:
            beside.append(item)
    rest, moved, others = Counter(wanted[held:]), 0, []
    for item in beside:
        key = (item.message_id if item.message_id in known else "", item)
        if rest[key] > 0:
            rest[key] -= 1
            moved += 1
        else:
            others.append(item)
    stale, waiting, strangers = _told_apart(others, ours, known)
    fit = _fit(strangers, ours)
    return Drift(rest.total(), moved, stale, waiting, fit, len(strangers) - len(fit))


def ours_of(
    events: Iterable[e.Event], linked_at: int, adopted_from: str
) -> tuple[Ours, Sequence[JournaledMessage], Memory]:
    """What is ours of a conversation's whole history, what memory has lost since a thread was linked, and memory as it is.
    `adopted_from`: how the idempotency keys of what was adopted from the thread begin."""
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
    """Foreign entries as messages, each with the provider's id of its (first) entry. Calls that stand together are those of
    one message."""
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


def _told_apart(others: Sequence[ThreadItem], ours: Ours, known: set[str]) -> tuple[int, int, Sequence[ThreadItem]]:
    """How many entries that the journal does not show there are ours, how many are calls that wait, and which are foreign."""
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
    """Whether an entry was journaled once, or is the second of a call that was."""
    known = {"tool_call": ours.calls, "tool_result": ours.results}.get(item.kind, frozenset())
    return item.item_id in ours.adopted or item.call_id in known


def _fit(strangers: Sequence[ThreadItem], ours: Ours) -> tuple[ThreadItem, ...]:
    """What of it memory can hold: a call goes with the result that follows it, and with no other."""
    open_calls: dict[str, int] = {}
    fit: list[bool] = []
    for place, item in enumerate(strangers):
        fits = _message_of(item) is not None
        if item.kind == "tool_call":
            fits = fits and item.call_id not in open_calls
            if fits:
                open_calls[item.call_id] = place
                fits = False  # until its result is met
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
    """An entry as a message; None where it cannot be one, or has no id by which it is known again."""
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
        given = {"role": item.name, "content": item.content}
    else:
        return None
    try:
        return parse_message(given)
    except InvalidMessage:
        return None
