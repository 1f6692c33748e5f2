"""Make a valid request of every served route, and find each place in it that names an object.

A template is a request with `{kind}` in the place of each id: `{thread_id}` in a path, a query, a header or a body. A new route
needs a valid body and its fields in the tables here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from threadledger.adapters.server.app import OWN_ROUTES
from threadledger.adapters.server.handlers import HANDLERS
from threadledger.adapters.wire import Route
from threadledger.adapters.wire.routes import ROUTES

Json = dict[str, Any]
Ids = Mapping[str, str]
Place = tuple[Any, ...]
"""Where an id is in a request: `("body", "tool_outputs", 0, "tool_call_id")`."""

MODEL = "gpt-5.5"
HELLO: Json = {"role": "user", "content": "How is the weather?"}
NOTE: Json = {"metadata": {"note": "changed"}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
RESPONSES_WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
ASKING: Json = {"model": MODEL, "input": [HELLO]}
RESULT: Json = {"type": "function_call_output", "call_id": "{call_id}", "output": "sunny"}

FORM = "form"
"""Key of a body that is sent as a form: its file is under this key, as `[name, text]`."""

BOUNDARY = "a-line-that-no-file-has"
SEARCH: Json = {"type": "file_search"}
FILES: Json = {"tool_resources": {"file_search": {"vector_store_ids": ["{vector_store_id}"]}}}
SEARCHING: Json = {"tools": [SEARCH], **FILES}
IMAGE: Json = {"type": "image_file", "image_file": {"file_id": "{image_id}"}}
READ: Json = {"role": "user", "content": [IMAGE], "attachments": [{"file_id": "{file_id}", "tools": [SEARCH]}]}
"""A message with an image, and a file that is searched."""

SERVED = tuple(each for each in (*ROUTES, *OWN_ROUTES) if each.operation in HANDLERS)
"""Routes that have a handler."""

BODIES: Mapping[str, tuple[Json, ...]] = {
    "create_assistant": ({"model": MODEL, "name": "John", "tools": [WEATHER]}, {"model": MODEL, **SEARCHING}),
    "modify_assistant": ({"name": "Jane"}, FILES),
    "create_thread": ({"messages": [HELLO], "metadata": {"note": "new"}}, {"messages": [READ], **FILES}),
    "modify_thread": (NOTE, FILES),
    "create_message": (HELLO, READ),
    "modify_message": (NOTE,),
    "create_run": (
        {"assistant_id": "{assistant_id}", "additional_messages": [HELLO]},
        {"assistant_id": "{assistant_id}", "additional_messages": [READ], "tools": [SEARCH]},
    ),
    "create_thread_and_run": (
        {"assistant_id": "{assistant_id}", "thread": {"messages": [HELLO]}},
        {"assistant_id": "{assistant_id}", "thread": {"messages": [READ], **FILES}, "tools": [SEARCH], **FILES},
    ),
    "modify_run": (NOTE,),
    "submit_tool_outputs": ({"tool_outputs": [{"tool_call_id": "{tool_call_id}", "output": "sunny"}]},),
    "create_completion": (
        {"model": MODEL, "messages": [HELLO], "store": True},
        {"model": MODEL, "messages": [HELLO], "store": True, "metadata": {"conversation": "{conversation}"}},
    ),
    "modify_completion": (NOTE,),
    "create_conversation": ({"items": [HELLO], "metadata": {"note": "new"}},),
    "modify_conversation": (NOTE,),
    "create_items": ({"items": [HELLO]},),
    "create_response": (
        ASKING,
        ASKING | {"background": True},
        ASKING | {"conversation": "{conversation_id}"},
        ASKING | {"conversation": {"id": "{conversation_id}"}},
        ASKING | {"previous_response_id": "{response_id}"},
        {"model": MODEL, "input": [RESULT], "previous_response_id": "{calling_response_id}"},
    ),
    "count_input_tokens": (
        ASKING,
        ASKING | {"conversation": "{conversation_id}"},
        ASKING | {"previous_response_id": "{response_id}"},
    ),
    "create_file": ({FORM: ["notes.txt", "The parcel is in Lyon."], "purpose": "assistants"},),
    "create_vector_store": ({"name": "notes", "file_ids": ["{file_id}"]},),
    "modify_vector_store": ({"name": "other notes"},),
    "search_vector_store": ({"query": "Where is the mark?"},),
    "create_store_file": ({"file_id": "{file_id}", "attributes": {"year": 2026}},),
    "modify_store_file": ({"attributes": {"year": 2027}},),
    "create_file_batch": ({"file_ids": ["{file_id}"]}, {"files": [{"file_id": "{file_id}"}]}),
}
"""Bodies by operation; one that streams is sent with `stream` too."""


HEADERS: Mapping[str, tuple[Json, ...]] = {"create_completion": ({"x-threadledger-conversation": "{conversation}"},)}
"""Headers that name an object, by operation, besides those that every request may have."""

LISTED = {
    "list_assistants": "assistant_id",
    "list_threads": "thread_id",
    "list_messages": "message_id",
    "list_runs": "run_id",
    "list_run_steps": "step_id",
    "list_completions": "completion_id",
    "list_completion_messages": "completion_message_id",
    "list_items": "item_id",
    "list_input_items": "input_item_id",
    "list_files": "file_id",
    "list_vector_stores": "vector_store_id",
    "list_store_files": "file_id",
    "list_batch_files": "file_id",
}
"""Kinds of what lists have: `after` and `before` name one of them."""

STREAMED: Mapping[str, Json] = {"retrieve_response": {"stream": "true", "starting_after": "0"}}
"""Queries of what is read as a stream."""

FILTERS: Mapping[str, Json] = {"list_messages": {"run_id": "{run_id}"}}
"""Queries of lists that leave out all objects but those of another one: of one that does not exist, the list is empty."""

NAMES = frozenset({"conversation"})
"""What a request may name although it does not exist: it is created, for each tenant its own."""

OF_WAITING = frozenset({"cancel_run", "submit_tool_outputs", "cancel_response"})
"""Operations on a run that waits for results of functions, or on a response in the background."""

NO_IDS = frozenset({"model"})
"""Parameters of paths that name nothing of a tenant."""

FIELDS_WITH_IDS = {
    "assistant_id": "an assistant",
    "tool_outputs": "calls of functions",
    "metadata": "a conversation, in requests for completions",
    "conversation": "a conversation",
    "previous_response_id": "a response",
    "input": "calls of functions",
    "tool_resources": "vector stores",
    "file_id": "a file",
    "file_ids": "files",
    "files": "files",
}
FIELDS_WITH_CONTENT = frozenset({"content", "messages", "additional_messages", "thread", "items", "input"})
"""Fields with content parts, which could refer to stored bytes."""

FIELDS_WITHOUT_IDS = frozenset({
    "additional_instructions", "attachments", "attributes", "audio", "background", "background_options",
    "chunking_strategy", "context_management", "description", "expires_after", "file", "filters",
    "frequency_penalty", "function_call", "functions", "include", "instructions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_num_results", "max_output_tokens", "max_prompt_tokens", "max_tokens",
    "max_tool_calls", "modalities", "model", "moderation", "n", "name", "output", "parallel_tool_calls",
    "personality", "prediction", "presence_penalty", "prompt", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "purpose", "query", "ranking_options", "reasoning", "reasoning_effort",
    "response_format", "rewrite_query", "role", "safety_identifier", "seed", "service_tier", "stop", "store",
    "stream", "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p",
    "truncation", "truncation_strategy", "user", "verbosity", "web_search_options",
})  # fmt: skip
"""Fields that name nothing in the ledger, or, as attachments do, only within the messages of other requests. Prompts are the
provider's, and not served."""

