"""Handle /v1/conversations and their items."""

from __future__ import annotations

from typing import Any

from .call import Call, Json
from .errors import CONVERSATION_ITEMS_PER_CALL_MAX, LOCKED, bad_request, missing, not_found
from .pages import envelope, page
from .store import ConversationRecord, Store
from .validation import array, metadata_of, normalised, only_known


def create(store: Store, call: Call) -> Json:
    """Create a conversation with its first items (POST /conversations)."""
    only_known(call.body, ("metadata", "items"))
    created: Json = {"id": store.seeded.long("conv_"), "object": "conversation", "created_at": store.now()}
    record = ConversationRecord(created | {"metadata": metadata_of(call.body)})
    keep(record, _checked(store, call.body.get("items") or []))
    store.conversations[created["id"]] = record
    return record.object


def modify(store: Store, call: Call) -> Json:
    """Replace the metadata of a conversation (POST /conversations/{conversation_id}); it must be given."""
    conversation = store.conversation(call.ids["conversation_id"]).object
    only_known(call.body, ("metadata",))
    if "metadata" not in call.body:
        raise missing("metadata")
    conversation["metadata"] = metadata_of(call.body)
    return conversation


def retrieve(store: Store, call: Call) -> Json:
    """Return a conversation (GET /conversations/{conversation_id})."""
    return store.conversation(call.ids["conversation_id"]).object


def delete(store: Store, call: Call) -> Json:
    """Delete a conversation (DELETE /conversations/{conversation_id}); its items become unreachable."""
    conversation_id = store.conversation(call.ids["conversation_id"]).object["id"]
    del store.conversations[conversation_id]
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


def create_items(store: Store, call: Call) -> Json:
    """Append all items, or none if one is refused (POST /conversations/{conversation_id}/items)."""
    record = store.conversation(call.ids["conversation_id"])
    only_known(call.body, ("items",))
    require_free(record)
    if "items" not in call.body:
        raise missing("items")
    created = _checked(store, call.body["items"])
    keep(record, created)
    return envelope(created)


def list_items(store: Store, call: Call) -> Json:
    """Return a page of items (GET /conversations/{conversation_id}/items)."""
    return page(store.conversation(call.ids["conversation_id"]).items.values(), call.query)


def retrieve_item(store: Store, call: Call) -> Json:
    """Return an item (GET /conversations/{conversation_id}/items/{item_id})."""
    record = store.conversation(call.ids["conversation_id"])
    found = record.items.get(call.ids["item_id"])
    if found is None:
        raise not_found("Item", call.ids["item_id"])
    return found


def delete_item(store: Store, call: Call) -> Json:
    """Delete an item and return the conversation (DELETE /conversations/{conversation_id}/items/{item_id})."""
    found = retrieve_item(store, call)
    record = store.conversation(call.ids["conversation_id"])
    del record.items[found["id"]]
    return record.object


def require_free(record: ConversationRecord) -> None:
    """Raise a 400 if a response is in progress in the conversation."""
    if record.busy is not None:
        raise bad_request(LOCKED, "conversation", "conversation_locked")


def keep(record: ConversationRecord, items: list[Json]) -> None:
    """Append items; the order of creation is the order of the conversation."""
    record.items.add((item["id"], item) for item in items)


def _checked(store: Store, given: Any) -> list[Json]:
    items = array(given, "items", CONVERSATION_ITEMS_PER_CALL_MAX)
    return [normalised(item, f"items[{index}]", store.seeded) for index, item in enumerate(items)]
