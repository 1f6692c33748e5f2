"""Test reruns of failed exchanges.

A rerun shows the model the same memory as the failed run. Its answer goes to the waiting user, into a copy of the
conversation, or is only displayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

import threadledger
from threadledger.domain.conversation import Profile, events, parse_profile
from threadledger.domain.errors import AllBackendsFailed, InvalidInput
from threadledger.domain.failures import Cause
from threadledger.domain.ledger import AsyncLedger, Ledger
from threadledger.domain.replay import RerunItem
from threadledger.domain.threads import ThreadState

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

RUNS, RESPONSES, CHAT = "POST /threads/{thread_id}/runs", "POST /responses", "POST /chat/completions"
OUTPUTS = "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"
KINDS: dict[str, dict[str, Any]] = {
    "assistants": {"backends": ("assistants",), "threads": "assistants", "retries": 0},
    "responses": {"backends": ("responses",), "threads": "conversations", "retries": 0},
    "chat": {"backends": ("chat",), "threads": "conversations", "retries": 0},
}
ROUTES = {"assistants": RUNS, "responses": RESPONSES, "chat": CHAT}
EVERY = pytest.mark.parametrize("kind", KINDS)


def refused(status: int, code: str | None = None, **words: Any) -> dict[str, Any]:
    return {"refuse": {"status": status, **({"code": code} if code else {}), **words}}


CAUSES: list[tuple[str, dict[str, Any], Cause]] = [
    *[
        (kind, fault, cause)
        for kind in KINDS
        for fault, cause in [
            (refused(401, "invalid_api_key"), Cause.AUTHENTICATION),
            (refused(403), Cause.PERMISSION),
            (refused(429, "rate_limit_exceeded"), Cause.RATE_LIMITED),
            (refused(429, "insufficient_quota"), Cause.QUOTA_EXHAUSTED),
            (refused(404, "model_not_found", param="model"), Cause.MODEL_UNAVAILABLE),
            (refused(400, "context_length_exceeded"), Cause.CONTEXT_TOO_LONG),
            (refused(400, "content_filter"), Cause.CONTENT_FILTERED),
            (refused(500), Cause.PROVIDER_ERROR),
            ({"drop": True}, Cause.NETWORK),
        ]
    ],
    ("chat", {"lose_answer": True}, Cause.NETWORK),
    ("assistants", {"fail": True}, Cause.PROVIDER_ERROR),
    ("assistants", {"fail": {"code": "rate_limit_exceeded"}}, Cause.RATE_LIMITED),
    ("assistants", {"incomplete": "max_completion_tokens"}, Cause.INCOMPLETE),
    ("assistants", {"end": "expired"}, Cause.EXPIRED),
    ("assistants", {"end": "cancelled"}, Cause.CANCELLED),
    ("assistants", refused(400), Cause.HISTORY_REFUSED),
    ("assistants", {"thread_gone": True}, Cause.THREAD_MISSING),
    ("assistants", {"gone": True}, Cause.PROVIDER_GONE),
    ("responses", {"fail": True}, Cause.PROVIDER_ERROR),
    ("responses", {"incomplete": "max_output_tokens"}, Cause.INCOMPLETE),
    ("responses", {"incomplete": "content_filter"}, Cause.CONTENT_FILTERED),
    ("responses", refused(400, "conversation_locked"), Cause.THREAD_BUSY),
    ("chat", {"incomplete": "length"}, Cause.INCOMPLETE),
    ("chat", {"reply": {"content_type": "text/html", "text": "<html>Please log in.</html>"}}, Cause.PROVIDER_ERROR),
]


def told(kind: str, fault: dict[str, Any], cause: Cause) -> str:
    return f"{kind} {fault} {cause}"


def replaced(ledger: Ledger, **services: Any) -> Ledger:
    """Return the same ledger with parts of `outside` replaced."""
    return Ledger(ledger.journal, replace(ledger.services, **services))


def texts(ledger: Ledger, key: str = "k") -> list[str]:
    return [each.message.text for each in ledger.memory(key).messages]


def verified(ledger: Ledger) -> list[ThreadState]:
    return [found.found.state for found in ledger.replay.verify()]


def state_of(ledger: Ledger, key: str = "k") -> dict[str, Any]:
    """Return the state of a conversation, except for its version, last time and number of failed runs."""
    kept = vars(ledger.state(key))
    return {name: value for name, value in kept.items() if name not in {"version", "last_at", "failed_runs"}}


@pytest.fixture
def failed(simulator: Any) -> Callable[..., str]:
    """Return a function that makes a question fail on every model route, and returns the id of its last run."""

    def fail(ledger: Ledger, text: str = "Where is it?", key: str = "k", **fault: Any) -> str:
        for route in ROUTES.values():
            simulator.add_fault(route, **(fault or refused(500)), times=None)
        with pytest.raises(AllBackendsFailed):
            ledger.conversation(key).ask(text)
        simulator.clear_faults()
        return ledger.failures()[-1].run_id

    return fail


# What the failed run saw


@pytest.mark.parametrize(("kind", "fault", "cause"), CAUSES, ids=[told(*each) for each in CAUSES])
def test_an_exchange_that_failed_for_any_cause_is_answered_in_its_place_from_the_memory_that_its_run_saw(
    open_ledger: Callable[..., Ledger], simulator: Any, kind: str, fault: dict[str, Any], cause: Cause
) -> None:
    ledger = open_ledger(**KINDS[kind], timeout_seconds=5 if "hang" in fault else 60)
    chat = ledger.conversation("k")
    chat.ask("Hello")
    simulator.add_fault(ROUTES[kind], **fault, times=30)
    with pytest.raises(AllBackendsFailed):
        chat.ask("Where is it?")
    simulator.clear_faults()
    failure = ledger.failures()[-1]
    assert failure.cause is cause
    elsewhere = "chat" if cause is Cause.PROVIDER_GONE else None
    (item,) = ledger.replay.plan_rerun(failed=True, on=elsewhere).apply()
    assert (item.state, item.reason, item.answer) == ("answered", "", "You said: Where is it?")
    saw, run = ledger.run(failure.run_id)[0], ledger.run(item.new_run_id or "")[0]
    assert (run.memory_version, run.memory_rule, run.memory_hash) == (
        saw.memory_version,
        saw.memory_rule,
        saw.memory_hash,
    )
    assert texts(ledger) == ["Hello", "You said: Hello", "Where is it?", "You said: Where is it?"]
    assert elsewhere or verified(ledger) == [ThreadState.SAME]
    assert ledger.state("k").unanswered == 0


@EVERY
def test_the_audit_shows_the_failure_the_rerun_and_that_it_was_accepted(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    run_id = failed(ledger)
    (item,) = ledger.replay.plan_rerun([run_id]).apply()
    (failure,) = ledger.failures()
    assert (failure.run_id, failure.answered_by) == (run_id, item.new_run_id)
    assert ledger.run(item.new_run_id or "")[0].rerun_of == run_id
    (accepted,) = [logged.event for logged in ledger.events(key="k", types=["RerunAccepted"])]
    assert isinstance(accepted, events.RerunAccepted)
    assert (accepted.run_id, accepted.superseded_run_id) == (item.new_run_id, run_id)
    assert (accepted.superseded_message_id, accepted.behind_message_id) == (None, None)


@EVERY
def test_what_a_failed_run_had_tools_do_is_not_shown_to_the_run_that_takes_its_place(
    open_ledger: Callable[..., Ledger], simulator: Any, weather: Profile, kind: str
) -> None:
    ledger = replaced(open_ledger({"weather": lambda city: "sunny"}, **KINDS[kind]), profile=weather)
    simulator.answer(BERN)
    after = {"assistants": OUTPUTS, "responses": RESPONSES, "chat": CHAT}[kind]
    simulator.add_fault(after, refuse={"status": 400}, after=0 if kind == "assistants" else 1)
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("Weather?")
    failure = ledger.failures()[-1]
    (item,) = ledger.replay.plan_rerun(failed=True).apply()
    assert item.answer == "You said: Weather?"
    saw, run = ledger.run(failure.run_id)[0], ledger.run(item.new_run_id or "")[0]
    assert (run.memory_hash, run.apart) == (saw.memory_hash, kind != "chat")
    assert [each.message.role for each in ledger.memory("k").messages] == ["user", "assistant", "tool", "assistant"]
    assert verified(ledger) == [ThreadState.SAME]
    assert ledger.conversation("k").ask("Thanks").text == "You said: Thanks"
    assert verified(ledger) == [ThreadState.SAME]


def test_a_window_of_memory_is_shown_again_as_it_was(
    open_ledger: Callable[..., Ledger], simulator: Any, failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["chat"], memory_last=3)
    for text in ("one", "two", "three"):
        ledger.conversation("k").ask(text)
    run_id = failed(ledger)

    wide = open_ledger(**KINDS["responses"])
    (item,) = wide.replay.plan_rerun([run_id]).apply()
    (asked,) = [request.body for request in simulator.requests if request.template == RESPONSES]
    assert [each["content"] for each in asked["input"]] == ["three", "You said: three", "Where is it?"]
    assert "conversation" not in asked
    run = wide.run(item.new_run_id or "")[0]
    assert (run.memory_rule, run.memory_hash) == ("2;last=3", wide.run(run_id)[0].memory_hash)


def test_a_memory_that_is_not_what_the_run_was_shown_is_not_asked_with(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], asked_of: Callable[..., int]
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    run_id = failed(ledger)
    exchange_id = ledger.failures()[-1].exchange_id

    def forged(conversation: Any) -> None:
        plan = PLAN.replaced(memory_version=2, memory_hash="0" * 64, rerun_of=run_id)
        again = conversation.start_run(exchange_id, plan)
        conversation.fail_run(again, threadledger.domain.Failure("error", message="as it was"))

    before = asked_of()
    ledger.journal.commit("k", forged)
    (item,) = ledger.replay.plan_rerun(failed=True).apply()
    assert (item.state, item.kind) == ("skipped", "memory")
    assert "cannot be recomputed" in item.reason
    assert asked_of() == before


PLAN = threadledger.domain.RunPlan("chat", "gpt-5.5")
BERN: dict[str, Any] = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}


@pytest.fixture
def weather() -> Profile:
    return parse_profile({"tools": [{"name": "weather"}]}, "a profile")


# Which backend is called


def test_another_backend_model_and_profile_are_asked_where_that_is_wanted(
    open_ledger: Callable[..., Ledger], simulator: Any, failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["responses"])
    run_id = failed(ledger)

    profile = Profile("Jane", "Be brief.")
    plan = ledger.replay.plan_rerun([run_id], on="chat", model="gpt-4o", profile=profile)
    assert [(item.backend, item.model) for item in plan.items] == [("chat", "gpt-4o")]
    (item,) = plan.apply()
    (asked,) = [request.body for request in simulator.requests if request.template == CHAT]
    assert (asked["model"], asked["messages"][0]) == ("gpt-4o", {"role": "system", "content": "Be brief."})
    assert ledger.run(item.new_run_id or "")[0].profile_hash == profile.hash


def test_a_backend_that_is_not_there_is_refused(open_ledger: Callable[..., Ledger]) -> None:
    with pytest.raises(
        InvalidInput, match="there is no backend 'llama'; available backends: assistants, responses, chat"
    ):
        open_ledger().replay.plan_rerun(failed=True, on="llama")


# What is skipped unless it is requested


@pytest.fixture
def answered(open_ledger: Callable[..., Ledger], simulator: Any) -> tuple[Ledger, str]:
    """Create a conversation whose question was answered after a failed run; return the ledger and that run's id."""
    ledger = open_ledger(backends=("responses", "chat"), threads="conversations", retries=0)
    simulator.add_fault(RESPONSES, fail=True)
    simulator.answer("The first answer.")
    ledger.conversation("k").ask("Where is it?")
    simulator.answer("A better answer.")
    return ledger, ledger.failures()[-1].run_id


