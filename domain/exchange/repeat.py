"""Rerun an exchange of a conversation that has no answer yet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..conversation import ActiveRuns, check_idempotency_key
from ..conversation.events import MessageJournaled
from ..effects import Emit, Pause, work
from ..errors import ConversationBusy, ConversationChanged, IdempotencyConflict
from .exchange import Exchange
from .recorded_answers import recorded_answer
from .recorded_tools import tools_on_record
from .records import Mode
from .requests import as_requested

if TYPE_CHECKING:
    from ..effects import Effects
    from ..journal import Journal
    from .answer import Answer
    from .conversing import Conversing
    from .policy import Policy


def rerun(
    chat: Conversing,
    exchange_id: str,
    policy: Policy | None,
    *,
    stream: bool,
    live: bool,
    after: int | None,
    idempotency_key: str | None,
) -> Effects[Answer]:
    """Rerun an exchange; see `Chat.rerun`. `after` is a version before its question, if that is known.

    Recorded tool calls get their recorded results, and other calls use the app's functions; with `live`, all calls
    use the functions.
    """
    waits = chat.looks()
    begin = (
        after if after is not None else (yield from work(lambda: _before_question(chat.journal, chat.key, exchange_id)))
    )
    while True:
        key = yield from work(partial(_new_key, chat, idempotency_key, exchange_id))
        recorded = yield from work(lambda: recorded_answer(chat.journal, chat.key, exchange_id, begin, chat.services))
        if recorded is not None:
            yield from work(chat.journal.wait_until_durable)  # the process that stored it may still be waiting for that
            yield Emit(recorded)
            return recorded
        again = yield from work(lambda: as_requested(chat, exchange_id))
        exchange = yield from work(partial(_exchange_again, again, exchange_id, policy, stream, live, begin, key))
        try:
            return (yield from exchange.run())
        except ConversationBusy:
            seconds = next(waits, None) if chat.services.policy.while_running == ActiveRuns.QUEUE else None
            if seconds is None:
                raise
            yield Pause(seconds)


def _new_key(chat: Conversing, idempotency_key: str | None, exchange_id: str) -> str | None:
    """Return a key if it is still to be stored with a run of the exchange.

    Raises:
        InvalidInput: it is no key.
        IdempotencyConflict: it belongs to something else.
    """
    if idempotency_key is None:
        return None
    check_idempotency_key(idempotency_key)
    event = chat.journal.keyed(chat.key, idempotency_key)
    if event is not None and getattr(event, "exchange_id", None) != exchange_id:
        raise IdempotencyConflict(
            f"the idempotency key {idempotency_key!r} belongs to something else in {chat.key!r}: nothing was run; use a "
            "different key for each exchange"
        )
    return idempotency_key if event is None else None


def _before_question(journal: Journal, key: str, exchange_id: str) -> int:
    """Return the version before an exchange's question, read from the end; 0 if its state does not know the question."""
    conversation = journal.load(key)
    state = conversation.state if conversation is not None else None
    exchange = (
        (state.open_exchanges.get(exchange_id) or state.abandoned.get(exchange_id)) if state is not None else None
    )
    if exchange is None or exchange.question is None:
        return 0
    newest = (each for each in journal.newest(key) if isinstance(each, MessageJournaled))
    return next((each.originator_version - 1 for each in newest if each.message_id == exchange.question), 0)


def _exchange_again(
    chat: Conversing,
    exchange_id: str,
    policy: Policy | None,
    stream: bool,
    live: bool,
    after: int,
    idempotency_key: str | None,
) -> Exchange:
    journal, services, key = chat.journal, chat.services, chat.key
    recorded = journal.exchanges(key, after).by_id.get(exchange_id)
    last = recorded.last() if recorded is not None else None
    leaf = last.memory_leaf_version if last is not None else None
    refusal = _why_not_again(chat, exchange_id, known=recorded is not None) if leaf is None else ""
    if refusal:
        raise ConversationChanged(f"the exchange {exchange_id} of {key!r} cannot be rerun: {refusal}")
    recorded_tools = partial(tools_on_record, journal, key, exchange_id, services.tools, after)
    mode = Mode(
        again=True,
        rerun_of=last.run_id if last is not None else None,
        idempotency_key=idempotency_key,
        tools=None if live else recorded_tools,
    )
    if recorded is not None:
        mode = mode.beside(journal, recorded)
    return Exchange(journal, services, key, exchange_id, mode=mode, policy=policy, after=after, stream=stream)


def _why_not_again(chat: Conversing, exchange_id: str, *, known: bool) -> str:
    """Return why an unanswered exchange cannot be rerun; empty if it can."""
    state = chat.journal.require(chat.key).state
    if state.last_exchange_id != exchange_id:
        known = known or exchange_id in state.open_exchanges
        return "overtaken by newer messages" if known else "there is no such exchange"
    newest = chat.journal.memory(chat.key, last=1).messages[-1:]
    if any(message.exchange_id != exchange_id for message in newest):
        return "overtaken by newer messages"
    return ""
