"""List every route of the simulated provider: method, path template (without /v1) and handler."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from . import assistants, chat, conversations, models, responses, runs, threads
from . import chat as chat_stored
from .call import Call, Json
from .store import Store
from .streams import EventStream

Handler = Callable[[Store, Call], Json | EventStream]

RUN = "run"  # the model answers over several requests
RESPONSE = "response"  # the model answers one request
CHAT = "chat"


@dataclass(frozen=True)
class Route:
    """Map a method and a path template to a handler.

    `api` is the group of routes that is retired together. `makes` is the kind of answer that a model gives, or None.
    """

    method: str
    template: str
    api: str
    handler: Handler
    makes: str | None = None

    @property
    def streams(self) -> bool:
        """Return whether the route can answer with a stream."""
        return self.makes is not None or self.name == "GET /responses/{response_id}"

    @property
    def name(self) -> str:
        """Return the name used in faults and counts, such as `POST /threads/{thread_id}/runs`."""
        return f"{self.method} {self.template}"


_THREAD = "/threads/{thread_id}"
_MESSAGE = _THREAD + "/messages/{message_id}"
_RUN = _THREAD + "/runs/{run_id}"
_CONVERSATION = "/conversations/{conversation_id}"
_RESPONSE = "/responses/{response_id}"
_COMPLETION = "/chat/completions/{completion_id}"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/assistants", "assistants", assistants.list_),
    Route("POST", "/assistants", "assistants", assistants.create),
    Route("GET", "/assistants/{assistant_id}", "assistants", assistants.retrieve),
    Route("POST", "/assistants/{assistant_id}", "assistants", assistants.modify),
    Route("DELETE", "/assistants/{assistant_id}", "assistants", assistants.delete),
    Route("POST", "/threads", "assistants", threads.create),
    Route("POST", "/threads/runs", "assistants", runs.create_with_thread, RUN),
    Route("GET", _THREAD, "assistants", threads.retrieve),
    Route("POST", _THREAD, "assistants", threads.modify),
    Route("DELETE", _THREAD, "assistants", threads.delete),
    Route("GET", _THREAD + "/messages", "assistants", threads.list_messages),
    Route("POST", _THREAD + "/messages", "assistants", threads.create_message),
    Route("GET", _MESSAGE, "assistants", threads.retrieve_message),
    Route("POST", _MESSAGE, "assistants", threads.modify_message),
    Route("DELETE", _MESSAGE, "assistants", threads.delete_message),
    Route("GET", _THREAD + "/runs", "assistants", runs.list_),
    Route("POST", _THREAD + "/runs", "assistants", runs.create, RUN),
    Route("GET", _RUN, "assistants", runs.retrieve),
    Route("POST", _RUN, "assistants", runs.modify),
    Route("POST", _RUN + "/cancel", "assistants", runs.cancel),
    Route("POST", _RUN + "/submit_tool_outputs", "assistants", runs.submit_tool_outputs, RUN),
    Route("GET", _RUN + "/steps", "assistants", runs.list_steps),
    Route("GET", _RUN + "/steps/{step_id}", "assistants", runs.retrieve_step),
    Route("POST", "/conversations", "conversations", conversations.create),
    Route("GET", _CONVERSATION, "conversations", conversations.retrieve),
    Route("POST", _CONVERSATION, "conversations", conversations.modify),
    Route("DELETE", _CONVERSATION, "conversations", conversations.delete),
    Route("GET", _CONVERSATION + "/items", "conversations", conversations.list_items),
    Route("POST", _CONVERSATION + "/items", "conversations", conversations.create_items),
    Route("GET", _CONVERSATION + "/items/{item_id}", "conversations", conversations.retrieve_item),
    Route("DELETE", _CONVERSATION + "/items/{item_id}", "conversations", conversations.delete_item),
    Route("POST", "/responses", "responses", responses.create, RESPONSE),
    Route("POST", "/responses/input_tokens", "responses", responses.count_input_tokens),
    Route("GET", _RESPONSE, "responses", responses.retrieve),
    Route("DELETE", _RESPONSE, "responses", responses.delete),
    Route("POST", _RESPONSE + "/cancel", "responses", responses.cancel),
    Route("GET", _RESPONSE + "/input_items", "responses", responses.list_input_items),
    Route("POST", "/chat/completions", "chat", chat.create, CHAT),
    Route("GET", "/chat/completions", "chat", chat_stored.list_),
    Route("GET", _COMPLETION, "chat", chat_stored.retrieve),
    Route("POST", _COMPLETION, "chat", chat_stored.modify),
    Route("DELETE", _COMPLETION, "chat", chat_stored.delete),
    Route("GET", _COMPLETION + "/messages", "chat", chat_stored.list_messages),
    Route("GET", "/models", "models", models.list_),
    Route("GET", "/models/{model}", "models", models.retrieve),
)
APIS = tuple(dict.fromkeys(route.api for route in ROUTES))


class Router:
    """Find the route of a path by its number of segments, then segment by segment."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._by_shape: dict[tuple[str, int], list[tuple[list[str], Route]]] = {}
        for route in routes:
            segments = route.template.strip("/").split("/")
            self._by_shape.setdefault((route.method, len(segments)), []).append((segments, route))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a path (without /v1) and the values of its parameters, or None."""
        segments = path.strip("/").split("/")
        for template, route in self._by_shape.get((method, len(segments)), ()):
            ids = _match(template, segments)
            if ids is not None:
                return route, ids
        return None


def route_named(name: str) -> Route | None:
    """Return the route with this name, or None; the names of path parameters do not matter."""
    return _BY_SHAPE.get(_shape(name))


def _match(template: list[str], segments: list[str]) -> dict[str, str] | None:
    ids: dict[str, str] = {}
    for expected, given in zip(template, segments, strict=True):
        if expected.startswith("{"):
            ids[expected[1:-1]] = unquote(given)
        elif expected != given:
            return None
    return ids


def _shape(name: str) -> str:
    return re.sub(r"\{[^/]*\}", "{}", name)


_BY_SHAPE = {_shape(route.name): route for route in ROUTES}
