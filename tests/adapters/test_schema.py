"""Upgrades: from a stored database of every earlier schema number, forward only, with nothing lost."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from threadledger.adapters.sql import SCHEMA_VERSION, Database, Factory, SqlMirrorHeads, upgrade
from threadledger.adapters.sql.damage import leaf_of_form_3
from threadledger.adapters.sql.postgres_schema import STEPS as POSTGRES_STEPS
from threadledger.adapters.sql.postgres_schema import SWAP as POSTGRES_SWAP
from threadledger.adapters.sql.schema import EVENTS_REWRITTEN_BY
from threadledger.adapters.sql.sqlite_schema import STEPS as SQLITE_STEPS
from threadledger.adapters.sql.sqlite_schema import SWAP as SQLITE_SWAP
from threadledger.adapters.sql.upkeep import TABLES, back_up
from threadledger.domain.errors import ForeignDatabase, IdempotencyConflict, NewerSchema, OlderSchema, StoreError
from threadledger.domain.ids import id_text, new_id, now
from threadledger.domain.journal import Journal, quietly
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import MirrorHead

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


REWRITTEN = range(1, EVENTS_REWRITTEN_BY)
"""Schemas whose upgrade rewrites the events; that of later ones adds tables, and is a part of opening."""

MADE_WHEN_NEEDED = ("view_", "budget_", "thread_outcomes")
"""Beginnings of the names of tables that belong to no schema."""


def stored(number: int, path: Path) -> str:
    """The URL of a database that stands at an earlier schema, from its dump."""
    connection = sqlite3.connect(path)
    connection.executescript((GOLDEN / f"schema-{number}.sql").read_text(encoding="utf-8"))
    connection.close()
    return f"sqlite:///{path}"


def opened(url: str) -> Ledger:
    return Ledger(Journal(Factory(database=Database(url))))


def upgraded(url: str) -> str:
    """The URL of a database, after its upgrade to this schema."""
    with closing(Database(url)) as database:
        upgrade(database, quietly)
    return url


def events_of(path: Path) -> list[tuple[object, ...]]:
    """Every event as it is stored, with its id as text, whatever the schema."""
    columns = "position, stream, version, {id}, topic, schema, at, state, leaf"
    with sqlite3.connect(path) as connection:
        connection.create_function("id_text", 1, id_text)
        found = {row[1] for row in connection.execute("PRAGMA table_info(events)")}
        as_text = "event_id" if "event_id" in found else "coalesce(text_id, id_text(id))"
        return connection.execute(f"SELECT {columns.format(id=as_text)} FROM events ORDER BY position").fetchall()


def table_shapes(url: str) -> dict[str, list[str]]:
    """The columns of each table of the schema."""
    database = Database(url)
    tables = database.query(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite#_%' ESCAPE '#'"
    )
    shapes = {name: [row[1] for row in database.query(f"PRAGMA table_info({name})")] for (name,) in tables}
    database.close()
    return {name: columns for name, columns in shapes.items() if not name.startswith(MADE_WHEN_NEEDED)}


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_there_is_a_stored_database_of_every_earlier_schema(number: int) -> None:
    assert (GOLDEN / f"schema-{number}.sql").is_file()


@pytest.mark.parametrize("number", REWRITTEN)
def test_a_step_that_rewrites_events_is_not_taken_by_opening(number: int, tmp_path: Path) -> None:
    url = stored(number, tmp_path / "old.db")
    before = (tmp_path / "old.db").read_bytes()
    with pytest.raises(OlderSchema, match="run: threadledger db upgrade"):
        opened(url)
    assert (tmp_path / "old.db").read_bytes() == before


@pytest.mark.parametrize("number", range(EVENTS_REWRITTEN_BY, SCHEMA_VERSION))
def test_a_step_that_adds_tables_is_taken_by_opening_for_writing_and_by_nothing_else(
    number: int, tmp_path: Path
) -> None:
    url, path = stored(number, tmp_path / "old.db"), tmp_path / "old.db"
    bytes_before, before = path.read_bytes(), events_of(path)
    with pytest.raises(OlderSchema, match=f"reading does not upgrade it to {SCHEMA_VERSION}"):
        Journal(Factory(database=Database(url, upgrade=False)))
    assert path.read_bytes() == bytes_before
    with opened(url) as ledger:
        assert (ledger.schema_before, ledger.status()["schema_version"]) == (number, SCHEMA_VERSION)
        assert events_of(path) == before
        assert list(ledger.check()) == []
        ledger.conversation("customer-42").append("user", "Are you still there?")
    with opened(url) as ledger:
        assert ledger.schema_before is None


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_an_upgrade_keeps_every_event_as_it_was(number: int, tmp_path: Path) -> None:
    url = stored(number, tmp_path / "old.db")
    before = events_of(tmp_path / "old.db")
    steps: list[tuple[int, int]] = []
    with closing(Database(url)) as database:
        assert upgrade(database, lambda done, total: steps.append((done, total))) == number
        assert upgrade(database, quietly) is None
    assert steps[-1:] == ([(before[-1][0], before[-1][0])] if number in REWRITTEN else [])
    with opened(url) as ledger:
        assert (ledger.schema_before, ledger.status()["schema_version"]) == (None, SCHEMA_VERSION)
        assert events_of(tmp_path / "old.db") == before
        assert list(ledger.check()) == []
        assert "customer-42" in [state.key for state in ledger.conversations()]
        assert ledger.memory("customer-42").messages


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_an_upgraded_database_has_the_tables_of_a_new_one(number: int, tmp_path: Path) -> None:
    old, new = stored(number, tmp_path / "old.db"), f"sqlite:///{tmp_path / 'new.db'}"
    opened(new).close()
    assert table_shapes(upgraded(old)) == table_shapes(new)


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_an_upgraded_ledger_is_written_to_as_if_it_were_new(number: int, tmp_path: Path) -> None:
    with opened(upgraded(stored(number, tmp_path / "old.db"))) as ledger:
        last = ledger.status()["events"]
        ledger.conversation("customer-42").append("user", "Are you still there?")
        assert [event.position for event in ledger.events(after=last)] == [last + 1]
        assert list(ledger.check()) == []


def test_idempotency_keys_of_before_are_still_found(tmp_path: Path) -> None:
    with opened(upgraded(stored(5, tmp_path / "old.db"))) as ledger:
        last, chat = ledger.status()["events"], ledger.conversation("customer-42")
        again = chat.append("user", "Где моя посылка?", idempotency_key="request-7")
        assert (again.version, ledger.status()["events"]) == (24, last)
        with pytest.raises(IdempotencyConflict):
            chat.append("user", "Another question", idempotency_key="request-7")


def test_ids_of_imported_messages_are_indexed(tmp_path: Path) -> None:
    upgraded(stored(5, tmp_path / "old.db"))
    with sqlite3.connect(tmp_path / "old.db") as connection:
        found = dict(
            connection.execute(
                "SELECT address, a.version FROM addresses a JOIN streams USING (stream) WHERE name LIKE '%:tools'"
            )
        )
    assert found == {"u1": 2, "k1": 3, "o1": 4, "k2": 5, "o2": 6, "o3": 7, "e1": 8, "a1": 9}


def test_an_upgrade_that_breaks_off_goes_on_and_misses_nothing_that_was_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of the earlier version keeps writing until the tables are switched."""
    monkeypatch.setattr("threadledger.adapters.sql.upgrading.UPGRADE_PAGE_EVENTS", 10)
    url, path = stored(5, tmp_path / "old.db"), tmp_path / "old.db"
    insert = (
        "INSERT INTO events (stream, version, event_id, topic, schema, at, state, leaf) "
        "SELECT stream, version + 100, lower(hex(randomblob(8))) || event_id, topic, schema, at, state, leaf "
        "FROM events WHERE position = 20"
    )

    class Killed(Exception):
        pass

    def progress(done: int, total: int) -> None:
        if done == 30:
            raise Killed

    with closing(Database(url)) as database:
        with pytest.raises(Killed):
            upgrade(database, progress)
        with pytest.raises(OlderSchema):
            opened(url)
    with sqlite3.connect(path) as connection:
        connection.execute(insert)
    before = events_of(path)
    seen: list[int] = []
    with closing(Database(url)) as database:
        assert upgrade(database, lambda done, total: seen.append(done)) == 5
    assert seen[0] == 30, "the pages that were copied before are not copied again"
    assert events_of(path) == before


