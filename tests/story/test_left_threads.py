"""A conversation continues without its thread when that is too long for the model, or is refused by the provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain.conversation.events import ThreadLost
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

IN_CONVERSATION: dict[str, Any] = {"backends": ("responses",), "threads": "conversations"}
RESPONSES = "POST /responses"
TOO_LONG = {
    "status": 400,
    "code": "context_length_exceeded",
    "message": "This model's maximum context length is 80 tokens. However, your messages resulted in 190 tokens.",
}
STUCK = {"status": 400, "message": "No tool output found for function call call_abc."}


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    """Return a ledger with a conversation of eight messages in a linked thread."""
    ledger = open_ledger(**IN_CONVERSATION, retries=1)
    for number in range(4):
        ledger.conversation("k").ask(f"Question {number}: where is the parcel to Norway that I sent last week?")
    return ledger


def requests_of(simulator: Any) -> list[dict[str, Any]]:
    return [request.body for request in simulator.requests if request.template == RESPONSES]


def lost(ledger: Ledger) -> list[tuple[str, int | None]]:
    events = [each.event for each in ledger.events(types=["ThreadLost"])]
    return [(each.reason, each.window_tokens) for each in events if isinstance(each, ThreadLost)]


def test_a_thread_that_is_too_long_is_left_and_the_questions_are_answered_from_a_window(
    ledger: Ledger, simulator: Any
) -> None:
    chat = ledger.conversation("k")
    simulator.add_fault(RESPONSES, refuse=TOO_LONG)
    answer = chat.ask("And now?")
    chat.ask("And then?")
    assert [failure.cause.value for failure in answer.failures] == ["context_too_long"]
    assert lost(ledger) == [("context_too_long", 60)]
    *_, refused, retried, later = requests_of(simulator)
    assert "conversation" in refused
    for request in (retried, later):
        assert "conversation" not in request
        assert 1 < len(request["input"]) < 8
    assert later["input"][-1]["content"] == "And then?"
    assert [each.attempt for each in chat.failures()] == [1]


def test_the_thread_that_was_left_is_rebuilt_and_used_again(ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault(RESPONSES, refuse=TOO_LONG)
    ledger.conversation("k").ask("And now?")
    assert [each.found.state for each in ledger.replay.verify()] == [ThreadState.GONE]
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert item.state == "done"
    ledger.conversation("k").ask("And then?")
    assert requests_of(simulator)[-1]["conversation"] == item.thread_id


def test_a_window_that_is_still_too_long_becomes_smaller_until_the_question_is_answered(
    open_ledger: Callable[..., Ledger], ledger: Ledger, simulator: Any
) -> None:
    chat = open_ledger(**IN_CONVERSATION, retries=0).conversation("k")
    simulator.add_fault(RESPONSES, refuse=TOO_LONG | {"message": "context window"}, times=3)
    for _ in range(3):
        with pytest.raises(AllBackendsFailed):
            chat.ask("And now?")
    windows = [tokens or 0 for _, tokens in lost(ledger)]
    assert windows == sorted(windows, reverse=True)
    assert len({*windows}) == 3
    assert chat.ask("And then?").failures == []


def test_a_thread_with_a_call_that_has_no_result_is_written_again(ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault(RESPONSES, refuse=STUCK)
    chat = ledger.conversation("k")
    answer = chat.ask("And now?")
    chat.ask("And then?")
    assert len(answer.failures) == 1
    assert lost(ledger) == [("history_refused", None)]
    *_, refused, retried, later = requests_of(simulator)
    assert refused["conversation"] != retried["conversation"] == later["conversation"]
    (found,) = ledger.replay.verify()
    assert (found.thread_id, found.found.state) == (later["conversation"], ThreadState.SAME)


def test_a_run_that_was_stateless_anyway_leaves_no_thread(
    open_ledger: Callable[..., Ledger], ledger: Ledger, simulator: Any
) -> None:
    chat = open_ledger(**IN_CONVERSATION | {"backends": ("chat",)}, retries=1).conversation("k")
    simulator.add_fault("POST /chat/completions", refuse=TOO_LONG)
    with pytest.raises(AllBackendsFailed):
        chat.ask("And now?")
    assert lost(ledger) == []


def test_a_refused_thread_is_also_written_again_for_a_message_that_asks_nothing(
    open_ledger: Callable[..., Ledger], ledger: Ledger, simulator: Any
) -> None:
    chat = open_ledger(**IN_CONVERSATION, retries=0).conversation("k")
    simulator.add_fault(RESPONSES, refuse=STUCK)
    with pytest.raises(AllBackendsFailed):
        chat.ask("And now?")
    chat.append("user", "Hello?")
    assert [each.found.state for each in ledger.replay.verify()] == [ThreadState.SAME]


def test_a_refusal_that_does_not_name_its_content_costs_no_thread(ledger: Ledger, simulator: Any) -> None:
    simulator.add_fault(RESPONSES, refuse={"status": 400, "message": "Invalid value."})
    chat = ledger.conversation("k")
    with pytest.raises(AllBackendsFailed):
        chat.ask("And now?")
    chat.ask("And then?")
    assert lost(ledger) == []
    assert len({request["conversation"] for request in requests_of(simulator)[1:]}) == 1
