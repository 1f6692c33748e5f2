"""eventsourcing's factory: on a database that is open already, or (for applications of their own) on the one that
`THREADLEDGER_DB` names in the environment that they give."""

from __future__ import annotations

from typing import Any, cast

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    NotSupportedError,
    ProcessRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

from .claims import SqlJobClaims
from .engine import Database
from .recorder import Processor, Recorder
from .tracking import Tracker
from .upkeep import SqlUpkeep
from .views import SqlViews

URL_VARIABLE = "THREADLEDGER_DB"


class Factory(InfrastructureFactory[Tracker]):
    """Makes recorders on one database. The process's environment has no say: what counts is given."""

    def __init__(self, env: Environment | EnvType | None = None, database: Database | None = None) -> None:
        super().__init__(env if isinstance(env, Environment) else Environment("", env or {}))
        self.database = database or Database(str(self.env.get(URL_VARIABLE) or ""))

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        if purpose != "events":
            raise NotSupportedError("snapshots stand in the stream's own row, not in a recorder of their own")
        return Recorder(self.database)

    def application_recorder(self) -> ApplicationRecorder:
        return Recorder(self.database)

    def tracking_recorder(self, tracking_recorder_class: type[Any] | None = None) -> Tracker:
        """A recorder of this class (or of the one that `TRACKING_RECORDER_TOPIC` names), which has to be a `Tracker`."""
        named = self.env.get(self.TRACKING_RECORDER_TOPIC)
        chosen = tracking_recorder_class or (resolve_topic(named) if named else Tracker)
        return cast("Tracker", chosen(self.database))

    def process_recorder(self) -> ProcessRecorder:
        return Processor(self.database)

    def views(self) -> SqlViews:
        """The read models of the database."""
        return SqlViews(self.database, Recorder(self.database))

    def upkeep(self) -> SqlUpkeep:
        """What an operator does with the database."""
        return SqlUpkeep(self.database)

    def job_claims(self) -> SqlJobClaims:
        """Who is at which item of a job."""
        return SqlJobClaims(self.database)

    def close(self) -> None:
        self.database.close()
        super().close()
