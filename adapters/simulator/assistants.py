"""Handle /v1/assistants, the provider's copies of profiles."""

from __future__ import annotations

from ..wire import Json, bodies, objects, pages, validation
from .requests import SimulatedCall
from .store import ProviderStore


def create(store: ProviderStore, call: SimulatedCall) -> Json:
    """Create an assistant (POST /assistants)."""
    call.refuse_unknown_fields()
    model = store.accept_model(validation.required_string(call.body, "model"))
    created = objects.assistant(store.ids.short("asst_"), store.now(), model)
    created |= bodies.assistant_values(call.body)
    store.assistants[created["id"]] = created
    return created


def modify(store: ProviderStore, call: SimulatedCall) -> Json:
    """Change the given fields of an assistant (POST /assistants/{assistant_id}); the others keep their values."""
    assistant = store.assistant(call.ids["assistant_id"])
    call.refuse_unknown_fields()
    if call.body.get("model") is not None:
        store.accept_model(validation.required_string(call.body, "model"))
    assistant |= bodies.assistant_values(call.body)
    return assistant


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return an assistant (GET /assistants/{assistant_id})."""
    return store.assistant(call.ids["assistant_id"])


def list_(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of assistants (GET /assistants)."""
    return pages.page(store.assistants.values(), call.query)


def delete(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete an assistant (DELETE /assistants/{assistant_id})."""
    assistant_id = store.assistant(call.ids["assistant_id"])["id"]
    del store.assistants[assistant_id]
    return objects.deletion(assistant_id, "assistant.deleted")
