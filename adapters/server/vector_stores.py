"""Handle /v1/vector_stores: which files a store has is events, and what is found in them is a view of these and of the blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from threadledger.domain.conversation.file_text import FILE_TEXT_BYTES_MAX, NoText, text_of_file, too_long
from threadledger.domain.conversation.files import Chunking, StoreFile
from threadledger.domain.conversation.listing import ListPlace
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.ledger import FileRecord, FileStore, VectorStoreRecord, VectorStores

from ..wire import Json, objects, store_bodies, validation
from ..wire.errors import ApiError, bad_request, missing, no_such, no_such_file
from .calls import Handler, Served, ServedCall, deleted_once
from .file_search import FileQuery, found_in
from .ids import new_id
from .pages import PageQuery, page_of

if TYPE_CHECKING:
    from datetime import datetime

STORE, BATCH = "vs_", "vsfb_"
STATUSES = ("in_progress", "completed", "failed", "cancelled")

REQUEST_TEXT_BYTES_MAX = 32 * 1024 * 1024
"""Maximum size of the files whose texts one request adds, in bytes: it waits until they are indexed."""

Wanted = tuple[str, Json, tuple[int, int]]
"""Id of a file that is to be added, with its attributes and its chunking."""


def create(served: Served, call: ServedCall) -> Json:
    """Create a vector store, with files if they are given (POST /vector_stores)."""
    body = call.body
    named = store_bodies.file_ids(body)
    chunking = store_bodies.chunking_of(body)
    stores = _stores(served, call)
    record = VectorStoreRecord(
        new_id(STORE, call.request_key),
        call.caller.tenant,
        validation.optional_string(body, "name") or "",
        validation.optional_string(body, "description"),
        validation.metadata_of(body),
        store_bodies.expires_days(body),
    )
    files = read_files(served, call, [(each, {}, chunking) for each in named], "file_ids")
    created = stores.create(record, files, call.idempotency_key, call.also)
    if files:
        stores.lists.index()
    return store_object(stores, created)


def list_(served: Served, call: ServedCall) -> Json:
    """Return a page of the caller's vector stores (GET /vector_stores)."""
    query, stores, tenant = PageQuery.of(call.query), _stores(served, call), call.caller.tenant
    found, has_more = stores.page(tenant, query.page(lambda name: stores.lists.store_place(tenant, name)))
    return page_of([store_object(stores, each) for each in found], query, has_more)


def retrieve(served: Served, call: ServedCall) -> Json:
    """Return a vector store (GET /vector_stores/{vector_store_id})."""
    stores = _stores(served, call)
    return store_object(stores, _named(stores, call))


def modify(served: Served, call: ServedCall) -> Json:
    """Change the given fields of a vector store (POST /vector_stores/{vector_store_id})."""
    stores, store_id, body = _stores(served, call), call.ids["vector_store_id"], call.body
    name, days = validation.optional_string(body, "name"), store_bodies.expires_days(body)
    metadata = validation.metadata_of(body)

    def change(record: VectorStoreRecord) -> VectorStoreRecord:
        return replace(
            record,
            name=name if name is not None else record.name,
            metadata=metadata if body.get("metadata") is not None else record.metadata,
            expires_days=days if "expires_after" in body else record.expires_days,
        )

    if call.stored:
        return store_object(stores, _named(stores, call))
    changed = stores.modify(call.caller.tenant, store_id, change, call.idempotency_key, call.also)
    if changed is None:
        raise no_such_store(store_id)
    return store_object(stores, changed)


def delete(served: Served, call: ServedCall) -> Json:
    """Delete a vector store; its files remain (DELETE /vector_stores/{vector_store_id})."""
    store_id = call.ids["vector_store_id"]

    def delete_now() -> None:
        stores = _stores(served, call)
        if not stores.delete(call.caller.tenant, store_id, call.also):
            raise no_such_store(store_id)
        stores.lists.index()

    return deleted_once(served, call, delete_now, objects.deletion(store_id, "vector_store.deleted"))


def search(served: Served, call: ServedCall) -> Json:
    """Return the passages that match best (POST /vector_stores/{vector_store_id}/search)."""
    body, stores = call.body, _stores(served, call)
    queries = store_bodies.queries_of(body)
    validation.flag(body, "rewrite_query")
    wanted = FileQuery(
        queries,
        store_bodies.results_max(body.get("max_num_results")),
        store_bodies.score_min(body.get("ranking_options")),
        store_bodies.condition_of(body.get("filters")),
    )
    record = _named(stores, call)
    if record.is_expired:
        raise bad_request(f"The vector store '{record.store_id}' has expired: nothing of it can be searched.")
    data = [
        {
            "file_id": hit.file_id,
            "filename": hit.filename,
            "score": hit.score,
            "attributes": dict(hit.attributes),
            "content": [{"type": "text", "text": hit.text}],
        }
        for hit in found_in(stores, [record], wanted)
    ]
    return objects.search_page(queries, data)


