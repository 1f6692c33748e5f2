"""Convert the items of Conversations and Responses: what a request says to messages, and messages back to items.

A message of the model may be several items: its reasoning, its text, and each of its calls. Their ids are made of the id of the
message, so that an item is found by its id.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.items import CALLS, app_message, is_of_the_model, output_messages
from threadledger.domain.conversation.messages import JournaledMessage, Message, Role
from threadledger.domain.conversation.native import RESPONSES, with_texts_in_place
from threadledger.domain.conversation.parts import Audio, File, Image, Part, Text, Verbatim
from threadledger.domain.errors import InvalidMessage

from ..wire import Json, validation
from ..wire.errors import bad_request, missing, wrong_type, wrong_value
from ..wire.items import ITEM_TYPES, id_prefix
from ..wire.limits import CALL_ID_MAX_CHARS, ITEM_ROLES
from ..wire.options import RESPONSE_OPTIONS
from ..wire.parts import ITEM_PARTS
from .calls import ServedCall
from .contents import INLINE_BYTES_MAX, data_url
from .file_search import FILE_SEARCH, NOTHING_FOUND, Hit, first_free, hits_again, hits_in, is_named_search, result_text
from .ids import new_id, wire_id

ReadBlob = Callable[[str], Iterator[bytes]]

INPUT_PARTS = ("input_text", "input_image", "input_file")
REFERENCE = "item_reference"
"""Type of an item of a request that names another item by its id; an object with nothing but an id is one too."""

SEARCH, SEARCH_ID = "file_search_call", "fs_"
"""Type of an item that shows a search of files, and the beginning of its id: also of the call that is stored of one which a
client sends back."""

SEARCH_RESULTS = "file_search_call.results"
"""What `include` names to see what a search of files found."""

_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9]{0,4}")
_ANNOTATIONS: Mapping[str, frozenset[str]] = {
    "file_citation": frozenset({"file_id", "filename", "index"}),
    "url_citation": frozenset({"url", "title", "start_index", "end_index"}),
    "container_file_citation": frozenset({"container_id", "file_id", "filename", "start_index", "end_index"}),
    "file_path": frozenset({"file_id", "index"}),
}
"""Annotations that the API has, and the fields that each must have. Source: OpenAI's OpenAPI description, November 2026."""


# From requests