def test_an_answered_exchange_is_skipped(answered: tuple[Ledger, str], asked_of: Callable[..., int]) -> None:
    ledger, run_id = answered
    before = asked_of()
    (item,) = ledger.replay.plan_rerun([run_id]).apply()
    assert (item.state, item.kind) == ("skipped", "answered")
    assert item.reason.startswith("already answered by run")
    assert ledger.replay.plan_rerun(keys=["k"]).items == []
    assert asked_of() == before


def test_a_new_answer_takes_the_old_ones_place_where_it_is_asked_for(answered: tuple[Ledger, str]) -> None:
    ledger, run_id = answered
    old = ledger.memory("k").messages[-1]
    (item,) = ledger.replay.plan_rerun(keys=["k"], include=["answered"]).apply()
    assert (item.state, item.answer, item.run_id) == ("answered", "A better answer.", run_id)
    assert texts(ledger) == ["Where is it?", "A better answer."]
    (accepted,) = [logged.event for logged in ledger.events(key="k", types=["RerunAccepted"])]
    assert isinstance(accepted, events.RerunAccepted)
    assert (accepted.superseded_message_id, accepted.superseded_run_id) == (old.message_id, old.run_id)
    assert ledger.exchanges("k").by_id[item.exchange_id].answered_by == item.new_run_id
    assert verified(ledger) == [ThreadState.SAME]
    assert ledger.state("k").unanswered == 0
    assert ledger.conversation("k").ask("Thanks").text == "You said: Thanks"
    assert verified(ledger) == [ThreadState.SAME]


