"""What a request to the provider is: one that asks a model, a look at a run, messages for a thread; or nothing of ours.

Paths as the SDK 3.54 makes them; what stands before them (`/v1`, Azure's `/openai/deployments/MODEL`) does not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from threadledger.domain import Message, Role

from .items import chat_messages, kept, response_messages, thread_messages, whole
from .limits import RUN_SECONDS_DEFAULT

CHAT = "POST /chat/completions"
RESPONSES = "POST /responses"
RUNS = "POST /threads/{thread_id}/runs"
THREAD_AND_RUN = "POST /threads/runs"

RETRIES_HEADER = "x-stainless-retry-count"
"""How often the SDK has sent this request before."""


@dataclass(frozen=True)
class Asked:
    """A request that asks a model. `held`: the provider holds what came before these messages."""

    backend: str
    endpoint: str
    model: str
    messages: tuple[Message, ...]
    digest: str
    """SHA-256 (hex) of the body: the SDK's retries send it again."""
    retries: int = 0
    held: bool = False
    place: str | None = None
    """The conversation or thread, or the response that this one follows, by the provider's id."""
    thread_id: str | None = None
    stream: bool = False
    background: bool = False
    timeout_seconds: float = RUN_SECONDS_DEFAULT


@dataclass(frozen=True)
class Look:
    """A request about a run that is under way, by the provider's id of it; with the tool results that go to it."""

    backend: str
    endpoint: str
    remote_id: str
    thread_id: str | None = None
    results: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Written:
    """Messages that the app puts into a thread; of a thread that is made with them, the id is in the answer."""

    messages: tuple[Message, ...]
    thread_id: str | None = None


@dataclass(frozen=True)
class Sent:
    """A request as it is on the wire."""

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
    """Which kind of request this is, with the ids in its path; None where it is nothing of ours."""
    for pattern, kind in {"POST": _POST, "GET": _GET}.get(method.upper(), ()):
        match = pattern.search(path)
        if match is not None:
            return kind, match.groups()
    return None


def read_request(sent: Sent) -> Asked | Look | Written | None:
    """What a request is. Never refuses: a body that cannot be read asks with no messages."""
    found = route(sent.method, sent.path)
    if found is None:
        return None
    kind, ids = found
    body = _json(sent.body)
    match kind:
        case "at_run":
            return Look("assistants", f"{sent.method} {_template(ids)}", ids[1], ids[0], _results(body))
        case "at_response":
            action = "".join(f"/{each}" for each in ids[1:])
            return Look("responses", f"{sent.method} /responses/{{response_id}}{action}", ids[0])
        case "message":
            return Written(thread_messages([body]), ids[0])
        case "thread":
            return Written(thread_messages(body.get("messages")))
    return _asked(kind, ids, body, sent)


def _asked(kind: str, ids: tuple[str, ...], body: dict[str, Any], sent: Sent) -> Asked:
    model = body.get("model")
    given: dict[str, Any] = {
        "model": str(model) if model else str(body.get("assistant_id") or ""),
        "digest": hashlib.sha256(sent.body).hexdigest(),
        "retries": _retries(sent.headers),
        "stream": bool(body.get("stream")),
        "timeout_seconds": sent.timeout_seconds or RUN_SECONDS_DEFAULT,
    }
    if kind == "chat":
        return Asked("chat", CHAT, messages=chat_messages(body.get("messages")), **given)
    if kind == "response":
        conversation = body.get("conversation")
        conversation = conversation.get("id") if isinstance(conversation, Mapping) else conversation
        place = conversation or body.get("previous_response_id")
        return Asked(
            "responses",
            RESPONSES,
            messages=response_messages(body.get("input")),
            held=bool(place),
            place=str(place) if place else None,
            background=bool(body.get("background")),
            **given,
        )
    given["timeout_seconds"] = max(given["timeout_seconds"], RUN_SECONDS_DEFAULT)  # a run outlasts the request for it
    if kind == "run":
        messages = thread_messages(body.get("additional_messages"))
        return Asked("assistants", RUNS, messages=messages, held=True, place=ids[0], thread_id=ids[0], **given)
    thread = body.get("thread")
    messages = thread_messages(thread.get("messages")) if isinstance(thread, dict) else ()
    return Asked("assistants", THREAD_AND_RUN, messages=messages, held=True, **given)


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
    told = headers.get(RETRIES_HEADER, "")
    return int(told) if told.isdecimal() else 0
