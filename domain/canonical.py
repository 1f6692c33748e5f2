"""Write JSON in one canonical form, and hash the messages of a memory as a chain (`docs/events.md` has test vectors).

The canonical form is RFC 8785 without its rule for numbers: a number is written as the standard library stores it. The
hash of no messages is `EMPTY_PATH`; each message extends the hash before it. So the hash of a whole path is extended by
one step when a message is journaled, however long the conversation is.

This module is a storage format: its hashes are stored with runs, and never change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

EMPTY_PATH = sha256(b"threadledger memory 2").hexdigest()
"""Hash of a memory without messages (hexadecimal, as all hashes here)."""

NAME = "name"
"""Key of the other fields of a message that holds the name of its speaker; it is covered as a field of its own."""


def canonical_json(value: Any) -> bytes:
    """Return a JSON value in canonical form, encoded in UTF-8: sorted keys, no spaces, as few escapes as possible.

    Half a character (a lone surrogate), which only old rows hold, is written as its escape, in lower case.

    Raises:
        ValueError: a number is not finite.
        RecursionError: the value is nested too deeply.
    """
    text = _encode(value)
    if not text.isascii() and max(text) > "\ud7ff":  # only then the order by UTF-16 differs from that by code points
        text = _encode_in_order(_in_order(value))
    return text.encode("utf-8", "backslashreplace")


def neutral_json(
    role: str,
    content: Any = None,
    tool_calls: Sequence[Any] = (),
    tool_call_id: str | None = None,
    extra: Mapping[str, Any] | None = None,
    native: Any = None,
) -> bytes:
    """Return the canonical JSON of a message in its neutral form: as it is stored, without its place.

    Fields that a message lacks are omitted, except for its content. Of other fields (`extra`), the name of the speaker is
    covered as it is, and the rest by a hash; so are the provider's items (`native`).

    Raises:
        ValueError, RecursionError: see `canonical_json`.
    """
    if type(content) is str and not tool_calls and not extra and tool_call_id is None and not native:
        try:
            return b'{"content":%b,"role":%b}' % (_text(content), _text(role))
        except UnicodeEncodeError:
            pass
    message: dict[str, Any] = {"role": role, "content": content}
    if tool_calls:
        message["tool_calls"] = tool_calls
    if tool_call_id is not None:
        message["tool_call_id"] = tool_call_id
    if extra:
        others = dict(extra)
        if isinstance(others.get(NAME), str):
            message[NAME] = others.pop(NAME)
        if others:
            message["extra"] = sha256(canonical_json(others)).hexdigest()
    if native:
        message["native"] = sha256(canonical_json(native)).hexdigest()
    return canonical_json(message)


def extended_path(path: str, message: bytes) -> str:
    """Return the hash of a path with one more message, given in its neutral form, at its end."""
    return sha256(bytes.fromhex(path) + message).hexdigest()


def path_of(messages: Iterable[bytes], path: str = EMPTY_PATH) -> str:
    """Return the hash of messages in their neutral form, or of a path that they continue."""
    reached = bytes.fromhex(path)
    for message in messages:
        reached = sha256(reached + message).digest()
    return reached.hex()


def _in_order(value: Any) -> Any:
    """Return a value with the keys of its objects in the order of their UTF-16 code units."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return {key: _in_order(value[key]) for key in keys}
    return [_in_order(each) for each in value] if isinstance(value, list | tuple) else value


_text = msgspec.json.Encoder().encode
"""Encoder of texts: several times as fast as the standard library, with the same escapes."""

_FORM: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
_encode = json.JSONEncoder(sort_keys=True, **_FORM).encode
_encode_in_order = json.JSONEncoder(**_FORM).encode
