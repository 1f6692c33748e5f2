"""Mirror memory to the provider's threads: Assistants threads and Conversations. Items are written sequentially.

What a thread does not support is counted by kind.
"""

from __future__ import annotations

import binascii
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from threadledger.domain import limits
from threadledger.domain.conversation.items import stored_content, text_in, thread_parts
from threadledger.domain.conversation.messages import Content, JournaledMessage, Message, Role
from threadledger.domain.conversation.parts import Image, Part, blob_of
from threadledger.domain.effects import Effects
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose, whole_text
from threadledger.domain.journal.blobs import hashed_address
from threadledger.domain.memory import Memory, response_items, valid_arguments, valid_name
from threadledger.domain.memory.sending import default_name, has_parts, parts_in, takes
from threadledger.domain.threads import Rendering, ThreadItem

from .assistant_setup import shut_down_or
from .bodies import RUN_ENDED
from .client import Client
from .limits import CONVERSATION_BATCH_ITEMS, METADATA_VALUE_CHARS_MAX, PAGE_ITEMS, THREAD_MESSAGE_CHARS_MAX
from .objects import deleted, every, fetched, one_page
from .thread_runs import MESSAGES, ThreadRuns

if TYPE_CHECKING:
    from threadledger.domain.journal.uploads import AttachmentCopy

KEY = "threadledger_key"
MESSAGE_ID = "threadledger_message"
WRITTEN_AT = "threadledger_written_at"
"""Metadata key for the time a message was written (ISO 8601); the thread's own date is the time of the copy."""
PRECEDING_IDS = "beside"
"""Payload key for the ids of preceding items (reasoning) that must be deleted together with an item."""

CopyOf = Callable[[str], "AttachmentCopy | None"]
"""Function that returns the record of an uploaded file by the provider's id, or None if it is not known."""


