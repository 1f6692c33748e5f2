"""Handle /v1/files: the bytes of a file are a blob of its own, and its facts are events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from pathlib import Path

from threadledger.domain.conversation.attachments import media_type_of, part_for
from threadledger.domain.conversation.messages import Message
from threadledger.domain.conversation.parts import Audio, File, Image, Part, Verbatim, part_of
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal
from threadledger.domain.journal.blobs import CHUNK_BYTES
from threadledger.domain.ledger import FileRecord, FileStore

from ..wire import ApiError, Json, errors, limits, objects, shapes, validation
from ..wire.errors import bad_request, missing
from ..wire.pages import given_limit
from .calls import Caller, Handler, Served, ServedCall, ServedFile, deleted_once
from .ids import new_id
from .pages import PageQuery, page_of

FILE, IMAGE_FILE = "file-", "image_file"
FILENAME_MAX_CHARS = 255
EXPIRED_REMOVED_MAX = 20
"""Maximum number of files of a tenant that have expired, and are deleted when another one is uploaded."""

BATCH_EXPIRES = timedelta(days=30)
"""When a file for a batch expires unless its upload says otherwise. Source: openai-python 3.54, files.create."""

_EXPIRY = shapes.record({"anchor": shapes.choice("created_at"), "seconds": shapes.whole(*limits.FILE_EXPIRES_SECONDS)})


def create(served: Served, call: ServedCall) -> Json:
    """Store an uploaded file (POST /files); a repeated request returns what the first one stored."""
    body, upload = call.body, call.upload
    purpose = validation.required_string(body, "purpose")
    validation.one_of(purpose, "purpose", limits.FILE_PURPOSES)
    if upload is None or upload.path is None:
        raise missing("file")
    if not 1 <= len(upload.filename) <= FILENAME_MAX_CHARS or not upload.filename.isprintable():
        raise bad_request(
            f"Invalid 'file': its name needs 1 to {FILENAME_MAX_CHARS} printable characters.", "file", "invalid_value"
        )
    expires = BATCH_EXPIRES if purpose == "batch" else None
    if body.get("expires_after") is not None:
        _EXPIRY(body["expires_after"], "expires_after")
        expires = timedelta(seconds=int(body["expires_after"]["seconds"]))
    files = FileStore(served.journal_of(call.caller))
    files.remove_expired(call.caller.tenant, EXPIRED_REMOVED_MAX)
    record = FileRecord(
        new_id(FILE, call.request_key),
        upload.filename,
        purpose,
        call.caller.tenant,
        expires_at=now() + expires if expires is not None else None,
    )
    return file_object(files.create(record, _pieces(upload.path), call.idempotency_key, call.also))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def list_(served: Served, call: ServedCall) -> Json:
    """Return a page of the caller's files, of one purpose if the query names one (GET /files)."""
    query, files = PageQuery.of(call.query), FileStore(served.journal_of(call.caller))
    limit = min(max(given_limit(call.query, limits.FILES_PAGE_MAX), 1), limits.FILES_PAGE_MAX)
    tenant, purpose = call.caller.tenant, call.query.get("purpose") or None
    found, has_more = files.page(tenant, query.page(lambda name: files.place(tenant, name), limit), purpose)
    return page_of([file_object(each) for each in found], query, has_more)


def retrieve(served: Served, call: ServedCall) -> Json:
    """Return a file without its content (GET /files/{file_id})."""
    return file_object(file_of(served, call.caller, call.ids["file_id"]).record)


def content(served: Served, call: ServedCall) -> ServedFile:
    """Return the content of a file (GET /files/{file_id}/content)."""
    found = file_of(served, call.caller, call.ids["file_id"])
    return ServedFile(found.record.filename, found.record.size, found.read())


def delete(served: Served, call: ServedCall) -> Json:
    """Delete a file with its bytes, also in vector stores (DELETE /files/{file_id})."""
    file_id = call.ids["file_id"]

    def delete_now() -> None:
        files = FileStore(served.journal_of(call.caller))
        if not files.delete(call.caller.tenant, file_id, call.also):
            raise errors.no_such_file(file_id)
        served.ledger.journal.views.files.index()

    return deleted_once(served, call, delete_now, objects.deletion(file_id, "file"))


