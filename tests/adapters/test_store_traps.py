"""Each way in which stores were seen to lose, change or double what they were given; ours does not. Where another store of
the same interface falls into the trap at little cost, the test shows it, too."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from uuid import UUID

import pytest
import sqlalchemy
from eventsourcing.persistence import DatetimeAsISO, IntegrityError, JSONTranscoder, StoredEvent, Tracking
from eventsourcing.popo import POPOApplicationRecorder
from eventsourcing.utils import resolve_topic
from freezegun import freeze_time

from threadledger.adapters.sql import Database, Factory, leaf_hash
from threadledger.adapters.sql.recorder import Recorder
from threadledger.adapters.sql.tracking import Processor, Tracker
from threadledger.domain.conversation import Conversation, RunPlan, events, parse_message, text_message
from threadledger.domain.effects import Call
from threadledger.domain.errors import ConversationChanged, InvalidInput, InvalidMessage, InvalidSettings, StoreError
from threadledger.domain.exchange import Services
from threadledger.domain.failures import Failure
from threadledger.domain.journal import Journal, StoredRow
from threadledger.domain.journal.rows import PlainJSON
from threadledger.domain.ledger import Ledger

from .writing import assert_sound, execute, open_at, query, stored_events, stored_texts, writers

WAITED_SECONDS_MAX = 30.0


def row(stream="of another application", version=1, event_id="an id", state=b"{}", topic="Happened"):
    return StoredRow(stream, version, topic, state, event_id, "2024-01-01T00:00:00.000000Z")


def without_triggers(url):
    """The database as somebody may leave it who has all rights to it."""
    if url.startswith("sqlite"):
        execute(url, "DROP TRIGGER events_are_not_changed", "DROP TRIGGER events_are_not_deleted")
    else:
        execute(url, "ALTER TABLE events DISABLE TRIGGER USER")


# Retry after a failed save


def test_an_object_whose_save_failed_is_dead_and_leaves_no_hole_however_often_it_is_saved(
    any_db_url, open_store_on, monkeypatch
):
    database = Database(any_db_url)
    ledger = open_store_on(database)
    ledger.conversation("k").append("user", "first")
    conversation = ledger.journal.load("k")
    conversation.journal(text_message("user", "lost"))

    def full(*work):
        raise database.driver.DatabaseError("database or disk is full")

    with monkeypatch.context() as patch:
        for append in ("append", "append_durably"):
            patch.setattr(database.kind, append, full)
        with pytest.raises(StoreError, match="full"):
            ledger.journal.store(conversation)
    ledger.journal.store(conversation)
    conversation.journal(text_message("user", "after a hole"))
    with pytest.raises(ConversationChanged, match="nothing was written"):
        ledger.journal.store(conversation)
    ledger.conversation("k").append("user", "decided anew")
    assert stored_texts(any_db_url) == ["first", "decided anew"]
    assert_sound(any_db_url)


def test_events_that_would_leave_a_hole_in_a_stream_are_refused(any_db_url, any_database):
    careless = POPOApplicationRecorder()
    careless.insert_events([StoredEvent("s", 1, "t", b"{}")])
    assert careless.insert_events([StoredEvent("s", 3, "t", b"{}")]) == [2]
    recorder = Recorder(any_database)
    recorder.insert_events([row(version=1, event_id="1")])
    for versions in ([3], [2, 4], [1], [3, 2]):
        with pytest.raises(IntegrityError):
            recorder.insert_events([row(version=version, event_id=f"x{version}") for version in versions])
    assert [each.version for each in stored_events(any_db_url)] == [1]


# Reserved keys, half characters


def test_a_payload_with_another_librarys_reserved_keys_is_only_a_payload():
    given = {"_type_": "datetime_iso", "_data_": "2020-01-01T00:00:00"}
    transcoder = JSONTranscoder()
    transcoder.register(DatetimeAsISO())
    assert isinstance(transcoder.decode(transcoder.encode(given)), datetime.datetime)
    assert PlainJSON().decode(PlainJSON().encode(given)) == given


def test_half_a_character_is_kept_as_json_writes_it_and_refused_in_a_message(any_db_url, any_database, open_store_on):
    half = json.loads('"\\ud83d"')
    with pytest.raises(UnicodeEncodeError):
        JSONTranscoder().encode({"text": half})
    recorder = Recorder(any_database)
    recorder.insert_events([row(state=PlainJSON().encode({"text": half}))])
    (found,) = recorder.select_events("of another application")
    assert PlainJSON().decode(found.state) == {"text": half}
    ledger = open_store_on(any_db_url)
    with pytest.raises(InvalidMessage, match="half a character"):
        ledger.conversation("k").append("user", half)
    assert len(stored_events(any_db_url)) == 1


# Topics


@pytest.mark.parametrize("topic", ["imported_by_a_row:Thing", "os.system", "os:system", "builtins:exec"])
def test_a_row_whose_topic_names_code_is_read_as_an_event_of_an_unknown_kind_and_imports_nothing(
    any_db_url, any_database, open_store_on, tmp_path, monkeypatch, topic
):
    (tmp_path / "imported_by_a_row.py").write_text("class Thing: pass")
    monkeypatch.syspath_prepend(tmp_path)
    ledger = open_store_on(any_db_url)
    Recorder(any_database).insert_events([row("conversation:k", topic=topic, state=b'{"a": 1}')])
    (event,) = ledger.events()
    assert isinstance(event.event, events.UnknownEvent)
    assert (event.type, event.event.data) == (topic, {"a": 1})
    assert next(iter(ledger.events(follow=True))).type == topic
    assert ledger.memory("k").messages == ()
    assert "imported_by_a_row" not in sys.modules
    if topic.startswith("imported"):
        assert resolve_topic(topic).__name__ == "Thing"  # what eventsourcing does with it
        sys.modules.pop("imported_by_a_row", None)


# What was given is changed afterwards


def test_what_a_caller_changes_after_journaling_does_not_change_the_event(any_db_url, open_store_on):
    ledger = open_store_on(any_db_url)
    part = {"type": "unheard_of", "deep": {"list": [1]}}
    call = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "before"}}
    extra = {"deep": {"list": [1]}}
    metadata = {"deep": {"list": [1]}}
    details = {"deep": {"list": [1]}}
    conversation = Conversation.start("k", metadata)
    ledger.journal.store(conversation)
    conversation = Conversation.start("other", metadata)

    def journal_and_change(decided):
        decided.journal(parse_message({"role": "user", "content": [part], "extra": extra}))
        decided.journal(parse_message({"role": "assistant", "content": None, "tool_calls": [call]}))
        run_id = decided.start_run("exchange", RunPlan("chat", "m"))
        decided.fail_run(run_id, Failure("failed", details=details))
        part["deep"]["list"].append(2)
        call["custom"]["input"] = "after"
        for each in (extra, metadata, details):
            each["deep"]["list"].append(2)

    ledger.journal.commit("k", journal_and_change)
    ledger.journal.store(conversation)
    assert not [each for each in stored_events(any_db_url) if "2]" in each.state or "after" in each.state]


# Positions


def test_nobody_is_given_a_later_position_before_the_earlier_one_is_committed(postgres_url, open_store_on):
    """What a tailing reader would miss: position 4 visible while 3 is still under way."""
    ledger = open_store_on(postgres_url)
    ledger.conversation("k").append("user", "first")
    logged = ledger.events(after=2, follow=True)
    slow = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    leaf = leaf_hash(StoredRow("slow", 1, "Slow", b"{}", "slow", "2024-01-01T00:00:00Z"), 3).hex()
    with slow.connect() as writer, ThreadPoolExecutor(1) as pool:
        writer.exec_driver_sql("UPDATE log_head SET position = position + 1")
        writer.exec_driver_sql(
            "INSERT INTO streams (name, version, state_schema, snapshot) VALUES ('slow', 1, 0, '{}');"
            "INSERT INTO events (position, stream, version, text_id, topic, schema, at, state, leaf) "
            f"SELECT 3, stream, 1, 'slow', 'Slow', 1, '2024-01-01T00:00:00Z', '{{}}', '\\x{leaf}' FROM streams "
            "WHERE name = 'slow'"
        )
        appending = pool.submit(ledger.conversation("k").append, "user", "quick")
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        for _ in range(int(WAITED_SECONDS_MAX / 0.01)):
            if appending.done() or query(postgres_url, waiting)[0][0]:
                break
            threading.Event().wait(0.01)
        assert query(postgres_url, "SELECT max(position) FROM events") == [(2,)]
        writer.commit()
        appending.result(WAITED_SECONDS_MAX)
    assert [(next(logged).position, next(logged).position)] == [(3, 4)]
    logged.close()


def test_a_follower_that_nobody_wakes_finds_the_event_by_looking(any_db_url, open_store_on):
    """A LISTEN that begins after the first look misses what came between; a wake-up here is only a hint."""
    ledger = open_store_on(any_db_url)
    ledger.journal.recorder._wake = lambda: None
    logged = ledger.events(follow=True)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, logged)
        ledger.conversation("k").append("user", "quietly")
        assert first.result(WAITED_SECONDS_MAX).position == 1
    logged.close()


def test_a_position_is_never_given_out_again_though_the_last_events_were_deleted(any_db_url, open_store_on):
    with closing(sqlite3.connect(":memory:")) as plain:  # what a plain rowid does
        plain.execute("CREATE TABLE events (position INTEGER PRIMARY KEY)")
        plain.execute("INSERT INTO events VALUES (1), (2), (3)")
        plain.execute("DELETE FROM events WHERE position > 1")
        assert plain.execute("INSERT INTO events DEFAULT VALUES RETURNING position").fetchone() == (2,)
    ledger = open_store_on(any_db_url)
    for index in range(3):
        ledger.conversation("k").append("user", str(index))
    without_triggers(any_db_url)
    execute(any_db_url, "DELETE FROM events WHERE position > 2", "UPDATE streams SET version = 2")
    open_store_on(any_db_url).conversation("other").append("user", "later")
    assert [each.position for each in stored_events(any_db_url)] == [1, 2, 5, 6]


def test_positions_outlive_a_dump_and_its_restoration(db_url, db_path, tmp_path, open_store_on):
    ledger = open_store_on(db_url)
    for index in range(4):
        ledger.conversation(f"k{index % 2}").append("user", str(index))
    without_triggers(db_url)
    execute(db_url, "DELETE FROM events WHERE position IN (3, 5, 6)")  # a plain rowid is renumbered then
    expected = [(each.position, each.event_id) for each in stored_events(db_url)]
    restored = tmp_path / "restored.db"
    with closing(sqlite3.connect(db_path)) as source, closing(sqlite3.connect(restored)) as target:
        target.executescript("\n".join(source.iterdump()))
    url = f"sqlite:///{restored}"
    assert [(each.position, each.event_id) for each in stored_events(url)] == expected
    open_store_on(url).conversation("another").append("user", "goes on")
    assert [each.position for each in stored_events(url)][-2:] == [7, 8]


# The same events again


def test_the_same_events_again_are_where_they_are_and_others_in_their_place_are_refused(any_db_url, any_database):
    recorder = Recorder(any_database)
    rows = [row(version=1, event_id="1", state=b'{"a":1}'), row(version=2, event_id="2")]
    assert recorder.insert_events(rows) == [1, 2]
    recorder.insert_events([row("another", event_id="3")])
    assert recorder.insert_events(rows) == [1, 2]
    assert recorder.insert_events(rows[1:]) == [2]
    changed = {
        "content": [row(version=1, event_id="1", state=b'{"a":2}')],
        "topic": [row(version=1, event_id="1", state=b'{"a":1}', topic="Else")],
        "id": [row(version=1, event_id="3", state=b'{"a":1}')],
        "some that are there and one that is not": [*rows, row(version=3, event_id="4")],
    }
    for what, given in changed.items():
        with pytest.raises(IntegrityError):
            pytest.fail(f"{what}: {recorder.insert_events(given)}")
    assert len(stored_events(any_db_url)) == 3


# Locks


def test_a_decision_is_made_under_the_lock_that_its_append_needs(db_url, open_store_on):
    """A transaction that reads first and writes later fails where another one wrote between: nobody can, here."""
    ledger = open_store_on(db_url)
    ledger.conversation("k").append("user", "first")
    other = sqlalchemy.create_engine(db_url, poolclass=sqlalchemy.NullPool, connect_args={"timeout": 0})
    tried = []

    def decide(conversation):
        with other.connect() as writer, pytest.raises(sqlalchemy.exc.OperationalError, match="locked"):
            writer.exec_driver_sql("UPDATE streams SET due_at = 'written between'")
        tried.append(conversation.version)
        conversation.journal(text_message("user", "second"))

    ledger.journal.commit("k", decide)
    assert tried == [2]
    with closing(sqlite3.connect(db_url.removeprefix("sqlite:///"), timeout=0)) as deferred:
        deferred.execute("BEGIN")
        deferred.execute("SELECT * FROM events").fetchall()
        ledger.conversation("k").append("user", "third")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            deferred.execute("UPDATE streams SET due_at = NULL")
    assert stored_texts(db_url) == ["first", "second", "third"]


APPEND_IN_A_DECISION = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger, text_message

with Ledger(Journal(Factory(database=Database(sys.argv[1])))) as ledger:
    def decide(conversation):
        conversation.journal(text_message("user", "outer"))
        ledger.conversation("other").append("user", "inner")
    try:
        ledger.journal.commit("k", decide, create=True)
    except RuntimeError as error:
        print(error)
    ledger.conversation("k").append("user", "afterwards")
"""