def _no_copy(_: str) -> None:
    return None


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
        stored = {each.message_id: each.message for each in memory.messages}
        look_up_uploads(self._client, memory, self.name)
        for each in memory.in_thread(thread_id):
            if memory.ran_in(each, thread_id) and (each.message.calls() or each.message.role is Role.TOOL):
                continue  # they are in the steps of the run
            items += thread_items(each, stored.get(each.message_id, each.message), losses)
        if self._client.has_no_files:
            losses["images"] += stored_images(memory)
        return Rendering(tuple(items), dict(+losses))

    def create(self, key: str) -> Effects[str]:
        metadata = {KEY: key[:METADATA_VALUE_CHARS_MAX]}
        made = yield from fetched(
            self._client, "POST /threads", lambda sdk: sdk.beta.threads.with_raw_response.create(metadata=metadata)
        )
        return str(made["id"])

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
        if not isinstance(content, list):
            return (yield from self._post(thread_id, item, content))
        from .uploads import sent_to_thread

        def post(entries: list[dict[str, Any]]) -> Effects[None]:
            return self._post(thread_id, item, entries[0]["content"])

        return (yield from sent_to_thread(self._client, [{"content": content}], self.name, post))

    def _post(self, thread_id: str, item: ThreadItem, content: Any) -> Effects[None]:
        metadata = {MESSAGE_ID: item.message_id} | ({WRITTEN_AT: item.written_at} if item.written_at else {})
        yield from fetched(
            self._client,
            "POST /threads/{thread_id}/messages",
            lambda sdk: sdk.beta.threads.messages.with_raw_response.create(
                thread_id, role=item.name, content=content, metadata=metadata
            ),
            thread_id,
        )

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        try:
            messages = yield from every(
                self._client,
                MESSAGES,
                lambda sdk, **options: sdk.beta.threads.messages.with_raw_response.list(thread_id, **options),
                thread_id,
            )
            ours = (message for message in messages if message.get("thread_id") in (None, thread_id))
            return [_read_message(message, copies_at(self._client)) for message in ours]
        except ProviderRefused as refused:
            raise (yield from shut_down_or(refused, self._client)) from refused

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        yield from self._runs.deleted(thread_id, [item.item_id for item in items])

    def remove(self, thread_id: str) -> Effects[None]:
        delete = partial(_delete_thread, thread_id=thread_id)
        yield from deleted(self._client, "DELETE /threads/{thread_id}", thread_id, delete)

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        deleted: list[str] = []
        for run in (yield from self._runs.ours(thread_id, run_ids)) if run_ids else ():
            if run["status"] not in RUN_ENDED:
                yield from self._runs.cancelled(run["id"], thread_id)
            elif run["status"] == "completed" and not completed:
                continue
            deleted += [message["id"] for message in (yield from self._runs.removed(thread_id, run["id"]))]
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
        stored = {each.message_id: each.message for each in memory.messages}
        look_up_uploads(self._client, memory, "responses")
        for each in memory.in_thread(thread_id, results_have_parts=True):
            items += conversation_items(each, stored.get(each.message_id, each.message), losses)
        return Rendering(tuple(items), dict(losses))

    def create(self, key: str) -> Effects[str]:
        metadata = {KEY: key[:METADATA_VALUE_CHARS_MAX]}
        made = yield from fetched(
            self._client,
            "POST /conversations",
            lambda sdk: sdk.conversations.with_raw_response.create(metadata=metadata),
        )
        return str(made["id"])

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        try:
            for entries in _within_size([dict(item.payload) for item in items]):
                yield from self._add(thread_id, entries)
        except ProviderRefused as refused:
            raise (yield from self._explained(refused, thread_id)) from refused

    def _add(self, thread_id: str, entries: list[dict[str, Any]]) -> Effects[None]:
        if any(map(has_parts, entries)):
            from .uploads import sent_to_thread

            return (yield from sent_to_thread(self._client, entries, "responses", partial(self._post, thread_id)))
        return (yield from self._post(thread_id, entries))

    def _post(self, thread_id: str, entries: list[dict[str, Any]]) -> Effects[None]:
        # Attachments as `extra_body`: the SDK would compare each item of the argument with about thirty types, which takes longer
        # than the request, and then send it unchanged.
        sent = {"items": entries}
        yield from one_page(
            self._client,
            "POST /conversations/{conversation_id}/items",
            lambda sdk: sdk.conversations.items.with_raw_response.create(thread_id, items=[], extra_body=sent),
            thread_id,
        )

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        try:
            items = yield from every(
                self._client,
                "GET /conversations/{conversation_id}/items",
                lambda sdk, **options: sdk.conversations.items.with_raw_response.list(
                    thread_id, include=[IMAGE_URLS], **options
                ),
                thread_id,
            )
            return _read_items(items, copies_at(self._client))
        except ProviderRefused as refused:
            raise (yield from self._explained(refused, thread_id)) from refused

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        endpoint = "DELETE /conversations/{conversation_id}/items/{item_id}"
        for item_id in [each for item in items for each in (*item.payload.get(PRECEDING_IDS, ()), item.item_id)]:
            delete = partial(_delete_item, thread_id=thread_id, item_id=item_id)
            yield from deleted(self._client, endpoint, thread_id, delete)

    def remove(self, thread_id: str) -> Effects[None]:
        delete = partial(_delete_conversation, thread_id=thread_id)
        yield from deleted(self._client, "DELETE /conversations/{conversation_id}", thread_id, delete)

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        return ()  # the API does not show the runs of a Conversation; their items are recognized by position
        yield

    def _explained(self, refused: ProviderRefused, thread_id: str) -> Effects[ProviderRefused]:
        """Return the refusal; remove its thread id if a 410 does not say what is gone and the Conversation still exists."""
        if diagnose(refused.failure) is Cause.PROVIDER_GONE and (yield from is_there(self._client, thread_id)):
            return ProviderRefused(replace(refused.failure, thread_id=None))
        return refused


IMAGE_URLS = "message.input_image.image_url"
"""What a list of items contains only if it is asked for: the addresses of images. Source: OpenAI's API description."""


