"""Number the events of a response, so that a client that lost its stream gets the rest from any process.

The numbers follow from the finished response: an event has the next number, and a piece of text as many numbers as it has
characters. So a stream is continued in the middle of a text, whatever pieces it was sent in before, and nothing is stored for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain.failures import redact

from ..wire import ApiError, Json, events, sse
from ..wire.items import id_prefix
from .ids import wire_id
from .items import output_text
from .refusals import SERVER_ERROR

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
        number = FAILED_NUMBER if event["type"] == FAILED else number + (1 if delta is None else len(delta))
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
    message_id: str = ""
    said: list[str] = field(default_factory=list)
    position: int = -1
    """Number of the newest event."""
    _is_first: bool = True
    _is_open: bool = False

    def begin(self) -> Iterator[Json]:
        """Yield the events before the output."""
        for status in ("created", *(("queued",) if self.begun["background"] else ()), "in_progress"):
            state = "queued" if self.begun["background"] and status != "in_progress" else "in_progress"
            yield from self._sent({"type": f"response.{status}", "response": self.begun | {"status": state}})

    def of_part(self, part: Any) -> Iterator[Json]:
        """Yield the events for a part of the answer; only the first message of a run is sent while it is written.

        Raises:
            ApiError: the attempt failed after its text was sent, and the next one does not continue it.
        """
        match part.type:
            case "began" if not self._is_open:
                self.message_id = part.message_id
            case "delta" if part.message == 0 and self._is_first:
                yield from self._open()
                self.said.append(part.text)
                yield from self._sent(self._here("response.output_text.delta", delta=part.text, logprobs=[]), part.text)
            case "tool_use":
                self._is_first = False
            case "started_over" if not part.continues and self.said:
                raise ApiError(
                    502,
                    f"The answer broke off, and no other attempt can continue it (cause {redact(part.reason)}, run "
                    f"{part.failed_run_id}): send the request again.",
                    kind=SERVER_ERROR,
                    code="stream_broken",
                )
            case "started_over" if not part.continues:
                self._is_first = True
            case _:
                pass

    def end(self, response: Json) -> Iterator[Json]:
        """Yield the rest of the events of a response, which has ended."""
        yield from numbered(response, max(self.after, self.position))

    def _open(self) -> Iterator[Json]:
        if self._is_open:
            return
        self._is_open = True
        item: Json = {
            "id": self._item_id,
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        yield from self._sent({"type": "response.output_item.added", "output_index": 0, "item": item})
        yield from self._sent(self._here("response.content_part.added", part=output_text("")))

    @property
    def _item_id(self) -> str:
        return wire_id(id_prefix("message"), self.message_id)

    def _here(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self._item_id, "output_index": 0, "content_index": 0, **fields}

    def _sent(self, event: Json, text: str | None = None) -> Iterator[Json]:
        begun = self.position
        self.position += 1 if text is None else len(text)
        if self.position <= self.after:
            return
        if text is not None and begun < self.after:
            event = event | {"delta": text[self.after - begun :]}
        yield event | {"sequence_number": self.position}
