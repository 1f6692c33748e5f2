"""Keep assistants: each has its own stream of events, of which the newest says all that it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace as with_fields

from ..conversation import STATE_SCHEMA, Profile
from ..conversation import events as e
from ..conversation.assistants import DefinedAssistant, assistant_stream, created_at
from ..conversation.listing import ListPage, ListPlace
from ..errors import Conflict, IdempotencyConflict, InvalidInput
from ..ids import new_id, now, to_iso
from ..journal import StreamHead
from ..limits import DECIDE_ATTEMPTS_MAX

if TYPE_CHECKING:
    from ..journal import Also, Journal

Stored = TypeVar("Stored", e.AssistantDefined, e.AssistantDeleted)


@dataclass(frozen=True)
class AssistantRecord:
    """Hold an assistant as one of its events defines it."""

    assistant_id: str
    model: str
    """The model that requests name."""
    profile: Profile = field(default_factory=Profile)
    """Its name, instructions, functions and settings."""
    tenant: str = ""
    created_at: datetime | None = None
    """When it was created; None for now."""
    description: str | None = None
    tool_resources: Mapping[str, Any] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    """Types of tools that it was to have and that the server does not run."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What an import said; see `AssistantDefined.origin`."""
    version: int = 0
    """Version of its stream; 0 before it is stored."""
    changed_at: datetime | None = None
    """When it was stored."""


Change = Callable[[AssistantRecord], AssistantRecord]
"""Function that returns an assistant with other values. It may be called again with a newer state."""


