"""An exchange that the served API requests: any process may continue it, and nothing else is asked until its time is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from threadledger.domain.conversation import Conversation, RunPlan
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.decisions import (
    cancel,
    describe_exchange,
    describe_message,
    expire,
    give_results,
)
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.errors import CallNotWaiting, ConversationBusy, ExchangeAnswered, InvalidInput

Given = Callable[..., Any]

DEADLINE = "2026-11-22T12:10:00.000000Z"
"""Ten minutes after the frozen noon."""

STARTED = partial(e.ConversationStarted, key="customer-42")
QUESTION = partial(e.MessageJournaled, message_id="m1", role="user", content="Where is my parcel?")
REQUESTED = partial(
    e.ExchangeRequested,
    exchange_id="x1",
    background=True,
    surface="assistants",
    deadline=DEADLINE,
    question_message_id="m1",
    question_version=2,
)
RUN = partial(e.RunStarted, run_id="r1", exchange_id="x1", attempt=1, backend="chat", model="m", deadline=DEADLINE)
CALLED = partial(e.RunCompleted, run_id="r1", goes_on=True, waits_for=["c1", "c2"])
CALLS = partial(e.MessageJournaled, message_id="m2", role="assistant", exchange_id="x1", run_id="r1")
ANSWERED = partial(e.RunCompleted, run_id="r1")
PLAN = RunPlan("chat", "m")


def result(call_id: str, text: str = "sunny") -> Message:
    return Message(Role.TOOL, text, tool_call_id=call_id)


def give(*results: Message) -> Callable[[Conversation], Any]:
    return lambda conversation: give_results(conversation, "x1", results, "api:k", None)


def test_no_other_question_is_asked_before_the_deadline(given: Given, clock: Any) -> None:
    requested = given(STARTED, QUESTION, REQUESTED)
    requested.when(lambda it: it.ask(Message(Role.USER, "And?"))).then_refused(ConversationBusy, "x1")
    clock.tick(timedelta(minutes=9, seconds=59))
    requested.when(lambda it: it.ask(Message(Role.USER, "And?"))).then_refused(ConversationBusy, "x1")


def test_after_the_deadline_a_question_ends_it(given: Given, clock: Any) -> None:
    clock.tick(timedelta(minutes=10))
    for past in ((STARTED, QUESTION, REQUESTED), (STARTED, QUESTION, REQUESTED, RUN, CALLED, CALLS)):
        given(*past).when(lambda it: it.ask(Message(Role.USER, "And?"))).then(
            partial(e.ExchangeAbandoned, exchange_id="x1"), partial(e.MessageJournaled, role="user")
        )


def test_the_results_of_all_calls_are_journaled_in_the_order_of_the_calls(given: Given) -> None:
    outcome = given(STARTED, QUESTION, REQUESTED, RUN, CALLED, CALLS).when(give(result("c2", "b"), result("c1", "a")))
    outcome.then(
        partial(e.MessageJournaled, tool_call_id="c1", content="a", idempotency_key="api:k", batch=2, exchange_id="x1"),
        partial(e.MessageJournaled, tool_call_id="c2", content="b", idempotency_key=None, exchange_id="x1"),
    )
    exchange = outcome.conversation.state.open_exchanges["x1"]
    assert (exchange.undecided, exchange.waits_for) == (None, {"c1": "answered", "c2": "answered"})


def test_results_of_other_calls_or_of_some_are_refused(given: Given) -> None:
    waiting = given(STARTED, QUESTION, REQUESTED, RUN, CALLED, CALLS)
    waiting.when(give(result("c1"))).then_refused(CallNotWaiting, "nothing was stored")
    waiting.when(give(result("c1"), result("c3"))).then_refused(CallNotWaiting)
    given(STARTED, QUESTION, REQUESTED).when(give(result("c1"))).then_refused(CallNotWaiting)


def test_results_are_given_once(given: Given) -> None:
    results = (
        partial(e.MessageJournaled, message_id="m3", role="tool", tool_call_id="c1", exchange_id="x1"),
        partial(e.MessageJournaled, message_id="m4", role="tool", tool_call_id="c2", exchange_id="x1"),
    )
    past = given(STARTED, QUESTION, REQUESTED, RUN, CALLED, CALLS, *results)
    past.when(give(result("c1"), result("c2"))).then_refused(CallNotWaiting)


def test_a_cancelled_exchange_ends_with_its_open_run(given: Given) -> None:
    outcome = given(STARTED, QUESTION, REQUESTED, RUN).when(lambda it: cancel(it, "x1", "no longer wanted"))
    outcome.then(
        partial(e.RunFailed, run_id="r1", status="cancelled"),
        partial(e.ExchangeCancelled, exchange_id="x1", reason="no longer wanted"),
    )
    state = outcome.conversation.state
    assert (state.open_exchanges, state.unanswered, state.pending) == ({}, 0, None)


def test_an_ended_exchange_is_not_cancelled(given: Given) -> None:
    given(STARTED, QUESTION, REQUESTED, RUN, ANSWERED).when(lambda it: cancel(it, "x1", "")).then_nothing()


def test_a_late_answer_to_a_cancelled_exchange_is_refused(given: Given) -> None:
    failed = partial(e.RunFailed, run_id="r1", status="cancelled")
    cancelled = partial(e.ExchangeCancelled, exchange_id="x1")
    past = given(STARTED, QUESTION, REQUESTED, RUN, failed, cancelled)
    past.when(lambda it: it.start_run("x1", PLAN)).then_refused(ExchangeAnswered)


def test_a_waiting_exchange_that_is_cancelled_waits_no_longer(given: Given) -> None:
    outcome = given(STARTED, QUESTION, REQUESTED, RUN, CALLED, CALLS).when(lambda it: cancel(it, "x1", ""))
    outcome.then(partial(e.ExchangeCancelled, exchange_id="x1"))
    assert outcome.conversation.state.pending is None


def test_an_exchange_expires_at_its_deadline_and_not_before(given: Given, clock: Any) -> None:
    past = given(STARTED, QUESTION, REQUESTED)
    outcome = past.when(lambda it: expire(it, "x1", PLAN, "too late"))
    assert outcome.then_nothing().result is False
    clock.tick(timedelta(minutes=10))
    outcome = past.when(lambda it: expire(it, "x1", PLAN, "too late"))
    outcome.then(
        partial(e.RunStarted, exchange_id="x1", backend="chat"),
        partial(e.RunFailed, status="expired", code="expired", message="too late"),
        partial(e.ExchangeAbandoned, exchange_id="x1", reason="too late"),
    )
    assert outcome.result is True


def test_the_open_run_of_an_expired_exchange_ends_as_expired(given: Given, clock: Any) -> None:
    clock.tick(timedelta(minutes=10))
    given(STARTED, QUESTION, REQUESTED, RUN).when(lambda it: expire(it, "x1", PLAN, "too late")).then(
        partial(e.RunFailed, run_id="r1", status="expired"), partial(e.ExchangeAbandoned, exchange_id="x1")
    )


def test_what_has_ended_does_not_expire(given: Given, clock: Any) -> None:
    clock.tick(timedelta(minutes=10))
    outcome = given(STARTED, QUESTION, REQUESTED, RUN, ANSWERED).when(lambda it: expire(it, "x1", PLAN, ""))
    assert outcome.then_nothing().result is True


def test_an_abandoned_exchange_has_no_deadline_when_it_is_run_again(given: Given) -> None:
    abandoned = partial(e.ExchangeAbandoned, exchange_id="x1")
    again = partial(RUN, run_id="r2", rerun_of="r1")
    failed = partial(e.RunFailed, run_id="r1", status="failed")
    state = given(STARTED, QUESTION, REQUESTED, RUN, failed, abandoned, again).when(lambda it: None).conversation.state
    assert state.open_exchanges["x1"].deadline is None


def test_a_message_and_an_exchange_are_described(given: Given) -> None:
    past = given(STARTED, QUESTION, REQUESTED)
    past.when(lambda it: describe_message(it, "m1", 2, {"a": "b"})).then(
        partial(e.MessageDescribed, message_id="m1", message_version=2, metadata={"a": "b"})
    )
    past.when(lambda it: describe_exchange(it, "x1", {"a": "b"})).then(
        partial(e.ExchangeDescribed, exchange_id="x1", metadata={"a": "b"})
    )
    past.when(lambda it: describe_message(it, "m1", 2, {"a": "b" * 17_000})).then_refused(InvalidInput, "16,384 bytes")


def test_a_background_request_at_the_end_makes_no_branch(state_of: Callable[..., Any]) -> None:
    state = state_of(STARTED, QUESTION, REQUESTED)
    assert (state.fork_version, state.open_exchanges["x1"].deadline) == (None, DEADLINE)
