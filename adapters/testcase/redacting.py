"""Redact texts that leave the ledger in an exported test."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.conversation.tool_secrets import is_secret
from threadledger.domain.failures import redact

from .faults import without_ids

TOOL_ADDRESS = "https://tools.invalid"
"""Placeholder for the address of a server that a hosted tool calls."""

TOOL_CHARS_MAX = 100_000
"""Maximum length of one text in a tool definition, in characters."""


class Veil:
    """Prepare texts for the exported files.

    If active, texts are replaced by placeholders of the same length; otherwise they are kept. The provider's ids in
    files and tools are always replaced.
    """

    def __init__(self, active: bool) -> None:
        self._active = active

    def __call__(self, text: str) -> str:
        return re.sub(r"\S", "x", text) if self._active else text

    def arguments(self, text: str) -> Any:
        """Return a call's arguments as an object if that loses nothing, otherwise as text."""
        try:
            given = json.loads(text)
        except ValueError:
            return self(text)
        given = self._value(given) if self._active else given
        return (
            given
            if isinstance(given, dict) and (self._active or json.dumps(given) == text)
            else self._text(given, text)
        )

    def message(self, chat: dict[str, Any]) -> dict[str, Any]:
        """Return a message of the memory, ready for export."""
        kept = {name: value for name, value in chat.items() if name in {"role", "tool_call_id"} or not self._active}
        if "content" in chat:
            kept["content"] = self._content(chat["content"])
        if chat.get("tool_calls"):
            kept["tool_calls"] = [self._call(call) for call in chat["tool_calls"]]
        return kept

    def profile(self, profile: Profile) -> Profile:
        """Return a profile without account data: its tools may contain file ids, server addresses and credentials."""
        tools = json.dumps(self._tool(profile.tools), ensure_ascii=False)
        settings = json.dumps(self._tool(profile.settings), ensure_ascii=False)
        return replace(profile, instructions=self(profile.instructions), tools_json=tools, settings_json=settings)

    def metadata(self, pairs: Mapping[str, str]) -> dict[str, str]:
        """Return the metadata of a question, without secrets."""
        return {key: self(redact(value, TOOL_CHARS_MAX, key)) for key, value in pairs.items()}

    def _tool(self, value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            is_address = value.startswith(("http://", "https://"))
            return TOOL_ADDRESS if is_address else without_ids(redact(value, TOOL_CHARS_MAX, name))
        if isinstance(value, list):
            return [self._tool(each, name) for each in value]
        if not isinstance(value, dict):
            return value
        account = {"authorization", "headers"} & value.keys()  # fields of the caller's account, whatever they hold
        account |= {field for field, each in value.items() if is_secret(each)}
        return {field: self._tool(each, field) for field, each in value.items() if field not in account}

    def _text(self, given: Any, text: str) -> str:
        return json.dumps(given) if self._active else text

    def _content(self, content: Any) -> Any:
        if not isinstance(content, list):
            return self(content) if isinstance(content, str) else content
        return [self._part(part) for part in content]

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        match part:
            case {"type": "file", "file": {"file_id": str(file_id)}}:
                return {"type": "file", "file": {"file_id": without_ids(file_id)}}
            case {"type": "text", "text": str(text)}:
                return {**part, "text": self(text)}
            case {"type": "image_url"} if self._active:
                return {"type": "image_url", "image_url": {"url": "https://images.invalid/redacted.png"}}
        return {"type": "text", "text": "x"} if self._active else part

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        function = call.get("function")
        if not self._active or not isinstance(function, dict):
            return call
        arguments = self.arguments(str(function.get("arguments", "")))
        as_text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {**call, "function": {"name": function.get("name"), "arguments": as_text}}

    def _value(self, value: Any) -> Any:
        """Return a JSON value with its strings redacted; keys and numbers are kept."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self._value(each) for each in value]
        return {name: self._value(each) for name, each in value.items()} if isinstance(value, dict) else value
