"""The operator's work: `db check` names what was edited, removed or moved; a backup is a ledger; a copy goes anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from re import findall
from typing import Any

import pytest

from threadledger.adapters.sql import Database, Factory, upkeep
from threadledger.adapters.sql.connections import Transaction
from threadledger.adapters.sql.sqlite_schema import STEPS
from threadledger.adapters.sql.upkeep import TABLES
from threadledger.adapters.sql.views import audit, transaction
from threadledger.adapters.sql.views.transaction import ViewTransaction
from threadledger.domain.errors import ChangedEvent, Conflict, StoreError, StoreUnavailable
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger


@pytest.fixture
def opened() -> Iterator[Callable[[str], Ledger]]:
    ledgers: list[Ledger] = []

    def open_one(url: str) -> Ledger:
        ledgers.append(Ledger(Journal(Factory(database=Database(url)))))
        return ledgers[-1]

    yield open_one
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(any_db_url: str, opened: Callable[[str], Ledger]) -> Ledger:
    """Two conversations, their events one after the other: a has positions 1, 2, 5, 6; b has 3, 4, 7, 8."""
    ledger = opened(any_db_url)
    for text in ("one", "two"):
        ledger.conversation("a").append("user", text) if text == "one" else ledger.conversation("a").extend(
            [{"role": "user", "content": text}, {"role": "assistant", "content": "answer"}]
        )
        ledger.conversation("b").append("user", text) if text == "one" else ledger.conversation("b").extend(
            [{"role": "user", "content": text}, {"role": "assistant", "content": "answer"}]
        )
    assert [(event.position, event.key) for event in ledger.events()] == [
        *((1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "a"), (6, "a"), (7, "b"), (8, "b")),
    ]
    return ledger


def tamper(url: str, *statements: str) -> None:
    """Change rows behind the ledger's back, as somebody could who may do all."""
    database = Database(url)
    if url.startswith("sqlite"):
        database.execute("DROP TRIGGER events_are_not_changed")
        database.execute("DROP TRIGGER events_are_not_deleted")
    else:
        database.execute("ALTER TABLE events DISABLE TRIGGER USER")
    for statement in statements:
        database.execute(statement)
    database.close()


