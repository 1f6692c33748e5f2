"""A person decides on a tool call: the run ends with it, the exchange waits, and the tool is used once at most."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from openai import OpenAI

import threadledger
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.decisions import pin
from threadledger.domain.errors import AllBackendsFailed, CallNotWaiting, ConversationBusy, InvalidInput
from threadledger.domain.ledger import Ledger

Open = Callable[..., Ledger]

SETTINGS: dict[str, dict[str, Any]] = {
    "chat": {"backends": ("chat",), "threads": "none"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "stateless responses": {"backends": ("responses",), "threads": "none", "stateless": True},
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
}
EVERY = pytest.mark.parametrize("kind", SETTINGS)
PAY: dict[str, Any] = {"name": "pay", "arguments": {"amount": 5}}
LOOK: dict[str, Any] = {"name": "look", "arguments": {}}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Create a profile with a function that needs approval, and one that does not."""
    path = tmp_path / "profile.toml"
    tools = '[[tools]]\nname = "pay"\napproval = true\n[[tools]]\nname = "look"\n'
    path.write_text(f'name = "John"\n{tools}', encoding="utf-8")
    return path


class Till:
    """Tools that count what they did."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.looks = 0

    def pay(self, amount: int) -> str:
        self.paid.append(amount)
        return f"paid {amount}"

    def look(self) -> str:
        self.looks += 1
        return "there is money"


@pytest.fixture
def till() -> Till:
    return Till()


@pytest.fixture
def ledger(open_ledger: Open, till: Till, profile: Path, kind: str) -> Ledger:
    return open_ledger({"pay": till.pay, "look": till.look}, profile=profile, **SETTINGS[kind])


def said(ledger: Ledger) -> list[tuple[str, str]]:
    return [(each.role_name, each.message.text) for each in ledger.memory("k").messages]


@EVERY
def test_the_run_ends_with_the_call_and_continues_when_it_is_approved(
    ledger: Ledger, simulator: Any, till: Till
) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "I have paid.")
    answer = chat.ask("Pay five.")
    assert [(call.name, call.arguments) for call in answer.pending] == [("pay", '{"amount": 5}')]
    assert till.paid == []
    ended = [event for event in chat.events() if isinstance(event, e.RunCompleted)]
    assert [(event.finish_reason, event.goes_on, event.waits_for) for event in ended] == [
        ("tool_calls", True, [answer.pending[0].id])
    ]
    assert ledger.state("k").unanswered == 0
    done = chat.approve(answer.pending[0].id, actor="support:anna")
    assert (done.text, done.pending, done.exchange_id) == ("I have paid.", (), answer.exchange_id)
    assert till.paid == [5]
    assert [role for role, _ in said(ledger)] == ["user", "assistant", "tool", "assistant"]
    assert said(ledger)[2] == ("tool", "paid 5")
    decided = next(event for event in chat.events() if isinstance(event, e.ToolCallDecided))
    assert (decided.approved, decided.actor) == (True, "support:anna")
    if ledger.services.mirrors and kind_of(ledger) != "none":
        assert [each.as_json()["state"] for each in ledger.replay.verify(["k"])] == ["same"]


def kind_of(ledger: Ledger) -> str:
    return str(ledger.services.mirrored_to)


@EVERY
def test_a_rejected_call_is_shown_to_the_model_with_the_reason(ledger: Ledger, simulator: Any, till: Till) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Then not.")
    answer = chat.ask("Pay five.")
    assert chat.reject(answer.pending[0].id, "too much").text == "Then not."
    assert till.paid == []
    assert said(ledger)[2] == ("tool", "[a person rejected this call: too much]")


@pytest.mark.parametrize("kind", ["chat"])
def test_all_calls_of_a_turn_wait_until_each_one_that_needs_it_is_decided(
    ledger: Ledger, simulator: Any, till: Till, kind: str
) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY, LOOK, {"name": "pay", "arguments": {"amount": 7}}]}, "Done.")
    answer = chat.ask("Pay.")
    first, second = answer.pending
    waiting = chat.approve(first.id)
    assert [call.id for call in waiting.pending] == [second.id]
    assert (till.paid, till.looks) == ([], 0)
    assert chat.approve(first.id).pending == waiting.pending
    with pytest.raises(CallNotWaiting, match="already approved"):
        chat.reject(first.id)
    assert chat.reject(second.id).text == "Done."
    assert (till.paid, till.looks) == ([5], 1)


@pytest.mark.parametrize("kind", ["chat"])
def test_a_question_meanwhile_is_refused_and_names_the_call(ledger: Ledger, simulator: Any, kind: str) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Done.")
    call = chat.ask("Pay.").pending[0].id
    for refused in (
        lambda: chat.ask("And?"),
        chat.regenerate,
        lambda: chat.edit(chat.memory().messages[0].message_id, "x"),
    ):
        with pytest.raises(ConversationBusy, match=call):
            refused()
    with pytest.raises(ConversationBusy, match=call), chat.run("mine", "m"):
        pass
    chat.append("user", "A note.")
    assert chat.approve(call).text == "Done."


@EVERY
def test_a_question_that_interrupts_rejects_the_call_first(
    open_ledger: Open, till: Till, profile: Path, simulator: Any, kind: str
) -> None:
    ledger = open_ledger({"pay": till.pay}, profile=profile, while_running="interrupt", **SETTINGS[kind])
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Another answer.")
    call = chat.ask("Pay.").pending[0].id
    assert chat.ask("Never mind.").text == "Another answer."
    decided = [event for event in chat.events() if isinstance(event, e.ToolCallDecided)]
    assert [(event.call_id, event.approved) for event in decided] == [(call, False)]
    results = [each.message.text for each in chat.memory().messages if each.is_tool_result]
    assert results == ["[this call was rejected: a newer question took its place]"]
    if kind in {"chat", "stateless responses"}:
        assert results[0] in str(simulator.requests[-1].body)
    with pytest.raises(CallNotWaiting):
        chat.approve(call)
    if ledger.state("k").links:
        assert [each.found.state.value for each in ledger.replay.verify(["k"])] == ["same"]
    assert list(ledger.check()) == []


def test_of_two_calls_that_a_question_interrupts_the_approved_one_was_not_made_either(
    open_ledger: Open, till: Till, profile: Path, simulator: Any
) -> None:
    ledger = open_ledger({"pay": till.pay}, profile=profile, while_running="interrupt", **SETTINGS["chat"])
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY, PAY]}, "Another answer.")
    first, _ = chat.ask("Pay twice.").pending
    assert chat.approve(first.id).pending
    chat.ask("Never mind.")
    why = "a newer question took its place"
    assert [each["content"] for each in simulator.requests[-1].body["messages"] if each["role"] == "tool"] == [
        f"[this approved call was not made: {why}]",
        f"[this call was rejected: {why}]",
    ]
    assert till.paid == []


def test_a_question_that_interrupts_a_call_of_another_branch_journals_no_result_on_its_own(
    open_ledger: Open, till: Till, profile: Path, simulator: Any
) -> None:
    ledger = open_ledger({"pay": till.pay}, profile=profile, while_running="interrupt", **SETTINGS["chat"])
    chat = ledger.conversation("k")
    answer = chat.ask("Pay.")
    simulator.answer({"tool_calls": [PAY]}, "Another answer.")
    assert chat.regenerate().pending
    assert chat.ask("Never mind.").text == "Another answer."
    said = [each.message.text for each in chat.memory().messages]
    assert said == ["Pay.", answer.text, "Never mind.", "Another answer."]


def test_a_call_that_was_cleared_gets_no_result_on_its_own(
    open_ledger: Open, till: Till, profile: Path, simulator: Any
) -> None:
    ledger = open_ledger({"pay": till.pay}, profile=profile, while_running="interrupt", **SETTINGS["chat"])
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Another answer.")
    assert chat.ask("Pay.").pending
    chat.clear()
    chat.ask("Never mind.")
    assert [each.message.text for each in chat.memory().messages] == ["Never mind.", "Another answer."]


def test_a_pinned_call_or_result_is_refused_and_one_of_an_older_log_is_not_sent_alone(
    open_ledger: Open, till: Till, profile: Path, simulator: Any
) -> None:
    ledger = open_ledger({"pay": till.pay}, profile=profile, memory_last=2, **SETTINGS["chat"])
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Done.")
    chat.approve(chat.ask("Pay.").pending[0].id)
    _, call, result, answer = chat.memory().messages
    for refused in (call, result):
        with pytest.raises(InvalidInput, match="pin the question before it or the answer after it"):
            chat.pin(refused.message_id)
    chat.pin(answer.message_id)
    chat.pin(answer.message_id, False)

    def sent() -> list[tuple[str, str | None]]:
        chat.ask("And now?")
        return [(each["role"], each.get("content")) for each in simulator.requests[-1].body["messages"]]

    def pin_as_before(message: Any) -> None:
        ledger.journal.commit("k", lambda it: pin(it, message.message_id, message.version))

    pin_as_before(call)
    chat.ask("What else?")
    assert [role for role, _ in sent()] == ["assistant", "user"]
    pin_as_before(result)
    assert [role for role, _ in sent()] == ["assistant", "tool", "assistant", "user"]
    chat.pin(call.message_id, False)
    assert [role for role, _ in sent()] == ["assistant", "user"]
    chat.pin(result.message_id, False)
    pin_as_before(call)
    simulator.answer("notes")
    chat.compact(1)
    assert chat.memory().messages[0].message_id == call.message_id
    assert chat.memory().as_chat_messages()[0]["content"].endswith("notes")
    assert chat.memory().paired()[0].message.text.endswith("notes")
    assert list(ledger.check()) == []


@pytest.mark.parametrize("kind", ["chat"])
def test_the_same_decision_again_returns_the_answer(ledger: Ledger, simulator: Any, till: Till, kind: str) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Done.")
    call = chat.ask("Pay.").pending[0].id
    answer = chat.approve(call)
    assert chat.approve(call).message_id == answer.message_id
    assert till.paid == [5]
    with pytest.raises(CallNotWaiting):
        chat.reject(call)
    with pytest.raises(CallNotWaiting, match="no exchange"):
        chat.approve("nothing")


@pytest.mark.parametrize("kind", ["chat"])
def test_a_regenerated_answer_may_wait_too_and_is_selected_in_the_end(
    ledger: Ledger, simulator: Any, till: Till, kind: str
) -> None:
    chat = ledger.conversation("k")
    first = chat.ask("Pay.")
    simulator.answer({"tool_calls": [PAY]}, "Paid.")
    waiting = chat.regenerate()
    assert said(ledger) == [("user", "Pay."), ("assistant", first.text)]
    answer = chat.approve(waiting.pending[0].id)
    assert answer.selected
    assert said(ledger) == [("user", "Pay."), ("assistant", ""), ("tool", "paid 5"), ("assistant", "Paid.")]


KILLED = """
import os, sys, threadledger
from pathlib import Path
url, base, profile, done, where = sys.argv[1:]
def pay(amount):
    with open(done, "a") as out: out.write(f"{amount}\\n")
    if where == "tool": os.kill(os.getpid(), 9)
    return f"paid {amount}"
