"""Define messages: role and content; tool calls and tool results are messages too. All values are frozen.

They have the format of Chat Completions, which can be converted for every backend and export format. Other fields of an
imported message are stored unchanged (`Verbatim`, `extra_json`), so that an import can be exported again without loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from msgspec import Raw, Struct
from msgspec.structs import replace

from ..canonical import neutral_json
from ..faces import lazy_face
from ..ids import from_iso, to_iso
from ..limits import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from .events import MessageJournaled
    from .parts import Part

    Content = str | tuple[Part, ...] | None
    """Text, parts or None. The empty tuple represents a message without a `content` key."""
else:  # most messages are plain texts and need no part
    __getattr__ = lazy_face(__package__, {"parts": "Audio File Image Part Text Verbatim"})
    Content = Any


class Role(StrEnum):
    """Name the author of a message. A role that this version does not know is read as `UNKNOWN`."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> Role:
        return cls.UNKNOWN


FOUND_IN_THREAD = "found_in_thread"
"""Finish reason of a run that called no model, because the answer was in the thread already."""


class Source(StrEnum):
    """Name the origin of a message. A source that this version does not know is read as `UNKNOWN`."""

    APP = "app"
    RUN = "run"
    FALLBACK = "fallback"
    IMPORT = "import"
    RERUN = "rerun"
    ADOPTED = "adopted"
    """Another writer added it to a thread, and a reconcile imported it into the journal."""
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> Source:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Represent a model's request to call a function.

    `arguments` is the JSON text as the model wrote it, valid or not.
    """

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def loose_call(given: dict[str, Any]) -> ToolCall:
    """Return a tool call of any shape, with the fields that can be read."""
    function = given.get("function") or given.get("custom") or {}
    arguments = function.get("arguments", function.get("input", "")) if isinstance(function, dict) else ""
    name = function.get("name", "") if isinstance(function, dict) else ""
    return ToolCall(str(given.get("id", "")), str(name), str(arguments))


@dataclass(frozen=True, slots=True)
class Usage:
    """Hold the token counts that the provider reported."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Input tokens that the provider read from its cache."""
    reasoning_tokens: int = 0
    """Output tokens that the model used for reasoning."""

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def as_json(self) -> dict[str, int]:
        counts = {name: getattr(self, name) for name in ("input_tokens", "output_tokens", "total_tokens")}
        details = {"cached_tokens": self.cached_tokens, "reasoning_tokens": self.reasoning_tokens}
        return counts | {name: count for name, count in details.items() if count}


