"""Upgrades: from a stored database of every earlier schema number, forward only, with nothing lost."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from threadledger.adapters.sql import SCHEMA_VERSION, Database, Factory, SqlMirrorHeads
from threadledger.adapters.sql.postgres import STEPS as POSTGRES_STEPS
from threadledger.adapters.sql.sqlite import STEPS as SQLITE_STEPS
from threadledger.adapters.sql.upkeep import TABLES, back_up
from threadledger.domain.errors import ForeignDatabase, NewerSchema
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal, quietly
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import MirrorHead

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def stored(number: int, path: Path) -> str:
    """The URL of a database that stands at an earlier schema, from its dump."""
    connection = sqlite3.connect(path)
    connection.executescript((GOLDEN / f"schema-{number}.sql").read_text(encoding="utf-8"))
    connection.close()
    return f"sqlite:///{path}"


def opened(url: str) -> Ledger:
    return Ledger(Journal(Factory(database=Database(url))))


def events_of(path: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT * FROM events ORDER BY position").fetchall()


def table_shapes(url: str) -> dict[str, list[str]]:
    """The columns of each of our tables, those of views left out."""
    database = Database(url)
    tables = database.query(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite#_%' ESCAPE '#'"
    )
    shapes = {name: [row[1] for row in database.query(f"PRAGMA table_info({name})")] for (name,) in tables}
    database.close()
    return {name: columns for name, columns in shapes.items() if not name.startswith("view_")}


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_there_is_a_stored_database_of_every_earlier_schema(number: int) -> None:
    assert (GOLDEN / f"schema-{number}.sql").is_file()


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_opening_an_earlier_database_upgrades_it_and_keeps_every_event_as_it_was(number: int, tmp_path: Path) -> None:
    url = stored(number, tmp_path / "old.db")
    before = events_of(tmp_path / "old.db")
    with opened(url) as ledger:
        status = ledger.status()
        assert (ledger.schema_before, status["schema_version"]) == (number, SCHEMA_VERSION)
        assert events_of(tmp_path / "old.db") == before
        assert list(ledger.check()) == []
        assert [state.key for state in ledger.conversations()] == ["customer-42"]
        assert ledger.memory("customer-42").messages
    with opened(url) as again:
        assert again.schema_before is None


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_an_upgraded_database_has_the_tables_of_a_new_one(number: int, tmp_path: Path) -> None:
    old, new = stored(number, tmp_path / "old.db"), f"sqlite:///{tmp_path / 'new.db'}"
    opened(old).close()
    opened(new).close()
    assert table_shapes(old) == table_shapes(new)


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_an_upgraded_ledger_is_written_to_as_if_it_were_new(number: int, tmp_path: Path) -> None:
    url = stored(number, tmp_path / "old.db")
    with opened(url) as ledger:
        last = ledger.status()["events"]
        ledger.conversation("customer-42").append("user", "Are you still there?")
        assert [event.position for event in ledger.events(after=last)] == [last + 1]
        assert list(ledger.check()) == []


def test_threads_that_were_noted_before_there_were_doubts_are_in_no_doubt(tmp_path: Path) -> None:
    url = stored(2, tmp_path / "old.db")
    opened(url).close()
    database = Database(url)
    notes = database.query("SELECT mirror, thread_id, version, settled, holder FROM mirror_heads ORDER BY mirror")
    assert [tuple(note)[2:] for note in notes] == [(33, 0, "a run that was killed"), (33, 1, None)]
    heads = SqlMirrorHeads(database)
    for mirror, thread_id, version, settled, holder in notes:
        known = MirrorHead(thread_id, version, bool(settled), doubts=(), left_by=holder)
        assert heads.claim("conversation:customer-42", mirror, thread_id, "me", now()) == known
    database.close()


def test_a_postgresql_database_of_schema_2_is_upgraded_when_it_is_opened(postgres_url: str) -> None:
    database = Database(postgres_url)
    for statement in (statement for step in POSTGRES_STEPS[:2] for statement in step):
        database.execute(statement)
    database.execute("INSERT INTO threadledger VALUES (2, '2026-11-22T12:00:00.000000Z')")
    database.execute("INSERT INTO mirror_heads VALUES ('conversation:k', 'conversations', 'conv_1', 7, 1)")
    with opened(postgres_url) as ledger:
        assert (ledger.schema_before, ledger.status()["schema_version"]) == (2, SCHEMA_VERSION)
    known = SqlMirrorHeads(database).claim("conversation:k", "conversations", "conv_1", "me", now())
    assert known == MirrorHead("conv_1", 7, settled=True)
    database.close()


@pytest.mark.parametrize("number", range(2, SCHEMA_VERSION))  # PostgreSQL came with schema 2
def test_a_postgresql_database_of_an_older_schema_can_be_backed_up_before_it_is_upgraded(
    number: int, postgres_url: str, tmp_path: Path
) -> None:
    old = Database(stored(number, tmp_path / "old.db"))
    server = Database(postgres_url, create=False, upgrade=False)
    for statement in (statement for step in POSTGRES_STEPS[:number] for statement in step):
        server.execute(statement)
    server.execute("INSERT INTO threadledger VALUES (?, '2026-11-22T12:00:00.000000Z')", (number,))
    for table, columns, order in TABLES[:2]:
        places = ", ".join("?" for _ in columns.split(", "))
        insert = f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({places})"
        for row in old.query(f"SELECT {columns} FROM {table} ORDER BY {order}"):
            server.execute(insert, row)
    server.execute("UPDATE log_head SET position = (SELECT max(position) FROM events)")
    back_up(server, tmp_path / "backup.db", quietly)
    assert events_of(tmp_path / "backup.db") == events_of(tmp_path / "old.db")
    with opened(f"sqlite:///{tmp_path / 'backup.db'}") as ledger:
        assert ledger.schema_before is None
        assert list(ledger.check()) == []
    for database in (old, server):
        database.close()


def test_a_database_of_a_newer_schema_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    url = stored(2, tmp_path / "new.db")
    with sqlite3.connect(tmp_path / "new.db") as connection:
        connection.execute("UPDATE threadledger SET schema_version = ?", (SCHEMA_VERSION + 1,))
    before = table_shapes(url)
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA_VERSION + 1}"):
        opened(url)
    assert table_shapes(url) == before


def test_an_upgrade_that_breaks_off_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = stored(1, tmp_path / "old.db")
    before = table_shapes(url)
    with monkeypatch.context() as patch:
        broken = (*SQLITE_STEPS[:-1], (*SQLITE_STEPS[-1], "CREATE TABLE parked (x INTEGER)"))
        patch.setattr("threadledger.adapters.sql.sqlite.SQLite.steps", broken)
        with pytest.raises(Exception, match="parked"):
            opened(url)
    assert table_shapes(url) == before
    with opened(url) as ledger:
        assert ledger.schema_before == 1


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
