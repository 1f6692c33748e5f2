"""Make a view of memory valid for the wire: what a model or an import once said must never make a provider refuse it.

Only the view changes; the journal keeps every message as it was. A valid view holds only what every backend accepts:
arguments are a JSON object in text, names of functions match `FUNCTION_NAME`, call ids are distinct, every call is
followed by its result, content parts have the provider's shape, and everything else is text. A view that is valid
already is not changed, and neither is an item of a thread that was written from a valid view.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..conversation.items import is_aside
from ..conversation.messages import Content, JournaledMessage, Message, Role, ToolCall
from ..conversation.parts import Audio, File, Image, Part, Text, Verbatim
from ..limits import (
    AUDIO_BYTES_PER_TOKEN,
    FILE_BYTES_PER_TOKEN,
    FILE_TOKENS_GUESSED,
    IMAGE_BYTES_PER_TOKEN,
    IMAGE_LOW_TOKENS,
    IMAGE_TOKENS,
    JSON_LEVELS_MAX,
)
from .rule_1 import NO_RESULT, estimate_tokens
from .sending import not_shown

if TYPE_CHECKING:
    from ..conversation.attachments import Read

# Source of names, ids and shapes: OpenAI's OpenAPI description distributed with openai-python 3.3.1 (`FunctionObject`,
# `FunctionCallOutputItemParam`, `ChatCompletionRequestMessage` and the parts that it refers to). November 2026.
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
CALL_ID = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
"""What Anthropic accepts as the id of a call; OpenAI accepts more."""
CALL_ID_CHARS_MAX = 64
CHAT_CALL_ID_CHARS_MAX = 40
"""Maximum length of a call id, and of one in Chat Completions, according to its refusals of longer ones in 2025."""
IMAGE_ADDRESS = re.compile(r"https?://\S+|data:image/(?a:[\w.+-]+);base64,\S+")
IMAGE_TYPE = re.compile(r"image/[\w.+-]+", re.ASCII)
IMAGE_DETAILS = frozenset({"auto", "low", "high"})
AUDIO_FORMATS = frozenset({"wav", "mp3"})

PHASE = "phase"
PHASES = frozenset({"commentary", "final_answer"})
"""Field of an assistant's message that Responses wants back, and its values. Source: OpenAI's OpenAPI description
(`MessagePhase`); November 2026."""

UNPARSED = "unparsed_arguments"
"""Key under which a view keeps arguments that are not a JSON object."""


def valid_view(
    messages: Iterable[JournaledMessage], call_id_chars: int = CALL_ID_CHARS_MAX, *, results_have_parts: bool = False
) -> tuple[JournaledMessage, ...]:
    """Return the messages in a form that every backend accepts; messages without any content are kept empty.

    With `results_have_parts`, the results of tools may have images and files, which not every backend accepts. A result
    follows its call directly; one whose call is not in view, or that came second, is left out.
    """
    ids = _CallIds(call_id_chars)
    view: list[JournaledMessage] = []
    waiting: dict[str, list[int]] = {}  # places in the view of results that are still missing, by original call id
    for each in messages:
        message = each.message
        if message.role is Role.TOOL:
            places = waiting.get(message.tool_call_id or "")
            if places:
                place = places.pop(0)
                answered = view[place].message.tool_call_id
                view[place] = each.showing(_valid(message, (), results_have_parts).replaced(tool_call_id=answered))
        elif message.role is not Role.UNKNOWN:
            original = _calls_of(message)
            made = [ids.distinct(call.id, f"{each.message_id}/{index}") for index, call in enumerate(original)]
            view.append(each.showing(_valid(message, _valid_calls(original, made))))
            for call in original:
                waiting[call.id] = []
            for call, call_id in zip(original, made, strict=True):
                waiting[call.id].append(len(view))
                view.append(each.showing(Message(Role.TOOL, NO_RESULT, tool_call_id=call_id), made_up=True))
    return tuple(view)


def results_left_out(messages: Iterable[Message]) -> list[str]:
    """Return the ids of the calls whose results a valid view of these messages leaves out, once for each result."""
    left_out: list[str] = []
    waiting: dict[str, int] = {}
    for message in messages:
        if message.role is not Role.TOOL:
            waiting |= Counter(call.id for call in _calls_of(message))
        elif waiting.get(message.tool_call_id or ""):
            waiting[message.tool_call_id or ""] -= 1
        else:
            left_out.append(message.tool_call_id or "")
    return left_out


def chat_entry(message: Message, native: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one message of a valid view in the format of Chat Completions, with the provider's items if there are any."""
    entry = message.as_chat_message()
    entry.pop(PHASE, None)
    return entry | ({"native": native} if native else {})


