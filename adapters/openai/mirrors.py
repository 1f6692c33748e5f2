"""Mirror memory to the provider's threads: Assistants threads and Conversations. Items are written sequentially."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from threadledger.domain import (
    Cause,
    Effects,
    Memory,
    ProviderRefused,
    Rendering,
    Role,
    ThreadItem,
    diagnose,
    limits,
)

from .assistant import shut_down_or
from .calls import call, deleted, every
from .client import Client
from .conversation import is_there
from .failures import calling, present
from .limits import CONVERSATION_BATCH_ITEMS, METADATA_VALUE_CHARS_MAX, PAGE_ITEMS
from .rendering import conversation_items, item_words, thread_items
from .thread_runs import ENDED, ThreadRuns
from .thread_text import thread_text

KEY = "threadledger_key"
MESSAGE_ID = "threadledger_message"
WRITTEN_AT = "threadledger_written_at"
"""Metadata key for the time a message was written (ISO 8601); the thread's own date is the time of the copy."""
BESIDE = "beside"
"""Payload key for the ids of preceding items (reasoning) that must be deleted together with an item."""


class AssistantsThreads:
    """Implement `ThreadMirror` for Assistants threads, which support only the roles user and assistant, text and images."""

    name = "assistants"
    batch = 1
    page = PAGE_ITEMS

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
                continue  # they are in the steps of the run
            items += thread_items(each, losses)
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
        metadata = {MESSAGE_ID: item.message_id} | ({WRITTEN_AT: item.written_at} if item.written_at else {})
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
    """Implement `ThreadMirror` for Conversations, which support all roles, tool calls and results, but no message metadata."""

    name = "conversations"
    batch = CONVERSATION_BATCH_ITEMS
    page = PAGE_ITEMS

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        losses: Counter[str] = Counter()
        items = []
        for each in memory.in_thread(thread_id):
            items += conversation_items(each, losses)
        return Rendering(tuple(items), dict(losses))

    def create(self, key: str) -> Effects[str]:
        metadata = {KEY: key[:METADATA_VALUE_CHARS_MAX]}
        with calling("POST /conversations"):
            made = yield call(self._client, lambda sdk: sdk.conversations.create(metadata=metadata))
            return str(made.id.strip())

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        # Sent as `extra_body`: the SDK would compare each item of the argument with about thirty types, which takes longer
        # than the request, and then send it unchanged.
        sent = {"items": [dict(item.payload) for item in items]}
        try:
            with calling("POST /conversations/{conversation_id}/items", thread_id):
                made = yield call(
                    self._client, lambda sdk: sdk.conversations.items.create(thread_id, items=[], extra_body=sent)
                )
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
        return ()  # the API does not show the runs of a Conversation; their items are recognized by position
        yield

    def _told_apart(self, refused: ProviderRefused, thread_id: str) -> Effects[ProviderRefused]:
        """Return the refusal; remove its thread id if a 404 does not say what is missing and the Conversation still
        exists."""
        if diagnose(refused.failure) is Cause.PROVIDER_GONE and (yield from is_there(self._client, thread_id)):
            return ProviderRefused(replace(refused.failure, thread_id=None))
        return refused


def _delete_item(sdk: Any, thread_id: str, item_id: str) -> Any:
    return sdk.conversations.items.delete(item_id, conversation_id=thread_id)


def _read_message(message: Any) -> ThreadItem:
    ours = (message.metadata or {}).get(MESSAGE_ID, "")
    return ThreadItem("message", message.role, thread_text(message), message_id=ours, item_id=message.id)


def _read_items(items: Sequence[Any]) -> list[ThreadItem]:
    """Return the items in the form that is compared with memory.

    The ids of preceding items that are not memory (reasoning) are attached to an item, because the provider refuses
    reasoning without the item that follows it.
    """
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
    """Return an item in the form that is compared with memory; None if it is not memory (reasoning, hosted calls)."""
    given: dict[str, Any] = item.to_dict()
    item_id = str(given.get("id") or "")
    match given:
        case {"type": "message", "role": str(role), "content": list() as content}:
            return ThreadItem("message", role, item_words(content), item_id=item_id)
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            return ThreadItem("tool_call", name, arguments, call_id, item_id=item_id)
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            words = output if isinstance(output, str) else json.dumps(output)
            return ThreadItem("tool_result", "", words, call_id, item_id=item_id)
    return None
