"""A PostgreSQL server that answers late, or never: an append is stored once where it returned, and at most once where not."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product

import pytest
import sqlalchemy
from eventsourcing.persistence import Tracking
from freezegun import freeze_time

from threadledger.adapters.sql import Database
from threadledger.adapters.sql.tracking import Processor
from threadledger.domain.conversation import Completion, RunPlan, text_message
from threadledger.domain.errors import StoreUnavailable
from threadledger.domain.journal import StoredRow

from .proxying import LEAVE_UNDER_WAY, LOSE_ANSWER, LOSE_REQUEST, by_chance, once, proxy
from .writing import assert_sound, open_at, query, stored_events, stored_texts

WAITED_SECONDS_MAX = 30.0


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("threadledger.adapters.sql.connections.RECONNECT_PAUSE_SECONDS", 0.01)


@pytest.fixture
def before(postgres_url, open_store_on):
    """The server, reached past the proxy; its ledger has one conversation."""
    ledger = open_store_on(postgres_url)
    ledger.conversation("k").append("user", "before")
    return ledger


def shown(url):
    return url.render_as_string(hide_password=False)


@contextmanager
def head_locked(url):
    """Somebody else holds the head of the log: who appends has to wait."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT position FROM log_head FOR UPDATE")
        yield
        connection.rollback()


def wait_until(condition):
    """Bounded: a condition that never comes fails the test where it is looked at next."""
    ticks = threading.Event()
    for _ in range(int(WAITED_SECONDS_MAX / 0.01)):
        if condition():
            return
        ticks.wait(0.01)
    raise AssertionError("what was waited for did not come")


def waiting_for_a_lock(url, between):
    """How many of the connections that went through a proxy wait for a lock."""
    name = between.url.query["application_name"]
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = '{name}'"
    return query(url, waiting)[0][0]


def say(ledger, key):
    ledger.conversation(key).append("user", "said once")


def say_three_things(ledger, key):
    ledger.conversation(key).extend([{"role": "user", "content": f"said once {index}"} for index in range(3)])


def answer_a_question(ledger, key):
    def exchange(conversation):
        exchange_id = conversation.ask(text_message("user", "said once: the question"))
        run_id = conversation.start_run(exchange_id, RunPlan("chat", "m"))
        conversation.complete_run(run_id, Completion((text_message("assistant", "said once: the answer"),)))

    ledger.journal.commit(key, exchange, create=True)


def insert(ledger, key):
    row = StoredRow(f"other {key}", 1, "Heard", b'{"content": "said once"}', f"id of {key}", "2024-01-01T00:00:00Z")
    ledger.journal.recorder.insert_events([row])


WAYS = [say, say_three_things, answer_a_question, insert]
APPENDS = pytest.mark.parametrize("append", WAYS)
KEYS = pytest.mark.parametrize("key", ["k", "new"], ids=["a conversation that is there", "one that begins"])


@pytest.mark.parametrize("fate", [LOSE_REQUEST, LOSE_ANSWER])
def test_an_append_whose_connection_breaks_is_stored_once(postgres_url, open_store_on, fate):
    whole = open_store_on(postgres_url)
    whole.conversation("k").append("user", "before")
    for append, begins in product(WAYS, (False, True)):
        key = f"begun by {append.__name__}" if begins else "k"
        begin = len(stored_events(postgres_url))
        with proxy(postgres_url) as between:
            ledger = open_store_on(shown(between.url))
            between.fate = once(fate, b"said once")
            append(ledger, key)
            assert between.lost == [fate], key
            ledger.close()
        first = stored_events(postgres_url)[begin:]
        append(whole, f"{key} again, {append.__name__}")
        second = stored_events(postgres_url)[begin + len(first) :]
        told = [[(each.topic, each.data.get("content")) for each in part] for part in (first, second)]
        assert [each for each in told[0] if each[0] != "ConversationStarted"] == [
            each for each in told[1] if each[0] != "ConversationStarted"
        ], key
    assert_sound(postgres_url)


