"""Bind the operations of the routes to the server's handlers, and list the models."""

from __future__ import annotations

from collections.abc import Mapping

from ..wire import Json, errors, objects
from .assistants import HANDLERS_OF_ASSISTANTS
from .calls import Handler, Served, ServedCall
from .chat import HANDLERS_OF_CHAT
from .conversations import HANDLERS_OF_CONVERSATIONS
from .files import HANDLERS_OF_FILES
from .responses import HANDLERS_OF_RESPONSES
from .runs import HANDLERS_OF_RUNS
from .threads import HANDLERS_OF_THREADS
from .vector_stores import HANDLERS_OF_VECTOR_STORES

MODEL_CREATED_AT = 0
"""When a model was created: not known."""


def model_names(served: Served) -> list[str]:
    """Return the names of models that a request can give: those with a route, and those of the chain."""
    configured = (candidate.model for candidate in served.ledger.services.policy.candidates)
    return list(dict.fromkeys([*served.settings.models, *configured]))


def list_models(served: Served, _call: ServedCall) -> Json:
    """Return the models (GET /models)."""
    data = [objects.model(name, MODEL_CREATED_AT, None) for name in model_names(served)]
    return {"object": "list", "data": data}


def retrieve_model(served: Served, call: ServedCall) -> Json:
    """Return a model (GET /models/{model})."""
    name = call.ids["model"]
    if name not in model_names(served):
        raise errors.unknown_model(name)
    return objects.model(name, MODEL_CREATED_AT, None)


HANDLERS: Mapping[str, Handler] = {
    **HANDLERS_OF_ASSISTANTS,
    **HANDLERS_OF_THREADS,
    **HANDLERS_OF_RUNS,
    **HANDLERS_OF_CHAT,
    **HANDLERS_OF_CONVERSATIONS,
    **HANDLERS_OF_RESPONSES,
    **HANDLERS_OF_FILES,
    **HANDLERS_OF_VECTOR_STORES,
    "list_models": list_models,
    "retrieve_model": retrieve_model,
}
