"""Define conversation keys and stream names. A key is the app's own identifier; a stream holds the events."""

from __future__ import annotations

from ..errors import InvalidInput, InvalidKey
from ..limits import IDEMPOTENCY_KEY_CHARS_MAX, KEY_CHARS_MAX

CONVERSATION = "conversation:"
PROFILE = "profile:"

IMPORTED = "import:"
"""Prefix of the idempotency keys of imported messages; an app's own keys must not start with it."""


def stream_of(key: object) -> str:
    """Return the name of the stream that holds a conversation's events.

    Raises:
        InvalidKey: the key does not have 1 to 200 characters, or contains characters that no database stores.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARS_MAX:
        found = f"{len(key)} characters" if isinstance(key, str) else f"type {type(key).__name__}"
        raise InvalidKey(f"a conversation key of {found} is invalid: pass a string of 1 to {KEY_CHARS_MAX} characters")
    if "\0" in key or (not key.isascii() and any("\ud800" <= character <= "\udfff" for character in key)):
        raise InvalidKey(f"the conversation key {key!a} contains a NUL or a lone surrogate: pass valid Unicode text")
    return CONVERSATION + key


def key_of(stream: str) -> str:
    """Return the key of a conversation's stream; other stream names are returned unchanged."""
    return stream.removeprefix(CONVERSATION)


def check_texts(**given: object) -> None:
    """Raise an error if a value, named by its keyword, is not text: JSON would store bytes, times and numbers as other values.

    Raises:
        InvalidInput: it has another type.
    """
    for name, value in given.items():
        if not isinstance(value, str):
            raise InvalidInput(f"{name} has type {type(value).__name__}: nothing was written; pass a text")


def check_idempotency_key(idempotency_key: str) -> None:
    """Raise an error if the idempotency key is invalid.

    Raises:
        InvalidInput: the key is empty, too long, reserved for imports, or cannot be stored.
    """
    from .parsing import plain_json

    check_texts(idempotency_key=idempotency_key)
    if not 1 <= len(idempotency_key) <= IDEMPOTENCY_KEY_CHARS_MAX:
        raise InvalidInput(
            f"an idempotency key of {len(idempotency_key)} characters is invalid: "
            f"pass 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters"
        )
    if idempotency_key.startswith(IMPORTED):
        raise InvalidInput(
            f"idempotency keys that start with {IMPORTED!r} are reserved for imports: choose another key"
        )
    plain_json(idempotency_key, "the idempotency key")