@KEYS
@APPENDS
def test_an_append_that_the_server_still_works_on_when_its_connection_breaks_is_stored_once(
    before, postgres_url, open_store_on, append, key
):
    with proxy(postgres_url) as between, ThreadPoolExecutor(1) as pool:
        ledger = open_store_on(shown(between.url))
        between.fate = once(LEAVE_UNDER_WAY, b"said once")
        with head_locked(postgres_url):
            appending = pool.submit(append, ledger, key)
            wait_until(lambda: between.lost and waiting_for_a_lock(postgres_url, between) >= 1)
            # The second attempt waits too, unless the store has found another way out.
            wait_until(lambda: waiting_for_a_lock(postgres_url, between) >= 2 or appending.done())
        appending.result(WAITED_SECONDS_MAX)
        ledger.close()
    said = [each.data["content"] for each in stored_events(postgres_url) if "said once" in each.state]
    assert said != []
    assert max(Counter(said).values()) == 1
    assert_sound(postgres_url)


def test_eight_threads_behind_a_bad_line_append_each_message_once_and_in_order(
    before, postgres_url, open_store_on, monkeypatch
):
    with proxy(postgres_url) as between, ThreadPoolExecutor(8) as pool:
        ledger = open_store_on(shown(between.url))
        between.fate = by_chance(2, b"said once", [LOSE_REQUEST, LOSE_ANSWER, LEAVE_UNDER_WAY], 0.3)

        def append(number):
            for index in range(8):
                ledger.conversation(f"k{number % 2}").append("user", f"said once {number} {index}")

        list(pool.map(append, range(8)))
        assert len(set(between.lost)) == 3
        ledger.close()
    said = [text for text in stored_texts(postgres_url) if text.startswith("said once")]
    for number in range(8):
        of_one = [text for text in said if text.startswith(f"said once {number} ")]
        assert of_one == [f"said once {number} {index}" for index in range(8)]
    assert_sound(postgres_url)


def test_a_position_that_was_processed_is_noted_though_the_answer_is_lost(before, postgres_url):
    with proxy(postgres_url) as between:
        database = Database(shown(between.url))
        processor = Processor(database)
        between.fate = once(LOSE_ANSWER, b"said once")
        row = StoredRow("of a processor", 1, "Heard", b'{"content": "said once"}', "an id", "2024-01-01T00:00:00Z")
        assert processor.insert_events([row], tracking=Tracking("upstream", 1)) == [3]
        assert between.lost == [LOSE_ANSWER]
        assert processor.max_tracking_id("upstream") == 1
        database.close()
    assert_sound_log(postgres_url)


def assert_sound_log(url):
    positions = [each.position for each in stored_events(url)]
    assert positions == list(range(1, len(positions) + 1))


def append_in_time(pool, ledger, key, text):
    """Wait for an append, with an end: in a test that fails, whoever locks lets go then."""
    return pool.submit(ledger.conversation(key).append, "user", text).result(WAITED_SECONDS_MAX / 3)


def test_a_log_that_is_locked_too_long_is_told_in_a_sentence_and_nothing_is_written(
    before, postgres_url, open_store_on, monkeypatch
):
    monkeypatch.setattr("threadledger.adapters.sql.postgres.LOCK_TIMEOUT_SECONDS", 0.1)
    ledger = open_store_on(postgres_url)
    with ThreadPoolExecutor(1) as pool:
        with head_locked(postgres_url), pytest.raises(StoreUnavailable, match="nothing was written") as told:
            append_in_time(pool, ledger, "k", "too late")
        assert "lock timeout" in str(told.value)
        assert "\n" not in str(told.value)
        assert stored_texts(postgres_url) == ["before"]
        append_in_time(pool, ledger, "k", "in time")
    assert stored_texts(postgres_url) == ["before", "in time"]
    assert_sound(postgres_url)


