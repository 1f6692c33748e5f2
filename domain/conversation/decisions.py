"""Record what people and apps decide in a conversation: on tool calls, on exchanges, and on what they think of messages.

`Conversation` has the decisions that every question needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..arguments import is_number, short
from ..errors import CallNotWaiting, InvalidInput
from ..failures import Failure
from ..ids import now
from ..limits import DESCRIPTION_METADATA_BYTES_MAX, PINS_MAX
from . import events as e
from .keys import check_texts
from .messages import Message, Role
from .native import blobs_in_native
from .parsing import plain_json

if TYPE_CHECKING:
    from .conversation import Conversation, RunPlan
    from .messages import Parent


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


def give_results(
    conversation: Conversation,
    exchange_id: str,
    results: Sequence[Message],
    idempotency_key: str,
    parent: Parent | None,
) -> list[e.MessageJournaled]:
    """Journal the results of all tool calls for which an exchange waits, in one commit.

    `parent` is the message that they follow, if another branch was selected.

    Raises:
        CallNotWaiting: the exchange has ended, or it waits for none or for other calls.
    """
    state = conversation.state
    exchange = state.open_exchanges.get(exchange_id)
    waiting = [name for name, decision in ((exchange.waits_for if exchange else None) or {}).items() if not decision]
    given = [each.tool_call_id for each in results]
    if not waiting or sorted(waiting) != sorted(filter(None, given)):
        raise CallNotWaiting(
            f"the exchange {exchange_id} of {state.key!r} waits for the results of {waiting}, not of {given}: nothing was stored"
        )
    said: list[e.MessageJournaled] = []
    for result in sorted(results, key=lambda each: waiting.index(each.tool_call_id or "")):
        is_first = not said
        each = conversation.journal(
            result,
            exchange_id=exchange_id,
            parent=parent,
            idempotency_key=idempotency_key if is_first else None,
            batch=len(results) if is_first else 1,
        )
        said.append(each)
        parent = (said[-1].message_id, said[-1].originator_version) if parent is not None else None
    return said


def cancel(conversation: Conversation, exchange_id: str, reason: str) -> None:
    """End an open exchange whose answer nobody wants any more, with its open runs; do nothing if it has ended."""
    check_texts(reason=reason)
    state = conversation.state
    if exchange_id not in state.open_exchanges:
        return
    for run_id in [name for name, run in state.open_runs.items() if run.exchange_id == exchange_id]:
        conversation.fail_run(run_id, Failure("cancelled", code="cancelled", message=reason))
    conversation.record(e.ExchangeCancelled, exchange_id=exchange_id, reason=reason)


def expire(conversation: Conversation, exchange_id: str, plan: RunPlan, reason: str) -> bool:
    """End an exchange whose time limit has passed; return whether it is over now.

    Its open runs end as interrupted; without one, a run of this plan that was never called says so, for the audit.
    """
    state = conversation.state
    exchange = state.open_exchanges.get(exchange_id)
    if exchange is None or not exchange.is_overdue(now()):
        return exchange is None
    open_runs = [name for name, run in state.open_runs.items() if run.exchange_id == exchange_id]
    for run_id in open_runs or [conversation.start_expired(exchange_id, plan)]:
        conversation.fail_run(run_id, Failure("expired", code="expired", message=reason))
    conversation.abandon(exchange_id, reason)
    return True


def describe_message(conversation: Conversation, message_id: str, version: int, metadata: Mapping[str, Any]) -> None:
    """Record what an app says about a message of this version.

    Raises:
        InvalidInput: the metadata is not JSON, or too large.
    """
    conversation.require_current(version)
    about = {"message_id": message_id, "message_version": version}
    conversation.record(e.MessageDescribed, metadata=checked_metadata(metadata), **about)


def keep_items(conversation: Conversation, message_id: str, version: int, native_json: str) -> None:
    """Record which items of an SDK's session a message of this version is; their long texts are stored."""
    conversation.require_current(version)
    native = json.loads(native_json)
    about = {"message_id": message_id, "message_version": version}
    conversation.record(e.SessionItemsKept, native=native, blobs=blobs_in_native(native), **about)


def describe_exchange(conversation: Conversation, exchange_id: str, metadata: Mapping[str, Any]) -> None:
    """Record what an app says about an exchange, whether it has ended or not.

    Raises:
        InvalidInput: the metadata is not JSON, or too large.
    """
    conversation.record(e.ExchangeDescribed, exchange_id=exchange_id, metadata=checked_metadata(metadata))


def describe_resources(conversation: Conversation, tool_resources: Mapping[str, Any]) -> None:
    """Record which vector stores the runs of a conversation search from now on."""
    conversation.record(e.ToolResourcesDescribed, tool_resources=dict(tool_resources))


def describe_completion(
    conversation: Conversation, stored: e.CompletionStored, metadata: Mapping[str, Any]
) -> e.CompletionStored:
    """Record what a client says about a chat completion that can be read; return the new event."""
    said = {name: value for name, value in e.payload_of(stored).items() if name != "actor"}
    return conversation.record(e.CompletionStored, **{**said, "metadata": checked_metadata(metadata)})


def delete_completion(conversation: Conversation, completion_id: str) -> None:
    """Record that a chat completion can no longer be read; its messages remain."""
    conversation.record(e.CompletionDeleted, completion_id=completion_id)


def delete_response(conversation: Conversation, response_id: str) -> None:
    """Record that a response can no longer be read; its messages remain."""
    conversation.record(e.ResponseDeleted, response_id=response_id)


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an app says about a message, as JSON of its own.

    Raises:
        InvalidInput: it is not JSON, or too large.
    """
    text = plain_json(metadata, "the metadata")
    if len(text.encode()) > DESCRIPTION_METADATA_BYTES_MAX:
        raise InvalidInput(f"the metadata exceeds {DESCRIPTION_METADATA_BYTES_MAX:,} bytes: store it elsewhere")
    copied: dict[str, Any] = json.loads(text)
    return copied
