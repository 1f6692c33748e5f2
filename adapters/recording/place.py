"""Name the conversation in which the calls of a block of code are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from threadledger.domain import stream_of

_KEY: ContextVar[str | None] = ContextVar("threadledger_recording", default=None)


@contextmanager
def in_conversation(key: str) -> Iterator[None]:
    """Record calls of recorded clients in this block, and in tasks started in it, in the conversation of this key.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
    """
    stream_of(key)
    token = _KEY.set(key)
    try:
        yield
    finally:
        _KEY.reset(token)


def named_key() -> str | None:
    """Return the key of the caller's block; None outside a block."""
    return _KEY.get()
