"""`ask --stream` and `chat`: the text as it comes, and never a part of it for the answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.cli.ask import NOT_THE_ANSWER

Command = Callable[..., Any]

CHAT = "POST /chat/completions"
RUNS = "POST /threads/{thread_id}/runs"
RESPONSES = "POST /responses"


@pytest.fixture
def responses(provider: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulator, asked by Responses first, without a thread, Chat Completions behind."""
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "responses,chat")
    monkeypatch.setenv("THREADLEDGER_THREADS", "none")
    return provider


def parts_of(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.parametrize("backend", ["assistants", "responses", "chat"])
def test_the_stream_of_every_backend_is_the_answer_and_nothing_else(
    command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("THREADLEDGER_BACKENDS", backend)
    provider.answer("It arrives tomorrow at noon.")
    done = command("ask", "k", "When?", "--stream")
    assert (done.code, done.out, done.err) == (0, "It arrives tomorrow at noon.\n", "")


def test_a_stream_that_breaks_is_marked_and_the_fallback_announced_before_it_answers(
    command: Command, responses: Any
) -> None:
    responses.answer("It arrives tomorrow at noon.")
    responses.add_fault(RESPONSES, truncate={"events": 6, "kind": "clean"})
    done = command("ask", "k", "When?", "--stream")
    broken, marked, *rest = done.out.splitlines()
    assert done.code == 0
    assert broken and marked == NOT_THE_ANSWER
    assert len(rest) == 1
    assert "on responses failed: network: stream_broken" in done.err
    assert "answering by fallback: chat" in done.err


def test_where_nobody_answers_what_came_is_marked_and_the_exit_is_1(command: Command, responses: Any) -> None:
    responses.add_fault(RESPONSES, truncate={"events": 6, "kind": "clean"})
    responses.add_fault(CHAT, truncate={"events": 3, "kind": "clean"})
    done = command("ask", "k", "When do you come and see me?", "--stream")
    assert done.code == 1
    assert done.out.splitlines()[-1] == NOT_THE_ANSWER
    assert "no backend answered 'k'" in done.err


def test_in_json_lines_each_part_is_a_line_and_the_answer_the_last(command: Command, responses: Any) -> None:
    responses.answer("It arrives tomorrow.")
    responses.add_fault(RESPONSES, truncate={"events": 6, "kind": "clean"})
    parts = parts_of(command("ask", "k", "When?", "--stream", "-o", "jsonl"))
    *told, answer = parts
    begun = [part["type"] for part in told].index("started_over")
    assert told[begun]["fallback"] is True
    assert told[begun]["backend"] == "chat"
    assert answer["type"] == "answer"
    assert "".join(part["text"] for part in told[begun + 1 :]) == answer["answer"]
    assert {part["run_id"] for part in told[begun + 1 :]} == {answer["run_id"]}


def test_in_json_there_is_nothing_but_the_answer(command: Command, responses: Any) -> None:
    streamed = command("ask", "k", "When?", "--stream", "-o", "json").json
    asked = command("ask", "k", "When?", "-o", "json").json
    assert list(streamed) == list(asked)
    assert streamed["answer"] == "You said: When?"


def test_a_tool_call_is_told_beside_the_text(
    command: Command, responses: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "tools.py").write_text("def look(where):\n    return f'a cat in {where}'\n")
    (tmp_path / "p.toml").write_text("name = 'T'\n[[tools]]\nname = 'look'\ndescription = 'Look'\n")
    monkeypatch.setenv("THREADLEDGER_TOOLS", str(tmp_path / "tools.py"))
    monkeypatch.setenv("THREADLEDGER_PROFILE", str(tmp_path / "p.toml"))
    responses.answer({"tool_calls": [{"name": "look", "arguments": {"where": "the box"}}]})
    responses.answer("There is a cat.")
    done = command("ask", "k", "What is in there?", "--stream")
    assert done.out == "There is a cat.\n"
    assert 'calls look {"where": "the box"}' in done.err


def test_the_same_idempotency_key_shows_the_recorded_answer_at_once(command: Command, responses: Any) -> None:
    first = command("ask", "k", "When?", "--stream", "--idempotency-key", "a")
    again = command("ask", "k", "When?", "--stream", "--idempotency-key", "a")
    assert again.out == first.out == "You said: When?\n"
    assert [request.template for request in responses.requests].count(RESPONSES) == 1


def test_a_chat_streams_each_answer(command: Command, responses: Any) -> None:
    done = command("chat", "k", stdin=b"hello\nand you?\n")
    assert done.out == "You said: hello\nYou said: and you?\n"
    assert done.code == 0


@pytest.mark.parametrize("output", ["json", "jsonl", "csv"])
def test_a_chat_prints_each_answer_as_data(command: Command, responses: Any, output: str) -> None:
    asked = command("ask", "other", "one", "-o", "json").json
    done = command("chat", "k", "-o", output, stdin=b"one\ntwo\n")
    if output == "csv":
        answers = list(csv.DictReader(io.StringIO(done.out)))
    else:
        answers = [each for each in values_in(done.out) if "answer" in each]
    assert [each["answer"] for each in answers] == ["You said: one", "You said: two"]
    assert all(asked.keys() <= each.keys() for each in answers)


def test_a_chat_prints_a_question_without_an_answer_as_data(command: Command, responses: Any) -> None:
    for path in (RESPONSES, "POST /chat/completions"):
        responses.add_fault(path, refuse={"status": 400})
    done = command("chat", "k", "-o", "json", stdin=b"one\ntwo\n")
    assert [(each["answer"], bool(each["failures"])) for each in values_in(done.out)] == [
        (None, True), ("You said: two", False)]  # fmt: skip


def values_in(text: str) -> list[Any]:
    """The JSON values that follow one another in a text."""
    values, at = [], 0
    while text[at:].strip():
        value, length = json.JSONDecoder().raw_decode(text[at:].lstrip())
        values.append(value)
        at = len(text) - len(text[at:].lstrip()) + length
    return values
