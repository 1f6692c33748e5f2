"""No command shows or changes the ledger of another tenant; `db upgrade --all-tenants` upgrades each."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

import threadledger

from .auditing import NOW
from .command_table import TABLE
from .conftest import Done

pytestmark = pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning")

Command = Callable[..., Done]
MARK = "zebra"
"""Word that only the ledger of the other tenant has."""


@pytest.fixture
def pattern(story_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ledgers of two tenants: the story, and the story with a word of its own in texts, keys and failures."""
    for tenant in ("acme", "beta"):
        (tmp_path / tenant).mkdir()
        shutil.copy(story_file, tmp_path / tenant / "chats.db")
    with threadledger.open(f"{tmp_path}/beta/chats.db", threads="none") as ledger:
        chat = ledger.conversation(f"{MARK}-1")
        chat.append("user", f"Where is the {MARK}?")
        with pytest.raises(RuntimeError), chat.run(f"{MARK}-backend", "m"):
            raise RuntimeError(f"no {MARK} here")
        chat.describe(owner=MARK)
        ledger.api_keys.add(MARK)
        ledger.failures(), ledger.conversations(search=MARK)
    monkeypatch.setenv("THREADLEDGER_DB", f"{tmp_path}/{{tenant}}/chats.db")
    return f"{tmp_path}/{{tenant}}/chats.db"


def digest(folder: Path) -> str:
    with sqlite3.connect(folder / "chats.db") as connection:
        rows = [
            *connection.execute("SELECT * FROM events ORDER BY position"),
            *connection.execute("SELECT * FROM streams"),
        ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_no_command_shows_or_changes_what_is_another_tenants(
    pattern: str, command: Command, provider: Any, tmp_path: Path
) -> None:
    before, leaks, ran = digest(tmp_path / "beta"), [], 0
    kept = tmp_path / "kept.db"
    shutil.copy(tmp_path / "acme" / "chats.db", kept)
    with freeze_time(NOW):
        for path, entry in TABLE.items():
            if entry.serves or entry.without_ledger or path in {("init",), ("db", "restore")}:
                continue
            for more in ((), entry.writes) if entry.writes else ((),):
                new = tmp_path / "new"
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                for leftover in ("chats.db-wal", "chats.db-shm"):
                    (tmp_path / "acme" / leftover).unlink(missing_ok=True)
                shutil.copy(kept, tmp_path / "acme" / "chats.db")
                places = {"FILE": new / "file", "FOLDER": new / "folder", "URL": f"sqlite:///{new / 'url.db'}"}
                words = [str(places.get(each, each)) for each in (*entry.arguments, *more)]
                done = command("--tenant", "acme", *words, stdin=b"Hello.\n")
                files = b"".join(each.read_bytes() for each in new.rglob("*") if each.is_file())
                leaks += [path] if MARK in done.out + done.err or MARK.encode() in files else []
                ran += done.code == 0
    assert leaks == [] and ran > 40
    assert digest(tmp_path / "beta") == before
    shown = command("--tenant", "beta", "search", MARK).out  # what was looked for can be found
    assert MARK in shown and MARK in command("--tenant", "beta", "audit", "failures").out
    assert MARK not in str([each.body for each in provider.requests])


def test_all_ledgers_are_upgraded_and_one_that_fails_stops_no_other(
    pattern: str, command: Command, tmp_path: Path
) -> None:
    golden = Path(__file__).resolve().parents[1] / "golden" / "schema-4.sql"
    (tmp_path / "beta" / "chats.db").unlink()
    with sqlite3.connect(tmp_path / "beta" / "chats.db") as connection:
        connection.executescript(golden.read_text(encoding="utf-8"))
    connection.close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "chats.db").write_bytes(b"no database" * 100)
    done = command("db", "upgrade", "--all-tenants", "-o", "json")
    assert done.code == 3
    assert [(each["tenant"], each["schema_before"]) for each in done.json] == [
        ("acme", None),
        ("beta", 4),
        ("broken", None),
    ]
    assert "is not a database" in done.json[2]["outcome"]
    assert command("--tenant", "acme", "db", "upgrade", "--all-tenants").code == 2


def test_a_command_without_a_tenant_or_with_a_wrong_one_says_so_in_one_sentence(pattern: str, command: Command) -> None:
    for arguments in (
        ["list"],
        ["--tenant", "../beta", "list"],
        ["--tenant", "Beta", "list"],
        ["--tenant", "", "list"],
    ):
        done = command(*arguments)
        assert done.code == 2 and done.out == "" and len(done.err.splitlines()) == 1, arguments
    assert command("--tenant", "nobody", "list").code == 6
