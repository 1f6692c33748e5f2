"""Examine a run and its conversation before a rerun: the memory of the run, later messages, and obstacles."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..conversation import (
    SUPERSEDED_TOO,
    TOO_LATE,
    ConversationState,
    ExchangeRecord,
    Exchanges,
    Place,
    RunRecord,
)
from ..conversation import events as e
from ..conversation.messages import Source, restore_message
from ..errors import ConversationChanged, quoted
from ..exchange import FAILED, Policy, Services, not_bound
from ..ids import from_iso, now
from ..journal import Journal
from ..memory import Memory
from .rerun_request import Wanted

REPRODUCIBLE_RULE = re.compile(r"(2;)?(all|(question|last|tokens)=\d+(,((last|tokens)=\d+|v2))*)")
"""Rules of views that can be reproduced. A view that an app cut itself cannot be reproduced."""

NEWEST_RULE = re.compile(r"2;last=(\d+)")
"""Rule of a view that holds the newest messages, however long they are."""

LOOK_BACK_MESSAGES = 5
"""Number of the newest messages in which the question of an exchange is searched first."""


@dataclass(frozen=True)
class Obstacle:
    """Describe what prevents a rerun: its kind, in one word, and the reason.

    Kinds of `INCLUDE` may be included all the same.
    """

    kind: str
    why: str


@dataclass(frozen=True)
class ExchangeLook:
    """Hold the facts about a run and its exchange at one moment."""

    run: RunRecord
    exchange: ExchangeRecord
    state: ConversationState
    present: Callable[[], Memory]
    """Function that returns the whole memory of the conversation as of now; its hash is known without reading it."""
    memory: Memory | None
    """Memory that the run used; None if it cannot be recomputed."""
    tools_in_doubt: Sequence[str] = ()
    """Functions that the last failed run called, and that may or may not have done their work."""
    overtaken_by: Collection[str] = field(default_factory=frozenset)
    """Ids of messages in memory that came after the run's and belong to other exchanges."""
    place: Place = field(default_factory=Place)
    why_gone: str = ""
    """Why its answer has no place; empty if it has one."""

    @property
    def in_thread(self) -> bool:
        """Return whether the current memory of the conversation equals the memory that the run used."""
        return self.memory is not None and self.memory.digest() == self.present().digest(self.memory.rule)


def look(journal: Journal, key: str, run_id: str, exchanges: Exchanges | None = None) -> ExchangeLook:
    """Return a run and its exchange as they are now.

    Raises:
        ConversationChanged: the conversation was deleted.
    """
    exchanges = exchanges or journal.exchanges(key)
    if run_id not in exchanges.runs:
        raise ConversationChanged(f"the conversation of run {run_id} was deleted: it is not run again")
    run = exchanges.runs[run_id]
    exchange, memory, conversation = exchanges.exchange_of(run), reproduced_memory(journal, run), journal.require(key)
    where, overtaken_by = place_in(journal, key, memory or Memory(), exchange)
    why_gone = "" if where is not None else _why_gone(journal, key, memory or Memory(), exchange)
    return ExchangeLook(
        run,
        exchange,
        conversation.state,
        partial(journal.memory_later, conversation),
        memory,
        tools_in_doubt=list(_in_doubt(journal, exchange)),
        overtaken_by=overtaken_by,
        place=where or Place(),
        why_gone=why_gone,
    )


def reproduced_memory(journal: Journal, run: RunRecord) -> Memory | None:
    """Return exactly the memory that a run used, or None if it cannot be recomputed.

    The memory is recomputed from the version and rule that the run recorded, and verified by the recorded hash.
    """
    if not REPRODUCIBLE_RULE.fullmatch(run.memory_rule):
        return None
    memory = viewed_memory(journal, run)
    return memory if run.memory_hash in {None, memory.digest()} else None


def viewed_memory(journal: Journal, run: RunRecord) -> Memory:
    """Return the memory as of a run's version, viewed by the rule that the run recorded."""
    version = run.memory_version or run.version - 1
    newest = NEWEST_RULE.fullmatch(run.memory_rule)
    if newest is not None:  # a window of so many messages: the others are not read
        memory = journal.memory(run.key, version, int(newest[1]), leaf=run.memory_leaf_version)
        if run.memory_hash in {None, memory.digest()}:
            return memory
    whole = journal.memory(run.key, version, leaf=run.memory_leaf_version)
    return whole.by_rule(run.memory_rule, run.memory_first_version)


