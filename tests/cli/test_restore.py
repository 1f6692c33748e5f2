"""`db restore` in the terminal: its prompt, its exit codes, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import threadledger

from .conftest import Done
from .terminal import in_this_process

Command = Callable[..., Done]


def say(name: str, text: str) -> None:
    with threadledger.open(name, threads="none") as ledger:
        ledger.conversation("k").append("user", text)


def test_a_restore_asks_first_and_prints_where_the_replaced_database_is(command: Command, tmp_path: Path) -> None:
    say("ledger.db", "kept in the backup")
    assert command("db", "backup", "backup.db", "--db", "ledger.db").code == 0
    say("ledger.db", "later")
    restore = ("db", "restore", "backup.db", "--db", "ledger.db")
    asked = command(*restore)
    assert asked.code == 8
    assert "this would replace" in asked.err
    assert "(3 events, the last one of 20" in asked.err
    assert "by backup.db (2 events, the last one of 20" in asked.err
    done = command(*restore, "--yes", "-o", "json").json
    assert (done["file"], done["events"]) == ("backup.db", 2)
    assert "later" in command("show", "k", "--db", done["kept"]).out
    assert "later" not in command("show", "k", "--db", "ledger.db").out


def test_a_restore_that_is_refused_has_the_documented_exit_code(command: Command, tmp_path: Path) -> None:
    say("ledger.db", "old")
    say("backup.db", "pay 1000")
    restore = ("db", "restore", "backup.db", "--yes", "--db")
    with threadledger.open("ledger.db", threads="none") as ledger:
        assert ledger.memory("k").messages
        assert command(*restore, "ledger.db").code == 7
    assert command(*restore, "postgresql://u@h/d").code == 2
    assert command("db", "restore", "nowhere.db", "--yes", "--db", "ledger.db").code == 6
    changed = (tmp_path / "backup.db").read_bytes().replace(b"pay 1000", b"pay 9000")
    (tmp_path / "backup.db").write_bytes(changed)
    found: Any = command(*restore, "ledger.db", "-o", "json")
    assert found.code == 4
    assert [each["subject"] for each in found.json] == ["leaf"]
    assert "old" in command("show", "k", "--db", "ledger.db").out


def test_the_prompt_of_a_restore_is_the_last_line_and_no_bar_is_drawn_over_it(command: Command) -> None:
    say("ledger.db", "old")
    assert command("db", "backup", "backup.db", "--db", "ledger.db").code == 0
    code, shown = in_this_process(["db", "restore", "backup.db", "--db", "ledger.db"], typed=b"no\n")
    assert code == 1
    assert "Type 2 to continue" in " ".join(shown.split())  # a long path moves the end of the line
    assert "\x1b" not in shown
