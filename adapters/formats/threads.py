"""Dumps of Assistants threads: lists of messages as `GET /threads/{id}/messages` gives them, with run steps where there are.

Taken: one JSON document or JSON lines of `{"object": "list", "data": [...]}`, lists of messages, single messages,
`{"thread_id": ..., "messages": [...]}` and `{"id": "thread_...", "metadata": {...}, "messages": {"data": [...]},
"run_steps": [...]}`; of Conversations `{"id": "conv_...", "items": [...]}`. Pages of one thread that stand one after the other
are one thread.
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
"""The metadata under which a thread that a ledger wrote says whose copy it is."""

THREAD_ID = "id"
"""What `key_from` says for: always the thread's own id."""

IN_A_THREAD = ("thread.message", "list", "thread")


@dataclass
class Thread:
    """A thread as it was dumped."""

    line: int
    thread_id: str
    messages: list[Any] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    items: list[Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    order: str | None = None
    """`asc` or `desc`, where the dump says it."""
    is_page: bool = False
    """Whether it is a list as the API gives it, which is newest first unless asked otherwise."""


def found_in_threads(values: Iterable[Value], key_from: str = KEY) -> Iterator[Found | Imported]:
    """The conversation of each thread. `key_from` names the metadata that holds its key; `id` is the thread's own id."""
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
    """The conversation of a whole thread."""
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
    """The threads of one JSON value; messages of several in one list are told apart by their `thread_id`.

    Raises:
        InvalidInput: it is no thread.
    """
    if isinstance(value, Mapping) and value.get("object") == "thread.message":
        value = [value]
    if isinstance(value, list):
        return _by_thread(value, Thread(number, ""))
    if not isinstance(value, Mapping):
        raise InvalidInput("it is no thread: give the list of its messages, or an object with thread_id and messages")
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
        raise InvalidInput('it has no list "messages" or "data": give what GET /threads/{id}/messages answers')
    thread.is_page = "data" in value or isinstance(value.get("messages"), Mapping)
    if not thread.thread_id:
        return _by_thread(messages, thread)
    thread.messages = messages
    return [thread]


def _by_thread(messages: list[Any], given: Thread) -> list[Thread]:
    """One thread for each `thread_id`, in the order in which they are met."""
    threads: dict[str, Thread] = {}
    for index, message in enumerate(messages, 1):
        thread_id = message.get("thread_id") if isinstance(message, Mapping) else None
        if not isinstance(thread_id, str) or not thread_id:
            raise InvalidInput(
                f"message {index} has no thread_id, and nothing else says which thread it is of: add one"
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
    """Objects, each id once: pages may overlap.

    Raises:
        InvalidInput: one is no object, or has no id.
    """
    by_id: dict[str, Mapping[str, Any]] = {}
    for number, thing in enumerate(things, 1):
        if not isinstance(thing, Mapping):
            raise InvalidInput(f"{what} {number} is {type(thing).__name__}: an object is expected")
        by_id.setdefault(source_id(thing.get("id"), f"{what} {number}"), thing)
    return list(by_id.values())


def _listed(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """A list, or the list in the API's envelope."""
    found = value.get(name)
    found = found.get("data") if isinstance(found, Mapping) else found
    return found if isinstance(found, list) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