def test_an_answer_stays_where_nobody_has_a_better_one(answered: tuple[Ledger, str], simulator: Any) -> None:
    ledger, run_id = answered
    before = texts(ledger), ledger.exchanges("k").failures
    for route in (RESPONSES, CHAT):
        simulator.add_fault(route, refuse={"status": 500})
    (item,) = ledger.replay.plan_rerun([run_id], include=["answered"]).apply()
    assert item.state == "failed"
    assert texts(ledger) == before[0]
    assert (ledger.state("k").unanswered, ledger.state("k").open_exchanges) == (0, {})
    assert ledger.failures(unanswered=True) == []
    assert ledger.conversation("k").ask("Next").text == "A better answer."


def test_an_answer_with_its_tools_leaves_memory_as_a_whole(
    open_ledger: Callable[..., Ledger], simulator: Any, weather: Profile
) -> None:
    ledger = replaced(open_ledger({"weather": lambda city: "sunny"}, **KINDS["responses"]), profile=weather)
    simulator.answer(BERN, "Sunny.")
    answer = ledger.conversation("k").ask("Weather?")
    assert len(texts(ledger)) == 4
    (item,) = ledger.replay.plan_rerun([answer.run_id], include=["answered"]).apply()
    assert texts(ledger) == ["Weather?", "You said: Weather?"]
    assert item.state == "answered"
    assert verified(ledger) == [ThreadState.SAME]