def test_a_decision_that_appends_by_itself_is_refused_and_leaves_the_ledger_at_work(any_db_url):
    command = [sys.executable, "-c", APPEND_IN_A_DECISION, any_db_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert "return the decision, then append" in done.stdout, done.stderr
    assert stored_texts(any_db_url) == ["afterwards"]


def test_a_thread_is_mirrored_outside_of_any_transaction(any_db_url, open_store_on):
    """A network call inside of one would hold up every writer: here, another one appends in the middle of it."""
    journal = Journal(Factory(database=Database(any_db_url)))
    called = []

    class Outbox:
        has_mirrors = True

        def mirror(self, journal, key):
            yield Call(lambda: self.call(key), pytest.fail)

        @staticmethod
        def call(key):
            with ThreadPoolExecutor(1) as pool:
                other = open_store_on(any_db_url).conversation("meanwhile")
                pool.submit(other.append, "user", "meanwhile").result(WAITED_SECONDS_MAX)
            called.append(key)

    with Ledger(journal, Services(outbox=Outbox())) as ledger:
        ledger.conversation("k").append("user", "hello")
    assert called == ["k"]
    assert stored_texts(any_db_url) == ["hello", "meanwhile"]


def wait_for_the_queue(ledger, count):
    """Until so many appends wait for their turn."""
    group = ledger.journal.recorder._database.group
    for _ in range(int(WAITED_SECONDS_MAX / 0.001)):
        if len(group._waiting) >= count:
            return
        threading.Event().wait(0.001)
    raise AssertionError("nobody waits")


def test_an_append_that_cannot_be_stored_does_no_harm_to_those_that_are_stored_with_it(any_db_url, open_store_on):
    ledger = open_store_on(any_db_url)
    ledger.conversation("k").append("user", "first")
    entered, go_on = threading.Event(), threading.Event()

    def hold_the_queue(conversation):
        entered.set()
        assert go_on.wait(WAITED_SECONDS_MAX)

    not_utf8 = row(topic="\ud800")
    with ThreadPoolExecutor(4) as pool:
        holding = pool.submit(ledger.journal.commit, "k", hold_the_queue)
        assert entered.wait(WAITED_SECONDS_MAX)
        appending = []
        for index in range(3):
            if index == 1:
                refused = pool.submit(ledger.journal.recorder.insert_events, [not_utf8])
            else:
                appending.append(pool.submit(ledger.conversation("k").append, "user", f"innocent {index}"))
            wait_for_the_queue(ledger, index + 1)
        go_on.set()
        holding.result(WAITED_SECONDS_MAX)
        with pytest.raises(Exception, match=r"decode|UTF-8|utf-8"):
            refused.result(WAITED_SECONDS_MAX)
        for each in appending:
            each.result(WAITED_SECONDS_MAX)
    assert sorted(stored_texts(any_db_url)) == ["first", "innocent 0", "innocent 2"]
    assert_sound(any_db_url)


def test_an_append_that_is_interrupted_while_it_waits_is_not_stored_by_whoever_comes_later(any_db_url, open_store_on):
    ledger = open_store_on(any_db_url)
    ledger.conversation("k").append("user", "first")
    entered, go_on = threading.Event(), threading.Event()

    def hold_the_queue(conversation):
        entered.set()
        assert go_on.wait(WAITED_SECONDS_MAX)

    def interrupt():
        wait_for_the_queue(ledger, 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(ledger.journal.commit, "k", hold_the_queue)
        assert entered.wait(WAITED_SECONDS_MAX)
        interrupting = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            ledger.conversation("k").append("user", "interrupted")
        go_on.set()
        holding.result(WAITED_SECONDS_MAX)
        interrupting.result(WAITED_SECONDS_MAX)
    before = stored_texts(any_db_url)
    ledger.conversation("other").append("user", "much later")
    assert stored_texts(any_db_url) == [*before, "much later"]


# Closing, connections


CLOSE_WHILE_READING = """
import sys, threading
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger, StoreUnavailable

def close_while_reading():
    ledger = Ledger(Journal(Factory(database=Database(sys.argv[1]))))
    reading, ended = threading.Barrier(5), []
    def read():
        first = True
        try:
            while True:
                for _ in ledger.events():
                    if first:
                        first = False
                        reading.wait()
                ledger.memory("k")
                ledger.state("k")
        except StoreUnavailable as error:
            ended.append(str(error))
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    reading.wait()
    ledger.close()
    for thread in threads:
        thread.join()
    assert len(ended) == 4 and all("closed by this program" in each for each in ended), ended

for _ in range(6):
    close_while_reading()
"""


def test_a_ledger_may_be_closed_while_other_threads_read(any_db_url, tmp_path):
    """eventsourcing.sqlite crashes the process here (SIGSEGV, 6 of 6). The last reader to end closes the last connection."""
    conversation = Conversation.start("k")
    for index in range(1_200):
        conversation.journal(text_message("user", str(index)))
    with open_at(any_db_url) as ledger:
        ledger.journal.store(conversation)
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", CLOSE_WHILE_READING, any_db_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in tmp_path.glob("*-wal")] == []


def test_many_readers_at_once_leave_connections_for_what_comes_after(any_db_url, open_store_on):
    ledger = open_store_on(any_db_url)
    ledger.conversation("k").append("user", "hello")
    together = threading.Barrier(40)

    def read(number):
        logged = ledger.events()
        together.wait(WAITED_SECONDS_MAX)
        return len(list(logged)), len(ledger.memory("k").messages)

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(read, range(40))) == {(2, 1)}
        database = ledger.journal.recorder._database
        held = [database.cursor() for _ in range(14)]
        for each in held:
            each.__enter__()
        for each in held:
            each.__exit__(None, None, None)
        assert pool.submit(ledger.status).result(10)["events"] == 2


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:ledger?mode=memory&cache=shared&uri=true",
    ],
)
def test_a_database_in_memory_is_refused(url):
    """Each connection would have another one."""
    with pytest.raises(InvalidSettings, match="memory"):
        Database(url)