QUERIES_WITHOUT_IDS = frozenset({
    "limit", "order", "stream", "starting_after", "model", "metadata", "include[]", "purpose", "filter",
})  # fmt: skip
HEADERS_WITHOUT_IDS = frozenset({"x-stainless-poll-helper", "idempotency-key", "x-stainless-retry-count"})


@dataclass(frozen=True)
class Template:
    """Hold a request of a route without its ids."""

    route: Route
    path: Json
    query: Json = field(default_factory=dict)
    headers: Json = field(default_factory=dict)
    body: Any = None

    @property
    def places(self) -> list[Place]:
        """Return where ids of a tenant are."""
        return [*_places(self._parts)]

    @property
    def _parts(self) -> Json:
        return {"path": self.path, "query": self.query, "headers": self.headers, "body": self.body}

    def kind(self, place: Place) -> str:
        """Return the kind of the id in a place."""
        value: Any = self._parts
        for key in place:
            value = value[key]
        return str(value)[1:-1]

    def filled(self, ids: Callable[[Place, str], str]) -> Request:
        """Return the request with the ids that a function returns for each place and kind."""
        parts = _filled(self._parts, (), ids)
        segments = (quote(parts["path"].get(each[1:-1], each), safe="") for each in self.route.segments)
        query = f"?{urlencode(parts['query'])}" if parts["query"] else ""
        return Request(self.route, f"/v1/{'/'.join(segments)}{query}", parts["headers"], parts["body"])

    def of(self, own: Ids) -> Request:
        """Return the request with the ids of one tenant."""
        return self.filled(lambda _, kind: own[kind])