@pytest.fixture
def overtaken(open_ledger: Callable[..., Ledger], failed: Callable[..., str]) -> Iterator[Callable[..., Ledger]]:
    """Yield a function that creates a conversation which continued after an unanswered question."""

    def make(kind: str, tools: Any = None) -> Ledger:
        ledger = open_ledger(tools, **KINDS[kind])
        ledger.conversation("k").ask("Hello")
        failed(ledger)
        ledger.conversation("k").ask("Are you there?")
        return ledger

    return make


@EVERY
def test_an_overtaken_exchange_is_skipped(overtaken: Callable[..., Ledger], kind: str) -> None:
    ledger = overtaken(kind)
    (item,) = ledger.replay.plan_rerun(failed=True).apply()
    assert (item.state, item.kind, item.reason) == ("skipped", "overtaken", "overtaken by newer messages")


@EVERY
def test_the_answer_of_an_overtaken_exchange_stands_behind_it_in_memory_and_in_the_thread(
    overtaken: Callable[..., Ledger], kind: str
) -> None:
    ledger = overtaken(kind)
    (item,) = ledger.replay.plan_rerun(failed=True, include=["overtaken"]).apply()
    said = ["Hello", "You said: Hello", "Where is it?", "You said: Where is it?"]
    said += ["Are you there?", "You said: Are you there?"]
    assert (item.state, texts(ledger)) == ("answered", said)
    assert verified(ledger) == [ThreadState.SAME]
    for last in range(1, 7):
        window = ledger.conversation("k").memory(last=last).messages
        assert [each.message.text for each in window] == said[-last:]
    assert ledger.conversation("k").ask("Thanks").text == "You said: Thanks"
    assert texts(ledger) == [*said, "Thanks", "You said: Thanks"]
    assert verified(ledger) == [ThreadState.SAME]


