"""The options of `ask` and `chat`, and the commands inside a chat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Done

Command = Callable[..., Done]


@pytest.fixture
def provider(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_MODEL": "gpt-4o",
        "THREADLEDGER_BACKENDS": "responses,chat",
        "THREADLEDGER_THREADS": "none",
        "THREADLEDGER_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return simulator


@pytest.fixture
def jane(tmp_path: Path) -> str:
    path = tmp_path / "jane.toml"
    path.write_text('name = "Jane"\ninstructions = "You are Jane."\nmodel = "gpt-4o-mini"\n', encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_ask_takes_model_instructions_and_backend(command: Command, provider: Any, stream: tuple[str, ...]) -> None:
    chosen = ("--model", "gpt-4.1", "--system", "Be brief.", "--backend", "chat")
    answer = command("ask", "k", "Where is it?", *chosen, *stream, "-o", "json").json
    assert (answer["backend"], answer["model"], answer["fallback"]) == ("chat", "gpt-4.1", False)
    assert provider.requests[-1].body["messages"][0]["content"] == "Be brief."


def test_a_profile_that_is_given_brings_its_model_and_system_replaces_its_instructions(
    command: Command, provider: Any, jane: str
) -> None:
    assert command("ask", "k", "Where is it?", "--profile", jane, "-o", "json").json["model"] == "gpt-4o-mini"
    assert provider.requests[-1].body["instructions"] == "You are Jane."
    command("ask", "k", "And now?", "--profile", jane, "--system", "You are Joan.")
    assert provider.requests[-1].body["instructions"] == "You are Joan."
    command("ask", "k", "And then?")
    assert "instructions" not in provider.requests[-1].body


@pytest.mark.parametrize("name", ["ask", "chat"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "llama"), "there is no backend 'llama'"),
        (("--model", ""), "the model is empty"),
        (("--profile", "missing.toml"), "'missing.toml' does not exist"),
        (("--profile", "."), "is a directory"),
    ],
)
def test_an_option_that_is_not_valid_gets_one_sentence(
    command: Command, provider: Any, name: str, options: tuple[str, ...], message: str
) -> None:
    text = ("Where is it?",) if name == "ask" else ()
    done = command(name, "k", *text, *options, stdin=b"Where is it?\n")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len([line for line in done.err.splitlines() if not line.startswith("See: ")]) == 1
    assert provider.requests == []


def test_a_chat_greets_answers_and_ends_with_quit(command: Command, provider: Any, jane: str) -> None:
    for ending in (b"/quit\n", b"/exit\n", b"\n", b""):
        done = command("chat", "k", "--profile", jane, stdin=b"hello\n" + ending + (b"not sent\n" if ending else b""))
        assert (done.code, done.out) == (0, "You said: hello\n")
        banner = done.err.splitlines()
        assert banner[0] == "threadledger chat in k, answered by responses (gpt-4o-mini), then chat (gpt-4o-mini)"
        assert "/help" in banner[1]
        assert "/quit" in banner[1]


def test_the_options_of_a_chat_apply_to_each_question(command: Command, provider: Any) -> None:
    command("chat", "k", "--system", "Be brief.", "--backend", "chat", "--model", "gpt-4.1", stdin=b"one\ntwo\n")
    sent = [(request.template, request.body["model"]) for request in provider.requests]
    assert sent == [("POST /chat/completions", "gpt-4.1")] * 2
    assert {request.body["messages"][0]["content"] for request in provider.requests} == {"Be brief."}


def test_a_line_with_a_slash_is_a_command_and_two_slashes_send_it(command: Command, provider: Any) -> None:
    done = command("chat", "k", stdin=b"/help\n/model gpt-4.1\n//etc/hosts is what?\n/quit\n")
    assert done.out == "You said: /etc/hosts is what?\n"
    assert "//text  send /text" in done.err
    assert "there is no command /model: /help lists the commands" in done.err
    assert "begin it with //" in done.err
