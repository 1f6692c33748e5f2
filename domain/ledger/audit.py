"""Provide the queries of an audit: failure groups, new failures as they arrive, the memory of a run, lagging threads.

`FailureGroups` reads the groups and records people's decisions about them.

A decision (resolved, muted, reopened) is an event on a separate stream of the ledger; the latest state is stored next
to the stream. The version of the normalising rule is part of a group's id: a new version creates new groups, and
decisions about the old ones remain in the log but apply to none of the new groups (`orphans`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..conversation import (
    RUN_TOPICS,
    ExchangeRecord,
    Profile,
    fold_exchanges,
    key_of,
    recorded_failure,
    stream_of,
)
from ..conversation import events as e
from ..errors import GroupNotFound, InvalidInput, LogRewound
from ..failures import RULE_VERSION, Cause, Decision, Failure, FailureGroup, GroupState, redact
from ..ids import as_utc, from_iso, moment_of, new_id, now, to_iso
from ..journal import StreamHead
from ..limits import LAGGING_CHECKED_MAX

if TYPE_CHECKING:
    from ..conversation import ConversationState, FailureFilter, RunRecord
    from ..exchange import Services
    from ..failures import RecordedFailure
    from ..journal import Journal, NotedThread
    from ..memory import Memory

AUDIT_GROUPS = "audit:groups"
"""Name of the stream of decisions about groups."""

BOOK_SCHEMA = 1
"""Version of the format in which the decisions are stored next to their stream."""

NOTE_CHARS_MAX = 500
"""Maximum length of a decision's note, in characters."""


def evolve_book(book: dict[str, Decision], event: e.Event) -> None:
    """Apply one event. Never raises."""
    match event:
        case e.FailureGroupResolved():
            state, until = "resolved", None
        case e.FailureGroupMuted():
            state, until = "muted", event.until
        case e.FailureGroupReopened():
            state, until = "open", None
        case _:
            return
    details = (event.cause, event.backend, event.message, event.note)
    book[event.group] = Decision(state, to_iso(event.timestamp), event.rule, *details, until=until)


