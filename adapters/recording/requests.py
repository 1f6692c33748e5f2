"""Classify a request to the provider: a model call, a request about a run, messages for a thread, or one not recorded.

The paths are the ones that SDK 3.54 requests; any prefix (`/v1`, Azure's `/openai/deployments/MODEL`) is accepted.

The messages of a request, in the formats of the three APIs, become our messages in the format of Chat Completions.
Instructions (roles `system` and `developer`) belong to the app and are not part of memory: they are omitted. Items that
only the provider can use again (reasoning, item references, calls of hosted tools) are omitted too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.errors import InvalidMessage
from threadledger.domain.failures import whole_text

CHAT = "POST /chat/completions"
RESPONSES = "POST /responses"
RUNS = "POST /threads/{thread_id}/runs"
THREAD_AND_RUN = "POST /threads/runs"

RETRIES_HEADER = "x-stainless-retry-count"
"""Header with the number of times that the SDK has already sent this request."""

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


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = whole(json.loads(body)) if body else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retries(headers: Mapping[str, str]) -> int:
    value = headers.get(RETRIES_HEADER, "")
    return int(value) if value.isdecimal() else 0


INSTRUCTIONS = frozenset({"system", "developer"})

_OF_THE_PROVIDER = frozenset({"reasoning", "item_reference", "compaction", "mcp_list_tools", "mcp_approval_request"})
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Item types that call a tool of the app, and the field that contains its arguments."""

_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})


def whole(value: Any) -> Any:
    """Return a JSON value with storable text: unpaired surrogates become U+FFFD."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [whole(each) for each in value]
    return {whole_text(str(name)): whole(each) for name, each in value.items()} if isinstance(value, dict) else value


def chat_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of a Chat Completions request."""
    return tuple(kept(each) for each in _objects(given) if each.get("role") not in INSTRUCTIONS)


def thread_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of an Assistants thread, as they are in requests and responses."""
    return tuple(
        kept({"role": each.get("role"), "content": _thread_content(each.get("content"))}) for each in _objects(given)
    )


def response_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages in the input or output of the Responses API; consecutive items of the model become one message."""
    if isinstance(given, str):
        return (kept({"role": "user", "content": given}),)
    found: list[Message] = []
    for message in _of_items(_objects(given)):
        if found and message.role is Role.ASSISTANT and found[-1].role is Role.ASSISTANT:
            found[-1] = replace(
                found[-1],
                content=(found[-1].text + message.text) or None,
                tool_calls=found[-1].tool_calls + message.tool_calls,
            )
        else:
            found.append(message)
    return tuple(found)


def kept(given: Mapping[str, Any]) -> Message:
    """Return the message, or a placeholder with the reason if the message cannot be stored. Never raises `InvalidMessage`."""
    said = {name: value for name, value in given.items() if name == "content" or value not in (None, [])}
    try:
        return parse_message(said)
    except InvalidMessage as refusal:
        role = Role.ASSISTANT if given.get("role") == Role.ASSISTANT.value else Role.USER
        return Message(role, f"[a message was not kept: {whole_text(str(refusal))}]")


def _of_items(items: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    for item in items:
        kind = item.get("type") or "message"
        if kind in _CALLS:
            written = item.get(_CALLS[kind])
            call = ToolCall(
                str(item.get("call_id")), str(item.get("name")), written if isinstance(written, str) else ""
            )
            yield Message(Role.ASSISTANT, None, (call,))
        elif kind in _RESULTS:
            output = item.get("output")
            text = output if isinstance(output, str) else _text(output)
            yield kept({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        elif kind == "message":
            if item.get("role") not in INSTRUCTIONS:
                yield kept({"role": item.get("role"), "content": _item_content(item)})
        elif kind not in _OF_THE_PROVIDER and not kind.endswith("_call"):
            yield Message(Role.USER, f"[{whole_text(str(kind))} not shown]")


def _item_content(item: Mapping[str, Any]) -> Any:
    content = item.get("content")
    if isinstance(content, str) or content is None:
        return content
    if item.get("role") == Role.ASSISTANT.value:
        return _text(content)
    parts = [_part(part) for part in _objects(content)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}
        case {"type": "input_file", "file_id": str(file_id)}:
            return {"type": "file", "file": {"file_id": file_id}}
    return {"type": "text", "text": f"[{part.get('type', 'content')} not shown]"}


def _text(parts: Any) -> str:
    """Return the joined text of parts, as the SDK's `output_text` does."""
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in _objects(parts))


def _thread_content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts: list[dict[str, Any]] = []
    for part in _objects(content):
        text = part.get("text") or part.get("refusal")
        value = text.get("value") if isinstance(text, Mapping) else text
        parts.append({"type": "text", "text": value} if isinstance(value, str) else dict(part))
    plain = [part["text"] for part in parts if part.get("type") == "text"]
    return "\n\n".join(plain) if len(plain) == len(parts) else parts


def _objects(given: Any) -> list[dict[str, Any]]:
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


REMOTE_RUNS_MAX = 1_000
"""Maximum number of provider runs whose end is awaited; limits memory use if an app never polls its runs again."""

PLACES_MAX = 10_000
"""Maximum number of responses and threads whose conversation is remembered for later requests that refer to them."""

THREAD_MESSAGES_MAX = 100
"""Number of messages requested for one run of a thread: the maximum page size."""
