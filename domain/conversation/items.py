"""Read what models said, in the formats of four APIs: the items of Responses, and messages of the three others.

This is the only reader of these formats: backends, recorded clients, apps' own runs and imports use it, also for the parts
that users send. What a message of
ours has no place for is kept word for word (`native.py`), with a short part in the content that says what it was:
`reasoning`, `hosted_call` or `unknown`. Two messages of one response stay two.

Compatible servers send fields of other types than documented. A field of the wrong type never costs an answer: it is
converted if its meaning is clear, and ignored otherwise.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..failures import whole_text
from ..ids import new_id
from .messages import Message, Role, ToolCall
from .native import ANTHROPIC, CHAT, NATIVE_TEXT_BYTES_MAX, RESPONSES, native_of
from .parts import Image, Part, Text, Verbatim

JSON = dict[str, Any]

CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Types of items that call a tool of the app, and the field that contains its arguments."""

REASONING = frozenset({"reasoning", "thinking", "redacted_thinking"})
"""Types of items and blocks that are the model's reasoning."""

_OF_THE_PROVIDER = frozenset(
    {"compaction", "compaction_summary", "context_compaction", "mcp_list_tools", "mcp_approval_request"}
)
"""Types of items that only the provider makes, besides reasoning and calls."""

_HOSTED_ENDINGS = ("_call", "_tool_use", "_tool_result")
"""Endings of the types of items and blocks that are calls of the provider's own tools, or their results."""

FACT_CHARS_MAX = 200
"""Maximum length of a fact about a hosted call in the content, in characters; the whole item is kept besides."""


# Values of any type


def objects(given: Any) -> list[JSON]:
    """Return the objects of a list; none of another value."""
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


def kind_of(item: Mapping[str, Any]) -> str:
    """Return the type of an item or a part; empty if it has none."""
    kind = item.get("type")
    return kind if isinstance(kind, str) else ""


def text_in(content: Any) -> str:
    """Return the text in a content of any shape: a string, a number, a part, or a list of them. Other content has none."""
    match content:
        case str():
            return content
        case bool():
            return ""
        case int() | float():
            return str(content)
        case list():
            return "".join(text_in(part) for part in content)
        case {"type": str(kind)} if kind and kind not in _TEXT_TYPES:
            return ""
        case {"text": text} | {"refusal": text} | {"value": text}:
            return text_in(text)
    return ""


_TEXT_TYPES = frozenset({"text", "output_text", "input_text", "refusal"})
"""Types of content parts that are text."""


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a call as text; JSON of another type than a string is written as JSON."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def made_whole(calls: Any) -> list[JSON]:
    """Return a model's tool calls with arguments as text and an id each: a missing or repeated id is replaced.

    A call of no function, nor of another kind of tool, is left out: it cannot be made.
    """
    found: list[JSON] = []
    ids: set[str] = set()
    for given in objects(calls):
        kind = text_in(given.get("type")) or "function"
        function = given.get("function") or (given if kind == "function" else None)
        name = text_in(function.get("name")) if isinstance(function, Mapping) else ""
        if not name and (kind == "function" or not isinstance(given.get(kind), Mapping)):
            continue
        call_id = given.get("id")
        if not isinstance(call_id, str) or not call_id or call_id in ids:
            call_id = f"call_{new_id()}"
        ids.add(call_id)
        if name and isinstance(function, Mapping):
            arguments = arguments_text(function.get("arguments"))
            found.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        else:
            found.append({**given, "id": call_id})
    return found


def function_calls(calls: Any) -> tuple[ToolCall, ...]:
    """Return the calls of functions among a model's tool calls, each with an id of its own and arguments as text."""
    return tuple(each for each in map(_function_call, made_whole(calls)) if each is not None)


def _function_call(call: Mapping[str, Any]) -> ToolCall | None:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return None
    return ToolCall(whole_text(str(call["id"])), whole_text(function["name"]), whole_text(function["arguments"]))


# A message while its items are read


