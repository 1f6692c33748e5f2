"""Define messages: role and content; tool calls and tool results are messages too. All values are frozen.

The shape is that of Chat Completions, from which every backend and export format can be produced. Other fields of an
imported message are stored unchanged (`Verbatim`, `extra_json`), so that an import can be exported again without loss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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
class Text:
    """Represent a piece of text."""

    text: str

    def as_json(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class Image:
    """Represent an image by its URL."""

    url: str
    detail: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.url} | ({"detail": self.detail} if self.detail else {})}


@dataclass(frozen=True, slots=True)
class File:
    """Represent a file by the id under which the provider stores it."""

    file_id: str

    def as_json(self) -> dict[str, Any]:
        return {"type": "file", "file": {"file_id": self.file_id}}


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Represent a content part of an unsupported type by its original JSON."""

    json: str

    def as_json(self) -> dict[str, Any]:
        part: dict[str, Any] = json.loads(self.json)
        return part


Part = Text | Image | File | Verbatim
Content = str | tuple[Part, ...] | None
"""Text, parts or None. The empty tuple represents a message without a `content` key."""


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

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def as_json(self) -> dict[str, int]:
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """Represent what one participant said.

    `extra_json` is a JSON object with the other fields of an imported message.
    """

    role: Role
    content: Content = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra_json: str = "{}"

    @property
    def text(self) -> str:
        """Return the text alone, with parts joined by blank lines. Without content, return the refusal."""
        if isinstance(self.content, str):
            return self.content
        if self.content is None:
            return str(self.extra().get("refusal") or "")
        return "\n\n".join(part.text for part in self.content if isinstance(part, Text))

    def calls(self) -> tuple[ToolCall, ...]:
        """Return all tool calls; those of other shapes (stored in `extra_json`) with the fields that can be read."""
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
