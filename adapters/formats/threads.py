"""Read dumps of Assistants threads: messages as returned by `GET /threads/{id}/messages`, with run steps if present.

Accepted are one JSON document or JSON lines of `{"object": "list", "data": [...]}`, lists of messages, single messages,
`{"thread_id": ..., "messages": [...]}` and `{"id": "thread_...", "metadata": {...}, "messages": {"data": [...]},
"run_steps": [...]}`. For Conversations, `{"id": "conv_...", "items": [...]}` is accepted. Consecutive pages of one
thread are merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain import InvalidInput, ThreadledgerError

from .found import Entry, Found, Imported, json_of, message_of, source_id
from .json_values import Value
from .response_items import chat_message
from .thread_messages import entries_of
from .thread_order import in_order

KEY = "threadledger_key"
"""Metadata field in which a thread written by a ledger has the conversation's key."""

THREAD_ID = "id"
"""Value of `key_from` that always selects the thread's own id as the key."""

IN_A_THREAD = ("thread.message", "list", "thread")


@dataclass
class Thread:
    """Represent a dumped thread."""

    line: int
    thread_id: str
    messages: list[Any] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    items: list[Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    order: str | None = None
    """`asc` or `desc`, if the dump states it."""
    is_page: bool = False
    """Whether the messages are a list as returned by the API, which is newest first by default."""


def found_in_threads(values: Iterable[Value], key_from: str = KEY) -> Iterator[Found | Imported]:
    """Yield the conversation of each thread. `key_from` names the metadata field with its key; `id` selects the thread's id."""
    under_way: Thread | None = None
    for number, text in values:
        try:
            threads = threads_of(json_of(text, "line"), number)
        except ThreadledgerError as error:
            yield Imported(number, "", "failed", reason=str(error))
            continue
        for thread in threads:
            if under_way is not None and _goes_on(under_way, thread):
                _add(under_way, thread)
                continue
            if under_way is not None:
                yield conversation_of(under_way, key_from)
            under_way = thread
    if under_way is not None:
        yield conversation_of(under_way, key_from)


def conversation_of(thread: Thread, key_from: str = KEY) -> Found | Imported:
    """Return the conversation of a complete thread."""
    key = ""
    try:
        thread_id = source_id(thread.thread_id, "the thread")
        named = thread.metadata.get(key_from) if key_from != THREAD_ID else None
        key = named if isinstance(named, str) and named else thread_id
        left_out: Counter[str] = Counter()
        entries = list(_items(thread, left_out) if thread.items is not None else _messages(thread, left_out))
        metadata = {name: value for name, value in thread.metadata.items() if name != KEY}
        return Found(thread.line, key, metadata, entries, left_out, thread_id=thread_id)
    except ThreadledgerError as error:
        return Imported(thread.line, key, "failed", reason=str(error))


def threads_of(value: Any, number: int) -> list[Thread]:
    """Return the threads of one JSON value; a list of messages is split by `thread_id`.

    Raises:
        InvalidInput: the value is not a thread.
    """
    if isinstance(value, Mapping) and value.get("object") == "thread.message":
        value = [value]
    if isinstance(value, list):
        return _by_thread(value, Thread(number, ""))
    if not isinstance(value, Mapping):
        raise InvalidInput("it is not a thread: pass a list of its messages, or an object with thread_id and messages")
    thread_id = value.get("thread_id") or (value.get("id") if "data" not in value else None) or ""
    thread = Thread(number, thread_id, order=value.get("order"), metadata=_mapping(value.get("metadata")))
    for step in _listed(value, "run_steps") or _listed(value, "steps") or ():
        thread.steps.append(step)
    for run in _listed(value, "runs") or ():
        thread.steps += _listed(_mapping(run), "steps") or ()
    items = _listed(value, "items")
    if items is not None:
        thread.items = items
        return [thread]
    messages = _listed(value, "data") if "data" in value else _listed(value, "messages")
    if messages is None:
        raise InvalidInput('it has no list "messages" or "data": pass the response of GET /threads/{id}/messages')
    thread.is_page = "data" in value or isinstance(value.get("messages"), Mapping)
    if not thread.thread_id:
        return _by_thread(messages, thread)
    thread.messages = messages
    return [thread]


def _by_thread(messages: list[Any], given: Thread) -> list[Thread]:
    """Return one thread per `thread_id`, in order of first occurrence."""
    threads: dict[str, Thread] = {}
    for index, message in enumerate(messages, 1):
        thread_id = message.get("thread_id") if isinstance(message, Mapping) else None
        if not isinstance(thread_id, str) or not thread_id:
            raise InvalidInput(
                f"message {index} has no thread_id, so the thread that it belongs to is unknown: add a thread_id"
            )
        made = Thread(given.line, thread_id, order=given.order, metadata=given.metadata, is_page=given.is_page)
        threads.setdefault(thread_id, made).messages.append(message)
    for step in given.steps:
        thread_id = _mapping(step).get("thread_id")
        if isinstance(thread_id, str) and thread_id in threads:
            threads[thread_id].steps.append(step)
    return list(threads.values())


def _goes_on(under_way: Thread, thread: Thread) -> bool:
    return bool(thread.thread_id) and (under_way.thread_id, under_way.items is None) == (
        thread.thread_id,
        thread.items is None,
    )


def _add(under_way: Thread, page: Thread) -> None:
    under_way.messages += page.messages
    under_way.steps += page.steps
    if under_way.items is not None:
        under_way.items += page.items or ()
    under_way.metadata = {**page.metadata, **under_way.metadata}


def _messages(thread: Thread, left_out: Counter[str]) -> Iterator[Entry]:
    messages = _distinct(thread.messages, "message")
    ordered = in_order(messages, _distinct(thread.steps, "run step"), thread.order, thread.is_page)
    ours: set[str] = set()
    for number, each in enumerate(ordered, 1):
        for entry in entries_of(each, number, left_out):
            seen = entry.message_id in ours
            ours |= {entry.message_id} if entry.message_id else set()
            yield replace(entry, message_id=None, piece_of=entry.message_id) if seen else entry


def _items(thread: Thread, left_out: Counter[str]) -> Iterator[Entry]:
    items = _distinct(thread.items or [], "item")
    for number, item in enumerate(reversed(items) if thread.order == "desc" else items, 1):
        name = f"item {number}"
        try:
            given = chat_message(item, left_out)
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error}") from None
        if given is not None:
            yield Entry(message_of(given, name), source_id(item.get("id"), name), name)


def _distinct(things: list[Any], what: str) -> list[Mapping[str, Any]]:
    """Return the objects without duplicate ids, because pages may overlap.

    Raises:
        InvalidInput: a value is not an object, or has no valid id.
    """
    by_id: dict[str, Mapping[str, Any]] = {}
    for number, thing in enumerate(things, 1):
        if not isinstance(thing, Mapping):
            raise InvalidInput(f"{what} {number} is {type(thing).__name__}: an object is expected")
        by_id.setdefault(source_id(thing.get("id"), f"{what} {number}"), thing)
    return list(by_id.values())


def _listed(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the list under a name, unwrapped from the API's envelope (`data`) if it has one; else None."""
    found = value.get(name)
    found = found.get("data") if isinstance(found, Mapping) else found
    return found if isinstance(found, list) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
