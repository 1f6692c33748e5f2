"""Produce server-sent events in the form of each API, one at a time as they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .call import Json
from .errors import STREAM_PIECES_MAX

DONE = "[DONE]"
GARBLED = b'data: {"this line": is no JSON\n\n'


def nothing(_status: str) -> None:
    """Do nothing when a stream is abandoned."""


@dataclass
class EventStream:
    """Represent an answer that is sent in parts.

    Reading a frame creates it and advances the provider's state. `api` determines the form of an error in the stream.
    `abandon(status)` is called if the rest will not be read.
    """

    api: str
    frames: Iterator[bytes]
    abandon: Callable[[str], None] = nothing


def frame(data: Json | str, event: str | None = None) -> bytes:
    """Return one event as bytes for the wire; a string is sent unchanged."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {text}\n\n".encode()


def pieces(text: str) -> list[str]:
    """Split a text into two or more parts; a text of at most one character is not split."""
    words = re.findall(r"\s*\S+\s*", text) if text.strip() else [text]
    if len(words) == 1:
        middle = (len(text) + 1) // 2
        return [part for part in (text[:middle], text[middle:]) if part]
    size = -(-len(words) // STREAM_PIECES_MAX)
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]
