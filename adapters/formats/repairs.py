"""Convert the messages of any source to messages that a ledger stores: repair damaged ones, count unreadable ones.

One odd message does not cost its conversation. A message that the domain accepts is not changed, except for shapes that
no provider would accept again: `function_call`, calls without an id or with an object as arguments, Anthropic's content
blocks, spoken answers, and content types of ChatGPT. Whatever is changed or left out is counted by kind.

Repairs are deterministic, and repairing a repaired message changes nothing. An import of the same file therefore finds
every message again, and a message that was imported before a repair existed is recognised by repairing it too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.items import aside_parts, is_aside, objects, stored_part
from threadledger.domain.conversation.messages import Message, Role, ToolCall, is_short_text
from threadledger.domain.conversation.parts import Verbatim
from threadledger.domain.errors import InvalidInput, InvalidMessage
from threadledger.domain.failures import whole_text
from threadledger.domain.journal import fingerprint_in

from .json_values import UNREADABLE

JSON = dict[str, Any]

ROLES = {"function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
"""Roles of other formats, and what they are called in Chat Completions."""

TEXT_TYPES = frozenset({"text", "input_text", "output_text", "summary_text"})
REASONING_TYPES = frozenset({"thinking", "redacted_thinking", "reasoning"})
COMPACTION_TYPES = frozenset({"compaction", "compaction_summary", "context_compaction"})
RECORDING_TYPES = frozenset(
    {"audio_asset_pointer", "video_container_asset_pointer", "real_time_user_audio_video_asset_pointer"}
)
"""Parts of ChatGPT's voice mode that only name a recording; the transcript is a part of its own."""

ITEMS = "items"
"""Key of what is kept whole with a message: parts that only the provider can use again."""

HOSTED_SUFFIXES = ("_tool_use", "_tool_result")
"""Endings of Anthropic's block types for tools that the provider runs itself."""

TEXT_FIELDS = ("text", "result", "output_str", "transcript")
"""Fields that hold the text of a ChatGPT content type."""


def repaired(
    given: object,
    place: str,
    waiting: OpenCalls,
    counts: Counter[str],
    kept: JSON,
    is_ours: bool = False,
    rule: int = 2,
) -> Iterator[Message]:
    """Yield the messages that one given message consists of: none if it is empty, several if it has tool results.

    What is changed is counted in `counts`; parts that lose fields are added to `kept`, which becomes the origin, and parts
    that only the provider can use again to its list `ITEMS`; what they become depends on the `rule`. A message that a ledger
    exported (`is_ours`) is only changed if it cannot be stored.

    Raises:
        InvalidInput: the message cannot be read.
    """
    if isinstance(given, Mapping) and (is_ours or not is_odd(given)):
        try:
            message = parse_message(given)
        except InvalidMessage:
            pass
        else:
            waiting.note(message)
            yield message
            return
    if not isinstance(given, Mapping):
        raise InvalidInput(f"it is {type(given).__name__}: an object with role and content is expected")
    yield from _MessageRepair(place, waiting, counts, kept, rule).messages(given)


SPEAKERS = frozenset(role.value for role in Role if role not in {Role.TOOL, Role.UNKNOWN})
"""Roles of the messages that consist of text alone."""

USUAL_CALLS_MAX = 64
"""Maximum number of tool calls of a usual message: what their JSON adds to their texts is then within any limit."""


def is_usual(given: Mapping[str, Any]) -> bool:
    """Return whether this is a text, calls of functions, or a tool's result, in exactly the shape that is stored.

    Nearly all messages of nearly all files are like this. They need none of what `repaired` does, and a fraction of its time.
    """
    role, content = given.get("role"), given.get("content")
    if len(given) == 2:
        return isinstance(role, str) and role in SPEAKERS and is_short_text(content)
    if len(given) != 3 or "content" not in given or not (content is None or isinstance(content, str)):
        return False
    call_id, calls = given.get("tool_call_id"), given.get("tool_calls")
    if role == Role.TOOL and isinstance(call_id, str) and call_id and content is not None:
        return is_short_text(content + call_id)
    if role != Role.ASSISTANT or not isinstance(calls, list) or not 0 < len(calls) <= USUAL_CALLS_MAX:
        return False
    texts: list[Any] = [content or ""]
    for call in calls:
        function = call.get("function") if isinstance(call, dict) and len(call) == 3 else None
        if not isinstance(function, dict) or len(function) != 2 or call.get("type") != "function":
            return False
        said = call.get("id"), function.get("name"), function.get("arguments")
        if not said[0] or not all(isinstance(text, str) for text in said):
            return False
        texts += said
    return is_short_text("".join(texts))


