"""Test that after repeated failures of a backend other conversations skip it, and that the reason is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain import limits
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.failures import Cause

BROKEN = {"status": 500, "code": "server_error", "message": "The server had an error."}


def calls_of(simulator: Any, path: str) -> int:
    return sum(request.path.endswith(path) for request in simulator.requests)


def test_what_one_conversation_meets_spares_the_others(open_ledger: Callable[..., Any], simulator: Any) -> None:
    simulator.add_fault("POST /responses", refuse=BROKEN, times=2 * limits.BREAKER_FAILURES)
    ledger = open_ledger(backends=("responses", "chat"), threads="none", retries=0)
    for number in range(limits.BREAKER_FAILURES):
        assert ledger.conversation(f"k{number}").ask("When?").fallback
    asked = calls_of(simulator, "/responses")
    answer = ledger.conversation("spared").ask("When?")
    assert (answer.backend, answer.fallback) == ("chat", True)
    assert calls_of(simulator, "/responses") == asked == limits.BREAKER_FAILURES

    (passed_over,) = answer.failures
    assert (passed_over.backend, passed_over.facts.status, passed_over.next) == ("responses", "refused", "fallback")
    assert passed_over.cause is Cause.PROVIDER_ERROR
    assert passed_over.facts.message.startswith("cooling down until ")
    (fallback,) = [each.event for each in ledger.events(key="spared", types=["FallbackUsed"])]
    assert (fallback.from_backend, fallback.to_backend) == ("responses", "chat")
    assert fallback.reason == f"provider_error: {passed_over.facts.message}"
    assert ledger.failures(cause="provider_error")[-1] == passed_over


def test_it_is_seen_from_outside_the_process_that_met_it(open_ledger: Callable[..., Any], simulator: Any) -> None:
    simulator.add_fault("POST /responses", refuse=BROKEN, times=2 * limits.BREAKER_FAILURES)
    settings: dict[str, Any] = {"backends": ("responses", "chat"), "threads": "none", "retries": 0}
    ledger, other = open_ledger(**settings), open_ledger(**settings)
    for number in range(limits.BREAKER_FAILURES + 2):
        ledger.conversation(f"k{number}").ask("When?")
    chat, responses = other.health()
    assert (chat.backend, chat.failures_in_a_row, chat.cooling_until) == ("chat", 0, None)
    assert (responses.failures_in_a_row, responses.last_cause) == (limits.BREAKER_FAILURES, Cause.PROVIDER_ERROR)
    assert responses.cooling_until is not None


def test_the_only_backend_is_asked_however_often_it_failed(open_ledger: Callable[..., Any], simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", refuse=BROKEN, times=limits.BREAKER_FAILURES + 4)
    ledger = open_ledger(backends=("chat",), threads="none", retries=2)
    for _ in range(3):
        with pytest.raises(AllBackendsFailed):
            ledger.conversation("k").ask("When?")
    assert calls_of(simulator, "/chat/completions") == limits.BREAKER_FAILURES + 4
    assert ledger.conversation("k").ask("And now?").backend == "chat"
