"""What the audit's commands say, word by word: as a table, as JSON, and on a narrow terminal.

The snapshots are written anew with: pytest tests/cli/test_audit_golden.py --snapshot-update
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

import threadledger

from .auditing import NOW, shown_lines
from .terminal import in_this_process, on_a_terminal

COMMANDS = {
    "failures": ("audit", "failures"),
    "failures-newest": ("audit", "failures", "--limit", "1", "--backend", "chat"),
    "groups": ("audit", "groups"),
    "groups-of-a-day": ("audit", "groups", "--since", "24h"),
    "groups-all": ("audit", "groups", "--state", "all"),
    "show": ("audit", "show", "aaaa1111", "--memory"),
    "show-answered": ("audit", "show", "aaaa2222"),
    "show-abandoned": ("audit", "show", "bbbb0002"),
    **{
        f"summary-{by}": ("audit", "summary", "--by", by) for by in ("cause", "code", "backend", "model", "day", "hour")
    },
    "summary-profile": ("audit", "summary", "--by", "profile", "--since", "7d"),
    "nothing-failures": ("audit", "failures", "--cause", "quota_exhausted"),
    "nothing-groups": ("audit", "groups", "--state", "returned"),
    "nothing-summary": ("audit", "summary", "--since", "1s"),
}

NARROW = ("failures", "groups", "show", "show-abandoned", "summary-cause", "summary-profile", "nothing-failures")
"""Commands whose tables differ; the others show one of the same columns."""

DECISIONS = (
    ("audit", "resolve", "{rate}", "--note", "a higher limit since yesterday"),
    ("audit", "mute", "{tools}", "--until", "7d", "--note", "known"),
    ("audit", "reopen", "{tools}"),
    ("audit", "mute", "{tools}"),
)


@pytest.fixture(scope="module")
def viewed(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The ledger of the story with its views, and the groups of two of its failures."""
    path = tmp_path_factory.mktemp("viewed") / "story.db"
    shutil.copyfile(story_file, path)
    with freeze_time(NOW), threadledger.open(f"sqlite:///{path}", threads="none") as ledger:
        by_cause = {each.cause.value: each.group for each in ledger.failure_groups()}
    return path, {"rate": by_cause["rate_limited"], "tools": by_cause["too_many_tools"]}


@pytest.fixture
def story(viewed: tuple[Path, dict[str, str]], db_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The groups of two failures of the story, whose ledger the settings name."""
    path, groups = viewed
    shutil.copyfile(path, db_url.removeprefix("sqlite:///"))
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    return groups


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("output", ["table", "json", "jsonl", "csv"])
def test_what_a_command_says_in_each_format(
    command: Callable[..., Any], story: dict[str, str], snapshot: Any, name: str, output: str
) -> None:
    with freeze_time(NOW):
        done = command(*COMMANDS[name], "-o", output)
    assert done.code == 0
    assert "\x1b" not in done.out + done.err, "nobody asked for colours here"
    assert snapshot == shown_lines(done.out, done.err)


@pytest.mark.parametrize("name", NARROW)
def test_what_a_command_says_on_a_narrow_terminal(story: dict[str, str], snapshot: Any, name: str) -> None:
    code, shown = in_this_process(COMMANDS[name], columns=60, frozen_at=NOW.isoformat(), environment={"NO_COLOR": "1"})
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert not re.search(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|9[0-7])", shown), "NO_COLOR means no colours"
    assert snapshot == [line.rstrip() for line in plain.splitlines()]


def test_a_terminal_has_colours(story: dict[str, str]) -> None:
    assert "\x1b[31m" in on_a_terminal(COMMANDS["summary-cause"], columns=120, frozen_at=NOW.isoformat())[1]


def test_what_is_said_of_decisions_and_how_groups_look_afterwards(
    command: Callable[..., Any], story: dict[str, str], snapshot: Any
) -> None:
    with freeze_time(NOW):
        for decision in DECISIONS:
            done = command(*(part.format(**story) for part in decision))
            assert done.code == 0
            assert snapshot == shown_lines(done.out, done.err)
        for state in ("all", "resolved", "muted", "open"):
            assert snapshot == shown_lines(command("audit", "groups", "--state", state).out)
        assert snapshot == command("audit", "resolve", story["rate"], "-o", "json").out
        done = command("events", "--type", "FailureGroupMuted", "-o", "jsonl")
    assert snapshot == re.sub(r'"position": \d+', '"position": 0', re.sub(r', "cursor": "[^"]+"', "", done.out))
