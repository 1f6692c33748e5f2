"""Keep vector stores: each has its own stream of events, which says what it is called and which files it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from ..conversation import events as e
from ..conversation.files import FileCounts, FileSearch, FoundChunk, StoreFile, store_stream
from ..conversation.listing import ListPage
from ..errors import InvalidInput
from ..ids import from_iso, new_id, now, to_iso
from ..journal import StreamHead

if TYPE_CHECKING:
    from ..journal import Also, Journal
    from ..journal.file_lists import FileLists

STORE_STATE_SCHEMA = 1
"""Schema number of the states of these streams."""

EVENT_TEXT_BYTES_MAX = 4 * 1024 * 1024
"""Size of the texts of the files in one event, in bytes, if it has several: they are read together when they are indexed."""

USE_NOTED_SECONDS = 3_600.0
"""Time after which another use of a vector store that expires is noted, in seconds."""


class _State(msgspec.Struct, omit_defaults=True):
    """Hold the state of a stream: what its newest events say of the store, without its files."""

    created: str = ""
    name: str = ""
    description: str | None = None
    metadata: dict[str, Any] = {}
    expires_days: int | None = None
    used: str = ""
    deleted: bool = False


@dataclass(frozen=True)
class VectorStoreRecord:
    """Describe a vector store."""

    store_id: str
    tenant: str = ""
    name: str = ""
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_days: int | None = None
    created_at: datetime | None = None
    """When it was created; None before that."""
    used_at: datetime | None = None
    """When it was changed or searched last, to the hour."""

    @property
    def stream(self) -> str:
        """Return the name of its stream."""
        return store_stream(self.tenant, self.store_id)

    @property
    def expires_at(self) -> datetime | None:
        """Return when it can no longer be searched; None if it does not expire."""
        if self.expires_days is None or self.used_at is None:
            return None
        return self.used_at + timedelta(days=self.expires_days)

    @property
    def is_expired(self) -> bool:
        """Return whether it can no longer be searched."""
        return self.expires_at is not None and self.expires_at <= now()


Change = Callable[[VectorStoreRecord], VectorStoreRecord]
"""Function that returns a vector store with other values. It may be called again with a newer state."""

_Facts = tuple[type[e.Event], dict[str, Any]]


class VectorStores:
    """Create, change, delete, list and search vector stores; each belongs to one tenant, or to none."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def lists(self) -> FileLists:
        """Return the lists of the stores and of their files."""
        return self._journal.views.files

    def create(
        self,
        record: VectorStoreRecord,
        files: Sequence[StoreFile] = (),
        idempotency_key: str | None = None,
        also: Also | None = None,
    ) -> VectorStoreRecord:
        """Store a new vector store with files and return it; one that exists with this id is returned as it is.

        `also` writes notes in the same transaction.
        """

        def decide(state: _State | None) -> Sequence[_Facts]:
            if state is not None:
                return ()
            return [(e.VectorStoreDefined, _definition(record, idempotency_key)), *_additions(record, files)]

        self._decide(record.tenant, record.store_id, decide, also)
        return self._found(record.tenant, record.store_id, deleted=True) or record

    def modify(
        self, tenant: str, store_id: str, change: Change, idempotency_key: str | None = None, also: Also | None = None
    ) -> VectorStoreRecord | None:
        """Change a vector store and return it; None if there is none. What changes nothing is not stored."""
        is_there = False

        def decide(state: _State | None) -> Sequence[_Facts]:
            nonlocal is_there
            is_there = state is not None and not state.deleted
            if state is None or not is_there:
                return ()
            record = _record(tenant, store_id, state)
            changed = replace(change(record), tenant=tenant, store_id=store_id)
            if _content(changed) == _content(record):
                return ()
            return [(e.VectorStoreDefined, _definition(changed, idempotency_key))]

        self._decide(tenant, store_id, decide, also)
        return self.get(tenant, store_id) if is_there else None

    def delete(self, tenant: str, store_id: str, also: Also | None = None) -> bool:
        """Delete a vector store and return whether there was one; its files remain."""
        return self._change(tenant, store_id, [(e.VectorStoreDeleted, {})], also)

    def add(
        self,
        record: VectorStoreRecord,
        files: Sequence[StoreFile],
        *,
        batch_id: str | None = None,
        idempotency_key: str | None = None,
        also: Also | None = None,
    ) -> bool:
        """Add files to a vector store in one commit; return False if it was deleted.

        One that it has already gets the new attributes and passages. With the key of an earlier call, nothing is stored.
        """
        if idempotency_key is not None and self._journal.keyed_in(record.stream, idempotency_key) is not None:
            return True
        added = _additions(record, files, batch_id, idempotency_key)
        return self._change(record.tenant, record.store_id, added, also)

    def describe(
        self,
        record: VectorStoreRecord,
        file_id: str,
        attributes: Mapping[str, Any],
        also: Also | None = None,
    ) -> bool:
        """Replace the attributes of a file of a vector store; return False if the store was deleted."""
        facts = {"file_id": file_id, "attributes": dict(attributes)}
        return self._change(record.tenant, record.store_id, [(e.VectorStoreFileDescribed, facts)], also)

    def remove(self, record: VectorStoreRecord, file_id: str, also: Also | None = None) -> bool:
        """Remove a file from a vector store, if it has it; return False if the store was deleted."""
        return self._change(record.tenant, record.store_id, [(e.VectorStoreFileRemoved, {"file_id": file_id})], also)

    def get(self, tenant: str, store_id: str) -> VectorStoreRecord | None:
        """Return a vector store of a tenant; None for one that is unknown or was deleted. One row is read."""
        return self._found(tenant, store_id)

    def page(
        self,
        tenant: str,
        page: ListPage,
    ) -> tuple[list[VectorStoreRecord], bool]:
        """Return a page of the vector stores of a tenant, and whether there are more; only its own rows are read."""
        found, has_more = page.of(self.lists.stores(tenant, page))
        states = ((store_id, msgspec.json.decode(state, type=_State)) for store_id, state in found)
        return [_record(tenant, store_id, state) for store_id, state in states], has_more

    def file(self, record: VectorStoreRecord, file_id: str) -> StoreFile | None:
        """Return a file of a vector store; None if it has no such file, or one that has expired."""
        found = self.lists.store_file(record.stream, file_id)
        is_expired = found is not None and found.expires_at is not None and found.expires_at <= to_iso(now())
        return None if is_expired else found

    def counts(self, record: VectorStoreRecord) -> FileCounts:
        """Count the files of a vector store."""
        return self.lists.counts(record.stream)

    def search(self, records: Sequence[VectorStoreRecord], wanted: FileSearch) -> list[FoundChunk]:
        """Search vector stores, and note the use of those that expire; expired ones are not searched."""
        searched = [each for each in records if not each.is_expired]
        for each in searched:
            self._note_use(each)
        if not searched:
            return []
        return self.lists.search(replace(wanted, stores=[each.stream for each in searched], at=to_iso(now())))

    def _note_use(self, record: VectorStoreRecord) -> None:
        is_recent = record.used_at is not None and (now() - record.used_at).total_seconds() < USE_NOTED_SECONDS
        if record.expires_days is not None and not is_recent:
            self._change(record.tenant, record.store_id, [(e.VectorStoreUsed, {})], None)

    def _found(self, tenant: str, store_id: str, deleted: bool = False) -> VectorStoreRecord | None:
        with suppress(InvalidInput):  # no store can have such an id
            head = self._journal.head(store_stream(tenant, store_id))
            state = _state_of(head)
            if state is not None and (deleted or not state.deleted):
                return _record(tenant, store_id, state)
        return None

    def _change(self, tenant: str, store_id: str, facts: Sequence[_Facts], also: Also | None) -> bool:
        """Append events to the stream of a vector store; return False, with nothing noted, if there is no such store."""
        is_there = self._found(tenant, store_id) is not None
        if not is_there:
            return False

        def decide(state: _State | None) -> Sequence[_Facts]:
            nonlocal is_there
            is_there = state is not None and not state.deleted
            return facts if is_there else ()

        self._decide(tenant, store_id, decide, also)
        return is_there

    def _decide(
        self, tenant: str, store_id: str, decide: Callable[[_State | None], Sequence[_Facts]], also: Also | None
    ) -> None:
        try:
            stream = store_stream(tenant, store_id)
        except InvalidInput:
            return

        def decide_several(head: StreamHead | None) -> tuple[Sequence[e.Event], StreamHead] | None:
            state, version = _state_of(head), head.version if head is not None else 0
            decided = decide(state)
            if not decided:
                return None
            state = state or _State()
            events = []
            at = max(now(), from_iso(state.used)) if state.used else now()
            for number, (kind, facts) in enumerate(decided, version + 1):
                event = kind(
                    originator_id=stream,
                    originator_version=number,
                    timestamp=at,
                    event_id=new_id(),
                    **{"vector_store_id": store_id, **facts},
                )
                events.append(event)
                _evolve(state, event)
            newer = msgspec.json.encode(state).decode()
            return events, StreamHead(stream, version + len(events), STORE_STATE_SCHEMA, newer)

        self._journal.append_several(stream, decide_several, also)


