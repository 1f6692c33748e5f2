"""Memory in the provider's threads: Assistants threads and Conversations, written strictly one after the other."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from threadledger.domain import (
    Cause,
    Effects,
    JournaledMessage,
    Memory,
    Message,
    ProviderRefused,
    Rendering,
    Role,
    ThreadItem,
    diagnose,
    limits,
    response_items,
)

from .assistant import shut_down_or
from .calls import call, deleted, every
from .client import Client
from .conversation import is_there
from .failures import calling, present
from .limits import CONVERSATION_BATCH_ITEMS, METADATA_VALUE_CHARS_MAX, PAGE_ITEMS, THREAD_MESSAGE_CHARS_MAX
from .thread_runs import ENDED, ThreadRuns
from .thread_text import thread_text

KEY = "threadledger_key"
MESSAGE_ID = "threadledger_message"
BESIDE = "beside"
"""Of an entry that was read back: the ids of the items before it that it does not stand without."""


class AssistantsThreads:
    """`ThreadMirror` of Assistants threads: only users and assistants speak there, and only words and images fit."""

    name = "assistants"
    batch = 1

    def __init__(self, client: Client) -> None:
        self._client = client
        self._runs = ThreadRuns(client)

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        losses: Counter[str] = Counter()
        items: list[ThreadItem] = []
        for each in memory.in_thread(thread_id):
            if memory.ran_in(each, thread_id) and (each.message.calls() or each.message.role is Role.TOOL):
                continue  # the run keeps them in its steps
            items += _thread_messages(each, losses)
        return Rendering(tuple(items), dict(losses))

    def create(self, key: str) -> Effects[str]:
        metadata = {KEY: key[:METADATA_VALUE_CHARS_MAX]}
        with calling("POST /threads"):
            made = yield call(self._client, lambda sdk: sdk.beta.threads.create(metadata=metadata))
            return str(made.id.strip())

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        try:
            for item in items:
                try:
                    yield from self._add(thread_id, item)
                except ProviderRefused as refused:
                    deadline = time.monotonic() + limits.BACKEND_TIMEOUT_SECONDS
                    busy = diagnose(refused.failure) is Cause.THREAD_BUSY
                    if not busy or not (yield from self._runs.freed(thread_id, deadline)):
                        raise
                    yield from self._add(thread_id, item)
        except ProviderRefused as refused:
            raise (yield from shut_down_or(refused, self._client)) from refused

    def _add(self, thread_id: str, item: ThreadItem) -> Effects[None]:
        content: Any = item.payload.get("content", item.content)
        metadata = {MESSAGE_ID: item.message_id}
        with calling("POST /threads/{thread_id}/messages", thread_id):
            made = yield call(
                self._client,
                lambda sdk: sdk.beta.threads.messages.create(
                    thread_id, role=item.name, content=content, metadata=metadata
                ),
            )
            present(made.id)

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        try:
            with calling("GET /threads/{thread_id}/messages", thread_id):
                messages = yield from every(
                    self._client,
                    lambda sdk: sdk.beta.threads.messages.list(thread_id, order="asc", limit=PAGE_ITEMS),
                )
                return [_read_message(message) for message in messages]
        except ProviderRefused as refused:
            raise (yield from shut_down_or(refused, self._client)) from refused

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        yield from self._runs.deleted(thread_id, [item.item_id for item in items])

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        deleted: list[str] = []
        for run in (yield from self._runs.ours(thread_id, run_ids)) if run_ids else ():
            if run.status not in ENDED:
                yield from self._runs.cancelled(run, thread_id)
            elif run.status == "completed" and not completed:
                continue
            deleted += [message.id for message in (yield from self._runs.removed(thread_id, run.id))]
        return deleted


class ConversationThreads:
    """`ThreadMirror` of Conversations: every role, tool calls and results fit; metadata of a message does not."""

    name = "conversations"
    batch = CONVERSATION_BATCH_ITEMS

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        losses: Counter[str] = Counter()
        items = []
        for each in memory.in_thread(thread_id):
            made = [
                _conversation_item(item, each) for item in response_items(each.message) if item.get("content") != ""
            ]
            if not made:
                losses["empty_messages"] += 1
            if each.message.extra() and each.message.role is not Role.TOOL:
                losses["extra_fields"] += 1
            items += made
        return Rendering(tuple(items), dict(losses))

    def create(self, key: str) -> Effects[str]:
        metadata = {KEY: key[:METADATA_VALUE_CHARS_MAX]}
        with calling("POST /conversations"):
            made = yield call(self._client, lambda sdk: sdk.conversations.create(metadata=metadata))
            return str(made.id.strip())

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        sent: Any = [dict(item.payload) for item in items]
        try:
            with calling("POST /conversations/{conversation_id}/items", thread_id):
                made = yield call(self._client, lambda sdk: sdk.conversations.items.create(thread_id, items=sent))
                present(*(item.id for item in made.data))
        except ProviderRefused as refused:
            raise (yield from self._told_apart(refused, thread_id)) from refused

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        try:
            with calling("GET /conversations/{conversation_id}/items", thread_id):
                items = yield from every(
                    self._client, lambda sdk: sdk.conversations.items.list(thread_id, order="asc", limit=PAGE_ITEMS)
                )
                return _read_items(items)
        except ProviderRefused as refused:
            raise (yield from self._told_apart(refused, thread_id)) from refused

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        endpoint = "DELETE /conversations/{conversation_id}/items/{item_id}"
        for item_id in [each for item in items for each in (*item.payload.get(BESIDE, ()), item.item_id)]:
            delete = partial(_delete_item, thread_id=thread_id, item_id=item_id)
            yield from deleted(self._client, endpoint, thread_id, delete)

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        return ()  # a conversation shows no runs: what one left there is told by its place
        yield

    def _told_apart(self, refused: ProviderRefused, thread_id: str) -> Effects[ProviderRefused]:
        """The same refusal; after a 404 that does not say what is missing, one that names no thread as lost while the
        conversation is still there."""
        if diagnose(refused.failure) is Cause.PROVIDER_GONE and (yield from is_there(self._client, thread_id)):
            return ProviderRefused(replace(refused.failure, thread_id=None))
        return refused


def _delete_item(sdk: Any, thread_id: str, item_id: str) -> Any:
    return sdk.conversations.items.delete(item_id, conversation_id=thread_id)


def _read_message(message: Any) -> ThreadItem:
    ours = (message.metadata or {}).get(MESSAGE_ID, "")
    return ThreadItem("message", message.role, thread_text(message), message_id=ours, item_id=message.id)


def _thread_messages(each: JournaledMessage, losses: Counter[str]) -> Iterator[ThreadItem]:
    message = each.message
    if message.role in {Role.SYSTEM, Role.DEVELOPER, Role.UNKNOWN}:
        losses[f"{message.role.value}_messages"] += 1
        return
    role = "user" if message.role is Role.USER else "assistant"
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


def _read_items(items: Sequence[Any]) -> list[ThreadItem]:
    """The items as they are compared. What stands before one and is not memory (its reasoning) goes where it goes: the
    provider refuses reasoning without the item that follows."""
    found: list[ThreadItem] = []
    beside: list[str] = []
    for each in items:
        item = _read_item(each)
        if item is None:
            beside.append(each.id)
        else:
            found.append(replace(item, payload={BESIDE: tuple(beside)}) if beside else item)
            beside = []
    return found


def _read_item(item: Any) -> ThreadItem | None:
    """An item as it is compared; None for what is not memory of ours (reasoning, hosted calls)."""
    given: dict[str, Any] = item.to_dict()
    item_id = str(given.get("id") or "")
    match given:
        case {"type": "message", "role": str(role), "content": list() as content}:
            return ThreadItem("message", role, _item_words(content), item_id=item_id)
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            return ThreadItem("tool_call", name, arguments, call_id, item_id=item_id)
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            words = output if isinstance(output, str) else json.dumps(output)
            return ThreadItem("tool_result", "", words, call_id, item_id=item_id)
    return None
