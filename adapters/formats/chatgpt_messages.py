"""Convert messages of ChatGPT's export to Chat Completions messages.

An assistant's message to a tool (`recipient`) becomes a tool call with the node's id. The tool's first message after it
becomes the result. Content types without an equivalent in Chat Completions are kept as parts of their own type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .parts import is_empty, simplest

REASONING = frozenset({"thoughts", "reasoning_recap"})
"""Content types of reasoning, which are not imported."""

TO_ALL = frozenset({None, "", "all", "assistant", "user"})
"""Values of `recipient` for messages that do not go to a tool."""

NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
TOOL_NAME_CHARS_MAX = 64
"""Maximum length of a function name that providers accept."""

CARRIED = ("attachments", "model_slug")
"""Metadata fields of a message that are kept with its content. Attachments are references with name, size and type."""


@dataclass
class Turn:
    """Hold the id of the tool call that still waits for its result."""

    open_call: str | None = None


def is_said(message: Any) -> bool:
    """Return whether a node contains a message; roots and placeholders contain none."""
    return (
        isinstance(message, Mapping)
        and isinstance(message.get("author"), Mapping)
        and isinstance(message.get("content"), Mapping)
    )


def is_hidden(message: Mapping[str, Any]) -> bool:
    """Return whether ChatGPT hides the message: its system messages, custom instructions and stored facts about the user."""
    metadata = message.get("metadata")
    flagged = isinstance(metadata, Mapping) and bool(metadata.get("is_visually_hidden_from_conversation"))
    return flagged or (message["author"].get("role") == "system" and is_empty(_parts(message["content"])))


def chat_message(node_id: str, message: Mapping[str, Any], turn: Turn, left_out: Counter[str]) -> dict[str, Any] | None:
    """Return a Chat Completions message, or None for one that is left out and counted in `left_out`."""
    role, content = message["author"].get("role"), message["content"]
    if role != "tool":
        turn.open_call = None  # the call has no result
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
    """Return the content parts: text as text, an image by its asset pointer, anything else as a part of its own type."""
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
    """Return the content with a `type`, which threads and exports use to name parts that they cannot show."""
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
    """Return a tool's message as the result of the open call.

    A call has one result: further messages of the tool become assistant messages with text.
    """
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
