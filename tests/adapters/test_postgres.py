"""A server is further away than a file: it is named wrongly, goes away, and comes back. Nothing is lost or doubled by it."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Any

import pytest
from eventsourcing.persistence import StoredEvent
from sqlalchemy.engine import make_url

from threadledger.adapters.sql import Database, connections
from threadledger.adapters.sql.connections import ConnectionLost
from threadledger.adapters.sql.pipeline import SHORT_ROWS_MAX, Pipeline
from threadledger.adapters.sql.recorder import Recorder
from threadledger.domain.errors import StoreUnavailable

from .postgres_pair import wait_for
from .writing import assert_sound, query

HOWS = pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])


def texts(ledger, key="k"):
    return [each.message.text for each in ledger.memory(key).messages]


@pytest.mark.parametrize("wrong", [{"database": "nowhere"}, {"username": "nobody"}], ids=["database", "user"])
def test_a_wrong_name_is_told_at_once_with_what_to_correct(postgres_server_url, open_store_on, monkeypatch, wrong):
    monkeypatch.setattr(connections, "RECONNECT_SECONDS", 0.0)
    url = make_url(postgres_server_url).set(**wrong).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match=r"does not exist.*correct the user, password or database name") as told:
        open_store_on(url)
    assert not isinstance(told.value, ConnectionLost)  # which would be waited for


def test_a_server_that_is_not_there_is_told_without_the_password(open_store_on, monkeypatch):
    monkeypatch.setattr(connections, "RECONNECT_SECONDS", 0.0)
    with pytest.raises(StoreUnavailable, match="cannot be reached") as told:
        open_store_on("postgresql://somebody:hunter2@127.0.0.1:1/ledger")
    assert "hunter2" not in str(told.value)


def test_text_that_postgresql_cannot_hold_is_refused_and_not_taken_for_a_lost_connection(postgres_url, monkeypatch):
    monkeypatch.setattr(connections, "RECONNECT_SECONDS", 0.0)
    database = Database(postgres_url)
    recorder = Recorder(database)
    with pytest.raises(Exception, match="0x00") as told:
        recorder.insert_events([StoredEvent("of another application", 1, "topic", b"a\0b")])
    database.close()
    assert "cannot be reached" not in str(told.value)
    assert "it is unknown whether the last append was stored" not in str(told.value)


def test_connections_that_broke_while_nobody_looked_are_replaced(postgres_url, postgres_server_url, open_store_on):
    own = make_url(postgres_url).update_query_dict({"application_name": "broken here"})
    ledger = open_store_on(own.render_as_string(hide_password=False))
    ledger.conversation("k").append("user", "before")
    administrator = Database(postgres_server_url)
    broken = administrator.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ?", ("broken here",)
    )
    administrator.close()
    assert broken
    assert texts(ledger) == ["before"]
    ledger.conversation("k").append("user", "after")
    assert texts(ledger) == ["before", "after"]


def test_an_append_whose_commit_was_not_acknowledged_is_there_once(postgres_url, open_store_on, monkeypatch):
    database = Database(postgres_url)
    ledger = open_store_on(database)
    ledger.conversation("k").append("user", "before")
    store, breaks = database.kind.append_durably, []

    def store_and_break(*work):
        positions = store(*work)
        if not breaks:
            breaks.append(positions)
            raise database.driver.OperationalError("server closed the connection unexpectedly")
        return positions

    with monkeypatch.context() as patch:
        patch.setattr(database.kind, "append_durably", store_and_break)
        message_id = ledger.conversation("k").append("user", "after").message_id
    assert breaks == [[3]]
    assert [each.message_id for each in ledger.memory("k").messages][1:] == [message_id]
    assert texts(ledger) == ["before", "after"]


def test_appends_of_every_length_store_rows_that_match_their_leaves(postgres_url, open_store_on):
    ledger = open_store_on(postgres_url)
    said = ["plain", "Größe, размер, 大小", "'\"{}\\,\n\t", "\x00", "𝄞", "\\x41"]
    for key in ("k", "Schlüssel 'k'"):
        for count in range(1, SHORT_ROWS_MAX + 3):
            ledger.conversation(key).extend([{"role": "user", "content": f"{count} {text}"} for text in said[:count]])
        expected = [f"{count} {text}" for count in range(1, SHORT_ROWS_MAX + 3) for text in said[:count]]
        assert texts(ledger, key) == expected  # each was compared with its leaf
    assert list(ledger.check()) == []
    assert query(postgres_url, "SELECT count(*) FROM events WHERE id IS NULL OR text_id IS NOT NULL") == [(0,)]
    assert_sound(postgres_url)


def test_an_append_waits_for_the_disk_in_its_own_transaction_only_while_no_other_process_appends(
    postgres_url, open_store_on, monkeypatch
):
    stores = [open_store_on(postgres_url) for _ in range(2)]
    append, flushed = Pipeline.append, []

    def noted(self, connection, statement, values, flush):
        flushed.append(flush)
        return append(self, connection, statement, values, flush)

    monkeypatch.setattr(Pipeline, "append", noted)
    for number in (0, 0, 0, 1, 0, 0, 1, 1, 1):
        stores[number].conversation(f"k{number}").append("user", "x")
    # The first append of a log is at position 1: the next is after it only if no other process appended meanwhile.
    assert flushed == [True, False, False, True, False, True, True, True, False]
    assert_sound(postgres_url)


@pytest.mark.parametrize("count", [1, 2])
def test_statements_that_the_connection_has_forgotten_are_prepared_again_and_append_once(
    postgres_url, open_store_on, count
):
    database = Database(postgres_url)
    ledger, other = open_store_on(database), open_store_on(postgres_url)
    ledger.conversation("k").append("user", "before")
    for alone in (False, True):
        if not alone:
            other.conversation("k").append("user", "theirs")
        ledger.conversation("k").append("user", "before")
        database.group._cursor().execute("DEALLOCATE ALL")
        ledger.conversation("k").extend([{"role": "user", "content": "after"}] * count)
        ledger.conversation("k").append("user", "after")
    assert [text for text in texts(ledger) if text != "theirs"] == [
        *("before", "before", *["after"] * (count + 1)),
        *("before", *["after"] * (count + 1)),
    ]
    assert_sound(postgres_url)


@HOWS
def test_a_restart_of_the_server_in_the_middle_of_appends_loses_and_doubles_nothing(own_postgres, open_store_on, how):
    server = own_postgres(durable=True)
    url = server.start()
    stores = [open_store_on(url) for _ in range(2)]
    under_way = Event()

    def append(number):
        for index in range(60):
            stores[number % 2].conversation(f"k{number % 3}").append("user", f"{number} {index}")
            if index == 20:
                under_way.set()

    with ThreadPoolExecutor(4) as pool:
        appending = [pool.submit(append, number) for number in range(4)]
        under_way.wait()
        server.stop(how)
        server.start()
        for each in appending:
            each.result()
    found = [text for key in ("k0", "k1", "k2") for text in texts(stores[0], key)]
    assert sorted(found) == sorted(f"{number} {index}" for number in range(4) for index in range(60))
    for number in range(4):
        assert [text for text in found if text.startswith(f"{number} ")] == [f"{number} {i}" for i in range(60)]
    positions = [each.position for each in stores[1].events()]
    assert positions == list(range(1, len(positions) + 1))


@HOWS
def test_a_follower_goes_on_after_a_restart_of_the_server_and_misses_nothing(own_postgres, open_store_on, how):
    server = own_postgres(durable=True)
    url = server.start()
    follower, writer = open_store_on(url), open_store_on(url)
    under_way = Event()

    def follow():
        followed = []
        for position, *_ in follower.journal.followed():
            followed.append(position)
            if len(followed) == 10:
                under_way.set()
            if len(followed) == 41:
                return followed

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        for index in range(20):
            writer.conversation("k").append("user", str(index))
        under_way.wait()
        server.stop(how)
        server.start()
        for index in range(20):
            writer.conversation("k").append("user", str(index))
        assert following.result(timeout=60) == list(range(1, 42))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_transaction_whose_process_falls_silent_is_ended_and_its_locks_are_free(postgres_url: str, rows: int) -> None:
    """A process that is cut from the network sends nothing any more; the server does not know."""
    with closing(Database(postgres_url)) as database, closing(Database(postgres_url)) as other:
        database.execute("CREATE TABLE held (a int)")
        database.kind.begin_write = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 700"
        backends: list[int] = []

        def write(transaction: Any) -> None:
            transaction.execute_many("INSERT INTO held VALUES (?)", [(row,) for row in range(rows)])
            first = not backends
            backends.append(transaction.execute("SELECT pg_backend_pid()").fetchone()[0] if not rows else backend())
            if first:
                wait_for(lambda: not other.query("SELECT 1 FROM pg_stat_activity WHERE pid = ?", (backends[0],)))

        def backend() -> int:
            query = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND strpos(query, 'INTO held') > 0"
            wait_for(lambda: bool(other.query(query)))
            return int(other.query(query)[0][0])

        database.write(write)  # it is repeated on a new connection
        assert len(backends) == 2 and backends[0] != backends[1]
        assert other.query("SELECT count(*) FROM held") == [(rows,)]
