"""Test a question during another one: it is rejected, queued, or interrupts the other. No message is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from openai import OpenAI

from threadledger.domain.conversation import RunPlan, parse_message, text_message
from threadledger.domain.effects import Use
from threadledger.domain.errors import (
    AllBackendsFailed,
    ConversationBusy,
    ConversationChanged,
    InvalidMessage,
    StoreUnavailable,
)
from threadledger.domain.exchange import Delta, StartedOver, runs
from threadledger.domain.failures import Cause
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

PLAIN: dict[str, Any] = {"backends": ("chat",), "threads": "none", "retries": 0}
IN_A_THREAD: dict[str, Any] = {"backends": ("responses", "chat"), "threads": "conversations", "retries": 0}
WEATHER = {"name": "weather", "arguments": "{}"}
CALL = {"tool_calls": [{"name": "weather", "arguments": {}}]}
WAITED_SECONDS_MAX = 30.0
"""Maximum wait for an event, in seconds."""


class Gate:
    """Represent a tool that blocks until the gate is opened, which keeps its run in progress."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.used = 0

    def weather(self) -> str:
        self.used += 1
        self.entered.set()
        assert self.opened.wait(WAITED_SECONDS_MAX)
        return "sunny"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Create a profile with one function."""
    path = tmp_path / "profile.toml"
    path.write_text('name = "John"\n[[tools]]\nname = "weather"\n', encoding="utf-8")
    return path


@pytest.fixture
def others(gate: Gate) -> Iterator[ThreadPoolExecutor]:
    """Provide threads for other callers."""
    with ThreadPoolExecutor(8) as callers:
        yield callers
        gate.opened.set()


@pytest.fixture
def under_way(
    open_ledger: Callable[..., Ledger], simulator: Any, gate: Gate, profile: Path, others: ThreadPoolExecutor
) -> Callable[..., Future[Any]]:
    """Return a function that starts a question on a separate ledger; it stays in progress until the gate is opened."""

    def begin(text: str, wait: Callable[[float], None] = time.sleep, **options: Any) -> Future[Any]:
        simulator.answer(CALL)
        settings = {name: options.pop(name) for name in ("while_running",) if name in options}
        ledger = waiting_with(open_ledger({"weather": gate.weather}, **PLAIN, profile=profile, **settings), wait)
        asked = others.submit(ledger.conversation("k").ask, text, **options)
        assert gate.entered.wait(WAITED_SECONDS_MAX)
        return asked

    return begin


@pytest.fixture
def hanging(open_ledger: Callable[..., Ledger], gate: Gate, others: ThreadPoolExecutor) -> Callable[..., Future[Any]]:
    """Return a function that starts a question whose call to the first backend hangs until the gate is opened.

    `settings` are the settings of the ledger that it uses.
    """

    def begin(text: str, wait: Callable[[float], None] = time.sleep, settings: dict[str, Any] = PLAIN) -> Future[Any]:
        ledger = waiting_with(open_ledger(**settings), wait)
        backend: Any = ledger.services.backends[settings["backends"][0]]
        answer = backend.answer

        def slowly(request: Any) -> Any:
            yield Use(gate.weather)
            return (yield from answer(request))

        backend.answer = slowly
        asked = others.submit(ledger.conversation("k").ask, text)
        assert gate.entered.wait(WAITED_SECONDS_MAX)
        return asked

    return begin


def waiting_with(ledger: Ledger, wait: Callable[[float], None]) -> Ledger:
    """Return the ledger with another wait function."""
    object.__setattr__(ledger.services, "wait", wait)
    return ledger


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAITED_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        threading.Event().wait(0.005)


def result(asked: Future[Any]) -> Any:
    return asked.result(WAITED_SECONDS_MAX)


def texts(ledger: Ledger) -> list[str]:
    return [each.message.text for each in ledger.memory("k").messages if each.message.text and each.run_id is None]


def answered(ledger: Ledger) -> list[tuple[str, str]]:
    """Return (question, answer) pairs in memory order, and check that each question is followed by its answer."""
    told = [each for each in ledger.memory("k").messages if each.message.role in {"user", "assistant"}]
    told = [each for each in told if each.message.text]
    assert [each.message.role for each in told] == ["user", "assistant"] * (len(told) // 2)
    assert all(a.exchange_id == b.exchange_id for a, b in zip(told[::2], told[1::2], strict=True))
    return [(a.message.text, b.message.text) for a, b in zip(told[::2], told[1::2], strict=True)]


def types(ledger: Ledger) -> list[str]:
    return [logged.type for logged in ledger.events(key="k")]


# Rejected


def test_a_second_question_is_refused_and_leaves_nothing(
    open_ledger: Callable[..., Ledger], under_way: Callable[..., Future[Any]], gate: Gate
) -> None:
    first = under_way("first")
    other = open_ledger(**PLAIN)
    before = types(other)
    with pytest.raises(ConversationBusy, match=r"is being answered: run .* wait until it ends, then ask again"):
        other.conversation("k").ask("second")
    assert types(other) == before
    gate.opened.set()
    assert result(first).text == "You said: first"
    assert other.conversation("k").ask("second").text == "You said: second"


def test_a_message_that_asks_nobody_is_journaled_while_a_run_is_open(
    open_ledger: Callable[..., Ledger], under_way: Callable[..., Future[Any]], gate: Gate
) -> None:
    first = under_way("first")
    open_ledger(**PLAIN).conversation("k").append("user", "By the way.")
    gate.opened.set()
    assert result(first).text == "You said: first"


# Queued


def test_a_second_question_waits_its_turn(
    open_ledger: Callable[..., Ledger], under_way: Callable[..., Future[Any]], gate: Gate, others: ThreadPoolExecutor
) -> None:
    first = under_way("first")
    waits = threading.Event()
    queueing = waiting_with(open_ledger(**PLAIN, while_running="queue"), lambda seconds: waits.set())
    second = others.submit(queueing.conversation("k").ask, "second")
    assert waits.wait(WAITED_SECONDS_MAX)
    assert "second" not in str(types(queueing)) and len(queueing.memory("k").messages) == 2
    gate.opened.set()
    assert (result(first).text, result(second).text) == ("You said: first", "You said: second")
    assert answered(queueing) == [("first", "You said: first"), ("second", "You said: second")]
    assert queueing.failures() == []


def test_many_callers_in_one_conversation_are_all_answered_one_after_the_other(
    open_ledger: Callable[..., Ledger], others: ThreadPoolExecutor
) -> None:
    ledgers = [waiting_with(open_ledger(**PLAIN, while_running="queue"), lambda _: time.sleep(0)) for _ in range(3)]
    questions = [f"question {number}" for number in range(12)]
    asked = [
        others.submit(ledgers[number % 3].conversation("k").ask, question) for number, question in enumerate(questions)
    ]
    assert {result(each).text for each in asked} == {f"You said: {question}" for question in questions}
    told = answered(ledgers[0])
    assert sorted(question for question, _ in told) == sorted(questions)
    assert all(answer == f"You said: {question}" for question, answer in told)


def test_a_question_that_waits_gives_up_when_the_time_of_an_exchange_is_over(
    open_ledger: Callable[..., Ledger], under_way: Callable[..., Future[Any]]
) -> None:
    under_way("first")
    queueing = waiting_with(open_ledger(**PLAIN, while_running="queue", deadline_seconds=0.2), lambda _: None)
    with pytest.raises(ConversationBusy):
        queueing.conversation("k").ask("second")
    assert len(queueing.memory("k").messages) == 2


def test_the_same_request_twice_waits_for_the_answer_of_the_first(
    open_ledger: Callable[..., Ledger],
    under_way: Callable[..., Future[Any]],
    gate: Gate,
    others: ThreadPoolExecutor,
    asked_of: Callable[..., int],
) -> None:
    first = under_way("first", idempotency_key="1")
    waits = threading.Event()
    queueing = waiting_with(open_ledger(**PLAIN, while_running="queue"), lambda seconds: waits.set())
    again = others.submit(queueing.conversation("k").ask, "first", idempotency_key="1")
    assert waits.wait(WAITED_SECONDS_MAX)
    gate.opened.set()
    assert result(again) == result(first)
    assert gate.used == 1
    assert asked_of() == 2  # the tool call and the answer
    assert types(queueing).count("RunStarted") == 1


def test_the_same_request_twice_is_refused_where_nobody_queues(
    open_ledger: Callable[..., Ledger], under_way: Callable[..., Future[Any]], gate: Gate
) -> None:
    first = under_way("first", idempotency_key="1")
    with pytest.raises(ConversationBusy):
        open_ledger(**PLAIN).conversation("k").ask("first", idempotency_key="1")
    gate.opened.set()
    answer = result(first)
    assert open_ledger(**PLAIN).conversation("k").ask("first", idempotency_key="1") == answer


# Interrupting


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run in progress check at every step whether it was closed, instead of once per second."""
    monkeypatch.setattr(runs, "INTERRUPT_LOOK_SECONDS", 0.0)