def _within_size(entries: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the same items in requests whose data is within the limit, as far as each item is."""
    if not any(map(has_parts, entries)):
        yield list(entries)
        return
    from .uploads import inline_chars, is_uploaded

    batch: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        parts = parts_in([entry])
        own = sum(inline_chars(part) for part in parts if not is_uploaded(part, "responses"))
        if batch and size + own > limits.INLINE_BYTES_MAX:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += own
    yield batch


def look_up_uploads(client: Client, memory: Memory, dialect: str) -> None:
    """Read which attachments of a memory were uploaded, so that they are recognised in a thread that is read back."""
    if not memory.has_parts or client.uploads is None:
        return
    uploads = client.uploads
    from .uploads import is_uploaded

    for each in memory.messages:
        content = each.message.content
        for part in content if isinstance(content, tuple) else ():
            if is_uploaded(part, dialect):
                uploads.find(client.files_place, blob_of(part))


def stored_images(memory: Memory) -> int:
    """Return how many images of the user's messages have their bytes in the ledger: a thread takes them only as files."""
    if not memory.has_parts:
        return 0
    contents = (each.message.content for each in memory.messages if each.message.role is Role.USER)
    return sum(isinstance(part, Image) and bool(part.blob) for each in contents for part in _parts_in(each))


def _parts_in(content: Content) -> tuple[Part, ...]:
    return content if isinstance(content, tuple) else ()


def copies_at(client: Client) -> CopyOf:
    """Return a function that finds the record of an uploaded file by the provider's id, if this process knows it."""
    uploads, place = client.uploads, client.files_place
    return lambda file_id: uploads.copy_of(place, file_id) if uploads is not None else None


def _delete_thread(sdk: Any, thread_id: str) -> Any:
    return sdk.beta.threads.with_raw_response.delete(thread_id)


def _delete_conversation(sdk: Any, thread_id: str) -> Any:
    return sdk.conversations.with_raw_response.delete(thread_id)


def _delete_item(sdk: Any, thread_id: str, item_id: str) -> Any:
    return sdk.conversations.items.with_raw_response.delete(item_id, conversation_id=thread_id)


def _read_message(message: Mapping[str, Any], copy: CopyOf) -> ThreadItem:
    metadata, role = message.get("metadata"), message.get("role")
    ours = metadata.get(MESSAGE_ID) if isinstance(metadata, dict) else None
    text = thread_text(message, copy)
    parts = () if ours else _parts_named(message, thread_parts(message.get("content")), text, thread_items)
    return ThreadItem("message", str(role), text, message_id=str(ours or ""), item_id=message["id"], parts=parts)


def _parts_named(
    given: Mapping[str, Any],
    parts: Any,
    words: str,
    items_of: Callable[[JournaledMessage, Message, Counter[str]], Iterable[ThreadItem]],
) -> Sequence[dict[str, Any]]:
    """Return the parts of a user's entry if a message of them is compared by the same words; few entries have any."""
    if not isinstance(parts, list) or given.get("role") != Role.USER.value or all("text" in part for part in parts):
        return ()
    from threadledger.domain.conversation import parse_message
    from threadledger.domain.errors import InvalidMessage

    try:
        message = parse_message({"role": Role.USER.value, "content": parts})
    except InvalidMessage:
        return ()
    journaled = Memory().with_messages([message]).in_thread(None)
    made = [item.content for each in journaled for item in items_of(each, message, Counter())]
    return parts if made == [words] else ()


def _read_items(items: Sequence[Any], copy: CopyOf = _no_copy) -> list[ThreadItem]:
    """Return the items in the form that is compared with memory.

    The ids of preceding items that are not memory (reasoning) are attached to an item, because the provider refuses
    reasoning without the item that follows it.
    """
    found: list[ThreadItem] = []
    preceding: list[str] = []
    for each in items:
        item = _read_item(each, copy)
        if item is None:
            preceding.append(each["id"])
        else:
            found.append(replace(item, payload={PRECEDING_IDS: tuple(preceding)}) if preceding else item)
            preceding = []
    return found


def _read_item(given: Mapping[str, Any], copy: CopyOf = _no_copy) -> ThreadItem | None:
    """Return an item in the form that is compared with memory; None if it is not memory (reasoning, hosted calls)."""
    item_id = str(given.get("id") or "")
    match given:
        case {"type": "message", "role": "assistant", "content": list(content)}:
            text = "".join(_part_words(part, copy) for part in content)
            return ThreadItem("message", "assistant", text, item_id=item_id)
        case {"type": "message", "role": str(role), "content": (str() | list()) as content}:
            words = item_words(content, copy)
            parts = _parts_named(given, stored_content(content), words, conversation_items)
            return ThreadItem("message", role, words, item_id=item_id, parts=parts)
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            # A call that a model made in the thread is compared in the form in which memory shows it.
            return ThreadItem("tool_call", valid_name(name), valid_arguments(arguments), call_id, item_id=item_id)
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            words = item_words(output, copy) if isinstance(output, (str, list)) else json.dumps(output)
            return ThreadItem("tool_result", "", words, call_id, item_id=item_id)
    return None


PHASE = "phase"
"""The only other field of a message that a Conversation takes."""

PLACED_IN_CONVERSATION = frozenset({"text", "image_url", "file"})
"""Types of content parts that a Conversation supports in a user message."""

PLACED_IN_THREAD = frozenset({"text", "image_url"})
"""Types of content parts that an Assistants thread supports; it accepts a file only together with a tool that reads it."""


def thread_items(each: JournaledMessage, stored: Message, losses: Counter[str]) -> Iterator[ThreadItem]:
    """Yield the items of one message of a valid view; count what is lost of the `stored` message."""
    message = each.message
    if message.role in {Role.SYSTEM, Role.DEVELOPER, Role.UNKNOWN}:
        losses[f"{message.role.value}_messages"] += 1
        return
    role = "user" if message.role is Role.USER else "assistant"
    parts = _image_parts(message) if role == "user" else []
    texts = [_words(message)] if message.role is not Role.TOOL else []
    for called in message.calls():
        losses["tool_calls_as_text"] += 1
        texts.append(f"[tool call {called.name} {called.arguments}]")
    if message.role is Role.TOOL:
        losses["tool_results_as_text"] += 1
        texts.append(f"[tool result {message.text}]")
    texts = [piece for text in texts if text.strip() for piece in _pieces(text)]
    is_placed = bool(parts) and len(texts) == 1
    _count_parts(stored, PLACED_IN_THREAD if is_placed else {"text"}, losses, AssistantsThreads.name)
    if not texts:
        losses["empty_messages"] += 1
    if stored.extra() and message.role is not Role.TOOL:
        losses["extra_fields"] += 1
    payload = {"content": parts} if is_placed else {}
    for text in texts:
        yield ThreadItem("message", role, text, "", each.message_id, each.version, payload, written_at=each.written_at)


def _words(message: Message) -> str:
    """Return the text of a message, with images and files as references."""
    content = message.content_as_json()
    if not isinstance(content, list):
        return content or ""
    return "\n\n".join("[image not shown]" if _has_data(part) else _part_words(part) for part in content)


def _has_data(part: dict[str, Any]) -> bool:
    """Return whether this is an image with its data inside, as versions without blobs stored it."""
    inner = part.get("image_url")
    return isinstance(inner, dict) and str(inner.get("url")).startswith("data:")


def _part_words(part: dict[str, Any], copy: CopyOf = _no_copy) -> str:
    """Return what a part is compared by: its text, its address or id, or the address of the attachment that it is."""
    match part:
        case {"image_url": {"blob": str(address)}}:
            return f"[image {address}]"
        case {"image_url": {"url": str(url)} | str(url)} if url.startswith("data:"):
            return f"[image {_address_of(url)}]"
        case {"type": "input_image", "file_id": str(file_id)}:
            known = copy(file_id)
            return f"[image {known.blob}]" if known is not None else f"[file {file_id}]"
        case {"file": {"blob": str(), **rest}}:
            return f"[file {rest.get('filename') or default_name(str(rest.get('media_type')))}]"
        case {"file": {"url": str(url)}} | {"type": "input_file", "file_url": str(url)}:
            return f"[file {url}]"
        case {"type": "input_file", "filename": str(name)} if name:
            return f"[file {name}]"
        case {"type": "text", "text": str(text)} | {"type": "input_text" | "output_text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "input_image", "image_url": str(url)}:
            return f"[image {url}]"
        case {"type": "file", "file": {"file_id": str(file_id)}} | {"type": "input_file", "file_id": str(file_id)}:
            known = copy(file_id)
            return f"[file {known.filename if known is not None else file_id}]"
        case {"type": "refusal", "refusal": str(refusal)}:
            return refusal
    return f"[{part.get('type', 'content')} not shown]"


def _image_parts(message: Message) -> list[dict[str, Any]]:
    """Return the parts of a message with images, others as text; none if the thread takes no image of it."""
    content = message.content
    if not isinstance(content, tuple) or not any(takes(part, AssistantsThreads.name) for part in content):
        return []
    placed = (part.as_json() for part in content)
    words = [part if _is_placed(part) else {"type": "text", "text": _part_words(part)} for part in placed]
    return [part for part in words if part.get("text") != ""]


def _is_placed(part: dict[str, Any]) -> bool:
    return part["type"] == "image_url" and not _has_data(part)


def _count_parts(message: Message, placed: Collection[str], losses: Counter[str], dialect: str = "responses") -> None:
    """Count the content parts that are converted to text or omitted."""
    content = message.content
    if not isinstance(content, tuple):
        return
    for part in content:
        kind = part.as_json().get("type")
        if kind not in placed or (blob_of(part) and not takes(part, dialect)):
            losses[_PARTS.get(str(kind), "other_parts")] += 1


_PARTS = {"image_url": "images", "file": "files", "reasoning": "reasoning", "hosted_call": "hosted_calls"}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), THREAD_MESSAGE_CHARS_MAX):
        yield text[start : start + THREAD_MESSAGE_CHARS_MAX]


