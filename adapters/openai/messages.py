"""Convert messages on the wire, in the formats of the three APIs, to our messages in the format of Chat Completions.

Instructions (roles `system` and `developer`) belong to the app and are not part of memory: they are omitted. What a model
said is read by `domain/conversation/items.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.items import CALLS, objects, output_messages, text_in, thread_parts
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.conversation.parts import Text
from threadledger.domain.errors import InvalidMessage
from threadledger.domain.failures import whole_text

INSTRUCTIONS = frozenset({"system", "developer"})

_OF_THE_PROVIDER = frozenset({"reasoning", "compaction", "mcp_list_tools", "mcp_approval_request"})
"""Types of items in a history that only the provider made, besides those that end in `_call`."""

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
    return tuple(kept(each) for each in objects(given) if each.get("role") not in INSTRUCTIONS)


def thread_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages of an Assistants thread, as they are in requests and responses."""
    return tuple(
        kept({"role": each.get("role"), "content": thread_parts(each.get("content"))}) for each in objects(given)
    )


def response_messages(given: Any) -> tuple[Message, ...]:
    """Return the messages in the input of the Responses API; what the model said is read like an output."""
    if isinstance(given, str):
        return (kept({"role": "user", "content": given}),)
    found: list[Message] = []
    of_the_model: list[dict[str, Any]] = []
    for item in [*objects(given), {"type": "end"}]:
        kind = text_in(item.get("type")) or "message"
        if _is_of_the_model(item, kind):
            of_the_model.append(item)
            continue
        if of_the_model:
            found += output_messages(of_the_model, Counter())
            of_the_model = []
        found += _others(item, kind)
    return tuple(found)


def _is_of_the_model(item: Mapping[str, Any], kind: str) -> bool:
    if kind == "message":
        return item.get("role") == Role.ASSISTANT.value
    return kind in CALLS or kind in _OF_THE_PROVIDER or kind.endswith("_call")


def _others(item: Mapping[str, Any], kind: str) -> Iterator[Message]:
    """Yield what an app said by an item: its question, or the result of a call. Instructions are omitted."""
    if kind in _RESULTS:
        output = item.get("output")
        text = output if isinstance(output, str) else _text(output)
        yield kept({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
    elif kind == "message":
        if item.get("role") not in INSTRUCTIONS:
            yield kept({"role": item.get("role"), "content": _item_content(item)})
    elif kind not in {"end", "item_reference"}:
        yield Message(Role.USER, f"[{whole_text(str(kind))} not shown]")


def text_of_parts(message: Message) -> str:
    """Return the text of an answer that is not one string: its parts joined, its refusal, or its transcript."""
    if isinstance(message.content, tuple) and message.content:
        return "".join(part.text for part in message.content if isinstance(part, Text))
    audio = message.extra().get("audio") if not message.text else None
    return message.text or (text_in(audio.get("transcript")) if isinstance(audio, dict) else "")


def _without_nothing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name == "content" or value not in (None, [])}


def kept(given: Mapping[str, Any]) -> Message:
    """Return the message, or a placeholder with the reason if the message cannot be stored. Never raises `InvalidMessage`."""
    try:
        return parse_message(_without_nothing(given))
    except InvalidMessage as refusal:
        role = Role.ASSISTANT if given.get("role") == Role.ASSISTANT.value else Role.USER
        return Message(role, f"[a message was not kept: {whole_text(str(refusal))}]")


def _item_content(item: Mapping[str, Any]) -> Any:
    content = item.get("content")
    if isinstance(content, str) or content is None:
        return content
    parts = [_part(part) for part in objects(content)]
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
        case {"type": "input_file", "file_data": str(data)}:
            return {"type": "file", "file": _named(part, "file_data", data)}
        case {"type": "input_file", "file_url": str(url)}:
            return {"type": "file", "file": _named(part, "url", url)}
    return {"type": "text", "text": f"[{part.get('type', 'content')} not shown]"}


def _named(part: Mapping[str, Any], field: str, value: str) -> dict[str, Any]:
    name = part.get("filename")
    return {field: value} | ({"filename": name} if isinstance(name, str) and name else {})


def _text(parts: Any) -> str:
    """Return the joined text of parts, as the SDK's `output_text` does."""
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in objects(parts))
