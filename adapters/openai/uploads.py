"""Send attachments: inside the request as data, or, if they are large, by the id of a file that was uploaded once.

An upload is recorded in the ledger, for each endpoint, so that no attachment is uploaded twice and every copy can be listed
and removed. Nothing is read into memory whole: the bytes are streamed from the ledger.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation.parts import Audio, File, Image, Part, Verbatim, blob_of
from threadledger.domain.effects import Effects, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, Failure, diagnose
from threadledger.domain.limits import INLINE_BYTES_MAX, UPLOAD_BYTES_MIN
from threadledger.domain.memory import UPLOADS_GONE
from threadledger.domain.memory.sending import Attachments, default_name, parts_in, resolved, takes

from .client import Client
from .objects import deleted, fetched

if TYPE_CHECKING:
    from threadledger.domain.memory.sending import Read

FILES = "POST /files"
NO_FILES_API = frozenset({404, 405, 410, 501})
"""HTTP statuses by which a server says that it has no Files API."""


def on_wire(
    client: Client, entries: Sequence[dict[str, Any]], dialect: str, read: Read | None, seconds: float
) -> Effects[tuple[list[dict[str, Any]], Attachments]]:
    """Return messages or items as they are sent, and how their attachments are; upload what has to be uploaded.

    Args:
        client: the connection to the provider.
        entries: messages or items with attachments in the stored shapes.
        dialect: the form in which they are sent.
        read: reads an attachment.
        seconds: limit of one upload.

    Raises:
        ProviderRefused: an upload failed, or what is left is too large for one request; nothing was asked.
    """
    taken: list[Any] = [part for part in parts_in(entries) if is_on_wire(part) or takes(part, dialect)]
    sent, ids = Attachments(read), dict[str, str]()
    for part in {part.blob: part for part in taken if is_uploaded(part, dialect)}.values():
        file_id = yield from uploaded(client, part, sent, seconds)
        if file_id is not None:
            ids[part.blob] = file_id
    refuse_too_large(sum(inline_chars(part) for part in taken if not (part.blob and part.blob in ids)))
    sent = replace(sent, file_ids=ids)
    return (yield from work(lambda: resolved(entries, dialect, sent))), sent


def is_on_wire(part: Part) -> bool:
    """Return whether a part has the form of an API already."""
    return isinstance(part, Verbatim)


def is_uploaded(part: Part, dialect: str) -> bool:
    """Return whether an attachment is uploaded: it is large, and the API takes the id of a file in its place."""
    if not blob_of(part):
        return False
    if dialect == "assistants":
        return isinstance(part, Image)  # a thread takes no data
    takes_id = (Image, File) if dialect == "responses" else File
    return dialect in {"chat", "responses"} and isinstance(part, takes_id) and part.size > UPLOAD_BYTES_MIN


def inline_chars(part: Part) -> int:
    """Return the number of characters that the data of a part takes in a request; 0 for an id or a URL."""
    match part:
        case Image(url=url) if not part.blob:
            return len(url) if url.startswith("data:") else 0
        case Image() | File() | Audio():
            return (part.size + 2) // 3 * 4 if part.blob else 0
        case Verbatim():
            return len(part.json)
    return 0


def refuse_too_large(chars: int) -> None:
    """Refuse a request with too much data inside.

    Raises:
        ProviderRefused: it is more than `INLINE_BYTES_MAX`.
    """
    if chars > INLINE_BYTES_MAX:
        message = (
            f"the attachments need {chars:,} bytes inside the request, over the limit of {INLINE_BYTES_MAX:,}: nothing was "
            "sent; use a backend that has a Files API, or limit the memory"
        )
        raise ProviderRefused(Failure("refused", code=Cause.CONTENT_NOT_SUPPORTED.value, message=message))


def uploaded(client: Client, part: Any, sent: Attachments, seconds: float) -> Effects[str | None]:
    """Return the id of the uploaded file, uploading it if it was not; None if the provider has no Files API."""
    from threadledger.domain.journal.uploads import upload_of

    uploads, place = client.uploads, client.files_place
    if uploads is None or client.has_no_files:
        return None
    known = yield from work(lambda: uploads.find(place, part.blob))
    if known is not None:
        return known.file_id
    purpose = "vision" if isinstance(part, Image) else "user_data"
    filename = getattr(part, "filename", "") or default_name(part.media_type)
    given = (filename, BlobReader(part.size, lambda: sent.read(part.blob)), part.media_type or None)
    try:
        made = yield from fetched(
            client,
            FILES,
            lambda sdk: sdk.files.with_raw_response.create(file=given, purpose=purpose, timeout=seconds),
        )
    except ProviderRefused as refused:
        if refused.failure.http_status not in NO_FILES_API:
            raise
        client.has_no_files = True
        return None
    record = upload_of(part.blob, place, str(made["id"]), purpose=purpose, filename=filename, size=part.size)
    yield from work(lambda: uploads.note(record))
    return record.file_id


def without_gone_uploads(client: Client, refused: ProviderRefused, sent: Attachments) -> Effects[ProviderRefused]:
    """Record that the provider no longer has uploaded files, if this is why it refused; the retry uploads them again."""
    failure = refused.failure
    uploads = client.uploads
    if not sent.file_ids or diagnose(failure) is not Cause.FILE_MISSING or uploads is None:
        return refused
    said = f"{failure.message} {failure.param} {failure.details.get('body')}"
    named = {address: file_id for address, file_id in sent.file_ids.items() if file_id in said}
    gone = named or dict(sent.file_ids)
    for address, file_id in gone.items():
        yield from work(partial(uploads.forget, client.files_place, address, file_id, "gone"))
    return ProviderRefused(replace(failure, details=dict(failure.details) | {UPLOADS_GONE: sorted(gone.values())}))


def removed(client: Client, file_id: str) -> Effects[None]:
    """Delete an uploaded file; one that is already gone is ignored.

    Raises:
        ProviderRefused: it was not deleted.
    """
    yield from deleted(client, "DELETE /files/{file_id}", "", lambda sdk: sdk.files.with_raw_response.delete(file_id))


class BlobReader(io.RawIOBase):
    """Read the bytes of an attachment as a file, which an HTTP client sends piece by piece."""

    def __init__(self, size: int, chunks: Callable[[], Iterable[bytes]]) -> None:
        super().__init__()
        self._size = size
        self._open = chunks
        self._chunks: Iterator[bytes] = iter(())
        self._left = memoryview(b"")
        self._at = 0
        self._is_open = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to the beginning or the end, as HTTP clients do to learn the size."""
        target = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        if target != self._at:
            if target not in {0, self._size}:
                raise io.UnsupportedOperation("an attachment is read from its beginning")
            self._at, self._is_open = target, False
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size and self._size:
            return 0
        if not self._is_open:
            self._chunks, self._left, self._is_open = iter(self._open()), memoryview(b""), True
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        self._at += len(taken)
        return len(taken)