def usual_message(given: Mapping[str, Any]) -> Message:
    """Return a message that `is_usual`: what `repaired` yields."""
    calls = (ToolCall(call["id"], **call["function"]) for call in given.get("tool_calls", ()))
    return Message(Role(given["role"]), given["content"], tuple(calls), given.get("tool_call_id"))


def usual_fingerprint(given: Mapping[str, Any]) -> bytes:
    """Return the fingerprint of a message that `is_usual`, without making the message: it has the names of stored fields."""
    calls = given.get("tool_calls")
    if calls is None:
        return fingerprint_in(given)
    return fingerprint_in(
        {**given, "tool_calls": [ToolCall(call["id"], **call["function"]).as_json() for call in calls]}
    )


def is_odd(given: object) -> bool:
    """Return whether a message has a shape that is converted although the domain would store it."""
    if not isinstance(given, Mapping):
        return True
    content, calls, audio = given.get("content"), given.get("tool_calls"), given.get("audio")
    if given.keys() <= {"role", "content"} and isinstance(content, str):
        return False
    return (
        isinstance(given.get("function_call"), Mapping)
        or (isinstance(audio, Mapping) and not content and isinstance(audio.get("transcript"), str))
        or (isinstance(content, list) and any(map(_is_odd_part, content)))
        or (isinstance(calls, list) and any(map(_is_odd_call, calls)))
    )


