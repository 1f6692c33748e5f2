"""Compare the history in a request with the messages of its conversation: which are new, and which branch it continues.

Position decides, never the content alone. `first_new` compares with memory; `place_in` compares with all branches, for a
history that does not continue memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation.messages import JournaledMessage, Message, Role
from threadledger.domain.conversation.parts import Text

from ..openai import INSTRUCTIONS

if TYPE_CHECKING:
    from threadledger.domain.memory.tree import TreeMessage

NOT_SENT = frozenset({*(Role(each) for each in INSTRUCTIONS), Role.UNKNOWN})
"""Roles that are not compared, because instructions are not recorded."""


def first_new(sent: Sequence[Message], memory: Sequence[Message], held: bool = False, all_read: bool = True) -> int:
    """Return the index of the first new message in `sent`.

    If the messages begin with the complete memory, the rest is new. If they do not, the app sends its own window, and only
    the messages after the model's last message are new. In the second case, and with `held`, unanswered messages at the end
    of memory that are sent again at the start of the new part are not new.

    Args:
        sent: the messages of the request.
        memory: the messages in memory, or the last of them.
        held: the provider already has the earlier messages, so the request contains only new ones.
        all_read: `memory` is complete; false if it contains only the end of memory.
    """
    if all_read and not held and len(memory) <= len(sent) and _same(sent[: len(memory)], memory):
        return len(memory)
    if all_read and not held and (end := _end_of_same_turns(sent, memory)) is not None:
        return end
    return _behind_waiting(sent, memory, 0 if held else after_the_model(sent))


def _behind_waiting(sent: Sequence[Message], memory: Sequence[Message], begin: int) -> int:
    """Return the index behind the unanswered messages at the end of memory, if they are sent again from an index on."""
    waiting = memory[after_the_model(memory) :]
    for place in range(len(waiting)):  # an app may leave out earlier questions that were not answered
        again = waiting[place:]
        if _same(sent[begin : begin + len(again)], again):
            return begin + len(again)
    return begin


def _end_of_same_turns(sent: Sequence[Message], memory: Sequence[Message]) -> int | None:
    """Return the index behind the messages that say all of memory, with what the model said in a row as one message.

    Two messages of one response are two in memory. An app may send its text back as one, and earlier versions stored it so.
    """
    known, given = [turn for turn, _ in _turns(memory)], list(_turns(sent))
    if not known or len(known) > len(given) or [turn for turn, _ in given[: len(known)]] != known:
        return None
    return given[len(known) - 1][1]


def _turns(messages: Sequence[Message]) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Yield what is compared of each message, and the index behind it; messages of the model in a row are one."""
    text, calls = "", list[Any]()
    for index, message in enumerate(messages):
        role, said, called, call_id = _compared(message)
        if role is not Role.ASSISTANT:
            yield (role, said, called, call_id), index + 1
            continue
        text, calls = text + "".join(said), [*calls, *called]
        if index + 1 == len(messages) or messages[index + 1].role is not Role.ASSISTANT:
            yield (role, text, calls), index + 1
            text, calls = "", []


def after_the_model(messages: Sequence[Message]) -> int:
    """Return the index behind the last message of the model."""
    return max((place + 1 for place, each in enumerate(messages) if each.role is Role.ASSISTANT), default=0)


def _same(some: Sequence[Message], others: Sequence[Message]) -> bool:
    return len(some) == len(others) and all(
        one == other or is_same(one, other) for one, other in zip(some, others, strict=True)
    )


def _compared(message: Message) -> tuple[Role, list[Any], list[Any], str | None]:
    """Return the parts of a message that decide equality. Other fields are ignored, because apps and the SDK add their own."""
    content = message.content
    if content is None:
        content = message.text  # a refusal has no content
    if isinstance(content, tuple) and message.role is Role.ASSISTANT:
        content = "".join(part.text for part in content if isinstance(part, Text))  # the others only say what it did
    said = (
        [part.text if isinstance(part, Text) else part.as_json() for part in content]
        if isinstance(content, tuple)
        else [content]
    )
    calls = [(call.id, call.name, call.arguments) for call in message.calls()]
    return (message.role, [each for each in said if each], calls, message.tool_call_id)