@pytest.mark.usefixtures("looks_at_once")
@pytest.mark.parametrize("backend", ["chat", "responses"])
def test_a_newer_question_takes_the_place_of_a_stream(open_ledger: Callable[..., Ledger], backend: str) -> None:
    settings = PLAIN | {"backends": (backend,), "while_running": "interrupt"}
    ledger, other = open_ledger(**settings), open_ledger(**settings)
    heard, newer = [], None
    with pytest.raises(AllBackendsFailed) as interrupted:
        for part in ledger.conversation("k").stream("one two three"):
            heard.append(part)
            newer = newer or other.conversation("k").ask("never mind")
    assert [type(part) for part in heard] == [Delta]
    assert [failure.cause for failure in interrupted.value.failures] == [Cause.INTERRUPTED]
    assert newer is not None
    assert newer.text == "You said: never mind"
    (failure,) = ledger.failures()
    assert (failure.facts.code, failure.next) == ("superseded", "abandoned")
    assert types(ledger).count("RunFailed") == 1
    assert [each.message.text for each in ledger.memory("k").messages] == [
        "one two three",
        "never mind",
        "You said: never mind",
    ]


def test_a_newer_question_takes_the_place_of_one_that_is_between_two_runs(
    open_ledger: Callable[..., Ledger], simulator: Any, asked_of: Callable[..., int]
) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 500})
    other = open_ledger(**PLAIN, while_running="interrupt")
    newer: list[Any] = []
    settings = PLAIN | {"retries": 1}
    ledger = waiting_with(open_ledger(**settings), lambda _: newer.append(other.conversation("k").ask("never mind")))
    with pytest.raises(AllBackendsFailed) as overtaken:
        ledger.conversation("k").ask("one")
    assert [failure.cause for failure in overtaken.value.failures] == [Cause.PROVIDER_ERROR]
    assert [answer.text for answer in newer] == ["You said: never mind"]
    assert asked_of() == 2
    assert types(ledger).count("ExchangeAbandoned") == 1