class FailureGroups:
    """Manage the groups of failures of one ledger."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def all(
        self,
        since: datetime | timedelta | None = None,
        states: Iterable[GroupState | str] | None = None,
        actor: str | None = None,
    ) -> list[FailureGroup]:
        """Return the groups with failures since a time that are in these states; by default, all but the muted groups.

        They are sorted by state (returned, open, resolved, muted), then by most recent failure first. With an actor, only
        failures of runs that it caused count: a group has returned if the actor failed again.

        Raises:
            InvalidInput: a state is unknown.
        """
        wanted = _states(states)
        moment = now()
        begin = moment_of(since)
        book = self.book()
        found = [_with_state(each, book.get(each.group), moment) for each in self._tallied(begin, moment, actor)]
        order = list(GroupState)
        return sorted((each for each in found if each.state in wanted), key=lambda each: order.index(each.state))

    def get(self, group: str) -> FailureGroup:
        """Return one group over all time, by its id or by a unique prefix of it.

        Raises:
            GroupNotFound: no group, or more than one, matches.
        """
        found = [each for each in self.all(states=GroupState) if group and each.group.startswith(group)]
        exact = [each for each in found if each.group == group] or found
        if len(exact) != 1:
            problem = f"{len(exact)} groups start with {group!r}" if exact else f"no group {group!r}"
            raise GroupNotFound(f"{problem}: list the groups with: threadledger audit groups --state all")
        return exact[0]

    def resolve(self, group: str, note: str = "") -> FailureGroup:
        """Record that the problem behind a group is fixed; a later failure makes the group `returned`.

        If it is already resolved and has not returned, nothing is written.

        Raises:
            GroupNotFound: see `get`.
        """
        return self._decide(group, e.FailureGroupResolved, GroupState.RESOLVED, note)

    def mute(self, group: str, until: datetime | None = None, note: str = "") -> FailureGroup:
        """Hide a group, until a time or permanently. If it is already muted this way, nothing is written.

        Raises:
            GroupNotFound: see `get`.
            InvalidInput: `until` is not in the future.
        """
        if until is not None and not isinstance(until, datetime):
            raise InvalidInput(f"until has type {type(until).__name__}: nothing was written; pass a datetime or None")
        if until is not None and as_utc(until) <= now():
            raise InvalidInput(
                f"a group cannot be muted until {to_iso(as_utc(until))}, which is in the past: pass a future time"
            )
        return self._decide(group, e.FailureGroupMuted, GroupState.MUTED, note, until=until and to_iso(as_utc(until)))

    def reopen(self, group: str, note: str = "") -> FailureGroup:
        """Undo the resolution or mute of a group. If the group is open, nothing is written.

        Raises:
            GroupNotFound: see `get`.
        """
        return self._decide(group, e.FailureGroupReopened, GroupState.OPEN, note)

    def orphans(self) -> dict[str, Decision]:
        """Return the decisions about groups that no longer exist.

        Their ids come from another rule version, or their failures now have another cause.
        """
        there = {each.group for each in self._tallied(None, now())}
        return {group: each for group, each in self.book().items() if group not in there and each.state != "open"}

    def book(self) -> dict[str, Decision]:
        """Return the last decision about each group."""
        return self._book(self._journal.head(AUDIT_GROUPS))

    def _tallied(self, since: datetime | None, until: datetime, actor: str | None = None) -> list[FailureGroup]:
        return self._journal.views.failure_groups(since, until, wanted_actor(actor))

    def _decide(
        self, group: str, event_class: type[e.Event], wanted: GroupState, note: str, **more: Any
    ) -> FailureGroup:
        if not isinstance(note, str):
            raise InvalidInput(f"note has type {type(note).__name__}: nothing was written; pass a text")
        found, at = self.get(group), now()
        note = redact(note, NOTE_CHARS_MAX)
        named = {"group": found.group, "rule": RULE_VERSION, "cause": found.cause.value, "backend": found.backend}
        carried: dict[str, Any] = named | {"message": found.message, "note": note} | more
        decided: list[FailureGroup] = []

        def decide(head: StreamHead | None) -> tuple[e.Event, StreamHead] | None:
            book = self._book(head)
            before = book.get(found.group)
            decided[:] = [_with_state(found, before, at)]
            if decided[0].state is wanted and (before is None or before.until == more.get("until")):
                return None
            version = head.version + 1 if head is not None else 1
            event = event_class(
                originator_id=AUDIT_GROUPS,
                originator_version=version,
                timestamp=at,
                event_id=new_id(),
                **carried,
            )
            evolve_book(book, event)
            decided[:] = [_with_state(found, book[found.group], at)]
            return event, StreamHead(AUDIT_GROUPS, version, BOOK_SCHEMA, _stored(book))

        self._journal.append(AUDIT_GROUPS, decide)
        return decided[0]

    def _book(self, head: StreamHead | None) -> dict[str, Decision]:
        if head is None:
            return {}
        if head.state_schema == BOOK_SCHEMA:
            known = Decision.__dataclass_fields__
            return {
                group: Decision(**{name: value for name, value in stored.items() if name in known})
                for group, stored in json.loads(head.state).items()
            }
        book: dict[str, Decision] = {}
        for event in self._journal.stream(AUDIT_GROUPS):
            evolve_book(book, event)
        return book


def wanted_actor(actor: object) -> str | None:
    """Return the actor whose runs are wanted; None stands for those of all actors.

    Raises:
        InvalidInput: it is no text, and no run could have it.
    """
    if actor is not None and not isinstance(actor, str):
        raise InvalidInput(f"actor has type {type(actor).__name__}: nothing was read; pass the name of an actor")
    return actor


def _with_state(group: FailureGroup, decision: Decision | None, at: datetime) -> FailureGroup:
    state = GroupState.of(decision, group.last_at, at)
    return FailureGroup(**vars(group) | {"state": state, "decision": decision})


def _states(given: Iterable[GroupState | str] | None) -> set[GroupState]:
    if given is None:
        return set(GroupState) - {GroupState.MUTED}
    try:
        return {GroupState(each) for each in given}
    except ValueError as error:
        raise InvalidInput(f"{error}: use one or more of {', '.join(GroupState)}") from None


def _stored(book: Mapping[str, Decision]) -> str:
    return json.dumps({group: vars(each) for group, each in book.items()}, separators=(",", ":"))


def follow_failures(journal: Journal, wanted: FailureFilter, limit: int | None = None) -> Iterator[RecordedFailure]:
    """Yield the newest `limit` matching failures in the ledger, then each new one that matches, without end.

    Each failure is reported as of now; a later retry or answer is mostly not included yet.

    Raises:
        LogRewound: events that were read here are no longer in the log.
    """
    journal.close_overdue_runs()
    end = journal.last_cursor()
    reported: set[str] = set()  # the view may already include failures after `end`
    for failure in journal.views.failures(wanted, limit):
        reported.add(failure.run_id)
        yield failure
    try:
        for _, event, _ in journal.followed(end, (e.RunFailed.__name__,)):
            if isinstance(event, e.RunFailed) and event.run_id not in reported:
                come = _failure_of(journal, event)
                if come is not None and wanted(come):
                    yield come
    except LogRewound as rewound:
        rewound.args = (
            "the log was rewound by a restored backup or a failover: failures that were listed may no longer be in it; "
            "list them again with: threadledger audit failures",
        )
        raise


def _failure_of(journal: Journal, event: e.RunFailed) -> RecordedFailure | None:
    folded = fold_exchanges(journal.stream(event.originator_id, RUN_TOPICS))
    run = folded.runs.get(event.run_id)
    return recorded_failure(run, folded.exchange_of(run)) if run is not None else None


@dataclass(frozen=True)
class ShownMemory:
    """Hold the memory that a run used, recomputed from the version and rule that the run recorded."""

    memory: Memory
    hash: str
    """Hash of the recomputed memory."""
    recorded_hash: str | None
    """Hash of the memory, as recorded when the run started; None if the run recorded none."""
    sent: e.ExchangeRequested | None = None
    """What was sent with the question beyond the defaults; None if there was nothing."""
    profile: Profile | None = None
    """Instructions, tools and settings that were sent."""

    @property
    def same(self) -> bool | None:
        """Return whether both hashes are equal; None if the run has no recorded hash."""
        return None if self.recorded_hash is None else self.hash == self.recorded_hash


def memory_shown(journal: Journal, run: RunRecord) -> ShownMemory:
    """Return the memory that a run's model saw; it is never stored, but computed from the conversation's events."""
    from ..exchange import SentOptions
    from ..replay import viewed_memory

    memory = viewed_memory(journal, run)
    sent = SentOptions.of(journal, run.key, run.exchange_id, run.version)
    event = sent.event if sent is not None else None
    return ShownMemory(memory, memory.digest(), run.memory_hash, event, journal.profile(run.profile_hash))


@dataclass(frozen=True)
class UnansweredExchange:
    """Describe an exchange without an answer, and why it has none."""

    exchange_id: str
    state: str
    """`abandoned` (nothing answers it automatically) or `open` (being answered, or left by a process that stopped)."""
    version: int
    """Version of its last message; of the message before its first run, if the app journaled no question with it."""
    reason: str
    failure: RecordedFailure | None = None
    """The last failed run; None if no run has failed."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of an exchange in `show`; docs/commands.md lists its keys."""
        failure = self.failure
        return {
            "exchange_id": self.exchange_id,
            "state": self.state,
            "version": self.version,
            "reason": self.reason,
            "run_id": failure.run_id if failure is not None else None,
            "cause": failure.cause.value if failure is not None else None,
            "advice": failure.advice_here() if failure is not None else None,
        }


