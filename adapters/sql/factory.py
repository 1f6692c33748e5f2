"""Implement what the eventsourcing library needs of a store: the factory of recorders.

The factory uses a database that is already open or, for other eventsourcing applications, the one that `THREADLEDGER_DB`
names in the environment passed to the factory. Only such applications use tracking (`tracking.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    NotSupportedError,
    ProcessRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

from .database import Database
from .recorder import Recorder

if TYPE_CHECKING:
    from .blobs import SqlBlobs
    from .claims import SqlJobClaims
    from .served_notes import SqlServedNotes
    from .tracking import Tracker
    from .upkeep import SqlUpkeep
    from .views import SqlViews
    from .worker_notes import SqlWorkerNotes

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
        from .tracking import Tracker

        named = self.env.get(self.TRACKING_RECORDER_TOPIC)
        chosen = tracking_recorder_class or (resolve_topic(named) if named else Tracker)
        return cast("Tracker", chosen(self.database))

    def process_recorder(self) -> ProcessRecorder:
        from .tracking import Processor

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

    def served_notes(self) -> SqlServedNotes:
        """Return the notes of the served API; always the same, because a process holds its claims under one name."""
        from .served_notes import SqlServedNotes

        return cast("SqlServedNotes", vars(self).setdefault("served", SqlServedNotes(self.database)))

    def worker_notes(self) -> SqlWorkerNotes:
        """Return the notes of workers; always the same, because a process holds its duties under one name."""
        from .worker_notes import SqlWorkerNotes

        return cast("SqlWorkerNotes", vars(self).setdefault("workers", SqlWorkerNotes(self.database)))

    def blobs(self) -> SqlBlobs:
        """Return the store of the bytes of attachments."""
        from .blobs import SqlBlobs

        return SqlBlobs(self.database)

    def close(self) -> None:
        self.database.close()
        super().close()
