"""Where a call is recorded: the conversation that the app names for a part of its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from threadledger.domain import stream_of

_KEY: ContextVar[str | None] = ContextVar("threadledger_recording", default=None)


@contextmanager
def in_conversation(key: str) -> Iterator[None]:
    """Calls made in this block, on recorded clients, belong to the conversation of this key. Holds in tasks begun in it.

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
    """The key of the block that the caller is in."""
    return _KEY.get()