def unanswered_exchanges(journal: Journal, key: str, memory: Memory) -> list[UnansweredExchange]:
    """Return the exchanges of a memory that had no answer at its version, in the order of their messages.

    An exchange whose messages are not in the memory is left out.
    """
    events = [each for each in journal.stream(stream_of(key), RUN_TOPICS) if each.originator_version <= memory.version]
    folded = fold_exchanges(events)
    reasons = {each.exchange_id: each.reason for each in events if isinstance(each, e.ExchangeAbandoned)}
    last: dict[str, int] = {}
    for message in memory.messages:
        if message.exchange_id is not None:
            last[message.exchange_id] = message.version
    for exchange in folded.by_id.values():
        if exchange.exchange_id not in last and exchange.last() is not None:  # an app's own run answers what is there
            before = [each for each in memory.messages if each.version < exchange.runs[0].version]
            if before and before[-1].message.role in {"user", "tool"} and before[-1].exchange_id is None:
                last[exchange.exchange_id] = before[-1].version
    found = []
    for exchange_id in sorted(last, key=lambda each: last[each]):
        exchange = folded.by_id.get(exchange_id) or ExchangeRecord(exchange_id, key)
        if exchange.unanswered:
            found.append(_unanswered(exchange, last[exchange_id], reasons.get(exchange_id)))
    return found