@pytest.mark.usefixtures("looks_at_once")
def test_a_newer_question_has_the_remote_run_of_the_older_one_cancelled(
    open_ledger: Callable[..., Ledger], simulator: Any, others: ThreadPoolExecutor
) -> None:
    settings: dict[str, Any] = {"backends": ("assistants",), "threads": "assistants", "retries": 0}
    newer: list[Future[Any]] = []
    other = waiting_with(open_ledger(**settings, while_running="interrupt"), time.sleep)

    def wait(seconds: float) -> None:
        """Start another question before the run is polled for the first time."""
        if not newer:
            newer.append(others.submit(other.conversation("k").ask, "never mind"))
            until(lambda: "RunFailed" in types(other))

    ledger = waiting_with(open_ledger(**settings), wait)
    with pytest.raises(AllBackendsFailed) as interrupted:
        ledger.conversation("k").ask("one two three")
    assert [failure.cause for failure in interrupted.value.failures] == [Cause.INTERRUPTED]
    assert result(newer[0]).text == "You said: never mind"
    assert sorted(run["status"] for run in simulator.provider.runs.values()) == ["cancelled", "completed"]
    assert types(ledger).count("RunFailed") == 1
    assert [found.found.state for found in ledger.replay.verify()] == [ThreadState.SAME]


