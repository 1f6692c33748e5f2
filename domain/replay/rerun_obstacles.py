"""Examine a run and its conversation for a rerun: what it was shown, what came later, what prevents a rerun."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

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
from ..conversation.messages import restore_message
from ..exchange import FAILED, Policy, Services, not_bound
from ..ids import from_iso, now
from ..journal import Journal
from ..memory import Memory
from .rebuild import ABOUT_THREADS
from .rerun_request import Wanted

CAN_BE_TOLD = re.compile(r"all|(last|tokens)=\d+(,(last|tokens)=\d+)*")
"""Rules of views that can be reproduced. A view that an app cut itself cannot be reproduced."""


@dataclass(frozen=True)
class Obstacle:
    """Describe what prevents a rerun: its kind, in one word, and the reason.

    Kinds of `INCLUDE` may be included all the same.
    """

    kind: str
    why: str


@dataclass(frozen=True)
class ExchangeLook:
    """Hold what is known of a run and its exchange at one moment."""

    run: RunRecord
    exchange: ExchangeRecord
    exchanges: Exchanges
    state: ConversationState
    present: Memory
    memory: Memory | None
    """The memory that the run was shown; None if it cannot be reproduced."""
    tools_in_doubt: Sequence[str] = ()
    """Functions that the last failed run called, and that may or may not have done their work."""
    gone_on: Collection[str] = field(default_factory=frozenset)
    """Ids of messages in memory that came after the run's and belong to other exchanges."""
    place: Place = field(default_factory=Place)
    question_is_there: bool = True

    @property
    def in_thread(self) -> bool:
        """Return whether the conversation's linked thread shows what the run was shown."""
        return self.memory is not None and self.memory.digest() == self.present.digest()


def look(journal: Journal, key: str, run_id: str, exchanges: Exchanges | None = None) -> ExchangeLook:
    """Return a run and its exchange as they are now."""
    exchanges = exchanges or journal.exchanges(key)
    run = exchanges.runs[run_id]
    exchange, present, memory = exchanges.exchange_of(run), journal.memory(key), told_again(journal, run)
    where, gone_on = placed(present, memory or Memory(), exchange)
    return ExchangeLook(
        run,
        exchange,
        exchanges,
        journal.require(key).state,
        present,
        memory,
        tools_in_doubt=list(_in_doubt(journal, exchange)),
        gone_on=gone_on,
        place=where or Place(),
        question_is_there=where is not None,
    )


def told_again(journal: Journal, run: RunRecord) -> Memory | None:
    """Return the memory exactly as a run was shown it, or None if it cannot be reproduced.

    It is read from what the run refers to, and verified by its hash.
    """
    if not CAN_BE_TOLD.fullmatch(run.memory_rule):
        return None
    memory = journal.memory(run.key, at=run.memory_version or run.version - 1).by_rule(run.memory_rule)
    return memory if run.memory_hash in {None, memory.digest()} else None


def placed(present: Memory, memory: Memory, exchange: ExchangeRecord) -> tuple[Place | None, frozenset[str]]:
    """Return the place for the answer of an exchange whose run was shown `memory`, and later messages.

    The answer replaces the exchange's current answer. Without one, it follows what the exchange produced before any
    newer message. The place is None if the question is no longer in memory.
    """
    asked = {each.message_id for each in memory.messages if each.exchange_id == exchange.exchange_id}
    asked = asked or {each.message_id for each in memory.messages[-1:]}
    if not any(each.message_id in asked for each in present.messages):
        return None, frozenset()
    superseded = [each.message_id for each in present.messages if each.run_id and each.run_id == exchange.answered_by]
    shown = {each.message_id for each in memory.messages} | set(superseded)
    last = max(index for index, each in enumerate(present.messages) if each.message_id in shown)
    rest = list(present.messages[last + 1 :])
    while rest and not superseded and rest[0].exchange_id == exchange.exchange_id:
        last, rest = last + 1, rest[1:]
    gone_on = frozenset(each.message_id for each in rest if each.exchange_id != exchange.exchange_id)
    before = [each.message_id for each in present.messages[: last + 1] if each.message_id not in superseded]
    return Place(tuple(superseded), before[-1] if gone_on else None), gone_on