def messages_in(given: Any, where: str) -> list[Message]:
    """Return the messages that the items of a request say; `where` is the name of the field.

    What the model said is one message with its reasoning and its calls, as in an answer.

    Raises:
        ApiError: a 400, or a 404 for an item that is only named.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise wrong_type(where, "one of a string or array of objects", given)
    found: list[Message] = []
    hits: list[Hit] = []
    of_the_model: list[Json] = []
    for index, each in enumerate(given):
        place = f"{where}[{index}]"
        item = validation.an_object(each, place)
        kind = _kind_of(item, place)
        if is_of_the_model(item, kind) or app_message(item, kind) is None:
            if kind not in CALLS and kind != SEARCH and any(map(_has_results, of_the_model)):
                found += _searched_by_the_model(of_the_model, where, hits)
                of_the_model = []
            of_the_model.append(_checked(item, kind, place))
            continue
        found += _searched_by_the_model(of_the_model, where, hits)
        of_the_model = []
        found.append(_said_by_the_app(item, kind, place))
    return [*found, *_searched_by_the_model(of_the_model, where, hits)]


def _kind_of(item: Json, where: str) -> str:
    kind = item.get("type", "message" if "role" in item else None)
    if kind is None:
        raise missing(f"{where}.type")
    validation.string(kind, f"{where}.type")
    if kind not in ITEM_TYPES and not is_of_the_model(item, kind):  # a model's newer items are kept as they are
        raise wrong_value(f"{where}.type", kind, ITEM_TYPES)
    return str(kind)


def _checked(item: Json, kind: str, where: str) -> Json:
    """Return an item of the model whose fields can be read."""
    if kind == "message":
        content = item.get("content")
        if content is None:
            raise missing(f"{where}.content")
        if not isinstance(content, str | list):
            raise wrong_type(f"{where}.content", "one of a string or array of objects", content)
        for index, part in enumerate(content if isinstance(content, list) else ()):
            here = f"{where}.content[{index}]"
            if validation.an_object(part, here).get("type") not in ("output_text", "refusal"):
                raise wrong_value(here, part.get("type"), ("output_text", "refusal"))
    elif kind in ("function_call", "custom_tool_call"):
        _call_id(item, where)
        validation.required_string(item, "name", f"{where}.name")
    elif _has_results(item):
        return _with_call_id(item, where)
    return item


def _has_results(item: Json) -> bool:
    """Return whether an item is a search of files with what it found, which a model that calls functions can be shown."""
    return item.get("type") == SEARCH and isinstance(item.get("results"), list)


def _with_call_id(item: Json, where: str) -> Json:
    """Return a search whose results and queries can be read, with the id of the call that is stored of it."""
    for index, each in enumerate(item["results"]):
        score = validation.an_object(each, f"{where}.results[{index}]").get("score")
        if score is not None and (not isinstance(score, int | float) or isinstance(score, bool)):
            raise wrong_type(f"{where}.results[{index}].score", "a number", score)
    for index, each in enumerate(validation.array(item.get("queries") or [], f"{where}.queries")):
        validation.string(each, f"{where}.queries[{index}]")
    name = item.get("id")
    if not isinstance(name, str) or not name.startswith(SEARCH_ID) or len(name) > CALL_ID_MAX_CHARS:
        name = new_id(SEARCH_ID, f"{where}\n{json.dumps(item)}")
    return item | {"call_id": name}


def _searched_by_the_model(items: Sequence[Json], where: str, hits: list[Hit]) -> Iterator[Message]:
    """Yield what the model said; searches with results are calls, which their results follow, and then the calls of the app.

    `hits` are the passages of the searches before; those of these are added, so that all markers differ.
    """
    searches = [each for each in items if _has_results(each)]
    later = [each for each in items if each.get("type") in CALLS] if searches else []
    said = [_call_of_search(each) if _has_results(each) else each for each in items if each not in later]
    yield from _said_by_the_model(said, where)
    for each in searches:
        found = hits_again(each["results"], first_free(hits))
        hits += found
        try:
            yield parse_message(
                {"role": Role.TOOL.value, "tool_call_id": each["call_id"], "content": result_text(found)}
            )
        except InvalidMessage as error:
            raise bad_request(f"Invalid '{where}': {error}", where, "invalid_value") from error
    yield from _said_by_the_model(later, where)


def _call_of_search(item: Json) -> Json:
    queries = item.get("queries") or []
    arguments = {"query": queries[0]} if len(queries) == 1 else {"queries": queries}
    call = {"type": "function_call", "call_id": item["call_id"], "name": FILE_SEARCH}
    return call | {"arguments": json.dumps(arguments, ensure_ascii=False)}


def _call_id(item: Json, where: str) -> str:
    call_id = validation.required_string(item, "call_id", f"{where}.call_id", CALL_ID_MAX_CHARS)
    if not call_id:
        raise bad_request(f"Invalid '{where}.call_id': empty string.", f"{where}.call_id", "invalid_value")
    return call_id


def _said_by_the_model(items: Sequence[Json], where: str) -> Sequence[Message]:
    if not items:
        return ()
    lost: Counter[str] = Counter()
    try:
        found = output_messages(items, lost)
    except InvalidMessage as error:
        raise bad_request(f"Invalid '{where}': {error}", where, "invalid_value") from error
    if lost:
        kind = next(iter(lost)).partition(":")[2]
        raise bad_request(
            f"Invalid '{where}': an item of the type '{kind:.64}' is too large or no valid JSON, so that it cannot be kept.",
            where,
            "invalid_value",
        )
    return found


def _said_by_the_app(item: Json, kind: str, where: str) -> Message:
    if kind == "message":
        validation.one_of(validation.required_string(item, "role", f"{where}.role"), f"{where}.role", ITEM_ROLES)
        name, content = "content", item.get("content")
    else:
        _call_id(item, where)
        name, content = "output", item.get("output")
    if content is None:
        raise missing(f"{where}.{name}")
    if isinstance(content, list):
        for index, part in enumerate(content):
            here = f"{where}.{name}[{index}]"
            part_kind = validation.an_object(part, here).get("type")
            if part_kind not in INPUT_PARTS:
                raise wrong_value(here, part_kind, INPUT_PARTS)
            ITEM_PARTS[part_kind](part, here)
    elif not isinstance(content, str):
        raise wrong_type(f"{where}.{name}", "one of a string or array of objects", content)
    try:
        return parse_message(app_message(item, kind) or {})
    except InvalidMessage as error:
        raise bad_request(f"Invalid '{where}': {error}", where, "invalid_value") from error


# To items


def items_of(
    message: JournaledMessage, read_blob: ReadBlob, search: str = "", results: Mapping[str, str] | None = None
) -> list[Json]:
    """Return the items that a message is, in their order; `search` is the name of the function that searches files.

    With `results`, by the ids of calls, its searches show what they found.
    """
    is_own = message.run_id is not None
    made = [
        search_item(each["arguments"], results.get(each["call_id"], "") if results is not None else None)
        if _is_search(each, search) and (is_own or each["call_id"].startswith(SEARCH_ID))
        else each
        for each in _items(message.message, read_blob)
    ]
    counts: Counter[str] = Counter()
    for each in made:
        prefix = id_prefix(each["type"])
        number = counts[prefix]
        counts[prefix] += 1
        each["id"] = wire_id(prefix, message.message_id) + (f"{number:02}" if number else "")
    return made


def items_among(messages: Sequence[JournaledMessage], read_blob: ReadBlob, with_results: bool = False) -> list[Json]:
    """Return the items of messages that follow each other, with what searches found if that is shown."""
    texts = {each.message.tool_call_id: each.message.text for each in messages if each.message.tool_call_id is not None}
    results = texts if with_results else None
    shown = (each for each in messages if not is_search_result(each))
    return [item for each in shown for item in items_of(each, read_blob, search_of(each), results)]


def _is_search(item: Json, name: str) -> bool:
    return bool(name) and item["type"] == "function_call" and item["name"] == name


def search_item(arguments: str, found: str | None = None) -> Json:
    """Return the item of a search, from the arguments of the call of its function, and what that returned if it is shown."""
    try:
        given = json.loads(arguments)
    except ValueError:
        given = {}
    said = given if isinstance(given, dict) else {}
    more = said.get("queries")
    queries = [said.get("query"), *(more if isinstance(more, list) else [more])]
    made: Json = {"id": "", "type": SEARCH, "queries": [each for each in queries if isinstance(each, str)]}
    results = [_result(hit) for hit in hits_in(found)] if found is not None else None
    return made | {"status": "completed", "results": results}


def _result(hit: Hit) -> Json:
    shown = {"file_id": hit.file_id, "filename": hit.filename, "score": hit.score, "text": hit.text}
    return shown | {"attributes": dict(hit.attributes)}


def shows_results(call: ServedCall) -> bool:
    """Return whether the query of a request asks for what searches found.

    Raises:
        ApiError: a 400, because `include` names what the API does not have.
    """
    included = [value for name, value in call.query_pairs if name in ("include", "include[]")]
    RESPONSE_OPTIONS["include"](included, "include")
    return SEARCH_RESULTS in included


def search_of(message: JournaledMessage) -> str:
    """Return the name of the function with which a message searched files, if its calls may be such; else empty.

    The search is of the server's run, or a client has sent it with its results.
    """
    if message.role_name != Role.ASSISTANT.value:
        return ""
    calls = (call for call in message.message.calls() if is_named_search(call.name))
    return next((call.name for call in calls if message.run_id is not None or call.id.startswith(SEARCH_ID)), "")


def is_search_result(message: JournaledMessage) -> bool:
    """Return whether a message is what a search of files has found, which belongs to the item of the search."""
    if not message.is_tool_result:
        return False
    if message.run_id is None and not (message.message.tool_call_id or "").startswith(SEARCH_ID):
        return False
    return bool(hits_in(message.message.text)) or NOTHING_FOUND in message.message.text


def reference_in(item: Any) -> str | None:
    """Return the id of the item that an item of a request only names; None if it is no such item."""
    if not isinstance(item, Mapping) or not item.keys() <= {"id", "type"} or item.get("type") not in (REFERENCE, None):
        return None
    return item["id"] if isinstance(item.get("id"), str) else None


def message_digits(item_id: str) -> str | None:
    """Return the digits of the id of the message that an item belongs to; None if the id has another form."""
    found = _ITEM_ID.fullmatch(item_id)
    return found[1] if found is not None else None


def _items(message: Message, read_blob: ReadBlob) -> Iterator[Json]:
    if message.role is Role.TOOL:
        yield _output_item(message, read_blob)
    elif message.role is not Role.ASSISTANT:
        role = message.role.value if message.role is not Role.UNKNOWN else Role.USER.value
        yield _message_item(role, [*_input_parts(message, read_blob)])
    else:
        yield from _items_of_the_model(message, read_blob)


def _output_item(message: Message, read_blob: ReadBlob) -> Json:
    is_text = isinstance(message.content, str) or not message.content
    output: Any = message.content or "" if is_text else [*_input_parts(message, read_blob)]
    made: Json = {"id": "", "type": "function_call_output", "call_id": message.tool_call_id, "output": output}
    return made | {"status": "completed"}


def _message_item(role: str, content: list[Json]) -> Json:
    return {"id": "", "type": "message", "status": "completed", "role": role, "content": content}


def _items_of_the_model(message: Message, read_blob: ReadBlob) -> Iterator[Json]:
    """Yield what the model said and did in the order of the provider's items, or reasoning, text and calls."""
    said = _text_items(message)
    calls = [_call_item(call.id, call.name, call.arguments) for call in message.calls()]
    native = message.native() if message.native_json else {}
    if native.get("dialect") != RESPONSES:
        yield from (*_reasoning_items(message), *said, *calls)
        return
    for item in with_texts_in_place(native, read_blob).get("items") or ():
        kind = item.get("type")
        source = said if kind == "message" else calls if kind in ("function_call", "custom_tool_call") else None
        if source is None:
            yield {"id": "", **item} if isinstance(kind, str) and kind != "unknown" else _unknown_item(item)
        elif source:
            yield source.pop(0)
    is_unsaid = bool(native.get("items")) and not _has_text(said)
    yield from (*(() if is_unsaid else said), *calls)


