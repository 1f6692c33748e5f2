"""Test the options of one exchange: they choose backend, model and instructions of this question, and of no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain.conversation import Profile
from threadledger.domain.errors import AllBackendsFailed, InvalidInput
from threadledger.domain.ledger import AsyncLedger, Ledger

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

BOTH: dict[str, Any] = {"backends": ("responses", "chat"), "threads": "none", "retries": 0, "openai_model": "gpt-4o"}
JANE = Profile("Jane", instructions="You are Jane.", model="gpt-4o-mini")
WAYS = ("ask", "stream", "async ask", "async stream")


def ask(ledger: Ledger, way: str, text: str = "Where is it?", **options: Any) -> Any:
    """Return the answer, whichever way the question is asked."""
    if way == "ask":
        return ledger.conversation("k").ask(text, **options)
    if way == "stream":
        return list(ledger.conversation("k").stream(text, **options))[-1]

    async def asking() -> Any:
        async with AsyncLedger(ledger) as awaited:
            chat = awaited.conversation("k")
            if way == "async ask":
                return await chat.ask(text, **options)
            return [part async for part in chat.stream(text, **options)][-1]

    return asyncio.run(asking())


def sent(simulator: Any) -> dict[str, Any]:
    """Return the body of the last request."""
    body: dict[str, Any] = simulator.requests[-1].body
    return body


@pytest.mark.parametrize("way", WAYS)
def test_model_instructions_and_backend_apply_to_one_question(
    open_ledger: Callable[..., Ledger], simulator: Any, way: str
) -> None:
    ledger = open_ledger(**BOTH)
    answer = ask(open_ledger(**BOTH), way, model="gpt-4.1", instructions="Be brief.", backend="chat")
    assert (answer.backend, answer.model, answer.fallback) == ("chat", "gpt-4.1", False)
    assert sent(simulator)["model"] == "gpt-4.1"
    assert sent(simulator)["messages"][0]["content"] == "Be brief."
    run, _ = ledger.run(answer.run_id)
    profile = ledger.journal.profile(run.profile_hash)
    assert (run.model, profile and profile.instructions) == ("gpt-4.1", "Be brief.")
    plain = ask(open_ledger(**BOTH), way, "And now?")
    assert (plain.backend, plain.model) == ("responses", "gpt-4o")
    assert "Be brief." not in str(sent(simulator))


def test_a_profile_brings_its_model_and_is_stored_once(open_ledger: Callable[..., Ledger], simulator: Any) -> None:
    ledger = open_ledger(**BOTH)
    answers = [ledger.conversation("k").ask("Where is it?", profile=JANE) for _ in range(2)]
    assert {answer.model for answer in answers} == {"gpt-4o-mini"}
    assert sent(simulator)["instructions"] == "You are Jane."
    defined = [each.event for each in ledger.events(types=["ProfileDefined"])]
    assert [each.name for each in defined if each.name == "Jane"] == ["Jane"]  # type: ignore[attr-defined] - of this event
    assert ledger.run(answers[0].run_id)[0].profile_hash == JANE.hash
    other = ledger.conversation("k").ask("Where?", profile=JANE, model="gpt-4.1", instructions="You are Joan.")
    assert (other.model, sent(simulator)["instructions"]) == ("gpt-4.1", "You are Joan.")


def test_a_named_backend_has_no_fallback_and_a_model_applies_to_every_backend(
    open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = open_ledger(**BOTH)
    simulator.add_fault("POST /responses", refuse={"status": 500}, times=None)
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("Where is it?", backend="responses")
    assert [failure.backend for failure in failed.value.failures] == ["responses"]
    answer = ledger.conversation("k").ask("Where is it?", model="gpt-4.1")
    assert (answer.backend, answer.model, answer.fallback) == ("chat", "gpt-4.1", True)


REFUSED = {
    "there is no backend 'llama'; available backends: assistants, responses, chat": {"backend": "llama"},
    "there is no backend ''": {"backend": ""},
    "the model is empty": {"model": " "},
    "model is int: give a str": {"model": 4},
    "instructions is list: give a str": {"instructions": ["Be brief."]},
    "profile is str: give a Profile": {"profile": "jane.toml"},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_option_that_is_not_valid_is_refused_before_anything_is_stored(
    open_ledger: Callable[..., Ledger], way: str
) -> None:
    for message, options in REFUSED.items():
        with pytest.raises(InvalidInput, match=message):
            ask(open_ledger(**BOTH), way, **options)
    with pytest.raises(InvalidInput, match="there is no option 'modle': use model, instructions"):
        ask(open_ledger(**BOTH), way, modle="gpt-4.1")
    assert list(open_ledger(**BOTH).events()) == []


def test_a_pinned_assistant_keeps_its_own_instructions_and_this_is_said(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger(backends=("assistants", "chat"), threads="none", openai_assistant_id="asst_1")
    for options in ({"instructions": "Be brief."}, {"model": "gpt-4.1"}, {"profile": JANE}):
        with pytest.raises(InvalidInput, match=r"the assistant asst_1 has its own instructions.*OPENAI_ASSISTANT_ID"):
            ledger.conversation("k").ask("Where is it?", **options)
    assert list(ledger.events()) == []
    assert ledger.conversation("k").ask("Where is it?", instructions="Be brief.", backend="chat").backend == "chat"


def test_a_repeated_idempotency_key_returns_the_recorded_answer_whatever_the_options(
    open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = open_ledger(**BOTH)
    chat = ledger.conversation("k")
    first = chat.ask("Where is it?", idempotency_key="q", model="gpt-4.1")
    asked = len(simulator.requests)
    again = chat.ask("Where is it?", idempotency_key="q", model="gpt-4o-mini", backend="chat")
    assert (again.run_id, again.model) == (first.run_id, "gpt-4.1")
    assert len(simulator.requests) == asked


def test_a_repeated_question_without_an_answer_is_rerun_with_the_options(
    open_ledger: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = open_ledger(**BOTH)
    chat = ledger.conversation("k")
    for route in ("POST /responses", "POST /chat/completions"):
        simulator.add_fault(route, refuse={"status": 500})
    with pytest.raises(AllBackendsFailed):
        chat.ask("Where is it?", idempotency_key="q")
    answer = chat.ask("Where is it?", idempotency_key="q", backend="chat", model="gpt-4.1", instructions="Be brief.")
    assert (answer.backend, answer.model) == ("chat", "gpt-4.1")
    assert sent(simulator)["messages"][0]["content"] == "Be brief."