given = {"openai_api_key": "k", "openai_base_url": base, "backends": ("chat",), "threads": "none", "profile": Path(profile)}
chat = threadledger.open(url, tools={"pay": pay}, **given).conversation("k")
import threadledger.domain.exchange.runs as runs
if where == "decided": runs.Runs.start = lambda *_: os.kill(os.getpid(), 9)
if where == "asked":
    chat.ask("Pay."); os.kill(os.getpid(), 9)
chat.approve(chat._journal.require("k").state.open_exchanges.popitem()[1].undecided)
"""


@pytest.mark.parametrize("where", ["asked", "decided", "tool"])
def test_a_killed_process_leaves_the_decision_and_the_tool_is_used_once(
    where: str, open_ledger: Open, db_url: str, simulator: Any, profile: Path, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    done.touch()
    simulator.answer({"tool_calls": [PAY]}, "Done.")
    for place in dict.fromkeys(["asked", where]):
        arguments = [sys.executable, "-c", KILLED, db_url, simulator.base_url, str(profile), str(done), place]
        killed = subprocess.run(arguments, check=False, capture_output=True)
        assert killed.returncode == -9, killed.stderr

    def pay(amount: int) -> str:
        done.write_text(done.read_text("utf-8") + f"{amount}\n", "utf-8")
        return f"paid {amount}"

    ledger = open_ledger({"pay": pay}, profile=profile, **SETTINGS["chat"])
    chat = ledger.conversation("k")
    call = next(iter(ledger.state("k").open_exchanges.values())).waits_for
    if where != "tool":  # no run has continued it: it waits for a person still, for as long as it takes
        with freeze_time(datetime.now(UTC) + timedelta(days=3)):
            assert [each.key for each in ledger.conversations(pending=True)] == ["k"]
            with pytest.raises(ConversationBusy, match="waits for a decision" if where == "asked" else "was approved"):
                chat.ask("Hello?")
    with freeze_time(datetime.now(UTC) + timedelta(minutes=5)):
        assert chat.approve(next(iter(call or ()))).text == "Done."
    assert done.read_text("utf-8") == "5\n"
    [result] = [text for role, text in said(ledger) if role == "tool"]
    assert ("unknown" in result) == (where == "tool")


@pytest.mark.parametrize("kind", ["chat"])
def test_an_answer_that_waited_is_a_variant_if_the_conversation_went_on(
    ledger: Ledger, simulator: Any, till: Till
) -> None:
    chat = ledger.conversation("k")
    chat.ask("Pay five.")
    simulator.answer({"tool_calls": [PAY]}, "I have paid.")
    waiting = chat.regenerate()
    chat.append("user", "By the way, I moved.")
    assert not chat.approve(waiting.pending[0].id).selected
    assert [text for _, text in said(ledger)] == ["Pay five.", "You said: Pay five.", "By the way, I moved."]
    assert till.paid == [5]


@pytest.mark.parametrize("kind", ["chat"])
def test_a_waiting_question_is_not_covered_by_a_summary(ledger: Ledger, simulator: Any) -> None:
    chat = ledger.conversation("k")
    chat.ask("Pay five.")
    simulator.answer({"tool_calls": [PAY]})
    waiting = chat.regenerate()
    assert chat.compact(1) is None
    simulator.answer("I have paid.")
    chat.approve(waiting.pending[0].id)
    shown = simulator.requests[-1].body["messages"]
    assert [each["role"] for each in shown if each["role"] != "system"] == ["user", "assistant", "tool"]


@EVERY
@pytest.mark.parametrize("what", ["clear", "retract the call", "retract the question"])
def test_a_call_that_left_memory_waits_no_longer(
    ledger: Ledger, simulator: Any, till: Till, what: str, kind: str
) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]})
    waiting = chat.ask("Pay five.")
    match what:
        case "clear":
            chat.clear()
        case "retract the call":
            chat.retract(waiting.message_id)
        case _:
            chat.retract(chat.memory().messages[0].message_id)
    assert (ledger.conversations(pending=True), ledger.state("k").pending) == ([], None)
    with pytest.raises(CallNotWaiting):
        chat.approve(waiting.pending[0].id)
    simulator.answer("Where were we?")
    assert chat.ask("Hello?").text == "Where were we?"
    assert till.paid == []


@pytest.mark.parametrize("kind", ["chat"])
def test_the_same_approval_again_continues_what_no_backend_answered(
    open_ledger: Open, profile: Path, simulator: Any, till: Till, kind: str
) -> None:
    ledger = open_ledger({"pay": till.pay, "look": till.look}, profile=profile, retries=0, **SETTINGS[kind])
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]})
    waiting = chat.ask("Pay five.")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.approve(waiting.pending[0].id)
    simulator.answer("I have paid.")
    assert chat.approve(waiting.pending[0].id).text == "I have paid."
    assert till.paid == [5]


@pytest.mark.parametrize("kind", ["chat"])
def test_a_call_still_waits_after_the_app_asked_another_model_through_a_recorded_client(
    ledger: Ledger, simulator: Any, till: Till
) -> None:
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [PAY]}, "Sunny.", "I have paid.")
    waiting = chat.ask("Pay five.")
    with (
        OpenAI(base_url=simulator.base_url, api_key="sk-test") as client,
        freeze_time(datetime.now(UTC) + timedelta(days=1)),
    ):
        recorded = threadledger.record(client, ledger, key="k")
        asked: Any = [{"role": "user", "content": "What is the weather?"}]
        recorded.chat.completions.create(model="gpt-5.5", messages=asked)
        assert chat.approve(waiting.pending[0].id).text == "I have paid."
    assert till.paid == [5]