# Time that stands still


def test_following_and_appending_do_not_hang_while_time_stands_still(any_db_url, open_store_on):
    with freeze_time("2030-01-01"):
        ledger = open_store_on(any_db_url)
        logged = ledger.events(follow=True)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, logged)
            other = open_store_on(any_db_url)
            ids = {other.conversation("k").append("user", str(index)).message_id for index in range(3)}
            assert first.result(WAITED_SECONDS_MAX).position == 1
            assert [pool.submit(next, logged).result(WAITED_SECONDS_MAX).position for _ in range(3)] == [2, 3, 4]
        logged.close()
        assert len(ids) == 3
    assert {each.at[:10] for each in stored_events(any_db_url)} == {"2030-01-01"}
    assert_sound(any_db_url)


# The environment


READ_AND_WRITE = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
factory = Factory(database=Database(sys.argv[1]))
journal = Journal(factory)
with Ledger(journal) as ledger:
    ledger.conversation("k").append("user", "hello")
    print([each.message.text for each in ledger.memory("k").messages])
    print(type(factory.tracking_recorder()).__name__, dict(journal.env), dict(factory.env))
"""


def test_the_environment_of_a_process_changes_nothing(any_db_url, open_store_on):
    """eventsourcing's applications take each of these from `os.environ`."""
    said = {
        "CIPHER_KEY": "AAAAAAAAAAAAAAAAAAAAAA==",
        "CIPHER_TOPIC": "eventsourcing.cipher:AESCipher",
        "COMPRESSOR_TOPIC": "zlib",
        "CREATE_TABLE": "no",
        "PERSISTENCE_MODULE": "eventsourcing.popo",
        "SNAPSHOTTING_ENABLED": "yes",
        "TRANSCODER_TOPIC": "eventsourcing.persistence:JSONTranscoder",
        "SQLITE_DBNAME": ":memory:",
        "TRACKING_RECORDER_TOPIC": "os:system",
    }
    environment = os.environ | said | {f"THREADLEDGER_{name}": value for name, value in said.items()}
    command = [sys.executable, "-c", READ_AND_WRITE, any_db_url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("['hello']\nTracker {} {}\n", "")
    assert stored_events(any_db_url)[1].data["content"] == "hello"
    assert [each.message.text for each in open_store_on(any_db_url).memory("k").messages] == ["hello"]


# Several at once


RACES = 50


@pytest.mark.parametrize("sharing", ["one database object", "a database object each"])
def test_of_two_trackers_on_one_position_one_alone_gets_through_in_every_race(any_db_url, sharing):
    databases = [Database(any_db_url), Database(any_db_url)]
    trackers = [Tracker(databases[0]), Tracker(databases[0 if sharing == "one database object" else 1])]
    together = threading.Barrier(2)

    def track(number):
        through = []
        for position in range(1, RACES + 1):
            together.wait(WAITED_SECONDS_MAX)
            try:
                trackers[number].insert_tracking(Tracking("upstream", position))
                through.append(position)
            except IntegrityError:
                pass
        return through

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(track, range(2))
    assert sorted(first + second) == list(range(1, RACES + 1))
    assert trackers[0].max_tracking_id("upstream") == RACES
    for database in databases:
        database.close()


@pytest.mark.parametrize("sharing", ["one database object", "a database object each"])
def test_of_two_processors_on_one_position_one_alone_stores_its_events_in_every_race(any_db_url, sharing):
    databases = [Database(any_db_url), Database(any_db_url)]
    processors = [Processor(databases[0]), Processor(databases[0 if sharing == "one database object" else 1])]
    together = threading.Barrier(2)

    def process(number):
        through = []
        for position in range(1, RACES + 1):
            made = row(f"made by {number} of {position}", event_id=f"{number} {position}")
            together.wait(WAITED_SECONDS_MAX)
            try:
                processors[number].insert_events([made], tracking=Tracking("upstream", position))
                through.append(position)
            except IntegrityError:
                pass
        return through

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(process, range(2))
    assert sorted(first + second) == list(range(1, RACES + 1))
    made = [each.event_id for each in stored_events(any_db_url)]
    assert sorted(made) == sorted([f"0 {position}" for position in first] + [f"1 {position}" for position in second])
    for database in databases:
        database.close()


def test_two_databases_in_one_process_do_not_mix_whatever_their_threads_do(any_db_url, tmp_path, open_store_on):
    urls = [any_db_url, f"sqlite:///{tmp_path / 'another.db'}"]
    ledgers = [open_store_on(url) for url in urls]

    def append(number):
        for index in range(20):
            ledgers[(number + index) % 2].conversation("k").append("user", f"for {(number + index) % 2}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    for number, url in enumerate(urls):
        assert Counter(stored_texts(url)) == {f"for {number}": 40}
        assert_sound(url)


# Forks


FORK = """
import os, sys, threading
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
ledger = Ledger(Journal(Factory(database=Database(sys.argv[1]))))
ledger.conversation("k").append("user", "before")
list(ledger.events())
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        for index in range(10):
            ledger.conversation("k").append("user", f"child {number} {index}")
            assert ledger.memory("k").version > 0
        os._exit(0)
    children.append(child)
for index in range(10):
    ledger.conversation("k").append("user", f"parent {index}")
for child in children:
    assert os.waitpid(child, 0)[1] == 0
ledger.conversation("k").append("user", "after")
ledger.close()
"""

FORK_AND_CLOSE = """
import os, sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger
ledger = Ledger(Journal(Factory(database=Database(sys.argv[1]))))
ledger.conversation("k").append("user", "before")
at_work, go_on = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    ledger.conversation("k").append("user", "child 0")
    os.write(at_work[1], b".")
    os.read(go_on[0], 1)
    for index in range(1, 5):
        ledger.conversation("k").append("user", f"child {index}")
    ledger.close()
    os._exit(0)
os.read(at_work[0], 1)
ledger.conversation("k").append("user", "parent")
ledger.close()
os.write(go_on[1], b".")
assert os.waitpid(child, 0)[1] == 0
"""


FORK_WHILE_CLOSING = """
import os, sys, threading
closing = {}

def while_forking():  # registered first, so it is the last to be called before the fork
    if closing:
        closing["thread"].start()
        began.wait()

began = threading.Event()
os.register_at_fork(before=while_forking)
from threadledger.adapters.sql import Database, Factory
from threadledger.domain import Journal, Ledger

database = Database(sys.argv[1])
ledger = Ledger(Journal(Factory(database=database)))
ledger.conversation("k").append("user", "before")
group_close = database.group.close

def close():
    began.set()
    group_close()

database.group.close = close
closing["thread"] = threading.Thread(target=ledger.close, daemon=True)
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
closing["thread"].join(10)
print("closed" if not closing["thread"].is_alive() else "hangs", flush=True)
os._exit(0)
"""


def test_a_ledger_that_one_thread_closes_while_another_forks_is_closed(any_db_url, run_python):
    assert run_python(FORK_WHILE_CLOSING, any_db_url) == ["closed\n"]


def test_a_ledger_that_was_open_before_a_fork_works_in_the_children_and_in_the_parent(any_db_url, run_python):
    run_python(FORK, any_db_url)
    expected = [f"{who} {index}" for who in ("child 0", "child 1", "child 2", "parent") for index in range(10)]
    assert sorted(stored_texts(any_db_url)) == sorted(["before", *expected, "after"])
    assert_sound(any_db_url)


def test_what_a_child_appends_after_its_parent_has_closed_the_ledger_is_kept(any_db_url, run_python):
    """SQLite's locks are not inherited: a child that shares its parent's file handles holds none of them."""
    run_python(FORK_AND_CLOSE, any_db_url)
    assert stored_texts(any_db_url) == ["before", "child 0", "parent", *(f"child {index}" for index in range(1, 5))]
    assert_sound(any_db_url)


# Views and projections of rare events


def test_a_view_of_rare_events_passes_the_others_and_does_not_lag(any_db_url, open_store_on):
    ledger = open_store_on(any_db_url)
    for index in range(20):
        ledger.conversation("k").append("user", str(index))
    assert ledger.failures() == []
    lags = {each["name"]: (each["position"], each["lag"]) for each in ledger.status()["views"]}
    assert lags["audit"] == (21, 0)


# The corpus


def deep(levels):
    value = "bottom"
    for _ in range(levels):
        value = {"": [value]}
    return value


CORPUS = {
    "reserved keys": {"_type_": "datetime_iso", "_data_": "2020-01-01"},
    "a reserved topic": {"_type_": "os:system", "_data_": ["true"], "_cls_": "x"},
    "NUL": {"before\0after": "\0"},
    "half a character": {"\ud800": "\udfff\ud83d"},
    "both halves, the wrong way round": {"text": "\udc00\ud800"},
    "10 MB": {"text": "x" * (10 * 2**20)},
    "characters of three bytes, a hundred thousand of them": {"text": "語" * 100_000},
    "deep": deep(100),
    "huge numbers": {"list": [2**63, -(2**64), 10**300, 10**4000, 1e308, -1e308, 5e-324, 0.1 + 0.2]},
    "numbers that look the same": {"list": [0, -0.0, 0.0, False, 1, True, 1.0, "1", None, ""]},
    "empty": {"": "", "list": [], "dict": {}, "null": None, " ": " "},
    "keys that look the same": {"é": 1, "e\u0301": 2, "a": 3, "а": 4, "A": 5, "a\0": 6, "a ": 7, "1": 8, "null": 9},
    "many keys": {str(number): number for number in range(5_000)},
    "right to left, combining, joined": {"text": "\u202eשלום עליכם\u202c 👩‍👩‍👧‍👦 Z̸̡̛͎a̵l̶g̷o̴ 🏳️‍🌈 ﷽ é é"},
    "line separators": {"a\u2028b\u2029c\r\n\td\x0b\x0c\x1b[31m\x85": "\u2028\r\n"},
    "beyond unicode's used planes": {"text": "\U0010ffff\ufffe\uffff\ufeff\ue000"},
    "quotes and placeholders": {
        "text": "'; DROP TABLE events; -- \" \\ \\\\ ' $1 ? ?? :name %s %% %(a)s {} \\u0000 \\'"
    },
    "JSON in JSON": {"text": json.dumps(json.dumps({"a": '\0"\\'}))},
}


def test_any_payload_comes_back_equal_from_the_recorder(any_db_url, any_database):
    recorder, transcoder = Recorder(any_database), PlainJSON()
    for position, (name, payload) in enumerate(CORPUS.items(), 1):
        stored = row(name, topic="Any", event_id=name, state=transcoder.encode(payload))
        assert recorder.insert_events([stored]) == [position]
    with closing(Database(any_db_url)) as again:
        found = Recorder(again)
        logged = found.select_notifications(1, len(CORPUS))
        for (name, payload), other in zip(CORPUS.items(), logged, strict=True):
            for each in (*found.select_events(name), other):
                value = transcoder.decode(each.state)
                assert (each.originator_id, value) == (name, payload)
                assert transcoder.encode(value) == transcoder.encode(payload), name  # 1 == True, 0.0 == -0.0


def test_any_payload_in_a_message_comes_back_equal_or_is_refused_in_one_sentence(any_db_url, open_store_on):
    ledger = open_store_on(any_db_url)
    stored = {name: stored_forms(ledger.conversation(name), payload) for name, payload in CORPUS.items()}
    again = open_store_on(any_db_url)
    for name, forms in stored.items():
        shown = [each.message.as_chat_message() for each in again.memory(name).messages]
        assert shown == forms, name
        assert json.dumps(shown) == json.dumps(forms), name
    assert stored_texts(any_db_url) == [form["content"] for forms in stored.values() for form in forms]


def stored_forms(chat, payload):
    """Append messages that have a payload in each place; return those that are stored."""
    text = payload.get("text", json.dumps(payload, ensure_ascii=False))
    forms = [
        {"role": "user", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "unheard_of", "payload": payload}]},
        {"role": "user", "content": "with extras", "extra": payload},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "custom", "payload": payload}]},
        {"role": "tool", "tool_call_id": "c", "content": text},
    ]
    stored = []
    for form in forms:
        try:
            chat.append(**form)
        except InvalidInput as refused:
            assert "\n" not in str(refused)
            assert len(str(refused)) < 500
            continue
        stored.append(form)
    return stored


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused_and_nothing_is_written(any_db_url, open_store_on, number):
    ledger = open_store_on(any_db_url)
    for payload in ({"number": number}, {"in": [{"a list": (number,)}]}, {"half a character": "\ud800", "n": number}):
        with pytest.raises(InvalidInput, match="NaN or infinite cannot be stored"):
            PlainJSON().encode(payload)
    for form in ({"content": [{"type": "x", "n": number}]}, {"content": "x", "n": [number]}):
        with pytest.raises(InvalidMessage, match="cannot be stored as JSON"):
            ledger.conversation("k").append("user", **form)
    assert stored_events(any_db_url) == []