def obstacles(seen: ExchangeLook, wanted: Wanted, services: Services, policy: Policy) -> list[Obstacle]:
    """Return everything that prevents a rerun of a run's exchange."""
    found = _of_exchange(seen, wanted, services, policy)
    return [each for each in found if not wanted.includes(each.kind)]


def moved_on(journal: Journal, seen: ExchangeLook, version: int) -> bool:
    """Return whether a conversation has changed since a version, apart from its threads and from reruns.

    Reruns of other exchanges do not count, nor does one of this exchange whose process was killed: what they left is
    checked separately.
    """
    ours = {run.run_id for run in seen.exchanges.runs.values() if run.rerun_of is not None}
    exchanges = {run.exchange_id for run in seen.exchanges.runs.values() if run.run_id in ours}
    return any(not _by_rerun(event, ours, exchanges) for event in journal.history(seen.run.key, after=version))


def is_left(run: RunRecord) -> bool:
    """Return whether a run has no process left that would know whether the provider has answered."""
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
    if exchange.answered_by is not None:
        yield Obstacle("answered", f"already answered by run {exchange.answered_by}")
    runs = [exchange.last(), *([exchange.last(shadow=True)] if shadow else [])]
    left = [run for run in runs if run is not None and is_left(run)]
    running = any(run is not None and run.state == "open" and run not in left for run in runs)
    if running or (wanted.into == "tail" and any(not run.is_overdue(now()) for run in seen.state.open_runs.values())):
        yield Obstacle("open", "a run is open: wait for its end")
    if left and not (wanted.into == "tail" and looking_first(seen, services, policy).candidates):
        yield Obstacle("interrupted", "its last run was interrupted: it may have been answered and paid for already")
    doubtful = [name for name in seen.tools_in_doubt if name not in services.profile.read_only]
    if doubtful:
        told = f"its last run stopped at {doubtful[0]!r}: it is unknown whether the tool has done its work"
        yield Obstacle("tools", told)
    if seen.memory is None:
        yield Obstacle("memory", "the memory that its run was shown cannot be reproduced")
    elif not seen.memory.messages:
        yield Obstacle("memory", "its run was shown no message to answer")
    elif wanted.into == "tail" and not seen.question_is_there:
        yield Obstacle("gone", "the question is no longer in memory")
    elif seen.gone_on:
        yield Obstacle("overtaken", "overtaken by newer messages")


def _in_doubt(journal: Journal, exchange: ExchangeRecord) -> Iterator[str]:
    """Yield functions that the last failed run called without a recorded result, or whose result reports a failure."""
    last = exchange.last()
    if last is None or last.completed is not None:
        return
    called: dict[str, str] = {}
    for event in journal.history(exchange.key, after=last.version):
        if isinstance(event, e.MessageJournaled) and event.run_id == last.run_id:
            message = restore_message(event)
            called |= {call.id: call.name for call in message.calls()}
            name = called.get(message.tool_call_id or "")
            if name is not None and (not message.text.startswith(FAILED) or message.text == not_bound(name)):
                del called[message.tool_call_id or ""]
    yield from called.values()


def _by_rerun(event: e.Event, ours: Collection[str], exchanges: Collection[str]) -> bool:
    match event:
        case e.RunStarted() | e.RunCompleted() | e.RunFailed() | e.MessageJournaled() | e.RerunAccepted():
            return event.run_id in ours
        case e.FallbackUsed() | e.ExchangeAbandoned():
            return event.exchange_id in exchanges
        case e.MessageRetracted():
            return event.reason in {TOO_LATE, SUPERSEDED_TOO}
    return isinstance(event, ABOUT_THREADS)