class Draft:
    """Build one message of a model from its items, in order."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._parts: list[Part] = []
        self._texts: list[str] = []
        self._text_at = 0
        self._notes: list[JSON] = []
        self._items: list[JSON] = []
        self._is_special = False
        """Whether there is an item that the content does not hold whole."""
        self._extra: JSON = {}
        self.calls: list[JSON] = []
        self.has_message = False

    def say(self, text: str, annotations: Any = None) -> None:
        """Add a piece of text, and what the provider says about it."""
        if not self._texts:
            self._text_at = len(self._parts)
        offset = sum(map(len, self._texts))
        self._texts.append(text)
        self._notes += [_shifted(each, offset) for each in objects(annotations)]

    def refuse(self, text: str) -> None:
        """Note that a text was a refusal."""
        self._extra["refusal"] = self._extra.get("refusal", "") + text

    def note(self, **fields: Any) -> None:
        """Keep other fields of the message."""
        self._extra |= fields

    def place(self, stub: JSON, special: bool = False) -> None:
        """Note where a message or a call stands; with `special`, the stub has fields that the content lacks."""
        self._items.append(stub)
        self._is_special |= special

    def aside(self, item: JSON, *parts: Part) -> None:
        """Add an item that is kept word for word, and parts that say what it is."""
        self._items.append(item)
        self._is_special = True
        self._parts += parts

    def show(self, *parts: Part) -> None:
        """Add parts that are all there is to keep."""
        self._parts += parts

    def absorb(self, other: Draft) -> None:
        """Add what another draft holds behind what is here."""
        if other._texts and not self._texts:
            self._text_at = len(self._parts) + other._text_at
        offset = sum(map(len, self._texts))
        self._notes += [_shifted(each, offset) for each in other._notes]
        self._texts += other._texts
        self._parts += other._parts
        self._items += other._items
        self._is_special |= other._is_special
        self._extra |= other._extra
        self.calls += other.calls

    @property
    def says_nothing(self) -> bool:
        """Return whether the message has neither text nor calls, nor anything else."""
        return not ("".join(self._texts).strip() or self.calls or self._parts or self._is_special)

    def message(self, lost: Counter[str]) -> Message:
        """Return the message; items that cannot be kept are counted in `lost`."""
        text = whole_text("".join(self._texts))
        notes = json.dumps(self._notes, ensure_ascii=False, separators=(",", ":")) if self._notes else ""
        content: Any = text
        if self._parts or (notes and text):
            said = (Text(text, notes),) if text else ()
            content = (*self._parts[: self._text_at], *said, *self._parts[self._text_at :])
        calls = function_calls(self.calls)
        return Message(
            Role.ASSISTANT,
            content or (None if calls else ""),
            calls,
            extra_json=_json(self._extra) if self._extra else "{}",
            native_json=native_of(self._dialect, self._items, lost) if self._is_special else "",
        )


def _shifted(annotation: JSON, offset: int) -> JSON:
    """Return an annotation of a piece of text whose places count from the beginning of the whole text."""
    if not offset:
        return annotation
    places = {name: annotation[name] + offset for name in _PLACES if type(annotation.get(name)) is int}
    return {**annotation, **places}


_PLACES = ("start_index", "end_index")


def with_beginning(said: str, content: Sequence[Part]) -> tuple[Part, ...]:
    """Return the parts of a message whose text begins with another text."""
    parts = list(content)
    place = next((index for index, part in enumerate(parts) if isinstance(part, Text)), None)
    if place is None:
        return (Text(said), *parts)
    part = parts[place]
    if isinstance(part, Text):
        notes = [_shifted(each, len(said)) for each in objects(json.loads(part.annotations_json or "[]"))]
        parts[place] = Text(said + part.text, _json(notes) if notes else "")
    return tuple(parts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def reasoning_part(text: str) -> Iterator[Part]:
    """Yield the part for a model's reasoning, if it has a text."""
    if text.strip():
        yield Verbatim(_json({"type": "reasoning", "text": whole_text(text)}))


def hosted_part(kind: str, item: Mapping[str, Any]) -> Part:
    """Return the part for a call of a provider's own tool: its name, its status, and what it was called with, in short."""
    name = next((kind.removesuffix(end) for end in _HOSTED_ENDINGS if kind.endswith(end)), kind)
    part: JSON = {"type": "hosted_call", "name": whole_text(str(item.get("name") or name))[:FACT_CHARS_MAX]}
    if isinstance(item.get("status"), str):
        part["status"] = item["status"][:FACT_CHARS_MAX]
    fact = next((found for found in map(text_of_fact, _facts(item)) if found), "")
    return Verbatim(_json(part | ({"detail": whole_text(fact)[:FACT_CHARS_MAX]} if fact else {})))


def _facts(item: Mapping[str, Any]) -> Iterator[Any]:
    for holder in (item.get("action"), item.get("input"), item):
        for name in ("query", "queries", "url", "command", "code", "server_label"):
            if isinstance(holder, Mapping):
                yield holder.get(name)