def conversation_items(each: JournaledMessage, stored: Message, losses: Counter[str]) -> list[ThreadItem]:
    """Convert one message of a valid view to items of a Conversation; count what is lost of the `stored` message."""
    message = each.message
    made = [conversation_item(item, each) for item in response_items(message) if item.get("content") != ""]
    if not made:
        losses["empty_messages"] += 1
    if stored.extra().keys() - {PHASE} and message.role is not Role.TOOL:
        losses["extra_fields"] += 1
    _count_parts(stored, {"text"} if message.role is Role.ASSISTANT else PLACED_IN_CONVERSATION, losses)
    return made


def conversation_item(payload: dict[str, Any], each: JournaledMessage) -> ThreadItem:
    place: dict[str, Any] = {"message_id": each.message_id, "version": each.version, "payload": payload}
    match payload:
        case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
            return ThreadItem("tool_call", name, arguments, call_id, **place)
        case {"type": "function_call_output", "call_id": call_id, "output": output}:
            return ThreadItem("tool_result", "", item_words(output), call_id, **place)
    return ThreadItem("message", payload["role"], item_words(payload["content"]), **place)


def item_words(content: str | list[dict[str, Any]], copy: CopyOf = _no_copy) -> str:
    return content if isinstance(content, str) else "\n\n".join(_part_words(part, copy) for part in content)