def _unanswered(exchange: ExchangeRecord, version: int, abandoned_for: str | None) -> UnansweredExchange:
    state = "open" if abandoned_for is None else "abandoned"
    last = exchange.last()
    if last is None:
        return UnansweredExchange(exchange.exchange_id, state, version, abandoned_for or "no run was started")
    if last.state == "open":
        until = from_iso(last.deadline) if last.deadline else None
        if until is None or until > now():
            return UnansweredExchange(
                exchange.exchange_id,
                state,
                version,
                f"run {last.run_id} on {last.backend} is open until {last.deadline}",
            )
        last = replace(last, failure=Failure("interrupted", message="the process stopped before the run ended"))
    if last.failure is None:
        return UnansweredExchange(exchange.exchange_id, state, version, "its run called tools and was not continued")
    failure = recorded_failure(last, exchange)
    return UnansweredExchange(
        exchange.exchange_id, state, version, f"{failure.cause.value} ({failure.summary()})", failure
    )


def defined_profile(journal: Journal, profile_hash: str | None) -> Profile | None:
    """Return the profile with this hash; None if no such profile was defined."""
    return journal.profile(profile_hash)


def tool_names(profile: Profile) -> list[str]:
    """Return the tools of a profile by name; hosted tools by type."""
    return [str(tool.get("function", {}).get("name") or tool.get("type")) for tool in profile.tools]


# Threads that lag behind are found by their stored state alone: the provider is not called. The work is bounded,
# however large the ledger is: it covers the most recently changed conversations, and the threads whose stored state is
# unsettled. `replay verify` reads the threads themselves.
@dataclass(frozen=True)
class LaggingThread:
    """Represent one thread that is missing messages, or whose content is unknown."""

    key: str
    mirror: str
    state: str
    """`unlinked` (no thread), `lost`, `too_long` (it is no longer used), `unsettled` (a process stopped while writing to it), or
    `behind`."""
    messages: int = 0
    """Number of journaled messages that the thread is not known to contain."""


@dataclass(frozen=True)
class Lags:
    """Hold the lagging threads, the number of conversations that were checked, and the number of all conversations."""

    threads: Sequence[LaggingThread]
    checked: int
    of: int
    doubtful: int = 0
    """Number of threads with unconfirmed writes that may still arrive; they are read before the next write."""
    held: Sequence[str] = ()
    """Keys whose thread a process is writing to, each with that process and the end of its claim."""
    held_keys: Sequence[str] = ()
    """Keys alone of these conversations."""
    doubtful_keys: Sequence[str] = ()
    """Keys of conversations with an unconfirmed write to a thread, which may still arrive."""

    @property
    def looked_at(self) -> int:
        """Return `checked`, by its name in earlier versions."""
        return self.checked