def text_of_fact(value: Any) -> str:
    """Return a fact as text; a list of texts is joined."""
    if isinstance(value, list):
        return ", ".join(each for each in value if isinstance(each, str))
    return value if isinstance(value, str) else ""


def unknown_part(kind: str) -> Part:
    """Return the part for an item of another type."""
    return Verbatim(_json({"type": "unknown", "was": whole_text(kind)[:FACT_CHARS_MAX]}))


def aside_parts(item: Mapping[str, Any], kind: str) -> list[Part]:
    """Return the parts for an item or a block that is kept word for word: what it shows, or short words for what it was.

    Reasoning without a text has none, and neither have the results of the provider's own tools.
    """
    if kind in REASONING:
        return list(reasoning_part(_thought(item)))
    if kind == "image_generation_call":
        return list(image_part(item.get("result"))) or [hosted_part(kind, item)]
    if kind.endswith(_HOSTED_ENDINGS):
        return [] if kind.endswith("_tool_result") else [hosted_part(kind, item)]
    return [unknown_part(kind)]


def _thought(item: Mapping[str, Any]) -> str:
    for name in ("summary", "content"):
        text = "\n\n".join(text_in_reasoning(each) for each in objects(item.get(name)))
        if text:
            return text
    return text_in(item.get("thinking")) or text_in_reasoning(item)


def image_part(data: Any) -> Iterator[Part]:
    """Yield the part for an image that a model generated, given as base64; none if it is larger than what is stored."""
    if not isinstance(data, str) or not data:
        return
    try:
        content = binascii.a2b_base64(data)
    except ValueError:
        return
    from .attachments import media_type_of

    media_type = media_type_of(content[:16])
    media_type = media_type if media_type.startswith("image/") else "image/png"
    if 0 < len(content) <= NATIVE_TEXT_BYTES_MAX:
        yield Image(f"data:{media_type};base64,{b64encode(content).decode()}")


def is_aside(part: Part) -> bool:
    """Return whether a part of a model's message only says what is kept besides: no view shows it."""
    if not isinstance(part, Verbatim):
        return False
    match part.as_json():
        case {"type": "reasoning", "text": str(), **rest} | {"type": "unknown", "was": str(), **rest}:
            return not rest
        case {"type": "hosted_call", "name": str(), **rest}:
            return rest.keys() <= {"status", "detail"}
    return False


# Responses


def output_messages(output: Any, lost: Counter[str]) -> tuple[Message, ...]:
    """Return the items of a response's output, or the model's items of a history, as messages.

    Each message item is one, with what the model did before it; the calls of the app's tools belong to the last one.
    """
    drafts = [Draft(RESPONSES)]
    for item in objects(output):
        kind = text_in(item.get("type")) or "message"
        if kind == "message":
            if item.get("role") == "user":
                continue
            if drafts[-1].has_message:
                drafts.append(Draft(RESPONSES))
            drafts[-1].has_message = True
        elif drafts[-1].has_message:
            drafts.append(Draft(RESPONSES))
        read_item(item, kind, drafts[-1])
    if len(drafts) > 1 and not drafts[-1].has_message:
        drafts[-2].absorb(drafts.pop())
    said = [each for each in drafts if not each.says_nothing] or drafts[-1:]
    for each in said[:-1]:
        said[-1].calls[:0] = each.calls
        each.calls = []
    return tuple(each.message(lost) for each in said)


def read_item(item: JSON, kind: str, draft: Draft) -> None:
    """Add an item of Responses to the message that it belongs to."""
    if kind == "message":
        _read_message(item, draft)
    elif kind in CALLS:
        call = {"name": item.get("name"), "arguments": item.get(CALLS[kind])}
        draft.calls.append({"id": item.get("call_id") or item.get("id"), "function": call})
        draft.place({"type": kind})
    else:
        draft.aside(item, *aside_parts(item, kind))


def text_in_reasoning(part: Mapping[str, Any]) -> str:
    """Return the text of a piece of reasoning, whatever its type."""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _read_message(item: JSON, draft: Draft) -> None:
    content = item.get("content")
    beyond: list[JSON] = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict):
            draft.say(text_in(part))
            continue
        kind, text = kind_of(part), text_in(part)
        draft.say(text, part.get("annotations"))
        if kind == "refusal":
            draft.refuse(text)
        rest = {name: value for name, value in part.items() if name not in _SAID_OF_PART and value}
        if (kind and kind not in _TEXT_TYPES) or (not text and not isinstance(part.get("text") or "", str)):
            beyond.append(part)
            draft.show(unknown_part(kind))
        elif rest:
            beyond.append({"type": kind, **rest})
    phase = item.get("phase")
    if isinstance(phase, str) and phase:
        draft.note(phase=phase)
    stub = {"type": "message"} | ({"content": beyond} if beyond else {})
    draft.place(stub, special=bool(beyond))