@pytest.mark.parametrize(
    "given",
    [{1: "a", "1": "b"}, {True: "a"}, {None: "a"}, {1.5: "a"}],
    ids=["a number beside the same text", "a truth value", "None", "a fraction"],
)
def test_keys_that_json_would_turn_into_other_keys_are_refused_and_nothing_is_written(any_db_url, open_store_on, given):
    ledger = open_store_on(any_db_url)
    for form in ({"content": [{"type": "x", "payload": given}]}, {"content": "x", "extra": given}):
        with pytest.raises(InvalidMessage):
            ledger.conversation("k").append("user", **form)
    with pytest.raises(InvalidInput):
        Conversation.start("k", given)
    assert stored_events(any_db_url) == []


def test_whatever_nesting_is_taken_is_also_read_again_by_whoever_is_deep_in_calls_of_their_own(db_url, open_store_on):
    """JSON's depth is bounded by the calls around it: what is taken near that bound could be read nowhere else."""
    ledger = open_store_on(db_url)

    def lists(levels):
        value = []
        for _ in range(levels):
            value = [value]
        return value

    def read(key, calls):
        return read(key, calls - 1) if calls else ledger.memory(key).messages[0].message.extra()["extra"]

    taken = 0
    for levels in (*range(10, 400, 30), *range(400, 1_000, 5), 2_000, 20_000, 100_000):
        key = f"{levels} levels"
        try:
            ledger.conversation(key).append("user", "x", extra=lists(levels))
        except InvalidMessage as refused:
            assert len(str(refused)) < 500
            assert ledger.journal.load(key) is None
            continue
        assert read(key, 200)[0] is not None
        taken += 1
    assert taken > 1


