"""Read dumps of Assistants threads: messages as returned by `GET /threads/{id}/messages`, with run steps if present.

Assistants and the runs of threads are read too, see `assistants.py`: as `GET /assistants` lists them, single, or in
`{"assistants": [...], "threads": [...]}`.

Accepted are one JSON document or JSON lines of `{"object": "list", "data": [...]}`, lists of messages, single messages,
`{"thread_id": ..., "messages": [...]}` and `{"id": "thread_...", "metadata": {...}, "messages": {"data": [...]},
"run_steps": [...]}`. For Conversations, `{"id": "conv_...", "items": [...]}` is accepted. Consecutive pages of one
thread are merged.

Messages and tool call steps become entries of a conversation, oldest first. Messages are sorted by `created_at`, which
has a resolution of one second; equal timestamps keep the order of the list. The tool calls of a run precede the message
that the run wrote next.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from threadledger.domain.conversation.items import hosted_part, thread_message
from threadledger.domain.conversation.native import ASSISTANTS, RESPONSES
from threadledger.domain.errors import InvalidInput, ThreadledgerError

from . import rule_1
from .assistants import ASSISTANT, Read, found_assistants, with_runs
from .items import ItemReader
from .json_values import Value
from .reading import (
    NEWEST_RULE,
    Found,
    Imported,
    MessageReader,
    SourcePlace,
    conversation_key,
    json_of,
    made_key,
    made_keys,
    moment,
    seconds_of,
    source_id,
    storable_fields,
    with_repeated,
)
from .repairs import is_empty

KEY = "threadledger_key"
"""Metadata field in which a thread written by a ledger has the conversation's key."""

THREAD_ID = "id"
"""Value of `key_from` that always selects the thread's own id as the key."""

IN_A_THREAD = ("thread.message", "list", "thread", ASSISTANT)