def test_an_interrupted_run_keeps_what_its_tool_did_and_asks_nobody_any_more(
    open_ledger: Callable[..., Ledger], under_way: Callable[..., Future[Any]], simulator: Any, gate: Gate
) -> None:
    first = under_way("first")
    other = open_ledger(**PLAIN, while_running="interrupt")
    assert other.conversation("k").ask("never mind").text == "You said: never mind"
    asked = len(simulator.requests)
    gate.opened.set()
    with pytest.raises(AllBackendsFailed) as interrupted:
        result(first)
    assert [failure.cause for failure in interrupted.value.failures] == [Cause.INTERRUPTED]
    assert len(simulator.requests) == asked
    assert "sunny" in [each.message.text for each in other.memory("k").messages]


def test_a_late_answer_of_an_interrupted_run_is_kept(
    open_ledger: Callable[..., Ledger], hanging: Callable[..., Future[Any]], gate: Gate
) -> None:
    first = hanging("first")
    other = open_ledger(**PLAIN, while_running="interrupt")
    assert other.conversation("k").ask("never mind").text == "You said: never mind"
    gate.opened.set()
    late = result(first)
    assert late.text == "You said: first"
    assert [failure.facts.code for failure in late.failures] == ["superseded"]
    assert late.run_id != late.failures[0].run_id
    assert answered(other) == [("first", "You said: first"), ("never mind", "You said: never mind")]
    run, _ = other.run(late.run_id)
    assert run.rerun_of == late.failures[0].run_id
    assert types(other).count("RunFailed") == 1
    assert other.failures(unanswered=True) == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("settings", [PLAIN, IN_A_THREAD])
def test_a_late_answer_of_a_deleted_conversation_is_refused_and_becomes_part_of_no_other(
    open_ledger: Callable[..., Ledger],
    hanging: Callable[..., Future[Any]],
    gate: Gate,
    settings: dict[str, Any],
    again: bool,
) -> None:
    first = hanging("first", settings=settings)
    other = open_ledger(**settings)
    with pytest.raises(ConversationBusy):
        other.conversation("k").delete()
    deleting = open_ledger(**settings, while_running="interrupt")
    assert set(deleting.conversation("k").delete("asked for")) <= {"conversations"}
    if again:
        deleting.conversation("k").append("user", "new")
    gate.opened.set()
    with pytest.raises(ConversationChanged, match="was deleted meanwhile"):
        result(first)
    assert [each.message.text for each in other.memory("k").messages] == (["new"] if again else [])
    assert [each.facts.code for each in other.failures()] == ["deleted"]
    assert [each.type for each in other.events()].count("RunStarted") == 1
    assert list(other.check()) == []


def test_a_conversation_that_is_deleted_while_a_tool_works_is_no_error_of_the_backend(
    open_ledger: Callable[..., Ledger],
    gate: Gate,
    others: ThreadPoolExecutor,
    simulator: Any,
    caplog: pytest.LogCaptureFixture,
    profile: Path,
) -> None:
    ledger = open_ledger({"weather": gate.weather}, **PLAIN, profile=profile, while_running="interrupt")
    simulator.answer(CALL)
    first = others.submit(ledger.conversation("k").ask, "How is the weather?")
    assert gate.entered.wait(WAITED_SECONDS_MAX)
    ledger.conversation("k").delete()
    gate.opened.set()
    with pytest.raises(ConversationChanged, match="was deleted meanwhile"):
        result(first)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert [each.facts.code for each in ledger.failures()] == ["deleted"]


