"""eventsourcing's own suites on our recorders, on both databases. Their classes are not imported by name: pytest would run the
abstract ones.

Streams are named by strings here, as the ledger names them; UUIDs are not promised. Rows come back with columns of our own
(`StoredRow`), which the library compares with its plain `StoredEvent`: they are stripped before.
"""

from itertools import count
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent
from eventsourcing.tests import persistence as es
from eventsourcing.tests import projection as esp
from eventsourcing.utils import Environment

from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.recorder import Recorder
from threadledger.adapters.sql.tracking import Processor, Tracker
from threadledger.domain.journal import Appending


class OnSQLite:
    """Each test has database files of its own."""

    @pytest.fixture(autouse=True)
    def _databases_of_its_own(self, tmp_path):
        numbers = count(1)
        self.use(lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}")
        yield
        self.done()


class OnPostgreSQL:
    """Each test has schemas of its own."""

    @pytest.fixture(autouse=True)
    def _databases_of_its_own(self, new_postgres_url):
        self.use(new_postgres_url)
        yield
        self.done()


# Recorders


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


class OfOneRecorder:
    recorder_class = PlainRows

    def use(self, new_url):
        self.database = Database(new_url())

    def done(self):
        self.database.close()

    def create_recorder(self):
        return self.recorder_class(self.database)

    def new_originator_id(self):
        return str(uuid4())

    test_performance = None  # measures, and asserts nothing


class OfAggregates(OfOneRecorder):
    recorder_class = WithoutPositions


class OfAnApplication(OfOneRecorder):
    def test_insert_subscribe(self):
        self.optional_test_insert_subscribe()


class OfTracking(OfOneRecorder):
    recorder_class = Tracker


class OfAProcess(OfOneRecorder):
    recorder_class = Processor


class TestAggregateRecorderOnSQLite(OnSQLite, OfAggregates, es.AggregateRecorderTestCase):
    pass


class TestAggregateRecorderOnPostgreSQL(OnPostgreSQL, OfAggregates, es.AggregateRecorderTestCase):
    pass


class TestApplicationRecorderOnSQLite(OnSQLite, OfAnApplication, es.ApplicationRecorderTestCase):
    pass


class TestApplicationRecorderOnPostgreSQL(OnPostgreSQL, OfAnApplication, es.ApplicationRecorderTestCase):
    pass


class TestTrackingRecorderOnSQLite(OnSQLite, OfTracking, es.TrackingRecorderTestCase):
    pass


class TestTrackingRecorderOnPostgreSQL(OnPostgreSQL, OfTracking, es.TrackingRecorderTestCase):
    pass


class TestProcessRecorderOnSQLite(OnSQLite, OfAProcess, es.ProcessRecorderTestCase):
    pass


class TestProcessRecorderOnPostgreSQL(OnPostgreSQL, OfAProcess, es.ProcessRecorderTestCase):
    pass


class TestPositionsDoNotInterleaveOnSQLite(OnSQLite, OfOneRecorder, es.NonInterleavingNotificationIDsBaseCase):
    pass


class TestPositionsDoNotInterleaveOnPostgreSQL(OnPostgreSQL, OfOneRecorder, es.NonInterleavingNotificationIDsBaseCase):
    pass


# The factory


class TrackerOfAnApp(Tracker):
    """What an app of its own would name by `TRACKING_RECORDER_TOPIC`."""


def environment(url):
    return {"PERSISTENCE_MODULE": "threadledger.adapters.sql.factory", "THREADLEDGER_DB": url}


class OfTheFactory:
    def use(self, new_url):
        self.env = Environment("", environment(new_url()))

    def done(self):
        """Their own `tearDown` closes the factory."""

    def expected_factory_class(self):
        return Factory

    def expected_aggregate_recorder_class(self):
        return Recorder

    def expected_application_recorder_class(self):
        return Recorder

    def expected_tracking_recorder_class(self):
        return Tracker

    def tracking_recorder_subclass(self):
        return TrackerOfAnApp

    def expected_process_recorder_class(self):
        return Processor


class TestFactoryOnSQLite(OnSQLite, OfTheFactory, es.InfrastructureFactoryTestCase):
    pass


class TestFactoryOnPostgreSQL(OnPostgreSQL, OfTheFactory, es.InfrastructureFactoryTestCase):
    pass


# Projections


class CountersView(Tracker, esp.EventCountersView):
    """A read model of an app: its numbers and its position are written in one transaction."""

    def __init__(self, database):
        super().__init__(database)
        database.execute("CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, number INTEGER NOT NULL)")

    def get_created_event_counter(self):
        return self._number("created")

    def get_subsequent_event_counter(self):
        return self._number("subsequent")

    def incr_created_event_counter(self, tracking):
        self._count("created", tracking)

    def incr_subsequent_event_counter(self, tracking):
        self._count("subsequent", tracking)

    def _number(self, name):
        found = self._database.query("SELECT number FROM counters WHERE name = ?", (name,))
        return found[0][0] if found else 0

    def _count(self, name, tracking):
        one_more = self._database.sql(
            "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET number = counters.number + 1"
        )

        def also(cursor):
            cursor.execute(one_more, (name,))
            self._track(cursor, tracking)

        self._database.group.append([], lambda _: Appending(), also)


class OfTheView(OfOneRecorder):
    def construct_event_counters_view(self):
        return CountersView(self.database)


class OfAProjection:
    """The application and its projection each open the database for themselves."""

    def use(self, new_url):
        self.env = environment(new_url())
        self.view_databases = opened = []

        class ClosedAfterwards(CountersView):
            """Their runner closes the application it opened, and not the view."""

            def __init__(self, database):
                opened.append(database)
                super().__init__(database)

        self.view_class = ClosedAfterwards

    def done(self):
        for database in self.view_databases:
            database.close()


class OfAnEventSourcedProjection(OfAProjection):
    """A database is one log: the projection has one for itself, or it would process what it writes."""

    def use(self, new_url):
        super().use(new_url)
        self.env["COUNTERS_THREADLEDGER_DB"] = new_url()


class TestEventCountersViewOnSQLite(OnSQLite, OfTheView, esp.EventCountersViewTestCase):
    pass


class TestEventCountersViewOnPostgreSQL(OnPostgreSQL, OfTheView, esp.EventCountersViewTestCase):
    pass


class TestProjectionOnSQLite(OnSQLite, OfAProjection, esp.AggregateEventCountersProjectionTestCase):
    pass


class TestProjectionOnPostgreSQL(OnPostgreSQL, OfAProjection, esp.AggregateEventCountersProjectionTestCase):
    pass


class TestEventSourcedProjectionOnSQLite(OnSQLite, OfAnEventSourcedProjection, esp.EventSourcedProjectionTestCase):
    pass


class TestEventSourcedProjectionOnPostgreSQL(
    OnPostgreSQL, OfAnEventSourcedProjection, esp.EventSourcedProjectionTestCase
):
    pass