def _has_text(items: Sequence[Json]) -> bool:
    return any(part.get("text") or part.get("refusal") for each in items for part in each["content"])


def _unknown_item(item: Json) -> Json:
    return {
        "id": "",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": f"[{item.get('was', 'an item')}]"}],
    }


def _call_item(call_id: str, name: str, arguments: str) -> Json:
    made: Json = {"id": "", "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return made | {"status": "completed"}


def _reasoning_items(message: Message) -> Iterator[Json]:
    for part in message.content if isinstance(message.content, tuple) else ():
        given = part.as_json() if isinstance(part, Verbatim) else {}
        if given.get("type") == "reasoning" and isinstance(given.get("text"), str):
            said = [{"type": "reasoning_text", "text": given["text"]}]
            yield {"id": "", "type": "reasoning", "summary": [], "content": said, "status": "completed"}


def _text_items(message: Message) -> list[Json]:
    extra = message.extra()
    refusal = extra.get("refusal")
    parts = message.content if isinstance(message.content, tuple) else (Text(message.content or ""),)
    texts = [part for part in parts if isinstance(part, Text)]
    content = [output_text("".join(part.text for part in texts), [*_annotations(texts)])]
    if isinstance(refusal, str) and refusal:  # it is the message's text too if there is no other
        kept = content if content[0]["text"] not in ("", refusal) else []
        content = [*kept, {"type": "refusal", "refusal": refusal}]
    elif not content[0]["text"] and (message.calls() or len(texts) < len(parts)):
        return []
    phase = extra.get("phase")
    return [_message_item(Role.ASSISTANT.value, content) | ({"phase": phase} if phase else {})]


def output_text(text: str, annotations: Sequence[Json] = ()) -> Json:
    """Return a model's text as the content part of an item."""
    return {"type": "output_text", "text": text, "annotations": [*annotations], "logprobs": []}


def _annotations(texts: Sequence[Text]) -> Iterator[Json]:
    offset = 0
    for part in texts:
        for note in json.loads(part.annotations_json or "[]"):
            made = annotation(note, offset)
            if made is not None:
                yield made
        offset += len(part.text)


def annotation(note: Any, offset: int = 0) -> Json | None:
    """Return what a provider says about a text in the form of Responses; None if that has no such annotation.

    Chat Completions and Assistants have the facts in an object within; `offset` is added to its places.
    """
    kind = note.get("type") if isinstance(note, Mapping) else None
    needed = _ANNOTATIONS.get(kind) if isinstance(kind, str) else None
    if needed is None:
        return None
    inner = note.get(str(kind))
    flat: Json = {**note, **inner} if isinstance(inner, Mapping) else {**note}
    flat = {name: value for name, value in flat.items() if name in needed}
    places = {name: flat[name] + offset for name in ("start_index", "end_index") if type(flat.get(name)) is int}
    flat |= places
    if kind == "file_citation":
        flat = {"index": places.get("end_index", note.get("end_index", 0)), "filename": "", **flat}
    flat = {"title": "", **flat} if kind == "url_citation" else flat
    return {"type": kind, **flat} if flat.keys() >= needed else None


def _input_parts(message: Message, read_blob: ReadBlob) -> Iterator[Json]:
    parts = message.content if isinstance(message.content, tuple) else (Text(message.content or ""),)
    for part in parts:
        yield _input_part(part, read_blob)


def _input_part(part: Part, read_blob: ReadBlob) -> Json:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text}
        case Image() if part.blob and part.file_id:
            return {"type": "input_image", "file_id": part.file_id, "detail": part.detail or "auto"}
        case Image() if part.url or part.size <= INLINE_BYTES_MAX:
            url = part.url or data_url(part.media_type, part.blob, read_blob)
            return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
        case Image():
            return {"type": "input_text", "text": f"[an image of {part.size:,} bytes]"}
        case File(file_id=str(name)) if name:
            return {"type": "input_file", "file_id": name} | _named(part)
        case File(url=str(url)) if url:
            return {"type": "input_file", "file_url": url} | _named(part)
        case File() if part.size <= INLINE_BYTES_MAX:
            data = data_url(part.media_type, part.blob, read_blob)
            return {"type": "input_file", "file_data": data} | _named(part)
        case File():
            return {
                "type": "input_text",
                "text": f"[a file of {part.size:,} bytes: {part.filename or part.media_type}]",
            }
        case Audio(file_id=str(name)) if name:
            return {"type": "input_file", "file_id": name}
        case Audio():
            return {"type": "input_text", "text": "[a recording]"}
    return _other_part(part.as_json())


def _named(part: File) -> Json:
    return {"filename": part.filename} if part.filename else {}


def _other_part(part: Json) -> Json:
    match part:
        case {"type": "input_image", "file_id": str(file_id), **rest}:
            return {"type": "input_image", "file_id": file_id, "detail": rest.get("detail") or "auto"}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "input_text", "text": text}
    return {"type": "input_text", "text": f"[{part.get('type') or 'a part of another kind'}]"}
