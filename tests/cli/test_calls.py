"""A tool call that waits is decided on from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def waiting(command: Callable[..., Any], provider: Any, db_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A conversation with a call that waits; its id is returned."""
    Path("pay.py").write_text("def pay(amount: int) -> str:\n    return f'paid {amount}'\n", encoding="utf-8")
    Path("profile.toml").write_text('[[tools]]\nname = "pay"\napproval = true\n', encoding="utf-8")
    for name, value in (("DB", db_url), ("TOOLS", "pay.py"), ("PROFILE", "profile.toml"), ("BACKENDS", "chat")):
        monkeypatch.setenv(f"THREADLEDGER_{name}", value)
    monkeypatch.setenv("THREADLEDGER_THREADS", "none")
    assert command("trust").code == 0
    provider.answer({"tool_calls": [{"name": "pay", "arguments": {"amount": 5}}]}, "Done.")
    asked = command("ask", "k", "Pay.", "-o", "json")
    assert asked.code == 0, asked.err
    (call,) = asked.json["pending"]
    assert (call["name"], call["arguments"]) == ("pay", '{"amount": 5}')
    return str(call["call_id"])


def test_it_is_listed_shown_and_approved(command: Callable[..., Any], waiting: str) -> None:
    assert [row["key"] for row in command("list", "--pending", "-o", "json").json] == ["k"]
    assert f"threadledger call approve k {waiting}" in command("show", "k").out
    shown = command("show", "k", "-o", "json").json
    call = {"call_id": waiting, "name": "pay", "arguments": '{"amount": 5}', "decision": None}
    assert (shown["pending"], "unanswered" in shown) == ([call], False)
    busy = command("ask", "k", "And?")
    assert (busy.code, waiting in busy.err) == (7, True)
    done = command("call", "approve", "k", waiting)
    assert (done.code, done.out) == (0, "Done.\n")
    assert command("list", "--pending", "-o", "json").json == []
    timeline = command("show", "k", "--view", "timeline").out
    assert f"call {waiting} approved" in timeline


def test_it_is_rejected_with_a_reason_and_a_second_decision_is_a_conflict(
    command: Callable[..., Any], waiting: str
) -> None:
    assert command("call", "reject", "k", waiting, "--reason", "too much").out == "Done.\n"
    messages = command("show", "k", "-o", "json").json["messages"]
    assert messages[2]["content"] == "[a person rejected this call: too much]"
    again = command("call", "approve", "k", waiting)
    assert (again.code, again.out) == (7, "")
    assert command("call", "approve", "k", "nothing").code == 7


def test_a_terminal_says_how_to_decide(command: Callable[..., Any], provider: Any, waiting: str) -> None:
    command("call", "reject", "k", waiting)
    provider.answer({"tool_calls": [{"name": "pay", "arguments": {"amount": 7}}]})
    asked = command("ask", "k", "Pay again.")
    assert 'waits for a decision on pay({"amount": 7}): threadledger call approve k' in asked.err.replace("\n", " ")


def test_a_shell_without_the_tool_decides_nothing(
    command: Callable[..., Any], waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THREADLEDGER_TOOLS")
    refused = command("call", "approve", "k", waiting)
    assert (refused.code, "no function is bound to 'pay'" in refused.err) == (2, True)
    monkeypatch.setenv("THREADLEDGER_TOOLS", "pay.py")
    assert command("call", "approve", "k", waiting).out == "Done.\n"


def test_the_branches_show_the_call_and_where_they_part(
    command: Callable[..., Any], provider: Any, waiting: str
) -> None:
    (row,) = command("branch", "list", "k").out.splitlines()[1:]
    assert 'assistant: pay({"amount": 5})' in row
    command("call", "reject", "k", waiting)
    first, *_ = command("show", "k", "-o", "json").json["messages"]
    assert command("message", "edit", "k", first["message_id"], "Pay later.").code == 0
    head, old, new = command("branch", "list", "k").out.splitlines()
    assert "parts at" in head
    assert ("(start)" in old, "(start)" in new) == (True, False)
    selected = command("branch", "select", "k", command("branch", "list", "k", "-o", "json").json[0]["message_id"])
    assert "assistant" not in selected.out
    assert "Done." in selected.out