@contextmanager
def written_meanwhile(ledger: Ledger) -> Iterator[None]:
    """Somebody else goes on appending."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            ledger.conversation("a").append("user", "more")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def found(ledger: Ledger) -> list[tuple[str, str | None, int | None]]:
    return [(finding.subject, finding.key, finding.position) for finding in ledger.check()]


def test_a_ledger_that_nobody_touched_is_clean(ledger: Ledger) -> None:
    assert found(ledger) == []


@pytest.mark.parametrize(
    "edit",
    [
        "state = replace(state, 'two', 'too')",
        "topic = 'MessageRetracted'",
        "at = '2020-01-01T00:00:00.000000Z'",
        "text_id = 'another', id = NULL",
        "schema = 2",
    ],
)
def test_an_edited_event_is_named(ledger: Ledger, any_db_url: str, edit: str) -> None:
    tamper(any_db_url, f"UPDATE events SET {edit} WHERE position = 5")
    assert ("leaf", "a", 5) in found(ledger)


def test_a_payload_that_cannot_be_read_any_more_is_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "UPDATE events SET state = '{' WHERE position = 5")
    assert {("leaf", "a", 5), ("payload", "a", 5)} <= set(found(ledger))


def test_a_removed_event_is_named_by_its_position_and_its_conversation(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "DELETE FROM events WHERE position = 5")
    assert {("position", None, 5), ("version", "a", 6)} <= set(found(ledger))


def test_the_last_event_is_missed_too(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "DELETE FROM events WHERE position = 8")
    assert {("position", None, 8), ("version", "b", None)} <= set(found(ledger))


def test_a_conversation_whose_events_are_all_gone_is_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "DELETE FROM events WHERE stream = 1")
    assert ("stream", "a", None) in found(ledger)


def test_two_events_that_changed_places_in_the_log_are_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(
        any_db_url,
        "UPDATE events SET position = 100 WHERE position = 6",
        "UPDATE events SET position = 6 WHERE position = 7",
        "UPDATE events SET position = 7 WHERE position = 100",
    )
    assert {("leaf", "b", 6), ("leaf", "a", 7)} <= set(found(ledger))


def test_an_event_moved_to_another_version_is_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(
        any_db_url,
        "UPDATE events SET version = 100 WHERE position = 5",
        "UPDATE events SET version = 3 WHERE position = 6",
        "UPDATE events SET version = 4 WHERE position = 5",
    )
    assert {("leaf", "a", 5), ("leaf", "a", 6), ("order", "a", 5)} <= set(found(ledger))


def test_an_event_moved_to_another_conversation_is_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "UPDATE events SET stream = 1, version = 5 WHERE position = 8")
    assert {("leaf", "a", 8), ("version", "a", None), ("version", "b", None)} <= set(found(ledger))


def test_a_state_that_does_not_follow_from_the_events_is_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(
        any_db_url,
        "UPDATE streams SET snapshot = replace(snapshot, '\"messages\":3', '\"messages\":9') WHERE stream = 1",
    )
    assert ("state", "a", None) in found(ledger)


def test_a_deadline_that_does_not_follow_from_the_events_is_named(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "UPDATE streams SET due_at = '2026-11-29T12:00:00.000000Z' WHERE name = 'conversation:b'")
    assert found(ledger) == [("state", "b", None)]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "UPDATE streams SET snapshot = CAST(replace(snapshot, 'open_runs', 'op' || x'ff' || 'n_runs') AS TEXT)",
            "state",
        ),
        ("INSERT INTO assistants VALUES ('e', 'h', CAST(x'61ff' AS TEXT))", "database"),
        ("INSERT INTO mirror_heads VALUES ('s', 'm', CAST(x'61ff' AS TEXT), 0, 0, NULL, NULL, '[]')", "database"),
    ],
)
def test_a_text_that_cannot_be_decoded_is_named_and_not_backed_up(
    damage: str, expected: str, opened: Callable[[str], Ledger], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = opened(url)
    ledger.conversation("a").append("user", "one")
    tamper(url, damage)
    assert {subject for subject, _, _ in found(ledger)} == {expected}
    with pytest.raises(ChangedEvent):
        ledger.back_up(tmp_path / "backup.db")
    with pytest.raises(StoreError):
        ledger.copy_to(f"sqlite:///{tmp_path / 'copy.db'}")


def test_a_check_beside_writers_finds_nothing_wrong(
    ledger: Ledger, any_db_url: str, opened: Callable[[str], Ledger]
) -> None:
    with written_meanwhile(opened(any_db_url)):
        for _ in range(20):
            assert found(ledger) == []


def test_a_backup_taken_in_use_is_a_ledger_with_a_beginning_of_the_log(
    ledger: Ledger, any_db_url: str, opened: Callable[[str], Ledger], tmp_path: Path
) -> None:
    with written_meanwhile(opened(any_db_url)):
        copied = ledger.back_up(tmp_path / "backup.db")
    backup = opened(f"sqlite:///{tmp_path / 'backup.db'}")
    assert found(backup) == []
    assert [event.as_json() for event in backup.events()] == [
        event.as_json() for event in ledger.events() if event.position <= copied
    ]
    assert backup.conversation("b").append("user", "on a copy").version == 5


def test_a_backup_replaces_no_file(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "precious.db").write_text("precious")
    with pytest.raises(Conflict, match=r"precious\.db exists already"):
        ledger.back_up(tmp_path / "precious.db")
    assert (tmp_path / "precious.db").read_text() == "precious"


def test_a_backup_into_a_folder_that_is_not_there_says_so_and_leaves_nothing(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="create the folder"):
        ledger.back_up(tmp_path / "nowhere" / "backup.db")
    assert not (tmp_path / "nowhere").exists()


def test_what_a_broken_off_backup_left_is_no_hindrance(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "backup.db.unfinished").write_text("half")
    assert ledger.back_up(tmp_path / "backup.db") == 8
    assert not (tmp_path / "backup.db.unfinished").exists()


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_a_ledger_moves_to_a_database_of_either_kind_and_goes_on_there(
    ledger: Ledger, opened: Callable[[str], Ledger], tmp_path: Path, target: str, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'target.db'}"
    if target == "postgresql":
        url = request.getfixturevalue("new_postgres_url")()
    assert ledger.copy_to(url) == 8
    moved = opened(url)
    assert [event.as_json() for event in moved.events()] == [event.as_json() for event in ledger.events()]
    assert found(moved) == []
    moved.conversation("c").append("user", "new here")
    moved.conversation("a").append("user", "and here")
    assert [event.position for event in moved.events(after=8)] == [9, 10, 11]
    assert found(moved) == []


def test_a_copy_into_a_database_in_use_is_refused(
    ledger: Ledger, opened: Callable[[str], Ledger], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'target.db'}"
    opened(url).conversation("mine").append("user", "Hello")
    with pytest.raises(Conflict, match="already contains a ledger"):
        ledger.copy_to(url)
    assert len(list(opened(url).events())) == 2


def test_a_copy_has_every_table_except_those_of_views_and_of_processes_that_run() -> None:
    created = [name for step in STEPS for text in step for name in findall(r"CREATE TABLE (\w+)", text)]
    assert {name for name, _, _ in TABLES} == set(created) - {
        *("threadledger", "tracking", "parked"),
        *("workers", "provider_limits", "backend_health"),
        *("copied_events", "upgrading"),  # of the step that rewrites events, which ends with neither
    }


def test_a_copy_of_a_ledger_keeps_threads_that_were_created_and_not_linked(
    ledger: Ledger, any_db_url: str, tmp_path: Path
) -> None:
    row = ("c1", "conversation:a", "conversations", "https://api.example/v1", "conv_1", "2026-11-29T12:00:00.000000Z")
    tamper(any_db_url, f"INSERT INTO thread_creations VALUES {row}")
    ledger.copy_to(f"sqlite:///{tmp_path / 'target.db'}")
    ledger.back_up(tmp_path / "backup.db")
    for name in ("target.db", "backup.db"):
        copy = Database(f"sqlite:///{tmp_path / name}")
        assert copy.query("SELECT * FROM thread_creations") == [row]
        copy.close()


def test_an_error_of_the_copied_database_names_it_and_not_the_target(
    ledger: Ledger, any_db_url: str, tmp_path: Path
) -> None:
    tamper(any_db_url, "DROP TABLE assistants")
    with pytest.raises(StoreError, match="assistants") as refused:
        ledger.copy_to(f"sqlite:///{tmp_path / 'target.db'}")
    assert str(refused.value).startswith(any_db_url.partition("://")[0])
    assert "target.db" not in str(refused.value)


def test_a_check_reads_notes_and_views_a_few_rows_at_a_time(
    any_db_url: str, opened: Callable[[str], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    most, pages = 20, 5
    ledger = opened(any_db_url)
    for number in range(most + 1):
        chat = ledger.conversation(f"k{number}")
        chat.append("user", "a question", idempotency_key="first")
        with suppress(RuntimeError), chat.run("chat", "m"):
            raise RuntimeError("no")
    ledger.conversations(search="question")
    assert len(ledger.failures()) == most + 1
    rows, execute = ViewTransaction.rows, Transaction.execute

    def read(transaction: ViewTransaction, *query: Any) -> list[Any]:
        found = rows(transaction, *query)
        assert len(found) <= most or "r.failure_group" in query[0], query  # failures of the hour in progress
        return found

    def executed(transaction: Transaction, statement: str, values: Sequence[Any] = ()) -> Any:
        assert "FROM idempotency_keys" not in statement, "all keys at once"
        return execute(transaction, statement, values)

    monkeypatch.setattr(ViewTransaction, "rows", read)
    monkeypatch.setattr(Transaction, "execute", executed)
    for module, name in ((audit, "PAGE_FAILURES"), (transaction, "PAGE_ROWS"), (upkeep, "PAGE_ROWS")):
        monkeypatch.setattr(module, name, pages)
    assert list(ledger.check()) == []