_SAID_OF_PART = frozenset({"type", "text", "refusal", "annotations"})
"""Fields of a text part that the content of a message holds."""


# Histories of Responses, as apps send and keep them


RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
"""Types of items with the result of a call that the app's tools answered."""


def is_of_the_model(item: Mapping[str, Any], kind: str) -> bool:
    """Return whether an item is what a model said or did, of which `output_messages` makes messages."""
    if kind == "message":
        return item.get("role") == Role.ASSISTANT.value
    return kind in CALLS or kind in REASONING or kind in _OF_THE_PROVIDER or kind.endswith("_call")


def app_message(item: Mapping[str, Any], kind: str) -> JSON | None:
    """Return what an app said by an item, as a message of Chat Completions; None if it is no message and no result."""
    if kind in RESULTS:
        given = item.get("output")
        output = (
            "" if given in (None, []) else stored_content(given) if isinstance(given, list) else arguments_text(given)
        )
        return {"role": Role.TOOL.value, "tool_call_id": item.get("call_id"), "content": output}
    return {"role": item.get("role"), "content": stored_content(item.get("content"))} if kind == "message" else None


def stored_content(content: Any) -> Any:
    """Return a content of any API with its parts in the stored shapes; a single plain text is a string."""
    if not isinstance(content, list):
        return content
    parts = [stored_part(part) for part in content]
    match parts:
        case [{"type": "text", "text": str(text), **more}] if not more:
            return text
    return parts


def stored_part(part: Any) -> Any:
    """Return a part of any API in the stored shape; one that has none is returned unchanged."""
    match part:
        case str():
            return {"type": "text", "text": part}
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            noted = objects(part.get("annotations"))
            return {"type": "text", "text": text} | ({"annotations": noted} if noted else {})
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}
        case {"type": "input_file", "file_id": str(place)} if place:
            return {"type": "file", "file": {"file_id": place} | _file_name(part)}
        case {"type": "input_file", "file_data": str(data)} if data:
            return {"type": "file", "file": {"file_data": data} | _file_name(part)}
        case {"type": "input_file", "file_url": str(url)} if url:
            return {"type": "file", "file": {"url": url} | _file_name(part)}
        case Mapping():
            return dict(part)
    return part


def _file_name(part: Mapping[str, Any]) -> JSON:
    name = part.get("filename")
    return {"filename": name} if isinstance(name, str) and name else {}


# Chat Completions


def chat_answer(given: Mapping[str, Any], lost: Counter[str]) -> Message:
    """Return a model's message of Chat Completions; one without any content is an empty message."""
    draft, content, rest = Draft(CHAT), given.get("content"), dict[str, Any]()
    thoughts = next((text for name in _THOUGHTS if (text := text_in(given.get(name)))), "")
    draft.show(*reasoning_part(thoughts))
    spoken = given.get("audio")
    if isinstance(content, list):
        for part in content:
            _read_part(part, draft, rest)
        draft.say("", given.get("annotations"))
    else:
        draft.say(text_in(content), given.get("annotations"))
    for part in objects(given.get(OTHER_PARTS)):
        _read_part(part, draft, rest)
    if not text_in(content) and isinstance(spoken, Mapping):
        draft.say(text_in(spoken.get("transcript")))
    refusal = text_in(given.get("refusal"))
    if refusal:
        draft.refuse(whole_text(refusal))
    calls = made_whole(given.get("tool_calls"))
    loose = [call for call in calls if "function" not in call]
    if loose:  # a tool that is no function: kept as it is, so that it is reported
        draft.note(tool_calls=calls)
    else:
        draft.calls += calls
    if isinstance(given.get("function_call"), Mapping) and not calls:
        draft.note(function_call=given["function_call"])
    for image in objects(given.get("images")):
        draft.show(*_chat_image(image))
    rest |= {name: value for name, value in given.items() if name not in _SAID_OF_CHAT and value}
    if rest:
        draft.aside({"type": "message", **rest})
    return _readable(draft.message(lost))


def with_fields(message: Message, fields: JSON, lost: Counter[str]) -> Message:
    """Return a message with what other fields of a model's message in Chat Completions say (`chat_answer`)."""
    read = chat_answer({"content": message.text, **fields}, lost)
    if isinstance(message.content, tuple) or read.content == message.text:
        return message.replaced(native_json=read.native_json)
    return message.replaced(content=read.content, native_json=read.native_json)


