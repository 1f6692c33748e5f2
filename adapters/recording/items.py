"""Convert messages of the three APIs to our messages, in the format of Chat Completions.

Instructions (roles `system` and `developer`) belong to the app and are not part of memory: they are omitted. Items that only
the provider can use again (reasoning, item references, calls of hosted tools) are omitted too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from threadledger.domain import InvalidMessage, Message, Role, ToolCall, parse_message, whole_text

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