def test_a_conversation_that_is_locked_too_long_holds_up_nobody_elses(before, postgres_url, open_store_on, monkeypatch):
    monkeypatch.setattr("threadledger.adapters.sql.postgres.LOCK_TIMEOUT_SECONDS", 0.1)
    ledger = open_store_on(postgres_url)
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        connection.exec_driver_sql("SELECT version FROM streams FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            append_in_time(pool, ledger, "k", "too late")
        append_in_time(pool, ledger, "another", "not concerned")
        connection.rollback()
    assert stored_texts(postgres_url) == ["before", "not concerned"]


def test_a_file_that_is_locked_too_long_is_told_in_a_sentence_and_nothing_is_written(
    db_url, open_store_on, monkeypatch
):
    monkeypatch.setattr("threadledger.adapters.sql.sqlite.LOCK_TIMEOUT_SECONDS", 0.1)
    ledger = open_store_on(db_url)
    ledger.conversation("k").append("user", "before")
    engine = sqlalchemy.create_engine(db_url, poolclass=sqlalchemy.NullPool)
    with ThreadPoolExecutor(1) as pool:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"locked.*nothing was written") as told:
                append_in_time(pool, ledger, "k", "too late")
            connection.exec_driver_sql("ROLLBACK")
        assert "\n" not in str(told.value)
        append_in_time(pool, ledger, "k", "in time")
    assert stored_texts(db_url) == ["before", "in time"]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("how", "patience"),
    [
        pytest.param(signal.SIGINT, 0.0, id="stopped, without patience"),
        pytest.param(signal.SIGQUIT, 15.0, id="crashed, with patience"),
    ],
)
def test_of_a_server_that_restarts_twice_under_eight_threads_each_append_is_told_truly(
    own_postgres, monkeypatch, how, patience
):
    """Returned: stored once. `StoreUnavailable`: stored once or not at all. Nothing else is raised, nothing is twice."""
    monkeypatch.setattr("threadledger.adapters.sql.connections.RECONNECT_SECONDS", patience)
    server = own_postgres(durable=True)
    url = server.start()
    stop, returned, refused = threading.Event(), [], []
    with open_at(url) as ledger, ThreadPoolExecutor(8) as pool:

        def append(number):
            index = 0
            while not stop.is_set():
                text = f"{number} {index}"
                try:
                    ledger.conversation(f"k{number % 3}").append("user", text)
                    returned.append(text)
                except StoreUnavailable as error:
                    assert "\n" not in str(error)
                    refused.append(text)
                    stop.wait(0.01)
                index += 1

        appending: list[Future[None]] = [pool.submit(append, number) for number in range(8)]
        try:
            for _ in range(2):
                count = len(returned)
                wait_until(lambda count=count: len(returned) > count + 40)
                server.stop(how)
                server.start()
            count = len(returned)
            wait_until(lambda: len(returned) > count + 40)
        finally:
            stop.set()
        for each in appending:
            each.result()
        stored = Counter(stored_texts(url))
        assert set(stored.values()) == {1}
        assert set(returned) <= stored.keys() <= {*returned, *refused}
        assert refused == [] or patience == 0.0
        assert_sound(url)


def test_a_server_that_went_away_is_not_waited_for_without_end_though_time_stands_still(
    before, postgres_url, open_store_on, monkeypatch
):
    """freezegun stops `time.monotonic` too."""
    monkeypatch.setattr("threadledger.adapters.sql.connections.RECONNECT_SECONDS", 0.1)
    told = []

    def look(calls):
        if calls:  # freezegun leaves those alone who are called by `threading`, within a few calls
            return look(calls - 1)
        try:
            return ledger.state("k")
        except StoreUnavailable as error:
            return told.append(str(error))

    with proxy(postgres_url) as between:
        ledger = open_store_on(shown(between.url))
        ledger.state("k")
        between.fate = lambda piece: LOSE_REQUEST
    with freeze_time("2030-01-01"):
        thread = threading.Thread(target=look, args=(20,), daemon=True)
        thread.start()
        thread.join(WAITED_SECONDS_MAX / 3)
        assert ["cannot be reached" in each for each in told] == [True]
