"""What people see of summaries and branches in a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def chat_alone(provider: Any, monkeypatch: pytest.MonkeyPatch, db_url: str) -> Any:
    """The simulator with Chat Completions alone, and a conversation of two questions."""
    for name, value in (("BACKENDS", "chat"), ("THREADS", "none"), ("DB", db_url)):
        monkeypatch.setenv(f"THREADLEDGER_{name}", value)
    return provider


@pytest.fixture
def asked(command: Callable[..., Any], chat_alone: Any) -> Any:
    assert [command("ask", "k", text).code for text in ("one", "two")] == [0, 0]
    return chat_alone


def test_a_summary_that_was_due_and_not_written_is_warned_of_and_the_question_answered(
    command: Callable[..., Any], asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_COMPACT_AT_TOKENS", "5")
    monkeypatch.setenv("THREADLEDGER_COMPACT_KEEP_LAST", "2")
    asked.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    done = command("ask", "k", "three")
    assert (done.code, done.out) == (0, "You said: three\n")
    assert "'k' was not compacted, and its question is asked all the same: no summary of 'k' was written" in done.err


def test_a_summary_that_no_backend_wrote_says_that_memory_is_unchanged(command: Callable[..., Any], asked: Any) -> None:
    asked.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    done = command("compact", "k", "--keep-last", "2")
    assert (done.code, "memory is unchanged. Try again with: threadledger compact k" in done.err) == (1, True)


def test_the_tree_has_a_line_for_each_branch_and_a_summary_is_none(command: Callable[..., Any], asked: Any) -> None:
    first = command("show", "k", "-o", "json").json["messages"][0]["message_id"]
    assert command("message", "edit", "k", first, "uno").code == 0
    assert [command("message", "regenerate", "k").code for _ in range(2)] == [0, 0]
    assert command("ask", "k", "three").code == 0
    assert (
        command("message", "pin", "k", command("show", "k", "-o", "json").json["messages"][0]["message_id"]).code == 0
    )
    asked.answer("NOTES")
    assert command("compact", "k", "--keep-last", "2").code == 0
    lines = command("show", "k", "--tree").out.splitlines()[1:]
    assert [re.sub(r"[0-9a-f]{8}  ", "", line) for line in lines] == [
        "├─   user  one",
        "│    assistant  You said: one",
        "│    user  two",
        "│    assistant  You said: two",
        "└─ * user pinned  uno",
        "   ├─   assistant  You said: uno",
        "   └─ * assistant covered  You said: uno",
        "      * user summary  Summary of the conversation so far: NOTES",
        "      * user  three",
        "      * assistant  You said: three",
    ]