HANDLERS_OF_FILES: Mapping[str, Handler] = {
    "create_file": create,
    "list_files": list_,
    "retrieve_file": retrieve,
    "delete_file": delete,
    "retrieve_file_content": content,
}


@dataclass(frozen=True)
class FoundFile:
    """Hold a file of the caller, and what reads its bytes."""

    record: FileRecord
    journal: Journal

    @property
    def blob(self) -> str:
        """Return the address of its bytes, which begin with `PREFIX_BYTES` others: read them with `read`."""
        return self.record.blob

    def read(self) -> Iterator[bytes]:
        """Yield its bytes, chunk by chunk.

        Raises:
            BlobMissing: it was deleted meanwhile.
            ChangedBlob: its bytes are not those that were stored; raised before the last chunk.
        """
        return FileStore(self.journal).read(self.record)


def file_of(served: Served, caller: Caller, file_id: str, param: str | None = "id") -> FoundFile:
    """Return a file of the caller's tenant; `param` is the field that names it.

    Raises:
        ApiError: a 404 in the same words, whether another tenant has such a file or nobody.
    """
    journal = served.journal_of(caller)
    found = FileStore(journal).get(caller.tenant, file_id)
    if found is None:
        raise errors.no_such_file(file_id, param)
    return FoundFile(found, journal)


def with_files(served: Served, caller: Caller, message: Message, param: str | None = None) -> Message:
    """Return a message with the bytes of the files that it names by the ids of this server.

    `param` is the field of the message; then parts keep the ids, which the message shows. Without it, other ids stay as they are:
    the provider may know them.

    Raises:
        ApiError: a 404, because a file is not the caller's, or a 400, because a thread's image is none.
    """
    if not isinstance(message.content, tuple):
        return message
    parts = tuple(_with_file(served, caller, part, param) for part in message.content)
    return message.replaced(content=parts) if parts != message.content else message


def _with_file(served: Served, caller: Caller, part: Part, param: str | None) -> Part:
    image = _image_named(part)
    named = part.file_id if isinstance(part, File) and not part.blob else image.get("file_id")
    if not isinstance(named, str) or not named:
        return part
    try:
        found = file_of(served, caller, named, param)
    except ApiError:
        if param is None:
            return part
        raise
    pieces = found.read()
    begin = next(pieces, b"")
    media_type = media_type_of(begin[:16], found.record.filename)
    if image.get("type") == IMAGE_FILE and not media_type.startswith("image/"):
        raise bad_request(
            f"Invalid '{param}': the file {named} is no image: attach it, so that it can be searched.",
            param,
            "invalid_value",
        )
    kept = found.journal.blobs.add(chain([begin], pieces))
    made = part_of(part_for(kept, media_type, found.record.filename), str)
    if isinstance(made, Image) and isinstance(image.get("detail"), str):
        made = replace(made, detail=image["detail"])
    return replace(made, file_id=named) if param is not None and isinstance(made, Image | File | Audio) else made


def _image_named(part: Part) -> Json:
    """Return the type, file and detail of an image that a request names by its id; nothing of another part."""
    match part.as_json() if isinstance(part, Verbatim) else {}:
        case {"type": "input_image", "file_id": name, **rest}:
            return {"type": "input_image", "file_id": name, "detail": rest.get("detail")}
        case {"type": "image_file", "image_file": dict(inner)}:
            return {**inner, "type": IMAGE_FILE}
    return {}


def file_object(record: FileRecord) -> Json:
    """Return the provider's object of a file."""
    created = int(record.created_at.timestamp()) if record.created_at is not None else 0
    expires = int(record.expires_at.timestamp()) if record.expires_at is not None else None
    return objects.file(record.file_id, created, record.filename, record.size, record.purpose, expires)