# Files of a vector store


def create_file(served: Served, call: ServedCall) -> Json:
    """Add a file to a vector store, or add it again with other attributes (POST …/files)."""
    stores = _stores(served, call)
    record, file_id = _named(stores, call), validation.required_string(call.body, "file_id")
    wanted = file_id, store_bodies.attributes_of(call.body), store_bodies.chunking_of(call.body)
    _add(served, call, stores, record, [wanted], "file_id")
    return _file_object(record, _file(stores, record, file_id))


def list_files(served: Served, call: ServedCall) -> Json:
    """Return a page of the files of a vector store (GET …/files)."""
    stores = _stores(served, call)
    return _page(call, stores, _named(stores, call))


def retrieve_file(served: Served, call: ServedCall) -> Json:
    """Return a file of a vector store (GET …/files/{file_id})."""
    stores = _stores(served, call)
    record = _named(stores, call)
    return _file_object(record, _file(stores, record, call.ids["file_id"]))


def modify_file(served: Served, call: ServedCall) -> Json:
    """Replace the attributes of a file of a vector store (POST …/files/{file_id})."""
    stores = _stores(served, call)
    record = _named(stores, call)
    found = _file(stores, record, call.ids["file_id"])
    if "attributes" not in call.body:
        raise missing("attributes")
    attributes = store_bodies.attributes_of(call.body)
    if not call.stored and not stores.describe(record, found.file_id, attributes, call.also):
        raise no_such_store(record.store_id)
    return _file_object(record, replace(found, attributes=attributes))


def delete_file(served: Served, call: ServedCall) -> Json:
    """Remove a file from a vector store; the file itself remains (DELETE …/files/{file_id})."""
    file_id = call.ids["file_id"]

    def delete_now() -> None:
        stores = _stores(served, call)
        record = _named(stores, call)
        _file(stores, record, file_id)
        if not stores.remove(record, file_id, call.also):
            raise no_such_store(record.store_id)
        stores.lists.index()

    return deleted_once(served, call, delete_now, objects.deletion(file_id, "vector_store.file.deleted"))


def file_content(served: Served, call: ServedCall) -> Json:
    """Return the text of a file of a vector store, as it was indexed (GET …/files/{file_id}/content)."""
    stores = _stores(served, call)
    record = _named(stores, call)
    found = _file(stores, record, call.ids["file_id"])
    passages = stores.lists.passages(record.stream, found.file_id)
    data = [{"type": "text", "text": each} for each in passages]
    page: Json = {"object": "vector_store.file_content.page", "file_id": found.file_id, "filename": found.filename}
    page |= {"attributes": dict(found.attributes), "content": data, "data": data}
    return page | {"has_more": False, "next_page": None}


# Batches of files


def create_batch(served: Served, call: ServedCall) -> Json:
    """Add several files to a vector store in one commit (POST …/file_batches)."""
    stores = _stores(served, call)
    record, wanted = _named(stores, call), store_bodies.batch_files(call.body)
    batch_id = new_id(BATCH, call.request_key)
    _add(served, call, stores, record, wanted, "files" if call.body.get("files") is not None else "file_ids", batch_id)
    return _batch_object(stores, record, batch_id)


def retrieve_batch(served: Served, call: ServedCall) -> Json:
    """Return a batch (GET …/file_batches/{batch_id})."""
    stores = _stores(served, call)
    return _batch_object(stores, _named(stores, call), call.ids["batch_id"])


def list_batch_files(served: Served, call: ServedCall) -> Json:
    """Return a page of the files that a vector store has of a batch (GET …/file_batches/{batch_id}/files)."""
    stores, batch_id = _stores(served, call), call.ids["batch_id"]
    record = _named(stores, call)
    _batch_object(stores, record, batch_id)
    return _page(call, stores, record, batch_id)


HANDLERS_OF_VECTOR_STORES: Mapping[str, Handler] = {
    "create_vector_store": create,
    "list_vector_stores": list_,
    "retrieve_vector_store": retrieve,
    "modify_vector_store": modify,
    "delete_vector_store": delete,
    "search_vector_store": search,
    "create_store_file": create_file,
    "list_store_files": list_files,
    "retrieve_store_file": retrieve_file,
    "modify_store_file": modify_file,
    "delete_store_file": delete_file,
    "retrieve_store_file_content": file_content,
    "create_file_batch": create_batch,
    "retrieve_file_batch": retrieve_batch,
    "cancel_file_batch": retrieve_batch,
    "list_batch_files": list_batch_files,
}
"""A batch has ended when its request is answered: there is nothing left to cancel."""


def no_such_store(store_id: str) -> ApiError:
    """Return the 404 for a vector store."""
    return no_such("vector store", store_id)


def _stores(served: Served, call: ServedCall) -> VectorStores:
    return VectorStores(served.journal_of(call.caller))


