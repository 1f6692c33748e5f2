"""What arrives while a question is being answered: notes of others come after the answer, and a lost answer is found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.domain.conversation import events
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange.records import RunRecords
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger, memory_shown
from threadledger.domain.threads import ThreadState

KINDS: dict[str, dict[str, Any]] = {
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "chat": {"backends": ("chat",), "threads": "conversations"},
    "chat, last 1": {"backends": ("chat",), "threads": "none", "memory_last": 1},
    "chat, 20 tokens": {"backends": ("chat",), "threads": "none", "memory_tokens": 20},
}
RUNS = "POST /threads/{thread_id}/runs"
ROUTES = {"assistants": RUNS, "responses": "POST /responses", "chat": "POST /chat/completions"}
JOHN = Path(__file__).resolve().parents[2] / "profiles" / "john.toml"


class Killed(BaseException):
    """Raised where a process is killed."""


def killed(*arguments: Any, **named: Any) -> Any:
    raise Killed


def with_notes(ledger: Ledger, *texts: str) -> Ledger:
    """Return the ledger; another writer appends one of the notes during each pause between two attempts."""
    notes = list(texts)

    def pause(seconds: float) -> None:
        if notes:
            ledger.conversation("k").append("system", notes.pop(0))

    return Ledger(ledger.journal, replace(ledger.services, wait=pause))


def said(ledger: Ledger) -> list[str]:
    return [each.message.text for each in ledger.memory("k").messages]


def states(ledger: Ledger) -> list[ThreadState]:
    return [found.found.state for found in ledger.replay.verify()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_note_of_others_is_not_shown_to_a_run_that_answers_an_earlier_question_and_follows_the_answer(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str
) -> None:
    plain = open_ledger(**KINDS[kind], retries=2)
    plain.conversation("k").ask("Hello")
    ledger = with_notes(plain, "Customer is a VIP.", "Called at noon.")
    simulator.add_fault(ROUTES[kind.partition(",")[0]], refuse={"status": 500}, times=2)
    answer = ledger.conversation("k").ask("Where is it?")
    assert answer.text == "You said: Where is it?"
    assert said(ledger)[2:] == ["Where is it?", answer.text, "Customer is a VIP.", "Called at noon."]
    runs = [ledger.run(each.run_id)[0] for each in (*answer.failures, answer)]
    assert all(memory_shown(ledger.journal, each).same for each in runs)
    texts = [[m.message.text for m in memory_shown(ledger.journal, each).memory.messages] for each in runs]
    assert all("Customer is a VIP." not in each and each[-1] == "Where is it?" for each in texts)
    if plain.services.mirrored_to != "none":
        ledger.conversation("k").append("user", "Thanks")
        assert states(ledger) == [ThreadState.SAME]
        links = [each for each in ledger.journal.history("k") if isinstance(each, events.ThreadLinked)]
        assert len(links) == 1


@pytest.mark.parametrize("kind", ["chat", "chat, last 1", "chat, 20 tokens"])
@pytest.mark.parametrize("gone", ["retracted", "cleared"])
def test_a_run_whose_question_was_taken_back_meanwhile_is_shown_no_notes_and_its_memory_is_recomputed(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str, gone: str
) -> None:
    ledger = open_ledger(**KINDS[kind], retries=1)
    chat = ledger.conversation("k")
    chat.ask("Hello")

    def pause(seconds: float) -> None:
        question = ledger.memory("k").messages[-1]
        chat.append("system", "Customer is a VIP.")
        chat.retract(question.message_id) if gone == "retracted" else chat.clear()
        chat.append("system", "Called at noon.")

    simulator.add_fault(ROUTES["chat"], refuse={"status": 500})
    with suppress(AllBackendsFailed):  # a model that is shown nothing is not called
        Ledger(ledger.journal, replace(ledger.services, wait=pause)).conversation("k").ask("Where is it?")
    run = ledger.run(list(ledger.events(types=["RunStarted"]))[-1].event.run_id)[0]  # type: ignore[attr-defined] # it has one
    shown = memory_shown(ledger.journal, run)
    assert shown.same
    assert not {"Customer is a VIP.", "Called at noon."} & {each.message.text for each in shown.memory.messages}


@pytest.mark.parametrize("kind", ["responses", "chat"])
def test_the_answer_follows_the_tool_calls_of_its_exchange_and_notes_come_after_it(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str
) -> None:
    plain = open_ledger(
        tools={
            "web_search": lambda query: plain.conversation("k").append("user", "And mine?") and "Oslo",
            "web_open": print,
        },
        **KINDS[kind],
        retries=1,
        profile=JOHN,
    )
    simulator.answer({"tool_calls": [{"name": "web_search", "arguments": {"query": "parcel"}}]}, "It is in Oslo.")
    answer = plain.conversation("k").ask("Where is it?")
    assert said(plain) == ["Where is it?", "", "Oslo", answer.text, "And mine?"]
    plain.conversation("k").append("user", "Thanks")
    assert states(plain) == [ThreadState.SAME]


@pytest.mark.parametrize("into", ["tail", "fork", "shadow"])
@pytest.mark.parametrize("window", [{}, {"memory_last": 2}])
def test_a_rerun_sees_the_memory_of_a_run_without_the_notes_of_others(
    open_ledger: Callable[..., Ledger], simulator: Any, into: str, window: dict[str, int]
) -> None:
    ledger = with_notes(open_ledger(backends=("chat",), threads="none", retries=1, **window), "Customer is a VIP.")
    ledger.conversation("k").ask("Hello")
    simulator.add_fault(ROUTES["chat"], refuse={"status": 500}, times=2)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Where is it?")
    failed = ledger.run(ledger.failures()[-1].run_id)[0]
    assert failed.memory_rule.startswith("2;question=")
    (item,) = ledger.replay.plan_rerun(failed=True, into=into, include=("overtaken",) if into == "tail" else ()).apply()
    assert (item.state, item.reason, item.answer) == ("answered", "", "You said: Where is it?")
    run = ledger.run(item.new_run_id or "")[0]
    assert run.memory_hash == failed.memory_hash
    assert memory_shown(ledger.journal, run).same
    if into == "tail":
        assert said(ledger)[2:] == ["Where is it?", "You said: Where is it?", "Customer is a VIP."]


@pytest.mark.parametrize("backends", [("responses",), ("responses", "chat")])
def test_an_answer_whose_acknowledgement_was_lost_is_found_in_the_thread_before_its_exchange_is_abandoned(
    open_ledger: Callable[..., Ledger], simulator: Any, backends: tuple[str, ...]
) -> None:
    ledger = open_ledger(backends=backends, threads="conversations", retries=0)
    ledger.conversation("k").ask("Hello")
    simulator.add_fault(ROUTES["responses"], lose_answer=True)
    simulator.add_fault(ROUTES["chat"], refuse={"status": 500}, times=None)
    answer = ledger.conversation("k").ask("Where is it?")
    assert answer.text == "You said: Where is it?"
    asked = [request for request in simulator.requests if request.template == ROUTES["responses"]]
    assert len(asked) == 2
    log = [type(event).__name__ for event in ledger.journal.history("k", after=6)]
    assert "ExchangeAbandoned" not in log
    assert log.count("FallbackUsed") == 2 * (len(backends) - 1)
    assert states(ledger) == [ThreadState.SAME]
    assert ledger.state("k").unanswered == 0


def test_an_exchange_is_abandoned_if_its_thread_holds_no_answer_or_cannot_be_read(
    open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = open_ledger(backends=("responses",), threads="conversations", retries=0)
    ledger.conversation("k").ask("Hello")
    simulator.add_fault(ROUTES["responses"], drop=True, times=2)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Where is it?")
    simulator.add_fault("GET /conversations/{conversation_id}/items", refuse={"status": 500}, times=None)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Where is it?")
    assert ledger.state("k").unanswered == 2
    assert len(list(ledger.events(types=["RunStarted"]))) == 3


@pytest.mark.parametrize("kind", ["responses", "assistants"])
def test_reconcile_journals_the_answer_that_a_stopped_process_left_in_the_thread(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(**KINDS[kind], retries=0)
    ledger.conversation("k").ask("Hello")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunRecords, "complete", killed)
        patch.setattr(RunRecords, "give_up", killed)
        ledger.conversation("k").ask("Where is it?")
    with freeze_time(now() + timedelta(seconds=120), ignore=["eventsourcing.persistence"]):
        ledger.close_overdue_runs()
        (planned,) = ledger.replay.plan_reconcile().items
        assert (planned.action, planned.state) == ("answer", "planned")
        assert said(ledger) == ["Hello", "You said: Hello", "Where is it?"]
        (item,) = ledger.replay.plan_reconcile().apply()
        assert (item.action, item.state, item.answered) == ("answer", "done", 1)
        assert said(ledger) == ["Hello", "You said: Hello", "Where is it?", "You said: Where is it?"]
        assert states(ledger) == [ThreadState.SAME]
        assert ledger.state("k").unanswered == 0
    assert sum(request.template == ROUTES[kind] for request in simulator.requests) == 2
