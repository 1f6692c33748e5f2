"""Record which attachments a provider has a copy of, and under which ids: one stream for each attachment at each place.

Losing a record would cost another upload, and leave a file at the provider that nothing removes. So each is an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from ..conversation import events as e
from ..ids import new_id, now, to_iso
from .ports import StreamHead

if TYPE_CHECKING:
    from .journal import Journal

UPLOAD = "upload:"
"""Prefix of the names of these streams."""

UPLOAD_STATE_SCHEMA = 1
"""Schema number of the states of these streams."""


class AttachmentCopy(msgspec.Struct, frozen=True):
    """Describe the copy of an attachment at a provider."""

    blob: str
    """Address of the attachment."""
    endpoint: str
    """Where it was uploaded, without secrets."""
    file_id: str
    purpose: str
    filename: str
    size: int
    """Size in bytes."""
    at: str
    """Time of the upload (ISO 8601)."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `blobs list --uploads` prints."""
        return msgspec.structs.asdict(self)


class Uploads:
    """Record copies of attachments at providers."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._found: dict[tuple[str, str], AttachmentCopy] = {}
        """Newest copies that were found, by endpoint and attachment."""
        self._by_id: dict[tuple[str, str], AttachmentCopy] = {}
        """All copies that were found, by endpoint and the provider's id: two processes may have made one each."""
        self._in_progress: set[tuple[str, str]] = set()
        self._lock = Lock()

    def begin(self, endpoint: str, blob: str) -> bool:
        """Return whether an upload can begin, which is noted: no other thread or task of this process is making it."""
        with self._lock:
            if (endpoint, blob) in self._in_progress:
                return False
            self._in_progress.add((endpoint, blob))
            return True

    def end(self, endpoint: str, blob: str) -> None:
        """End an upload that was begun, completed or not."""
        with self._lock:
            self._in_progress.discard((endpoint, blob))

    def read(self, address: str) -> Iterable[bytes]:
        """Return the bytes of an attachment; see `BlobStore.read`."""
        return self._journal.read_blob(address)

    def find(self, endpoint: str, blob: str) -> AttachmentCopy | None:
        """Return the newest copy that a provider has of an attachment, by one row; None if it has none.

        One that another process removed since it was found here is still returned: a request shows that it is gone.
        """
        found = self._found.get((endpoint, blob))
        if found is None:
            copies = _copies_in(self._journal.head(_stream(endpoint, blob)))
            if copies:
                found = self._found[endpoint, blob] = copies[-1]
                self._by_id.update({(endpoint, each.file_id): each for each in copies})
        return found

    def copy_of(self, endpoint: str, file_id: str) -> AttachmentCopy | None:
        """Return a copy that was found or made in this process, by the provider's id of the file."""
        return self._by_id.get((endpoint, file_id))

    def note(self, upload: AttachmentCopy) -> None:
        """Record a copy."""

        def add(copies: list[AttachmentCopy]) -> tuple[type[e.Event], dict[str, Any]] | None:
            copies.append(upload)
            facts = msgspec.structs.asdict(upload)
            del facts["at"]
            return e.AttachmentUploaded, facts

        self._decide(upload.endpoint, upload.blob, add)
        self._found[upload.endpoint, upload.blob] = self._by_id[upload.endpoint, upload.file_id] = upload

    def forget(self, endpoint: str, blob: str, file_id: str, reason: str) -> None:
        """Record that a provider no longer has a copy; do nothing if this is known."""

        def remove(copies: list[AttachmentCopy]) -> tuple[type[e.Event], dict[str, Any]] | None:
            left = [each for each in copies if each.file_id != file_id]
            if len(left) == len(copies):
                return None
            copies[:] = left
            facts = {"blob": blob, "endpoint": endpoint, "file_id": file_id, "reason": reason}
            return e.AttachmentRemoved, facts

        self._decide(endpoint, blob, remove)
        self._found.pop((endpoint, blob), None)
        self._by_id.pop((endpoint, file_id), None)

    def listed(self) -> Iterator[AttachmentCopy]:
        """Yield the copies that providers have, by place and attachment."""
        for head in self._journal.heads(UPLOAD):
            yield from _copies_in(head)

    def _decide(
        self,
        endpoint: str,
        blob: str,
        change: Callable[[list[AttachmentCopy]], tuple[type[e.Event], dict[str, Any]] | None],
    ) -> None:
        stream = _stream(endpoint, blob)

        def decide(head: StreamHead | None) -> tuple[e.Event, StreamHead] | None:
            copies = _copies_in(head)
            changed = change(copies)
            if changed is None:
                return None
            kind, facts = changed
            version = head.version + 1 if head is not None else 1
            event = kind(originator_id=stream, originator_version=version, timestamp=now(), event_id=new_id(), **facts)
            return event, StreamHead(stream, version, UPLOAD_STATE_SCHEMA, msgspec.json.encode(copies).decode())

        self._journal.append(stream, decide)


def upload_of(
    blob: str, endpoint: str, file_id: str, *, purpose: str = "", filename: str = "", size: int = 0
) -> AttachmentCopy:
    """Return the record of a copy that was made now."""
    return AttachmentCopy(blob, endpoint, file_id, purpose, filename, size, to_iso(now()))


def _stream(endpoint: str, blob: str) -> str:
    return f"{UPLOAD}{sha256(endpoint.encode()).hexdigest()[:16]}:{blob}"


def _copies_in(head: StreamHead | None) -> list[AttachmentCopy]:
    return msgspec.json.decode(head.state, type=list[AttachmentCopy]) if head is not None else []