def test_a_late_answer_follows_the_tools_that_its_run_used(
    open_ledger: Callable[..., Ledger], gate: Gate, others: ThreadPoolExecutor
) -> None:
    ledger = open_ledger(**PLAIN)
    backend: Any = ledger.services.backends["chat"]
    answer = backend.answer
    used = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": WEATHER}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]

    def slowly(request: Any) -> Any:
        request.journal([parse_message(each) for each in used])
        yield Use(gate.weather)
        return (yield from answer(request))

    backend.answer = slowly
    ledger.conversation("k").append("user", "earlier")
    first = others.submit(ledger.conversation("k").ask, "first")
    assert gate.entered.wait(WAITED_SECONDS_MAX)
    other = open_ledger(**PLAIN, while_running="interrupt")
    other.conversation("k").ask("never mind")
    gate.opened.set()
    assert result(first).text == "You said: first"
    roles = [each.message.role.value for each in other.memory("k").messages]
    assert roles == ["user", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert other.memory("k").messages[4].run_id == result(first).run_id
    assert other.memory("k", at=other.state("k").version).as_chat_messages()[-1]["content"] == "You said: never mind"


def interrupting(
    open_ledger: Callable[..., Ledger], simulator: Any, profile: Path, others: ThreadPoolExecutor
) -> tuple[Future[Any], Gate]:
    """Start a newer question that stays in progress until its own gate is opened."""
    newer = Gate()
    simulator.answer(CALL)
    ledger = open_ledger({"weather": newer.weather}, **PLAIN, profile=profile, while_running="interrupt")
    asked = others.submit(ledger.conversation("k").ask, "never mind")
    assert newer.entered.wait(WAITED_SECONDS_MAX)
    return asked, newer


def test_a_late_answer_waits_for_the_end_of_the_newer_run(
    open_ledger: Callable[..., Ledger],
    hanging: Callable[..., Future[Any]],
    simulator: Any,
    gate: Gate,
    profile: Path,
    others: ThreadPoolExecutor,
) -> None:
    newer: list[tuple[Future[Any], Gate]] = []

    def wait(seconds: float) -> None:
        asked, its_gate = newer[0]
        its_gate.opened.set()
        result(asked)

    first = hanging("first", wait)
    newer.append(interrupting(open_ledger, simulator, profile, others))
    gate.opened.set()
    assert result(first).text.startswith("You said: ")
    ledger = open_ledger(**PLAIN)
    assert [question for question, _ in answered(ledger)] == ["first", "never mind"]
    assert result(first).run_id in {each.run_id for each in ledger.memory("k").messages[:2]}
    assert ledger.failures(unanswered=True) == []


def test_a_late_answer_that_never_finds_its_place_is_told_as_interrupted(
    open_ledger: Callable[..., Ledger],
    hanging: Callable[..., Future[Any]],
    simulator: Any,
    gate: Gate,
    profile: Path,
    others: ThreadPoolExecutor,
) -> None:
    first = hanging("first", lambda _: None)
    asked, newer = interrupting(open_ledger, simulator, profile, others)
    gate.opened.set()
    with pytest.raises(AllBackendsFailed) as interrupted:
        result(first)
    assert [failure.cause for failure in interrupted.value.failures] == [Cause.INTERRUPTED]
    newer.opened.set()
    assert result(asked).text.startswith("You said: ")


# Left open


def test_a_run_that_a_crash_left_open_is_closed_by_the_next_question_once_its_time_is_over(
    open_ledger: Callable[..., Ledger],
) -> None:
    ledger = open_ledger(**PLAIN)
    run_id = left_open(ledger)
    with pytest.raises(ConversationBusy):
        ledger.conversation("k").ask("again")
    with freeze_time(now() + timedelta(minutes=10), tick=True):
        assert ledger.conversation("k").ask("again").text == "You said: again"
    assert types(ledger).count("RunFailed") == 1
    assert [(failure.run_id, failure.cause) for failure in ledger.failures()] == [(run_id, Cause.INTERRUPTED)]


def test_a_run_that_a_crash_left_open_is_closed_by_whoever_looks_for_failures(
    open_ledger: Callable[..., Ledger],
) -> None:
    ledger = open_ledger(**PLAIN)
    run_id = left_open(ledger)
    assert ledger.failures() == []
    with freeze_time(now() + timedelta(minutes=10), tick=True):
        assert [(failure.run_id, failure.cause) for failure in ledger.failures()] == [(run_id, Cause.INTERRUPTED)]
        assert len(ledger.failures()) == 1
    assert types(ledger).count("RunFailed") == 1


def left_open(ledger: Ledger) -> str:
    """Record a question and an open run of a process that stopped, and return the run's id."""

    def decide(conversation: Any) -> Any:
        return conversation.start_run(conversation.ask(text_message("user", "hello")), RunPlan("chat", "gpt-test"))

    run_id: str = ledger.journal.commit("k", decide, create=True)
    return run_id


# Another program's run in our thread


def test_a_run_of_others_in_our_thread_is_waited_for(open_ledger: Callable[..., Ledger], simulator: Any) -> None:
    settings: dict[str, Any] = {"backends": ("assistants",), "threads": "assistants", "retries": 0}
    client = OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0)
    foreign: list[Any] = []

    def wait(seconds: float) -> None:
        """Advance the other program's run by one state at each poll."""
        if foreign:
            client.beta.threads.runs.retrieve(foreign[0].id, thread_id=foreign[0].thread_id)

    ledger = waiting_with(open_ledger(**settings), wait)
    chat = ledger.conversation("k")
    chat.ask("one")
    thread_id = ledger.state("k").links["assistants"].thread_id
    (assistant,) = simulator.provider.assistants
    foreign.append(client.beta.threads.runs.create(thread_id, assistant_id=assistant))
    assert chat.ask("two").text == "You said: two"
    assert ledger.failures() == []
    assert simulator.provider.runs[foreign[0].id]["status"] == "completed"
    client.close()


