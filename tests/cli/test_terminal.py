"""What is printed by us on a terminal breaks between words; what is not printed to a terminal is not wrapped."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import threadledger
from threadledger.cli import output
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


CELLS = st.text(st.sampled_from("ab語 "), min_size=1, max_size=30).map(lambda text: f"x{text}".replace(" ", "y"))
COLUMNS = ("key", "backend", "tokens", "state", "reason")


@settings(max_examples=15)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, CELLS)), min_size=1, max_size=3), st.integers(20, 160))
@example([{"key": "k" * 3, "backend": "b" * 50, "tokens": "9", "state": "s" * 29, "reason": "r" * 6}], 100)
@example(
    [
        {"key": "xaaaaaaaa", "backend": "xaa語", "tokens": "x" * 28, "state": "xa", "reason": "xaaaaaaaaa"},
        {"key": "xa", "backend": "x" * 20, "tokens": "xa", "state": "xa", "reason": "xa"},
    ],
    73,
)
def test_a_table_of_any_width_shows_every_value(rows: list[dict[str, str]], width: int) -> None:
    shown = Console(file=io.StringIO(), width=width)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(output, "console", lambda: shown)
        shown.print(output.table(rows, COLUMNS))
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]  # it is the StringIO
    assert all(cell_len(line) <= width for line in lines)
    said, values = "".join("".join(lines).split()), "".join(row[column] for row in rows for column in COLUMNS)
    heads = "".join(COLUMNS) * ((len(said) - len(values)) // len("".join(COLUMNS)))  # once, or with each value
    assert sorted(said) == sorted(heads + values)
    assert heads