class Message(Struct, frozen=True):
    """Represent what one participant said.

    `extra_json` is a JSON object with the other fields of an imported message, `native_json` one with what the provider's
    items hold beyond all of this (`native.py`), or empty.
    """

    role: Role
    content: Content = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra_json: str = "{}"
    native_json: str = ""

    def replaced(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields."""
        return replace(self, **fields)

    @property
    def text(self) -> str:
        """Return the text alone, with parts joined by blank lines. Without content, return the refusal."""
        if isinstance(self.content, str):
            return self.content
        if self.content is None:
            return str(self.extra().get("refusal") or "")
        from .parts import text_of

        return text_of(self.content)

    def calls(self) -> tuple[ToolCall, ...]:
        """Return all tool calls; calls of other shapes (in `extra_json`) have only the fields that can be read."""
        if self.tool_calls or "tool_calls" not in self.extra_json:
            return self.tool_calls
        given = self.extra().get("tool_calls")
        return tuple(loose_call(call) for call in given if isinstance(call, dict)) if isinstance(given, list) else ()

    def content_as_json(self) -> str | list[dict[str, Any]] | None:
        """Return the content as JSON types, newly created at each call."""
        return [part.as_json() for part in self.content] if isinstance(self.content, tuple) else self.content

    def extra(self) -> dict[str, Any]:
        """Return the other fields of an imported message."""
        carried: dict[str, Any] = json.loads(self.extra_json) if self.extra_json != "{}" else {}
        return carried

    def native(self) -> dict[str, Any]:
        """Return what the provider's items hold beyond the content, newly created; empty if that is nothing."""
        return _native(self.native_json)

    def as_chat_message(self) -> dict[str, Any]:
        """Return the message in the Chat Completions format."""
        chat: dict[str, Any] = {"role": self.role.value}
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.content != ():
            chat["content"] = self.content_as_json()
        if self.tool_calls:
            chat["tool_calls"] = [call.as_json() for call in self.tool_calls]
        return chat if self.extra_json == "{}" else chat | self.extra()


_SPEAKERS = {role.value: role for role in Role if role not in {Role.TOOL, Role.UNKNOWN}}
"""Roles of the messages that consist of text alone."""


def is_attached(message: Message) -> bool:
    """Return whether a message has a part that is not text."""
    return isinstance(message.content, tuple) and any(not hasattr(part, "text") for part in message.content)


def plain_message(role: object, text: str) -> Message | None:
    """Return a message of plain text that needs no further check; None if it has to be parsed."""
    speaker = _SPEAKERS.get(role) if isinstance(role, str) else None
    return Message(speaker, text) if speaker is not None and is_short_text(text) else None


def restore_message(event: MessageJournaled) -> Message:
    """Return the message of a stored `MessageJournaled`. Accepts whatever a newer version wrote."""
    return message_in({"role": event.role} | {name: getattr(event, name) for name in _SAID})


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
        _parts(content) if isinstance(content, list) else content,
        calls,
        stored.get("tool_call_id"),
        _compact(extra) if extra else "{}",
        _native_text(stored.get("native")),
    )


def _native_text(native: Any) -> str:
    """Return a stored field `native` as JSON text; rows are read without parsing it."""
    return bytes(native).decode() if type(native) is Raw else _compact(native) if native else ""


def _native(text: str) -> dict[str, Any]:
    native: dict[str, Any] = json.loads(text) if text else {}
    return native


def _object(stored: Any) -> dict[str, Any]:
    """Return a stored object, which a fast reader has not parsed."""
    found = json.loads(bytes(stored) or b"{}") if type(stored) is Raw else stored
    return found if isinstance(found, dict) else {}


_SAID = frozenset({"content", "tool_calls", "tool_call_id", "extra", "native"})
"""Stored fields that say what a message consists of; the others are its place."""

_SHORT_CHARS_MAX = MESSAGE_BYTES_MAX // 8
"""Length in characters that is within the byte limit however the text is escaped: JSON needs at most 6 bytes each."""


def is_short_text(content: object) -> bool:
    """Return whether this is text that needs no further check: it can be encoded and is within the limit."""
    if type(content) is not str or len(content) > _SHORT_CHARS_MAX:
        return False
    if content.isascii():
        return True
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


Parent = tuple[str, int]
"""Id and version of the message that another one follows; "" and 0 are the beginning."""