MANY_EVENTS = 1_000_000 if os.environ.get("THREADLEDGER_SOAK") else 12_000
MEMORY_MAX_KIB = 150 * 1024

MEASURED = """
import re, sys
from contextlib import suppress
from pathlib import Path
from threadledger.adapters.sql import Database, upgrade
upgrade(Database(sys.argv[1]), lambda done, total: None)
with suppress(OSError):
    print(re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0])
"""
"""Program that upgrades a database and prints its peak memory in KiB, on Linux only."""


@pytest.mark.parametrize("number", REWRITTEN)
def test_many_events_of_any_earlier_schema_are_upgraded_in_little_memory(number: int, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    url = stored(number, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (first,) = connection.execute("SELECT max(position) + 1 FROM events").fetchone()
        columns = [row[1] for row in connection.execute("PRAGMA table_info(streams)")]
        connection.execute("BEGIN")
        for stream in range(100, 100 + MANY_EVENTS // 1_000):
            values = {
                **{
                    "stream": stream,
                    "name": f"conversation:{stream}",
                    "version": 1_000,
                    "state_schema": 0,
                    "state": "{}",
                },
                **{"due_at": None, "position": first},
            }
            places = ", ".join("?" for _ in columns)
            connection.execute(
                f"INSERT INTO streams ({', '.join(columns)}) VALUES ({places})", [values[name] for name in columns]
            )
            rows = []
            for version in range(1, 1_001):
                event_id, at = new_id(), "2026-11-22T12:00:00.000000Z"
                state = json.dumps(
                    {"message_id": event_id, "role": "user", "content": "é" * 20, "idempotency_key": f"k{version}"}
                )
                row = (first, f"conversation:{stream}", version, "MessageJournaled", state.encode(), event_id, at, 1)
                rows.append((first, stream, version, event_id, row[3], 1, at, state, leaf_of_form_3(row)))
                first += 1
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        before = digest_of(connection, "event_id")
    peak = subprocess.run([sys.executable, "-c", MEASURED, url], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(peak or 0) <= MEMORY_MAX_KIB
    with closing(sqlite3.connect(path)) as connection:
        assert digest_of(connection, "coalesce(text_id, id_text(id))") == before
        keys = connection.execute("SELECT count(*) FROM idempotency_keys WHERE stream >= 100").fetchone()
    assert keys == (MANY_EVENTS // 1_000 * 1_000,)
    with opened(url) as ledger:
        assert list(ledger.check()) == []


UPGRADING = """
import sys
from threadledger.adapters.sql import Database, upgrade, upgrading
upgrading.UPGRADE_PAGE_EVENTS = 5
upgrade(Database(sys.argv[1]), lambda done, total: print(done, flush=True))
print("upgraded", flush=True)
"""


def test_an_upgrade_that_is_killed_again_and_again_ends_with_every_event(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    url = stored(5, path)
    before = events_of(path)
    copied: list[str] = []
    for _ in range(30):
        with subprocess.Popen([sys.executable, "-c", UPGRADING, url], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            copied += [process.stdout.readline().strip(), process.stdout.readline().strip()]
            process.kill()
        assert events_of(path) == before
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute("SELECT schema_version FROM threadledger").fetchone() == (SCHEMA_VERSION,):
                break
    assert "5" in copied
    with opened(upgraded(url)) as ledger:
        assert list(ledger.check()) == []
    assert events_of(path) == before


def digest_of(connection: sqlite3.Connection, event_id: str) -> str:
    connection.create_function("id_text", 1, id_text)
    digest = sha256()
    for row in connection.execute(
        f"SELECT position, stream, version, {event_id}, topic, schema, at, state, leaf FROM events ORDER BY position"
    ):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def test_a_program_that_was_open_before_the_upgrade_fails_loudly_when_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    url = stored(5, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as earlier:
        write = "UPDATE streams SET version = version, state = state WHERE stream = 1"
        earlier.execute(write)
        upgraded(url)
        with pytest.raises(sqlite3.OperationalError, match="no such column: state"):
            earlier.execute(write)


def test_others_read_while_the_events_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.upgrading.UPGRADE_PAGE_EVENTS", 10)
    path = tmp_path / "old.db"
    url = stored(5, path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    counts = []

    def progress(done: int, total: int) -> None:
        with closing(sqlite3.connect(path)) as reader:
            counts.append(reader.execute("SELECT count(*), sum(length(state)) > 0 FROM events").fetchone())

    with closing(Database(url)) as database:
        upgrade(database, progress)
    assert set(counts) == {(len(events_of(path)), 1)}


def test_an_upgrade_refuses_to_leave_an_event_behind(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    url = stored(5, path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM streams WHERE stream = 1")
    before = events_of(path)
    with closing(Database(url)) as database, pytest.raises(StoreError):
        upgrade(database, quietly)
    assert events_of(path) == before


def test_threads_that_were_noted_before_there_were_doubts_are_in_no_doubt(tmp_path: Path) -> None:
    url = upgraded(stored(2, tmp_path / "old.db"))
    database = Database(url)
    notes = database.query("SELECT mirror, thread_id, version, settled, holder FROM mirror_heads ORDER BY mirror")
    assert [tuple(note)[2:] for note in notes] == [(33, 0, "a run that was killed"), (33, 1, None)]
    heads = SqlMirrorHeads(database)
    for mirror, thread_id, version, settled, holder in notes:
        known = MirrorHead(thread_id, version, bool(settled), doubts=(), left_by=holder)
        assert heads.claim("conversation:customer-42", mirror, thread_id, "me", now()) == known
    database.close()


def test_a_postgresql_database_of_schema_2_is_upgraded(postgres_url: str) -> None:
    database = Database(postgres_url)
    for statement in (statement for step in POSTGRES_STEPS[:2] for statement in step):
        database.execute(statement)
    database.execute("INSERT INTO threadledger VALUES (2, '2026-11-22T12:00:00.000000Z')")
    database.execute("INSERT INTO mirror_heads VALUES ('conversation:k', 'conversations', 'conv_1', 7, 1)")
    with pytest.raises(OlderSchema):
        opened(postgres_url)
    assert upgrade(database, quietly) == 2
    with opened(postgres_url) as ledger:
        assert ledger.status()["schema_version"] == SCHEMA_VERSION
    known = SqlMirrorHeads(database).claim("conversation:k", "conversations", "conv_1", "me", now())
    assert known == MirrorHead("conv_1", 7, settled=True)
    database.close()


def on_server(number: int, url: str, path: Path) -> Database:
    """A server's database of an earlier schema, with the events of the golden file."""
    server = Database(url, create=False, upgrade=False)
    for statement in (statement for step in POSTGRES_STEPS[:number] for statement in step):
        server.execute(statement)
    server.execute(
        "INSERT INTO threadledger (schema_version, created_at) VALUES (?, '2026-11-22T12:00:00.000000Z')", (number,)
    )
    tables: tuple[tuple[str, str, str], ...] = (
        ("streams", "stream, name, version, state_schema, state, due_at", "stream"),
        ("events", "position, stream, version, event_id, topic, schema, at, state, leaf", "position"),
    )
    if number not in REWRITTEN:
        for statement in POSTGRES_SWAP:
            server.execute(statement)
        tables = tuple(TABLES)
    stored(number, path)
    with sqlite3.connect(path) as connection:
        for table, columns, order in tables:
            places = ", ".join("?" for _ in columns.split(", "))
            insert = f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({places})"
            if connection.execute(f"PRAGMA table_info({table})").fetchall():
                for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY {order}"):
                    names = dict(zip(columns.split(", "), row, strict=True))
                    if names.get("id") is not None:
                        names["id"] = UUID(bytes=names["id"])
                    server.execute(insert, tuple(names.values()))
    server.execute("UPDATE log_head SET position = (SELECT max(position) FROM events)")
    server.execute("SELECT setval(pg_get_serial_sequence('streams', 'stream'), (SELECT max(stream) FROM streams))")
    return server


@pytest.mark.parametrize("number", range(2, SCHEMA_VERSION))  # PostgreSQL came with schema 2
def test_a_postgresql_database_of_an_older_schema_can_be_backed_up_before_it_is_upgraded(
    number: int, postgres_url: str, tmp_path: Path
) -> None:
    with closing(on_server(number, postgres_url, tmp_path / "old.db")) as server:
        back_up(server, tmp_path / "backup.db", quietly)
    assert events_of(tmp_path / "backup.db") == events_of(tmp_path / "old.db")
    with opened(f"sqlite:///{tmp_path / 'backup.db'}") as ledger:
        assert ledger.schema_before is None
        assert list(ledger.check()) == []
        if number == 5:
            assert (
                ledger.conversation("customer-42")
                .append("user", "Где моя посылка?", idempotency_key="request-7")
                .version
                == 24
            )


def test_a_postgresql_database_is_upgraded_page_by_page_and_keeps_its_events(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.upgrading.UPGRADE_PAGE_EVENTS", 10)
    on_server(5, postgres_url, tmp_path / "old.db").close()
    with closing(Database(postgres_url)) as server:
        steps: list[int] = []
        assert upgrade(server, lambda done, total: steps.append(done)) == 5
        assert len(steps) == -(-len(events_of(tmp_path / "old.db")) // 10)
    with opened(postgres_url) as ledger:
        assert list(ledger.check()) == []
        chat = ledger.conversation("customer-42")
        assert chat.append("user", "Где моя посылка?", idempotency_key="request-7").version == 24
        assert chat.append("user", "Новый вопрос").version == chat.memory().version
        assert list(ledger.check()) == []


def test_a_database_of_a_newer_schema_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    url = stored(2, tmp_path / "new.db")
    with sqlite3.connect(tmp_path / "new.db") as connection:
        connection.execute("UPDATE threadledger SET schema_version = ?", (SCHEMA_VERSION + 1,))
    before = table_shapes(url)
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA_VERSION + 1}"):
        opened(url)
    assert table_shapes(url) == before


def test_an_upgrade_that_breaks_off_at_its_last_step_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    url = stored(1, path)
    before = events_of(path)
    with monkeypatch.context() as patch:
        patch.setattr("threadledger.adapters.sql.sqlite.SQLite.swap", (*SQLITE_SWAP, "CREATE TABLE parked (x INTEGER)"))
        with closing(Database(url)) as database, pytest.raises(Exception, match="parked"):
            upgrade(database, quietly)
    assert events_of(path) == before
    with closing(Database(url)) as database:
        assert upgrade(database, quietly) == 5
    assert events_of(path) == before


def test_both_kinds_of_database_count_the_same_steps() -> None:
    assert len(SQLITE_STEPS) == len(POSTGRES_STEPS) == SCHEMA_VERSION


def test_a_new_postgresql_database_has_the_tables_and_columns_of_sqlite(any_db_url: str) -> None:
    with opened(any_db_url) as ledger:
        assert ledger.status()["schema_version"] == SCHEMA_VERSION
    expected: dict[str, list[str]] = {}
    for statement in (statement for step in POSTGRES_STEPS for statement in step):
        found = re.match(r"CREATE TABLE (\w+) \(\s*(.*)\)$", statement, re.DOTALL)
        if found:
            lines = [line.strip() for line in found[2].splitlines() or [found[2]]]
            expected[found[1]] = [line.split()[0] for line in lines if line and line.split()[0].islower()]
    expected["mirror_heads"] += ["doubts"]
    expected["threadledger"] += ["ledger_id"]
    expected["tracking"] += ["leaf"]
    expected["events"].remove("event_id")
    expected["events"] += ["id", "text_id"]
    expected["streams"].remove("state")
    expected["streams"] += ["snapshot"]
    del expected["upgrading"]
    database = Database(any_db_url)
    for table, columns in expected.items():
        if table != "log_head":
            database.query(f"SELECT {', '.join(columns)} FROM {table}")
    database.close()


def test_postgresql_tables_of_somebody_else_are_refused_and_left_alone(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.execute("CREATE TABLE customers (name TEXT)")
    with pytest.raises(ForeignDatabase, match="customers"):
        opened(postgres_url)
    assert database.query("SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()") == [
        ("customers",)
    ]
    database.close()


@pytest.mark.parametrize(
    "statement", ["UPDATE events SET at = '' WHERE position = 1", "DELETE FROM events", "TRUNCATE events"]
)
def test_postgresql_refuses_to_change_or_delete_an_event(postgres_url: str, statement: str) -> None:
    with opened(postgres_url) as ledger:
        ledger.conversation("k").append("user", "Hello")
        database = Database(postgres_url)
        with pytest.raises(Exception, match="never changed or deleted"):
            database.execute(statement)
        database.close()
        assert len(list(ledger.events())) == 2


def test_the_index_of_marks_costs_an_insert_no_table_of_topics(db_url: str) -> None:
    Ledger(Journal(Factory(database=Database(db_url)))).close()
    with closing(sqlite3.connect(db_url.removeprefix("sqlite:///"))) as connection:
        values = "(1, 1, 'MessageJournaled', 1, '', x'00', '{}')"
        steps = connection.execute(
            f"EXPLAIN INSERT INTO events (stream, version, topic, schema, at, leaf, state) VALUES {values}"
        ).fetchall()
    assert not [step for step in steps if step[1] in {"OpenEphemeral", "OpenAutoindex"}]