def _readable(message: Message) -> Message:
    """Return a refusal without content as it has always been stored: without content."""
    if message.content == "" and message.extra_json != "{}":
        return message.replaced(content=None)
    return message


def _read_part(part: Any, draft: Draft, rest: JSON) -> None:
    text = text_in(part)
    kind = kind_of(part) if isinstance(part, Mapping) else ""
    if not isinstance(part, dict) or text or kind in _TEXT_TYPES:
        draft.say(text, part.get("annotations") if isinstance(part, dict) else None)
        return
    rest.setdefault("content", []).append(part)
    draft.show(*(_chat_image(part) if kind == "image_url" else aside_parts(part, kind)))


def _chat_image(image: Mapping[str, Any]) -> Iterator[Part]:
    match image.get("image_url"):
        case {"url": str(url)} | str(url) if url[:5].lower() == "data:":
            yield from image_part(url.partition(",")[2])
        case {"url": str(url)} | str(url) if url:
            yield Image(url)


OTHER_PARTS = "other_parts"
"""Field in which a stream collects the parts of the content that are no text."""

_THOUGHTS = ("reasoning_content", "reasoning")
"""Fields in which compatible servers send a model's reasoning."""

_SAID_OF_CHAT = frozenset(
    {"role", "content", "refusal", "tool_calls", "function_call", "annotations", "name", "finish_reason", OTHER_PARTS}
)
"""Fields of a message that ours hold."""


# Anthropic's Messages


def block_message(content: Any, lost: Counter[str]) -> Message:
    """Return the blocks of an answer of the Messages API as a message."""
    draft = Draft(ANTHROPIC)
    for block in content if isinstance(content, list) else [content]:
        kind = kind_of(block) if isinstance(block, dict) else ""
        if not isinstance(block, dict) or kind in {"", "text", "output_text"}:
            _read_text_block(block, draft)
        elif kind == "tool_use":
            arguments = block.get("input")
            written = arguments_text(arguments or {})
            draft.calls.append({"id": block.get("id"), "function": {"name": block.get("name"), "arguments": written}})
            draft.place({"type": "tool_use"})
        else:
            draft.aside(block, *aside_parts(block, kind))
    return draft.message(lost)


def _read_text_block(block: Any, draft: Draft) -> None:
    text = _plain_text(block)
    draft.say(text, cited(block, text) if isinstance(block, dict) else ())
    draft.place({"type": "text", "chars": len(text)})


def cited(block: Mapping[str, Any], text: str) -> list[JSON]:
    """Return the citations of a block's text as annotations of all of it."""
    return [{**each, "start_index": 0, "end_index": len(text)} for each in objects(block.get("citations"))]


def _plain_text(content: Any) -> str:
    """Return the text of a block. Servers that imitate the API send strings and blocks of other APIs too."""
    if isinstance(content, list):
        return "".join(_plain_text(each) for each in content)
    if isinstance(content, dict) and content.get("type") in (None, "text", "output_text"):
        content = content.get("text")
    return content if isinstance(content, str) else ""


# Assistants threads


def thread_message(given: Mapping[str, Any]) -> JSON:
    """Return a thread's message as one of Chat Completions; a refusal is its text, and noted."""
    content = given.get("content")
    refusals = [part["refusal"] for part in objects(content) if isinstance(part.get("refusal"), str)]
    noted = {"refusal": "".join(refusals)} if refusals and given.get("role") == Role.ASSISTANT.value else {}
    return {"role": given.get("role"), "content": thread_parts(content)} | noted


def thread_parts(content: Any) -> str | list[JSON]:
    """Return the content of a thread's message: a text, or parts in our shapes, with what the provider says about texts."""
    if not isinstance(content, list):
        return text_in(content)
    parts: list[JSON] = []
    for part in objects(content):
        text = part.get("text") or part.get("refusal")
        value = text.get("value") if isinstance(text, Mapping) else text
        if not isinstance(value, str):
            parts.append(stored_part(part))
            continue
        noted = objects(text.get("annotations")) if isinstance(text, Mapping) else []
        parts.append({"type": "text", "text": value} | ({"annotations": noted} if noted else {}))
    if any(
        part.keys() != {"type", "text"} or part["type"] != "text" or type(part["text"]) is not str for part in parts
    ):
        return parts
    return "\n\n".join(part["text"] for part in parts)
