"""Handle /v1/chat/completions/{completion_id}: completions that were created with `store: true`."""

from .answers import text_of
from .call import Call, Json
from .errors import not_found
from .pages import page
from .store import CompletionRecord, Store
from .validation import metadata_of, only_known


def list_(store: Store, call: Call) -> Json:
    """Return a page of stored completions (GET /chat/completions), oldest first unless the query sets `order`."""
    model = call.query.get("model")
    kept = (record.object for record in store.completions.values() if record.kept)
    chosen = (made for made in kept if model is None or made["model"] == model)
    return page(chosen, {"order": "asc", **call.query})


def retrieve(store: Store, call: Call) -> Json:
    """Return a stored completion (GET /chat/completions/{completion_id})."""
    return _find(store, call).object


def modify(store: Store, call: Call) -> Json:
    """Replace the metadata of a stored completion (POST /chat/completions/{completion_id})."""
    record = _find(store, call)
    only_known(call.body, ("metadata",))
    record.object["metadata"] = metadata_of(call.body)
    return record.object


def delete(store: Store, call: Call) -> Json:
    """Delete a stored completion (DELETE /chat/completions/{completion_id})."""
    completion_id = _find(store, call).object["id"]
    del store.completions[completion_id]
    return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}


def list_messages(store: Store, call: Call) -> Json:
    """Return the messages that the model was given (GET /chat/completions/{completion_id}/messages)."""
    record = _find(store, call)
    return page((_shown(record, index) for index in range(len(record.messages))), {"order": "asc", **call.query})


def _shown(record: CompletionRecord, index: int) -> Json:
    given = record.messages[index]
    content = given.get("content")
    parts = content if isinstance(content, list) else None
    text = text_of(content) if content is not None else None
    shown = {"refusal": None, **given, "content": text, "content_parts": parts}
    return {"id": f"{record.object['id']}-{index}", **shown}


def _find(store: Store, call: Call) -> CompletionRecord:
    found = store.completions.get(call.ids["completion_id"])
    if found is None or not found.kept:
        raise not_found("Chat completion", call.ids["completion_id"])
    return found
