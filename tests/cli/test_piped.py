"""In a pipe or a file no text is cut, and none is wrapped: there is no width that it would have to fit into."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import threadledger.cli
from threadledger.cli.output import PIPE_WIDTH, console, print_line, print_text, prose

Command = Callable[..., Any]

SENTENCE = " ".join(f"word{number}" for number in range(300))
ADDRESS = "https://shop.test/" + "a" * 500


@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize("text", [SENTENCE, ADDRESS], ids=["words", "one word"])
def test_prose_is_one_line(text: str, indent: int, capsys: pytest.CaptureFixture[str]) -> None:
    prose(console(), text, indent=indent)
    assert capsys.readouterr().out == f"{' ' * indent}{text}\n"


@pytest.mark.parametrize("text", [SENTENCE, ADDRESS], ids=["words", "one word"])
def test_a_line_and_a_message_are_whole(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.text import Text

    print_line(console(), Text(text))
    print_text(console(), f"{text}\n  {text}")
    assert capsys.readouterr().out == f"{text}\n{text}\n  {text}\n"


def test_only_the_functions_that_know_about_pipes_cut_or_indent_text() -> None:
    folder = Path(threadledger.cli.__file__).parent
    cutting = re.compile(r"Padding\(|\"(ellipsis|crop)\"")
    found = {path.name for path in folder.rglob("*.py") if cutting.search(path.read_text(encoding="utf-8"))}
    assert found == {"output.py"}, "use prose or print_line"


def test_show_prints_the_whole_advice(command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "chat")
    monkeypatch.setenv("THREADLEDGER_THREADS", "none")
    monkeypatch.setenv("THREADLEDGER_MAX_COST_PER_CONVERSATION", "0.000001")
    command("ask", "k", SENTENCE)
    (unanswered,) = command("show", "k", "-o", "json").json["unanswered"]
    assert len(unanswered["advice"]) > PIPE_WIDTH
    shown = command("show", "k").out.splitlines()
    assert f"  {unanswered['advice']}" in shown
    assert f"not answered: {unanswered['reason']}" in shown
    assert SENTENCE in shown
