"""Classify a request to the provider: a model call, a request about a run, messages for a thread, or one not recorded.

The paths are the ones that SDK 3.54 requests; any prefix (`/v1`, Azure's `/openai/deployments/MODEL`) is accepted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain.conversation.messages import Message, Role

from ..openai import chat_messages, kept, response_messages, thread_messages, whole

CHAT = "POST /chat/completions"
RESPONSES = "POST /responses"
RUNS = "POST /threads/{thread_id}/runs"
THREAD_AND_RUN = "POST /threads/runs"

RETRIES_HEADER = "x-stainless-retry-count"
"""Header with the number of times that the SDK has already sent this request."""

SECRET_HEADERS = ("authorization", "api-key", "x-api-key", "ocp-apim-subscription-key", "x-goog-api-key")
"""Headers with the key or token of a request: OpenAI and most others, Azure, Anthropic, Azure's gateways, Google."""

RUN_SECONDS_DEFAULT = 600.0
"""Timeout of a recorded run in seconds, if the app's client sets none or the run may outlast one request: the SDK's default."""


@dataclass(frozen=True)
class ModelRequest:
    """Represent a request that calls a model. `held`: the provider already has the messages before these."""

    backend: str
    endpoint: str
    model: str
    messages: tuple[Message, ...]
    digest: str
    """SHA-256 (hex) of the body, which is the same in each retry by the SDK."""
    retries: int = 0
    held: bool = False
    place: str | None = None
    """The provider's id of the conversation or thread, or of the previous response."""
    thread_id: str | None = None
    stream: bool = False
    background: bool = False
    timeout_seconds: float = RUN_SECONDS_DEFAULT
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Secrets in the tools of the request, which is sent with them; nothing that is stored has them."""


@dataclass(frozen=True)
class RunQuery:
    """Represent a request about a run in progress, with the provider's id of the run and the tool results sent to it."""

    backend: str
    endpoint: str
    remote_id: str
    thread_id: str | None = None
    results: tuple[Message, ...] = ()


@dataclass(frozen=True)
class ThreadWrite:
    """Represent messages that the app adds to a thread. If the request creates the thread, its id is in the response."""

    messages: tuple[Message, ...]
    thread_id: str | None = None


@dataclass(frozen=True)
class Sent:
    """Represent an HTTP request as it is sent."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    timeout_seconds: float | None = None


_ID = r"([^/]+)"
_POST = tuple(
    (re.compile(path + "/?$"), kind)
    for path, kind in (
        (r"/chat/completions", "chat"),
        (r"/threads/runs", "thread_and_run"),
        (rf"/threads/{_ID}/runs", "run"),
        (rf"/threads/{_ID}/runs/{_ID}/(cancel|submit_tool_outputs)", "at_run"),
        (rf"/threads/{_ID}/messages", "message"),
        (r"/threads", "thread"),
        (rf"/responses/{_ID}/(cancel)", "at_response"),
        (r"/responses", "response"),
    )
)
_GET = tuple(
    (re.compile(path + "/?$"), kind)
    for path, kind in (
        (rf"/threads/{_ID}/runs/{_ID}", "at_run"),
        (rf"/responses/{_ID}", "at_response"),
    )
)


def route(method: str, path: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the kind of a request and the ids in its path; None if the request is not recorded."""
    for pattern, kind in {"POST": _POST, "GET": _GET}.get(method.upper(), ()):
        match = pattern.search(path)
        if match is not None:
            return kind, match.groups()
    return None


def read_request(sent: Sent) -> ModelRequest | RunQuery | ThreadWrite | None:
    """Classify a request; None if it is not recorded. A body that cannot be parsed counts as one without messages."""
    found = route(sent.method, sent.path)
    if found is None:
        return None
    kind, ids = found
    body = _json(sent.body)
    match kind:
        case "at_run":
            return RunQuery("assistants", f"{sent.method} {_template(ids)}", ids[1], ids[0], _results(body))
        case "at_response":
            action = "".join(f"/{each}" for each in ids[1:])
            return RunQuery("responses", f"{sent.method} /responses/{{response_id}}{action}", ids[0])
        case "message":
            return ThreadWrite(thread_messages([body]), ids[0])
        case "thread":
            return ThreadWrite(thread_messages(body.get("messages")))
    return _asked(kind, ids, body, sent)


