"""eventsourcing's factory, for a database that is open already."""

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    NotSupportedError,
    ProcessRecorder,
    TrackingRecorder,
)

from .engine import Database
from .recorder import Recorder


class Factory(InfrastructureFactory):
    """Makes recorders on one database. The process's environment has no say."""

    def __init__(self, database: Database) -> None:
        super().__init__({})
        self._database = database

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        if purpose != "events":
            raise NotSupportedError("snapshots stand in the stream's own row, not in a recorder of their own")
        return Recorder(self._database)

    def application_recorder(self) -> ApplicationRecorder:
        return Recorder(self._database)

    def tracking_recorder(self, tracking_recorder_class: type[TrackingRecorder] | None = None) -> TrackingRecorder:
        raise NotSupportedError("this version reads the log itself and keeps no projections")

    def process_recorder(self) -> ProcessRecorder:
        raise NotSupportedError("this version reads the log itself and keeps no projections")

    def close(self) -> None:
        self._database.close()
        super().close()
