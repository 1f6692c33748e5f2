"""What the other commands say, word by word: as a table, as JSON, and on a narrow terminal. `test_audit_golden.py` has the
audit's.

The snapshots are written anew with: pytest tests/cli/test_golden.py --snapshot-update
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from .auditing import NOW, shown_lines
from .terminal import in_this_process

KEY = "customer-1"

DATABASE = "sqlite:///ledger.db"
"""By a path that is the same everywhere: a table is as wide as what it shows."""

COMMANDS = {
    "list": (("list",), 0),
    "list-search": (("list", "--search", "parcel"), 0),
    "list-nothing": (("list", "--search", "zebra"), 0),
    "show": (("show", KEY), 0),
    "show-then": (("show", KEY, "--at", "2"), 0),
    "show-timeline": (("show", KEY, "--view", "timeline"), 0),
    "show-memory": (("show", KEY, "--view", "memory"), 0),
    "events": (("events", KEY, "--type", "RunFailed"), 0),
    "diff": (("diff", KEY, "2.."), 4),
    "diff-same": (("diff", KEY, "2..3"), 0),
    "rebuild-plan": (("replay", "rebuild", "--all"), 0),
    "rebuild-nothing": (("replay", "rebuild", "--search", "zebra"), 0),
    "verify": (("replay", "verify", "--all"), 0),
    "rerun-plan": (("replay", "rerun", "--failed"), 0),
    "rerun-plan-fork": (("replay", "rerun", "aaaa1111", "--into", "fork"), 0),
    "reconcile-plan": (("replay", "reconcile", KEY), 0),
    "jobs": (("replay", "jobs"), 0),
    "db-status": (("db", "status"), 0),
    "db-check": (("db", "check"), 0),
    "config": (("config", "--origin"), 0),
    "doctor": (("doctor",), 4),
}
"""Arguments, and the exit code."""

NARROW = [
    name
    for name in COMMANDS
    if name not in {"list-search", "show-then", "diff-same", "rebuild-nothing", "rerun-plan-fork"}
]
"""Commands whose tables differ; the others show one of the same columns."""

EXPORTS = {kind: ("export", "--all", "--format", kind) for kind in ("jsonl", "messages", "markdown")}

CHANGING = (
    (r"\"size_bytes\": \d+|(?<=size bytes)\s+\d[\d,]*", "SIZE"),
    (r"(^|,)\d{5,}(,|$)", r"\1SIZE\2"),
    (r"\d+\.\d+\s+USD\s+by\s+genai-prices\s+[\d.]+,\s+newest\s+price\s+dated\s+[\d-]+", "PRICE"),
    (r"genai-prices\s+[\d.]+,\s+newest\s+price\s+dated\s+[\d-]+", "PRICES"),
    (r"v1\.[0-9a-f-]{36}\.(\d+)\.[0-9a-f]{16}", r"CURSOR-\1"),
    (r"\"estimated_cost\": [\d.]+", "COST"),
)
"""What differs from machine to machine, or with the prices that are installed."""


@pytest.fixture
def story(story_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger of the story, in this folder, and a provider that nobody may reach."""
    for name, value in {
        "THREADLEDGER_DB": DATABASE,
        "OPENAI_API_KEY": "sk-planted-secret",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_MODEL": "gpt-of-nobody",
        "THREADLEDGER_FALLBACK_MODEL": "gpt-of-nobody",
    }.items():
        monkeypatch.setenv(name, value)
    shutil.copyfile(story_file, DATABASE.removeprefix("sqlite:///"))


def steady(text: str) -> str:
    for changing, instead in CHANGING:
        text = re.sub(changing, instead, text, flags=re.MULTILINE)
    assert "planted" not in text
    return text


@pytest.mark.parametrize("output", ["table", "json", "csv"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_says_in_each_format(
    command: Callable[..., Any], story: None, snapshot: Any, name: str, output: str
) -> None:
    arguments, code = COMMANDS[name]
    with freeze_time(NOW):
        done = command(*arguments, "-o", output)
    assert done.code == code
    assert "\x1b" not in done.out + done.err, "nobody asked for colours here"
    if output == "json":
        json.loads(done.out)
    assert snapshot == shown_lines(steady(done.out), steady(done.err))


@pytest.mark.parametrize("name", NARROW)
def test_what_a_command_says_on_a_narrow_terminal(story: None, snapshot: Any, name: str) -> None:
    arguments, code = COMMANDS[name]
    ended, shown = in_this_process(arguments, columns=60, frozen_at=NOW.isoformat(), environment={"NO_COLOR": "1"})
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert ended == code
    assert not re.search(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|9[0-7])", shown), "NO_COLOR means no colours"
    lines = [line.rstrip() for line in steady(plain).splitlines()]
    pairs = zip(lines, ["", *lines], strict=False)
    assert snapshot == [line for line, before in pairs if line != before or "━" not in line]  # a timer redraws the bar


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_an_export_looks_like(command: Callable[..., Any], story: None, snapshot: Any, kind: str) -> None:
    with freeze_time(NOW):
        done = command(*EXPORTS[kind])
    assert done.code == 0
    assert snapshot == done.out


def test_what_an_import_says(command: Callable[..., Any], story: None, snapshot: Any) -> None:
    Path("talk.jsonl").write_text(
        '{"id": "new", "messages": [{"role": "user", "content": "hi"}]}\n{"id": 7}\n', encoding="utf-8"
    )
    done = command("import", "talk.jsonl")
    assert done.code == 3
    assert snapshot == shown_lines(done.out, done.err)
