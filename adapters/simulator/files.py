"""Handle /v1/files: upload, list, read, download and delete files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..wire import ApiError, Json, errors, limits, objects, pages, shapes, validation
from .requests import SimulatedCall
from .store import ProviderStore, SimulatedFile

EXPIRY = shapes.record({"anchor": shapes.choice("created_at"), "seconds": shapes.whole(*limits.FILE_EXPIRES_SECONDS)})


@dataclass(frozen=True)
class Download:
    """Represent a file to send as it is, of `size` bytes."""

    path: Path
    size: int


def create(store: ProviderStore, call: SimulatedCall) -> Json:
    """Store an uploaded file (POST /files)."""
    upload, body = call.upload, call.body
    if upload is not None and upload.problem is not None:
        raise upload.problem
    call.refuse_unknown_fields()
    purpose = validation.required_string(body, "purpose")
    validation.one_of(purpose, "purpose", limits.FILE_PURPOSES)
    if upload is None or upload.path is None:
        raise errors.missing("file")
    now = store.now()
    expires = None
    if body.get("expires_after") is not None:
        EXPIRY(body["expires_after"], "expires_after")
        expires = now + int(body["expires_after"]["seconds"])
    created = objects.file(store.ids.short("file-"), now, upload.filename, upload.size, purpose, expires)
    store.contents.keep(created["id"], upload.path)
    store.files[created["id"]] = SimulatedFile(created, upload.sha256)
    return created


def list_(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of files (GET /files), of one purpose if the query names one."""
    purpose = call.query.get("purpose")
    kept = (record.object for record in store.files.values() if store.is_kept(record))
    chosen = (each for each in kept if purpose is None or each["purpose"] == purpose)
    return pages.page_of_files(chosen, call.query)


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a file without its content (GET /files/{file_id})."""
    return store.file(call.ids["file_id"]).object


def content(store: ProviderStore, call: SimulatedCall) -> Download:
    """Return the content of a file (GET /files/{file_id}/content)."""
    found = store.file(call.ids["file_id"])
    path = store.contents.path(found.object["id"])
    if path is None:
        raise ApiError(
            404, f"The content of {found.object['id']} was uploaded to an earlier simulator: upload it again."
        )
    return Download(path, found.object["bytes"])


def delete(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete a file (DELETE /files/{file_id}); requests that name it are refused from now on."""
    file_id = call.ids["file_id"]
    store.drop_file(store.file(file_id))
    return objects.deletion(file_id, "file")
