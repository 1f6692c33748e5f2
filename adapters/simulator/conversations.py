"""Handle /v1/conversations and their items."""

from __future__ import annotations

from ..wire import Json, bodies, errors, items, objects, pages, validation
from .requests import SimulatedCall
from .store import ProviderStore, SimulatedConversation


def create(store: ProviderStore, call: SimulatedCall) -> Json:
    """Create a conversation with its first items (POST /conversations)."""
    call.refuse_unknown_fields()
    conversation_id, now = store.ids.long("conv_"), store.now()
    record = SimulatedConversation(objects.conversation(conversation_id, now, validation.metadata_of(call.body)))
    created = bodies.conversation_items(call.body.get("items") or [], store.ids)
    items.require_own_ids(created, "items")
    store.require_files(created, "items")
    append(record, created)
    store.conversations[conversation_id] = record
    return record.object


def modify(store: ProviderStore, call: SimulatedCall) -> Json:
    """Replace the metadata of a conversation (POST /conversations/{conversation_id}); it must be given."""
    conversation = store.conversation(call.ids["conversation_id"]).object
    call.refuse_unknown_fields()
    if "metadata" not in call.body:
        raise errors.missing("metadata")
    conversation["metadata"] = validation.metadata_of(call.body)
    return conversation


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a conversation (GET /conversations/{conversation_id})."""
    return store.conversation(call.ids["conversation_id"]).object


def delete(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete a conversation (DELETE /conversations/{conversation_id}); its items become unreachable."""
    conversation_id = store.conversation(call.ids["conversation_id"]).object["id"]
    del store.conversations[conversation_id]
    return objects.deletion(conversation_id, "conversation.deleted")


def create_items(store: ProviderStore, call: SimulatedCall) -> Json:
    """Append all items, or none if one is refused (POST /conversations/{conversation_id}/items)."""
    record = store.conversation(call.ids["conversation_id"])
    call.refuse_unknown_fields()
    require_free(record)
    if "items" not in call.body:
        raise errors.missing("items")
    created = bodies.conversation_items(call.body["items"], store.ids)
    items.require_own_ids([*record.items.values(), *created], "items")
    store.require_files(created, "items")
    append(record, created)
    return pages.envelope(created)


def list_items(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of items (GET /conversations/{conversation_id}/items)."""
    return pages.page(store.conversation(call.ids["conversation_id"]).items.values(), call.query)


def retrieve_item(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return an item (GET /conversations/{conversation_id}/items/{item_id})."""
    record = store.conversation(call.ids["conversation_id"])
    found = record.items.get(call.ids["item_id"])
    if found is None:
        raise errors.not_found("Item", call.ids["item_id"])
    return found


def delete_item(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete an item and return the conversation (DELETE /conversations/{conversation_id}/items/{item_id})."""
    found = retrieve_item(store, call)
    record = store.conversation(call.ids["conversation_id"])
    del record.items[found["id"]]
    return record.object


def require_free(record: SimulatedConversation) -> None:
    """Raise a 400 if a response is in progress in the conversation."""
    if record.busy is not None:
        raise errors.bad_request(errors.LOCKED, "conversation", "conversation_locked")


def append(record: SimulatedConversation, added: list[Json]) -> None:
    """Append items; the order of creation is the order of the conversation."""
    record.items.add((item["id"], item) for item in added)
