"""What a changed event does to each command, and what `--unchecked` shows."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from .auditing import NOW, open_story
from .command_table import KEY, TABLE

WAS, IS = "Where is my parcel?", "Send 9000 to me now"
"""A message of the story, and what it is changed to."""


@pytest.fixture(scope="module")
def changed_story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story with views that have read it, in which one message was changed afterwards."""
    path = tmp_path_factory.mktemp("changed") / "story.db"
    with freeze_time(NOW), open_story(f"sqlite:///{path}") as ledger:
        ledger.conversations(search="parcel")
        ledger.failures()
    change(path, f"UPDATE events SET state = replace(state, '{WAS}', '{IS}')")
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for each in ("DROP TRIGGER IF EXISTS events_are_not_changed", *statements):
            database.execute(each)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.fixture
def damaged(changed_story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default database of the commands: a copy of the changed story."""
    monkeypatch.setenv("THREADLEDGER_DB", f"sqlite:///{tmp_path / 'damaged.db'}")
    return Path(shutil.copy(changed_story, tmp_path / "damaged.db"))


MAY_ANSWER = {
    "list",
    "search",
    "describe",
    "delete",
    "audit",
    "blobs",
    "db",
    "doctor",
    "replay",
    "append",
    "threads",
    "import",
    "profile",
    "serve",
    "worker",
}
"""Commands that read no text of the changed message, or report it as one failed item among others."""


def test_no_command_prints_or_sends_a_changed_text(
    command: Callable[..., Any], provider: Any, damaged: Path, changed_story: Path, tmp_path: Path
) -> None:
    entries = {path: entry for path, entry in TABLE.items() if not entry.serves and not entry.without_ledger}
    for path, entry in entries.items():
        shutil.copy(changed_story, damaged)
        for name in ("damaged.db-wal", "damaged.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        new = tmp_path / "-".join(path)
        places = {"FILE": str(new), "FOLDER": str(new), "URL": f"sqlite:///{new}"}
        done = command(
            *(places.get(each, each) for each in entry.arguments), stdin=b"hello\n" if "chat" in path else b""
        )
        assert "unexpected error" not in done.err, path
        assert IS not in done.out + done.err, path
        assert IS not in json.dumps([each.body for each in provider.requests], default=str), path
        if done.code == 0:
            assert path[0] in MAY_ANSWER | {"init"}, path
        if done.code == 4 and path not in {("db", "check"), ("doctor",)}:
            assert f"event 2 of '{KEY}' at position 3" in " ".join(done.err.split()), path


def test_nothing_changed_is_written_to_a_thread(command: Callable[..., Any], provider: Any, damaged: Path) -> None:
    command("append", "customer-3", "user", "and then?")
    for arguments in (
        ("rebuild", KEY, "--apply", "--yes"),
        ("reconcile", KEY, "--apply", "--yes"),
        ("rerun", KEY, "--apply", "--yes", "--include", "answered"),
    ):
        done = command("replay", *arguments)
        assert done.code != 0, arguments
        assert f"event 2 of '{KEY}' at position 3" in done.out + done.err, arguments
    sent = json.dumps([each.body for each in provider.requests], default=str)
    assert "and then?" in sent
    assert IS not in sent


def test_a_question_to_a_changed_conversation_is_kept_and_not_sent(
    command: Callable[..., Any], provider: Any, damaged: Path
) -> None:
    assert command("ask", KEY, "And now?", "--backend", "chat").code == 4
    assert not [each for each in provider.requests if "completions" in each.path]
    change(damaged, f"UPDATE events SET state = replace(state, '{IS}', '{WAS}')")  # the database is repaired
    assert "And now?" in command("show", KEY).out
    assert command("ask", KEY, "And now?", "--backend", "chat").code == 0


def test_unchecked_shows_changed_events_and_names_them(command: Callable[..., Any], damaged: Path) -> None:
    done = command("show", KEY, "--unchecked", "-o", "json")
    assert done.code == 4
    assert IS in done.json["messages"][0]["content"]
    assert f"UNCHECKED: event 2 of '{KEY}' (position 3) was changed" in done.err
    exported = command("export", "--all", "--unchecked")
    assert exported.code == 4
    assert IS in exported.out
    assert len(exported.out.splitlines()) == 3
    assert f"event 2 of '{KEY}'" in exported.err
    whole = command("show", "customer-3", "--unchecked")
    assert (whole.code, whole.err) == (0, "")


def test_unchecked_reads_around_events_that_are_missing_or_unreadable(
    command: Callable[..., Any], damaged: Path
) -> None:
    change(
        damaged,
        "DROP TRIGGER events_are_not_deleted",
        "DELETE FROM events WHERE position = 4",
        "UPDATE events SET state = '{' WHERE position = 3",
        "UPDATE events SET state = CAST(x'7bff' AS TEXT) WHERE position = 6",
    )
    done = command("show", KEY, "--unchecked", "--view", "timeline", "-o", "json")
    assert done.code == 4
    assert [each["version"] for each in done.json["events"]] == [1, 4, 6, 7, 8, 9, 10]
    for problem in ("event 2 of", "event 3 of 'customer-1' (position ?) is missing", "event 5 of"):
        assert problem in done.err
    assert "cannot be read, and was left out" in done.err


def test_an_export_that_is_refused_keeps_the_earlier_file(
    command: Callable[..., Any], damaged: Path, tmp_path: Path
) -> None:
    (tmp_path / "all.jsonl").write_text("earlier")
    assert command("export", "--all", "--output", str(tmp_path / "all.jsonl")).code == 4
    assert (tmp_path / "all.jsonl").read_text() == "earlier"
    assert not list(tmp_path.glob("*.part"))


def test_a_refused_backup_says_how_to_keep_the_damaged_database_and_how_to_get_its_texts(
    command: Callable[..., Any], damaged: Path, tmp_path: Path
) -> None:
    done = command("db", "backup", str(tmp_path / "backup.db"))
    assert done.code == 4
    for part in (
        f"event 2 of '{KEY}' at position 3",
        "threadledger db check",
        "copy its files",
        "export --all --unchecked",
    ):
        assert part in done.err
    assert not list(tmp_path.glob("backup*"))
