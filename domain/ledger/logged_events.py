"""Represent events with their positions in the whole log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..conversation import events as e
from ..conversation import key_of, stream_of
from ..ids import to_iso

if TYPE_CHECKING:
    from ..journal import Journal, Place


class LoggedEvent(Struct, frozen=True):
    """Represent an event with its position in the whole log."""

    position: int
    event: e.Event
    place: str | Place = ""
    """Cursor of the event, or what `cursor` makes it of: a fold over the log needs no text."""

    @property
    def cursor(self) -> str:
        """Return position and leaf as text, for `Ledger.events(after=…)`.

        Unlike a position, it detects a log that was rewound.
        """
        from ..journal import LogCursor

        return self.place if isinstance(self.place, str) else LogCursor.at(self.position, self.place)

    @property
    def actor(self) -> str | None:
        """Return who caused it; None if that is not known."""
        return self.event.actor

    @property
    def key(self) -> str:
        """Return the conversation's key (or the name of another stream)."""
        return key_of(self.event.originator_id)

    @property
    def type(self) -> str:
        """Return the name under which the event is stored."""
        return e.topic_of(self.event)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of an event; its `data` holds all fields, including fields with default values."""
        return {
            "position": self.position,
            "key": self.key,
            "version": self.event.originator_version,
            "type": self.type,
            "at": to_iso(self.event.timestamp),
            "data": e.fields_of(self.event),
            "cursor": self.cursor,
        }


def in_log(
    logged: Iterator[tuple[int, e.Event, str]], key: str | None = None, journal: Journal | None = None
) -> Iterator[LoggedEvent]:
    """Return events with their positions, limited to one conversation if a key is given.

    With the journal, the events of deleted conversations that had this key are left out.
    """
    if key is None:
        return (LoggedEvent(*each) for each in logged)
    stream, floor = stream_of(key), journal.deleted_version(key) if journal is not None else 0
    own = (each for each in logged if each[1].originator_id == stream)
    return (LoggedEvent(*each) for each in own if each[1].originator_version > floor)
