"""Track positions by compare-and-set, for projections and process applications of the eventsourcing library.

The ledger itself uses none of this.
"""

from __future__ import annotations

from eventsourcing.persistence import IntegrityError, ProcessRecorder, Tracking, TrackingRecorder

from threadledger.domain.journal import Also, Appending

from .connections import Cursor
from .database import Database
from .recorder import Recorder
from .schema import open_schema


class Tracker(TrackingRecorder):
    """Store positions of eventsourcing's projections and process applications, in the table shared with the views."""

    def __init__(self, database: Database) -> None:
        open_schema(database)
        self._database = database

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record that an event was processed.

        Raises:
            IntegrityError: this event or a later one was already recorded.
        """
        self._database.group.append([], lambda _: Appending(), lambda cursor: self._track(cursor, tracking))

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the last event recorded for an application, or None."""
        query = "SELECT position FROM tracking WHERE view = ? AND version = 0 AND generation = 0"
        found = self._database.query(query, (application_name,))
        return int(found[0][0]) if found else None

    def _track(self, cursor: Cursor, tracking: Tracking) -> None:
        cursor.execute(self._database.sql(_ADVANCE), (tracking.application_name, tracking.notification_id))
        if cursor.rowcount != 1:
            raise IntegrityError(f"{tracking.application_name}: event {tracking.notification_id} was processed already")


class Processor(Tracker, Recorder, ProcessRecorder):
    """Store events together with the position processed in another application's log, in one transaction."""

    def __init__(self, database: Database) -> None:
        Recorder.__init__(self, database)

    def _tracked(self, tracking: Tracking | None) -> Also | None:
        if tracking is None:
            return None

        def also(cursor: Cursor) -> None:
            self._track(cursor, tracking)

        return also


_ADVANCE = (
    "INSERT INTO tracking (view, version, generation, position, live) VALUES (?, 0, 0, ?, 1) "
    "ON CONFLICT (view, version, generation) DO UPDATE SET position = excluded.position "
    "WHERE tracking.position < excluded.position"
)
"""If two processors handle the same position, the second one changes no row and must not commit."""