class AssistantStore:
    """Create, change, delete and list assistants; each belongs to one tenant, or to none."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def create(
        self, record: AssistantRecord, idempotency_key: str | None = None, also: Also | None = None
    ) -> AssistantRecord:
        """Store a new assistant and return it. With the key of an earlier call, return what that one stored.

        `also` writes notes in the same transaction.

        Raises:
            IdempotencyConflict: the key was used for another assistant.
            Conflict: there is an assistant with this id already.
            InvalidInput, InvalidProfile: the id cannot be stored, or a tool holds a secret.
        """
        stream = assistant_stream(record.tenant, record.assistant_id)
        stored = self._store(stream, None, record, idempotency_key, also)
        if stored is not None:
            return stored
        known = self._keyed(stream, idempotency_key)
        if known is None:
            raise Conflict(f"there is an assistant {record.assistant_id!r} already: change it, or choose another id")
        if _content(known) != _content(record):
            raise IdempotencyConflict(
                f"the idempotency key {idempotency_key!r} was used to create another assistant: nothing was written; use a "
                "new key for another request"
            )
        return known

    def modify(
        self,
        tenant: str,
        assistant_id: str,
        change: Change,
        idempotency_key: str | None = None,
        also: Also | None = None,
    ) -> AssistantRecord | None:
        """Change an assistant and return it; None if there is none. Two writers at once do not lose a change.

        With the key of an earlier call, return what that one stored. What changes nothing is not stored.

        Raises:
            Conflict: other writers changed it during every attempt.
            InvalidProfile: a tool holds a secret.
        """
        stream = _stream_in_use(tenant, assistant_id)
        known = self._keyed(stream, idempotency_key) if stream is not None else None
        if stream is None or known is not None:
            return known
        for _ in range(DECIDE_ATTEMPTS_MAX):
            record = self.get(tenant, assistant_id)
            if record is None:
                return None
            changed = replace(change(record), tenant=tenant, assistant_id=assistant_id, created_at=record.created_at)
            if _content(changed) == _content(record):
                return record
            stored = self._store(stream, record, changed, idempotency_key, also)
            if stored is not None:
                return stored
        raise _overtaken(assistant_id)

    def define(self, record: AssistantRecord) -> AssistantRecord:
        """Store an assistant as an import says it is, whether or not there is one with its id, and return it."""
        stream = assistant_stream(record.tenant, record.assistant_id)
        for _ in range(DECIDE_ATTEMPTS_MAX):
            newest = self._journal.newest_of(stream)
            stored = self._store(stream, newest, record)
            if stored is not None:
                return stored
        raise _overtaken(record.assistant_id)

    def delete(self, tenant: str, assistant_id: str, also: Also | None = None) -> bool:
        """Delete an assistant and return whether there was one; runs that used it are unchanged.

        `also` writes notes in the same transaction.
        """
        for _ in range(DECIDE_ATTEMPTS_MAX):
            record = self.get(tenant, assistant_id)
            if record is None:
                return False
            stream = assistant_stream(tenant, assistant_id)
            deleted = e.AssistantDeleted(originator_id=stream, assistant_id=assistant_id)
            if self._append(deleted, record.version, record.changed_at, also) is not None:
                return True
        raise _overtaken(assistant_id)

    def get(self, tenant: str, assistant_id: str) -> AssistantRecord | None:
        """Return an assistant of a tenant; None for one that is unknown or was deleted. Its newest event alone is read."""
        stream = _stream_in_use(tenant, assistant_id)
        newest = self._journal.newest_of(stream) if stream is not None else None
        return self._restored(newest) if isinstance(newest, e.AssistantDefined) else None

    def last_origin(self, tenant: str, assistant_id: str) -> Mapping[str, Any]:
        """Return what the last import said about an assistant, also if it was changed or deleted since; {} if none did."""
        stream, topics = assistant_stream(tenant, assistant_id), (e.AssistantDefined.__name__,)
        said = [each.origin for each in self._journal.stream(stream, topics) if isinstance(each, e.AssistantDefined)]
        return next((origin for origin in reversed(said) if origin), {})

    def place(self, tenant: str, assistant_id: str) -> ListPlace | None:
        """Return the place of an assistant in the list of its tenant; None if the tenant has no such assistant."""
        return self._journal.views.assistant_place(tenant, assistant_id)

    def page(
        self,
        tenant: str,
        page: ListPage,
    ) -> tuple[list[AssistantRecord], bool]:
        """Return a page of the assistants of a tenant, and whether there are more; only its own rows are read."""
        found, has_more = page.of(self._journal.views.assistants(tenant, page))
        return [_record(each) for each in found], has_more

    def _store(
        self,
        stream: str,
        before: e.Event | AssistantRecord | None,
        record: AssistantRecord,
        idempotency_key: str | None = None,
        also: Also | None = None,
    ) -> AssistantRecord | None:
        """Store a definition and return it; None if the newest event of the stream is not the one given as `before`."""
        profile_hash = self._journal.define_profile(record.profile)
        defined = e.AssistantDefined(
            originator_id=stream,
            assistant_id=record.assistant_id,
            model=record.model,
            profile_hash=profile_hash,
            tenant=record.tenant,
            description=record.description,
            tool_resources=dict(record.tool_resources),
            dropped=list(record.dropped),
            metadata=dict(record.metadata),
            written_at=to_iso(record.created_at) if record.created_at is not None else None,
            origin=dict(record.origin),
            idempotency_key=idempotency_key,
        )
        if isinstance(before, e.Event):
            stored = self._append(defined, before.originator_version, before.timestamp, also)
        elif before is not None:
            stored = self._append(defined, before.version, before.changed_at, also)
        else:
            stored = self._append(defined, 0, None, also)
        return replace(_record(DefinedAssistant(stored, None)), profile=record.profile) if stored is not None else None

    def _append(self, event: Stored, version: int, since: datetime | None, also: Also | None = None) -> Stored | None:
        """Append an event to a stream of this version, not earlier than `since`; return None if it has another version."""
        stored: list[Stored] = []

        def decide(head: StreamHead | None) -> tuple[e.Event, StreamHead] | None:
            stored.clear()
            if (head.version if head is not None else 0) != version:
                return None
            at = max(now(), since) if since is not None else now()
            stored.append(with_fields(event, originator_version=version + 1, timestamp=at, event_id=new_id()))
            return stored[0], StreamHead(event.originator_id, version + 1, STATE_SCHEMA, "{}")

        self._journal.append(event.originator_id, decide, also)
        return stored[0] if stored else None

    def _keyed(self, stream: str, idempotency_key: str | None) -> AssistantRecord | None:
        event = self._journal.keyed_in(stream, idempotency_key) if idempotency_key is not None else None
        return self._restored(event) if isinstance(event, e.AssistantDefined) else None

    def _restored(self, defined: e.AssistantDefined) -> AssistantRecord:
        profile = self._journal.profile(defined.profile_hash) or Profile()
        return replace(_record(DefinedAssistant(defined, None)), profile=profile)


def _stream_in_use(tenant: str, assistant_id: str) -> str | None:
    """Return the name of the stream of an assistant; None if no assistant can have this id."""
    with suppress(InvalidInput):  # such an id has no stream
        return assistant_stream(tenant, assistant_id)
    return None


def _record(found: DefinedAssistant) -> AssistantRecord:
    defined, profile = found
    return AssistantRecord(
        defined.assistant_id,
        defined.model,
        _profile(profile) if profile is not None else Profile(),
        defined.tenant,
        created_at(defined),
        defined.description,
        defined.tool_resources,
        tuple(defined.dropped),
        defined.metadata,
        defined.origin,
        defined.originator_version,
        defined.timestamp,
    )


def _profile(defined: e.ProfileDefined) -> Profile:
    tools, settings = (json.dumps(each, ensure_ascii=False) for each in (defined.tools, defined.settings))
    return Profile(defined.name, defined.instructions, defined.model, tools, settings_json=settings)


def _content(record: AssistantRecord) -> tuple[Any, ...]:
    """Return what an assistant says, to be compared: not when it was created, nor its version."""
    return (
        record.model,
        record.profile.hash,
        record.description,
        dict(record.tool_resources),
        list(record.dropped),
        dict(record.metadata),
        dict(record.origin),
    )


def _overtaken(assistant_id: str) -> Conflict:
    return Conflict(
        f"the assistant {assistant_id!r} is constantly changed by other writers: nothing was written; try again"
    )
