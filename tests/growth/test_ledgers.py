"""The generated ledgers are as the product would have written them, and the meter counts what it is to count."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import threadledger

from .ledgers import LONG, fill_conversations, fill_messages, key_of_number
from .metering import Cost, Meter, growth


@pytest.mark.parametrize("fill", [fill_conversations, fill_messages])
def test_a_generated_ledger_passes_its_check(fill: Callable[[str, int], int], any_db_url: str) -> None:
    events = fill(any_db_url, 45)
    with threadledger.open(any_db_url, threads="none") as ledger:
        assert list(ledger.check()) == []
        assert ledger.status()["events"] == events
        ledger.conversations(limit=1), ledger.failures(limit=1)
        assert list(ledger.check()) == []


def test_a_generated_ledger_has_answered_and_failed_runs_and_can_be_continued(db_url: str) -> None:
    fill_conversations(db_url, 45)
    with threadledger.open(db_url, threads="none") as ledger:
        states = ledger.conversations()
        assert (len(states), sum(state.failed_runs for state in states)) == (45, 3)
        assert [run.answered_by is not None for run in ledger.exchanges(key_of_number(10)).by_id.values()] == [True]
        ledger.conversation(key_of_number(20)).append("user", "And now?")
        assert list(ledger.check()) == []


@pytest.mark.parametrize("messages", [10, 45])
def test_a_generated_conversation_has_the_number_of_messages_that_was_asked_for(messages: int, db_url: str) -> None:
    fill_messages(db_url, messages)
    with threadledger.open(db_url, threads="none") as ledger:
        assert len(ledger.memory(LONG).messages) == messages


@pytest.fixture
def metered(tmp_path: Path) -> tuple[Meter, sqlite3.Connection]:
    meter = Meter()
    with meter.installed():
        connection = sqlite3.connect(tmp_path / "some.db")
    connection.execute("CREATE TABLE some (id INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("CREATE TABLE view_some_12_3_rows (id INTEGER PRIMARY KEY)")
    for table in ("some (id)", "view_some_12_3_rows (id)"):
        connection.executemany(f"INSERT INTO {table} VALUES (?)", [(each,) for each in range(1_000)])
    connection.commit()
    return meter, connection


@pytest.mark.parametrize(
    ("statement", "scanned"),
    [
        ("SELECT count(*) FROM some", {"some"}),
        ("SELECT e.text FROM some AS e WHERE e.text = 'x'", {"some"}),
        ("UPDATE some SET text = 'y' WHERE text = 'x'", {"some"}),
        ("SELECT 1 FROM view_some_12_3_rows v JOIN some ON some.id = v.id", {"view_some_rows"}),
        ("SELECT max(id) FROM some", set()),
        ("SELECT * FROM some WHERE id > 5 AND id < 9", set()),
        ("SELECT * FROM some ORDER BY id LIMIT 3", set()),
    ],
)
def test_a_scan_without_a_limit_is_found(
    statement: str, scanned: set[str], metered: tuple[Meter, sqlite3.Connection]
) -> None:
    meter, connection = metered
    meter.measure(lambda: connection.execute(statement).fetchall())
    assert {table for table, _ in meter.scans()} == scanned
    connection.close()


def test_statements_steps_and_calls_are_counted(metered: tuple[Meter, sqlite3.Connection]) -> None:
    meter, connection = metered
    one, _ = meter.measure(lambda: connection.execute("SELECT text FROM some WHERE id < 10").fetchall())
    all_rows, _ = meter.measure(lambda: [connection.execute("SELECT text FROM some").fetchall() for _ in range(2)])
    assert (one.statements, all_rows.statements) == (1, 2)
    assert all_rows.steps > 50 * one.steps > 0
    assert all_rows.calls > one.calls
    connection.close()


def test_growth_is_more_than_a_fifth_for_each_result_and_more_than_a_few_steps() -> None:
    assert growth(Cost(2, 100, 10), 1, Cost(2, 130, 12), 1) == {}
    assert growth(Cost(2, 100, 10), 1, Cost(2, 131, 12), 1) == {"steps": 1.3}
    assert growth(Cost(2, 1_000, 10), 1, Cost(3, 1_200, 13), 1) == {"statements": 1.5, "calls": 1.3}
    assert growth(Cost(10, 1_000, 100), 10, Cost(100, 10_000, 1_000), 100) == {}
    assert growth(Cost(10, 1_000, 100), 10, Cost(200, 10_000, 1_000), 100) == {"statements": 2.0}
