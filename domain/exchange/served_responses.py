"""Answer requests of the Responses API: memory is that of the conversation, and functions are called by the client.

What a request says is journaled with it, and stays in memory if the response is completed: memory ends where it ended
before if the response fails. A response that continues another one than that at the end of memory is journaled aside, on a
branch of its own, which the next request that continues it selects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ..conversation import OpenExchange, RunPlan
from ..conversation import events as e
from ..conversation.messages import Message, Parent, Role
from ..ids import new_id, now, to_iso
from ..memory.rendering import is_empty
from .records import BranchPoint, Mode, RunRecords
from .requests import SentOptions
from .served import end_expired, end_left_to_clients, end_of_memory, left_to_clients
from .served_options import CHAT, RESPONSES

if TYPE_CHECKING:
    from ..conversation import Conversation, ConversationState, Profile
    from ..failures import Failure
    from ..journal import Also, Journal

SURFACE = RESPONSES

CONTINUED = "a request continued this branch"
"""Reason of the selection that a request makes which continues a response aside."""

NOT_ANSWERED = "the response was not completed"
"""Reason of the selection that removes the input of a response from memory."""

OPENING = Message(Role.USER, "(The user has not said anything yet.)")
"""What a model is shown if neither a request nor the memory says anything: it begins the conversation."""

BLANK_LOOKED_BACK = 64
"""Number of messages in which something that was said is searched for."""

BEFORE, LEAF, FIRST, BLANK = "before", "leaf", "first", "blank"
"""Keys of `ExchangeRequested.request`: the end of memory before the request, the last message aside, the version of the first
message of its input, and whether that says nothing."""


@dataclass(frozen=True)
class ResponseRequest:
    """Describe what a request for a response asks for, and where its answer goes."""

    profile: Profile
    model: str | None
    seconds: float
    """Time limit of the whole response."""
    idempotency_key: str
    messages: Sequence[Message] = ()
    """Its input, as it is stored."""
    behind: Parent | None = None
    """The last message of the response that it continues; None is the end of memory."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    """What else it says, as JSON."""
    is_repeated: bool = True
    """Whether a request with its key may be stored already."""


def request_response(
    journal: Journal, key: str, wanted: ResponseRequest, also: Callable[[str], Also | None] = lambda _: None
) -> tuple[e.ExchangeRequested, bool]:
    """Journal a request and its input in one commit; return its event, or that of an earlier one with its key, and if it is new.

    The results of function calls continue the exchange of the calls. Exchanges whose time is over end in the same commit.
    `also` gets the id of the exchange, and returns what is written in the same transaction.

    Raises:
        ConversationBusy: it is to continue the end of memory, and that is being answered.
        ConversationChanged: other writers changed the conversation during every attempt.
    """
    profile_hash = journal.define_profile(wanted.profile)
    sent: dict[str, Any] = {
        "profile_hash": profile_hash,
        "model": wanted.model,
        "metadata": dict(wanted.metadata),
        "surface": RESPONSES,
        "background": True,
        "deadline": to_iso(now() + timedelta(seconds=wanted.seconds)),
        "idempotency_key": wanted.idempotency_key,
    }
    chosen = [new_id()]

    def note(cursor: Any) -> None:
        made = also(chosen[-1])
        if made is not None:
            made(cursor)

    def decide(conversation: Conversation) -> tuple[e.ExchangeRequested, bool]:
        earlier = journal.keyed(key, wanted.idempotency_key) if wanted.is_repeated else None
        if isinstance(earlier, e.ExchangeRequested):
            return earlier, False
        _end_overdue(journal, key, conversation)
        end = end_of_memory(journal, key, conversation)
        is_apart = wanted.behind is not None and wanted.request.get("store") is False
        parent = wanted.behind if is_apart else _parent(journal, key, conversation, wanted.behind, end)
        start = end if parent is None else parent
        if parent is None and wanted.behind is not None:
            start = wanted.behind
        exchange_id = chosen[0]
        if not is_apart:  # what is not stored is on a branch and in an exchange of its own, which nothing continues
            exchange_id = _continued(journal, key, conversation.state, start, wanted.messages) or chosen[0]
        chosen.append(exchange_id)
        if parent is None:
            end_left_to_clients(journal, key, conversation, exchange_id)
            be_free(journal, key, conversation, {exchange_id})
            start = start if wanted.behind is not None else end_of_memory(journal, key, conversation)
        last, first = start, None
        for message in wanted.messages:
            said = conversation.journal(message, exchange_id=exchange_id, parent=last if parent is not None else None)
            last = said.message_id, said.originator_version
            first = first or said.originator_version
        request = {**wanted.request, BEFORE: list(start)}
        request |= {FIRST: first} if first is not None else {}
        request |= {BLANK: True} if all(map(is_empty, wanted.messages)) else {}
        request |= {LEAF: list(last)} if parent is not None else {}
        place = {"question_message_id": last[0], "question_version": last[1], "request": request}
        return conversation.request(exchange_id, sent | place), True

    return journal.commit(key, decide, create=True, also=note)


def _end_overdue(journal: Journal, key: str, conversation: Conversation) -> None:
    """End the responses whose time is over, as their process would have, which may have stopped."""
    for name, exchange in [*conversation.state.open_exchanges.items()]:
        if exchange.is_overdue(now()):
            end_expired(journal, key, conversation, name)


def _parent(
    journal: Journal, key: str, conversation: Conversation, behind: Parent | None, end: Parent
) -> Parent | None:
    """Return the message after which a request is journaled aside; None if it continues the end of memory.

    The newest message aside is selected if the request continues it, unless the end is being answered.
    """
    if behind is None or behind[1] == end[1]:
        return None
    conversation.require_current(behind[1])
    state = conversation.state
    is_newest = state.aside_path is not None and state.aside_path[0] == behind[1]
    if not is_newest or [*_others(journal, key, state, ())]:
        return behind
    conversation.select(*behind, CONTINUED)
    return None


def _continued(
    journal: Journal, key: str, state: ConversationState, start: Parent, messages: Sequence[Message]
) -> str | None:
    """Return the open exchange whose calls are answered by these messages, or were by items; None if there is none."""
    results = {each.tool_call_id for each in messages if each.role is Role.TOOL}
    for name, exchange in state.open_exchanges.items():
        if exchange.tail_version == start[1] and exchange.tail is not None and not exchange.runs:
            lookups = journal.lookups(key)
            newest = lookups.event(start[1]) if lookups is not None else None
            calls = newest.tool_calls if isinstance(newest, e.MessageJournaled) else []
            if calls:
                return name if any(call.get("id") in results for call in calls) else None
            return name if name in left_to_clients(journal, key, state) else None
    return None


def journal_items(
    journal: Journal, key: str, conversation: Conversation, messages: Sequence[Message], idempotency_key: str
) -> list[e.MessageJournaled]:
    """Journal items in a decision; results of calls belong to the response that made the calls, which the next one continues.

    Raises:
        ConversationBusy: the conversation is being answered.
    """
    state = conversation.state
    own = _continued(journal, key, state, end_of_memory(journal, key, conversation), messages)
    if own is not None and not is_of_response(journal, key, own):
        own = None
    end_left_to_clients(journal, key, conversation, own)
    be_free(journal, key, conversation, {own} if own is not None else ())
    said: list[e.MessageJournaled] = []
    for message in messages:
        keyed: dict[str, Any] = {"idempotency_key": idempotency_key, "batch": len(messages)} if not said else {}
        said.append(conversation.journal(message, exchange_id=own, **keyed))
    return said


def be_free(journal: Journal, key: str, conversation: Conversation, own: Collection[str] = ()) -> None:
    """Close what a stopped process left open at the end of memory; exchanges aside do not keep others from it.

    Raises:
        ConversationBusy: it is being answered.
    """
    others = [*_others(journal, key, conversation.state, own)]
    apart = {*conversation.state.open_exchanges} - {*others}
    conversation.be_free(partial(leave_memory_of, journal, key, conversation), apart)


def _others(journal: Journal, key: str, state: ConversationState, own: Collection[str]) -> Sequence[str]:
    """Return the open exchanges that are not aside, without their `own` ones."""
    return [
        name
        for name, exchange in state.open_exchanges.items()
        if name not in own and not exchange.left and not _is_aside(journal, key, name)
    ]


def is_of_response(journal: Journal, key: str, exchange_id: str) -> bool:
    """Return whether an open exchange answers a request for a response."""
    recorded = SentOptions.of(journal, key, exchange_id)
    return recorded is not None and recorded.event.surface == RESPONSES


def _is_aside(journal: Journal, key: str, exchange_id: str) -> bool:
    recorded = SentOptions.of(journal, key, exchange_id)
    return recorded is not None and recorded.event.surface in {RESPONSES, CHAT} and LEAF in recorded.event.request


def mode_of_response(
    journal: Journal, key: str, event: e.ExchangeRequested, exchange: OpenExchange, mode: Mode
) -> Mode:
    """Return the mode of the runs of a response; that of another surface is given."""
    leaf, before = event.request.get(LEAF), event.request.get(BEFORE)
    branch = mode.branch
    if leaf:
        at = (exchange.tail, exchange.tail_version or 0) if exchange.tail is not None else (str(leaf[0]), int(leaf[1]))
        branch = BranchPoint(at, None)
    return replace(
        mode,
        branch=branch,
        takes_incomplete=True,
        records=partial(ResponseRecords, _place(before), outlives_its_process(event, has_begun=True)),
        ending=(OPENING,) if event.request.get(BLANK) and _is_blank(journal, key, branch) else (),
        is_heard=bool(event.request.get("stream")),
    )


def _is_blank(journal: Journal, key: str, branch: BranchPoint | None) -> bool:
    leaf = branch.parent[1] if branch is not None else None
    return all(is_empty(each.message) for each in journal.memory(key, last=BLANK_LOOKED_BACK, leaf=leaf).messages)


def _place(given: Any) -> Parent | None:
    return (str(given[0]), int(given[1])) if given else None


class ResponseRecords(RunRecords):
    """Record the runs of a response; what it leaves without an answer is removed from memory."""

    alongside = True

    def __init__(
        self, before: Parent | None, outlives: bool, journal: Journal, key: str, exchange_id: str, mode: Mode
    ) -> None:
        super().__init__(journal, key, exchange_id, mode)
        self._before, self._outlives = before, outlives

    def plan(self, plan: RunPlan, in_thread: bool) -> RunPlan:
        """Return the plan of a run that uses no thread at a provider."""
        return super().plan(plan, in_thread).replaced(apart=in_thread)

    def is_continued(self, failure: Failure) -> bool:
        return self._outlives and super().is_continued(failure)

    def left(self, conversation: Conversation) -> None:
        """Remove the input from memory, because the response fails in this commit."""
        leave_memory(conversation, self._exchange_id, self._before)


def leave_memory(conversation: Conversation, exchange_id: str, before: Parent | None) -> None:
    """Restore the end of memory that was there before an exchange, if it ends with that, which fails in this commit."""
    state = conversation.state
    exchange = state.open_exchanges.get(exchange_id)
    if before is not None and exchange is not None and exchange.tail_version == state.end_version:
        conversation.select(*before, NOT_ANSWERED)


def end_response(
    journal: Journal, key: str, exchange_id: str, end: Callable[[Conversation], None], also: Also | None = None
) -> None:
    """End the exchange of a response without an answer by a decision, and remove its input from memory in the same commit.

    Raises:
        ConversationNotFound: there is no such conversation.
    """

    def decide(conversation: Conversation) -> None:
        if exchange_id in conversation.state.open_exchanges:
            leave_memory_of(journal, key, conversation, exchange_id)
            end(conversation)

    journal.commit(key, decide, also=also)


def leave_memory_of(journal: Journal, key: str, conversation: Conversation, exchange_id: str) -> None:
    """Remove the input of a response from memory, which fails in this commit; do nothing if the exchange is none."""
    recorded = SentOptions.of(journal, key, exchange_id)
    if recorded is not None and recorded.event.surface == RESPONSES:
        leave_memory(conversation, exchange_id, _place(recorded.event.request.get(BEFORE)))


def stopped(journal: Journal, key: str, exchange_id: str, failure: Failure, reason: str) -> None:
    """End a response whose process has stopped, with its open runs.

    Raises:
        ConversationNotFound: there is no such conversation.
    """

    def end(conversation: Conversation) -> None:
        runs = conversation.state.open_runs
        for run_id in [name for name, run in runs.items() if run.exchange_id == exchange_id]:
            conversation.fail_run(run_id, failure)
        conversation.abandon(exchange_id, reason)

    end_response(journal, key, exchange_id, end)


def outlives_its_process(event: e.ExchangeRequested, has_begun: bool) -> bool:
    """Return whether another process may answer a request: nobody may have read a part of its text.

    `has_begun` says whether one of its runs was started.
    """
    if event.surface != RESPONSES:
        return True
    in_background = bool(event.request.get("background"))
    return in_background and not (has_begun and event.request.get("stream"))
