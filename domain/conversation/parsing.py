"""Parse messages from outside: check and freeze them, or raise an error that says in one sentence what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from ..errors import InvalidMessage
from ..ids import from_iso, to_iso
from ..limits import JSON_LEVELS_MAX, MESSAGE_BYTES_MAX
from .events import MessageJournaled
from .messages import Content, File, Image, Message, Part, Role, Source, Text, ToolCall, Verbatim


def text_message(role: str, text: str) -> Message:
    """Create a message of plain text.

    Raises:
        InvalidMessage: the role is unknown, or the text cannot be stored.
    """
    return parse_message({"role": role, "content": text})


def parse_message(given: Mapping[str, Any]) -> Message:
    """Parse a message in the Chat Completions format.

    Raises:
        InvalidMessage: a field is invalid; the error says which one, why, and what is expected.
    """
    role = _role(given.get("role"))
    if given.keys() == _PLAIN and role is not Role.TOOL and _is_short_text(given["content"]):
        return Message(role, given["content"])
    calls, loose_calls = _tool_calls(given.get("tool_calls"))
    content = _content(given["content"]) if "content" in given else ()
    call_id = given.get("tool_call_id")
    if role is Role.TOOL and not (isinstance(call_id, str) and call_id):
        raise InvalidMessage("a tool result has no tool_call_id: give the id of the call that it answers")
    if role is not Role.TOOL and call_id is not None:
        raise InvalidMessage(f"a message of role {role.value!r} has a tool_call_id: only role 'tool' answers a call")
    if role is not Role.ASSISTANT and (calls or loose_calls):
        raise InvalidMessage(f"a message of role {role.value!r} has tool_calls: only role 'assistant' calls tools")
    said_otherwise = role is Role.ASSISTANT and any(given.get(name) for name in _OTHER_WAYS_TO_SPEAK)
    if content in (None, ()) and not (calls or loose_calls or said_otherwise):
        raise InvalidMessage(f"a message of role {role.value!r} has no content: give text, parts or tool calls")
    known = {"role", "content", *(["tool_call_id"] if call_id is not None else []), *(["tool_calls"] if calls else [])}
    extra = {name: value for name, value in given.items() if name not in known}
    message = Message(role, content, calls, call_id, plain_json(extra, "the message"))
    size = len(plain_json(message.as_chat_message(), "the message").encode())
    if size > MESSAGE_BYTES_MAX:
        raise InvalidMessage(
            f"a message of {size:,} bytes is over the limit of {MESSAGE_BYTES_MAX:,} bytes for one message: "
            "split it, or keep the content in a file and journal a reference to it"
        )
    return message


def restore_message(event: MessageJournaled) -> Message:
    """Return the message of a stored `MessageJournaled`. Accepts whatever a newer version wrote."""
    return message_in(vars(event))


def message_in(stored: Mapping[str, Any]) -> Message:
    """Return the message in the stored fields of a `MessageJournaled`. Accepts whatever a newer version wrote."""
    content = stored.get("content")
    extra = stored.get("extra") or {}
    given = stored.get("tool_calls") or ()
    try:
        calls = tuple(_tool_call(call) for call in given)
    except (KeyError, TypeError):
        calls, extra = (), {"tool_calls": given} | extra
    return Message(
        Role(stored["role"]),
        tuple(_part(part, _compact) for part in content) if isinstance(content, list) else content,
        calls,
        stored.get("tool_call_id"),
        _compact(extra) if extra else "{}",
    )


def plain_json(value: Any, what: str) -> str:
    """Return `value` as JSON text that can be encoded as UTF-8.

    Raises:
        InvalidMessage: the value is not JSON, or its text contains a lone surrogate.
    """
    try:
        _refuse_what_json_would_change(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(
            f"{what} holds half a character (a lone surrogate, {error.object[error.start]!a}): "
            "decode the bytes it came from as UTF-8 and give the whole text"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(
            f"{what} cannot be kept as JSON ({error}): give strings, numbers, lists and dicts"
        ) from None
    return text


def _refuse_what_json_would_change(value: Any) -> None:
    """Reject keys that JSON would convert to strings, and nesting that could be written but not always read again.

    Raises:
        TypeError, ValueError: with the reason.
    """
    level = [value]
    for _ in range(JSON_LEVELS_MAX):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                for key in each:
                    if not isinstance(key, str):
                        raise TypeError(f"the key {key!r} is no text")
                inner += each.values()
            elif isinstance(each, (list, tuple)):
                inner += each
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {JSON_LEVELS_MAX} levels")


_OTHER_WAYS_TO_SPEAK = ("refusal", "audio", "function_call")
"""Fields that can replace the content of an assistant's message."""


_PLAIN = {"role", "content"}
"""The fields of most messages."""

_SHORT_CHARS_MAX = MESSAGE_BYTES_MAX // 8
"""Length in characters that is within the byte limit however the text is escaped: JSON needs at most 6 bytes each."""


def _is_short_text(content: object) -> bool:
    """Return whether this is text that needs no further check: it can be encoded and is within the limit."""
    if type(content) is not str or len(content) > _SHORT_CHARS_MAX:
        return False
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _tool_call(given: Mapping[str, Any]) -> ToolCall:
    return ToolCall(given["id"], given["function"]["name"], given["function"]["arguments"])


_ROLES = {role.value: role for role in Role}


