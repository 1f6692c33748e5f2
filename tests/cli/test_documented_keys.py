"""docs/commands.md names the keys of every JSON document that a command prints, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import threadledger

from .command_table import TABLE

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text("utf-8")
LINES = re.findall(r"^\| (.+?) \| (.+) \|$", DOCUMENT.partition("## JSON keys")[2].partition("\n## ")[0], re.MULTILINE)
NAMES = [(re.findall(r"`([^`]+)`|^(an? \w+)", label), keys) for label, keys in LINES[1:]]
ROWS = {command or thing: keys for names, keys in NAMES for command, thing in names}
SPAN = re.compile(r"`([a-z_0-9]+(?:, [a-z_0-9]+)*)`")

WITHOUT_DOCUMENT = {
    "demo",
    "audit report",
    "audit export",
    "export",
    "blobs extract",
    "replay cancel",
    "serve",
    "simulate",
    "worker",
}


def named(label: str) -> tuple[set[str], set[str]]:
    """The keys that a row always promises, which its first list has, and all names in it and in the rows it refers to."""
    cell = ROWS[label]
    lists = [set(each.split(", ")) for each in SPAN.findall(cell)]
    others = [named(each)[1] for each in re.findall(r"those of (a \w+)", cell)]
    return lists[0] if lists else set(), set().union(*lists, *others)


def test_every_command_that_prints_a_document_has_one_row() -> None:
    labels = [command or thing for names, _ in NAMES for command, thing in names]
    assert sorted(labels) == sorted(set(labels))
    assert {" ".join(path) for path in TABLE} - set(labels) == WITHOUT_DOCUMENT


class Printed:
    """Run commands and collect the differences between the keys that they print and those of their rows."""

    def __init__(self, command: Callable[..., Any]) -> None:
        self.command = command
        self.wrong: list[str] = []
        self.seen: set[str] = set()

    def __call__(self, *arguments: str, row: str = "") -> Any:
        label = row or next(" ".join(arguments[:n]) for n in (3, 2, 1) if " ".join(arguments[:n]) in ROWS)
        done = self.command(*arguments, "-o", "json")
        assert done.out, done.err
        document = done.json
        promised, known = named(label)
        for each in document if isinstance(document, list) else [document]:
            self.seen.add(label)
            if not promised <= each.keys() <= known:
                self.wrong.append(f"{label}: lacks {promised - each.keys()}, not named {each.keys() - known}")
        return document


@pytest.fixture
def printed(command: Callable[..., Any], provider: Any, db_url: str, monkeypatch: pytest.MonkeyPatch) -> Printed:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    return Printed(command)


def test_conversations_and_their_messages(printed: Printed) -> None:
    for arguments in (("init",), ("append", "k", "user", "hello"), ("ask", "k", "When?"), ("events",)):
        printed(*arguments)
    first, question, answer = [each["message_id"] for each in printed("show", "k")["messages"]]
    for arguments in (
        *(("list",), ("search", "hello"), ("describe", "k", "--title", "T"), ("threads",), ("fork", "k", "copy")),
        *(("message", "pin", "k", first), ("message", "rate", "k", answer, "1")),
        *(("message", "edit", "k", question, "When then?"), ("message", "regenerate", "k"), ("branch", "list", "k")),
        *(("branch", "select", "k", answer), ("message", "retract", "k", first), ("compact", "k", "--keep-last", "1")),
        *(("diff", "k", "3.."), ("delete", "copy")),
    ):
        printed(*arguments)
    tree = printed("show", "k", "--tree", row="show --tree")
    assert tree["messages"][0].keys() <= named("show --tree")[1]
    printed("show", "copy", "--view", "timeline")
    printed("list", "--limit", "1", "--cursor", row="a page")
    assert printed.wrong == []


def test_failures_and_what_is_done_about_them(printed: Printed, provider: Any) -> None:
    provider.add_fault("POST /threads/{thread_id}/runs", fail={}, times=2)
    provider.add_fault("POST /chat/completions", refuse={"status": 429, "message": "Slow down."})
    printed("ask", "k", "When?")
    document = printed("show", "k")
    assert document["unanswered"]
    run = printed("audit", "failures", row="audit failures")[0]["run_id"]
    group = printed("audit", "groups")[0]["group"]
    for arguments in (
        *(("audit", "show", run, "--memory"), ("audit", "resolve", group), ("audit", "mute", group)),
        *(("audit", "reopen", group), ("audit", "summary"), ("profile", "list"), ("replay", "rerun", "--failed")),
        *(("replay", "rerun", "--failed", "--apply", "--yes"), ("replay", "jobs"), ("doctor",)),
    ):
        printed(*arguments)
    profile = printed.command("profile", "list", "-o", "json").json[0]["hash"]
    printed("profile", "diff", profile, profile)
    provider.lose(next(iter(provider.provider.threads)))
    printed("append", "k", "user", "hello")
    printed("diff", "k", "--thread", row="diff --thread")
    for command in ("verify", "reconcile", "rebuild"):
        printed("replay", command, "k")
    assert printed.wrong == []


def test_files_and_the_database(printed: Printed, tmp_path: Path) -> None:
    line = {"id": "i", "messages": [{"role": "user", "content": "hello"}]}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    printed("import", "in.jsonl")
    printed("ask", "k", "Read it.", "--file", "notes.txt")
    for arguments in (
        *(("blobs", "list"), ("db", "status"), ("db", "backup", "b.db"), ("db", "copy", "sqlite:///c.db")),
        *(("db", "upgrade"), ("db", "rebuild-views"), ("db", "restore", "b.db", "--yes"), ("config", "--origin")),
        *(("config",), ("trust",)),
        *(("serve", "keys", "add", "app"), ("serve", "keys", "list"), ("serve", "keys", "revoke", "app")),
    ):
        printed(*arguments)
    with threadledger.open() as ledger:
        ledger.journal.worker_notes.fail("mirror", "k", "the key is wrong", most=1)
    printed("worker", "status")
    printed("worker", "retry")
    assert printed.wrong == []
    assert printed.seen >= {"import", "blobs list", "db rebuild-views", "trust"}
