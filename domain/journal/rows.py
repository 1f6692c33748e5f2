"""Map events to rows and back: plain JSON, class names as topics, a closed registry. A row cannot cause an import."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from eventsourcing.persistence import Mapper, Notification, StoredEvent, Transcoder

from ..conversation.events import EVENTS, Event, payload_of, restore_event, topic_of
from ..errors import CorruptEvent
from ..ids import from_iso, to_iso


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """Represent a stored event with threadledger's additional columns."""

    event_id: str = ""
    at: str = ""
    schema: int = 1


Row = tuple[int, str, int, str, str, str, str, int]
"""Event as it is read: position, stream, version, topic, payload (JSON), event id, time (ISO 8601), schema number."""


@dataclass(frozen=True)
class LoggedRow(Notification):
    """Represent a stored event with its position (`id`) in the whole log."""

    event_id: str = ""
    at: str = ""
    schema: int = 1
    cursor: str = ""
    """Cursor of the event; see `LogCursor`. It is empty unless the log is read by cursor."""


class PlainJSON(Transcoder):
    """Encode payloads as ASCII JSON without spaces.

    No keys are reserved, unlike in eventsourcing's own transcoder, which gives some dicts a special meaning.
    """

    def encode(self, obj: Any) -> bytes:
        return _encode(obj).encode("ascii")

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


class EventMapper(Mapper[str]):
    """Map events to rows and back."""

    def to_stored_event(self, domain_event: Any) -> StoredRow:
        """Return an event as a row."""
        event: Event = domain_event
        row = object.__new__(StoredRow)
        vars(row).update(  # as in `events.make`: a frozen dataclass is slow to create, it sets its fields one by one
            originator_id=event.originator_id,
            originator_version=event.originator_version,
            topic=topic_of(event),
            state=_encode(payload_of(event)).encode("ascii"),
            event_id=event.event_id,
            at=to_iso(event.timestamp),
            schema=event.SCHEMA,
        )
        return row

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Return a stored event as a domain event; see `restore`."""
        stored = stored_event
        row = (
            getattr(stored, "id", 0),
            str(stored.originator_id),
            stored.originator_version,
            stored.topic,
            stored.state.decode(errors="replace"),
            getattr(stored, "event_id", ""),
            getattr(stored, "at", ""),
            getattr(stored, "schema", 1),
        )
        if not stored.state.isascii():  # only ASCII is ever written
            raise corrupt(row, ValueError("the payload is not ASCII"))
        return restore(row)


def restore(row: Row) -> Event:
    """Return a row as an event; an event of a newer version becomes an `UnknownEvent`.

    Raises:
        CorruptEvent: the row's payload or time cannot be read.
    """
    _, stream, version, topic, state, event_id, at, schema = row
    try:
        understood = EVENTS.get(topic)
        newer = understood is not None and schema > understood.SCHEMA
        return restore_event(
            f"{topic} of a newer schema" if newer else topic,
            payload_in(state),
            originator_id=stream,
            originator_version=version,
            timestamp=from_iso(at),
            event_id=event_id,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error


def payload_in(state: str) -> dict[str, Any]:
    """Return the payload of a row.

    Raises:
        ValueError, TypeError: the payload is not exactly one JSON object.
    """
    payload, end = _decode(state)
    if end != len(state):
        raise ValueError(f"unexpected data after the payload (character {end})")
    if not isinstance(payload, dict):
        raise TypeError("the payload is not a JSON object")
    return payload


def corrupt(row: Row, error: Exception) -> CorruptEvent:
    """Create the error for a row that cannot be read, with its location and what to do."""
    return CorruptEvent(
        f"event {row[2]} of {row[1]!r} ({row[3]}) cannot be read ({error}): "
        "restore it from a backup; the other conversations are not affected"
    )


class OnChange(Protocol):
    """Handle an event that differs from what was stored: raise an error, or return to read it anyway."""

    def __call__(self, stream: str | None, version: int | None, position: int | None, problem: str) -> None: ...


def refuse_changed(stream: str | None, version: int | None, position: int | None, problem: str) -> None:
    """Raise a `ChangedEvent` that names the event and says what to do.

    Raises:
        ChangedEvent: always.
    """
    from .forensics import changed_event

    raise changed_event(stream, version, position, problem)


_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode
"""Decoder without the whitespace search of `json.loads`: stored payloads contain no whitespace around them."""