def _role(value: object) -> Role:
    role = _ROLES.get(value, Role.UNKNOWN) if isinstance(value, str) else Role.UNKNOWN
    if role is not Role.UNKNOWN:
        return role
    known = ", ".join(role.value for role in Role if role is not Role.UNKNOWN)
    raise InvalidMessage(f"unknown role {value!r}: a message is from one of {known}")


def _content(value: object) -> Content:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and all(isinstance(part, Mapping) for part in value):
        return tuple(_part(part, lambda part: plain_json(part, "a content part")) for part in value)
    raise InvalidMessage(
        f"a message's content is {type(value).__name__}: give a string, or a list of parts like "
        '{"type": "text", "text": "…"}'
    )


def _part(given: Mapping[str, Any], to_text: Callable[[Any], str]) -> Part:
    match given:
        case {"type": "text", "text": str(text)}:
            part: Part = Text(text)
        case {"type": "image_url", "image_url": {"url": str(url), **rest}} if rest.keys() <= {"detail"}:
            part = Image(url, str(rest["detail"]) if rest.get("detail") else None)
        case {"type": "file", "file": {"file_id": str(file_id)}}:
            part = File(file_id)
        case _:
            return Verbatim(to_text(given))
    return part if part.as_json() == given else Verbatim(to_text(given))


def _tool_calls(value: object) -> tuple[tuple[ToolCall, ...], bool]:
    """Return the calls, and whether some have a shape that only `extra_json` can store."""
    if value is None or value == []:
        return (), False
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidMessage(f"tool_calls is {type(value).__name__}: give a list of calls")
    calls = []
    for given in value:
        match given:
            case {"id": str(call_id), "type": "function", "function": {"name": str(name), "arguments": str(arguments)}}:
                call = ToolCall(call_id, name, arguments)
                if call.as_json() != given:
                    return (), True
                calls.append(call)
            case {"id": str()}:
                return (), True
            case _:
                raise InvalidMessage("a tool call lacks its id: give id, type and function with name and arguments")
    return tuple(calls), False


_SPEAKERS = frozenset(role.value for role in Role if role not in {Role.TOOL, Role.UNKNOWN})


class JournaledMessage:
    """Represent a message with its place in the ledger.

    A stored message is parsed on first access, because most views only pass texts on.
    """

    __slots__ = ("_at", "_message", "_payload", "version")

    version: int

    def __init__(
        self,
        message: Message,
        message_id: str,
        version: int,
        at: datetime,
        exchange_id: str | None = None,
        run_id: str | None = None,
        source: Source = Source.APP,
    ) -> None:
        self._message: Message | None = message
        self._at: datetime | str = at
        self._payload: dict[str, Any] = {
            "message_id": message_id,
            "role": message.role.value,
            "exchange_id": exchange_id,
            "run_id": run_id,
            "source": source.value,
        }
        self.version = version

    @classmethod
    def stored(cls, payload: dict[str, Any], version: int, at: datetime | str) -> Self:
        """Create the message of a stored `MessageJournaled`; `at` may be an ISO 8601 string."""
        self = cls.__new__(cls)
        self._message, self._payload, self._at, self.version = None, payload, at, version
        return self

    @property
    def message(self) -> Message:
        """Return the role and content."""
        if self._message is None:
            self._message = message_in(self._payload)
        return self._message

    @property
    def message_id(self) -> str:
        """Return the message's id; two messages with equal texts have different ids."""
        return str(self._payload["message_id"])

    @property
    def is_tool_result(self) -> bool:
        """Return whether the message is the result of a tool call."""
        return bool(self._payload["role"] == Role.TOOL.value)

    @property
    def at(self) -> datetime:
        """Return when the message was journaled."""
        if isinstance(self._at, str):
            self._at = from_iso(self._at)
        return self._at

    @property
    def written_at(self) -> str:
        """Return when the message was written (ISO 8601): when journaled, or earlier if an import knows the time."""
        written: str | None = self._payload.get("written_at")
        return written or (self._at if isinstance(self._at, str) else to_iso(self._at))

    @property
    def exchange_id(self) -> str | None:
        """Return the id of its exchange."""
        found: str | None = self._payload.get("exchange_id")
        return found

    @property
    def run_id(self) -> str | None:
        """Return the id of the run that produced it."""
        found: str | None = self._payload.get("run_id")
        return found

    @property
    def source(self) -> Source:
        """Return the origin of the message."""
        return Source(self._payload.get("source", Source.APP.value))

    def as_plain_chat_message(self) -> dict[str, Any] | None:
        """Return the Chat Completions format of a message that consists of a role and text; None for all others.

        Only stored messages that have not been parsed yet qualify.
        """
        payload = self._payload
        role, content = payload["role"], payload.get("content")
        if self._message is not None or type(content) is not str or role not in _SPEAKERS:
            return None
        return None if "tool_calls" in payload or "extra" in payload else {"role": role, "content": content}

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that CONTRACT.md defines."""
        return {
            "message_id": self.message_id,
            "version": self.version,
            "at": to_iso(self.at),
            "role": self.message.role.value,
            "content": self.message.content_as_json(),
            "tool_calls": [call.as_json() for call in self.message.tool_calls],
            "tool_call_id": self.message.tool_call_id,
            "exchange_id": self.exchange_id,
            "run_id": self.run_id,
            "source": self.source.value,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JournaledMessage) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((self.message_id, self.version))

    def __repr__(self) -> str:
        return f"JournaledMessage({self.message!r}, {self.message_id!r}, version={self.version})"

    def _compared(self) -> tuple[Any, ...]:
        return (self.message, self.message_id, self.version, self.at, self.exchange_id, self.run_id, self.source)