def test_tools_that_an_overtaken_exchange_uses_stand_with_its_answer(
    overtaken: Callable[..., Ledger], simulator: Any, weather: Profile
) -> None:
    ledger = replaced(overtaken("responses", {"weather": lambda city: "sunny"}), profile=weather)
    simulator.answer(BERN, "Sunny.")
    ledger.replay.plan_rerun(failed=True, include=["overtaken"]).apply()
    roles = [each.message.role for each in ledger.memory("k").messages]
    assert roles == ["user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert texts(ledger)[3:6] == ["", "sunny", "Sunny."]
    assert verified(ledger) == [ThreadState.SAME]


def test_tools_that_an_overtaken_exchange_used_in_vain_are_not_left_at_the_end(
    overtaken: Callable[..., Ledger], simulator: Any, weather: Profile
) -> None:
    used: list[str] = []
    ledger = replaced(overtaken("chat", {"weather": lambda city: used.append(city) or "sunny"}), profile=weather)
    before = texts(ledger)
    simulator.answer(BERN)
    simulator.add_fault(CHAT, refuse={"status": 500}, after=1)
    plan = ledger.replay.plan_rerun(failed=True, include=["overtaken"])
    assert [item.state for item in plan.apply()] == ["failed"]
    assert texts(ledger) == before
    simulator.answer(BERN, "Sunny.")
    assert [item.answer for item in plan.resume()] == ["Sunny."]
    assert used == ["Bern"]


def test_an_answer_is_replaced_in_the_middle_of_a_conversation_where_both_are_asked_for(
    answered: tuple[Ledger, str],
) -> None:
    ledger, run_id = answered
    ledger.conversation("k").append("user", "Are you there?")
    (item,) = ledger.replay.plan_rerun([run_id], include=["answered"]).apply()
    assert (item.state, item.kind) == ("skipped", "overtaken")
    (item,) = ledger.replay.plan_rerun([run_id], include=["answered", "overtaken"]).apply()
    assert texts(ledger) == ["Where is it?", "A better answer.", "Are you there?"]
    assert verified(ledger) == [ThreadState.SAME]


def test_a_question_that_has_left_memory_is_not_asked_again(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    failed(ledger)
    ledger.conversation("k").clear()
    (item,) = ledger.replay.plan_rerun(failed=True, include=["overtaken"]).items
    assert (item.state, item.reason) == ("skipped", "the question is no longer in memory")


@pytest.fixture
def stopped_at_a_tool(open_ledger: Callable[..., Ledger], simulator: Any) -> Callable[..., Ledger]:
    """Return a function that creates a conversation whose last run stopped at a function that raised."""

    def make(**given: Any) -> Ledger:
        profile = parse_profile({"tools": [{"name": "weather", **given}]}, "a profile")
        tools = {"weather": lambda city: (_ for _ in ()).throw(OSError("no line"))}
        ledger = replaced(open_ledger(tools, **KINDS["chat"]), profile=profile)
        simulator.answer(BERN)
        simulator.add_fault(CHAT, refuse={"status": 400}, after=1)
        with pytest.raises(AllBackendsFailed):
            ledger.conversation("k").ask("Weather?")
        return ledger

    return make


def test_an_exchange_that_stopped_at_a_tool_with_side_effects_is_run_again_only_where_that_is_asked_for(
    stopped_at_a_tool: Callable[..., Ledger],
) -> None:
    ledger = stopped_at_a_tool()
    (item,) = ledger.replay.plan_rerun(failed=True).items
    assert (item.state, item.kind) == ("skipped", "tools")
    assert "stopped at 'weather'" in item.reason
    (item,) = ledger.replay.plan_rerun(failed=True, include=["tools"]).apply()
    assert item.state == "answered"


def test_a_tool_that_is_declared_harmless_keeps_no_exchange_from_being_run_again(
    stopped_at_a_tool: Callable[..., Ledger], simulator: Any
) -> None:
    ledger = stopped_at_a_tool(read_only=True)
    (item,) = ledger.replay.plan_rerun(failed=True).apply()
    assert item.state == "answered"
    assert not any("read_only" in str(request.body) for request in simulator.requests)


class Interrupting:
    """Represent a backend whose process is interrupted during the call."""

    takes_unsent = False

    def __init__(self, name: str, thread: str | None) -> None:
        self.name, self.thread = name, thread

    def preflight(self, request: Any) -> None:
        return None

    def answer(self, request: Any) -> Any:
        raise KeyboardInterrupt
        yield


def interrupted(ledger: Ledger, kind: str) -> None:
    backend = ledger.services.backends[kind]
    stopping = replaced(ledger, backends={kind: Interrupting(kind, backend.thread)})
    with suppress(KeyboardInterrupt):
        stopping.conversation("k").ask("Where is it?")


def test_a_run_that_was_interrupted_outside_a_thread_is_run_again_only_where_that_is_asked_for(
    open_ledger: Callable[..., Ledger],
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    interrupted(ledger, "chat")
    (item,) = ledger.replay.plan_rerun(failed=True).items
    assert (item.state, item.kind) == ("skipped", "interrupted")
    (item,) = ledger.replay.plan_rerun(failed=True, include=["interrupted"]).apply()
    assert item.state == "answered"


@pytest.mark.parametrize("kind", ["assistants", "responses"])
def test_a_run_that_was_interrupted_in_a_thread_is_looked_for_there_first(
    open_ledger: Callable[..., Ledger], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    interrupted(ledger, kind)
    (elsewhere,) = ledger.replay.plan_rerun(failed=True, on="chat").items
    assert (elsewhere.state, elsewhere.kind) == ("skipped", "interrupted")
    (item,) = ledger.replay.plan_rerun(failed=True).apply()
    assert item.state == "answered"


# As a shadow


@EVERY
def test_a_shadow_is_shown_beside_the_original_and_leaves_it_untouched(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], simulator: Any, kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    ledger.conversation("k").ask("Hello")
    run_id = failed(ledger)
    before = ledger.memory("k").digest(), state_of(ledger), ledger.failures()
    (item,) = ledger.replay.plan_rerun([run_id], into="shadow").apply()
    assert (item.state, item.answer) == ("answered", "You said: Where is it?")
    assert (item.original or "").startswith("provider_error: HTTP 500")
    assert (ledger.memory("k").digest(), state_of(ledger), ledger.failures()) == before
    assert verified(ledger) == [ThreadState.SAME]
    run, exchanges = ledger.run(item.new_run_id or "")
    assert (run.shadow, run.state, run.rerun_of) == (True, "completed", run_id)
    assert run.memory_hash == ledger.run(run_id)[0].memory_hash
    assert exchanges.exchange_of(run).answered_by is None
    assert [logged.type for logged in ledger.events(key="k")][-2:] == ["RunStarted", "RunCompleted"]
    (again,) = ledger.replay.plan_rerun(failed=True).apply()
    assert (again.state, again.run_id) == ("answered", run_id)


def test_an_answered_and_overtaken_exchange_has_its_shadow_beside_its_answer(
    answered: tuple[Ledger, str],
) -> None:
    ledger, run_id = answered
    ledger.conversation("k").append("user", "Are you there?")
    (item,) = ledger.replay.plan_rerun([run_id], into="shadow").apply()
    assert (item.original, item.answer) == ("The first answer.", "A better answer.")
    assert ledger.exchanges("k").by_id[item.exchange_id].answered_by != item.new_run_id
    assert texts(ledger) == ["Where is it?", "The first answer.", "Are you there?"]


def test_a_shadow_that_fails_is_told_with_every_run_and_changes_nothing(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], simulator: Any
) -> None:
    ledger = open_ledger(backends=("responses", "chat"), threads="conversations", retries=0)
    run_id = failed(ledger)
    before = state_of(ledger)
    for route in (RESPONSES, CHAT):
        simulator.add_fault(route, refuse={"status": 500})
    (item,) = ledger.replay.plan_rerun([run_id], into="shadow").apply()
    assert (item.state, item.runs_made) == ("failed", 2)
    assert state_of(ledger) == before
    told = [logged.type for logged in ledger.events(key="k")][-5:]
    assert told == ["RunStarted", "RunFailed", "FallbackUsed", "RunStarted", "RunFailed"]
    (first, second) = ledger.failures()[-2:]
    assert (first.next, second.next, second.answered_by) == ("fallback", "open", None)
    assert ledger.replay.plan_rerun(failed=True).items[0].run_id == run_id


def test_nobody_waits_for_a_shadow_that_is_under_way(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    run_id = failed(ledger)
    shadowing = Asking(ledger)
    Ledger.replay.fget(shadowing.ledger).plan_rerun([run_id], into="shadow").apply()
    assert shadowing.heard == "You said: Meanwhile"
    assert texts(ledger) == ["Where is it?", "Meanwhile", "You said: Meanwhile"]


class Asking:
    """Hold a ledger in which another question is asked while a backend is answering."""

    def __init__(self, ledger: Ledger) -> None:
        self.heard = ""
        backend = ledger.services.backends["chat"]

        def answer(request: Any) -> Any:
            self.heard = ledger.conversation("k").ask("Meanwhile").text
            return (yield from backend.answer(request))

        class Busy(Interrupting):
            pass

        busy = Busy("chat", None)
        busy.answer = answer
        self.ledger = replaced(ledger, backends={"chat": busy})


def test_a_shadow_calls_no_tool_that_may_change_something_unless_it_is_to(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], simulator: Any, weather: Profile
) -> None:
    used: list[str] = []
    tools = {"weather": lambda city: used.append(city) or "sunny"}
    ledger = replaced(open_ledger(tools, **KINDS["chat"]), profile=weather)
    run_id = failed(ledger)
    simulator.answer(BERN, "Unknown.")
    ledger.replay.plan_rerun([run_id], into="shadow").apply()
    assert used == []
    simulator.answer(BERN, "Sunny.")
    ledger.replay.plan_rerun([run_id], into="shadow", tools="live").apply()
    assert used == ["Bern"]
    said = [logged.event for logged in ledger.events(key="k", types=["RunCompleted"])][-1]
    assert isinstance(said, events.RunCompleted)
    assert [each["role"] for each in said.shadow_messages] == ["assistant", "tool", "assistant"]
    assert len(texts(ledger)) == 1


# Into a fork


@EVERY
def test_a_fork_is_answered_in_a_conversation_of_its_own(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    ledger.conversation("k").ask("Hello")
    run_id = failed(ledger)
    before = ledger.memory("k").digest(), vars(ledger.state("k"))
    (item,) = ledger.replay.plan_rerun([run_id], into="fork").apply()
    assert (item.state, item.fork) == ("answered", f"k ~ {run_id[-8:]}")
    assert (ledger.memory("k").digest(), vars(ledger.state("k"))) == before
    fork = item.fork or ""
    assert ledger.parent(fork) == ("k", ledger.run(run_id)[0].memory_version)
    assert texts(ledger, fork) == ["Hello", "You said: Hello", "Where is it?", "You said: Where is it?"]
    run = ledger.run(item.new_run_id or "")[0]
    assert (run.key, run.rerun_of, run.memory_hash) == (fork, run_id, ledger.run(run_id)[0].memory_hash)
    assert verified(ledger) == [ThreadState.SAME, ThreadState.SAME]
    (second,) = ledger.replay.plan_rerun([run_id], into="fork").apply()
    assert (second.state, second.fork) == ("answered", f"k ~ {run_id[-8:]} 2")


def test_a_fork_that_fails_is_gone_on_with_by_the_same_plan(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], simulator: Any
) -> None:
    ledger = open_ledger(**KINDS["responses"])
    run_id = failed(ledger)
    plan = ledger.replay.plan_rerun([run_id], into="fork")
    simulator.add_fault(RESPONSES, fail=True)
    assert [item.state for item in plan.apply()] == ["failed"]
    assert [item.state for item in plan.resume()] == ["answered"]
    assert [state.key for state in ledger.conversations() if " ~ " in state.key] == [f"k ~ {run_id[-8:]}"]


def test_the_key_of_a_fork_is_never_too_long(open_ledger: Callable[..., Ledger], failed: Callable[..., str]) -> None:
    ledger = open_ledger(**KINDS["chat"])
    run_id = failed(ledger, key="k" * 200)
    (item,) = ledger.replay.plan_rerun([run_id], into="fork").apply()
    assert (item.state, item.fork) == ("answered", f"{'k' * 189} ~ {run_id[-8:]}")


def test_a_fork_is_answered_from_the_record_of_its_parents_tools(
    open_ledger: Callable[..., Ledger], simulator: Any, weather: Profile
) -> None:
    used: list[str] = []
    tools = {"weather": lambda city: used.append(city) or f"use {len(used)}"}
    ledger = replaced(open_ledger(tools, **KINDS["responses"]), profile=weather)
    simulator.answer(BERN, "Sunny.", BERN, "Still sunny.")
    answer = ledger.conversation("k").ask("Weather?")
    (item,) = ledger.replay.plan_rerun([answer.run_id], into="fork").apply()
    assert (used, item.original, item.answer) == (["Bern"], "Sunny.", "Still sunny.")
    assert texts(ledger, item.fork or "") == ["Weather?", "", "use 1", "Still sunny."]
    assert verified(ledger) == [ThreadState.SAME, ThreadState.SAME]


# Plans and their pins


def test_a_plan_says_what_will_be_asked_and_what_it_costs(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], asked_of: Callable[..., int]
) -> None:
    ledger = replaced(open_ledger(backends=("responses", "chat"), retries=1), price=price)
    failed(ledger)
    failed(ledger, key="gone on")
    ledger.conversation("gone on").append("user", "Are you there?")
    before = asked_of()
    plan = ledger.replay.plan_rerun(failed=True)
    item, left = plan.items
    assert (item.backend, item.model, item.state) == ("responses", "gpt-5.5", "planned")
    assert item.estimated_tokens == ledger.memory("k").estimated_tokens()
    assert item.estimated_cost == price("gpt-5.5", item.estimated_tokens, 300)
    assert (plan.runs_at_most(), plan.runs_at_most(3)) == (4, 3)
    assert (left.state, plan.skipped()) == ("skipped", {"overtaken by newer messages": 1})
    assert plan.can_be_included() == {"overtaken"}
    assert asked_of() == before


def price(model: str, input_tokens: int, output_tokens: int) -> float | None:
    return (input_tokens + output_tokens) / 1_000 if model.startswith("gpt") else None


@pytest.mark.parametrize("into", ["tail", "shadow", "fork"])
def test_a_conversation_that_has_moved_on_since_the_plan_is_skipped(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], asked_of: Callable[..., int], into: str
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    failed(ledger)
    plan = ledger.replay.plan_rerun(failed=True, into=into, include=["overtaken"])
    ledger.conversation("k").append("user", "Are you there?")
    before = asked_of()
    (item,) = plan.apply()
    assert (item.state, item.reason) == ("skipped", "changed since the plan: plan again")
    assert asked_of() == before


def test_a_thread_that_was_rebuilt_since_the_plan_is_no_change(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["responses"])
    failed(ledger)
    plan = ledger.replay.plan_rerun(failed=True)
    ledger.replay.plan_rebuild(["k"], fresh=True).apply()
    assert [item.state for item in plan.apply()] == ["answered"]


def test_several_exchanges_of_one_conversation_are_run_again_by_one_plan(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["responses"])
    for text in ("one", "two", "three"):
        failed(ledger, text)
    plan = ledger.replay.plan_rerun(failed=True, include=["overtaken"])
    assert [item.state for item in plan.apply(concurrency=3)] == ["answered"] * 3
    assert texts(ledger) == ["one", "You said: one", "two", "You said: two", "three", "You said: three"]
    assert verified(ledger) == [ThreadState.SAME]


def test_a_plan_is_gone_on_with_from_its_options_alone(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str]
) -> None:
    ledger = open_ledger(**KINDS["chat"])
    for key in "ab":
        failed(ledger, key=key)
    plan = ledger.replay.plan_rerun(failed=True, model="gpt-4o", profile=Profile("Jane"), include=["overtaken"])
    plan.apply(max_runs=1)
    assert plan.stopped_by_limit
    assert plan.job is not None
    other = open_ledger(**KINDS["chat"]).replay.resume(plan.job.job_id)
    (item,) = other.items
    assert (item.state, item.key, item.model) == ("answered", "b", "gpt-4o")
    assert ledger.run(item.new_run_id)[0].profile_hash == Profile("Jane").hash


# Limits


@pytest.fixture
def five(open_ledger: Callable[..., Ledger], failed: Callable[..., str]) -> Ledger:
    """Create a ledger with a price and five conversations that wait for an answer."""
    ledger = replaced(open_ledger(**KINDS["chat"]), price=price)
    for key in "abcde":
        failed(ledger, key=key)
    return ledger


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_runs_are_made_than_allowed(five: Ledger, asked_of: Callable[..., int], concurrency: int) -> None:
    before = asked_of()
    plan = five.replay.plan_rerun(failed=True)
    states = sorted(item.state for item in plan.apply(max_runs=3, concurrency=concurrency))
    assert (states, asked_of() - before) == (["answered"] * 3 + ["planned"] * 2, 3)
    assert plan.stopped_by_limit
    assert [item.state for item in five.replay.plan_rerun(failed=True).apply()] == ["answered"] * 2


def test_an_exchange_that_a_limit_stops_between_two_runs_stays_planned_and_is_not_left_open(
    five: Ledger, simulator: Any
) -> None:
    ledger = replaced(five, policy=replace(five.services.policy, retries=2))
    simulator.add_fault(CHAT, refuse={"status": 500}, times=None)
    plan = ledger.replay.plan_rerun(keys=["a"])
    (item,) = plan.apply(max_runs=2)
    assert (item.state, item.runs_made) == ("planned", 2)
    assert item.reason.startswith("stopped by the limit of 2 runs: provider_error")
    assert ledger.state("a").open_exchanges == {}


def test_no_exchange_is_begun_that_may_bring_the_cost_to_its_limit(five: Ledger) -> None:
    plan = five.replay.plan_rerun(failed=True)
    estimate = plan.items[0].estimated_cost or 0.0
    first = plan.apply(max_cost=estimate + 0.001)
    spent = first[0].cost or 0.0
    assert [item.state for item in first] == ["answered"] + ["planned"] * 4
    assert plan.stopped_by_limit
    assert 0 < spent == plan.budget.spent < estimate
    assert first[1].reason.startswith("stopped by the limit of")
    again = five.replay.plan_rerun(failed=True)
    assert [item.state for item in again.apply(max_cost=estimate + 3.5 * spent)] == ["answered"] * 4


def test_a_limit_that_the_first_exchange_may_reach_lets_none_begin(five: Ledger, asked_of: Callable[..., int]) -> None:
    before = asked_of()
    plan = five.replay.plan_rerun(failed=True)
    assert {item.state for item in plan.apply(max_cost=plan.items[0].estimated_cost)} == {"planned"}
    assert asked_of() == before


@pytest.mark.parametrize(
    ("kind", "ends"), [("assistants", "max_completion_tokens"), ("responses", "max_output_tokens"), ("chat", "length")]
)
def test_what_a_failed_run_has_used_is_counted(
    open_ledger: Callable[..., Ledger], failed: Callable[..., str], simulator: Any, kind: str, ends: str
) -> None:
    ledger = replaced(open_ledger(**KINDS[kind]), price=price)
    failed(ledger)
    simulator.add_fault(ROUTES[kind], incomplete=ends)
    plan = ledger.replay.plan_rerun(failed=True)
    (item,) = plan.apply(max_cost=10)
    assert item.state == "failed"
    assert item.cost == plan.budget.spent > 0


def test_a_price_that_is_not_known_is_no_limit(five: Ledger) -> None:
    plan = five.replay.plan_rerun(failed=True, model="llama")
    assert {item.estimated_cost for item in plan.items} == {None}
    with pytest.raises(InvalidInput, match=r"no price is known for the model 'llama'.*pip install"):
        plan.apply(max_cost=1)
    assert {item.state for item in plan.apply()} == {"answered"}


@pytest.mark.parametrize("limits", [{"max_runs": 0}, {"max_cost": 0.0}, {"max_cost": -1.0}])
def test_a_limit_that_allows_nothing_is_refused(five: Ledger, limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="allows nothing"):
        five.replay.plan_rerun(failed=True).apply(**limits)


# Concurrent reruns


def test_two_who_run_the_same_exchanges_again_at_once_ask_for_each_once(
    five: Ledger, asked_of: Callable[..., int], open_ledger: Callable[..., Ledger]
) -> None:
    other = open_ledger(**KINDS["chat"])
    plans = [ledger.replay.plan_rerun(failed=True) for ledger in (five, other)]
    before = asked_of()
    with ThreadPoolExecutor(2) as pool:
        items = [item for done in pool.map(lambda plan: plan.apply(concurrency=2), plans) for item in done]
    # The second process finds the exchange answered, either before or at the start of its call.
    assert {item.state for item in items} <= {"answered", "skipped"}
    assert {item.key for item in items if item.state == "answered"} == set("abcde")
    assert asked_of() - before == 5
    assert all(len(texts(five, key)) == 2 for key in "abcde")


# Async


@pytest.mark.parametrize("into", ["tail", "shadow", "fork"])
def test_reruns_are_awaited(
    db_url: str, simulator: Any, open_ledger: Callable[..., Ledger], failed: Callable[..., str], into: str
) -> None:
    ledger = open_ledger(**KINDS["responses"])
    for key in "abc":
        failed(ledger, key=key)

    async def main() -> list[RerunItem]:
        provider = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url}
        opened: AsyncLedger = threadledger.open_async(db_url, **KINDS["responses"], **provider)
        async with opened:
            plan = await opened.replay.plan_rerun(failed=True, into=into)
            return await plan.apply(concurrency=2, max_runs=10)

    items = asyncio.run(main())
    assert [(item.state, item.answer) for item in items] == [("answered", "You said: Where is it?")] * 3
