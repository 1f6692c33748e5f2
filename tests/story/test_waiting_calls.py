"""A tool call waits for a decision, and meanwhile its thread is rebuilt, repaired or sent messages: it stays a copy of memory.

A provider refuses a call without its result, a result without its call, and the same call twice. So a thread gets a call
together with its result, unless the run that made the call left it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.domain.conversation import events as e
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ledger import Ledger, threads_behind

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

Open = Callable[..., Ledger]

KINDS: dict[str, dict[str, Any]] = {
    "responses in a conversation": {"backends": ("responses",), "threads": "conversations"},
    "chat with a conversation": {"backends": ("chat",), "threads": "conversations"},
    "assistants in a thread": {"backends": ("assistants",), "threads": "assistants"},
    "chat with an assistants thread": {"backends": ("chat",), "threads": "assistants"},
}
EVERY = pytest.mark.parametrize("kind", KINDS)
PAY: dict[str, Any] = {"name": "pay", "arguments": {"amount": 5}}
FAILS = {"status": 500, "message": "down"}


@pytest.fixture
def open_till(open_ledger: Open, tmp_path: Path, kind: str) -> Open:
    """Return a function that opens a ledger with a tool that needs approval."""
    profile = tmp_path / "profile.toml"
    profile.write_text('name = "John"\n[[tools]]\nname = "pay"\napproval = true\n', encoding="utf-8")
    tools = {"pay": lambda amount: f"paid {amount}"}
    return lambda **how: open_ledger(tools, profile=profile, retries=0, **KINDS[kind], **how)


@pytest.fixture
def clock() -> Iterator[Any]:
    """Stop the clock: `later` moves it on by two minutes, so that no process counts as still at work."""
    with freeze_time(datetime.now(UTC)) as frozen:
        yield frozen


def later(clock: Any) -> None:
    clock.tick(timedelta(minutes=2))


def waiting(ledger: Ledger, simulator: Any, clock: Any) -> str:
    """Ask a question, then one whose answer is a call that waits; return the call's id."""
    chat = ledger.conversation("k")
    chat.ask("Hello?")
    simulator.answer({"tool_calls": [PAY]})
    (call,) = chat.ask("Pay five.").pending
    later(clock)
    return call.id


def states(ledger: Ledger) -> list[str]:
    return [each.as_json()["state"] for each in ledger.replay.verify(["k"])]


def assert_sound(ledger: Ledger, simulator: Any) -> None:
    """Check that each call in a linked thread, or in a request, is there once, and its result once, behind it."""
    store, links = simulator.provider.store, ledger.state("k").links
    asked = [each.body["messages"] for each in simulator.requests if each.template == "POST /chat/completions"]
    alone = (each.body for each in simulator.requests if each.template == "POST /responses")
    asked += [body["input"] for body in alone if "conversation" not in body]
    held = (
        [list(store.conversations[links["conversations"].thread_id].items.values())] if "conversations" in links else []
    )
    for entries in [*held, *asked]:
        calls = [each["call_id"] for each in entries if each.get("type") == "function_call"]
        calls += [call["id"] for each in entries for call in each.get("tool_calls") or ()]
        results = [each["call_id"] for each in entries if each.get("type") == "function_call_output"]
        results += [each["tool_call_id"] for each in entries if each.get("role") == "tool"]
        assert calls == results == list(dict.fromkeys(calls)), entries
    if "assistants" in links:
        thread = store.threads[links["assistants"].thread_id]
        said = [each["content"][0]["text"]["value"] for each in thread.messages.values()]
        assert sum(text.startswith("[tool call") for text in said) == sum(t.startswith("[tool result") for t in said)


def rebuilt(ledger: Ledger, clock: Any, **how: Any) -> None:
    (item,) = ledger.replay.plan_rebuild(keys=["k"], **how).apply()
    assert item.state == "done" or item.reason == "the thread equals the journal"


def version_of_the_call(ledger: Ledger) -> int:
    calls = [
        each for each in ledger.conversation("k").events() if isinstance(each, e.MessageJournaled) and each.tool_calls
    ]
    return calls[-1].originator_version


def noted(ledger: Ledger, clock: Any) -> None:
    ledger.conversation("k").append("user", "A note.")


def reconciled(ledger: Ledger, clock: Any) -> None:
    assert [(each.state, each.reason) for each in ledger.replay.plan_reconcile(["k"]).apply()] in (
        [("skipped", "the thread equals the journal")],
        [("done", "")],
    )


MEANWHILE: dict[str, Callable[[Ledger, Any], object]] = {
    "nothing happens": lambda ledger, clock: None,
    "a message is appended": noted,
    "the thread is rebuilt": lambda ledger, clock: rebuilt(ledger, clock, fresh=True),
    "the thread is rebuilt if it differs": rebuilt,
    "the thread is rebuilt as of the call": lambda ledger, clock: rebuilt(
        ledger, clock, fresh=True, at=version_of_the_call(ledger)
    ),
    "the thread is reconciled": reconciled,
    "a message is appended to a rebuilt thread": lambda ledger, clock: (
        rebuilt(ledger, clock, fresh=True),
        noted(ledger, clock),
    ),
    "the thread is rebuilt after a message": lambda ledger, clock: (
        noted(ledger, clock),
        rebuilt(ledger, clock, fresh=True),
    ),
    "the thread is reconciled after a message": lambda ledger, clock: (noted(ledger, clock), reconciled(ledger, clock)),
}


