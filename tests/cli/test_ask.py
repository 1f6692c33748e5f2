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


def test_ask_takes_sampling_a_format_and_a_time_limit(command: Command, provider: Any, tmp_path: Path) -> None:
    wanted = tmp_path / "place.json"
    wanted.write_text('{"type": "json_object"}', encoding="utf-8")
    sampling = ("--temperature", "0.2", "--max-output-tokens", "300", "--reasoning-effort", "low")
    more = ("--response-format", str(wanted), "--timeout", "9")
    assert command("ask", "k", "Where is it? In JSON.", "--backend", "chat", *sampling, *more, "-o", "json").code == 0
    body = provider.requests[-1].body
    assert (body["temperature"], body["max_completion_tokens"], body["reasoning_effort"]) == (0.2, 300, "low")
    assert body["response_format"] == {"type": "json_object"}
    [requested] = command("events", "k", "--type", "ExchangeRequested", "-o", "json").json
    assert (requested["data"]["timeout_seconds"], requested["data"]["backend"]) == (9.0, "chat")
    [run] = command("events", "k", "--type", "RunStarted", "-o", "json").json
    shown = command("audit", "show", run["data"]["run_id"], "--memory", "-o", "json").json
    assert shown["profile"]["settings"]["temperature"] == 0.2
    assert shown["memory"]["options"]["timeout_seconds"] == 9.0
    assert "temperature        0.2" in command("audit", "show", run["data"]["run_id"]).out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("not JSON", "is not JSON"),
        ("[]", "holds no object: give a response format"),
        ('{"type": "yaml"}', "response_format={'type': 'yaml'} is not valid"),
    ],
)
def test_a_file_that_holds_no_format_is_refused(
    command: Command, provider: Any, tmp_path: Path, given: str, message: str
) -> None:
    path = tmp_path / "place.json"
    path.write_text(given, encoding="utf-8")
    done = command("ask", "k", "Where is it?", "--response-format", str(path))
    assert (done.code, message in done.err.replace("\n", " ")) == (2, True)
    assert provider.requests == []


def test_commands_that_change_something_say_whose_user_did_it(command: Command, provider: Any) -> None:
    command("append", "k", "user", "Hello.")
    command("ask", "k", "Where is it?")
    assert {each["data"]["actor"] for each in command("events", "k", "-o", "json").json} == {"cli:tester"}


def test_append_expects_a_version(command: Command, provider: Any) -> None:
    assert command("append", "k", "user", "One.", "--expected-version", "0").code == 0
    done = command("append", "k", "user", "Two.", "--expected-version", "1")
    assert (done.code, "'k' has version 2, not 1: nothing was written" in done.err) == (7, True)
    assert command("append", "k", "user", "Two.", "--expected-version", "2").code == 0
    assert command("append", "k", "user", "Two.", "--expected-version", "-1").code == 2