def _evolve(state: _State, event: e.Event) -> None:
    moment = to_iso(event.timestamp)
    state.created, state.used = state.created or moment, moment
    match event:
        case e.VectorStoreDefined():
            state.name, state.description, state.metadata = event.name, event.description, event.metadata
            state.expires_days = event.expires_days
        case e.VectorStoreDeleted():
            state.deleted = True
        case _:
            pass


def _state_of(head: StreamHead | None) -> _State | None:
    return msgspec.json.decode(head.state, type=_State) if head is not None else None


def _record(tenant: str, store_id: str, state: _State) -> VectorStoreRecord:
    return VectorStoreRecord(
        store_id,
        tenant,
        state.name,
        state.description,
        state.metadata,
        state.expires_days,
        from_iso(state.created),
        from_iso(state.used),
    )


def _definition(record: VectorStoreRecord, idempotency_key: str | None) -> dict[str, Any]:
    return {
        "tenant": record.tenant,
        "name": record.name,
        "description": record.description,
        "metadata": dict(record.metadata),
        "expires_days": record.expires_days,
        "idempotency_key": idempotency_key,
    }


def _content(record: VectorStoreRecord) -> tuple[Any, ...]:
    return record.name, record.description, dict(record.metadata), record.expires_days


def _additions(
    record: VectorStoreRecord,
    files: Sequence[StoreFile],
    batch_id: str | None = None,
    idempotency_key: str | None = None,
) -> list[_Facts]:
    """Return the events that add files; the texts of each event are at most `EVENT_TEXT_BYTES_MAX`, or that of one file."""
    groups: list[list[StoreFile]] = [[]] if batch_id is not None else []
    size = 0
    for each in files:
        if not groups or (groups[-1] and size + each.text_bytes > EVENT_TEXT_BYTES_MAX):
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += each.text_bytes
    made: list[_Facts] = []
    for group in groups:
        facts = {"tenant": record.tenant, "files": [each.as_json() for each in group], "batch_id": batch_id}
        made.append((e.VectorStoreFilesAdded, facts | {"idempotency_key": idempotency_key if not made else None}))
    return made