def place_in(
    journal: Journal, key: str, memory: Memory, exchange: ExchangeRecord
) -> tuple[Place | None, frozenset[str]]:
    """Return what `placed` says of the memory of a conversation as of now, reading from its end to the question."""
    if is_aside(exchange):
        return _place_aside(journal, key, exchange)
    asked, last = _asked(memory, exchange), LOOK_BACK_MESSAGES
    while asked:
        present = journal.memory(key, last=last)
        is_met = any(each.message_id in asked and each.version > present.opening_version for each in present.messages)
        if is_met or present.first_version is None:
            return placed(present, memory, exchange)
        last *= 2
    return None, frozenset()


def is_aside(exchange: ExchangeRecord) -> bool:
    """Return whether an exchange without an answer is to be answered on a branch of its own, as its last run would have."""
    last = exchange.last()
    return exchange.answered_by is None and last is not None and last.memory_leaf_version is not None


def _place_aside(journal: Journal, key: str, exchange: ExchangeRecord) -> tuple[Place | None, frozenset[str]]:
    first, places = exchange.runs[0], journal.places(key)
    question = places.at(first.memory_leaf_version or 0)
    if places.is_hidden(question):
        return None, frozenset()
    now_at, then_at = places.end(), places.end(first.version - 1)
    return Place(), frozenset({now_at[0]} if now_at != then_at else ())


def _why_gone(journal: Journal, key: str, memory: Memory, exchange: ExchangeRecord) -> str:
    """Return why the question of an exchange is not in memory."""
    places = journal.places(key)
    asked = (each for each in sorted(_asked(memory, exchange), reverse=True) if not places.is_hidden(places.find(each)))
    message_id = next(asked, None)
    if message_id is None:
        return "the question is no longer in memory"
    return (
        "what it answers is on another branch: select it first with: "
        f"threadledger branch select {quoted(key)} {quoted(message_id)}"
    )


def _asked(memory: Memory, exchange: ExchangeRecord) -> set[str]:
    asked = {each.message_id for each in memory.messages if each.exchange_id == exchange.exchange_id}
    return asked or {each.message_id for each in memory.messages[-1:]}


def placed(present: Memory, memory: Memory, exchange: ExchangeRecord) -> tuple[Place | None, frozenset[str]]:
    """Return the place for the answer of an exchange whose run used `memory`, and the ids of later messages.

    The answer replaces the exchange's current answer. Without one, it follows what the exchange produced before any
    newer message. The place is None if the question is no longer in memory.
    """
    asked, held = _asked(memory, exchange), {each.message_id for each in present.messages}
    given = [each.message_id for each in memory.messages if each.message_id in asked and each.source == Source.APP]
    if held.isdisjoint(asked) or not held.issuperset(given[-1:]):  # such as results of calls that are on another branch
        return None, frozenset()
    superseded = [each.message_id for each in present.messages if each.run_id and each.run_id == exchange.answered_by]
    shown = {each.message_id for each in memory.messages} | set(superseded)
    last = max(index for index, each in enumerate(present.messages) if each.message_id in shown)
    rest = list(present.messages[last + 1 :])
    while rest and not superseded and rest[0].exchange_id == exchange.exchange_id:
        last, rest = last + 1, rest[1:]
    newer = frozenset(each.message_id for each in rest if each.exchange_id != exchange.exchange_id)
    before = [each.message_id for each in present.messages[: last + 1] if each.message_id not in superseded]
    behind = before[-1] if newer else None
    named = {*superseded, behind}
    versions = {each.message_id: each.version for each in present.messages if each.message_id in named}
    return Place(tuple(superseded), behind, versions), newer


def obstacles(seen: ExchangeLook, wanted: Wanted, services: Services, policy: Policy) -> list[Obstacle]:
    """Return everything that prevents a rerun of a run's exchange."""
    found = _of_exchange(seen, wanted, services, policy)
    return [each for each in found if not wanted.includes(each.kind)]


def by_rerun(every: Exchanges) -> Callable[[e.Event], bool]:
    """Return a function that tells whether an event was recorded by a rerun, of this or another exchange.

    They are no change since the plan, not even those of a rerun whose process was killed: their results are checked
    separately. `every` holds the exchanges of the conversation.
    """
    runs = {run.run_id for run in every.runs.values() if run.rerun_of is not None}
    exchanges = {run.exchange_id for run in every.runs.values() if run.run_id in runs}
    return partial(_by_rerun, runs=runs, exchanges=exchanges)


