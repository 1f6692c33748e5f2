"""eventsourcing's own suites on our recorder. Their classes are not imported by name: pytest would run the abstract ones.

Streams are named by strings here, as the ledger names them; UUIDs are not promised. Rows come back with columns of our own
(`StoredRow`), which the library compares with its plain `StoredEvent`: they are stripped before.
"""

import tempfile
from pathlib import Path
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.tests import persistence as es

from threadledger.adapters.sql import Database, Recorder


class PlainRows(Recorder):
    """Our recorder, its rows without the columns that are ours."""

    def select_events(self, *args, **kwargs):
        return [
            StoredEvent(row.originator_id, row.originator_version, row.topic, row.state)
            for row in super().select_events(*args, **kwargs)
        ]


class WithoutPositions(PlainRows):
    """The same as a recorder of aggregates alone, which has no positions to tell."""

    def insert_events(self, *args, **kwargs):
        super().insert_events(*args, **kwargs)


class OnAFile:
    """Each test has a database file of its own."""

    recorder_class = PlainRows

    def setUp(self):
        super().setUp()
        self._folder = tempfile.TemporaryDirectory()
        self._database = Database(f"sqlite:///{Path(self._folder.name) / 'ledger.db'}", synchronous="NORMAL")

    def tearDown(self):
        self._database.close()
        self._folder.cleanup()
        super().tearDown()

    def create_recorder(self):
        return self.recorder_class(self._database)

    def new_originator_id(self):
        return str(uuid4())

    test_performance = None  # measures, and asserts nothing


class TestAggregateRecorder(OnAFile, es.AggregateRecorderTestCase):
    recorder_class = WithoutPositions


class TestApplicationRecorder(OnAFile, es.ApplicationRecorderTestCase):
    def test_insert_subscribe(self):
        self.optional_test_insert_subscribe()
