"""Streams: server-sent events as each surface writes them, made one by one while they are read."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .call import Json
from .limits import STREAM_PIECES_MAX

DONE = "[DONE]"
GARBLED = b'data: {"this line": is no JSON\n\n'


def nothing(_status: str) -> None:
    """What is left to do when nobody reads a stream any more: nothing."""


@dataclass
class EventStream:
    """An answer in parts. Each frame is made when it is asked for, and the state of the provider goes along with it.

    `api` says how an error is worded in it. `abandon(status)` is called where the rest will never be asked for.
    """

    api: str
    frames: Iterator[bytes]
    abandon: Callable[[str], None] = nothing


def frame(data: Json | str, event: str | None = None) -> bytes:
    """One event for the wire. Text goes out as it stands."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {text}\n\n".encode()


def pieces(text: str) -> list[str]:
    """A text in two or more parts, which joined again are the text; a single character, or none, stands alone."""
    words = re.findall(r"\s*\S+\s*", text) if text.strip() else [text]
    if len(words) == 1:
        middle = (len(text) + 1) // 2
        return [part for part in (text[:middle], text[middle:]) if part]
    size = -(-len(words) // STREAM_PIECES_MAX)
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]
