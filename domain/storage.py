"""Events to rows and back: plain JSON, class names as topics, a closed registry. Nothing is imported by a row's word."""

import json
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import Mapper, Notification, StoredEvent, Transcoder

from .errors import CorruptEvent
from .events import EVENTS, Event, payload_of, restore_event, topic_of
from .ids import from_iso, to_iso


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """A stored event with the columns that are ours."""

    event_id: str = ""
    at: str = ""
    schema: int = 1


@dataclass(frozen=True)
class LoggedRow(Notification):
    """A stored event with its position (`id`) in the whole log."""

    event_id: str = ""
    at: str = ""
    schema: int = 1


class PlainJSON(Transcoder):
    """JSON as everybody reads it: ASCII, no spaces, no reserved keys. eventsourcing's own gives some dicts a meaning."""

    def encode(self, obj: Any) -> bytes:
        return json.dumps(obj, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


class EventMapper(Mapper[str]):
    """eventsourcing's mapper for our events."""

    def to_stored_event(self, domain_event: Any) -> StoredRow:
        """An event as a row."""
        event: Event = domain_event
        return StoredRow(
            originator_id=event.originator_id,
            originator_version=event.originator_version,
            topic=topic_of(event),
            state=self.transcoder.encode(payload_of(event)),
            event_id=event.event_id,
            at=to_iso(event.timestamp),
            schema=event.SCHEMA,
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """A row as an event; one of a newer version as `UnknownEvent`.

        Raises:
            CorruptEvent: the row's payload or time cannot be read.
        """
        try:
            payload = self.transcoder.decode(stored_event.state)
            if not isinstance(payload, dict):
                raise TypeError("the payload is not a JSON object")
            understood = EVENTS.get(stored_event.topic)
            newer = understood is not None and getattr(stored_event, "schema", 1) > understood.SCHEMA
            return restore_event(
                f"{stored_event.topic} of a newer schema" if newer else stored_event.topic,
                payload,
                originator_id=str(stored_event.originator_id),
                originator_version=stored_event.originator_version,
                timestamp=from_iso(getattr(stored_event, "at", "")),
                event_id=getattr(stored_event, "event_id", ""),
            )
        except (ValueError, TypeError) as error:
            raise CorruptEvent(
                f"event {stored_event.originator_version} of {stored_event.originator_id!r} ({stored_event.topic}) "
                f"cannot be read ({error}): restore it from a backup; the other conversations are not concerned"
            ) from error