@pytest.mark.parametrize("stored", [b"\xff\xfe", b'"\xed\xa0\x80"'], ids=["no text", "half a character in UTF-8"])
def test_bytes_that_are_no_text_are_refused_and_nothing_is_written(any_db_url, any_database, stored):
    recorder = Recorder(any_database)
    with pytest.raises((StoreError, ValueError)):
        recorder.insert_events([row(state=stored)])
    assert stored_events(any_db_url) == []
    assert recorder.insert_events([row()]) == [1]


def test_eight_processes_that_begin_one_database_together_begin_it_once(any_db_url):
    with writers() as writing:
        writing.start(any_db_url, [f"w{number}" for number in range(8)], commits=2)
        assert len(writing.wait()) == 16
    assert query(any_db_url, "SELECT count(*) FROM threadledger") == [(1,)]
    assert_sound(any_db_url)


NO_TEXTS = [
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    b"x",
    Decimal("1.5"),
    UUID(int=1),
    {1},
    5,
    1.5,
    ["x"],
    {"a": 1},
    None,
    print,
]


@pytest.mark.parametrize("value", NO_TEXTS, ids=lambda value: type(value).__name__)
def test_a_value_that_is_no_text_is_refused_and_nothing_is_written(db_url, open_store_on, value):
    """The encoder would write times, bytes and sets as other values, without an error."""
    ledger = open_store_on(db_url)
    chat = ledger.conversation("k")
    said = chat.append("user", "hi")
    calls = [
        lambda: chat.run(value, "m").__enter__(),
        lambda: chat.run("b", value).__enter__(),
        lambda: chat.retract(said.message_id, value),
        lambda: chat.clear(value),
        *([] if value is None else [lambda: chat.append("user", "more", idempotency_key=value)]),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match=f"type {type(value).__name__}: nothing was (written|done)"):
            call()
    assert len(stored_events(db_url)) == 2