def threads_behind(journal: Journal, services: Services, checked_max: int = LAGGING_CHECKED_MAX) -> Lags:
    """Return the threads that lag behind, of the most recently changed conversations.

    A conversation with an open run, or in which a tool call waits for a decision, is omitted: its thread is updated later.
    """
    states = journal.views.conversations(checked_max, None)
    noted = {(each.stream, each.mirror): each for each in journal.upkeep.noted_threads(_streams(states))}
    lagging = [each for state in states for each in _lagging(journal, services, state, noted)]
    seen = {(each.key, each.mirror) for each in lagging} | {(key_of(stream), mirror) for stream, mirror in noted}
    unsettled = journal.upkeep.unsettled_threads(checked_max)
    linked = {state.key: state.links for state in _existing(journal, unsettled) if not state.pending}
    elsewhere = [each for each in unsettled if each.mirror in linked.get(key_of(each.stream), ())]
    lagging += [
        LaggingThread(key_of(each.stream), each.mirror, "unsettled")
        for each in elsewhere
        if not each.settled and not each.held and (key_of(each.stream), each.mirror) not in seen
    ]
    of = int(journal.status()["conversations"])
    held = [f"{key_of(each.stream)!r} by {each.held_by}" for each in noted.values() if each.held]
    return Lags(lagging, len(states), of, sum(each.doubts > 0 for each in elsewhere), held)


def lags_among(journal: Journal, services: Services, keys: Iterable[str]) -> Lags:
    """Return the lagging threads of these conversations, like `threads_behind`; it costs what they lack."""
    states = [state for _, state in journal.states_of(keys)]
    noted = {(each.stream, each.mirror): each for each in journal.upkeep.noted_threads(_streams(states))}
    lagging = [each for state in states for each in _lagging(journal, services, state, noted)]
    held = list(dict.fromkeys(key_of(each.stream) for each in noted.values() if each.held))
    doubtful = list(dict.fromkeys(key_of(each.stream) for each in noted.values() if each.doubts))
    return Lags(lagging, len(states), len(states), len(doubtful), held_keys=held, doubtful_keys=doubtful)


def _streams(states: Sequence[ConversationState]) -> list[str]:
    return [stream_of(state.key) for state in states]


def _existing(journal: Journal, noted: Sequence[NotedThread]) -> Iterator[ConversationState]:
    """Yield the states of conversations of threads that were not deleted."""
    return (state for _, state in journal.states_of(dict.fromkeys(key_of(each.stream) for each in noted)))


def _lagging(
    journal: Journal, services: Services, state: ConversationState, noted: dict[tuple[str, str], NotedThread]
) -> Iterator[LaggingThread]:
    if state.messages == 0 or state.open_runs or state.pending:
        return
    wanted = {services.mirrored_to} if services.mirrored_to in services.mirrors else set()
    for mirror in sorted(wanted | (state.links.keys() & services.mirrors.keys())):
        link = state.links.get(mirror)
        if link is None:
            yield LaggingThread(state.key, mirror, "unlinked", state.messages)
        elif link.lost:
            is_too_long = link.lost == Cause.CONTEXT_TOO_LONG
            yield LaggingThread(state.key, mirror, "too_long" if is_too_long else "lost", state.messages)
        elif link.endpoint == services.mirrors[mirror].endpoint:
            yield from _behind(journal, state, mirror, noted.get((stream_of(state.key), mirror)))


def _behind(
    journal: Journal, state: ConversationState, mirror: str, noted: NotedThread | None
) -> Iterator[LaggingThread]:
    if noted is not None and noted.held:
        return
    version = noted.version if noted is not None else 0
    lacking = 0
    if version < state.version:
        newer = journal.history(state.key, after=version)
        lacking = sum(isinstance(event, e.MessageJournaled) and event.parent_version is None for event in newer)
    if noted is None or not noted.settled:
        yield LaggingThread(state.key, mirror, "unsettled", lacking)
    elif lacking:
        yield LaggingThread(state.key, mirror, "behind", lacking)
