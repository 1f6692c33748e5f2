"""A SQLite file that is deleted or replaced while it is open takes no more writes; `restore` replaces one by a backup."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import threadledger
from threadledger.adapters import restore
from threadledger.adapters.sql import Database, RememberedAssistants
from threadledger.domain.errors import (
    Conflict,
    DatabaseReplaced,
    FileMissing,
    ForeignDatabase,
    InvalidInput,
    NewerSchema,
    StoreUnavailable,
)
from threadledger.domain.journal import quietly
from threadledger.domain.ledger import Ledger


def opened(path: Path, **options: Any) -> Ledger:
    return threadledger.open(path, threads="none", **options)


def texts(path: Path) -> list[str]:
    with opened(path) as ledger:
        return [logged.as_json()["data"]["content"] for logged in ledger.events(types=["MessageJournaled"])]


def database_of(ledger: Any) -> Database:
    found: Database = ledger.journal.recorder._database
    return found


def say(path: Path, *given: str) -> None:
    with opened(path) as ledger:
        for text in given:
            ledger.conversation("k").append("user", text)


# The open file


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def move_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def replace(path: Path) -> None:
    say(path.with_name("other.db"), "another ledger")
    path.with_name("other.db").replace(path)


def delete_and_create(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path):
        pass


CHANGES = (delete, move, move_the_folder, replace, delete_and_create)
WRITES: Mapping[str, Callable[[Ledger], Any]] = {
    "an append": lambda ledger: ledger.conversation("k").append("user", "second"),
    "a note": lambda ledger: RememberedAssistants(database_of(ledger)).put("e", "h", "a"),
    "a view": lambda ledger: ledger.conversations(),
    "a rebuilt view": lambda ledger: ledger.rebuild_views(),
    "a read": lambda ledger: ledger.memory("k"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_file_that_was_deleted_or_replaced_is_refused(
    change: Callable[[Path], None], write: Callable[[Ledger], Any], tmp_path: Path
) -> None:
    path = tmp_path / "ledgers" / "ledger.db"
    path.parent.mkdir()
    with opened(path) as ledger:
        ledger.conversation("k").append("user", "first")
        change(path)
        for _ in range(2):
            with pytest.raises(
                DatabaseReplaced, match=r"ledger\.db was deleted, moved or replaced .*: nothing was written"
            ):
                write(ledger)


def test_a_file_that_is_back_at_its_path_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with opened(path) as ledger:
        ledger.conversation("k").append("user", "first")
        move(path)
        with pytest.raises(DatabaseReplaced):
            ledger.conversation("k").append("user", "lost")
        path.with_name("moved.db").rename(path)
        ledger.conversation("k").append("user", "second")
    assert texts(path) == ["first", "second"]


def test_the_file_that_is_at_the_path_now_is_used_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with opened(path) as ledger:
        ledger.conversation("k").append("user", "first")
        delete(path)
        say(path, "new file")
        with pytest.raises(DatabaseReplaced):
            ledger.conversation("k").append("user", "lost")
    say(path, "second")
    assert texts(path) == ["new file", "second"]


def test_a_file_that_is_replaced_during_the_commit_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    with opened(path) as ledger:
        ledger.conversation("k").append("user", "first")
        kind = database_of(ledger).kind
        check = kind.check_file

        def check_late(commit: str = "") -> None:
            if commit == "after" and path.exists():
                delete(path)
            check(commit)

        monkeypatch.setattr(kind, "check_file", check_late)
        with pytest.raises(DatabaseReplaced, match="the last write may be only in the old file"):
            ledger.conversation("k").append("user", "second")


def test_a_deleted_write_ahead_log_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with opened(path) as ledger:
        ledger.conversation("k").append("user", "first")
        Path(f"{path}-wal").unlink()
        with pytest.raises(DatabaseReplaced, match=r"ledger\.db-wal was deleted"):
            ledger.conversation("k").append("user", "second")


def test_a_reader_that_cannot_write_sees_what_a_program_commits_after_its_log_was_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    with opened(path) as writer:
        writer.conversation("k").append("user", "one")
        database_of(writer).query("PRAGMA wal_checkpoint(TRUNCATE)")
        assert not Path(f"{path}-wal").stat().st_size
        monkeypatch.setattr(os, "access", lambda _, mode: mode == os.R_OK)
        with opened(path, read_only=True) as reader:
            assert len(reader.memory("k").messages) == 1
            writer.conversation("k").append("user", "two")
            assert len(reader.memory("k").messages) == 2


def test_an_address_of_sqlite_names_the_same_file_as_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a b.db"
    say(path, "one")
    address = f"sqlite:///file:{tmp_path}/a%2520b.db"
    for kind in ({}, {"read_only": True}):
        with threadledger.open(f"{address}?uri=true", threads="none", **kind) as ledger:
            assert len(ledger.memory("k").messages) == 1
    with threadledger.open(f"{address}?uri=true", threads="none") as ledger:
        ledger.conversation("k").append("user", "two")
        assert len(ledger.conversations()) == 1
    with threadledger.open(f"{address}?mode=ro&uri=true", threads="none", read_only=True) as ledger:
        assert ledger.status()["read_only"] == "its URL opens it for reading only"
        assert len(ledger.conversations(search="two")) == 1
    assert texts(path) == ["one", "two"]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("file:")] == []


def test_a_relative_path_is_the_same_file_after_the_working_folder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(Path("ledger.db")) as ledger:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        ledger.conversation("k").append("user", "first")
    assert texts(tmp_path / "ledger.db") == ["first"]


# Restoring


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "backup.db"
    say(path.with_name("source.db"), "one", "two")
    with opened(path.with_name("source.db")) as ledger:
        ledger.back_up(path)
    path.with_name("source.db").unlink()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    say(tmp_path / "target" / "ledger.db", "old")
    return tmp_path / "target" / "ledger.db"


def restored(target: Path, backup: Path, confirm: Callable[[Any], None] = lambda plan: None) -> Any:
    return restore(f"sqlite:///{target}", backup, confirm, quietly)


def test_the_restored_ledger_is_the_backup_and_the_old_one_is_kept(target: Path, backup: Path) -> None:
    target.chmod(0o640)
    done = restored(target, backup)
    assert (done.events, done.findings) == (3, ())
    assert sorted(path.name for path in target.parent.iterdir()) == ["ledger.db", done.kept.name]
    assert done.kept.name.startswith("ledger.db.before-restore-")
    assert target.stat().st_mode & 0o777 == 0o640
    assert (texts(target), texts(done.kept), texts(backup)) == (["one", "two"], ["old"], ["one", "two"])
    say(target, "three")
    assert texts(target) == ["one", "two", "three"]


def test_a_missing_database_is_created_from_the_backup(tmp_path: Path, backup: Path) -> None:
    assert restored(tmp_path / "new.db", backup).kept is None
    assert texts(tmp_path / "new.db") == ["one", "two"]


@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_is_replaced_while_another_program_has_the_database_open(
    read_only: bool, target: Path, backup: Path
) -> None:
    with opened(target, read_only=read_only) as ledger:
        assert ledger.memory("k").messages
        with pytest.raises(Conflict, match="in use by another program"):
            restored(target, backup)
        assert [path.name for path in target.parent.glob("*before*")] == []
        assert ledger.memory("k").messages
    assert texts(target) == ["old"]


def test_a_program_that_opens_the_database_meanwhile_does_not_write_to_the_old_one(target: Path, backup: Path) -> None:
    database = Database(f"sqlite:///{target}")
    database.query("SELECT 1")
    database.before_fork()  # closes the connections of a program that goes on
    database.after_fork_in_parent()
    restored(target, backup)
    with pytest.raises(DatabaseReplaced):
        database.execute("DELETE FROM tracking")
    database.close()


def test_the_write_ahead_log_of_a_killed_writer_is_part_of_the_kept_database(target: Path, backup: Path) -> None:
    child = os.fork()
    if not child:
        opened(target).conversation("k").append("user", "last words")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert Path(f"{target}-wal").stat().st_size
    assert texts(restored(target, backup).kept) == ["old", "last words"]
    assert texts(target) == ["one", "two"]


@pytest.mark.parametrize("side", ["-wal", "-journal", "-shm"])
def test_a_damaged_database_is_replaced_and_nothing_of_it_is_left_at_its_path(
    side: str, target: Path, backup: Path
) -> None:
    target.write_bytes(b"damaged " * 1_000)
    Path(f"{target}{side}").write_bytes(b"log")
    kept = restored(target, backup).kept
    assert kept.read_bytes()[:8] == b"damaged "
    assert not Path(f"{target}{side}").exists()
    assert texts(target) == ["one", "two"]


def flip(backup: Path) -> None:
    content = backup.read_bytes()
    backup.write_bytes(content.replace(b"two", b"tWo"))


def make_foreign(backup: Path) -> None:
    backup.unlink()
    with sqlite3.connect(backup) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")


def make_newer(backup: Path) -> None:
    with sqlite3.connect(backup) as connection:
        connection.execute("UPDATE threadledger SET schema_version = 99")
    connection.close()


REFUSED: Mapping[Callable[[Path], Any], tuple[type[Exception], str]] = {
    make_foreign: (ForeignDatabase, "invoices"),
    make_newer: (NewerSchema, "schema 99"),
    delete: (FileMissing, "nothing was replaced"),
    lambda backup: backup.write_bytes(b""): (ForeignDatabase, "contains no ledger"),
    lambda backup: backup.write_bytes(b"My diary. " * 100): (ForeignDatabase, "not a database"),
    lambda backup: backup.write_bytes(backup.read_bytes()[:20_000]): (StoreUnavailable, "nothing was"),
}


@pytest.mark.parametrize("spoil", REFUSED)
def test_a_file_that_is_no_whole_ledger_replaces_nothing(
    spoil: Callable[[Path], Any], target: Path, backup: Path
) -> None:
    spoil(backup)
    error, reason = REFUSED[spoil]
    with pytest.raises(error, match=reason):
        restored(target, backup)
    assert [path.name for path in target.parent.iterdir()] == ["ledger.db"]
    assert texts(target) == ["old"]


def test_a_backup_with_a_changed_message_replaces_nothing_and_the_message_is_named(target: Path, backup: Path) -> None:
    flip(backup)
    (finding,) = restored(target, backup).findings
    assert (finding.subject, finding.key, finding.version) == ("leaf", "k", 3)
    assert texts(target) == ["old"]


def test_a_backup_of_an_older_schema_is_upgraded_and_stays_as_it_is(target: Path, tmp_path: Path) -> None:
    golden = Path(__file__).resolve().parents[1] / "golden" / "schema-2.sql"
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(golden.read_text(encoding="utf-8"))
    connection.close()
    before = (tmp_path / "old.db").read_bytes()
    assert restored(target, tmp_path / "old.db").findings == ()
    with opened(target, read_only=True) as ledger:
        assert list(ledger.events())
    assert (tmp_path / "old.db").read_bytes() == before


def test_a_restore_into_a_folder_that_does_not_exist_names_the_folder(tmp_path: Path, backup: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"create the folder .*/missing first"):
        restored(tmp_path / "missing" / "ledger.db", backup)


def test_only_another_sqlite_file_can_be_restored(target: Path, backup: Path) -> None:
    with pytest.raises(InvalidInput, match="db copy URL"):
        restore("postgresql://u@h/d", backup, lambda plan: None, quietly)
    with pytest.raises(InvalidInput, match="the database itself"):
        restored(target, target)


STEPS = ("link", "replace", "fsync", "unlink")
"""Calls before which the process is killed."""


def killed_before(step: int, target: Path, backup: Path) -> bool:
    """Restore in a child process that is killed before this step; return whether it was."""
    child = os.fork()
    if not child:
        left = [step]

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any, **named: Any) -> Any:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return call(*given, **named)

            return run

        for name in STEPS:
            setattr(os, name, dying(getattr(os, name)))
        restored(target, backup)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_point_leaves_the_old_or_the_new_database_whole(
    target: Path, backup: Path, tmp_path: Path
) -> None:
    found = []
    for step in range(100):
        own = tmp_path / f"step {step}"
        shutil.copytree(target.parent, own)
        if not killed_before(step, own / "ledger.db", backup):
            break
        found.append(texts(own / "ledger.db"))
        with opened(own / "ledger.db") as ledger:
            assert list(ledger.check()) == []
        restored(own / "ledger.db", backup)
        assert texts(own / "ledger.db") == ["one", "two"]
    assert ["old"] in found
    assert ["one", "two"] in found
    assert found == sorted(found, reverse=True, key=lambda each: each == ["old"])