def _asked(kind: str, ids: tuple[str, ...], body: dict[str, Any], sent: Sent) -> ModelRequest:
    model = body.get("model")
    given: dict[str, Any] = {
        "model": str(model) if model else str(body.get("assistant_id") or ""),
        "digest": hashlib.sha256(sent.body).hexdigest(),
        "retries": _retries(sent.headers),
        "stream": bool(body.get("stream")),
        "timeout_seconds": sent.timeout_seconds or RUN_SECONDS_DEFAULT,
        "secrets": _secrets_of_tools(body.get("tools")),
    }
    if kind == "chat":
        return ModelRequest("chat", CHAT, messages=chat_messages(body.get("messages")), **given)
    if kind == "response":
        conversation = body.get("conversation")
        conversation = conversation.get("id") if isinstance(conversation, Mapping) else conversation
        place = conversation or body.get("previous_response_id")
        return ModelRequest(
            "responses",
            RESPONSES,
            messages=response_messages(body.get("input")),
            held=bool(place),
            place=str(place) if place else None,
            background=bool(body.get("background")),
            **given,
        )
    given["timeout_seconds"] = max(given["timeout_seconds"], RUN_SECONDS_DEFAULT)  # a run may outlast its request
    if kind == "run":
        messages = thread_messages(body.get("additional_messages"))
        return ModelRequest("assistants", RUNS, messages=messages, held=True, place=ids[0], thread_id=ids[0], **given)
    thread = body.get("thread")
    messages = thread_messages(thread.get("messages")) if isinstance(thread, dict) else ()
    return ModelRequest("assistants", THREAD_AND_RUN, messages=messages, held=True, **given)


def _template(ids: tuple[str, ...]) -> str:
    return "/threads/{thread_id}/runs/{run_id}" + (f"/{ids[2]}" if len(ids) > 2 else "")


def _results(body: dict[str, Any]) -> tuple[Message, ...]:
    outputs = body.get("tool_outputs")
    return tuple(
        kept(
            {
                "role": Role.TOOL.value,
                "tool_call_id": each.get("tool_call_id"),
                "content": str(each.get("output") or ""),
            }
        )
        for each in (outputs if isinstance(outputs, list) else ())
        if isinstance(each, dict)
    )


def secrets_in(headers: Mapping[str, str]) -> list[str]:
    """Return the keys and tokens that a request is sent with; the provider may repeat them in an error."""
    given = (headers.get(name, "") for name in SECRET_HEADERS)
    return [value.rpartition(" ")[2] for value in given if value]


def _secrets_of_tools(tools: object) -> tuple[str, ...]:
    """Return the secrets in hosted tools, such as the token for an MCP server; the provider may repeat them."""
    given = tools if isinstance(tools, list) else []
    hosted = [each for each in given if isinstance(each, Mapping) and each.get("type") != "function"]
    if not hosted:
        return ()
    from threadledger.domain.conversation.tool_secrets import unnamed_values

    return tuple(unnamed_values(hosted))


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = whole(json.loads(body)) if body else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retries(headers: Mapping[str, str]) -> int:
    value = headers.get(RETRIES_HEADER, "")
    return int(value) if value.isdecimal() else 0


REMOTE_RUNS_MAX = 1_000
"""Maximum number of provider runs whose end is awaited; limits memory use if an app never polls its runs again."""

PLACES_MAX = 10_000
"""Maximum number of responses and threads whose conversation is remembered for later requests that refer to them."""

THREAD_MESSAGES_MAX = 100
"""Number of messages requested for one run of a thread: the maximum page size."""