@EVERY
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_the_thread_equals_the_journal_before_and_after_the_decision(
    open_till: Open, simulator: Any, clock: Any, kind: str, meanwhile: str
) -> None:
    ledger = open_till()
    call = waiting(ledger, simulator, clock)
    MEANWHILE[meanwhile](ledger, clock)
    assert states(ledger) == ["same"]
    assert [each.state for each in ledger.threads()] == ["same"]
    assert threads_behind(ledger.journal, ledger.services).threads == []
    later(clock)
    chat = ledger.conversation("k")
    assert not chat.approve(call).pending
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)
    chat.ask("Thanks.")
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)
    assert threads_behind(ledger.journal, ledger.services).threads == []


@EVERY
def test_so_it_does_when_one_call_after_another_waits(open_till: Open, simulator: Any, clock: Any, kind: str) -> None:
    ledger = open_till()
    call = waiting(ledger, simulator, clock)
    chat = ledger.conversation("k")
    noted(ledger, clock)
    simulator.answer({"tool_calls": [PAY]})
    (second,) = chat.approve(call).pending
    later(clock)
    noted(ledger, clock)
    assert states(ledger) == ["same"]
    chat.reject(second.id, "once is enough")
    assert states(ledger) == ["same"]
    chat.ask("Thanks.")
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)


@EVERY
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("instead", ["ask", "regenerate", "edit", "edit and return"])
def test_so_it_does_when_something_else_takes_the_place_of_the_call(
    open_till: Open, simulator: Any, clock: Any, kind: str, instead: str, fails: bool
) -> None:
    ledger = open_till(while_running="interrupt")
    waiting(ledger, simulator, clock)
    chat = ledger.conversation("k")
    question, call = chat.memory().messages[-2:]
    if instead.startswith("edit"):
        chat.edit(question.message_id, "Pay three.")
        assert states(ledger) == ["same"]
    if fails:
        for route in ("POST /responses", "POST /chat/completions", "POST /threads/{thread_id}/runs"):
            simulator.add_fault(route, refuse=FAILS)
    with pytest.raises(AllBackendsFailed) if fails else nullcontext():
        chat.ask("Stop.") if instead == "ask" else chat.regenerate()
    simulator.clear_faults()
    assert states(ledger) == ["same"]
    if instead == "edit and return":
        chat.select_branch(call.message_id)
        assert states(ledger) == ["same"]
    chat.ask("Next.")
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)


@EVERY
def test_a_thread_rebuilt_as_of_the_middle_of_an_exchange_gets_the_call_with_its_result(
    open_till: Open, simulator: Any, clock: Any, kind: str
) -> None:
    ledger = open_till()
    call = waiting(ledger, simulator, clock)
    noted(ledger, clock)
    version = ledger.state("k").version
    ledger.conversation("k").approve(call)
    rebuilt(ledger, clock, fresh=True, at=version)
    ledger.conversation("k").ask("Thanks.")
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)


@EVERY
@pytest.mark.parametrize("note", [False, True])
def test_a_thread_rebuilt_while_a_tool_works_gets_the_call_with_its_result(
    open_ledger: Open, simulator: Any, kind: str, note: bool
) -> None:
    def pay(amount: int) -> str:
        if note:
            ledger.conversation("k").append("user", "A note.")
        ledger.replay.plan_rebuild(keys=["k"], fresh=True).apply()
        return f"paid {amount}"

    ledger = open_ledger({"pay": pay}, retries=0, **KINDS[kind])
    chat = ledger.conversation("k")
    chat.ask("Hello?")
    simulator.answer({"tool_calls": [PAY]})
    chat.ask("Pay five.")
    chat.ask("Thanks.")
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)


@EVERY
@pytest.mark.parametrize("fresh", [False, True])
def test_a_call_that_an_app_appends_is_sent_with_its_result(
    open_ledger: Open, simulator: Any, kind: str, fresh: bool
) -> None:
    ledger = open_ledger(retries=0, **KINDS[kind])
    chat = ledger.conversation("k")
    chat.append("user", "Pay five.")
    call = {"id": "call_1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    chat.append("assistant", None, tool_calls=[call])
    if fresh:
        ledger.replay.plan_rebuild(keys=["k"], fresh=True).apply()
    assert states(ledger) == ["same"]
    chat.append("tool", "paid 5", tool_call_id="call_1")
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)


@EVERY
def test_the_text_that_a_model_says_with_a_call_is_no_drift(
    open_till: Open, simulator: Any, clock: Any, kind: str
) -> None:
    ledger = open_till()
    chat = ledger.conversation("k")
    called = {"type": "function_call", "name": "pay", "arguments": '{"amount": 5}'}
    simulator.answer({"output": ["I pay.", called]})
    (call,) = chat.ask("Pay five.").pending
    assert states(ledger) == ["same"]
    later(clock)
    chat.approve(call.id)
    assert states(ledger) == ["same"]
    assert_sound(ledger, simulator)