@dataclass(frozen=True)
class Request:
    """Hold a whole request, but for its key."""

    route: Route
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def raw(self) -> bytes | None:
        """Return the body as it is sent."""
        return None if self.body is None else encoded(self.body)[0]

    @property
    def kind(self) -> str:
        """Return the content type of the body."""
        return encoded(self.body)[1]


def encoded(body: Any) -> tuple[bytes, str]:
    """Return a body as it is sent, and its content type."""
    if not isinstance(body, dict) or FORM not in body:
        return json.dumps(body, separators=(",", ":")).encode(), "application/json"
    name, text = body[FORM]
    parts = [
        f'Content-Disposition: form-data; name="{field}"\r\n\r\n{value}'
        for field, value in body.items()
        if field != FORM
    ]
    parts.append(f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n{text}')
    raw = "".join(f"--{BOUNDARY}\r\n{part}\r\n" for part in parts) + f"--{BOUNDARY}--\r\n"
    return raw.encode(), f"multipart/form-data; boundary={BOUNDARY}"


def templates(route: Route) -> Iterator[Template]:
    """Yield the requests of a route: one for each way in which it may name an object, and of those with a stream."""
    operation, names = route.operation, re.findall(r"\{(\w+)\}", route.template)
    begin = "waiting_" if operation in OF_WAITING else ""
    path = {name: f"{{{begin}{name}}}" for name in names}
    listed = f"{{{LISTED[operation]}}}" if operation in LISTED else ""
    pages: list[Json] = [{"after": listed}, {"before": listed}] if listed else []
    queries = [{}, *pages, *(each[operation] for each in (FILTERS, STREAMED) if operation in each)]
    bodies: tuple[Any, ...] = BODIES.get(operation, ({} if route.method == "POST" else None,))
    if route.streams and "stream" in route.fields:
        bodies = (*bodies, *({**each, "stream": True} for each in bodies))
    for query in queries:
        for headers in ({}, *HEADERS.get(operation, ())):
            for body in bodies:
                yield Template(route, path, query, headers, body)


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*place, index))
    elif isinstance(value, str) and re.fullmatch(r"\{\w+\}", value) and value[1:-1] not in NO_IDS:
        yield place


def _filled(value: Any, place: Place, ids: Callable[[Place, str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner, (*place, name), ids) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, (*place, index), ids) for index, inner in enumerate(value)]
    if isinstance(value, str) and re.fullmatch(r"\{\w+\}", value):
        return MODEL if value[1:-1] in NO_IDS else ids(place, value[1:-1])
    return value
