"""Answer the requests of a served API: an exchange that one process requests, and that any process continues.

`requested` opens the exchange in one commit. `continued` runs it until it has an answer, waits for the results of tool calls, or
has failed; a process that stops leaves it open, and another one continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ..conversation import OpenExchange, RunPlan
from ..conversation import events as e
from ..conversation.decisions import expire
from ..effects import work
from ..errors import ConversationChanged
from ..ids import from_iso, new_id, now, to_iso
from .approvals import turn_of
from .exchange import Exchange
from .records import BranchPoint, Mode
from .requests import SentOptions
from .served_options import RESPONSES

if TYPE_CHECKING:
    from ..conversation import Conversation, ConversationState, Profile
    from ..conversation.messages import Message, Parent
    from ..effects import Effects
    from ..journal import Also, Journal
    from ..journal.lookups import Lookups
    from .answer import Answer
    from .backend import ToolFunction
    from .conversing import Conversing
    from .policy import Candidate
    from .services import Services

EXPIRED = "its time was over before it had an answer"
"""Reason for which an exchange ends whose time limit has passed."""

NEWER_REQUEST = "a newer request came before the results of its tool calls"
"""Why an exchange ends whose client was given tool calls and has not sent their results."""

SECONDS_LEFT_MIN = 0.05
"""Least time limit of an exchange that is continued shortly before its deadline, in seconds."""


@dataclass(frozen=True)
class ServerTool:
    """Hold a function that takes the place of a tool which a provider runs for its own models, such as `file_search`."""

    definition: Mapping[str, Any]
    """What the model is offered: a tool of the type `function`."""
    function: ToolFunction
    finish: Callable[[Message], Message] = lambda message: message
    """Function that returns an answer with what it owes to the tool, such as citations."""


NewRequest = tuple[e.ExchangeRequested, "Profile"]
"""Event of a request, and its profile."""


@dataclass(frozen=True)
class ServedRequest:
    """Describe what a served request asks for, and when it expires."""

    surface: str
    """The API: `assistants`, `chat` or `responses`."""
    profile: Profile
    model: str
    """The model that the request names; the routes of the services say what answers."""
    seconds: float
    """Time limit of the whole exchange."""
    idempotency_key: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    """What else it says, as JSON."""
    journal: Callable[[Conversation], None] = lambda _: None
    """Function that journals the messages of the request in the same commit."""


def requested(
    journal: Journal, key: str, wanted: ServedRequest, also: Callable[[str], Also | None] = lambda _: None
) -> e.ExchangeRequested:
    """Open an exchange that answers the end of memory; return its event, or that of an earlier request with the same key.

    The conversation is created if it does not exist. Exchanges that wait for their client (`left_to_clients`) end in the same
    commit. `also` gets the id of the exchange, and returns what is written in the same transaction.

    Raises:
        ConversationBusy: an exchange is open.
        ConversationChanged: other writers changed the conversation during every attempt.
    """
    profile_hash = journal.define_profile(wanted.profile)
    exchange_id = new_id()
    sent = {
        "profile_hash": profile_hash,
        "model": wanted.model,
        "metadata": dict(wanted.metadata),
        "surface": wanted.surface,
        "background": True,
        "deadline": to_iso(now() + timedelta(seconds=wanted.seconds)),
        "request": dict(wanted.request),
        "idempotency_key": wanted.idempotency_key,
    }

    def decide(conversation: Conversation) -> e.ExchangeRequested:
        earlier = journal.keyed(key, wanted.idempotency_key)
        if isinstance(earlier, e.ExchangeRequested):
            return earlier
        end_left_to_clients(journal, key, conversation)
        conversation.be_free()
        wanted.journal(conversation)
        question, version = end_of_memory(journal, key, conversation)
        place = {"question_message_id": question, "question_version": version}
        return conversation.request(exchange_id, sent | place)

    return journal.commit(key, decide, create=True, also=also(exchange_id))


def left_to_clients(journal: Journal, key: str, state: ConversationState) -> list[str]:
    """Return the open exchanges whose client was given tool calls, and sends their results or never does.

    Nothing runs them. They have no time limit any more, and the calls are their newest message; those of responses may have
    been given results since.
    """
    found = {
        name: exchange.tail_version or 0
        for name, exchange in state.open_exchanges.items()
        if exchange.deadline is None and exchange.tail is not None and not exchange.runs and not exchange.waits
    }
    lookups = journal.lookups(key) if found else None
    return [name for name, tail in found.items() if lookups is not None and _is_left_to_client(lookups, name, tail)]


def end_left_to_clients(journal: Journal, key: str, conversation: Conversation, but: str | None = None) -> None:
    """End the exchanges that wait for their client, because something else is said in a decision; `but` one goes on."""
    for name in left_to_clients(journal, key, conversation.state):
        if name != but:
            conversation.abandon(name, NEWER_REQUEST)


def _is_left_to_client(lookups: Lookups, exchange_id: str, tail_version: int) -> bool:
    request = lookups.request_of(exchange_id)
    if request is None or request.surface == RESPONSES:
        return request is not None
    newest = lookups.event(tail_version) if not request.background else None
    return isinstance(newest, e.MessageJournaled) and bool(newest.tool_calls)


def end_of_memory(journal: Journal, key: str, conversation: Conversation) -> Parent:
    """Return the message at the end of memory, which this commit may have journaled."""
    said = [each for each in conversation.pending if isinstance(each, e.MessageJournaled)]
    if said:
        return said[-1].message_id, said[-1].originator_version
    end = conversation.state.end_version
    if end == 0:
        return "", 0
    places = journal.places(key)
    return (places.at(end).message_id, end) if end is not None else places.end()


def continued(
    chat: Conversing,
    exchange_id: str,
    *,
    stream: bool = False,
    waits: Callable[[str], Also] | None = None,
    new: NewRequest | None = None,
) -> Effects[Answer]:
    """Run an open exchange until it has an answer, or waits for the results of tool calls.

    `waits` gets its deadline, and returns what is written in the transaction of the tool calls. Runs of it that a stopped process
    left open are closed first: the caller has its claim. `new` is its request if it was stored just now, so that nothing of it
    needs to be read.

    Raises:
        ConversationChanged: it has ended.
        ConversationBusy: another process runs it.
        AllBackendsFailed: no backend answered.
    """
    prepared = yield from work(partial(_prepared, chat, exchange_id, stream, waits, new))
    return (yield from prepared.run())


def _prepared(
    chat: Conversing,
    exchange_id: str,
    stream: bool,
    waits: Callable[[str], Also] | None,
    new: NewRequest | None,
) -> Exchange:
    journal, key = chat.journal, chat.key
    recorded, exchange = (SentOptions(*new), OpenExchange()) if new is not None else _found(journal, key, exchange_id)
    event = recorded.event
    services = recorded.services_of(chat.base, chat.given)
    policy = services.policy
    if event.deadline is not None:
        left = max((from_iso(event.deadline) - now()).total_seconds(), SECONDS_LEFT_MIN)
        policy = replace(policy, deadline_seconds=min(left, max(policy.deadline_seconds, policy.timeout_seconds)))
    again = copy(chat)
    again.services = replace(services, policy=policy)
    after = event.question_version or 0
    turn = partial(turn_of, journal, key, exchange_id, after) if exchange.waits_for else None
    branch = BranchPoint(journal.end_of_exchange(key, exchange), None) if exchange.left else None
    left_out = {f"tool:{kind}": 1 for kind in event.request.get("dropped") or ()}
    left_out |= dict.fromkeys(event.request.get("losses") or (), 1)
    note = waits(event.deadline) if waits is not None and event.deadline is not None else None
    mode = Mode(served=True, turn=turn, branch=branch, losses=left_out, waits=note)
    if event.surface == RESPONSES:
        from .served_responses import mode_of_response

        mode = mode_of_response(journal, key, event, exchange, mode)
    return Exchange(journal, again.services, key, exchange_id, mode=mode, after=after, stream=stream)


def _found(journal: Journal, key: str, exchange_id: str) -> tuple[SentOptions, OpenExchange]:
    """Return the request of an open exchange and its state, after closing its runs."""
    state = journal.require(key).state
    if any(run.exchange_id == exchange_id for run in state.open_runs.values()):
        journal.commit(key, partial(_close_left_runs, exchange_id))
        state = journal.require(key).state
    recorded, exchange = SentOptions.of(journal, key, exchange_id), state.open_exchanges.get(exchange_id)
    if recorded is None or exchange is None:
        raise ConversationChanged(f"the exchange {exchange_id} of {key!r} has ended: nothing was run")
    return recorded, exchange


def _close_left_runs(exchange_id: str, conversation: Conversation) -> None:
    runs = conversation.state.open_runs
    conversation.close_runs([name for name, run in runs.items() if run.exchange_id == exchange_id])


def expired(journal: Journal, services: Services, key: str, exchange_id: str) -> bool:
    """End an exchange whose time limit has passed; return whether it is over.

    A run that says so is recorded for the audit, on the first backend of the chain, unless one is open.

    Raises:
        ConversationNotFound: there is no such conversation.
    """
    first = services.policy.candidates[0] if services.policy.candidates else None

    def decide(conversation: Conversation) -> bool:
        return end_expired(journal, key, conversation, exchange_id, first)

    return journal.commit(key, decide)


def end_expired(
    journal: Journal, key: str, conversation: Conversation, exchange_id: str, first: Candidate | None = None
) -> bool:
    """End an exchange in a decision if its time limit has passed; return whether it is over."""
    exchange = conversation.state.open_exchanges.get(exchange_id)
    if exchange is not None and exchange.is_overdue(now()):
        from .served_responses import leave_memory_of

        leave_memory_of(journal, key, conversation, exchange_id)
    backend, model = (first.backend, first.model) if first is not None else ("none", "none")
    plan = RunPlan(backend, model, memory_version=conversation.version, memory_rule="all")
    return expire(conversation, exchange_id, plan, EXPIRED)
