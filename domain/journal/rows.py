"""Map events to rows and back: plain JSON, class names as topics, a closed registry. A row cannot cause an import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from eventsourcing.persistence import Mapper, Notification, StoredEvent, Transcoder

from ..conversation.events import EVENTS, Event, MessageJournaled, payload_of, restore_event, topic_of
from ..conversation.messages import Source
from ..errors import CorruptEvent
from ..ids import from_iso, id_text, is_id_of, to_iso
from .fingerprints import fingerprint_in


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """Represent a stored event with threadledger's additional columns."""

    event_id: bytes | str = ""
    """The 16 bytes of a UUID, or any other id as text."""
    at: str = ""
    schema: int = 1
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    """Hash of what an event with an idempotency key says, so that another message with the same key is refused."""
    addresses: tuple[str, ...] = ()
    """Ids under which others know the event."""


Row = tuple[int, str, int, str, bytes, bytes | str, str, int]
"""Event as it is read: position, stream, version, topic, payload (JSON in UTF-8), event id (as in `StoredRow`), time (ISO
8601), schema number."""


@dataclass(frozen=True)
class LoggedRow(Notification):
    """Represent a stored event with its position (`id`) in the whole log."""

    event_id: bytes | str = ""
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
            **_places_of(event),
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
            stored.state,
            getattr(stored, "event_id", ""),
            getattr(stored, "at", ""),
            getattr(stored, "schema", 1),
        )
        return restore(row)


def _places_of(event: Event) -> dict[str, Any]:
    """Return the idempotency key of an event with its fingerprint, and its addresses, for a `StoredRow`."""
    if not isinstance(event, MessageJournaled):
        return {"idempotency_key": None, "fingerprint": None, "addresses": ()}
    key = event.idempotency_key
    return {
        "idempotency_key": key,
        "fingerprint": fingerprint_in(vars(event)) if key is not None else None,
        "addresses": addresses_of(vars(event), event.timestamp),
    }


def noted_row(row: Row) -> StoredRow:
    """Return a row of an earlier schema with its idempotency key and addresses; without them if it cannot be read."""
    _, stream, version, topic, state, event_id, at, schema = row
    stored = StoredRow(stream, version, topic, state, event_id, at, schema)
    try:
        payload = payload_in(state)
        key = payload.get("idempotency_key")
        if not isinstance(key, str):
            return stored
        return replace(
            stored,
            idempotency_key=key,
            fingerprint=fingerprint_in(payload),
            addresses=addresses_of(payload, from_iso(at)),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return stored


def addresses_of(payload: Mapping[str, Any], moment: datetime) -> tuple[str, ...]:
    """Return the ids by which others know an imported message and which do not tell when it was journaled."""
    if payload.get("source") != Source.IMPORT:
        return ()
    ids = (payload.get("message_id"), (payload.get("origin") or {}).get("message_id"))
    found = (each for each in ids if isinstance(each, str) and not is_id_of(each, moment))
    return tuple(dict.fromkeys(found))


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
            event_id=event_id if isinstance(event_id, str) else id_text(event_id),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error


def payload_in(state: bytes) -> dict[str, Any]:
    """Return the payload of a row.

    Raises:
        ValueError, TypeError: the payload is not exactly one JSON object.
    """
    text = state.decode()
    payload, end = _decode(text)
    if end != len(text):
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
