"""A message: role and content; a tool call and a tool result are messages too. All values are frozen.

The shape is that of Chat Completions, which every backend and export format can be made from. What a foreign message
carries beyond it is kept word for word (`Verbatim`, `extra_json`), so that an import can be exported unchanged.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks. A role that this version does not know reads as `UNKNOWN`."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "Role":
        return cls.UNKNOWN


class Source(StrEnum):
    """Where a message came from."""

    APP = "app"
    RUN = "run"
    FALLBACK = "fallback"
    IMPORT = "import"
    RERUN = "rerun"
    ADOPTED = "adopted"
    """It stood in a thread, written by somebody else, and was taken into the journal by a reconcile."""
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "Source":
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str

    def as_json(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class Image:
    """An image by reference: its address."""

    url: str
    detail: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.url} | ({"detail": self.detail} if self.detail else {})}


@dataclass(frozen=True, slots=True)
class File:
    """A file by reference: the id under which the provider keeps it."""

    file_id: str

    def as_json(self) -> dict[str, Any]:
        return {"type": "file", "file": {"file_id": self.file_id}}


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A content part of a kind we have no word for, kept as the JSON it came in."""

    json: str

    def as_json(self) -> dict[str, Any]:
        part: dict[str, Any] = json.loads(self.json)
        return part


Part = Text | Image | File | Verbatim
Content = str | tuple[Part, ...] | None
"""Text, parts, or nothing. The empty tuple stands for a message that has no `content` key at all."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a function called. `arguments` is the JSON text as the model wrote it, valid or not."""

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def loose_call(given: dict[str, Any]) -> ToolCall:
    """A tool call of any shape, as far as it can be told."""
    function = given.get("function") or given.get("custom") or {}
    arguments = function.get("arguments", function.get("input", "")) if isinstance(function, dict) else ""
    name = function.get("name", "") if isinstance(function, dict) else ""
    return ToolCall(str(given.get("id", "")), str(name), str(arguments))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them."""

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
    """What one participant said. `extra_json` holds, as a JSON object, what else a foreign message carried."""

    role: Role
    content: Content = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra_json: str = "{}"

    @property
    def text(self) -> str:
        """The words alone, parts joined by blank lines."""
        if isinstance(self.content, str):
            return self.content
        if self.content is None:
            return str(self.extra().get("refusal") or "")
        return "\n\n".join(part.text for part in self.content if isinstance(part, Text))

    def calls(self) -> tuple[ToolCall, ...]:
        """All tool calls, those of a shape of their own (kept in `extra_json`) as far as they can be told."""
        if self.tool_calls or "tool_calls" not in self.extra_json:
            return self.tool_calls
        given = self.extra().get("tool_calls")
        return tuple(loose_call(call) for call in given if isinstance(call, dict)) if isinstance(given, list) else ()

    def content_as_json(self) -> str | list[dict[str, Any]] | None:
        """The content in JSON's own types, made anew at each call."""
        return [part.as_json() for part in self.content] if isinstance(self.content, tuple) else self.content

    def extra(self) -> dict[str, Any]:
        """What else a foreign message carried."""
        carried: dict[str, Any] = json.loads(self.extra_json) if self.extra_json != "{}" else {}
        return carried

    def as_chat_message(self) -> dict[str, Any]:
        """The Chat Completions form."""
        chat: dict[str, Any] = {"role": self.role.value}
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.content != ():
            chat["content"] = self.content_as_json()
        if self.tool_calls:
            chat["tool_calls"] = [call.as_json() for call in self.tool_calls]
        return chat if self.extra_json == "{}" else chat | self.extra()
