"""Wait for a person's decision on tool calls, and continue the exchange afterwards.

A run whose model calls a tool that needs approval ends with the call. The exchange stays open, without a deadline, until each
such call is decided; then the next run uses the approved tools, and sends the results to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..conversation import Completion
from ..conversation import events as e
from ..conversation.decisions import decide_call
from ..conversation.messages import Message, Role, Usage, restore_message
from ..effects import ApprovalNeeded, Emit, work
from ..errors import CallNotWaiting, InvalidInput
from .answer import Answer, ToolUse
from .exchange import Exchange
from .recorded_tools import tool_result
from .records import BranchPoint, Mode
from .requests import as_requested

if TYPE_CHECKING:
    from ..conversation import Conversation, ConversationState, OpenExchange
    from ..effects import Effects
    from ..journal import Journal
    from .backend import ToolFunction
    from .conversing import Conversing

IN_DOUBT = "[it is unknown whether the tool has done its work: the process that used it stopped before its result was recorded]"
"""Result of an approved call whose tool may have run: it is not used again."""


@dataclass
class CallTurn:
    """Hold the newest tool calls of an exchange: what was decided, and what has a result."""

    said: Message | None = None
    """The message with the calls."""
    decisions: dict[str, e.ToolCallDecided] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    """Ids of the runs that were started after the calls."""


def decide(chat: Conversing, call_id: str, reason: str, *, approved: bool, stream: bool = False) -> Effects[Answer]:
    """Record a decision, and continue the exchange when nothing else waits; see `Chat.approve`."""

    def record(conversation: Conversation) -> tuple[str, bool]:
        if approved:
            _require_tool(chat, conversation.state, call_id)
        exchange_id = decide_call(conversation, call_id, approved, reason)
        return exchange_id, conversation.state.open_exchanges[exchange_id].undecided is not None

    try:
        exchange_id, waits = yield from work(partial(chat.journal.commit, chat.key, record))
    except CallNotWaiting:
        decided = yield from work(partial(_decided, chat.journal, chat.key, call_id))
        if decided is None or decided.approved != approved:
            raise
        return (yield from chat.rerun(decided.exchange_id, stream=stream))  # returns the answer if there is one
    if waits:
        return (yield from work(partial(waiting_answer, chat.journal, chat.key, exchange_id)))
    return (yield from _continued(chat, exchange_id, stream))


def _require_tool(chat: Conversing, state: ConversationState, call_id: str) -> None:
    """Check that the function of a call is there to be used.

    Raises:
        InvalidInput: it is not.
    """
    for exchange in state.open_exchanges.values():
        if exchange.tail_version and not (exchange.waits_for or {}).get(call_id, "nothing waits"):
            said = chat.journal.places(chat.key).at(exchange.tail_version).message
            name = next((call.name for call in said.calls() if call.id == call_id), None)
            if name is not None and name not in chat.services.tools:
                raise InvalidInput(
                    f"no function is bound to {name!r}, so the call {call_id} cannot be used: nothing was decided; give the "
                    "app's tools (THREADLEDGER_TOOLS, or tools= of open), then approve it again"
                )


def waiting_answer(journal: Journal, key: str, exchange_id: str) -> Answer:
    """Return what an exchange says that waits for decisions: the text so far and the calls that are not decided."""
    exchange = journal.require(key).state.open_exchanges[exchange_id]
    turn = turn_of(journal, key, exchange_id, _asked_at(journal, key, exchange) - 1)
    run = next(run for run in reversed(journal.exchanges(key).by_id[exchange_id].runs) if run.completed is not None)
    waiting = [name for name, decision in (exchange.waits_for or {}).items() if not decision]
    calls = turn.said.calls() if turn.said is not None else ()
    return Answer(
        text=turn.said.text if turn.said is not None else "",
        key=key,
        exchange_id=exchange_id,
        run_id=run.run_id,
        message_id=exchange.tail or "",
        backend=run.backend,
        model=run.model,
        version=exchange.tail_version or 0,
        pending=tuple(call for call in calls if call.id in waiting),
    )


def turn_of(journal: Journal, key: str, exchange_id: str, after: int) -> CallTurn:
    """Return the newest tool calls of an exchange, read from a version before its question."""
    turn = CallTurn()
    for event in journal.history(key, after=max(after, 0)):
        match event:
            case e.MessageJournaled(exchange_id=own) if own == exchange_id:
                message = restore_message(event)
                if message.calls():
                    turn = CallTurn(message)
                elif message.tool_call_id is not None:
                    turn.results.add(message.tool_call_id)
            case e.ToolCallDecided(exchange_id=own) if own == exchange_id:
                turn.decisions[event.call_id] = event
            case e.RunStarted(exchange_id=own) if own == exchange_id:
                turn.tried.add(event.run_id)
            case _:
                pass
    return turn


def use_decided(
    turn: CallTurn, run_id: str, tools: Mapping[str, ToolFunction], read_only: tuple[str, ...]
) -> Effects[list[Message]]:
    """Call the functions of the calls that have no result yet, and return the results; a rejected call has none.

    A tool that an earlier run may have used is used again only if it is read-only.
    """
    results: list[Message] = []
    for call in turn.said.calls() if turn.said is not None else ():
        if call.id in turn.results:
            continue
        decision = turn.decisions.get(call.id)
        if decision is not None and not decision.approved:
            because = f": {decision.reason}" if decision.reason else ""
            result = f"[a person rejected this call{because}]"
        elif turn.tried - {run_id} and call.name not in read_only:
            result = IN_DOUBT
        else:
            yield Emit(ToolUse(call.name, call.arguments, call.id, run_id))
            result = yield from tool_result(tools.get(call.name), call)
        results.append(Message(Role.TOOL, result, tool_call_id=call.id))
    return results


def ended_with(needed: ApprovalNeeded) -> Completion:
    """Return the end of a run whose model called tools on which a person has to decide."""
    usage = needed.usage or Usage()
    return Completion(
        (needed.message,), finish_reason="tool_calls", usage=usage, goes_on=True, waits_for=needed.waits_for
    )


def _continued(chat: Conversing, exchange_id: str, stream: bool) -> Effects[Answer]:
    again = yield from work(lambda: as_requested(chat, exchange_id))
    mode, asked_at = yield from work(partial(_mode, chat.journal, chat.key, exchange_id))
    place: tuple[Any, ...] = (chat.journal, again.services, chat.key, exchange_id)
    return (yield from Exchange(*place, mode=mode, after=asked_at, stream=stream).run())


def _mode(journal: Journal, key: str, exchange_id: str) -> tuple[Mode, int]:
    """Return how the next run of an exchange continues it, and the version of its question."""
    state: ConversationState = journal.require(key).state
    exchange = state.open_exchanges.get(exchange_id)
    if exchange is None:
        raise CallNotWaiting(f"the exchange {exchange_id} of {key!r} has ended meanwhile: nothing was run")
    asked_at = _asked_at(journal, key, exchange)
    mode = Mode(turn=partial(turn_of, journal, key, exchange_id, asked_at - 1))
    mode = mode.beside(journal, journal.exchanges(key, asked_at - 1).by_id[exchange_id])
    if mode.branch is None and exchange.left:
        mode = replace(mode, branch=BranchPoint(journal.end_of_exchange(key, exchange), None))
    return mode, asked_at


def _asked_at(journal: Journal, key: str, exchange: OpenExchange) -> int:
    return journal.places(key).find(exchange.question).version if exchange.question is not None else 1


def _decided(journal: Journal, key: str, call_id: str) -> e.ToolCallDecided | None:
    decided = (event for event in journal.newest(key) if isinstance(event, e.ToolCallDecided))
    return next((event for event in decided if event.call_id == call_id), None)