@pytest.mark.parametrize("streamed", [False, True], ids=["asked", "streamed"])
def test_a_conversation_that_is_locked_is_waited_for_within_the_run(
    open_ledger: Callable[..., Ledger], simulator: Any, streamed: bool
) -> None:
    simulator.add_fault("POST /responses", refuse={"status": 400, "code": "conversation_locked"}, times=5)
    ledger = open_ledger(backends=("responses",), threads="conversations", retries=0)
    chat = ledger.conversation("k")
    parts = list(chat.stream("one")) if streamed else [chat.ask("one")]
    assert not [part for part in parts if isinstance(part, StartedOver)]
    assert parts[-1].text == "You said: one"
    assert ledger.failures() == []
    assert [found.found.state for found in ledger.replay.verify()] == [ThreadState.SAME]


def test_one_that_stays_locked_is_given_up_as_busy(open_ledger: Callable[..., Ledger], simulator: Any) -> None:
    simulator.add_fault("POST /responses", refuse={"status": 400, "code": "conversation_locked"}, times=None)
    ledger = open_ledger(backends=("responses", "chat"), threads="conversations", retries=0)
    answer = ledger.conversation("k").ask("one")
    assert answer.fallback
    assert [failure.cause for failure in answer.failures] == [Cause.THREAD_BUSY]


def test_who_takes_the_place_of_a_run_takes_its_thread_too(
    open_ledger: Callable[..., Ledger], hanging: Callable[..., Future[Any]], gate: Gate
) -> None:
    first = hanging("first", settings=IN_A_THREAD)
    other = open_ledger(**IN_A_THREAD, while_running="interrupt")
    answer = other.conversation("k").ask("never mind")
    assert (answer.text, answer.backend) == ("You said: never mind", "responses")
    assert answer.failures == []
    assert [each.found.state for each in other.replay.verify(["k"])] == [ThreadState.SAME]
    gate.opened.set()
    assert result(first).text == "You said: first"


def test_a_thread_that_a_late_answer_was_written_to_is_replaced_by_one_in_order(
    open_ledger: Callable[..., Ledger], hanging: Callable[..., Future[Any]], gate: Gate
) -> None:
    first = hanging("first", settings=IN_A_THREAD)
    other = open_ledger(**IN_A_THREAD, while_running="interrupt")
    other.conversation("k").ask("never mind")
    gate.opened.set()
    result(first)
    assert [each.found.state for each in other.replay.verify(["k"])] == [ThreadState.SAME]
    said = [each.message.text for each in other.memory("k").messages]
    assert said == ["first", "You said: first", "never mind", "You said: never mind"]


def test_an_answer_waits_for_a_database_that_is_away_for_a_moment(
    open_ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, refusals = runs.Runs._answer, iter([StoreUnavailable("the database is locked")] * 2)

    def accept_later(self: Any, *answer: Any) -> Any:
        for refused in refusals:
            raise refused
        return accept(self, *answer)

    monkeypatch.setattr(runs.Runs, "_answer", accept_later)
    ledger = open_ledger(**IN_A_THREAD)
    assert ledger.conversation("k").ask("one").text == "You said: one"
    assert ledger.failures() == []


def test_a_question_without_words_is_refused_and_leaves_nothing(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger(**PLAIN)
    with pytest.raises(InvalidMessage, match="the question is empty"):
        ledger.conversation("k").ask(" \n")
    assert list(ledger.events()) == []