@dataclass
class Thread:
    """Represent a dumped thread."""

    line: int
    thread_id: str
    messages: list[Any] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)
    items: list[Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: Any = None
    tool_resources: Any = None
    order: str | None = None
    """`asc` or `desc`, if the dump states it."""
    is_page: bool = False
    """Whether the messages are a list as returned by the API, which is newest first by default."""
    next_page_after: str | None = None
    """Id after which the list continues at the provider, if its last page says so (`has_more`)."""
    made: str = ""
    """Key of the conversation if the thread has no id."""
    size: int = 0
    """About how many bytes of the dump it is."""
    repeated: list[str] = field(default_factory=list)
    """Keys that an object of the dump has more than once."""


def found_in_threads(values: Iterable[Value], key_from: str = KEY, file: str = "threads") -> Iterator[Read]:
    """Yield the conversation of each thread, and each assistant.

    `key_from` names the metadata field with its key; `id` selects the thread's id. `file` names the file in keys of
    threads without an id.
    """
    under_way: Thread | None = None
    key_of = made_keys(file)
    for number, text in values:
        repeated: list[str] = []
        try:
            assistants, others = _parted(json_of(text, "line", repeated))
        except ThreadledgerError as error:
            yield Imported(number, "", "failed", reason=str(error))
            continue
        yield from found_assistants(assistants, number)
        threads: list[Thread] = []
        for value in others:
            try:
                threads += threads_of(value, number, key_of(number))
            except ThreadledgerError as error:
                yield Imported(number, "", "failed", reason=str(error))
        for thread in threads:
            thread.repeated = list(repeated)
            thread.size = len(text) // len(threads) if isinstance(text, bytes) else 0
            if under_way is not None and _goes_on(under_way, thread):
                _add(under_way, thread)
                continue
            if under_way is not None:
                yield conversation_of(under_way, key_from)
            under_way = thread
    if under_way is not None:
        yield conversation_of(under_way, key_from)


def is_dump(value: Mapping[str, Any]) -> bool:
    """Return whether a value has lists of assistants or of threads by name."""
    return any(_listed(value, name) is not None for name in ("assistants", "threads"))


def _parted(value: Any) -> tuple[list[Any], list[Any]]:
    """Return the assistants in a value, and the values that are threads."""
    if isinstance(value, Mapping) and is_dump(value):
        return _listed(value, "assistants") or [], _listed(value, "threads") or []
    listed = value if isinstance(value, list) else _listed(value, "data") if isinstance(value, Mapping) else None
    objects = [value] if listed is None else listed
    kinds = {_mapping(each).get("object") for each in objects}
    if kinds == {ASSISTANT}:
        return objects, []
    return [], objects if kinds == {"thread"} else [value]


def conversation_of(thread: Thread, key_from: str = KEY, rule: int = NEWEST_RULE) -> Found | Imported:
    """Return the conversation of a complete thread."""
    key = ""
    try:
        reader = MessageReader(ASSISTANTS if thread.items is None else RESPONSES, rule)
        named = thread.metadata.get(key_from) if key_from != THREAD_ID else None
        found = named if isinstance(named, str) and named else thread.thread_id
        key = conversation_key(found, thread.made, reader.left_out)
        if thread.items is not None:
            _items(thread, reader)
        else:
            _messages(thread, reader)
        reader.check()
        entries, first_runs = with_runs(reader.entries, thread.runs, thread.steps, reader.left_out)
        named_otherwise = thread.thread_id if thread.thread_id != key else None
        origin = {"thread_id": named_otherwise, "tool_resources": thread.tool_resources, "runs": first_runs}
        metadata = {name: value for name, value in thread.metadata.items() if name != KEY}
        note = ""
        if thread.next_page_after is not None:
            reader.left_out["missing_pages"] += 1
            note = (
                f"the list goes on after {thread.next_page_after} (has_more), so messages are missing: "
                "get all pages and import them together, or use --threads"
            )
        known_as = thread.thread_id or None
        read = Found(
            thread.line, key, metadata, entries, reader.left_out, thread_id=known_as, note=note, rule=rule,
            written_at=moment(thread.created_at), origin=storable_fields(origin, reader.left_out),
            by_rule_1=partial(conversation_of, thread, key_from, rule=1) if rule > 1 else None,
        )  # fmt: skip
        return with_repeated(read, thread.repeated, thread.size)
    except ThreadledgerError as error:
        return Imported(thread.line, key, "failed", reason=str(error))


def threads_of(value: Any, number: int, made: str = "") -> list[Thread]:
    """Return the threads of one JSON value; a list of messages is split by `thread_id`.

    Raises:
        InvalidInput: the value is not a thread.
    """
    made = made or made_key("threads", number)
    if isinstance(value, Mapping) and value.get("object") == "thread.message":
        value = [value]
    if isinstance(value, list):
        return _by_thread(value, Thread(number, "", made=made))
    if not isinstance(value, Mapping):
        raise InvalidInput("it is not a thread: pass a list of its messages, or an object with thread_id and messages")
    thread_id = value.get("thread_id") or (value.get("id") if "data" not in value else None)
    named = thread_id if isinstance(thread_id, str) else ""
    order = value.get("order")
    order = order if isinstance(order, str) else None
    thread = Thread(number, named, order=order, metadata=_mapping(value.get("metadata")), made=made)
    if "data" not in value:  # else they are fields of a page
        thread.created_at, thread.tool_resources = value.get("created_at"), value.get("tool_resources")
    for step in _listed(value, "run_steps") or _listed(value, "steps") or ():
        thread.steps.append(step)
    for run in _listed(value, "runs") or ():
        thread.runs.append(run)
        thread.steps += _listed(_mapping(run), "steps") or ()
    items = _listed(value, "items")
    if items is not None:
        thread.items = items
        thread.next_page_after = _next_page_after(value.get("items"))
        return [thread]
    messages = _listed(value, "data") if "data" in value else _listed(value, "messages")
    if messages is None:
        raise InvalidInput('it has no list "messages" or "data": pass the response of GET /threads/{id}/messages')
    thread.is_page = "data" in value or isinstance(value.get("messages"), Mapping)
    thread.next_page_after = _next_page_after(value if "data" in value else value.get("messages"))
    if not thread.thread_id:
        return _by_thread(messages, thread)
    thread.messages = messages
    return [thread]


def _next_page_after(page: Any) -> str | None:
    """Return the id after which a list continues, if it is a page that says so."""
    if not isinstance(page, Mapping) or not _is_true(page.get("has_more")):
        return None
    things = page.get("data")
    last = things[-1].get("id") if isinstance(things, list) and things and isinstance(things[-1], Mapping) else None
    return str(page.get("last_id") or last or "its last entry")


def _is_true(value: Any) -> bool:
    """Return whether a value is true, also if a tool wrote it as text or as a number."""
    return str(value).strip().lower() in {"true", "1"}


def _by_thread(messages: list[Any], given: Thread) -> list[Thread]:
    """Return one thread per `thread_id`, in order of first occurrence.

    If no message names its thread, all are of one thread without an id. Messages that name none among others that do
    belong to the thread of the message before them.
    """
    threads: dict[str, Thread] = {}
    for message in messages:
        found = _mapping(message).get("thread_id")
        if isinstance(found, str) and found:
            threads.setdefault(found, replace(given, thread_id=found, messages=[], steps=[], runs=[]))
    threads = threads or {"": replace(given, messages=[], steps=[], runs=[])}
    current = next(iter(threads))
    for message in messages:
        found = _mapping(message).get("thread_id")
        current = found if isinstance(found, str) and found else current
        threads[current].messages.append(message)
    for step in given.steps:
        threads[_thread_id_in(step, threads) or current].steps.append(step)
    for run in given.runs:
        threads[_thread_id_in(run, threads) or current].runs.append(run)
    return list(threads.values())


def _thread_id_in(thing: Any, threads: Mapping[str, Thread]) -> str | None:
    found = _mapping(thing).get("thread_id")
    return found if isinstance(found, str) and found in threads else None


def _goes_on(under_way: Thread, thread: Thread) -> bool:
    return bool(thread.thread_id) and (under_way.thread_id, under_way.items is None) == (
        thread.thread_id,
        thread.items is None,
    )


def _add(under_way: Thread, page: Thread) -> None:
    under_way.messages += page.messages
    under_way.steps += page.steps
    under_way.runs += page.runs
    under_way.created_at = page.created_at if under_way.created_at is None else under_way.created_at
    under_way.tool_resources = under_way.tool_resources or page.tool_resources
    under_way.repeated += page.repeated
    under_way.size += page.size
    if under_way.items is not None:
        under_way.items += page.items or ()
    under_way.metadata = {**page.metadata, **under_way.metadata}
    under_way.next_page_after = page.next_page_after


def _messages(thread: Thread, reader: MessageReader) -> None:
    messages = _distinct(thread.messages, "message", reader)
    ordered = in_order(messages, _distinct(thread.steps, "run step", reader), thread.order, thread.is_page)
    steps_of = _creations(thread.steps)
    ours: set[str] = set()
    for number, each in enumerate(ordered, 1):
        name = f"message {number}"
        if each.get("type") != "tool_calls":
            _read_message(each, name, (thread.thread_id, steps_of.get(each["id"])), ours, reader)
            continue
        try:
            _read_step(each, name, thread.thread_id, reader)
        except InvalidInput as error:
            reader.leave_out(f"{name}: {error}")


def _items(thread: Thread, reader: MessageReader) -> None:
    listed = _distinct(thread.items or [], "item", reader)
    items = ItemReader(reader)
    for number, item in enumerate(reversed(listed) if thread.order == "desc" else listed, 1):
        created_at = item.get("created_at")
        origin = {"message_id": item["id"], "thread_id": thread.thread_id, "created_at": created_at}
        items.read(item, SourcePlace(item["id"], f"item {number}", moment(created_at), origin))
    items.end()


def _distinct(things: list[Any], what: str, reader: MessageReader) -> list[Mapping[str, Any]]:
    """Return the objects without duplicate ids, because pages may overlap; count values without a valid id."""
    by_id: dict[str, Mapping[str, Any]] = {}
    for number, thing in enumerate(things, 1):
        name = f"{what} {number}"
        if not isinstance(thing, Mapping):
            reader.leave_out(f"{name} is {type(thing).__name__}: an object is expected")
            continue
        try:
            by_id.setdefault(source_id(thing.get("id"), name), thing)
        except InvalidInput as error:
            reader.leave_out(str(error))
    return list(by_id.values())


def _listed(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the list under a name, unwrapped from the API's envelope (`data`) if it has one; else None."""
    found = value.get(name)
    found = found.get("data") if isinstance(found, Mapping) else found
    return found if isinstance(found, list) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


MESSAGE_ID = "threadledger_message"
WRITTEN_AT = "threadledger_written_at"
"""Metadata fields in which a message written by a ledger has its message id and its original timestamp."""

CARRIED = ("attachments", "incomplete_details")
"""Fields of a message that are kept with its content. Attachments are file ids, with size and hash if the dump has them."""


def _creations(steps: Iterable[Any]) -> dict[object, str]:
    """Return the ids of the steps that created a message, by the id of the message."""
    found: dict[object, str] = {}
    for step in map(_mapping, steps):
        created = _mapping(_mapping(step.get("step_details")).get("message_creation")).get("message_id")
        if isinstance(created, str) and isinstance(step.get("id"), str):
            found[created] = step["id"]
    return found


def _read_message(
    message: Mapping[str, Any], name: str, ids: tuple[str, str | None], ours: set[str], reader: MessageReader
) -> None:
    """Read a message of a thread; `ids` are those of its thread and of the run step that created it."""
    given = _chat_message(message, reader.rule, reader.left_out)
    if given is None:
        return
    metadata = _as_mapping(message.get("metadata"))
    found = metadata.get(MESSAGE_ID)
    our_id = found if isinstance(found, str) and found else None
    seen = our_id in ours
    ours |= {our_id} if our_id else set()
    written_at = _iso(metadata.get(WRITTEN_AT)) or moment(message.get("created_at"))
    thread_id, step_id = ids
    origin = _origin_of(message, thread_id, message_id=message["id"], metadata=_foreign(metadata), step_id=step_id)
    at = SourcePlace(message["id"], name, written_at, origin)
    reader.add(given, at, message_id=None if seen else our_id, piece_of=our_id if seen else None)


def _origin_of(thing: Mapping[str, Any], thread_id: str, **more: Any) -> dict[str, Any]:
    found = {name: thing.get(name) for name in ("run_id", "assistant_id", "created_at")}
    return {"thread_id": thing.get("thread_id") or thread_id, **found, **more}


def _foreign(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that no ledger wrote."""
    return {name: value for name, value in metadata.items() if name not in {MESSAGE_ID, WRITTEN_AT}}


def _chat_message(message: Mapping[str, Any], rule: int, left_out: Counter[str]) -> dict[str, Any] | None:
    extra = {field: message[field] for field in CARRIED if message.get(field)}
    content = _content(message, extra) if rule > 1 else rule_1.thread_content(message.get("content"), extra)
    if (content == "" or (isinstance(content, list) and is_empty(content))) and "attachments" not in extra:
        left_out["empty_messages"] += 1
        return None
    foreign = _foreign(_as_mapping(message.get("metadata")))
    if foreign:
        extra["metadata"] = foreign
    return {"role": message.get("role"), "content": content, **extra}


def _content(message: Mapping[str, Any], extra: dict[str, Any]) -> Any:
    """Return the content of a message; a refusal is noted in `extra` too."""
    given = message.get("content")
    if not isinstance(given, list):
        return "" if given is None else given
    said = thread_message(message)
    content = said["content"]
    extra.update((name, said[name]) for name in said if name == "refusal")
    odd = [part for part in given if not isinstance(part, Mapping)]
    if odd:  # a later step counts them
        return [
            *(content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []),
            *odd,
        ]
    return content


def _read_step(step: Mapping[str, Any], name: str, thread_id: str, reader: MessageReader) -> None:
    """Read the function calls of a step as one message, then their results; calls of hosted tools are kept with the next."""
    calls = _as_mapping(step.get("step_details")).get("tool_calls")
    functions: list[dict[str, Any]] = []
    others: list[tuple[str, dict[str, Any]]] = []
    for call in calls if isinstance(calls, list) else ():
        match call:
            case {"type": "function", "id": str(call_id), "function": {"name": str(function), "arguments": str(wish)}}:
                asked = {"name": function, "arguments": wish}
                functions.append({"id": call_id, "type": "function", "function": asked})
                output = call["function"].get("output")
                if output is None:
                    reader.left_out["calls_without_result"] += 1
                else:
                    others.append((call_id, {"role": "tool", "tool_call_id": call_id, "content": output}))
            case {"type": str()}:
                others.append((str(call.get("id", len(others))), dict(call)))
            case _:
                reader.left_out["other_calls"] += 1
    calling = [("calls", {"role": "assistant", "content": None, "tool_calls": functions})] if functions else []
    origin, written_at = _origin_of(step, thread_id, step_id=step["id"]), moment(step.get("created_at"))
    for call_id, given in [*calling, *others]:
        try:
            at = SourcePlace(source_id(f"{step['id']}/{call_id}", name), name, written_at, origin)
        except InvalidInput as error:
            reader.leave_out(str(error))
            continue
        if "role" in given:
            reader.add(given, at)
        else:
            _read_hosted(given, at, reader)


def _read_hosted(call: Mapping[str, Any], at: SourcePlace, reader: MessageReader) -> None:
    """Read a call of a tool that the provider ran; under the first rule, it is a message of words too."""
    facts = _as_mapping(call.get(call["type"]))
    if reader.rule == 1:
        reader.keep(call)
        reader.add(rule_1.hosted_call(call["type"], facts, reader.left_out), at)
        return
    reader.left_out["hosted_calls"] += 1
    reader.keep(call, [hosted_part(call["type"], {"code": facts.get("input"), **facts, **call})], at)


def _iso(text: Any) -> str | None:
    return moment(text) if isinstance(text, str) else None


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


Thing = Mapping[str, Any]


def in_order(messages: Sequence[Thing], steps: Sequence[Thing], order: str | None, is_page: bool) -> list[Thing]:
    """Return messages and tool call steps, oldest first. `order` is the order given by the dump (`asc`, `desc`), if any."""
    said = _oldest_first(messages, _is_newest_first(messages, order, is_page))
    made = _oldest_first(steps, _is_newest_first(steps, None, False))
    before: defaultdict[str, list[Thing]] = defaultdict(list)
    after: defaultdict[str, list[Thing]] = defaultdict(list)
    alone: list[Thing] = []
    for index, step in enumerate(made):
        if step.get("type") != "tool_calls":
            continue
        next_message = _next_message(step, made[index + 1 :], said)
        of_run = [message for message in said if _is_of_run(message, step)]
        if next_message is not None:
            before[next_message].append(step)
        elif of_run:
            after[of_run[-1]["id"]].append(step)
        else:
            alone.append(step)
    placed = [each for message in said for each in (*before[message["id"]], message, *after[message["id"]])]
    for step in alone:
        placed.insert(_place_by_time(step, placed), step)
    return placed


def created_at(thing: Thing) -> float | None:
    """Return the Unix time of a message or step, or None if it has no valid one."""
    return seconds_of(thing.get("created_at"))


def _is_newest_first(things: Sequence[Thing], order: str | None, is_page: bool) -> bool:
    if order in {"asc", "desc"}:
        return order == "desc"
    times = [moment for thing in things if (moment := created_at(thing)) is not None]
    if times and times[0] != times[-1]:
        return times[0] > times[-1]
    # All within one second: assume that the user wrote the first message.
    first, last = (things[0].get("role"), things[-1].get("role")) if things else (None, None)
    return last == "user" if first == "assistant" else is_page and last == first == "user" and len(things) > 1


def _oldest_first(things: Sequence[Thing], newest_first: bool) -> list[Thing]:
    listed = list(reversed(things)) if newest_first else list(things)
    times: list[float] = []
    for thing in listed:  # an object without a timestamp keeps its position after its predecessor
        moment = created_at(thing)
        times.append(moment if moment is not None else times[-1] if times else float("-inf"))
    return [listed[index] for index in sorted(range(len(listed)), key=times.__getitem__)]


def _is_of_run(message: Thing, step: Thing) -> bool:
    return message.get("run_id") is not None and message.get("run_id") == step.get("run_id")


def _next_message(step: Thing, later: Sequence[Thing], said: Sequence[Thing]) -> str | None:
    """Return the id of the next message written by the step's run, found by the run's steps or else by timestamp."""
    ids = {message["id"] for message in said}
    for each in later:
        details = each.get("step_details")
        if each.get("run_id") == step.get("run_id") and isinstance(details, Mapping):
            creation = details.get("message_creation")
            message_id = creation.get("message_id") if isinstance(creation, Mapping) else None
            if isinstance(message_id, str) and message_id in ids:
                return message_id
    moment = created_at(step)
    for message in said:
        written = created_at(message)
        if _is_of_run(message, step) and (moment is None or written is None or written >= moment):
            return str(message["id"])
    return None


def _place_by_time(step: Thing, placed: Sequence[Thing]) -> int:
    """Return the index after the last object that is not newer than the step."""
    moment = created_at(step)
    if moment is None:
        return len(placed)
    return next((index for index, each in enumerate(placed) if (created_at(each) or moment) > moment), len(placed))
