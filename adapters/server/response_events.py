"""Produce the events of a response with numbers, so that a client that lost its stream gets the rest from any process.

The numbers follow from the finished response: an event has the next number, and a piece of text as many numbers as it has
characters. So a stream is continued in the middle of a text, whatever pieces it was sent in before, and nothing is stored for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain.ids import id_behind

from ..wire import Json, events, sse
from ..wire.item_events import item_events
from ..wire.items import id_prefix
from .ids import wire_id
from .items import output_text, search_item
from .refusals import stream_broken

FAILED_NUMBER = 2**31 - 1
"""Number of the event with which a response or its stream fails: above that of any text that was sent of it."""

FAILED = "response.failed"
DELTA = ".delta"


def numbered(response: Json, after: int = -1) -> Iterator[Json]:
    """Yield the events of a response that has ended, with numbers above `after`; a text begins behind what was sent of it."""
    number = -1
    for event in events.response_events(response):
        begun = number
        delta = event["delta"] if event["type"].endswith(DELTA) else None
        has_failed = event["type"] == FAILED or (event["type"] in events.TERMINAL and not response["output"])
        number = FAILED_NUMBER if has_failed else number + (1 if delta is None else len(delta))
        if number <= after:
            continue
        if delta is not None and begun < after:
            delta = delta[after - begun :]
        yield event | ({"delta": delta} if delta is not None else {}) | {"sequence_number": number}


def framed(several: Iterator[Json]) -> bytes:
    """Return events as one piece of a stream."""
    return b"".join(sse.frame(event, event["type"]) for event in several)


@dataclass
class ResponseWriter:
    """Turn the parts of an answer into events; what was sent is never taken back."""

    begun: Json
    """The response before it has ended."""
    after: int = -1
    """Number of the newest event that the client has."""
    search: str = ""
    """Name of the function with which the server searches files."""
    position: int = -1
    """Number of the newest event."""
    _message_id: str = ""
    """Id of the first message of the run."""
    _message: int = 0
    """Number of the message of the run that is written."""
    _said: list[str] = field(default_factory=list)
    """Pieces of its text; none if that has not begun."""
    _searches: int = 0
    """Number of searches in that message so far."""
    _items: int = 0
    """Number of items that are complete."""
    _start: int = -1
    """Number of the last event before the item that is written."""

    def begin(self) -> Iterator[Json]:
        """Yield the events before the output."""
        for status in ("created", *(("queued",) if self.begun["background"] else ()), "in_progress"):
            state = "queued" if self.begun["background"] and status != "in_progress" else "in_progress"
            yield from self._sent({"type": f"response.{status}", "response": self.begun | {"status": state}})
        self._start = self.position

    def of_part(self, part: Any) -> Iterator[Json]:
        """Yield the events for a part of the answer.

        Raises:
            ApiError: the attempt failed after something of it was sent, and the next one does not continue it.
        """
        match part.type:
            case "began":  # a run that continues the text has the same id
                self._message_id = part.message_id
                if not self._said:
                    self._message = self._searches = 0
            case "delta":
                if part.message != self._message:
                    yield from self._complete()
                    self._message, self._searches = part.message, 0
                yield from self._text(part.text)
            case "tool_use" if part.name == self.search:
                yield from self._complete()
                yield from self._searched(part)
            case "started_over" if not part.continues and self._said:
                raise stream_broken(part)
            case _:
                pass

    def end(self, response: Json) -> Iterator[Json]:
        """Yield the rest of the events of a response, which has ended."""
        has_rest = False
        for event in numbered(response, max(self.after, self.position)):
            has_rest = True
            yield event
        *_, last = numbered(response)
        if not has_rest and self.after < last["sequence_number"] and last["type"] in events.TERMINAL:
            yield last | {"sequence_number": self.position + 1}  # more was sent than the answer has

    def _text(self, text: str) -> Iterator[Json]:
        if not self._said:
            item = self._message_item("in_progress", [])
            yield from self._sent({"type": "response.output_item.added", "output_index": self._items, "item": item})
            yield from self._sent(self._here("response.content_part.added", part=output_text("")))
        self._said.append(text)
        yield from self._sent(self._here("response.output_text.delta", delta=text, logprobs=[]), text)

    def _complete(self) -> Iterator[Json]:
        """Yield the end of the text that is written, because something else follows it."""
        if self._said:
            yield from self._whole(self._message_item("completed", [output_text("".join(self._said))]))
            self._said = []

    def _searched(self, part: Any) -> Iterator[Json]:
        item_id = self._id("file_search_call") + (f"{self._searches:02}" if self._searches else "")
        self._searches += 1
        yield from self._whole(search_item(part.arguments) | {"id": item_id})

    def _whole(self, item: Json) -> Iterator[Json]:
        """Yield the events of a complete item that were not sent yet."""
        number = self._start
        for event in item_events(item, self._items):
            number += len(event["delta"]) if event["type"].endswith(DELTA) else 1
            if number > self.position:
                self.position = number - 1
                yield from self._sent(event)
        self._items += 1
        self._start = self.position

    def _id(self, kind: str) -> str:
        return wire_id(id_prefix(kind), id_behind(self._message_id, self._message))

    def _message_item(self, status: str, content: list[Json]) -> Json:
        return {"id": self._id("message"), "type": "message", "status": status, "role": "assistant", "content": content}

    def _here(self, kind: str, **fields: Any) -> Json:
        where = {"item_id": self._id("message"), "output_index": self._items, "content_index": 0}
        return {"type": kind, **where, **fields}

    def _sent(self, event: Json, text: str | None = None) -> Iterator[Json]:
        begun = self.position
        self.position += 1 if text is None else len(text)
        if self.position <= self.after:
            return
        if text is not None and begun < self.after:
            event = event | {"delta": text[self.after - begun :]}
        yield event | {"sequence_number": self.position}
