"""Implement what the eventsourcing library needs of a store: the factory of recorders, and tracking by compare-and-set.

The factory uses a database that is already open or, for other eventsourcing applications, the one that `THREADLEDGER_DB`
names in the environment passed to the factory. Only such applications use tracking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    NotSupportedError,
    ProcessRecorder,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

from threadledger.domain.journal import Also, Appending

from .connections import Cursor
from .database import Database
from .recorder import Recorder
from .schema import open_schema

if TYPE_CHECKING:
    from .claims import SqlJobClaims
    from .upkeep import SqlUpkeep
    from .views import SqlViews

URL_VARIABLE = "THREADLEDGER_DB"


class Factory(InfrastructureFactory["Tracker"]):
    """Create recorders for one database. Only the environment passed in is read, not the process's environment."""

    def __init__(self, env: Environment | EnvType | None = None, database: Database | None = None) -> None:
        super().__init__(env if isinstance(env, Environment) else Environment("", env or {}))
        self.database = database or Database(str(self.env.get(URL_VARIABLE) or ""))

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        if purpose != "events":
            raise NotSupportedError("snapshots are stored in the stream's row: there is no snapshot recorder")
        return Recorder(self.database)

    def application_recorder(self) -> ApplicationRecorder:
        return Recorder(self.database)

    def tracking_recorder(self, tracking_recorder_class: type[Any] | None = None) -> Tracker:
        """Return a tracking recorder of the given class, or of the class named by `TRACKING_RECORDER_TOPIC`.

        The class must be a subclass of `Tracker`.
        """

        named = self.env.get(self.TRACKING_RECORDER_TOPIC)
        chosen = tracking_recorder_class or (resolve_topic(named) if named else Tracker)
        return cast("Tracker", chosen(self.database))

    def process_recorder(self) -> ProcessRecorder:
        return Processor(self.database)

    def views(self) -> SqlViews:
        """Return the read models of the database."""
        from .views import SqlViews

        return SqlViews(self.database, Recorder(self.database))

    def upkeep(self) -> SqlUpkeep:
        """Return the maintenance operations of the database."""
        from .upkeep import SqlUpkeep

        return SqlUpkeep(self.database)

    def job_claims(self) -> SqlJobClaims:
        """Return the claims on items of bulk jobs."""
        from .claims import SqlJobClaims

        return SqlJobClaims(self.database)

    def close(self) -> None:
        self.database.close()
        super().close()


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