def is_empty(message: Message) -> bool:
    """Return whether a valid message says nothing, so that it has no place in a request."""
    return not message.content and not message.tool_calls and message.role is not Role.TOOL


def valid_name(name: str) -> str:
    """Return the name under which a function is sent: itself if it is valid, otherwise a valid one.

    Two different names never get the same one; `original_name` is the way back.
    """
    if FUNCTION_NAME.fullmatch(name):
        return name
    cleaned = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[: 64 - 13]
    return f"{cleaned}_{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"


def original_name(name: str, known: Iterable[str]) -> str:
    """Return the function that a model means by a name that it saw in a valid view: one of the known names, or itself."""
    return next((each for each in known if valid_name(each) == name), name)


def valid_arguments(arguments: object) -> str:
    """Return a call's arguments as the text of a JSON object.

    Text that is one is returned unchanged. Empty text and null are an object without arguments; everything else is kept
    inside an object, under `UNPARSED`.
    """
    if isinstance(arguments, str):
        try:
            value = _strict_json(arguments) if arguments.strip() else None
        except (ValueError, RecursionError):
            value = arguments
        if isinstance(value, dict) and _is_plain_json(value):
            return arguments if "\\u" not in arguments else _encodable(arguments, value)
        arguments = value if value is None else arguments
    if arguments is None:
        return "{}"
    return _text_of_json(arguments if isinstance(arguments, dict) else {UNPARSED: arguments})


def since_question(
    view: Sequence[JournaledMessage], dialect: str, place: str, read: Read | None
) -> Iterator[tuple[Message, list[dict[str, Any]]]]:
    """Yield the messages of a valid view, each with the provider's items of it that a request needs besides.

    These are the items that came from the same dialect and place, since the newest question: a provider requires its
    reasoning only while the model calls tools.
    """
    asked = max((index for index, each in enumerate(view) if each.message.role is Role.USER), default=-1)
    for index, each in enumerate(view):
        items: list[dict[str, Any]] = []
        if index > asked and each.message.native_json:
            from ..conversation.native import items_in
            from .sending import Attachments

            items = items_in(each.message.native_json, dialect, place, Attachments(read).read)
        yield each.message, items


def without_generated(each: JournaledMessage) -> JournaledMessage:
    """Return an answer without the images that the model generated, which its thread holds as items of their own."""
    content = each.message.content
    if each.role_name != Role.ASSISTANT.value or not isinstance(content, tuple):
        return each
    left = tuple(part for part in content if not (isinstance(part, Image) and part.blob))
    return each if left == content else each.showing(each.message.replaced(content=left or None))


def response_items(message: Message, native: Sequence[Mapping[str, Any]] = ()) -> Sequence[dict[str, Any]]:
    """Return one message as items of the Responses API and of Conversations.

    Assistant text becomes a plain string, the only form that is valid without the provider's own ids. Reasoning among the
    provider's items (`native`) is placed before the item that it belongs to: without that, it is refused.
    """
    items = _response_items(message)
    if not native:
        return items
    said = [item for item in items if item["type"] == "message"]
    calls = [item for item in items if item["type"] != "message"]
    placed: list[dict[str, Any]] = []
    reasons: list[dict[str, Any]] = []
    for each in native:
        kind = each.get("type")
        if kind == "reasoning":
            if each.get("encrypted_content"):
                reasons.append({name: value for name, value in each.items() if value is not None})
            continue
        source = said if kind == "message" else calls if kind in {"function_call", "custom_tool_call"} else []
        placed += [*reasons, source.pop(0)] if source else []
        reasons = []
    return [*placed, *said, *calls]