def continues(sent: Sequence[Message], memory: Sequence[Message], all_read: bool) -> bool:
    """Return whether a history continues the end of memory: it begins with all of it, or is a window that ends there.

    The arguments are those of `first_new`.
    """
    if all_read and (_same(sent[: len(memory)], memory) or _end_of_same_turns(sent, memory) is not None):
        return True
    begin = after_the_model(sent)
    if _behind_waiting(sent, memory, begin) > begin:
        return True  # the unanswered question at the end of memory, again
    window = [turn for turn, _ in _turns(sent[:begin])]
    ended = [turn for turn, _ in _turns(memory[: after_the_model(memory)])]
    return bool(window) and ended[-len(window) :] == window


def is_same(one: Message, other: Message) -> bool:
    """Return whether two messages say the same."""
    return _compared(one) == _compared(other)


@dataclass(frozen=True)
class HistoryPlace:
    """Represent the last message of a branch that a history begins with, and what leads to it."""

    node: TreeMessage
    above: HistoryPlace | None
    known: int = 0
    """Number of messages of the history up to this one; 0 if it does not begin with them."""
    turns: int = 0
    """Number of the history's turns before this message's own."""
    said: str | None = None
    """Text of the model so far in this turn; None after a message of the app."""
    calls: Sequence[Any] = field(default=())

    @property
    def message(self) -> JournaledMessage:
        """Return the message."""
        return self.node.message

    @property
    def following(self) -> list[TreeMessage]:
        """Return the messages that follow it and are in memory if they are on the selected path."""
        return [each for each in self.node.following if not each.hidden and not each.is_summary]


def place_in(roots: Sequence[TreeMessage], sent: Sequence[Message]) -> HistoryPlace | None:
    """Return the place with which as much as possible of a history is known; None if its beginning is not known.

    Of equal ones, it is the one on the selected path, or else a newest end. Messages that were removed from memory may be in
    the history, or not.
    """
    turns = list(_turns(sent))
    best: HistoryPlace | None = None
    waiting = [place for root in roots for place in _steps(root, None, turns)]
    met = set[tuple[str, int, str | None]]()
    while waiting:
        at = waiting.pop()
        state = (at.message.message_id, at.turns, at.said)
        if state in met:
            continue
        met.add(state)
        if at.known and (best is None or _rank(at) > _rank(best)):
            best = at
        waiting += [place for each in at.node.following for place in _steps(each, at, turns)]
    return best


def _rank(place: HistoryPlace) -> tuple[int, bool, bool, int]:
    return place.known, not place.following, place.node.selected, place.message.version


def _steps(
    node: TreeMessage, above: HistoryPlace | None, turns: Sequence[tuple[tuple[Any, ...], int]]
) -> Iterator[HistoryPlace]:
    """Yield the places at a message that follows another one, if the history goes on with it, or may leave it out."""
    if node.is_summary:
        return
    at, said, calls = (above.turns, above.said, above.calls) if above is not None else (0, None, ())
    if node.hidden or node.message.message.role in NOT_SENT:
        yield HistoryPlace(node, above, 0, at, said, calls)
    if at >= len(turns) or node.message.message.role in NOT_SENT:
        return
    turn, behind = turns[at]
    role, texts, called, call_id = _compared(node.message.message)
    if role is Role.ASSISTANT:
        text, calls = (said or "") + "".join(texts), [*calls, *called]
        if turn[0] is role and turn[1].startswith(text) and turn[2][: len(calls)] == calls:
            is_whole = turn[1:] == (text, calls)
            yield HistoryPlace(node, above, behind if is_whole else 0, at, text, calls)
        return
    if said is not None:  # the model's turn ends here
        if turn[1:] != (said, list(calls)) or at + 1 >= len(turns):
            return
        at, (turn, behind) = at + 1, turns[at + 1]
    if turn == (role, texts, called, call_id):
        yield HistoryPlace(node, above, behind, at + 1)