def _named(stores: VectorStores, call: ServedCall) -> VectorStoreRecord:
    found = stores.get(call.caller.tenant, call.ids["vector_store_id"])
    if found is None:
        raise no_such_store(call.ids["vector_store_id"])
    return found


def _file(stores: VectorStores, record: VectorStoreRecord, file_id: str) -> StoreFile:
    found = stores.file(record, file_id)
    if found is None:
        raise no_such("file", file_id)
    return found


def _page(call: ServedCall, stores: VectorStores, record: VectorStoreRecord, batch_id: str | None = None) -> Json:
    query, lists = PageQuery.of(call.query), stores.lists
    status = call.query.get("filter") or None
    if status is not None:
        validation.one_of(status, "filter", STATUSES)

    def place(file_id: str) -> ListPlace | None:
        found = lists.store_file(record.stream, file_id)
        return found.place if found is not None else None

    page = query.page(place)
    found, has_more = page.of(lists.store_files(record.stream, page, status=status, batch_id=batch_id))
    return page_of([_file_object(record, each) for each in found], query, has_more)


def _add(
    served: Served,
    call: ServedCall,
    stores: VectorStores,
    record: VectorStoreRecord,
    wanted: Sequence[Wanted],
    param: str,
    batch_id: str | None = None,
) -> None:
    if not call.stored:
        files = read_files(served, call, wanted, param)
        if not stores.add(record, files, batch_id=batch_id, idempotency_key=call.idempotency_key, also=call.also):
            raise no_such_store(record.store_id)
    stores.lists.index()


def read_files(served: Served, call: ServedCall, wanted: Sequence[Wanted], param: str) -> list[StoreFile]:
    """Return files of the caller as they are added to a vector store, each with whether its text can be searched.

    Raises:
        ApiError: a 404 for a file that the caller does not have, or a 400 for files that are too large together.
    """
    files = FileStore(served.journal_of(call.caller))
    records: list[FileRecord] = []
    for name, *_ in wanted:
        record = files.get(call.caller.tenant, name)
        if record is None:
            raise no_such_file(name, param)
        records.append(record)
    size = sum(each.size for each in records if each.size <= FILE_TEXT_BYTES_MAX)
    if size > REQUEST_TEXT_BYTES_MAX:
        raise bad_request(
            f"The files have {size:,} bytes together, and one request indexes at most {REQUEST_TEXT_BYTES_MAX:,}: add them in "
            "several requests.",
            param,
            "files_too_large",
        )
    found: list[StoreFile] = []
    for record, (_, attributes, chunking) in zip(records, wanted, strict=True):
        made = StoreFile(record.file_id, record.filename, size=record.size, attributes=attributes, blob=record.blob)
        expires = to_iso(record.expires_at) if record.expires_at is not None else None
        made = replace(made, chunking=Chunking(*chunking), expires_at=expires)
        try:
            if record.size > FILE_TEXT_BYTES_MAX:
                raise too_long(record.size)
            text = text_of_file(b"".join(files.read(record)), record.filename)
            found.append(replace(made, text_bytes=len(text.encode("utf-8", "surrogatepass"))))
        except NoText as refusal:
            found.append(replace(made, error=(refusal.code, str(refusal))))
    return found


def store_object(stores: VectorStores, record: VectorStoreRecord) -> Json:
    """Return the provider's object of a vector store."""
    counts = stores.counts(record)
    made = objects.vector_store(
        record.store_id,
        _seconds(record.created_at) or 0,
        record.name,
        {name: str(value) for name, value in record.metadata.items()},
        (counts.completed, counts.failed),
        counts.text_bytes,
        _seconds(record.used_at) or 0,
    )
    made["description"] = record.description
    if record.expires_days is not None:
        made["expires_after"] = {"anchor": "last_active_at", "days": record.expires_days}
        made["expires_at"] = _seconds(record.expires_at)
        made["status"] = "expired" if record.is_expired else made["status"]
    return made


def _file_object(record: VectorStoreRecord, file: StoreFile) -> Json:
    created = _seconds_of(file.created_at)
    made = objects.store_file(
        file.file_id, created, record.store_id, file.text_bytes, dict(file.attributes), file.chunking
    )
    if file.error is not None:
        made |= {"status": file.status, "last_error": {"code": file.error[0], "message": file.error[1]}}
    return made


def _batch_object(stores: VectorStores, record: VectorStoreRecord, batch_id: str) -> Json:
    """Return the object of a batch: how many of its files could be searched when they were added.

    Raises:
        ApiError: a 404.
    """
    found = stores.lists.batch(record.stream, batch_id)
    if found is None:
        raise no_such("file batch", batch_id)
    counts = found.completed, found.failed
    return objects.file_batch(batch_id, _seconds_of(found.created_at), record.store_id, counts)


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None


def _seconds_of(moment: str) -> int:
    return int(from_iso(moment).timestamp())