def _response_items(message: Message) -> Sequence[dict[str, Any]]:
    if message.role is Role.TOOL:
        output = message.content if isinstance(message.content, str) else _input_content(message)
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": output}]
    items: list[dict[str, Any]] = []
    if message.content:
        content = message.text if message.role is Role.ASSISTANT else _input_content(message)
        if content:
            phase = message.extra().get(PHASE) if message.role is Role.ASSISTANT else None
            kept = {PHASE: phase} if phase else {}
            items.append({"type": "message", "role": message.role.value, "content": content} | kept)
    items.extend(
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.calls()
    )
    return items


def _input_content(message: Message) -> str | list[dict[str, Any]]:
    content = message.content_as_json()
    return content if isinstance(content, str) else [_input_part(part) for part in content or ()]


def _input_part(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part in the form of Responses; an attachment whose bytes are in the ledger stays for `resolved`."""
    match part:
        case {"image_url": {"blob": _}} | {"file": {"blob": _} | {"url": _}}:
            return part
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **rest}}:
            return {"type": "input_image", "image_url": url, "detail": rest.get("detail") or "auto"}
        case {"type": "file", "file": {"file_id": file_id}}:
            return {"type": "input_file", "file_id": file_id}
        case {"type": "file", "file": {"file_data": data, "filename": name}}:
            return {"type": "input_file", "file_data": data, "filename": name}
    return {"type": "input_text", "text": not_shown(part)}


def part_tokens(message: Message) -> int:
    """Return the approximate number of tokens of a message's content parts and other fields that are not plain text."""
    content = _content(message)
    if not isinstance(content, tuple):
        return estimate_tokens(content or "") - estimate_tokens(message.text)
    return sum(map(_tokens_of, content)) - estimate_tokens(message.text)


def _tokens_of(part: Part) -> int:
    match part:
        case Text(text):
            return estimate_tokens(text)
        case Image(url, detail):
            size = len(url) * 3 // 4 if url.startswith("data:") else part.size
            return max(IMAGE_LOW_TOKENS if detail == "low" else IMAGE_TOKENS, size // IMAGE_BYTES_PER_TOKEN)
        case File():
            return part.size // FILE_BYTES_PER_TOKEN or FILE_TOKENS_GUESSED
        case Audio():
            return part.size // AUDIO_BYTES_PER_TOKEN
        case _:
            is_audio = '"input_audio"' in part.json[:40]
            return len(part.json) * 3 // 4 // (AUDIO_BYTES_PER_TOKEN if is_audio else FILE_BYTES_PER_TOKEN)


# Messages


def _valid(message: Message, calls: tuple[ToolCall, ...], results_have_parts: bool = False) -> Message:
    """Return a message of a valid view; only a valid `name`, and a `phase`, are left of its other fields."""
    has_parts = message.role is Role.USER or (results_have_parts and message.role is Role.TOOL)
    content = _content(message, in_words=not has_parts)
    if isinstance(content, tuple) and not (has_parts and _are_kept(message.role, content)):
        content = "\n\n".join(part.text for part in content if isinstance(part, Text))
    if message.role is Role.TOOL:
        content = content or ""
    elif isinstance(content, str) and not content.strip():
        content = None
    if isinstance(content, str) and not content.isascii():
        content = content.encode(errors="replace").decode()
    others = message.extra()
    name, phase = others.get("name"), others.get(PHASE)
    left = {"name": name} if isinstance(name, str) and FUNCTION_NAME.fullmatch(name) else {}
    left |= {PHASE: phase} if phase in PHASES and message.role is Role.ASSISTANT else {}
    extra = json.dumps(left, separators=(",", ":")) if left else "{}"
    return Message(message.role, content, calls, message.tool_call_id, extra, message.native_json)


def _are_kept(role: Role, content: tuple[Part, ...]) -> bool:
    """Return whether content stays parts: a tool's texts alone are one text, as every API takes them."""
    return role is Role.USER or any(not isinstance(part, Text) for part in content)


def _content(message: Message, in_words: bool = False) -> Content:
    """Return the content with valid parts; an assistant's refusal or spoken words if it has no other content."""
    content = message.content
    if isinstance(content, tuple):
        role = message.role
        shown = [part for part in content if role is not Role.ASSISTANT or not is_aside(part)]
        parts = [_valid_part(part, in_words) for part in shown]
        kept = tuple(part for part in parts if not isinstance(part, Text) or part.text.strip())
        if kept:
            return kept
    elif content and content.strip():
        return content
    extra = message.extra()
    audio = extra.get("audio")
    words = [extra.get("refusal"), audio.get("transcript") if isinstance(audio, dict) else None]
    spoken = next((each for each in words if isinstance(each, str) and each.strip()), None)
    return spoken or ("[audio not shown]" if audio else None)


# Calls


class _CallIds:
    """Make the ids of calls distinct, with at most the number of characters that the provider accepts."""

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max
        self._used: set[str] = set()

    def distinct(self, call_id: str, place: str) -> str:
        """Return the id if it is valid and not used yet; otherwise one made from it, or from the call's place."""
        if not CALL_ID.fullmatch(call_id) or len(call_id) > self._chars_max:
            digest = hashlib.sha256((call_id or place).encode(errors="surrogatepass")).hexdigest()
            call_id = f"call_{digest[:24]}"
        chosen, number = call_id, 1
        while chosen in self._used:
            number += 1
            suffix = f"-{number}"
            chosen = call_id[: self._chars_max - len(suffix)] + suffix
        self._used.add(chosen)
        return chosen


def _calls_of(message: Message) -> list[ToolCall]:
    """Return a message's calls of any shape with valid names and arguments, and their original ids."""
    if message.role is not Role.ASSISTANT:
        return []
    given: Collection[Any] = message.tool_calls
    if not given and message.extra_json != "{}":
        extra = message.extra()
        loose, legacy = extra.get("tool_calls"), extra.get("function_call")
        given = loose if isinstance(loose, list) and loose else [{"function": legacy}] if legacy else ()
    return [
        _loose_call(each.as_json() if isinstance(each, ToolCall) else each)
        for each in given
        if isinstance(each, ToolCall | dict)
    ]


def _loose_call(given: Mapping[str, Any]) -> ToolCall:
    inner = next((given[kind] for kind in ("function", "custom") if isinstance(given.get(kind), dict)), given)
    call_id, name = given.get("id"), inner.get("name")
    arguments = inner.get("arguments", inner.get("input"))
    return ToolCall(
        call_id if isinstance(call_id, str) else "",
        valid_name(name if isinstance(name, str) else ""),
        valid_arguments(arguments),
    )


def _valid_calls(calls: Sequence[ToolCall], ids: Sequence[str]) -> tuple[ToolCall, ...]:
    return tuple(replace(call, id=call_id) for call, call_id in zip(calls, ids, strict=True))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _strict_json(text: str) -> Any:
    """Return the value of JSON text in which every number can be written again: Python reads 1e999 as infinity.

    Raises:
        ValueError: the text is not JSON, or has such a number.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large")
    return number


def _is_plain_json(value: dict[str, Any]) -> bool:
    """Return whether a value is nested so little that it can be written and read again."""
    level: list[Any] = [value]
    for _ in range(JSON_LEVELS_MAX):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False


def _encodable(text: str, value: dict[str, Any]) -> str:
    """Return JSON text whose strings can be encoded; halves of characters, written as escapes, are replaced."""
    written = json.dumps(value, ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError:
        return _text_of_json(value)
    return text


def _text_of_json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        text = json.dumps({UNPARSED: str(value)}, ensure_ascii=False)
    return text.encode(errors="replace").decode()


# Content parts


def shown_part(part: Part) -> Part:
    """Return a part of a user's message as a valid view shows it: in the provider's shape, or as text."""
    return _valid_part(part, in_words=False)


def _valid_part(part: Part, in_words: bool) -> Part:
    """Return a part in the provider's shape, or as text; with `in_words`, only text is valid."""
    if isinstance(part, Text):
        return Text(part.text) if part.annotations_json else part
    given: Any = part.as_json()
    valid = _stored(part) or next(_shapes(given), None)
    if valid is None or (in_words and not isinstance(valid, Text)):
        return Text(_words(given))
    return valid


def _shapes(given: Any) -> Iterator[Part]:
    """Yield what a part is, if it has one of the shapes in which providers and their SDKs write it."""
    match given:
        case {"type": "text" | "input_text" | "output_text", "text": str(text) | {"value": str(text)}}:
            yield Text(text)
        case {"type": "image_url" | "input_image", "image_url": {"url": str(url), **rest}}:
            yield from _image(url, rest.get("detail"))
        case {"type": "image_url" | "input_image", "image_url": str(url), **rest}:
            yield from _image(url, rest.get("detail"))
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            yield from _image(f"data:{kind};base64,{data}", None)
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            yield from _image(url, None)
        case {"type": "file", "file": dict(inner)}:
            yield from _file(inner)
        case {"type": "input_file"}:
            yield from _file(given)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
            if kind in AUDIO_FORMATS and _is_base64(data):
                yield Verbatim(_text_of_json({"type": "input_audio", "input_audio": {"data": data, "format": kind}}))
        case _:
            pass


def _stored(part: Part) -> Part | None:
    """Return an attachment whose bytes are in the ledger, or a file at an address of the web, if it can be sent as it is."""
    match part:
        case Image() if part.blob and IMAGE_TYPE.fullmatch(part.media_type):
            return part if part.detail in {None, *IMAGE_DETAILS} else replace(part, detail=None)
        case File() if part.blob or part.url.startswith(("http://", "https://")):
            return part
        case Audio() if part.format in AUDIO_FORMATS:
            return part
    return None


def _image(url: str, detail: object) -> Iterator[Part]:
    if IMAGE_ADDRESS.fullmatch(url) and (not url.startswith("data:") or _is_base64(url.partition(",")[2])):
        yield Image(url, detail if isinstance(detail, str) and detail in IMAGE_DETAILS else None)


def _file(inner: Mapping[str, Any]) -> Iterator[Part]:
    match inner:
        case {"file_id": str(file_id)} if file_id.strip():
            yield File(file_id)
        case {"file_data": str(data), "filename": str(name)} if name.strip() and _is_base64(_without_type(data)):
            file = {"filename": name, "file_data": data}
            yield Verbatim(_text_of_json({"type": "file", "file": file}))
        case {"file_url": str(url)} if url.startswith(("http://", "https://")):
            yield File(url=url)
        case _:
            pass


def _without_type(data: str) -> str:
    return data.partition(",")[2] if data.startswith("data:") else data


def _is_base64(data: str) -> bool:
    """Return whether data can be decoded: a provider refuses a request with any other."""
    try:
        return bool(binascii.a2b_base64(data, strict_mode=True))
    except ValueError:  # also text that is not ASCII
        return False


def _words(given: Any) -> str:
    """Return what a part says as text: its own words, the address of its image, or that it is not shown."""
    if not isinstance(given, dict):
        return given if isinstance(given, str) and given.strip() else "[content not shown]"
    kind = given.get("type")
    inner = given.get(kind) if isinstance(kind, str) else None
    places = (given, inner) if isinstance(inner, dict) else (given,)
    for name in ("text", "transcript", "refusal", "result"):
        for place in places:
            if isinstance(place.get(name), str) and place[name].strip():
                return str(place[name])
    match given:
        case {"type": "tool_use", "name": str(name)}:
            return f"[tool call {name} {valid_arguments(given.get('input'))}]"
        case {"type": "tool_result", "content": content}:
            return f"[tool result {content if isinstance(content, str) else _text_of_json(content)}]"
        case {"image_url": {"url": str(url)} | str(url)} if url.startswith(("http://", "https://")):
            return f"[image {url}]"
        case {"file": {"file_id": str(file_id)}} | {"image_file": {"file_id": str(file_id)}} if file_id.strip():
            return f"[file {file_id}]"
    return not_shown(given)
