"""A message of ChatGPT's export in the Chat Completions form.

An assistant's message to a tool (`recipient`) is a tool call with the node's id, and the tool's first message after it is the
result. Content of a kind that has no word of ours is kept as a part of that kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .parts import is_empty, simplest

REASONING = frozenset({"thoughts", "reasoning_recap"})
"""Content that models are not shown again."""

TO_ALL = frozenset({None, "", "all", "assistant", "user"})
"""Recipients of what is said in the conversation."""

NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
TOOL_NAME_CHARS_MAX = 64
"""What providers take as a function's name."""

CARRIED = ("attachments", "model_slug")
"""Metadata of a message that is kept beside its content: attachments are references with name, size and kind."""


@dataclass
class Turn:
    """The call that still waits for its result."""

    open_call: str | None = None


def is_said(message: Any) -> bool:
    """Whether a node holds a message that somebody said: roots and placeholders hold none."""
    return (
        isinstance(message, Mapping)
        and isinstance(message.get("author"), Mapping)
        and isinstance(message.get("content"), Mapping)
    )


def is_hidden(message: Mapping[str, Any]) -> bool:
    """Whether ChatGPT does not show it: its own system messages, custom instructions, what it knows of the user."""
    metadata = message.get("metadata")
    flagged = isinstance(metadata, Mapping) and bool(metadata.get("is_visually_hidden_from_conversation"))
    return flagged or (message["author"].get("role") == "system" and is_empty(_parts(message["content"])))


def chat_message(node_id: str, message: Mapping[str, Any], turn: Turn, left_out: Counter[str]) -> dict[str, Any] | None:
    """The message; None for what is left out, which is counted."""
    role, content = message["author"].get("role"), message["content"]
    if role != "tool":
        turn.open_call = None  # nobody answered it
    if _kind(content) in REASONING:
        left_out["reasoning"] += 1
        return None
    parts = _parts(content)
    recipient = message.get("recipient")
    if role == "assistant" and isinstance(recipient, str) and recipient not in TO_ALL:
        turn.open_call = node_id
        return _call(node_id, recipient, parts)
    if role == "tool":
        return _result(message, parts, turn, left_out)
    if is_empty(parts):
        left_out["empty_messages"] += 1
        return None
    return {"role": role, "content": simplest(parts), **_extra(message)}


def _parts(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Content parts: text as text, an image by its asset pointer, all else as a part of its own kind."""
    kind = _kind(content)
    if kind in {"text", "multimodal_text"} and isinstance(content.get("parts"), list):
        return [part for given in content["parts"] if (part := _part(given)) is not None]
    if kind in {"code", "execution_output"} and isinstance(content.get("text"), str):
        return [{"type": "text", "text": content["text"]}]
    return [_verbatim(content)]


def _part(given: Any) -> dict[str, Any] | None:
    if isinstance(given, str):
        return {"type": "text", "text": given} if given else None
    if isinstance(given, Mapping):
        return _verbatim(given)
    return None if given is None else {"type": "unknown", "value": given}


def _verbatim(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a `type`, by which threads and exports name what they cannot show."""
    return {**given, "type": _kind(given) or "unknown"}


def _kind(given: Mapping[str, Any]) -> str:
    kind = given.get("content_type")
    return kind if isinstance(kind, str) else ""


def _call(node_id: str, recipient: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [text for part in parts if part["type"] == "text" and isinstance(text := part.get("text"), str)]
    function = {"name": NOT_IN_A_NAME.sub("_", recipient)[:TOOL_NAME_CHARS_MAX], "arguments": "\n\n".join(texts)}
    rest = [part for part in parts if part["type"] != "text"]
    return {
        "role": "assistant",
        "content": rest or None,
        "tool_calls": [{"id": node_id, "type": "function", "function": function}],
    }


def _result(
    message: Mapping[str, Any], parts: list[dict[str, Any]], turn: Turn, left_out: Counter[str]
) -> dict[str, Any] | None:
    """A tool's message: the result of the call that waits for one. Further ones are told as words: a call has one result."""
    if turn.open_call is not None:
        call_id, turn.open_call = turn.open_call, None
        return {"role": "tool", "tool_call_id": call_id, "content": simplest(parts) if parts else "", **_extra(message)}
    if is_empty(parts):
        left_out["empty_messages"] += 1
        return None
    left_out["tool_results_as_text"] += 1
    intro = {"type": "text", "text": f"[tool result {message['author'].get('name') or 'tool'}]"}
    return {"role": "assistant", "content": [intro, *parts], **_extra(message)}


def _extra(message: Mapping[str, Any]) -> dict[str, Any]:
    metadata = message.get("metadata")
    return {name: metadata[name] for name in CARRIED if metadata.get(name)} if isinstance(metadata, Mapping) else {}
