"""Implement the journal, an eventsourcing `Application`: it loads, decides and stores. Users call `Ledger`."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError, Mapper, Transcoder
from eventsourcing.utils import Environment
from msgspec.structs import replace

from ..canonical import EMPTY_PATH
from ..conversation import CONVERSATION, PROFILE, STATE_SCHEMA, ConversationState, evolve, key_of, stream_of
from ..conversation import events as e
from ..errors import (
    ConversationChanged,
    ConversationNotFound,
    CorruptEvent,
    DatabaseReadOnly,
    InvalidInput,
    RunNotFound,
)
from ..faces import on_first_use
from ..ids import new_id, now, to_iso
from ..limits import RUN_ENDING_CHARS_MIN
from .observers import WATCHED, RunLog, SeenRun, Watch, run_logger
from .ports import DELETED, Also, Appending, EventLog, StreamHead
from .rows import IMPORTED_RUNS, EventMapper, OnChange, PlainJSON, Row, indexed, refuse_changed, restore

# Modules that only some methods need (decisions, memory, the fold of exchanges) are imported inside these methods.
if TYPE_CHECKING:
    from ..conversation import Conversation, Exchanges, OpenExchange, OpenRun, Profile, RunRecord
    from ..conversation.messages import JournaledMessage, Message, Parent
    from ..memory import Memory
    from .blobs import BlobStore
    from .budgets import Budgets, Price
    from .facilities import JobClaims, Upkeep, Views
    from .lookups import Lookups
    from .places import Places
    from .served_notes import ServedNotes
    from .worker_notes import WorkerNotes

T = TypeVar("T")

PAGE_STATES = 500
"""Number of states read per query."""

PAGE_NEWEST_FIRST, PAGE_NEWEST_MAX = 10, 1_000
"""Numbers of events that are read first, and at most, by a query of a reader from the end."""

PROFILES_KEPT_MAX = 32
"""Maximum number of profiles that a journal keeps in memory after they were read."""

NEVER = "9999"
"""Timestamp later than any deadline (ISO 8601)."""

_recall: Callable[[], Callable[..., Memory]] = on_first_use(__name__, "recall", "recall")


class Store(Protocol):
    """Describe what the ledger needs from a factory in addition to eventsourcing's own interface."""

    def views(self) -> Views: ...

    def upkeep(self) -> Upkeep: ...

    def job_claims(self) -> JobClaims: ...

    def blobs(self) -> BlobStore: ...

    def served_notes(self) -> ServedNotes: ...

    def worker_notes(self) -> WorkerNotes: ...


