"""Check requests of Anthropic's Messages API and write its replies: messages, stream events and errors.

Each check raises the provider's 400. The wording is the provider's where public reports show it (issues of
anthropics/claude-code and litellm); checks without a known wording use the same form.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .errors import INVALID_REQUEST, ApiError
from .fields import MESSAGES_FIELDS
from .sse import frame, pieces
from .validation import Json

VERSION_HEADER = "anthropic-version"
"""Header that every request of the Messages API has."""

KINDS = {
    400: INVALID_REQUEST,
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Error types by HTTP status; another status from 500 is `api_error`. Source: docs.claude.com/en/api/errors."""

_OF_OPENAI = frozenset({INVALID_REQUEST, "server_error", "requests", "tokens"})
"""Error types that stand for the usual one of a status."""

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
BLOCKS = {"user": ("text", "image", "document", "tool_result"), "assistant": ("text", "tool_use")}
FIELDS = {
    "text": {"text", "citations"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content", "is_error"},
}
"""Fields of each type of block, besides `type` and `cache_control`. Source: the request types of the SDK (anthropic 2.14)."""


def error_body(status: int, kind: str, message: str, request_id: str) -> Json:
    """Return the envelope of an error. `kind` is replaced by the usual type of the status if it is one of OpenAI's."""
    usual = KINDS.get(status, "api_error" if status >= 500 else INVALID_REQUEST)
    error = {"type": usual if kind in _OF_OPENAI else kind, "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def refused(where: str, problem: str) -> ApiError:
    """Return a 400 for a place in the request."""
    return ApiError(400, f"{where}: {problem}", param=where)


def check_request(body: Json) -> None:
    """Raise the provider's 400 if the API does not accept a request."""
    for name in ("max_tokens", "messages", "model"):
        if body.get(name) is None:
            raise refused(name, "Field required")
    for name in body:
        if name not in MESSAGES_FIELDS:
            raise refused(name, "Extra inputs are not permitted")
    if type(body["max_tokens"]) is not int or body["max_tokens"] < 1:
        raise refused("max_tokens", "Input should be greater than or equal to 1")
    _check_system(body.get("system"))
    offered = _check_tools(body.get("tools") or [])
    messages = _list(body["messages"], "messages")
    if not messages:
        raise refused("messages", "at least one message is required")
    _check_roles(messages)
    contents = [_blocks_of(message, f"messages.{index}") for index, message in enumerate(messages)]
    _check_calls(contents)
    if not offered and any(block["type"].startswith("tool_") for blocks in contents for block in blocks):
        message = "Requests which have `tool_use` or `tool_result` blocks must include `tools`"
        raise refused("tools", message)


def _check_system(system: Any) -> None:
    if system is not None and not isinstance(system, str):
        for index, block in enumerate(_list(system, "system")):
            _check_text(block, f"system.{index}")


def _check_tools(tools: Any) -> set[str]:
    names: set[str] = set()
    for index, tool in enumerate(_list(tools, "tools")):
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise refused(f"tools.{index}.custom.name", f"String should match pattern '^{NAME.pattern}$'")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise refused(f"tools.{index}.custom.input_schema.type", "Input should be 'object'")
        if name in names:
            raise refused("tools", "Tool names must be unique.")
        names.add(name)
    return names


def _check_roles(messages: list[Any]) -> None:
    before = "assistant"
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in BLOCKS:
            problem = (
                f'Unexpected role "{role}". The Messages API accepts a top-level `system` parameter, not "system" '
            )
            raise refused("messages", problem + "as an input message role.")
        if index == 0 and role != "user":
            raise refused("messages", 'first message must use the "user" role')
        if role == before:
            problem = f'roles must alternate between "user" and "assistant", but found multiple "{role}" roles in a row'
            raise refused("messages", problem)
        for name in message:
            if name not in {"role", "content"}:
                raise refused(f"messages.{index}.{name}", "Extra inputs are not permitted")
        before = role
    if before == "assistant":
        problem = "does not support assistant message prefill. The conversation must end with a user message."
        raise ApiError(400, f"This model {problem}")


def _blocks_of(message: Json, where: str) -> list[Json]:
    content = message.get("content")
    if not content:
        raise refused(where, "all messages must have non-empty content except for the optional final assistant message")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks = _list(content, f"{where}.content")
    for index, block in enumerate(blocks):
        _check_block(block, BLOCKS[message["role"]], f"{where}.content.{index}")
    return blocks


def _check_block(block: Any, allowed: Iterable[str], where: str) -> None:
    kind = str(block.get("type")) if isinstance(block, dict) else ""
    if kind not in allowed:
        raise refused(where, f"Input tag '{kind}' found using 'type' does not match any of the expected tags")
    for name in block.keys() - FIELDS[kind] - {"type", "cache_control"}:
        raise refused(f"{where}.{kind}.{name}", "Extra inputs are not permitted")
    _CHECKS[kind](block, where)


def _check_text(block: Any, where: str) -> None:
    text = block.get("text") if isinstance(block, dict) else None
    if not isinstance(text, str):
        raise refused(f"{where}.text.text", "Input should be a valid string")
    if not text.strip():
        problem = (
            "text content blocks must contain non-whitespace text" if text else "text content blocks must be non-empty"
        )
        raise refused("messages", problem)


def _check_image(block: Json, where: str) -> None:
    match block.get("source"):
        case {"type": "url", "url": str(url)} if url.startswith(("http://", "https://")):
            return
        case {"type": "base64", "media_type": str(media_type), "data": str(data)} if media_type in IMAGE_TYPES:
            _require_base64(data, f"{where}.image.source.base64.data")
            return
    raise refused(f"{where}.image.source", "Input should be an image of a supported type, or its URL")


def _check_document(block: Json, where: str) -> None:
    match block.get("source"):
        case {"type": "url", "url": str(url)} if url.startswith(("http://", "https://")):
            return
        case {"type": "base64", "media_type": "application/pdf", "data": str(data)}:
            _require_base64(data, f"{where}.document.source.base64.data")
            return
        case {"type": "text", "media_type": "text/plain", "data": str()}:
            return
        case {"type": "content", "content": str()}:
            return
        case {"type": "content", "content": list(blocks)}:
            for index, inner in enumerate(blocks):
                _check_block(inner, ("text", "image"), f"{where}.document.source.content.{index}")
            return
    raise refused(f"{where}.document.source", "Input should be a PDF in base64, a plain text, content blocks, or a URL")


def _require_base64(data: str, where: str) -> None:
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise refused(where, "invalid base64 data") from error
    if not data:
        raise refused(where, "data cannot be empty")


def _check_use(block: Json, where: str) -> None:
    for name, pattern in (("id", CALL_ID), ("name", NAME)):
        if not isinstance(block.get(name), str) or not pattern.fullmatch(block[name]):
            raise refused(f"{where}.tool_use.{name}", f"String should match pattern '^{pattern.pattern}$'")
    if not isinstance(block.get("input"), dict):
        raise refused(f"{where}.tool_use.input", "Input should be a valid dictionary")


def _check_result(block: Json, where: str) -> None:
    content = block.get("content", "")
    if not isinstance(content, str):
        for index, inner in enumerate(_list(content, f"{where}.tool_result.content")):
            _check_block(inner, ("text", "image", "document"), f"{where}.tool_result.content.{index}")


_CHECKS: Mapping[str, Callable[[Json, str], None]] = {
    "text": _check_text,
    "image": _check_image,
    "document": _check_document,
    "tool_use": _check_use,
    "tool_result": _check_result,
}


def _check_calls(contents: list[list[Json]]) -> None:
    """Check that every call has one result at the beginning of the next message, and every result a call before it."""
    seen: set[str] = set()
    for index, blocks in enumerate(contents):
        before = {block["id"] for block in contents[index - 1] if block["type"] == "tool_use"} if index else set()
        results = [block.get("tool_use_id") for block in blocks if block["type"] == "tool_result"]
        leading = [block.get("tool_use_id") for block in blocks[: len(results)] if block["type"] == "tool_result"]
        for number, result in enumerate(results):
            if result not in before:
                problem = (
                    f"unexpected `tool_use_id` found in `tool_result` blocks: {result}. Each `tool_result` block must "
                )
                problem += "have a corresponding `tool_use` block in the previous message."
                raise refused(f"messages.{index}.content.{number}", problem)
        if len(results) > len(set(results)):
            problem = "each tool_use must have a single result. Found multiple `tool_result` blocks with one id"
            raise refused(f"messages.{index}.content", problem)
        lacking = sorted(before - set(leading))
        if lacking:
            problem = (
                f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(lacking)}. Each "
            )
            problem += "`tool_use` block must have a corresponding `tool_result` block in the next message."
            raise refused(f"messages.{index - 1}", problem)
        for block in blocks:
            if block["type"] == "tool_use" and block["id"] in seen:
                raise refused("messages", "`tool_use` ids must be unique")
            seen |= {block["id"]} if block["type"] == "tool_use" else set()


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise refused(where, "Input should be a valid list")
    return value


def reply(message_id: str, model: str, content: list[Json], stop_reason: str, usage: Json) -> Json:
    """Return a complete message of the model."""
    made: Json = {"id": message_id, "type": "message", "role": "assistant", "model": model, "content": content}
    return made | {"stop_reason": stop_reason, "stop_sequence": None, "usage": usage}


def text_block(text: str) -> Json:
    """Return a text as a content block."""
    return {"type": "text", "text": text}


def use_block(call_id: str, name: str, arguments: str) -> Json:
    """Return a tool call as a content block; arguments that are no JSON object are sent as they are."""
    try:
        given: Any = json.loads(arguments)
    except ValueError:
        given = arguments
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def reply_frames(message: Json) -> Iterator[bytes]:
    """Yield a complete message as the events of a stream."""
    usage = message["usage"]
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield _event("message_start", message=begun)
    yield _event("ping")
    for index, block in enumerate(message["content"]):
        empty: Json = {"text": ""} if block["type"] == "text" else {"input": {}}
        yield _event("content_block_start", index=index, content_block=block | empty)
        if block["type"] == "text":
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        else:
            deltas = [
                {"type": "input_json_delta", "partial_json": piece} for piece in pieces(json.dumps(block["input"]))
            ]
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage={"output_tokens": usage["output_tokens"]})
    yield _event("message_stop")


def _event(kind: str, **data: Any) -> bytes:
    return frame({"type": kind, **data}, kind)
