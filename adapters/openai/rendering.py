"""Convert messages to the items that a thread supports, and count what it does not support by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from threadledger.domain import JournaledMessage, Message, Role, ThreadItem, response_items

from .limits import THREAD_MESSAGE_CHARS_MAX

PLACED_IN_CONVERSATION = frozenset({"text", "image_url", "file"})
"""Types of content parts that a Conversation supports in a user message."""

PLACED_IN_THREAD = frozenset({"text", "image_url"})
"""Types of content parts that an Assistants thread supports; it accepts a file only together with a tool that reads it."""


def thread_items(each: JournaledMessage, losses: Counter[str]) -> Iterator[ThreadItem]:
    message = each.message
    if message.role in {Role.SYSTEM, Role.DEVELOPER, Role.UNKNOWN}:
        losses[f"{message.role.value}_messages"] += 1
        return
    role = "user" if message.role is Role.USER else "assistant"
    parts = _image_parts(message) if role == "user" else []
    _count_parts(message, PLACED_IN_THREAD if parts else {"text"}, losses)
    texts = [_words(message)] if message.role is not Role.TOOL else []
    for called in message.calls():
        losses["tool_calls_as_text"] += 1
        texts.append(f"[tool call {called.name} {called.arguments}]")
    if message.role is Role.TOOL:
        losses["tool_results_as_text"] += 1
        texts.append(f"[tool result {message.text}]")
    texts = [piece for text in texts if text.strip() for piece in _pieces(text)]
    if not texts:
        losses["empty_messages"] += 1
    if message.extra() and message.role is not Role.TOOL:
        losses["extra_fields"] += 1
    payload = {"content": parts} if parts and len(texts) == 1 else {}
    for text in texts:
        yield ThreadItem("message", role, text, "", each.message_id, each.version, payload, written_at=each.written_at)


def _words(message: Message) -> str:
    """Return the text of a message, with images and files as references."""
    content = message.content_as_json()
    if not isinstance(content, list):
        return content or ""
    return "\n\n".join(_part_words(part) for part in content)


def _part_words(part: dict[str, Any]) -> str:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "input_text" | "output_text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "input_image", "image_url": str(url)}:
            return f"[image {url}]"
        case {"type": "file", "file": {"file_id": str(file_id)}} | {"type": "input_file", "file_id": str(file_id)}:
            return f"[file {file_id}]"
        case {"type": "refusal", "refusal": str(refusal)}:
            return refusal
    return f"[{part.get('type', 'content')} not shown]"


def _image_parts(message: Message) -> list[dict[str, Any]]:
    """Return the parts of a message with images; none if it has no image, or a part that a thread does not support."""
    content = message.content_as_json()
    if not isinstance(content, list) or not any(part.get("type") == "image_url" for part in content):
        return []
    return content if all(part.get("type") in {"text", "image_url"} for part in content) else []


def _count_parts(message: Message, placed: Collection[str], losses: Counter[str]) -> None:
    """Count the content parts that are converted to text or omitted."""
    content = message.content
    if not isinstance(content, tuple):
        return
    for part in content:
        kind = part.as_json().get("type")
        if kind not in placed:
            losses[_PARTS.get(str(kind), "other_parts")] += 1


_PARTS = {"image_url": "images", "file": "files"}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), THREAD_MESSAGE_CHARS_MAX):
        yield text[start : start + THREAD_MESSAGE_CHARS_MAX]


def conversation_items(each: JournaledMessage, losses: Counter[str]) -> list[ThreadItem]:
    """Convert one message to items of a Conversation, and count losses."""
    message = each.message
    made = [conversation_item(item, each) for item in response_items(message) if item.get("content") != ""]
    if not made:
        losses["empty_messages"] += 1
    if message.extra() and message.role is not Role.TOOL:
        losses["extra_fields"] += 1
    _count_parts(message, {"text"} if message.role in {Role.ASSISTANT, Role.TOOL} else PLACED_IN_CONVERSATION, losses)
    return made


def conversation_item(payload: dict[str, Any], each: JournaledMessage) -> ThreadItem:
    place: dict[str, Any] = {"message_id": each.message_id, "version": each.version, "payload": payload}
    match payload:
        case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
            return ThreadItem("tool_call", name, arguments, call_id, **place)
        case {"type": "function_call_output", "call_id": call_id, "output": output}:
            return ThreadItem("tool_result", "", output, call_id, **place)
    return ThreadItem("message", payload["role"], item_words(payload["content"]), **place)


def item_words(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n\n".join(_part_words(part) for part in content)
