"""Convert memory to the messages that Chat Completions accepts.

An imported message may have fields that the API does not accept. They are kept in the journal and omitted from the request,
because one unknown field would make the provider refuse the whole request.
"""

from __future__ import annotations

from typing import Any

FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call"})
"""Fields of a message. Source: OpenAI's OpenAPI description, `ChatCompletionRequestMessage` and its variants; November 2026."""

PARTS = {
    "user": frozenset({"text", "image_url", "input_audio", "file"}),
    "assistant": frozenset({"text", "refusal"}),
}
"""Content part types by role; the other roles accept only text. Source: the same description."""


def acceptable(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message without unknown fields; replace each unsupported part with a text that names its type."""
    content = message.get("content")
    if message.keys() <= FIELDS and not isinstance(content, list):
        return message
    kept = {name: value for name, value in message.items() if name in FIELDS}
    if isinstance(content, list):
        known = PARTS.get(message["role"], frozenset({"text"}))
        kept["content"] = [part if part.get("type") in known else _told(part) for part in content]
    return kept


def _told(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": f"[{part.get('type', 'content')} not shown]"}
