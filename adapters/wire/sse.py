"""Write server-sent events in the form of each API, one at a time as they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .limits import STREAM_PIECES_MAX
from .validation import Json

DONE = "[DONE]"
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


def ignore_end(_status: str) -> None:
    """Do nothing when the rest of a stream will not be read."""


@dataclass
class EventStream:
    """Represent an answer that is sent in parts.

    Reading a frame creates it and advances the state behind it. `api` determines the form of an error in the stream.
    `abandon(status)` is called if the rest will not be read; `status` is how an unfinished answer ends.
    """

    api: str
    frames: Iterator[bytes]
    abandon: Callable[[str], None] = ignore_end


def frame(data: Json | str, event: str | None = None) -> bytes:
    """Return one event as bytes for the wire; a string is sent unchanged."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {text}\n\n".encode()


def error_frame(api: str, code: str, message: str, *, number: int = 0, enveloped: bool = False) -> bytes:
    """Return an error within a stream, in the form of its API; a run or response then ends `failed`.

    Chat Completions and the Messages API always use the envelope of a refusal, {"error": …}. The other APIs send an event
    `error`: flat, as the API documents it, or `enveloped`, which the SDK raises as an exception. `number` is the event's
    position.
    """
    error = {"code": code, "message": message, "param": None, "type": "server_error"}
    if api == "messages":
        kind = "overloaded_error" if code == "overloaded_error" else "api_error"
        return frame({"type": "error", "error": {"type": kind, "message": message}}, "error")
    if api == "chat":
        return frame({"error": error})
    event = {"type": "error", "sequence_number": number} if api == "responses" else {}
    return frame(event | {"error": error} if enveloped else error | event, "error")


def pieces(text: str) -> list[str]:
    """Split a text into two or more parts; a text of at most one character is not split."""
    words = re.findall(r"\s*\S+\s*", text) if text.strip() else [text]
    if len(words) == 1:
        middle = (len(text) + 1) // 2
        return [part for part in (text[:middle], text[middle:]) if part]
    size = -(-len(words) // STREAM_PIECES_MAX)
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]
