"""List every route of the provider: operation, method, path template (without /v1) and the fields of its body.

A program that serves the routes binds its handlers by the names of the operations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from . import fields

RUN = "run"  # the model answers over several requests
RESPONSE = "response"  # the model answers one request
CHAT = "chat"


@dataclass(frozen=True)
class Route:
    """Describe one operation: a method and a path template.

    `api` is the group of routes that is retired together. `fields` are the names of the body's fields; their values are
    checked by `bodies.py`, `items.py` and `validation.py`. `makes` is the kind of answer that a model gives, or None.
    `streams` says whether the answer can be a stream.
    """

    operation: str
    method: str
    template: str
    api: str
    fields: tuple[str, ...] = ()
    makes: str | None = None
    streams: bool = False

    @property
    def name(self) -> str:
        """Return the name used in scripts and counts, such as `POST /threads/{thread_id}/runs`."""
        return f"{self.method} {self.template}"

    @property
    def segments(self) -> tuple[str, ...]:
        """Return the parts of the template; a parameter is in braces."""
        return tuple(self.template.strip("/").split("/"))


_THREAD = "/threads/{thread_id}"
_MESSAGE = _THREAD + "/messages/{message_id}"
_RUN = _THREAD + "/runs/{run_id}"
_CONVERSATION = "/conversations/{conversation_id}"
_RESPONSE = "/responses/{response_id}"
_STORE = "/vector_stores/{vector_store_id}"
_STORE_FILE = _STORE + "/files/{file_id}"
_BATCH = _STORE + "/file_batches/{batch_id}"
_COMPLETION = "/chat/completions/{completion_id}"


def _assistants(
    operation: str, method: str, template: str, known: tuple[str, ...] = (), makes: str | None = None
) -> Route:
    return Route(operation, method, template, "assistants", known, makes, streams=makes is not None)


def _conversations(operation: str, method: str, template: str, known: tuple[str, ...] = ()) -> Route:
    return Route(operation, method, template, "conversations", known)


def _responses(operation: str, method: str, template: str, known: tuple[str, ...] = ()) -> Route:
    return Route(operation, method, template, "responses", known)


def _chat(operation: str, method: str, template: str, known: tuple[str, ...] = ()) -> Route:
    return Route(operation, method, template, "chat", known)


def _stores(operation: str, method: str, template: str, known: tuple[str, ...] = ()) -> Route:
    return Route(operation, method, template, "vector_stores", known)


ROUTES: tuple[Route, ...] = (
    _assistants("list_assistants", "GET", "/assistants"),
    _assistants("create_assistant", "POST", "/assistants", fields.ASSISTANT_FIELDS),
    _assistants("retrieve_assistant", "GET", "/assistants/{assistant_id}"),
    _assistants("modify_assistant", "POST", "/assistants/{assistant_id}", fields.ASSISTANT_FIELDS),
    _assistants("delete_assistant", "DELETE", "/assistants/{assistant_id}"),
    _assistants("create_thread", "POST", "/threads", fields.THREAD_FIELDS),
    _assistants("create_thread_and_run", "POST", "/threads/runs", fields.RUN_WITH_THREAD_FIELDS, RUN),
    _assistants("retrieve_thread", "GET", _THREAD),
    _assistants("modify_thread", "POST", _THREAD, fields.THREAD_CHANGE_FIELDS),
    _assistants("delete_thread", "DELETE", _THREAD),
    _assistants("list_messages", "GET", _THREAD + "/messages"),
    _assistants("create_message", "POST", _THREAD + "/messages", fields.THREAD_MESSAGE_FIELDS),
    _assistants("retrieve_message", "GET", _MESSAGE),
    _assistants("modify_message", "POST", _MESSAGE, fields.METADATA_FIELDS),
    _assistants("delete_message", "DELETE", _MESSAGE),
    _assistants("list_runs", "GET", _THREAD + "/runs"),
    _assistants("create_run", "POST", _THREAD + "/runs", fields.RUN_FIELDS, RUN),
    _assistants("retrieve_run", "GET", _RUN),
    _assistants("modify_run", "POST", _RUN, fields.METADATA_FIELDS),
    _assistants("cancel_run", "POST", _RUN + "/cancel"),
    _assistants("submit_tool_outputs", "POST", _RUN + "/submit_tool_outputs", fields.TOOL_OUTPUTS_FIELDS, RUN),
    _assistants("list_run_steps", "GET", _RUN + "/steps"),
    _assistants("retrieve_run_step", "GET", _RUN + "/steps/{step_id}"),
    _conversations("create_conversation", "POST", "/conversations", fields.CONVERSATION_FIELDS),
    _conversations("retrieve_conversation", "GET", _CONVERSATION),
    _conversations("modify_conversation", "POST", _CONVERSATION, fields.METADATA_FIELDS),
    _conversations("delete_conversation", "DELETE", _CONVERSATION),
    _conversations("list_items", "GET", _CONVERSATION + "/items"),
    _conversations("create_items", "POST", _CONVERSATION + "/items", fields.CONVERSATION_ITEMS_FIELDS),
    _conversations("retrieve_item", "GET", _CONVERSATION + "/items/{item_id}"),
    _conversations("delete_item", "DELETE", _CONVERSATION + "/items/{item_id}"),
    Route("create_response", "POST", "/responses", "responses", fields.RESPONSE_FIELDS, RESPONSE, streams=True),
    _responses("count_input_tokens", "POST", "/responses/input_tokens", fields.INPUT_TOKENS_FIELDS),
    Route("retrieve_response", "GET", _RESPONSE, "responses", streams=True),
    _responses("delete_response", "DELETE", _RESPONSE),
    _responses("cancel_response", "POST", _RESPONSE + "/cancel"),
    _responses("list_input_items", "GET", _RESPONSE + "/input_items"),
    Route("create_completion", "POST", "/chat/completions", "chat", fields.COMPLETION_FIELDS, CHAT, streams=True),
    _chat("list_completions", "GET", "/chat/completions"),
    _chat("retrieve_completion", "GET", _COMPLETION),
    _chat("modify_completion", "POST", _COMPLETION, fields.METADATA_FIELDS),
    _chat("delete_completion", "DELETE", _COMPLETION),
    _chat("list_completion_messages", "GET", _COMPLETION + "/messages"),
    Route("create_message_reply", "POST", "/messages", "messages", fields.MESSAGES_FIELDS, CHAT, streams=True),
    Route("create_file", "POST", "/files", "files", fields.FILE_FIELDS),
    Route("list_files", "GET", "/files", "files"),
    Route("retrieve_file", "GET", "/files/{file_id}", "files"),
    Route("delete_file", "DELETE", "/files/{file_id}", "files"),
    Route("retrieve_file_content", "GET", "/files/{file_id}/content", "files"),
    _stores("create_vector_store", "POST", "/vector_stores", fields.VECTOR_STORE_FIELDS),
    _stores("list_vector_stores", "GET", "/vector_stores"),
    _stores("retrieve_vector_store", "GET", _STORE),
    _stores("modify_vector_store", "POST", _STORE, fields.VECTOR_STORE_CHANGE_FIELDS),
    _stores("delete_vector_store", "DELETE", _STORE),
    _stores("search_vector_store", "POST", _STORE + "/search", fields.VECTOR_STORE_SEARCH_FIELDS),
    _stores("create_store_file", "POST", _STORE + "/files", fields.STORE_FILE_FIELDS),
    _stores("list_store_files", "GET", _STORE + "/files"),
    _stores("retrieve_store_file", "GET", _STORE_FILE),
    _stores("modify_store_file", "POST", _STORE_FILE, fields.STORE_FILE_CHANGE_FIELDS),
    _stores("delete_store_file", "DELETE", _STORE_FILE),
    _stores("retrieve_store_file_content", "GET", _STORE_FILE + "/content"),
    _stores("create_file_batch", "POST", _STORE + "/file_batches", fields.STORE_BATCH_FIELDS),
    _stores("retrieve_file_batch", "GET", _BATCH),
    _stores("cancel_file_batch", "POST", _BATCH + "/cancel"),
    _stores("list_batch_files", "GET", _BATCH + "/files"),
    Route("list_models", "GET", "/models", "models"),
    Route("retrieve_model", "GET", "/models/{model}", "models"),
)

APIS = tuple(dict.fromkeys(route.api for route in ROUTES))


class Router:
    """Find the route of a path by its number of segments, then segment by segment."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._by_shape: dict[tuple[str, int], list[tuple[tuple[str, ...], Route]]] = {}
        for route in routes:
            self._by_shape.setdefault((route.method, len(route.segments)), []).append((route.segments, route))
        self._methods = sorted({method for method, _ in self._by_shape})

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a path (without /v1) and the values of its parameters, or None."""
        segments = path.strip("/").split("/")
        for template, route in self._by_shape.get((method, len(segments)), ()):
            ids = _match(template, segments)
            if ids is not None:
                return route, ids
        return None

    def methods(self, path: str) -> list[str]:
        """Return the methods that a path (without /v1) has, in alphabetical order."""
        return [method for method in self._methods if self.find(method, path) is not None]


def route_named(name: str) -> Route | None:
    """Return the route with this name, or None; the names of path parameters do not matter."""
    return _BY_SHAPE.get(_shape(name))


def _match(template: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
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
