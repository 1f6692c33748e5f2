"""Record what people decide in a conversation: on tool calls, and what they think of messages and want to keep in view.

`Conversation` has the decisions that every question needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import is_number, short
from ..errors import CallNotWaiting, InvalidInput
from ..limits import PINS_MAX
from . import events as e
from .keys import check_texts
from .messages import Message, Role

if TYPE_CHECKING:
    from .conversation import Conversation


def decide_call(conversation: Conversation, call_id: str, approved: bool, reason: str = "") -> str:
    """Record a decision on a tool call; return the id of its exchange. The same decision again changes nothing.

    Raises:
        CallNotWaiting: no exchange waits for it, or it was decided otherwise.
    """
    check_texts(reason=reason)
    key = conversation.state.key
    for exchange_id, exchange in conversation.state.open_exchanges.items():
        decision = (exchange.waits_for or {}).get(call_id)
        if decision is None:
            continue
        if decision and (decision == "approved") != approved:
            raise CallNotWaiting(f"the call {call_id} of {key!r} was already {decision}: nothing was changed")
        if not decision:
            given = {"call_id": call_id, "exchange_id": exchange_id, "approved": approved}
            conversation.record(e.ToolCallDecided, reason=reason, **given)
        return exchange_id
    raise CallNotWaiting(
        f"no exchange of {key!r} waits for a decision on the call {call_id!r}: see threadledger list --pending"
    )


def wait_no_longer(conversation: Conversation, exchange_id: str, reason: str, told: bool = False) -> None:
    """Reject the calls of an exchange that waits for a person, and abandon it.

    If the model is to be `told`, results say so, as far as the calls are at the end of memory.
    """
    state = conversation.state
    exchange = state.open_exchanges[exchange_id]
    tail = exchange.tail_version or 0
    is_at_end = bool(exchange.tail) and tail == state.end_version and tail > state.cut_version and not exchange.left
    for call_id, decision in list((exchange.waits_for or {}).items()):
        if not decision:
            decide_call(conversation, call_id, approved=False, reason=reason)
        if told and is_at_end:
            what = "this approved call was not made" if decision == "approved" else "this call was rejected"
            result = Message(Role.TOOL, f"[{what}: {reason}]", tool_call_id=call_id)
            conversation.journal(result, exchange_id=exchange_id)
    conversation.abandon(exchange_id, reason)


def pin(conversation: Conversation, message_id: str, version: int, pinned: bool = True) -> None:
    """Show a message of this version in every window, or no longer; do nothing if that is so.

    Raises:
        InvalidInput: too many messages are pinned.
    """
    conversation.require_current(version)
    pins = conversation.state.pins or {}
    if pinned == (message_id in pins):
        return
    if pinned and len(pins) >= PINS_MAX:
        key = conversation.state.key
        raise InvalidInput(f"{PINS_MAX} messages of {key!r} are pinned, and no more can be: unpin one first")
    conversation.record(e.MessagePinned, message_id=message_id, message_version=version, pinned=pinned)


def rate(conversation: Conversation, message_id: str, version: int, score: float, comment: str = "") -> None:
    """Record what the actor thinks of a message of this version.

    Raises:
        InvalidInput: the score is no finite number, or the comment is no storable text.
    """
    check_texts(comment=comment)
    conversation.require_current(version)
    if not is_number(score):
        raise InvalidInput(f"the score must be a finite number, such as 1 or -1, not {short(score)}")
    about = {"message_id": message_id, "message_version": version}
    conversation.record(e.MessageRated, score=float(score), comment=comment, **about)
