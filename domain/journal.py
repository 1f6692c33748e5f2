"""The journal: eventsourcing's `Application` over our events. It loads, decides and stores; what users call is `Ledger`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError, Mapper, Transcoder
from eventsourcing.utils import Environment

from . import events as e
from .audit import RUN_ENDING_CHARS_MIN, Exchanges, RunRecord, fold_exchanges
from .conversation import Conversation
from .errors import ConversationChanged, ConversationNotFound, RunNotFound
from .ids import new_id, now, to_iso
from .memory import Memory
from .messages import Role
from .naming import CONVERSATION, PROFILE, key_of, stream_of
from .observing import SeenRun, Watch
from .ports import Appending, EventLog, JobClaims, StreamHead, Views
from .profiles import Profile
from .recall import recall
from .state import STATE_SCHEMA, ConversationState, evolve
from .storage import EventMapper, PlainJSON, restore
from .upkeep import Upkeep

T = TypeVar("T")

NEVER = "9999"
"""Later than any deadline (ISO 8601)."""


class Store(Protocol):
    """What the ledger asks of a factory beyond eventsourcing's own."""

    def views(self) -> Views: ...

    def upkeep(self) -> Upkeep: ...

    def job_claims(self) -> JobClaims: ...


class Journal(Application[str]):
    """All events of one database, by conversation and in the order of their commits."""

    name = "threadledger"

    def __init__(self, factory: InfrastructureFactory[Any]) -> None:
        self._given_factory = factory
        self._profiles: set[str] = set()
        super().__init__()
        store = cast("Store", factory)
        self.views: Views = store.views()
        self.upkeep: Upkeep = store.upkeep()
        self.job_claims: JobClaims = store.job_claims()
        self.watch = Watch(self._start_of, self._question_of)

    def construct_env(self, name: str, env: object = None) -> Environment:
        """Empty: the process's environment must not change how events are stored."""
        return Environment(name, {})

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        return self._given_factory

    def construct_transcoder(self) -> Transcoder:
        return PlainJSON()

    def construct_mapper(self) -> Mapper[str]:
        return EventMapper(self.construct_transcoder())

    def history(self, key: str, after: int = 0, upto: int | None = None) -> Iterator[e.Event]:
        """A conversation's own events, oldest first, after one version and up to another."""
        return map(restore, self._log.stream_rows(stream_of(key), after, upto))

    def memory(
        self, key: str, at: int | datetime | None = None, last: int | None = None, tokens: int | None = None
    ) -> Memory:
        """What a model is shown of a conversation, as of a version or a time, whole or a window of it: see `recall`.

        Empty where it has not begun.

        Raises:
            InvalidInput: a bound below 1.
        """
        return recall(self._log, stream_of(key), at, last, tokens)

    def exchanges(self, key: str, after: int = 0) -> Exchanges:
        """What became of every run of one conversation that started after a version."""
        return fold_exchanges(self.history(key, after=after))

    def run(self, run_id: str) -> tuple[RunRecord, Exchanges]:
        """One run, by its id or by an ending of it that is its own, with all that happened in its conversation.

        Raises:
            RunNotFound: no run, or more than one, has this id or ending.
        """
        found = self.views.find_runs(run_id) if len(run_id) >= RUN_ENDING_CHARS_MIN else []
        exact = [each for each in found if each[1] == run_id] or found
        if len(exact) != 1:
            problem = f"{len(exact)} runs end in {run_id!r}" if exact else f"no run {run_id!r}"
            raise RunNotFound(f"{problem}: see what there is with: threadledger audit failures")
        ((key, whole_id),) = exact
        folded = self.exchanges(key)
        return folded.runs[whole_id], folded

    def event(self, event_id: str) -> e.Event | None:
        """One event by its id."""
        row = self._log.select_event(event_id)
        return self._mapper.to_domain_event(row) if row is not None else None

    def load(self, key: str) -> Conversation | None:
        """A conversation as its decisions need it: one row is read, however long it is. None where it has not begun."""
        stream = stream_of(key)
        head = self._log.select_head(stream)
        return Conversation(stream, self._state(head)) if head is not None else None

    def require(self, key: str) -> Conversation:
        """Like `load`, for a conversation that has to be there.

        Raises:
            ConversationNotFound: it has not begun.
        """
        conversation = self.load(key)
        if conversation is None:
            raise _not_found(key)
        return conversation

    def is_open(self, key: str, run_id: str) -> bool:
        """Whether a run is still open."""
        conversation = self.load(key)
        state = conversation.state if conversation is not None else ConversationState()
        return run_id in state.open_runs or run_id in state.shadow_runs

    def commit(self, key: str, decide: Callable[[Conversation], T], create: bool = False) -> T:
        """Load, decide, store, as one step: what others append at this moment comes before or after it.

        `decide` may be asked again, on a newer state; it has no effects of its own.

        Raises:
            ConversationNotFound: it has not begun, and `create` is false.
            ConversationChanged: others were first `DECIDE_ATTEMPTS_MAX` times.
            ThreadledgerError: what `decide` raises; nothing was written.
        """
        stream = stream_of(key)
        results: list[T] = []
        decided: list[e.Event] = []

        def decide_append(head: StreamHead | None) -> Appending:
            if head is None and not create:
                raise _not_found(key)
            conversation = Conversation(stream, self._state(head)) if head is not None else Conversation.start(key)
            results[:] = [decide(conversation)]
            decided[:] = conversation.pending
            return self._appending(conversation)

        try:
            self._log.append(stream, decide_append)
        except IntegrityError as error:
            raise ConversationChanged(
                f"{key!r} is being written by others all the time: nothing was written; try again"
            ) from error
        self.watch.saw(decided)
        return results[0]

    def store(self, *conversations: Conversation) -> None:
        """Store what waits in these conversations, in one transaction: all of it or nothing.

        Raises:
            ConversationChanged: one of them moved on; load it anew and decide again.
        """
        decided = [self._appending(conversation) for conversation in conversations if conversation.pending]
        if decided:
            self._insert(
                Appending(
                    [row for each in decided for row in each.rows], [head for each in decided for head in each.heads]
                )
            )

    def close_overdue_runs(self) -> list[str]:
        """Close the runs that a crash left open and whose deadline has passed, in all conversations; returns their ids."""
        closed: list[str] = []
        for head in self._log.select_heads(CONVERSATION, overdue_at=to_iso(now())):
            closed += self.commit(key_of(head.stream), lambda conversation: conversation.close_overdue_runs())
        return closed

    def open_runs(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, run id, facts) of every run that has not ended, in all conversations: see `ConversationState.open_runs`."""
        waiting = self._log.select_heads(CONVERSATION, overdue_at=NEVER)
        states = ((key_of(head.stream), self._state(head)) for head in waiting)
        return [(key, *run) for key, state in states for run in (*state.open_runs.items(), *state.shadow_runs.items())]

    def define_profile(self, profile: Profile) -> str:
        """Keep a profile in the ledger, once; returns its hash."""
        profile_hash = profile.hash
        stream = PROFILE + profile_hash
        if profile_hash not in self._profiles and not self.has(stream):
            defined = e.ProfileDefined(
                originator_id=stream,
                originator_version=1,
                timestamp=now(),
                event_id=new_id(),
                profile_hash=profile_hash,
                name=profile.name,
                instructions=profile.instructions,
                model=profile.model,
                tools=profile.tools,
            )
            with suppress(ConversationChanged):  # somebody else defined the same content at the same moment
                self.put(defined)
        self._profiles.add(profile_hash)
        return profile_hash

    def put(self, event: e.Event) -> None:
        """Store the first event of a stream that has no decisions.

        Raises:
            ConversationChanged: the stream is there already.
        """
        head = StreamHead(event.originator_id, event.originator_version, STATE_SCHEMA, "{}")
        self._insert(Appending([self._mapper.to_stored_event(event)], [head]))

    def append(self, stream: str, decide: Callable[[StreamHead | None], tuple[e.Event, StreamHead] | None]) -> None:
        """Store one event of a stream that is no conversation's, with the head that follows from it, or nothing. `decide` may
        be asked again, with a newer head."""

        def decide_append(head: StreamHead | None) -> Appending:
            decided = decide(head)
            return Appending([self._mapper.to_stored_event(decided[0])], [decided[1]]) if decided else Appending()

        self._log.append(stream, decide_append)

    def stream(self, stream: str, topics: Sequence[str] = ()) -> Iterator[e.Event]:
        """The events of any stream, oldest first."""
        return map(restore, self._log.stream_rows(stream, topics=topics))

    def head(self, stream: str) -> StreamHead | None:
        """The newest state of any stream."""
        return self._log.select_head(stream)

    def heads(self, prefix: str) -> Sequence[StreamHead]:
        """The newest states of the streams whose names begin so."""
        return self._log.select_heads(prefix)

    def logged(
        self, after: int = 0, topics: Sequence[str] = (), upto: int | None = None
    ) -> Iterator[tuple[int, e.Event]]:
        """(position, event) of the whole log, after a position and up to another, or to its present end."""
        return ((row[0], restore(row)) for row in self._log.rows(after, upto, topics))

    def followed(self, after: int = 0, topics: Sequence[str] = ()) -> Iterator[tuple[int, e.Event]]:
        """(position, event) of the whole log, and of what comes, for ever."""
        with self.following(after, topics) as events:
            yield from events

    @contextmanager
    def following(self, after: int = 0, topics: Sequence[str] = ()) -> Iterator[Iterator[tuple[int, e.Event]]]:
        """The same until the block is left, which ends it even while another thread waits for what comes."""
        with self.recorder.subscribe(after, topics) as subscription:
            yield ((each.id, self._mapper.to_domain_event(each)) for each in subscription)

    def placed(self, key: str, topics: Sequence[str] = ()) -> Iterator[tuple[int, e.Event]]:
        """(position, event) of one conversation."""
        return ((row[0], restore(row)) for row in self._log.stream_rows(stream_of(key), topics=topics))

    def keys(self) -> list[str]:
        """The keys of all conversations."""
        return sorted(key_of(head.stream) for head in self._log.select_heads(CONVERSATION))

    def versions(self) -> list[tuple[str, int]]:
        """(key, version) of all conversations, by key."""
        return [(key_of(stream), version) for stream, version in self._log.select_versions(CONVERSATION)]

    def status(self) -> dict[str, Any]:
        """What is in the database: see `EventLog.status`."""
        return dict(self._log.status())

    def has(self, stream: str) -> bool:
        """Whether a stream has events."""
        return self._log.select_head(stream) is not None

    def _appending(self, conversation: Conversation) -> Appending:
        """What waits in a conversation, as rows with the head that follows from them."""
        pending = conversation.collect_events()
        if not pending:
            return Appending()
        state = conversation.state
        head = StreamHead(conversation.id, state.version, STATE_SCHEMA, state.as_json(), state.next_deadline)
        return Appending([self._mapper.to_stored_event(event) for event in pending], [head])

    def _start_of(self, stream: str, run_id: str) -> e.RunStarted | None:
        starts = (event for event in self.stream(stream, ("RunStarted",)) if isinstance(event, e.RunStarted))
        return next((event for event in starts if event.run_id == run_id), None)

    def _question_of(self, run: SeenRun) -> str | None:
        """The newest question of a run's exchange that the run was shown."""
        shown = self.memory(run.key, run.memory_version).messages
        asked = (each for each in reversed(shown) if each.exchange_id == run.exchange_id)
        return next((each.message.text for each in asked if each.message.role is Role.USER), None)

    def _insert(self, appending: Appending) -> None:
        try:
            self.recorder.insert_events(appending.rows, heads=appending.heads)
        except IntegrityError as error:
            keys = ", ".join(repr(key_of(head.stream)) for head in appending.heads[:3])
            raise ConversationChanged(
                f"{keys} moved on meanwhile: nothing was written; load it and try again"
            ) from error

    @property
    def _log(self) -> EventLog:
        return cast("EventLog", self.recorder)

    @property
    def _mapper(self) -> EventMapper:
        return cast("EventMapper", self.mapper)

    def _state(self, head: StreamHead) -> ConversationState:
        if head.state_schema == STATE_SCHEMA:
            return ConversationState.from_json(head.state)
        state = ConversationState()
        for event in self.history(key_of(head.stream)):
            evolve(state, event)
        return state


def _not_found(key: str) -> ConversationNotFound:
    return ConversationNotFound(f"no conversation {key!r}: see what there is with: threadledger list")
