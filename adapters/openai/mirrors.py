"""Memory in the provider's threads: Assistants threads and Conversations, written strictly one after the other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from threadledger.domain import (
    JournaledMessage,
    Memory,
    Message,
    ProviderRefused,
    Rendering,
    Role,
    ThreadItem,
    response_items,
)

from .assistant import shut_down_or
from .assistants import thread_text
from .client import Client
from .failures import calling
from .limits import CONVERSATION_BATCH_ITEMS, METADATA_VALUE_CHARS_MAX, PAGE_ITEMS, THREAD_MESSAGE_CHARS_MAX

KEY = "threadledger_key"
MESSAGE_ID = "threadledger_message"


class AssistantsThreads:
    """`ThreadMirror` of Assistants threads: only users and assistants speak there, and only words and images fit."""

    name = "assistants"

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        losses: Counter[str] = Counter()
        items: list[ThreadItem] = []
        for each in memory.mended():
            ran_here = thread_id is not None and memory.run_threads.get(each.run_id or "") == thread_id
            if ran_here and (each.message.calls() or each.message.role is Role.TOOL):
                continue  # the run keeps them in its steps
            items += _thread_messages(each, losses)
        return Rendering(tuple(items), dict(losses))

    def create(self, key: str) -> str:
        with calling("POST /threads"):
            return self._client.sdk.beta.threads.create(metadata={KEY: key[:METADATA_VALUE_CHARS_MAX]}).id.strip()

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> None:
        try:
            for item in items:
                role: Any = item.name
                content: Any = item.payload.get("content", item.content)
                with calling("POST /threads/{thread_id}/messages", thread_id):
                    self._client.sdk.beta.threads.messages.create(
                        thread_id, role=role, content=content, metadata={MESSAGE_ID: item.message_id}
                    )
        except ProviderRefused as refused:
            raise shut_down_or(refused, self._client) from refused

    def read(self, thread_id: str) -> Sequence[ThreadItem]:
        try:
            with calling("GET /threads/{thread_id}/messages", thread_id):
                messages = self._client.sdk.beta.threads.messages.list(thread_id, order="asc", limit=PAGE_ITEMS)
                len(messages.data)  # an answer without a list is not an empty thread: it fails here
                return [ThreadItem("message", message.role, thread_text(message)) for message in messages]
        except ProviderRefused as refused:
            raise shut_down_or(refused, self._client) from refused


class ConversationThreads:
    """`ThreadMirror` of Conversations: every role, tool calls and results fit; metadata of a message does not."""

    name = "conversations"

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        losses: Counter[str] = Counter()
        items = []
        for each in memory.mended():
            made = [
                _conversation_item(item, each) for item in response_items(each.message) if item.get("content") != ""
            ]
            if not made:
                losses["empty_messages"] += 1
            if each.message.extra() and each.message.role is not Role.TOOL:
                losses["extra_fields"] += 1
            items += made
        return Rendering(tuple(items), dict(losses))

    def create(self, key: str) -> str:
        with calling("POST /conversations"):
            return self._client.sdk.conversations.create(metadata={KEY: key[:METADATA_VALUE_CHARS_MAX]}).id.strip()

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> None:
        for start in range(0, len(items), CONVERSATION_BATCH_ITEMS):
            batch: Any = [dict(item.payload) for item in items[start : start + CONVERSATION_BATCH_ITEMS]]
            with calling("POST /conversations/{conversation_id}/items", thread_id):
                self._client.sdk.conversations.items.create(thread_id, items=batch)

    def read(self, thread_id: str) -> Sequence[ThreadItem]:
        with calling("GET /conversations/{conversation_id}/items", thread_id):
            items = self._client.sdk.conversations.items.list(thread_id, order="asc", limit=PAGE_ITEMS)
            len(items.data)  # an answer without a list is not an empty conversation: it fails here
            return [item for item in map(_read_item, items) if item is not None]


def _thread_messages(each: JournaledMessage, losses: Counter[str]) -> Iterator[ThreadItem]:
    message = each.message
    if message.role in {Role.SYSTEM, Role.DEVELOPER, Role.UNKNOWN}:
        losses[f"{message.role.value}_messages"] += 1
        return
    role = "user" if message.role is Role.USER else "assistant"
    texts = [_words(message)] if message.role is not Role.TOOL else []
    for call in message.calls():
        losses["tool_calls_as_text"] += 1
        texts.append(f"[tool call {call.name} {call.arguments}]")
    if message.role is Role.TOOL:
        losses["tool_results_as_text"] += 1
        texts.append(f"[tool result {message.text}]")
    texts = [piece for text in texts if text.strip() for piece in _pieces(text)]
    if not texts:
        losses["empty_messages"] += 1
    if len(texts) == 1 and role == "user" and (parts := _image_parts(message)):
        yield ThreadItem("message", role, texts[0], "", each.message_id, each.version, {"content": parts})
        return
    for text in texts:
        yield ThreadItem("message", role, text, "", each.message_id, each.version)


def _words(message: Message) -> str:
    """The text; images and files by their reference."""
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
    """Parts for a message with images; none where it is words alone, or holds what a thread does not take."""
    content = message.content_as_json()
    if not isinstance(content, list) or not any(part.get("type") == "image_url" for part in content):
        return []
    return content if all(part.get("type") in {"text", "image_url"} for part in content) else []


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), THREAD_MESSAGE_CHARS_MAX):
        yield text[start : start + THREAD_MESSAGE_CHARS_MAX]


def _conversation_item(payload: dict[str, Any], each: JournaledMessage) -> ThreadItem:
    place: dict[str, Any] = {"message_id": each.message_id, "version": each.version, "payload": payload}
    match payload:
        case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
            return ThreadItem("tool_call", name, arguments, call_id, **place)
        case {"type": "function_call_output", "call_id": call_id, "output": output}:
            return ThreadItem("tool_result", "", output, call_id, **place)
    return ThreadItem("message", payload["role"], _item_words(payload["content"]), **place)


def _item_words(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n\n".join(_part_words(part) for part in content)


def _read_item(item: Any) -> ThreadItem | None:
    """An item as it is compared; None for what is not memory of ours (reasoning, hosted calls)."""
    given: dict[str, Any] = item.to_dict()
    match given:
        case {"type": "message", "role": str(role), "content": list() as content}:
            return ThreadItem("message", role, _item_words(content))
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            return ThreadItem("tool_call", name, arguments, call_id)
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            return ThreadItem("tool_result", "", output if isinstance(output, str) else json.dumps(output), call_id)
    return None
