"""What is printed by us on a terminal breaks between words; what is not printed to a terminal is not wrapped."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import threadledger
from threadledger.cli.main import wrapped
from threadledger.domain.conversation import Conversation, RunPlan, text_message
from threadledger.domain.failures import Cause, Failure, advise

from .terminal import on_a_terminal


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text(st.sampled_from("ab-/ \n"), max_size=300), st.integers(10, 60))
def test_no_word_is_broken_and_no_line_is_longer_than_the_terminal(text: str, columns: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", str(columns))
        shown = wrapped(text, Terminal())
    assert shown.split() == text.split()
    for line in shown.split("\n"):
        assert len(line) <= columns or len(line.split()) == 1 or line in text.split("\n")
    assert wrapped(text, io.StringIO()) == text


def test_a_continued_line_keeps_its_indentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    assert wrapped("cause\n  an advice of some words", Terminal()) == "cause\n  an advice\n  of some\n  words"


def test_why_a_question_has_no_answer_breaks_between_words(tmp_path: Path) -> None:
    database = str(tmp_path / "chats.db")
    with threadledger.open(database) as ledger:
        run_id = ledger.journal.commit("k", unanswered, create=True)
    _, shown = on_a_terminal(("--db", database, "show", "k"), columns=50, environment={"NO_COLOR": "1"})
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).splitlines()]
    start = lines.index("not answered: network (APIConnectionError:")
    said, advice, more = lines[start : start + 2], lines[start + 2 : -2], lines[-2]
    assert said == ["not answered: network (APIConnectionError:", "Connection error.)"]
    assert " ".join(line.strip() for line in advice) == advise(Cause.NETWORK, None)
    assert all(line.startswith("  ") and len(line) <= 50 for line in advice)
    assert more == f"  see: threadledger audit show {run_id[-8:]}"


def unanswered(it: Conversation) -> str:
    exchange_id = it.ask(text_message("user", "Where is it?"))
    run_id = it.start_run(exchange_id, RunPlan("chat", "m"))
    it.fail_run(run_id, Failure("error", type="APIConnectionError", message="Connection error."))
    it.abandon(exchange_id, "no")
    return run_id


def test_what_is_not_a_terminal_gets_whole_lines(command: Callable[..., Any]) -> None:
    done = command("--db", "x" * 150, "list")
    assert len(done.err.splitlines()) == 1
    assert os.linesep not in done.err.rstrip()