def _is_odd_part(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return True
    kind = part.get("type")
    if kind == "text" or "type" not in part:
        return not isinstance(part.get("text"), str) if kind == "text" else isinstance(part.get("text"), str)
    if not isinstance(kind, str):
        return False
    converted = TEXT_TYPES | REASONING_TYPES | COMPACTION_TYPES | RECORDING_TYPES | {"tool_use", "tool_result"}
    return (
        kind in converted
        or kind.endswith(HOSTED_SUFFIXES)
        or (kind == "image" and _image_of(part) is not None)
        or _spoken(part) is not None
    )


def _is_odd_call(call: Any) -> bool:
    if not isinstance(call, Mapping) or not (isinstance(call.get("id"), str) and call["id"]):
        return True
    function = call.get("function")
    kind = call.get("type")
    if kind is not None and kind != "function":
        return False
    if not isinstance(function, Mapping):
        return _function_of(call) is not None
    return "type" not in call or not isinstance(function.get("arguments"), str)


def _spoken(part: Mapping[str, Any]) -> str | None:
    """Return the text of a ChatGPT content type or of a spoken part; None if it has none."""
    if "content_type" in part and part.get("type") != "image_asset_pointer":
        return next((part[name] for name in TEXT_FIELDS if isinstance(part.get(name), str)), None)
    transcript = part.get("transcript")
    return transcript if isinstance(transcript, str) and str(part.get("type")).endswith("audio") else None


def _image_of(part: Mapping[str, Any]) -> str | None:
    """Return the address of an image in Anthropic's shape."""
    match part.get("source"):
        case {"type": "base64", "media_type": str(media), "data": str(data)}:
            return f"data:{media};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
    return None


def _function_of(call: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the function that a call names, also if its fields are in the call itself."""
    function = call.get("function")
    found = function if isinstance(function, Mapping) else call
    return found if isinstance(found.get("name"), str) and found["name"] else None


def whole(value: Any, counts: Counter[str]) -> Any:
    """Return JSON with half characters (lone surrogates) replaced by U+FFFD; they are counted.

    Raises:
        InvalidInput: the value is nested too deep, or contains an integer that is too long.
    """
    try:
        return _whole(value, counts)
    except RecursionError:
        raise InvalidInput(TOO_DEEP) from None


def whole_fields(given: Mapping[str, Any], needed: Collection[str], counts: Counter[str]) -> JSON:
    """Return the fields of an object, each `whole`; those that cannot be stored are left out and counted.

    Raises:
        InvalidInput: one that is needed cannot be stored.
    """
    fields: JSON = {}
    for name, value in given.items():
        try:
            fields |= whole({name: value}, counts)
        except InvalidInput:
            if name in needed:
                raise
            counts["odd_fields"] += 1
    return fields


TOO_DEEP = "it is nested too deep to be stored"
UNREADABLE_VALUE = "it contains a number that is too long, or a value that is nested too deep"


def _whole(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        halves = 0 if value.isascii() else sum("\ud800" <= character <= "\udfff" for character in value)
        if halves:
            counts["half_characters"] += halves
            return whole_text(value)
        return value
    if isinstance(value, Mapping):
        return {_whole(name, counts): _whole(each, counts) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each, counts) for each in value]
    if value is UNREADABLE:
        raise InvalidInput(UNREADABLE_VALUE)
    return value


def can_be_stored(value: Any) -> bool:
    """Return whether JSON can be stored with a message: no NaN, no half characters, not nested too deep."""
    try:
        parse_message({"role": "user", "content": "", "value": value})
    except InvalidMessage:
        return False
    return True


def json_text(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(value, ensure_ascii=False)


def made_call_id(place: str, number: int) -> str:
    """Return the id of a call without one, made of the place of its message and its number there."""
    return "call_" + hashlib.sha256(f"{place}/{number}".encode()).hexdigest()[:24]


class OpenCalls:
    """Hold the tool calls that still wait for a result, so that a result without an id finds its call."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._grows = False
        """Whether the last message called tools too: then further calls belong to the same round."""

    def copy(self) -> OpenCalls:
        """Return the same calls, for another branch that continues here."""
        other = OpenCalls()
        other._names, other._grows = dict(self._names), self._grows
        return other

    def note(self, message: Message) -> None:
        """Add the calls of a message; remove the call that it answers."""
        calls = message.calls()
        if calls:
            if not self._grows:
                self._names = {}
            self._names.update((call.id, call.name) for call in calls)
        elif message.tool_call_id is not None:
            self._names.pop(message.tool_call_id, None)
        self._grows = bool(calls)

    def oldest(self, name: object) -> str | None:
        """Return the id of the oldest call of this name, else of the oldest call, else None."""
        return next((call for call, called in self._names.items() if called == name), None) or next(
            iter(self._names), None
        )


class _MessageRepair:
    """Repair one message."""

    def __init__(self, place: str, waiting: OpenCalls, counts: Counter[str], kept: JSON, rule: int) -> None:
        self._place = place
        self._rule = rule
        self._waiting = waiting
        self._counts = counts
        self._kept = kept
        self._made = 0

    def messages(self, given: Mapping[str, Any]) -> Iterator[Message]:
        message = whole_fields(given, {"content", "tool_calls"}, self._counts)
        role = message.get("role")
        role = role.strip().lower() if isinstance(role, str) else role
        role = message["role"] = ROLES.get(role, role) if isinstance(role, str) else role
        calls = self._calls(message)
        if role == "tool":
            message["tool_call_id"] = self._answered_call(message)
        elif message.get("tool_call_id") is not None:
            self._drop(message, "tool_call_id")
        if calls and role != "assistant":
            calls = []
            self._counts["odd_fields"] += 1
        for piece in self._pieces(message, calls):
            read = self._parsed(piece)
            self._waiting.note(read)
            yield read

    def _parsed(self, piece: JSON) -> Message:
        try:
            return parse_message(piece)
        except InvalidMessage:
            for name in [name for name in piece if name not in {"role", "content", "tool_calls", "tool_call_id"}]:
                if not can_be_stored(piece[name]):
                    self._drop(piece, name)
            return parse_message(piece)

    def _drop(self, message: JSON, name: str) -> None:
        del message[name]
        self._counts["odd_fields"] += 1

    # Calls and results

    def _calls(self, message: JSON) -> list[Any]:
        """Take the tool calls out of a message."""
        given = message.pop("tool_calls", None)
        given = [given] if isinstance(given, Mapping) else given
        if given is not None and not isinstance(given, list):
            self._counts["odd_fields"] += 1
            given = None
        function = message.get("function_call")
        if isinstance(function, Mapping):
            del message["function_call"]
            given = given or [{"function": function}]
        calls = [self._call(each) if _is_odd_call(each) else each for each in given or ()]
        return [call for call in calls if call is not None]

    def _call(self, given: Any) -> JSON | None:
        function = _function_of(given) if isinstance(given, Mapping) else None
        if function is None:
            self._counts["unreadable_calls"] += 1
            return None
        names = [name for name in ("arguments", "args", "input") if name in function]
        arguments = function[names[0]] if names else None
        if not isinstance(arguments, str):
            self._counts.update([] if names == ["input"] else ["arguments_as_text"])
            arguments = "{}" if arguments is None else json_text(arguments)
        rest = {} if function is given else {name: each for name, each in given.items() if name != "function"}
        named = {"name": function["name"], "arguments": arguments}
        return {**rest, "id": self._id(given.get("id")), "type": "function", "function": named}

    def _id(self, given: Any) -> str:
        """Return the id of a call, or one that is made from the place of the message."""
        if isinstance(given, str) and given:
            return given
        if isinstance(given, int) and not isinstance(given, bool):
            return str(given)
        self._counts["made_call_ids"] += 1
        self._made += 1
        return made_call_id(self._place, self._made)

    def _answered_call(self, message: JSON) -> str:
        """Return the id of the call that a tool result answers."""
        given = next((message[name] for name in ("tool_call_id", "call_id", "tool_use_id") if message.get(name)), None)
        waiting = self._waiting.oldest(message.get("name")) if given is None else None
        if waiting is not None:
            self._counts["made_call_ids"] += 1
        return self._id(waiting or given)

    # Content

    def _pieces(self, message: JSON, calls: list[Any]) -> Iterator[JSON]:
        content = self._content(message, calls)
        if not isinstance(content, list):
            yield message | {"content": content} | ({"tool_calls": calls} if calls else {})
            return
        rest = {name: value for name, value in message.items() if name not in {"content", "tool_calls"}}
        said: list[JSON] = []
        given = unreadable = 0
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "tool_use" and message["role"] == "assistant":
                calls += filter(None, [self._call(part)])
            elif kind == "tool_result":
                if said or calls:
                    yield rest | _speaking(said, calls)
                    rest, said, calls = {"role": message["role"]}, [], []
                    given += 1
                yield self._result(part)
                given += 1
            else:
                converted = self._part(part, rest)
                said += [converted] if converted is not None else []
                unreadable += not isinstance(part, (Mapping, str))
        if said or calls:
            yield rest | _speaking(said, calls)
            return
        self._kept.update({name: value for name, value in rest.items() if name not in {"role", "tool_call_id"}})
        if unreadable and not given:
            raise InvalidInput("no part of its content can be read: text, or an object with a type, is expected")
        if not given and message["role"] == "tool":
            yield message | {"content": ""}
        elif not given:
            self._counts["empty_messages"] += 1

    def _content(self, message: JSON, calls: Sequence[Any]) -> str | list[Any] | None:
        content, audio = message.get("content"), message.get("audio")
        if isinstance(content, Mapping) and isinstance(content.get("parts"), list):
            content = content["parts"]
        if not content and isinstance(audio, Mapping) and isinstance(audio.get("transcript"), str):
            self._counts["audio_as_text"] += 1
            return str(audio["transcript"])
        if content is None or content == []:
            if calls or (message["role"] == "assistant" and message.get("refusal")):
                return None
            self._counts["empty_content"] += 1
            return ""
        if isinstance(content, (str, list)):
            return content
        if isinstance(content, Mapping) and message["role"] != "tool" and isinstance(content.get("type"), str):
            return [content]
        self._counts["content_as_text"] += 1
        text = content.get("text") if isinstance(content, Mapping) else None
        return text if isinstance(text, str) else json_text(content)

    def _result(self, part: Mapping[str, Any]) -> JSON:
        """Return an Anthropic tool result as a message."""
        message: JSON = {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": part.get("content")}
        message["tool_call_id"] = self._answered_call(message)
        content = self._content(message, ())
        if isinstance(content, list):
            said = [converted for each in content if (converted := self._part(each, message)) is not None]
            content = simplest(said) if said else ""
        return message | {"content": content} | ({"is_error": True} if part.get("is_error") is True else {})

    def _part(self, part: Any, message: JSON) -> JSON | None:
        """Return a content part as Chat Completions has it, or None if it is counted and left out."""
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if not isinstance(part, Mapping):
            self._counts["unreadable_parts"] += 1
            return None
        if not _is_odd_part(part):
            return dict(part)
        kind = part.get("type", "text")
        if kind in REASONING_TYPES or kind in COMPACTION_TYPES:
            if self._rule > 1 and is_aside(Verbatim(json_text(part))):
                return dict(part)
            self._counts["reasoning" if kind in REASONING_TYPES else "compaction_items"] += 1
            return self._aside(part, kind)
        if kind in TEXT_TYPES:
            return self._text(part, message)
        if kind in RECORDING_TYPES:
            self._counts["recordings"] += 1
            self._kept.setdefault("parts", []).append(dict(part))
            return None
        image = _image_of(part)
        if image is not None:
            return {"type": "image_url", "image_url": {"url": image}}
        spoken = _spoken(part)
        if spoken is not None:
            self._kept.setdefault("parts", []).append(dict(part))
            return {"type": "text", "text": spoken}
        if self._rule > 1:
            self._counts["hosted_calls"] += 1
            return self._aside(part, kind)
        self._counts["hosted_calls_as_text"] += 1
        self._aside(part, kind)
        return {"type": "text", "text": f"[tool call {kind} {json_text(by_reference(part))}]"}

    def _aside(self, part: Mapping[str, Any], kind: str) -> JSON | None:
        """Keep a part whole, and return the part that says what it was, which the first rule did not have."""
        self._kept.setdefault(ITEMS, []).append(dict(part))
        return next((each.as_json() for each in aside_parts(part, kind)), None) if self._rule > 1 else None

    def _text(self, part: Mapping[str, Any], message: JSON) -> JSON | None:
        text = part.get("text")
        text = text.get("value") if isinstance(text, Mapping) else text
        if not isinstance(text, str):
            self._counts["unreadable_parts"] += 1
            return None
        if self._rule > 1:
            said: JSON = stored_part({"type": "text", "text": text, "annotations": objects(part.get("annotations"))})
            return said
        annotations = part.get("annotations")
        if isinstance(annotations, list) and annotations and isinstance(message.get("annotations", []), list):
            message["annotations"] = [*message.get("annotations", []), *annotations]
        return {"type": "text", "text": text}


def _speaking(said: Sequence[JSON], calls: Sequence[JSON]) -> JSON:
    return {"content": simplest(said) if said else None} | ({"tool_calls": list(calls)} if calls else {})


DATA_CHARS_MAX = 4_096
"""Maximum length of a text in a tool record, in characters. Longer ones (base64 images, files) are replaced by size and hash."""


def simplest(parts: Sequence[Any]) -> str | list[Any]:
    """Return content as a string if it is a single text part, else as a list of parts."""
    match parts:
        case [{"type": "text", "text": str(text), **more}] if not more:
            return text
    return list(parts)


def is_empty(parts: Iterable[Any]) -> bool:
    """Return whether the parts contain nothing but empty text."""
    return all(isinstance(part, Mapping) and part.get("type") == "text" and part.get("text") == "" for part in parts)


def by_reference(value: Any) -> Any:
    """Return the JSON value with long texts replaced by their size and hash.

    Raises:
        InvalidInput: the value is nested too deep.
    """
    try:
        return _by_reference(value)
    except RecursionError:
        raise InvalidInput(TOO_DEEP) from None


def _by_reference(value: Any) -> Any:
    if isinstance(value, str) and len(value) > DATA_CHARS_MAX:
        data = value.encode(errors="surrogatepass")
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if isinstance(value, Mapping):
        return {name: _by_reference(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_by_reference(each) for each in value]
    return value