def is_left(run: RunRecord) -> bool:
    """Return whether a run's process has ended, so that no process knows whether the provider has answered."""
    if run.failure is not None:
        return run.failure.status == "interrupted"
    return run.state == "open" and run.deadline is not None and from_iso(run.deadline) < now()


def looking_first(seen: ExchangeLook, services: Services, policy: Policy) -> Policy:
    """Return the policy with only those backends that search for the last run's answer before a new call."""
    kind = _thread_of_last(seen, services)
    found = [each for each in policy.candidates if kind is not None and services.backends[each.backend].thread == kind]
    return replace(policy, candidates=tuple(found))


def _thread_of_last(seen: ExchangeLook, services: Services) -> str | None:
    """Return the kind of thread in which the last run took place.

    Returns None if it used none, or the thread has been replaced.
    """
    last = seen.exchange.last()
    backend = services.backends.get(last.backend) if last is not None and not last.apart else None
    if backend is None or (backend.takes_unsent and last is not None and last.rerun_of is not None):
        return None  # a thread that already has the question takes no input: it was answered from memory
    kind = backend.thread
    mirror = services.mirrors.get(kind or "")
    if mirror is None or services.outbox is None or not seen.in_thread:
        return None
    link = seen.state.links.get(mirror.name)
    if link is None:
        return mirror.name  # the run was interrupted before it had a thread
    return mirror.name if link.is_usable(mirror.endpoint, seen.state.cut_version) else None


def _of_exchange(seen: ExchangeLook, wanted: Wanted, services: Services, policy: Policy) -> Iterator[Obstacle]:
    exchange, shadow = seen.exchange, wanted.into == "shadow"
    if exchange.runs[0].shadow:
        yield Obstacle(
            "summary",
            f"it wrote a summary of memory, not an answer; write one with: threadledger compact {quoted(exchange.key)}",
        )
        return
    if exchange.answered_by is not None:
        yield Obstacle("answered", f"already answered by run {exchange.answered_by}")
    runs = [exchange.last(), *([exchange.last(shadow=True)] if shadow else [])]
    left = [run for run in runs if run is not None and is_left(run)]
    running = any(run is not None and run.state == "open" and run not in left for run in runs)
    if running or (wanted.into == "tail" and any(not run.is_overdue(now()) for run in seen.state.open_runs.values())):
        yield Obstacle("open", "a run is open: wait for its end")
    if left and not (wanted.into == "tail" and looking_first(seen, services, policy).candidates):
        yield Obstacle(
            "interrupted", "its last run was interrupted: the provider may already have answered and charged for it"
        )
    doubtful = [name for name in seen.tools_in_doubt if name not in services.profile.read_only]
    if doubtful:
        reason = f"its last run stopped at {doubtful[0]!r}: it is unknown whether the tool has done its work"
        yield Obstacle("tools", reason)
    if seen.memory is None:
        yield Obstacle("memory", "the memory of its run cannot be recomputed")
    elif not seen.memory.messages:
        yield Obstacle("memory", "the memory of its run contains no message to answer")
    elif wanted.into == "tail" and seen.why_gone:
        yield Obstacle("gone", seen.why_gone)
    elif seen.overtaken_by:
        yield Obstacle("overtaken", "overtaken by newer messages")


def _in_doubt(journal: Journal, exchange: ExchangeRecord) -> Iterator[str]:
    """Yield functions that the last failed run called without a recorded result, or whose result reports a failure."""
    last = exchange.last()
    if last is None or last.completed is not None:
        return
    called: dict[str, str] = {}
    for event in journal.history(exchange.key, after=last.version):
        if isinstance(event, e.RunFailed) and event.run_id == last.run_id:
            break  # it journaled nothing more
        if isinstance(event, e.MessageJournaled) and event.run_id == last.run_id:
            message = restore_message(event)
            called |= {call.id: call.name for call in message.calls()}
            name = called.get(message.tool_call_id or "")
            if name is not None and (not message.text.startswith(FAILED) or message.text == not_bound(name)):
                del called[message.tool_call_id or ""]
    yield from called.values()


def _by_rerun(event: e.Event, runs: Collection[str], exchanges: Collection[str]) -> bool:
    match event:
        case e.RunStarted() | e.RunCompleted() | e.RunFailed() | e.MessageJournaled() | e.RerunAccepted():
            return event.run_id in runs
        case e.FallbackUsed() | e.ExchangeAbandoned() | e.ExchangeCancelled():
            return event.exchange_id in exchanges
        case e.MessageRetracted():
            return event.reason in {TOO_LATE, SUPERSEDED_TOO}
    return False