class JournaledMessage:
    """Represent a message with its place in the ledger.

    A stored message is parsed on first access, because most views only pass texts on.
    """

    __slots__ = ("_at", "_is_stored", "_message", "_payload", "version")

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
        self._is_stored = False
        self._payload: dict[str, Any] = {
            "message_id": message_id,
            "role": str(message.role),
            "exchange_id": exchange_id,
            "run_id": run_id,
            "source": str(source),
        }
        self.version = version

    @classmethod
    def stored(cls, payload: dict[str, Any], version: int, at: datetime | str) -> Self:
        """Create the message of a stored `MessageJournaled`; `at` may be an ISO 8601 string."""
        self = cls.__new__(cls)
        self._message, self._payload, self._at, self.version, self._is_stored = None, payload, at, version, True
        return self

    def showing(self, message: Message, made_up: bool = False) -> JournaledMessage:
        """Return another message in the place of this one, for a view; a made-up message has no id."""
        if message == self.message:
            return self
        place = {name: value for name, value in self._payload.items() if name not in _SAID}
        made = {"message_id": ""} if made_up else {}
        shown = self.stored(place | made | {"role": message.role.value}, self.version, self._at)
        shown._message, shown._is_stored = message, False
        return shown

    @property
    def message(self) -> Message:
        """Return the role and content."""
        if self._message is None:
            self._message = message_in(self._payload)
        return self._message

    @property
    def is_summary(self) -> bool:
        """Return whether it is a summary of earlier messages: no other message of a user comes from a run."""
        return self.role_name == Role.USER and self.run_id is not None

    @property
    def message_id(self) -> str:
        """Return the message's id; two messages with equal texts have different ids."""
        return str(self._payload["message_id"])

    @property
    def parent_version(self) -> int | None:
        """Return the version of the message that it follows, with 0 for the beginning, if it was journaled aside."""
        parent = self._payload.get("parent_version")
        return parent if isinstance(parent, int) else None

    @property
    def parent_id(self) -> str | None:
        """Return the id of that message; None if the message follows the end."""
        return str(self._payload.get("parent_message_id") or "") if self.parent_version is not None else None

    @property
    def role_name(self) -> str:
        """Return the stored name of the role."""
        return str(self._payload["role"])

    @property
    def is_tool_result(self) -> bool:
        """Return whether the message is the result of a tool call."""
        return bool(self._payload["role"] == Role.TOOL.value)

    @property
    def is_part_of_call(self) -> bool:
        """Return whether the message calls tools, or is the result of a call: one has no meaning without the other."""
        return self.is_tool_result or bool(self.message.calls())

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
    def origin(self) -> dict[str, Any]:
        """Return ids and times of the original at its source; empty unless it was imported."""
        return _object(self._payload.get("origin"))

    @property
    def metadata(self) -> dict[str, Any]:
        """Return what the app said about the message when it was journaled."""
        return _object(self._payload.get("metadata"))

    @property
    def source(self) -> Source:
        """Return the origin of the message."""
        return Source(self._payload.get("source", Source.APP.value))

    def as_plain_chat_message(self) -> dict[str, Any] | None:
        """Return the Chat Completions format of a message that consists of a role and text; None for all others.

        This is only known of stored messages.
        """
        payload = self._payload
        role, content = payload["role"], payload.get("content")
        if type(content) is not str or role not in _SPEAKERS:
            return None
        return None if "tool_calls" in payload or "extra" in payload else {"role": role, "content": content}

    def neutral(self) -> bytes:
        """Return what was said in its neutral form, which hashes of memory cover: as it is stored, without its place."""
        if self._is_stored:
            given = self._payload.get
            calls, call_id, extra = given("tool_calls", ()), given("tool_call_id"), given("extra")
            native = given("native")
            items = _native(_native_text(native)) if native else None  # few have any
            return neutral_json(self._payload["role"], given("content"), calls, call_id, extra, items)
        message = self.message
        content = [] if message.content == () else message.content_as_json()
        calls = [call.as_json() for call in message.tool_calls]
        return neutral_json(message.role.value, content, calls, message.tool_call_id, message.extra(), message.native())

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a message; docs/commands.md lists its keys."""
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
            "written_at": self._payload.get("written_at"),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JournaledMessage) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((self.message_id, self.version))

    def __repr__(self) -> str:
        return f"JournaledMessage({self.message!r}, {self.message_id!r}, version={self.version})"

    def _compared(self) -> tuple[Any, ...]:
        return (self.message, self.message_id, self.version, self.at, self.exchange_id, self.run_id, self.source)


def _parts(content: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    from .parts import part_of

    return tuple(part_of(part, _compact) for part in content)


def _tool_call(given: Mapping[str, Any]) -> ToolCall:
    return ToolCall(given["id"], given["function"]["name"], given["function"]["arguments"])


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
