"""The journal: eventsourcing's `Application` over our events. It loads, decides and stores; what users call is `Ledger`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar, cast

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError, Mapper, Transcoder
from eventsourcing.utils import Environment

from . import events as e
from .audit import RUN_TOPICS, Exchanges, fold_exchanges
from .conversation import Conversation
from .errors import ConversationChanged, ConversationNotFound
from .ids import new_id, now
from .limits import DECIDE_ATTEMPTS_MAX
from .memory import Memory, fold_memory
from .naming import CONVERSATION, PROFILE, key_of, stream_of
from .ports import EventLog, StreamHead
from .profiles import Profile
from .state import STATE_SCHEMA, ConversationState, evolve
from .storage import EventMapper, PlainJSON

T = TypeVar("T")

PAGE_EVENTS = 1_000
"""Events read from the log at a time."""


class Journal(Application[str]):
    """All events of one database, by conversation and in the order of their commits."""

    name = "threadledger"

    def __init__(self, factory: InfrastructureFactory) -> None:
        self._given_factory = factory
        self._profiles: set[str] = set()
        super().__init__()

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
        return cast("Iterator[e.Event]", self.events.get(stream_of(key), gt=after, lte=upto))

    def memory(self, key: str, at: int | datetime | None = None) -> Memory:
        """What a model is shown of a conversation, as of a version or a time. Empty where it has not begun."""
        return fold_memory(self.history(key, upto=at if isinstance(at, int) else None), at)

    def exchanges(self, key: str, after: int = 0) -> Exchanges:
        """What became of every run of one conversation that started after a version."""
        return fold_exchanges(self.history(key, after=after))

    def all_exchanges(self) -> Exchanges:
        """What became of every run of every conversation."""
        return fold_exchanges(event for _, event in self.logged(0, RUN_TOPICS))

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
            raise ConversationNotFound(f"no conversation {key!r}: see what there is with: threadledger list")
        return conversation

    def commit(self, key: str, decide: Callable[[Conversation], T], create: bool = False) -> T:
        """Load, decide, store; and again from the start when somebody else stored first.

        Raises:
            ConversationNotFound: it has not begun, and `create` is false.
            ConversationChanged: others were first `DECIDE_ATTEMPTS_MAX` times.
            ThreadledgerError: what `decide` raises; nothing was written.
        """
        for _ in range(DECIDE_ATTEMPTS_MAX):
            conversation = (self.load(key) or Conversation.start(key)) if create else self.require(key)
            result = decide(conversation)
            try:
                self.store(conversation)
            except ConversationChanged:
                continue
            return result
        raise ConversationChanged(f"{key!r} is being written by others all the time: nothing was written; try again")

    def store(self, *conversations: Conversation) -> None:
        """Store what waits in these conversations, in one transaction: all of it or nothing.

        Raises:
            ConversationChanged: one of them moved on; load it anew and decide again.
        """
        heads = [_head_of(conversation) for conversation in conversations if conversation.pending]
        if heads:
            pending = [event for conversation in conversations for event in conversation.collect_events()]
            self._put(pending, heads)

    def close_overdue_runs(self) -> list[str]:
        """Close the runs that a crash left open and whose deadline has passed, in all conversations; returns their ids."""
        closed: list[str] = []
        for stream, _ in self.heads(CONVERSATION, overdue_at=now()):
            closed += self.commit(key_of(stream), lambda conversation: conversation.close_overdue_runs())
        return closed

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
        self._put([event], [StreamHead(event.originator_id, event.originator_version, STATE_SCHEMA, "{}")])

    def logged(self, after: int, topics: Sequence[str]) -> Iterator[tuple[int, e.Event]]:
        """(position, event) of the whole log, from the position after `after` to its present end."""
        while True:
            page = self.recorder.select_notifications(after, PAGE_EVENTS, topics=topics, inclusive_of_start=False)
            for row in page:
                after = row.id
                yield row.id, self._mapper.to_domain_event(row)
            if len(page) < PAGE_EVENTS:
                return

    def heads(
        self, prefix: str, *, limit: int | None = None, overdue_at: datetime | None = None
    ) -> list[tuple[str, ConversationState]]:
        """(stream, state) of the streams with this prefix: see `EventLog.select_heads`."""
        return [
            (head.stream, self._state(head))
            for head in self._log.select_heads(prefix, limit=limit, overdue_at=overdue_at)
        ]

    def status(self) -> dict[str, Any]:
        """What is in the database: see `EventLog.status`."""
        return dict(self._log.status())

    def has(self, stream: str) -> bool:
        """Whether a stream has events."""
        return self._log.select_head(stream) is not None

    def _put(self, pending: Sequence[e.Event], heads: Sequence[StreamHead]) -> None:
        try:
            self.events.put(pending, heads=heads)
        except IntegrityError as error:
            keys = ", ".join(repr(key_of(head.stream)) for head in heads[:3])
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


def _head_of(conversation: Conversation) -> StreamHead:
    state = conversation.state
    return StreamHead(conversation.id, state.version, STATE_SCHEMA, state.as_json(), state.next_deadline)