def _address_of(url: str) -> str:
    """Return the address that the data of an image has in the ledger; a hash of the text if it is no base64."""
    data = url.partition(",")[2]
    with suppress(ValueError):  # no base64: the text is hashed instead
        return hashed_address(sha256(binascii.a2b_base64(data)).digest())
    return hashed_address(sha256(url.encode(errors="surrogatepass")).digest())


def thread_text(message: Mapping[str, Any], copy: CopyOf = _no_copy) -> str:
    """Return the text of a message, with images and files as references in the mirror's format."""
    content = message.get("content")
    if not isinstance(content, list):
        return whole_text(text_in(content))
    parts = []
    for part in content:
        match part:
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                parts.append(f"[image {url}]")
            case {"type": "image_file", "image_file": {"file_id": str(file_id)}}:
                known = copy(file_id)
                parts.append(f"[image {known.blob}]" if known is not None else f"[file {file_id}]")
            case _:
                parts.append(text_in(part))
    return "\n\n".join(part for part in parts if part)


# The API has no list of Conversations that could be read instead.
def is_there(client: Client, conversation_id: str) -> Effects[bool]:
    """Return whether the conversation can be retrieved; any refusal counts as missing."""
    try:
        yield from fetched(
            client,
            "GET /conversations/{conversation_id}",
            lambda sdk: sdk.conversations.with_raw_response.retrieve(conversation_id),
            conversation_id,
        )
    except ProviderRefused:
        return False
    return True
