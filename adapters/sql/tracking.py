"""eventsourcing's tracking: how far an application's events were processed, compared and set."""

from __future__ import annotations

from eventsourcing.persistence import IntegrityError, Tracking, TrackingRecorder

from threadledger.domain import Appending

from .engine import Database
from .kinds import Cursor
from .schema import open_schema

_ADVANCE = (
    "INSERT INTO tracking (view, version, generation, position, live) VALUES (?, 0, 0, ?, 1) "
    "ON CONFLICT (view, version, generation) DO UPDATE SET position = excluded.position "
    "WHERE tracking.position < excluded.position"
)
"""Of two processors at one position, the second changes no row: it may not commit."""


class Tracker(TrackingRecorder):
    """Positions of eventsourcing's projections and process applications, in the table that our views use too."""

    def __init__(self, database: Database) -> None:
        open_schema(database)
        self._database = database

    def insert_tracking(self, tracking: Tracking) -> None:
        """Note that an event was processed.

        Raises:
            IntegrityError: it, or a later one, was noted already.
        """
        self._database.append([], lambda _: Appending(), lambda cursor: self._track(cursor, tracking))

    def max_tracking_id(self, application_name: str) -> int | None:
        """The last event noted; None where none was."""
        query = "SELECT position FROM tracking WHERE view = ? AND version = 0 AND generation = 0"
        found = self._database.query(query, (application_name,))
        return int(found[0][0]) if found else None

    def _track(self, cursor: Cursor, tracking: Tracking) -> None:
        cursor.execute(self._database.sql(_ADVANCE), (tracking.application_name, tracking.notification_id))
        if cursor.rowcount != 1:
            raise IntegrityError(f"{tracking.application_name}: event {tracking.notification_id} was processed already")
