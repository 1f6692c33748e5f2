"""Rerun an exchange of a conversation that has no answer yet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..conversation import ActiveRuns
from ..effects import Emit, Pause, work
from ..errors import ConversationBusy, ConversationChanged
from .answer import recorded_answer
from .exchange import Exchange
from .recorded_tools import tools_on_record
from .runs import Mode

if TYPE_CHECKING:
    from ..effects import Effects
    from .answer import Answer
    from .conversing import Conversing
    from .policy import Policy


def rerun(chat: Conversing, exchange_id: str, policy: Policy | None, *, stream: bool, live: bool) -> Effects[Answer]:
    """Rerun an exchange; see `Chat.rerun`.

    Recorded tool calls get their recorded results, and other calls use the app's functions; with `live`, all calls
    use the functions.
    """
    waits = chat.looks()
    while True:
        recorded = yield from work(lambda: recorded_answer(chat.journal, chat.key, exchange_id))
        if recorded is not None:
            yield from work(chat.journal.wait_until_durable)  # the process that stored it may still be waiting for that
            yield Emit(recorded)
            return recorded
        exchange = yield from work(lambda: _exchange_again(chat, exchange_id, policy, stream, live))
        try:
            return (yield from exchange.run())
        except ConversationBusy:
            seconds = next(waits, None) if chat.services.policy.while_running == ActiveRuns.QUEUE else None
            if seconds is None:
                raise
            yield Pause(seconds)


def _exchange_again(chat: Conversing, exchange_id: str, policy: Policy | None, stream: bool, live: bool) -> Exchange:
    journal, services, key = chat.journal, chat.services, chat.key
    recorded = journal.exchanges(key).by_id.get(exchange_id)
    refusal = _why_not_again(chat, exchange_id, known=recorded is not None)
    if refusal:
        raise ConversationChanged(f"the exchange {exchange_id} of {key!r} cannot be rerun: {refusal}")
    last = recorded.last() if recorded is not None else None
    recorded_tools = partial(tools_on_record, journal, key, exchange_id, services.tools)
    mode = Mode(
        again=True,
        rerun_of=last.run_id if last is not None else None,
        tools=None if live else recorded_tools,
    )
    return Exchange(journal, services, key, exchange_id, mode=mode, policy=policy, stream=stream)


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
