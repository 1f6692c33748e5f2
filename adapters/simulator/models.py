"""Handle /v1/models: the known models and their shutdown dates."""

from __future__ import annotations

from collections.abc import Mapping

from ..wire import Json, objects
from .requests import SimulatedCall
from .store import ProviderStore

# Listed if the simulator was given no models; it then accepts any other name, too.
# Ids from the doc strings of openai-python 3.54, dates from its types/beta/assistant_create_params.py.
DEFAULT_MODELS: Mapping[str, str | None] = {
    "gpt-6-astra": None,
    "gpt-5.5": None,
    "gpt-5.1": "2027-04-01",
    "gpt-4o": "2027-01-14",
    "gpt-4o-mini": "2027-01-14",
    "gpt-4.1": "2027-01-14",
    "gpt-5": "2026-12-11",
    "gpt-4": "2026-10-23",
}

CREATED_AT = 1_735_689_600  # 2025-01-01, the same for every model


def list_(store: ProviderStore, _call: SimulatedCall) -> Json:
    """Return the models in service (GET /models)."""
    known = DEFAULT_MODELS if store.models is None else store.models
    in_service = {name: date for name, date in known.items() if name not in store.retired_models}
    return {"object": "list", "data": [objects.model(name, CREATED_AT, date) for name, date in in_service.items()]}


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a model (GET /models/{model})."""
    name = store.accept_model(call.ids["model"])
    known = DEFAULT_MODELS if store.models is None else store.models
    return objects.model(name, CREATED_AT, known.get(name))