class Journal(Application[str]):
    """Hold all events of one database, by conversation and in commit order."""

    name = "threadledger"
    budgets: Budgets | None = None  # what runs may cost; None if no budget is set
    price: Price | None = None  # what the usage of a run costs; None if the app knows no prices
    deferring: Callable[[str, str], Also] | None = (
        None  # notes for workers that threads lack something of a conversation
    )
    tenant: str = ""  # whose ledger it is, if each tenant has one
    copied: Journal | None = None  # the journal that opened the database, if this one is a copy for an actor

    def __init__(self, factory: InfrastructureFactory[Any]) -> None:
        self._given_factory = factory
        self._profiles: set[str] = set()
        self._read_profiles: dict[str, Profile] = {}
        self._unchecked: EventLog | None = None
        self.actor: str | None = None
        """Who causes the events that are stored; None if it is not known."""
        super().__init__()
        self.watch = Watch(self._start_of, self._question_of)

    @cached_property
    def views(self) -> Views:
        """Return the read models of the database."""
        return cast("Store", self._given_factory).views()

    @cached_property
    def upkeep(self) -> Upkeep:
        """Return the maintenance operations of the database."""
        return cast("Store", self._given_factory).upkeep()

    @cached_property
    def blobs(self) -> BlobStore:
        """Return the store of the bytes of attachments."""
        return cast("Store", self._given_factory).blobs()

    @cached_property
    def job_claims(self) -> JobClaims:
        """Return the claims on items of bulk jobs."""
        return cast("Store", self._given_factory).job_claims()

    @cached_property
    def served_notes(self) -> ServedNotes:
        """Return the notes of the served API."""
        return cast("Store", self._given_factory).served_notes()

    @cached_property
    def worker_notes(self) -> WorkerNotes:
        """Return the notes of workers."""
        return cast("Store", self._given_factory).worker_notes()

    def as_actor(self, name: str, *, reserved: bool = False) -> Journal:
        """Return a journal of the same database whose events carry this actor; `reserved` allows a name that a server gives.

        Raises:
            InvalidInput: the name is not valid, or reserved.
        """
        from .actors import acting

        return acting(self, name, reserved=reserved)

    def close(self) -> None:
        if self.copied is None:
            super().close()

    def construct_env(self, name: str, env: object = None) -> Environment:
        """Return an empty environment, so that the process's environment cannot change how events are stored."""
        return Environment(name, {})

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        return self._given_factory

    def construct_transcoder(self) -> Transcoder:
        return PlainJSON()

    def construct_mapper(self) -> Mapper[str]:
        return EventMapper(self.construct_transcoder())

    def history(self, key: str, after: int = 0, upto: int | None = None) -> Iterator[e.Event]:
        """Return a conversation's events with versions greater than `after` and up to `upto`, oldest first.

        Raises:
            InvalidInput: `after` is below 0.
        """
        if after < 0:
            raise InvalidInput(
                f"{after} is no version of a conversation: versions count from 1; pass the one after which to begin, or 0 for all"
            )
        stream = stream_of(key)
        if after and upto is not None:  # versions of this conversation
            return map(restore, self._log.stream_rows(stream, after, upto, changed=refuse_changed))
        return map(restore, self._rows_of(stream, after, upto))

    def _rows_of(self, stream: str, after: int, upto: int | None, first: bool = False) -> Iterator[Row]:
        """Yield the rows of a conversation, or only the `first` one; nothing of the deleted ones that had its key."""
        head = self._log.select_head(stream, refuse_changed)
        if head is not None:
            if head.has_generations:
                from .generations import floor_of

                after = max(after, floor_of(head))
            end = after + 1 if first else head.version if upto is None else upto
            yield from self._log.stream_rows(stream, after, min(end, head.version), changed=refuse_changed)

    def newest(self, key: str, upto: int | None = None) -> Iterator[e.Event]:
        """Yield a conversation's events, newest first: a few, then twice as many, and so on, for a reader that stops.

        `upto` is the version to begin with, by default the newest.
        """
        return takewhile(lambda event: type(event) is not e.ConversationDeleted, self._newest(stream_of(key), upto))

    def _newest(self, stream: str, upto: int | None = None) -> Iterator[e.Event]:
        page = PAGE_NEWEST_FIRST
        head = self._log.select_head(stream, refuse_changed) if upto is None else None
        upto = upto or (head.version if head is not None else 0)
        while upto > 0:
            after = max(upto - page, 0)
            yield from map(
                restore,
                self._log.stream_rows(stream, after, upto, newest_first=True, page=page, changed=refuse_changed),
            )
            upto, page = after, min(page * 2, PAGE_NEWEST_MAX)

    def parent(self, key: str) -> tuple[str, int] | None:
        """Return the key and version of the conversation that this one was forked from, or None if it is not a fork."""
        first = self.start_of(key)
        if first is None or first.parent_key is None:
            return None
        return first.parent_key, first.parent_version or 0

    def start_of(self, key: str) -> e.ConversationStarted | None:
        """Return the event with which a conversation started; None if it does not exist."""
        first = next(map(restore, self._rows_of(stream_of(key), 0, None, first=True)), None)
        return first if isinstance(first, e.ConversationStarted) else None

    def keep(self, message: Message, known: Collection[str] = ()) -> Message:
        """Store the data inside a message as blobs and return the message with their addresses.

        Those at addresses that are `known` to be in the conversation already are not stored again.

        To be called before the message is journaled: a blob is there before the event that refers to it. A message without
        data is returned unchanged.

        Raises:
            InvalidMessage: a part gives another size than its bytes have.
            BlobTooLarge: an attachment is too large.
            StoreError: it cannot be stored.
        """
        if not isinstance(message.content, tuple) and not message.native_json:
            return message
        from ..conversation.attachments import with_blobs
        from .blobs import unless_known

        add = unless_known(self.blobs.add, known) if known else self.blobs.add
        return with_blobs(message, add, self.blobs.size)

    def read_blob(self, address: str) -> Iterator[bytes]:
        """Return the bytes of an attachment, chunk by chunk; see `BlobStore.read`."""
        return self.blobs.read(address)

    def memory(
        self,
        key: str,
        at: int | datetime | None = None,
        last: int | None = None,
        tokens: int | None = None,
        leaf: int | None = None,
        full: bool = False,
    ) -> Memory:
        """Return the memory of a conversation (what a model sees), as of a version or time: all of it or a window.

        The memory is empty if the conversation does not exist. Its path ends with the message of version `leaf`, by default
        with the selected one. With `full`, no summary stands in place of messages.

        Raises:
            InvalidInput: a bound below 1.
        """
        memory = _recall()(self._log, stream_of(key), at, last, tokens, leaf, full)
        vars(memory)["read_blob"] = self.read_blob
        return memory

    def places(self, key: str) -> Places:
        """Return where the messages of a conversation are, as of now.

        Raises:
            ConversationNotFound: no conversation has this key.
        """
        from .places import Places

        head = self._log.select_head(stream_of(key), refuse_changed)
        if head is None or head.state.startswith(DELETED):
            raise _not_found(key)
        return Places(self._log, head, key)

    def lookups(self, key: str) -> Lookups | None:
        """Return what finds events and messages of a conversation as of now; None if there is no such conversation."""
        from .lookups import Lookups

        head = self._log.select_head(stream_of(key), refuse_changed)
        return None if head is None or head.state.startswith(DELETED) else Lookups(self._log, head)

    def number_of(self, key: str) -> int | None:
        """Return the place of a conversation in the order in which they started; None if there was none with this key."""
        return self._log.number_of(stream_of(key))

    def addressed(self, addresses: Iterable[str]) -> dict[str, list[tuple[str, int]]]:
        """Return the streams and versions of the events that others know under these addresses, by address."""
        found: dict[str, list[tuple[str, int]]] = {}
        wanted = {indexed(each): each for each in addresses if each != IMPORTED_RUNS}
        for address, stream, version in self._log.addressed([*wanted]) if wanted else ():
            found.setdefault(wanted[address], []).append((stream, version))
        return found

    def version_to_retract(self, key: str, message_id: str) -> int | None:
        """Return the version of a message that is hidden on no branch; None if there is none."""
        from .places import version_to_retract

        return version_to_retract(self._log, stream_of(key), message_id)

    def end_of_exchange(self, key: str, exchange: OpenExchange) -> Parent:
        """Return the newest message of an exchange, which its next message follows if it is aside."""
        from .places import end_of_exchange

        return end_of_exchange(self, key, exchange)

    def in_memory(self, key: str, version: int, message_id: str) -> tuple[bool, bool]:
        """Return whether the memory of a conversation shows the message of a version, and whether it is on its selected branch.

        A message for which a summary stands is not shown.
        """
        from .places import in_memory

        return in_memory(self._log, stream_of(key), version, message_id)

    def memory_later(self, conversation: Conversation) -> Memory:
        """Return the whole memory of a conversation as it was loaded, read only when its messages are used.

        Its hash is known.
        """
        from ..memory import Memory

        key, version = key_of(conversation.id), conversation.version
        path = conversation.state.path_hash or self.path_hash(key, version)
        later = Memory.read_later(lambda: self.memory(key, version), version, path)
        vars(later)["read_blob"] = self.read_blob
        return later.knowing(conversation.state.has_parts)

    def path_hash(self, key: str, version: int, leaf: int | None = None) -> str:
        """Return the hash of the whole memory of a conversation as of a version, from its newest checkpoint.

        The path of memory ends with the message of version `leaf`, by default with the selected one.
        """
        from .newest import path_hash

        return path_hash(self._log, stream_of(key), version, leaf) or EMPTY_PATH

    def path_hash_nearby(self, key: str, version: int, leaf: int | None, most: int) -> str | None:
        """Return the same; None if a path with branches has no checkpoint among its newest `most` messages."""
        from .newest import path_hash

        return path_hash(self._log, stream_of(key), version, leaf, most)

    def exchanges(self, key: str, after: int = 0) -> Exchanges:
        """Return the exchanges of a conversation with the outcome of every run that started after a version."""
        from ..conversation import fold_exchanges

        return fold_exchanges(self.history(key, after=after))

    def run(self, run_id: str) -> tuple[RunRecord, Exchanges]:
        """Return a run, by its id or an unambiguous ending of it, and its exchange.

        Raises:
            RunNotFound: no run, or more than one, has this id or ending.
        """
        found = self.views.find_runs(run_id) if len(run_id) >= RUN_ENDING_CHARS_MIN else []
        exact = [each for each in found if each[1] == run_id] or found
        if len(exact) != 1:
            problem = f"{len(exact)} runs end in {run_id!r}" if exact else f"no run {run_id!r}"
            raise RunNotFound(f"{problem}: list failed runs with: threadledger audit failures")
        ((_, whole_id),) = exact
        folded = self.views.exchange(whole_id)
        if whole_id not in folded.runs:
            raise RunNotFound(f"the view of runs is damaged at {whole_id!r}: run threadledger db rebuild-views audit")
        return folded.runs[whole_id], folded

    def keyed(self, key: str, idempotency_key: str) -> e.Event | None:
        """Return the event of a conversation that was stored with an idempotency key, or None."""
        return self.keyed_in(stream_of(key), idempotency_key)

    def keyed_in(self, stream: str, idempotency_key: str) -> e.Event | None:
        """Return the event of any stream that was stored with an idempotency key, or None."""
        row = self._log.select_keyed(stream, indexed(idempotency_key))
        return restore(row) if row is not None else None

    def load(self, key: str) -> Conversation | None:
        """Load a conversation for a decision by reading one row, or return None if it does not exist."""
        from ..conversation import Conversation

        stream = stream_of(key)
        head = self._log.select_head(stream)
        state = self.state_of(head) if head is not None else None
        return Conversation(stream, state, self.actor) if state is not None and not state.deleted else None

    def require(self, key: str) -> Conversation:
        """Load a conversation that must exist.

        Raises:
            ConversationNotFound: no conversation has this key.
        """
        conversation = self.load(key)
        if conversation is None:
            raise _not_found(key)
        return conversation

    def is_open(self, key: str, run_id: str) -> bool:
        """Return whether a run is still open."""
        conversation = self.load(key)
        state = conversation.state if conversation is not None else ConversationState()
        return run_id in state.open_runs or run_id in state.shadow_runs

    def commit(
        self, key: str, decide: Callable[[Conversation], T], create: bool = False, also: Also | None = None
    ) -> T:
        """Load a conversation, decide, and store the result in one step that is serialized with other writers.

        `decide` may be called again with a newer state, so it must have no side effects. `also` is called after it, and
        writes notes in the same transaction.

        Raises:
            ConversationNotFound: no conversation has this key, and `create` is false.
            ConversationChanged: other writers changed the conversation during all `DECIDE_ATTEMPTS_MAX` attempts.
            ThreadledgerError: raised by `decide`; nothing was written.
        """
        kind, stream = self._conversation_class, stream_of(key)
        ends: list[ConversationState] = []
        results: list[T] = []
        decided: list[e.Event] = []
        if self.budgets is not None:
            from .budgets import noting

            decide, also = noting(self.budgets, decide, also, decided)
        if self.deferring is not None:
            from .deferring import deferred

            also = deferred(self.deferring, key, self.actor, decided, ends, also)

        def decide_append(head: StreamHead | None) -> Appending:
            state = self.state_of(head) if head is not None else None
            is_new = state is None or state.deleted
            if is_new and not create:
                raise _not_found(key)
            if state is None or is_new:
                conversation = kind.start(key, actor=self.actor, deleted=state)
            else:
                conversation = kind(stream, state, self.actor)
            if head is not None and state is not None and state.fork_version is not None:
                from .places import far_end

                conversation.far_end = far_end(self._log, head, state)
            results[:] = [decide(conversation)]
            decided[:] = conversation.pending
            ends[:] = [conversation.state]
            return self._appending(conversation, conversation.state)  # which is not changed any more

        try:
            self._log.append(stream, decide_append, also)
        except IntegrityError as error:
            raise ConversationChanged(
                f"{key!r} is constantly changed by other writers: nothing was written; try again"
            ) from error
        self._report(decided)
        return results[0]

    @cached_property
    def _conversation_class(self) -> type[Conversation]:
        from ..conversation import Conversation

        return Conversation

    def _report(self, stored: Sequence[e.Event]) -> None:
        """Notify observers of a commit, unless it concerns no run, or would only be logged below the logger's level."""
        kinds = {type(event) for event in stored}
        if WATCHED.isdisjoint(kinds):
            return
        only_logs = len(self.watch.observers) == 1 and type(self.watch.observers[0]) is RunLog
        if not only_logs or e.RunFailed in kinds or run_logger.isEnabledFor(logging.INFO):
            self.watch.saw(stored)

    def store(self, *conversations: Conversation) -> None:
        """Store the pending events of these conversations in one transaction.

        Raises:
            ConversationChanged: another writer has changed one of them; load it again and decide again.
        """
        decided = [self._appending(conversation) for conversation in conversations if conversation.pending]
        if decided:
            self._insert(
                Appending(
                    [row for each in decided for row in each.rows], [head for each in decided for head in each.heads]
                )
            )

    def close_overdue_runs(self) -> list[str]:
        """Close runs past their deadline that a crash left open, in all conversations, and return their ids."""
        closed: list[str] = []
        with suppress(DatabaseReadOnly):  # a process that may write closes them
            for head in self._log.select_heads(CONVERSATION, overdue_at=to_iso(now())):
                closed += self.commit(key_of(head.stream), lambda conversation: conversation.close_overdue_runs())
        return closed

    def open_runs(self) -> list[tuple[str, str, OpenRun]]:
        """Return (key, run id, run) of every open run in all conversations, shadow runs included."""
        waiting = self._log.select_heads(CONVERSATION, overdue_at=NEVER)
        states = ((key_of(head.stream), self.state_of(head)) for head in waiting)
        return [(key, *run) for key, state in states for run in (*state.open_runs.items(), *state.shadow_runs.items())]

    def define_profile(self, profile: Profile) -> str:
        """Store a profile unless it is already stored, and return its hash.

        Raises:
            InvalidProfile: it is new, and a tool holds a secret.
        """
        profile_hash = profile.hash
        stream = PROFILE + profile_hash
        if profile_hash not in self._profiles and not self.has(stream):
            profile.check()
            defined = e.ProfileDefined(
                originator_id=stream,
                originator_version=1,
                timestamp=now(),
                event_id=new_id(),
                actor=self.actor,
                profile_hash=profile_hash,
                name=profile.name,
                instructions=profile.instructions,
                model=profile.model,
                tools=profile.tools,
                settings=profile.settings,
            )
            with suppress(ConversationChanged):  # another process stored the same content at the same moment
                self.put(defined)
        self._profiles.add(profile_hash)
        return profile_hash

    def profile(self, profile_hash: str | None) -> Profile | None:
        """Return the profile with this hash; None if no such profile was defined. It never changes, so the last ones are kept."""
        if not profile_hash:
            return None
        known = self._read_profiles.get(profile_hash)
        if known is not None:
            return known
        from ..conversation import Profile

        for event in self.stream(PROFILE + profile_hash):
            if isinstance(event, e.ProfileDefined):
                tools, settings = (json.dumps(each, ensure_ascii=False) for each in (event.tools, event.settings))
                profile = Profile(event.name, event.instructions, event.model, tools, settings_json=settings)
                if len(self._read_profiles) >= PROFILES_KEPT_MAX:
                    self._read_profiles.clear()
                self._read_profiles[profile_hash] = profile
                return profile
        return None

    def put(self, event: e.Event) -> None:
        """Store the first event of a stream that needs no decisions.

        Raises:
            ConversationChanged: the stream already exists.
        """
        head = StreamHead(event.originator_id, event.originator_version, STATE_SCHEMA, "{}")
        self._insert(Appending([self._mapper.to_stored_event(event)], [head]))

    def append(
        self,
        stream: str,
        decide: Callable[[StreamHead | None], tuple[e.Event, StreamHead] | None],
        also: Also | None = None,
    ) -> None:
        """Append one event, or none, to a stream that is not a conversation, together with its new head.

        `decide` may be called again with a newer head; for `also`, see `commit`.
        """

        def decide_several(head: StreamHead | None) -> tuple[Sequence[e.Event], StreamHead] | None:
            decided = decide(head)
            return ([decided[0]], decided[1]) if decided else None

        self.append_several(stream, decide_several, also)

    def append_several(
        self,
        stream: str,
        decide: Callable[[StreamHead | None], tuple[Sequence[e.Event], StreamHead] | None],
        also: Also | None = None,
    ) -> None:
        """Append events to a stream that is not a conversation, in one commit; see `append`."""

        def decide_append(head: StreamHead | None) -> Appending:
            decided = decide(head)
            if decided is None:
                return Appending()
            events, newer = decided
            if self.actor is not None:
                events = [replace(each, actor=self.actor) for each in events]
            return Appending([self._mapper.to_stored_event(each) for each in events], [newer])

        self._log.append(stream, decide_append, also)

    def stream(self, stream: str, topics: Sequence[str] = ()) -> Iterator[e.Event]:
        """Return the events of any stream, oldest first."""
        return map(restore, self._log.stream_rows(stream, topics=topics, changed=refuse_changed))

    def newest_of(self, stream: str) -> e.Event | None:
        """Return the newest event of any stream, or None; no other one is read."""
        head = self._log.select_head(stream, refuse_changed)
        rows = self._log.stream_rows(stream, head.version - 1, head.version, changed=refuse_changed) if head else ()
        return next(map(restore, rows), None)

    def threads_ever_linked(self, key: str, upto: int | None = None) -> dict[str, list[str]]:
        """Return the ids of all threads that were linked to the conversation of a version, by kind, oldest first.

        Without a version, it is the newest one of the key. All rows of its stream are looked through.
        """
        from .threads import threads_ever_linked

        return threads_ever_linked(self._log, stream_of(key), upto)

    def head(self, stream: str) -> StreamHead | None:
        """Return the newest state of any stream."""
        return self._log.select_head(stream)

    def heads(self, prefix: str) -> Sequence[StreamHead]:
        """Return the newest states of the streams whose names start with `prefix`."""
        return self._log.select_heads(prefix)

    def logged(
        self, after: int = 0, topics: Sequence[str] = (), upto: int | None = None
    ) -> Iterator[tuple[int, e.Event]]:
        """Return (position, event) pairs of the log, from the position after `after` up to `upto` or its end."""
        return ((row[0], restore(row)) for row in self._log.rows(after, upto, topics, refuse_changed))

    def pages_after(
        self, after: int | str = 0, topics: Sequence[str] = (), key: str | None = None, leaves: bool = True
    ) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
        """Return the rows of the log, or of one conversation, page by page; see `EventLog.pages_after`."""
        return self._log.pages_after(after, topics, stream_of(key) if key is not None else None, leaves=leaves)

    def followed(self, after: int | str = 0, topics: Sequence[str] = ()) -> Iterator[tuple[int, e.Event, str]]:
        """Yield (position, event, cursor) of the whole log, then wait for new events forever."""
        with self.following(after, topics) as events:
            yield from events

    @contextmanager
    def following(
        self, after: int | str = 0, topics: Sequence[str] = ()
    ) -> Iterator[Iterator[tuple[int, e.Event, str]]]:
        """Follow the log like `followed` until the block ends, even if another thread waits for the next event."""
        with self._log.subscribe(after, topics) as subscription:
            yield ((each.id, self._mapper.to_domain_event(each), each.cursor) for each in subscription)

    def last_cursor(self) -> str:
        """Return the cursor of the last event of the log."""
        return self._log.last_cursor()

    def wait_until_durable(self) -> None:
        """Wait until every event that was read before is durable; see `EventLog.wait_until_durable`."""
        self._log.wait_until_durable()

    def keys(self) -> list[str]:
        """Return the keys of all conversations, sorted."""
        return sorted(self.keys_in_order())

    def keys_in_order(self) -> Iterator[str]:
        """Yield the keys of all conversations, oldest first, read page by page."""
        return (key_of(stream) for stream, _ in self._log.select_versions(CONVERSATION, DELETED))

    def versions(self, limit: int | None = None) -> Iterator[tuple[str, int]]:
        """Yield (key, version) pairs of all conversations, oldest first, read page by page; of the first `limit` by key."""
        found = (
            self._log.select_versions(CONVERSATION, DELETED)
            if limit is None
            else self._log.select_first(CONVERSATION, limit, DELETED)
        )
        return ((key_of(stream), version) for stream, version in found)

    def states_of(self, keys: Iterable[str]) -> Iterator[tuple[str, ConversationState]]:
        """Yield (key, state) of those of these conversations that exist, in their order, read page by page."""
        return ((key_of(head.stream), self.state_of(head)) for head in self.heads_of(keys))

    def heads_of(self, keys: Iterable[str]) -> Iterator[StreamHead]:
        """Yield the heads of those of these conversations that exist, in their order, read page by page."""
        remaining = iter(keys)
        while streams := [stream_of(key) for key in islice(remaining, PAGE_STATES)]:
            heads = (head for head in self._log.heads_of(streams) if not head.state.startswith(DELETED))
            found = {head.stream: head for head in heads}
            yield from (found[stream] for stream in streams if stream in found)

    def used_keys(self, keys: Iterable[str]) -> dict[str, bool]:
        """Return those of these keys that were used, each with whether a conversation with it was deleted."""
        return {key: head.has_generations for key, head in self.used_heads(keys).items()}

    def used_heads(self, keys: Iterable[str]) -> dict[str, StreamHead]:
        """Return the heads of those of these keys that were used, also for conversations that were deleted."""
        remaining, used = iter(keys), dict[str, StreamHead]()
        while streams := [stream_of(key) for key in islice(remaining, PAGE_STATES)]:
            used |= {key_of(head.stream): head for head in self._log.heads_of(streams)}
        return used

    def deleted_version(self, key: str) -> int:
        """Return the version up to which a key belongs to deleted conversations; 0 if there are none."""
        from .generations import floor_of

        head = self._log.select_head(stream_of(key))
        return floor_of(head) if head is not None else 0

    def deleted_state(self, key: str) -> ConversationState | None:
        """Return the state of a deleted conversation, with which another one of its key starts; None if it was not deleted."""
        head = self._log.select_head(stream_of(key))
        state = self.state_of(head) if head is not None else None
        return state if state is not None and state.deleted else None

    def fingerprints(self, keys: Collection[str]) -> dict[str, dict[str, bytes | None]]:
        """Return the fingerprints of the messages of these conversations that have an idempotency key, by this key.

        The rows are not compared with their leaf hashes, so this only shows that a message equals another one.
        """
        found: dict[str, dict[str, bytes | None]] = {stream_of(key): {} for key in keys}
        for stream, idempotency_key, fingerprint in self._log.fingerprints([*found]):
            found[stream][idempotency_key] = fingerprint
        return {key_of(stream): each for stream, each in found.items()}

    def status(self) -> dict[str, Any]:
        """Return facts about the database; see `EventLog.status` and `Views.count`."""
        facts = list(self._log.status().items())
        place = [name for name, _ in facts].index("events") + 1
        return dict([*facts[:place], ("conversations", self.views.count()), *facts[place:]])

    def has(self, stream: str) -> bool:
        """Return whether a stream has events."""
        return self._log.select_head(stream) is not None

    def _appending(self, conversation: Conversation, decoded: ConversationState | None = None) -> Appending:
        """Return a conversation's pending events as rows, together with its new head."""
        pending = conversation.collect_events()
        if not pending:
            return Appending()
        state = conversation.state
        due_at = state.next_deadline
        head = StreamHead(conversation.id, state.version, STATE_SCHEMA, state.as_json(), due_at, decoded)
        rows = [self._mapper.to_stored_event(event) for event in pending]
        if state.generation is not None:
            rows = [dataclasses.replace(row, generation=state.generation) for row in rows]
        return Appending(rows, [head])

    def _start_of(self, stream: str, run_id: str) -> e.RunStarted | None:
        starts = (event for event in self._newest(stream) if isinstance(event, e.RunStarted))
        return next((event for event in starts if event.run_id == run_id), None)

    def _question_of(self, run: SeenRun) -> str | None:
        """Return the newest question of a run's exchange in the memory that the run used."""
        from ..conversation.messages import Role

        shown: Sequence[JournaledMessage] = ()
        with suppress(CorruptEvent):  # the run is observed all the same, without its question
            shown = self.memory(run.key, run.memory_version).messages
        asked = (each for each in reversed(shown) if each.exchange_id == run.exchange_id)
        return next((each.message.text for each in asked if each.message.role is Role.USER), None)

    def _insert(self, appending: Appending) -> None:
        try:
            self.recorder.insert_events(appending.rows, heads=appending.heads)
        except IntegrityError as error:
            keys = ", ".join(repr(key_of(head.stream)) for head in appending.heads[:3])
            raise ConversationChanged(
                f"{keys} changed in the meantime: nothing was written; load it again and retry"
            ) from error

    def uncheck(self, report: OnChange) -> None:
        """Call `report` for each event that was changed or is missing from now on, instead of refusing it."""
        from .forensics import UncheckedLog

        self._unchecked = cast("EventLog", UncheckedLog(self._log, report))

    @property
    def _log(self) -> EventLog:
        return self._unchecked or cast("EventLog", self.recorder)

    @property
    def _mapper(self) -> EventMapper:
        return cast("EventMapper", self.mapper)

    def state_of(self, head: StreamHead) -> ConversationState:
        """Return the state of a conversation: that of its head, or one folded from its events if it is unusable."""
        if isinstance(head.decoded, ConversationState):
            return head.decoded.copy()
        if head.state_schema == STATE_SCHEMA:
            with suppress(ValueError, TypeError, AttributeError, LookupError):  # damaged: it follows from the events
                state = ConversationState.from_json(head.state)
                if state.key in {"", key_of(head.stream)}:
                    return state
        state = ConversationState()
        for row in self._log.stream_rows(head.stream):
            evolve(state, restore(row))
        return state


def _not_found(key: str) -> ConversationNotFound:
    return ConversationNotFound(f"no conversation {key!r}: list the conversations with: threadledger list")
