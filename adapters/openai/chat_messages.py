"""Memory as Chat Completions takes it. A message that came from elsewhere may carry more than the API has a place for: it is
kept in the journal, and left out of what is sent, so that one foreign field does not have a whole request refused."""

from __future__ import annotations

from typing import Any

FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call"})
"""Fields of a message. OpenAI's OpenAPI description, `ChatCompletionRequestMessage` and its kinds; November 2026."""

PARTS = {
    "user": frozenset({"text", "image_url", "input_audio", "file"}),
    "assistant": frozenset({"text", "refusal"}),
}
"""Content parts by role; the other roles take text alone. The same source."""


def acceptable(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what the API has no place for; a part of another kind becomes words that say so."""
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
