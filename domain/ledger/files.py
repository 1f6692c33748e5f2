"""Keep uploaded files: each is a blob of its own, and has its own stream of events."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING

from ..conversation import events as e
from ..conversation.files import PREFIX_BYTES, file_stream, own_bytes
from ..conversation.listing import ListPage, ListPlace
from ..errors import Conflict, InvalidInput
from ..ids import from_iso, new_id, now, to_iso
from ..journal import StreamHead
from ..journal.served_notes import together

if TYPE_CHECKING:
    from ..journal import Also, Journal

FILE_STATE_SCHEMA = 1
"""Schema number of the states of these streams, which are empty: the newest event says all."""


@dataclass(frozen=True)
class FileRecord:
    """Describe an uploaded file."""

    file_id: str
    filename: str
    purpose: str
    tenant: str = ""
    size: int = 0
    """Size in bytes."""
    expires_at: datetime | None = None
    created_at: datetime | None = None
    """When it was stored; None before that."""
    blob: str = ""
    """Address of its bytes, behind `PREFIX_BYTES` other ones."""


class FileStore:
    """Store, read, delete and list uploaded files; each belongs to one tenant, or to none."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def create(
        self, record: FileRecord, data: Iterable[bytes], idempotency_key: str | None = None, also: Also | None = None
    ) -> FileRecord:
        """Store a new file and return it. With the key of an earlier call, return what that one stored.

        The same is written whether or not there is a file with equal bytes. `also` writes notes in the same transaction.

        Raises:
            BlobTooLarge: it has too many bytes; nothing was stored.
            Conflict: there is a file with this id already.
            StoreError: it cannot be stored.
        """
        stream = file_stream(record.tenant, record.file_id)
        known = self._journal.keyed_in(stream, idempotency_key) if idempotency_key is not None else None
        if isinstance(known, e.FileStored):
            return _record(known)
        blob = self._journal.blobs.add(chain([os.urandom(PREFIX_BYTES)], data))
        stored = e.FileStored(
            originator_id=stream,
            originator_version=1,
            file_id=record.file_id,
            filename=record.filename,
            purpose=record.purpose,
            size=blob.size - PREFIX_BYTES,
            blobs=[blob.address],
            tenant=record.tenant,
            expires_at=to_iso(record.expires_at) if record.expires_at is not None else None,
            idempotency_key=idempotency_key,
            timestamp=now(),
            event_id=new_id(),
        )
        if not self._append(stored, also):
            self._journal.blobs.remove(blob.address, now())
            known = self._journal.keyed_in(stream, idempotency_key) if idempotency_key is not None else None
            if isinstance(known, e.FileStored):  # the same request was carried out at the same time
                return _record(known)
            raise Conflict(f"there is a file {record.file_id!r} already: nothing was stored; choose another id")
        return _record(stored)

    def get(self, tenant: str, file_id: str) -> FileRecord | None:
        """Return a file of a tenant; None for one that is unknown, was deleted, or has expired."""
        with suppress(InvalidInput):  # no file can have such an id
            newest = self._journal.newest_of(file_stream(tenant, file_id))
            if isinstance(newest, e.FileStored):
                found = _record(newest)
                return found if found.expires_at is None or found.expires_at > now() else None
        return None

    def read(self, record: FileRecord) -> Iterator[bytes]:
        """Yield the bytes of a file, chunk by chunk; see `BlobStore.read`."""
        return own_bytes(self._journal.read_blob(record.blob))

    def delete(self, tenant: str, file_id: str, also: Also | None = None) -> bool:
        """Delete a file with its bytes, and return whether there was one; vector stores no longer have it either."""
        with suppress(InvalidInput):  # no file can have such an id
            stream = file_stream(tenant, file_id)
            newest = self._journal.newest_of(stream)
            if not isinstance(newest, e.FileStored):
                return False
            at = max(now(), newest.timestamp)
            deleted = e.FileDeleted(
                originator_id=stream,
                originator_version=newest.originator_version + 1,
                timestamp=at,
                event_id=new_id(),
                file_id=file_id,
                tenant=tenant,
            )
            blobs, address = self._journal.blobs, next(iter(newest.blobs), "")
            if self._append(deleted, together(also, blobs.released(stream, address))):
                blobs.remove(address, now())  # what is left if the process ends before is removed by `blobs prune`
                return True
        return False

    def place(self, tenant: str, file_id: str) -> ListPlace | None:
        """Return the place of a file in the list of its tenant; None if the tenant has no such file."""
        return self._journal.views.files.file_place(tenant, file_id)

    def page(
        self,
        tenant: str,
        page: ListPage,
        purpose: str | None = None,
    ) -> tuple[list[FileRecord], bool]:
        """Return a page of the files of a tenant, and whether there are more; only its own rows are read."""
        found, has_more = page.of(self._journal.views.files.files(tenant, page, purpose=purpose, at=to_iso(now())))
        return [_record(each) for each in found], has_more

    def remove_expired(self, tenant: str, limit: int) -> None:
        """Delete files of a tenant that have expired, at most `limit`."""
        for file_id in self._journal.views.files.expired_files(tenant, to_iso(now()), limit):
            self.delete(tenant, file_id)

    def _append(self, event: e.FileStored | e.FileDeleted, also: Also | None) -> bool:
        """Append an event to the stream of a file; return whether the stream had the version before it."""
        appended = False

        def decide(head: StreamHead | None) -> tuple[e.Event, StreamHead] | None:
            nonlocal appended
            appended = (head.version if head is not None else 0) == event.originator_version - 1
            if not appended:
                return None
            return event, StreamHead(event.originator_id, event.originator_version, FILE_STATE_SCHEMA, "{}")

        self._journal.append(event.originator_id, decide, also)
        return appended


def _record(stored: e.FileStored) -> FileRecord:
    return FileRecord(
        stored.file_id,
        stored.filename,
        stored.purpose,
        stored.tenant,
        stored.size,
        from_iso(stored.expires_at) if stored.expires_at is not None else None,
        stored.timestamp,
        next(iter(stored.blobs), ""),
    )
