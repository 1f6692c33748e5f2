"""Identify what a message says by a fingerprint, so that an import compares messages without reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from ..conversation.events import MessageJournaled
    from ..conversation.messages import Message


def fingerprint_of(message: Message) -> bytes:
    """Return the fingerprint of a message: 32 bytes, the SHA-256 of its stored fields in the order of their JSON."""
    content = message.content
    return _fingerprint(
        message.role.value,
        [part.as_json() for part in content] if isinstance(content, tuple) else content,
        [call.as_json() for call in message.tool_calls] if message.tool_calls else (),
        message.tool_call_id,
        {} if message.extra_json == "{}" else message.extra(),
    )


def fingerprint_in(fields: Mapping[str, Any]) -> bytes:
    """Return the same of the fields of a `MessageJournaled`; those that are not stored have their default."""
    return _fingerprint(
        fields["role"],
        fields.get("content"),
        fields.get("tool_calls") or (),
        fields.get("tool_call_id"),
        fields.get("extra") or {},
        fields.get("batch", 1),
    )


def fingerprint_of_event(event: MessageJournaled) -> bytes:
    """Return the same of an event."""
    return _fingerprint(event.role, event.content, event.tool_calls, event.tool_call_id, event.extra, event.batch)


def _fingerprint(
    role: str,
    content: Any,
    tool_calls: Sequence[Any],
    tool_call_id: str | None,
    extra: Mapping[str, Any],
    batch: int = 1,
) -> bytes:
    said: tuple[Any, ...] = (role, content, tool_calls, tool_call_id, extra)
    if batch != 1:  # it stands for several messages, and never for this one alone
        said = (*said, batch)
    try:
        text = _encode(said)
    except (OverflowError, ValueError):  # a long integer, or a lone surrogate
        text = json.dumps(said).encode("ascii")
    return sha256(text).digest()


_encode = msgspec.json.Encoder().encode
