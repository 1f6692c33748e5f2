"""Send attachments: inside the request as data, or, if they are large, by the id of a file that was uploaded once.

An upload is recorded in the ledger, for each endpoint, so that no attachment is uploaded twice and every copy can be listed
and removed. The bytes of an upload are never in memory whole: they are sent from a temporary file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any

from threadledger.domain.conversation.parts import Audio, File, Image, Part, Verbatim, blob_of
from threadledger.domain.effects import Effects, Pause, work
from threadledger.domain.errors import ProviderRefused, StoreUnavailable
from threadledger.domain.failures import Cause, Failure, diagnose
from threadledger.domain.journal.blobs import CHUNK_BYTES
from threadledger.domain.limits import INLINE_BYTES_MAX, UPLOAD_BYTES_MIN
from threadledger.domain.memory import UPLOADS_GONE
from threadledger.domain.memory.sending import Attachments, default_name, parts_in, resolved, takes

from .client import Client
from .objects import deleted, fetched

if TYPE_CHECKING:
    from threadledger.domain.journal.uploads import Uploads
    from threadledger.domain.memory import Memory
    from threadledger.domain.memory.sending import Read

FILES = "POST /files"
NO_FILES_API = frozenset({403, 404, 405, 410, 501})
"""HTTP statuses by which a server says that it has no Files API, or that the key may not write there (a restricted key)."""

UPLOAD_LOOK_SECONDS = 0.1
"""Pause between two looks for the end of another upload of the same attachment, in seconds."""


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
    """Check that a request has not too much data inside.

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
    """Return the id of the uploaded file, uploading it if it was not; None if the provider has no Files API.

    Another thread or task that is uploading the same is waited for, at most as long as an upload may take.
    """
    uploads, place = client.uploads, client.files_place
    if uploads is None:
        return None
    until = time.monotonic() + seconds
    while not client.has_no_files:
        known = yield from work(lambda: uploads.find(place, part.blob))
        if known is not None:
            return known.file_id
        if uploads.begin(place, part.blob):
            try:
                return (yield from _upload(client, uploads, part, sent, seconds))
            finally:
                uploads.end(place, part.blob)
        if time.monotonic() > until:
            message = f"another upload of {part.blob} did not end within {seconds:g} seconds"
            raise ProviderRefused(Failure("timed_out", message=message, details={"endpoint": FILES}))
        yield Pause(UPLOAD_LOOK_SECONDS)
    return None


def _upload(client: Client, uploads: Uploads, part: Any, sent: Attachments, seconds: float) -> Effects[str | None]:
    from threadledger.domain.journal.uploads import upload_of

    known = yield from work(lambda: uploads.find(client.files_place, part.blob))
    if known is not None:  # it was uploaded since it was looked for
        return known.file_id
    purpose = "vision" if isinstance(part, Image) else "user_data"
    filename = getattr(part, "filename", "") or default_name(part.media_type)
    file = yield from work(lambda: _spooled(sent.read(part.blob)))
    given = (filename, file, part.media_type or None)
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
    finally:
        file.close()
    place, file_id = client.files_place, str(made["id"])
    record = upload_of(part.blob, place, file_id, purpose=purpose, filename=filename, size=part.size)
    yield from work(lambda: uploads.note(record))
    return record.file_id


def sent_to_thread(
    client: Client, entries: list[dict[str, Any]], dialect: str, send: Callable[[list[dict[str, Any]]], Effects[Any]]
) -> Effects[None]:
    """Add messages or items to a thread with their attachments; files that are gone by now are uploaded again.

    Raises:
        ProviderRefused: an upload or the request failed.
    """
    read = client.uploads.read if client.uploads is not None else None
    for attempt in (1, 2):
        given, sent = yield from on_wire(client, entries, dialect, read, client.timeout_seconds)
        try:
            yield from send(given)
            return
        except ProviderRefused as refused:
            explained = yield from without_gone_uploads(client, refused, sent.file_ids)
            if attempt == 2 or UPLOADS_GONE not in explained.failure.details:
                raise explained from refused


def uploaded_of(client: Client, memory: Memory, dialect: str) -> dict[str, str]:
    """Return the ids of the uploaded files of a memory, by address: its thread may refer to them.

    The id is empty if there is no copy any more: it was removed.
    """
    uploads = client.uploads
    if uploads is None or not memory.has_parts:
        return {}
    contents = [each.message.content for each in memory.messages]
    parts = [part for content in contents if isinstance(content, tuple) for part in content]
    addresses = [blob_of(part) for part in parts if is_uploaded(part, dialect)]
    found = {address: uploads.find(client.files_place, address) for address in addresses}
    return {address: copy.file_id if copy is not None else "" for address, copy in found.items()}


def without_gone_uploads(
    client: Client,
    refused: ProviderRefused,
    file_ids: Mapping[str, str],
    memory: Memory | None = None,
    dialect: str = "",
) -> Effects[ProviderRefused]:
    """Record that the provider no longer has uploaded files, if this is why it refused; the retry uploads them again.

    A provider names one of them at most. Each of the others is looked for, so that one retry is enough.

    Args:
        client: the connection to the provider.
        refused: what it said.
        file_ids: ids that were sent, by address.
        memory: what the request's thread holds, if it has one.
        dialect: the form in which that was sent there.
    """
    failure, uploads = refused.failure, client.uploads
    if uploads is None or client.has_no_files or diagnose(failure) is not Cause.FILE_MISSING:
        return refused
    were_removed = False
    if memory is not None and failure.thread_id is not None:
        in_thread = yield from work(lambda: uploaded_of(client, memory, dialect))
        file_ids = {address: file_id for address, file_id in in_thread.items() if file_id} | dict(file_ids)
        were_removed = "" in in_thread.values()
    said = f"{failure.message} {failure.param} {failure.details.get('body')}"
    gone: list[str] = []
    for address, file_id in file_ids.items():
        if file_id in said or not (yield from _is_there(client, file_id)):
            yield from work(partial(uploads.forget, client.files_place, address, file_id, "gone"))
            gone.append(file_id)
    if not gone and not were_removed:
        return refused
    return ProviderRefused(replace(failure, details=dict(failure.details) | {UPLOADS_GONE: sorted(gone)}))


def _is_there(client: Client, file_id: str) -> Effects[bool]:
    """Return whether the provider has a file; also if it does not say."""
    try:
        yield from fetched(client, "GET /files/{file_id}", lambda sdk: sdk.files.with_raw_response.retrieve(file_id))
    except ProviderRefused as refused:
        return refused.failure.http_status not in {404, 410}
    return True


def delete_file(client: Client, file_id: str) -> Effects[None]:
    """Delete an uploaded file; one that is already gone is ignored.

    Raises:
        ProviderRefused: it was not deleted.
    """
    yield from deleted(client, "DELETE /files/{file_id}", "", lambda sdk: sdk.files.with_raw_response.delete(file_id))


def _spooled(chunks: Iterable[bytes]) -> IO[bytes]:
    """Return a temporary file with these bytes, which an HTTP client sends piece by piece.

    An asynchronous client reads it in its event loop, which must not wait for the database.

    Raises:
        StoreUnavailable: there is no space for it.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(SpooledTemporaryFile(max_size=CHUNK_BYTES))
            for chunk in chunks:  # `writelines` would keep all of them in memory
                file.write(chunk)
            file.seek(0)
            stack.pop_all()
            return file
    except OSError as error:
        raise StoreUnavailable(
            f"an attachment cannot be kept in a temporary file ({error.strerror}): it was not uploaded; free space, or set "
            "TMPDIR to a folder that has some"
        ) from error
