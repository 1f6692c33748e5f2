"""Test each sentence of the story that threadledger was written for: real ledger, real SDK, a failing provider."""

import gzip
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest
from freezegun import freeze_time

from threadledger.adapters import import_lines
from threadledger.domain.conversation import events
from threadledger.domain.errors import AllBackendsFailed, ConversationBusy, IdempotencyConflict, InvalidInput
from threadledger.domain.exchange.policy import reason_of
from threadledger.domain.failures import Cause
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "conversations.jsonl.gz"
RUNS, CHAT, RESPONSES = "POST /threads/{thread_id}/runs", "POST /chat/completions", "POST /responses"
MESSAGES = "POST /threads/{thread_id}/messages"
STORMS = 200 if "THREADLEDGER_SOAK" in os.environ else 6
"""Number of storms of faults, each with its own seed."""

SORRY = "Sorry, something went wrong."


def replaced(ledger, **services):
    """Return the same ledger with parts of `outside` replaced."""
    return Ledger(ledger.journal, replace(ledger.services, **services))


def texts(ledger, key="k"):
    return [each.message.text for each in ledger.memory(key).messages]


def types(ledger, key="k"):
    return [logged.type for logged in ledger.events(key=key)]


def in_thread(simulator, ledger, key="k", kind="assistants"):
    """Return (role, text) of the messages in the provider's thread."""
    thread_id = ledger.state(key).links[kind].thread_id
    held = simulator.provider.messages if kind == "assistants" else simulator.provider.items
    words = [(m["role"], m["content"][0].get("text")) for m in held[thread_id]]
    return [(role, text["value"] if isinstance(text, dict) else text) for role, text in words]


def verified(ledger, kind=None):
    return [found.found.state for found in ledger.replay.verify(to=kind)]


# A run fails


@pytest.fixture
def failed_twice(simulator, story_ledger):
    simulator.add_fault(RUNS, fail=True, times=2)
    simulator.answer("Your parcel is in Bern.")
    ledger = story_ledger()
    return ledger, ledger.conversation("k").ask("Where is my parcel?")


def test_a_run_fails_is_retried_fails_again_and_chat_completions_answers(failed_twice, asked_of):
    _, answer = failed_twice
    assert (answer.text, answer.backend, answer.fallback) == ("Your parcel is in Bern.", "chat", True)
    assert (asked_of(RUNS), asked_of(CHAT)) == (2, 1)


def test_every_step_of_the_exchange_is_an_event_in_order(failed_twice):
    ledger, answer = failed_twice
    story = [name for name in types(ledger) if name not in {"ThreadLinked", "ConversationStarted"}]
    assert story == [
        "MessageJournaled",
        "RunStarted",
        "RunFailed",
        "RunStarted",
        "RunFailed",
        "FallbackUsed",
        "RunStarted",
        "RunCompleted",
        "MessageJournaled",
    ]
    (used,) = [logged.event for logged in ledger.events(types=["FallbackUsed"])]
    assert (used.from_backend, used.to_backend) == ("assistants", "chat")
    assert used.failed_run_id == answer.failures[-1].run_id
    assert SORRY in used.reason


def test_question_and_answer_are_in_the_journal_and_in_the_thread_exactly_once(failed_twice, simulator):
    ledger, _ = failed_twice
    assert texts(ledger) == ["Where is my parcel?", "Your parcel is in Bern."]
    assert in_thread(simulator, ledger) == [("user", "Where is my parcel?"), ("assistant", "Your parcel is in Bern.")]
    assert verified(ledger) == [ThreadState.SAME]


def test_each_failure_carries_what_was_said_its_cause_and_what_to_do(failed_twice):
    ledger, answer = failed_twice
    recorded = ledger.failures()
    assert recorded == list(answer.failures)
    assert [(f.attempt, f.next, f.answered_by) for f in recorded] == [
        (1, "retried", answer.run_id),
        (2, "fallback", answer.run_id),
    ]
    for failure in recorded:
        assert failure.cause is Cause.PROVIDER_ERROR
        assert (failure.facts.code, failure.facts.message, failure.facts.status) == ("server_error", SORRY, "failed")
        assert failure.facts.remote_run_id.startswith("run_")
        assert failure.facts.thread_id == ledger.state("k").links["assistants"].thread_id
        assert failure.facts.request_id.startswith("req_")
        assert "threadledger replay rerun" in failure.advice
        json.dumps(failure.as_json())


def test_the_log_says_which_run_failed_and_why(simulator, story_ledger, caplog):
    simulator.add_fault(RUNS, fail=True)
    failure = story_ledger().conversation("k").ask("hello").failures[0]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    place = f"run {failure.run_id} on assistants ({failure.model}, attempt 1)"
    assert told == [f"{place} failed: provider_error (server_error, request {failure.facts.request_id})"]


def test_memory_stays_in_one_piece_whoever_answers(failed_twice, simulator):
    ledger, _ = failed_twice
    answer = ledger.conversation("k").ask("And the other one?")
    assert answer.backend == "assistants"
    simulator.add_fault(RUNS, fail=True, times=2)
    assert ledger.conversation("k").ask("Still there?").backend == "chat"
    asked = next(request for request in reversed(simulator.requests) if request.template == CHAT)
    assert [m["content"] for m in asked.body["messages"]] == texts(ledger)[:5]
    assert [text for _, text in in_thread(simulator, ledger)] == texts(ledger)
    assert verified(ledger) == [ThreadState.SAME]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"fail": {"code": "rate_limit_exceeded"}}, Cause.RATE_LIMITED),
        ({"refuse": {"status": 429, "code": "insufficient_quota"}}, Cause.QUOTA_EXHAUSTED),
        ({"refuse": {"status": 500}}, Cause.PROVIDER_ERROR),
        ({"end": "expired"}, Cause.EXPIRED),
        ({"end": "cancelled"}, Cause.CANCELLED),
        ({"drop": True}, Cause.NETWORK),
        ({"reply": {"text": "<html>", "content_type": "text/html"}}, Cause.PROVIDER_ERROR),
    ],
    ids=["rate limit", "quota", "500", "expired", "cancelled", "drop", "html"],
)
def test_however_the_run_fails_the_fallback_answers_and_the_thread_has_it_once(simulator, story_ledger, fault, cause):
    simulator.add_fault(RUNS, **fault, times=None)
    ledger = story_ledger()
    answer = ledger.conversation("k").ask("hello")
    assert answer.backend == "chat"
    assert {failure.cause for failure in answer.failures} == {cause}
    (fell_back,) = [event for event in ledger.conversation("k").events() if isinstance(event, events.FallbackUsed)]
    assert fell_back.reason == reason_of(answer.failures[-1].facts)
    assert fell_back.reason.startswith(cause.value)
    assert fell_back.failed_run_id == answer.failures[-1].run_id
    assert in_thread(simulator, ledger) == [("user", "hello"), ("assistant", "You said: hello")]
    assert verified(ledger) == [ThreadState.SAME]


HALF_ANSWERS = pytest.mark.parametrize("reason", ["max_completion_tokens", "content_filter"])


@HALF_ANSWERS
def test_half_an_answer_that_a_run_left_in_the_thread_is_taken_out_and_kept_in_its_failure(
    simulator, story_ledger, reason
):
    simulator.add_fault(RUNS, incomplete=reason)
    ledger = story_ledger()
    answer = ledger.conversation("k").ask("hello there")
    assert answer.backend == "chat"
    facts = answer.failures[0].facts
    assert "You said: hello there".startswith(facts.partial_text)
    assert len(facts.details["deleted_messages"]) == 1
    assert in_thread(simulator, ledger) == [("user", "hello there"), ("assistant", "You said: hello there")]
    assert verified(ledger) == [ThreadState.SAME]


@HALF_ANSWERS
def test_half_an_answer_that_cannot_be_taken_out_is_seen_by_verify_and_mended_by_rebuild(
    simulator, story_ledger, reason
):
    simulator.add_fault(RUNS, incomplete=reason)
    simulator.add_fault("DELETE /threads/{thread_id}/messages/{message_id}", refuse={"status": 500}, times=None)
    ledger = story_ledger()
    assert ledger.conversation("k").ask("hello there").backend == "chat"
    assert verified(ledger) == [ThreadState.DRIFTED]
    assert [item.state for item in ledger.replay.plan_rebuild(["k"]).apply()] == ["done"]
    assert verified(ledger) == [ThreadState.SAME]


@pytest.mark.parametrize("after", ["-1", "nan", "inf", "0", "3", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
def test_whatever_the_provider_asks_to_wait_nobody_waits_for_nonsense(simulator, story_ledger, after):
    waits = []
    simulator.add_fault(RUNS, refuse={"status": 429, "headers": {"retry-after": after}}, times=None)
    ledger = story_ledger()
    object.__setattr__(ledger.services, "wait", waits.append)
    answer = ledger.conversation("k").ask("hello")
    assert answer.backend == "chat"
    assert all(0 <= seconds <= 30 for seconds in waits), waits
    for row in _payloads(ledger, "RunFailed"):
        json.loads(row, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def _payloads(ledger, topic):
    return [row.state.decode() for row in ledger.journal.recorder.select_notifications(1, 1000, topics=[topic])]


# The provider loses the thread


def test_a_thread_that_the_provider_lost_is_found_gone_rebuilt_and_verified(simulator, story_ledger, asked_of):
    ledger = story_ledger()
    for text in ("one", "two"):
        ledger.conversation("k").ask(text)
    lost = ledger.state("k").links["assistants"].thread_id
    simulator.lose(lost)
    assert verified(ledger) == [ThreadState.GONE]
    asked_before = asked_of()
    plan = ledger.replay.plan_rebuild(["k"])
    assert [(item.state, item.messages, item.old_thread_id) for item in plan.items] == [("planned", 4, lost)]
    (item,) = plan.apply()
    assert (item.state, item.verified, item.sent) == ("done", True, 4)
    assert item.thread_id not in {None, lost}
    assert asked_of() == asked_before
    assert verified(ledger) == [ThreadState.SAME]
    (rebuilt,) = [logged.event for logged in ledger.events(types=["ThreadRebuilt"])]
    assert (rebuilt.old_thread_id, rebuilt.thread_id) == (lost, item.thread_id)
    assert (rebuilt.message_count, rebuilt.digest) == (4, item.digest)


def test_the_next_ask_after_a_loss_makes_a_new_thread_with_the_whole_memory(simulator, story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").ask("one")
    simulator.lose(ledger.state("k").links["assistants"].thread_id)
    answer = ledger.conversation("k").ask("two")
    assert answer.backend == "assistants"
    assert [text for _, text in in_thread(simulator, ledger)] == texts(ledger)
    assert types(ledger).count("ThreadLost") == 1
    assert verified(ledger) == [ThreadState.SAME]


@pytest.mark.parametrize("kind", ["assistants", "conversations"])
def test_a_rebuild_makes_no_run_no_response_and_no_completion(simulator, story_ledger, asked_of, kind):
    ledger = story_ledger(backends=("chat",), threads="none", use_assistants_api=None)
    for index in range(15):
        ledger.conversation(f"k{index % 3}").ask(f"text {index}")
    before = asked_of()
    items = ledger.replay.plan_rebuild(to=kind).apply()
    assert [item.state for item in items] == ["done"] * 3
    assert asked_of() == before
    assert verified(ledger, kind) == [ThreadState.SAME] * 3


def test_a_plan_writes_nothing(simulator, story_ledger):
    ledger = story_ledger(threads="none")
    ledger.conversation("k").append("user", "hello")
    requests, events = len(simulator.requests), types(ledger)
    ledger.replay.plan_rebuild(to="conversations")
    ledger.replay.plan_rerun(failed=True)
    assert (len(simulator.requests), types(ledger)) == (requests, events)


def test_a_rebuild_to_conversations_saves_the_memory_when_the_assistants_api_is_gone(simulator, story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").ask("one")
    simulator.retire("assistants")
    assert verified(ledger) == [ThreadState.GONE]
    (item,) = ledger.replay.plan_rebuild(["k"], to="conversations").apply()
    assert (item.state, item.verified) == ("done", True)
    assert in_thread(simulator, ledger, kind="conversations") == [("user", "one"), ("assistant", "You said: one")]
    moved = story_ledger(use_assistants_api=False, backends=("responses",), threads="conversations")
    assert moved.conversation("k").ask("two").backend == "responses"
    assert verified(moved, "conversations") == [ThreadState.SAME]


def test_a_rebuild_is_skipped_where_the_thread_is_sound_and_done_where_a_fresh_one_is_wanted(story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").ask("one")
    before = ledger.state("k").links["assistants"].thread_id
    (skipped,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (skipped.state, skipped.thread_id) == ("skipped", before)
    (fresh,) = ledger.replay.plan_rebuild(["k"], fresh=True).apply()
    assert fresh.state == "done"
    assert fresh.thread_id != before


@pytest.mark.parametrize("fault", [{"lose_answer": True, "after": 2}, {"drop": True, "after": 1, "times": 2}])
def test_a_rebuild_over_a_bad_line_leaves_a_whole_thread(simulator, story_ledger, fault):
    ledger = story_ledger(threads="none")
    for index in range(6):
        ledger.conversation("k").append("user", f"text {index // 2}")
    simulator.add_fault(MESSAGES, **fault)
    (item,) = ledger.replay.plan_rebuild(["k"], to="assistants").apply()
    assert (item.state, item.verified) == ("done", True)
    assert verified(ledger, "assistants") == [ThreadState.SAME]


# No backend answers


def test_an_exchange_that_nobody_answered_is_kept_and_answered_by_rerun(simulator, story_ledger):
    simulator.add_fault(RUNS, fail=True, times=2)
    simulator.add_fault(CHAT, refuse={"status": 503}, times=2)
    ledger = story_ledger()
    with pytest.raises(AllBackendsFailed, match=r"replay rerun \w+ --apply") as nobody:
        ledger.conversation("k").ask("hello")
    assert [(f.backend, f.cause) for f in nobody.value.failures] == [
        ("assistants", Cause.PROVIDER_ERROR),
        ("assistants", Cause.PROVIDER_ERROR),
        ("chat", Cause.PROVIDER_ERROR),
        ("chat", Cause.PROVIDER_ERROR),
    ]
    assert texts(ledger) == ["hello"]
    assert [f.next for f in ledger.failures()] == ["retried", "fallback", "retried", "abandoned"]
    plan = ledger.replay.plan_rerun(failed=True)
    assert [(item.key, item.state, item.backend) for item in plan.items] == [("k", "planned", "assistants")]
    (item,) = plan.apply()
    assert (item.state, item.answer) == ("answered", "You said: hello")
    assert texts(ledger) == ["hello", "You said: hello"]
    assert in_thread(simulator, ledger) == [("user", "hello"), ("assistant", "You said: hello")]
    assert ledger.failures(unanswered=True) == []
    assert ledger.state("k").unanswered == 0
    assert ledger.replay.plan_rerun(failed=True).items == []


def test_a_rerun_asks_no_more_often_than_it_is_allowed_to(simulator, story_ledger, asked_of):
    simulator.add_fault(RUNS, fail=True, times=None)
    simulator.add_fault(CHAT, refuse={"status": 503}, times=None)
    ledger = story_ledger()
    for key in ("a", "b", "c"):
        with pytest.raises(AllBackendsFailed):
            ledger.conversation(key).ask("hello")
    for allowed in (1, 2, 3, 5):
        before = asked_of()
        plan = ledger.replay.plan_rerun(failed=True)
        plan.apply(max_runs=allowed)
        assert asked_of() - before <= allowed
        assert plan.stopped_by_limit


def test_a_rerun_of_what_has_been_answered_meanwhile_calls_nobody(simulator, story_ledger, asked_of):
    simulator.add_fault(RUNS, fail=True, times=2)
    simulator.add_fault(CHAT, refuse={"status": 503}, times=2)
    ledger = story_ledger()
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("hello")
    first, second = ledger.replay.plan_rerun(failed=True), ledger.replay.plan_rerun(failed=True)
    first.apply()
    before = asked_of()
    assert [item.state for item in second.apply()] == ["skipped"]
    assert asked_of() == before


def test_an_exchange_that_was_answered_is_not_run_again_also_when_an_app_asks_for_it(story_ledger, asked_of):
    ledger = story_ledger()
    answer = ledger.conversation("k").ask("hello")
    before = asked_of()
    again = ledger.conversation("k").rerun(answer.exchange_id)
    assert (asked_of(), again.text, again.message_id) == (before, answer.text, answer.message_id)
    assert texts(ledger) == ["hello", "You said: hello"]
    assert ledger.state("k").unanswered == 0


# Settings of the story


def test_use_assistants_api_false_skips_assistants_and_still_journals_into_the_thread(
    simulator, story_ledger, asked_of
):
    ledger = story_ledger(use_assistants_api=False)
    answer = ledger.conversation("k").ask("hello")
    assert (answer.backend, answer.fallback, asked_of(RUNS)) == ("chat", False, 0)
    assert in_thread(simulator, ledger) == [("user", "hello"), ("assistant", "You said: hello")]
    assert simulator.provider.assistants == {}


def test_openai_assistant_id_is_used_when_it_is_set(simulator, story_ledger):
    from openai import OpenAI

    with OpenAI(base_url=simulator.base_url, api_key="sk-test") as client:
        by_hand = client.beta.assistants.create(model="by-hand", instructions="Made by hand.").id
    answer = story_ledger(openai_assistant_id=by_hand).conversation("k").ask("hello")
    assert (answer.backend, answer.model) == ("assistants", "by-hand")
    assert [run["assistant_id"] for run in simulator.provider.runs.values()] == [by_hand]
    assert list(simulator.provider.assistants) == [by_hand]


def test_an_assistant_id_that_does_not_exist_is_named_and_the_fallback_answers(story_ledger, asked_of):
    answer = story_ledger(openai_assistant_id="asst_nobody").conversation("k").ask("hello")
    assert answer.backend == "chat"
    assert [(f.cause, "OPENAI_ASSISTANT_ID" in f.advice) for f in answer.failures] == [(Cause.ASSISTANT_MISSING, True)]
    assert asked_of(RUNS) == 1


def profile_at(path, instructions="You are John."):
    tools = '[[tools]]\nname = "web_search"\n[[tools]]\nname = "web_open"\n'
    path.write_text(f'name = "John"\ninstructions = "{instructions}"\n{tools}', encoding="utf-8")
    return path


def test_the_assistant_is_made_once_from_the_profile_and_remembered(simulator, story_ledger, asked_of):
    path = profile_at(Path("john.toml"))
    for key in ("a", "b"):
        ledger = story_ledger(profile=path)
        for text in ("one", "two"):
            assert ledger.conversation(key).ask(text).backend == "assistants"
    (assistant,) = simulator.provider.assistants.values()
    assert (assistant["name"], assistant["instructions"]) == ("John", "You are John.")
    assert [tool["function"]["name"] for tool in assistant["tools"]] == ["web_search", "web_open"]
    assert (asked_of("POST /assistants"), asked_of("GET /assistants")) == (1, 1)


def test_a_changed_profile_makes_another_assistant(simulator, story_ledger):
    for instructions in ("You are John.", "You are Jane."):
        ledger = story_ledger(profile=profile_at(Path("john.toml"), instructions))
        ledger.conversation("k").ask("hello")
    said = [assistant["instructions"] for assistant in simulator.provider.assistants.values()]
    assert said == ["You are John.", "You are Jane."]
    assert types(ledger, "k").count("RunStarted") == 2


def test_a_tool_that_no_backend_takes_is_named_before_anybody_is_asked(simulator, story_ledger, asked_of):
    Path("wrong.toml").write_text("[[tools]]\ntype = 'web_search'")
    ledger = story_ledger(profile=Path("wrong.toml"), backends=("chat",), fallback="strict")
    with pytest.raises(AllBackendsFailed) as nobody:
        ledger.conversation("k").ask("hello")
    assert {(f.backend, f.cause, f.facts.status) for f in nobody.value.failures} == {
        ("assistants", Cause.TOOL_NOT_SUPPORTED, "refused"),
        ("chat", Cause.TOOL_NOT_SUPPORTED, "refused"),
    }
    assert asked_of() == 0


def test_instructions_too_long_for_assistants_are_named_and_the_fallback_answers(simulator, story_ledger):
    Path("long.toml").write_text(f"instructions = '{'x' * 256_001}'")
    answer = story_ledger(profile=Path("long.toml"), backends=("chat",)).conversation("k").ask("hello")
    assert answer.backend == "chat"
    assert {failure.cause for failure in answer.failures} == {Cause.INSTRUCTIONS_TOO_LONG}


def test_the_assistants_tools_are_answered_by_the_apps_functions_and_memory_has_them(simulator, story_ledger):
    simulator.answer({"tool_calls": [{"name": "web_search", "arguments": {"query": "parcel"}}]}, "Found it.")
    ledger = story_ledger({"web_search": lambda query: [query]}, profile=profile_at(Path("john.toml")))
    assert ledger.conversation("k").ask("Where is it?").text == "Found it."
    assert [each.message.role.value for each in ledger.memory("k").messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert verified(ledger) == [ThreadState.SAME]


def test_a_tool_that_nobody_bound_is_told_and_the_fallback_answers_into_the_thread(simulator, story_ledger):
    simulator.answer({"tool_calls": [{"name": "web_search", "arguments": {"query": "parcel"}}]})
    ledger = story_ledger(profile=profile_at(Path("john.toml")))
    answer = ledger.conversation("k").ask("Where is it?")
    assert [(f.cause, f.backend) for f in answer.failures] == [(Cause.TOOL_FAILED, "assistants")]
    assert answer.backend == "chat"
    assert in_thread(simulator, ledger) == [("user", "Where is it?"), ("assistant", "You said: Where is it?")]
    assert ledger.conversation("k").ask("And now?").backend == "assistants"


# A retired API


def test_an_assistants_api_that_was_shut_down_is_provider_gone_and_the_fallback_answers(simulator, story_ledger):
    simulator.retire("assistants")
    ledger = story_ledger()
    answer = ledger.conversation("k").ask("hello")
    assert answer.backend == "chat"
    assert [(f.cause, "USE_ASSISTANTS_API=false" in f.advice) for f in answer.failures] == [(Cause.PROVIDER_GONE, True)]


def test_a_shutdown_in_the_middle_of_a_conversation_is_provider_gone_and_loses_nothing(simulator, story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").ask("one")
    simulator.retire("assistants")
    answer = ledger.conversation("k").ask("two")
    assert answer.backend == "chat"
    assert {f.cause for f in answer.failures} == {Cause.PROVIDER_GONE}
    assert texts(ledger) == ["one", "You said: one", "two", "You said: two"]
    assert ledger.state("k").links["assistants"].lost == "provider_gone"


def test_a_conversations_api_that_was_shut_down_is_provider_gone_and_the_fallback_answers(simulator, open_ledger):
    ledger = open_ledger(backends=("responses", "chat"))
    ledger.conversation("k").ask("one")
    simulator.retire("conversations")
    simulator.retire("responses")
    answer = ledger.conversation("k").ask("two")
    assert answer.backend == "chat"
    assert {f.cause for f in answer.failures} == {Cause.PROVIDER_GONE}


# The same question twice


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_ask_with_the_same_idempotency_key_returns_the_same_answer_and_calls_nobody(
    simulator, story_ledger, asked_of, failing
):
    simulator.add_fault(RUNS, fail=True, times=failing or None, after=0 if failing else 1_000)
    first = story_ledger().conversation("k").ask("hello", idempotency_key="i")
    before = len(simulator.requests)
    ledger = story_ledger()
    assert ledger.conversation("k").ask("hello", idempotency_key="i") == first
    assert len(simulator.requests) == before
    assert texts(ledger) == ["hello", "You said: hello"]


def test_an_idempotent_ask_that_nobody_answered_is_run_again_with_one_question(simulator, story_ledger):
    simulator.add_fault(RUNS, fail=True, times=2)
    simulator.add_fault(CHAT, refuse={"status": 503}, times=2)
    ledger = story_ledger()
    with pytest.raises(AllBackendsFailed):
        ledger.conversation("k").ask("hello", idempotency_key="i")
    assert ledger.conversation("k").ask("hello", idempotency_key="i").text == "You said: hello"
    assert texts(ledger) == ["hello", "You said: hello"]


def test_a_question_under_the_idempotency_key_of_an_appended_message_makes_no_run_without_an_exchange(story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").append("user", "hello", idempotency_key="i")
    with suppress(IdempotencyConflict):
        assert ledger.conversation("k").ask("hello", idempotency_key="i").exchange_id
    assert all(logged.event.exchange_id for logged in ledger.events(types=["RunStarted"]))


def test_two_equal_questions_are_two_exchanges(simulator, story_ledger):
    ledger = story_ledger()
    for _ in range(2):
        ledger.conversation("k").ask("hello")
    assert texts(ledger) == ["hello", "You said: hello"] * 2
    assert [text for _, text in in_thread(simulator, ledger)] == texts(ledger)


# Busy


def test_an_ask_while_a_run_is_open_is_refused_as_busy_and_writes_nothing(story_ledger, asked_of):
    ledger, other = story_ledger(), story_ledger()
    with ledger.conversation("k").run("own", "m") as run:
        before, asked = types(ledger), asked_of()
        with pytest.raises(ConversationBusy, match=run.run_id):
            other.conversation("k").ask("hello")
        assert (types(ledger), asked_of()) == (before, asked)
        run.complete("done")
    assert other.conversation("k").ask("hello").text == "You said: hello"


def test_an_ask_from_within_a_tool_of_the_same_conversation_is_busy(simulator, story_ledger):
    simulator.answer({"tool_calls": [{"name": "web_search", "arguments": {"query": "x"}}]}, "Done.")
    ledger = story_ledger({"web_search": lambda query: ledger.conversation("k").ask("me too").text},
                          profile=profile_at(Path("john.toml")))  # fmt: skip
    assert ledger.conversation("k").ask("hello").text == "Done."
    (result,) = [each.message.text for each in ledger.memory("k").messages if each.message.role == "tool"]
    assert "ConversationBusy" in result


@pytest.mark.parametrize("backend", ["assistants", "responses", "chat"])
def test_a_message_appended_while_a_run_is_under_way_reaches_the_thread_too(simulator, open_ledger, backend):
    simulator.answer({"tool_calls": [{"name": "web_search", "arguments": {"query": "x"}}]}, "Done.")
    path = profile_at(Path("john.toml"))
    kind = "assistants" if backend == "assistants" else "conversations"
    settings = {"backends": (backend,), "threads": kind, "profile": path}
    other = open_ledger(**settings)
    ledger = open_ledger({"web_search": lambda query: other.conversation("k").append("user", "by the way").message_id},
                         **settings)  # fmt: skip
    ledger.conversation("k").ask("hello")
    ledger.conversation("k").append("user", "and")
    assert sorted(texts(ledger))[-4:] == sorted(["Done.", "by the way", "and", "hello"])
    held = [item["content"] for items in simulator.provider.items.values() for item in items if "content" in item]
    held += [message["content"] for items in simulator.provider.messages.values() for message in items]
    for text in ("hello", "by the way", "Done.", "and"):
        assert sum(f"'{text}'" in str(content) for content in held) == 1, (text, held)


# An unreachable provider


def test_messages_that_the_thread_missed_while_the_provider_was_away_reach_it_later_in_order(simulator, story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").ask("one")
    simulator.add_fault("*", drop=True, times=None)
    ledger.conversation("k").append("user", "two")
    ledger.conversation("k").append("user", "two")
    simulator.clear_faults()
    assert verified(ledger) == [ThreadState.BEHIND]
    ledger.conversation("k").append("user", "three")
    assert [text for _, text in in_thread(simulator, ledger)] == texts(ledger)
    assert verified(ledger) == [ThreadState.SAME]


@pytest.mark.parametrize("seed", range(STORMS))
def test_through_a_storm_of_faults_every_answer_is_journaled_once_and_the_thread_is_sound_or_said_not_to_be(
    simulator, story_ledger, seed
):
    from random import Random

    random = Random(seed)
    actions = [{"drop": True}, {"lose_answer": True}, {"refuse": {"status": 500}}, {"refuse": {"status": 429}}]
    for _ in range(6):
        simulator.add_fault("*", **random.choice(actions), after=random.randrange(60))
    ledger, answers = story_ledger(), []
    for index in range(6):
        with suppress(AllBackendsFailed):
            answers.append(ledger.conversation("k").ask(f"question {index}"))
    simulator.clear_faults()
    found = texts(ledger)
    assert [text for text in found if text.startswith("question")] == [f"question {index}" for index in range(6)]
    assert [found.count(answer.text) for answer in answers] == [1] * len(answers)
    if verified(ledger) != [ThreadState.SAME]:
        assert [item.state for item in ledger.replay.plan_rebuild(["k"]).apply()] == ["done"]
    assert verified(ledger) == [ThreadState.SAME]


# What is stored


def test_no_key_is_ever_stored_or_logged(simulator, story_ledger, tmp_path, caplog):
    key = "sk-proj-abcdef0123456789"
    message = f"Incorrect API key provided: {key}. You can find your key at …"
    simulator.add_fault(RUNS, refuse={"status": 401, "code": "invalid_api_key", "message": message}, times=None)
    simulator.add_fault(CHAT, refuse={"status": 401, "code": "invalid_api_key", "message": message}, times=None)
    ledger = story_ledger(openai_api_key=key)
    with pytest.raises(AllBackendsFailed) as nobody:
        ledger.conversation("k").ask("hello")
    assert {f.cause for f in nobody.value.failures} == {Cause.AUTHENTICATION}
    connection = sqlite3.connect(tmp_path / "ledger.db")
    dumped = "\n".join(connection.iterdump())
    connection.close()
    for text in (dumped, caplog.text, str(nobody.value), repr(nobody.value.failures)):
        assert "abcdef0123456789" not in text


def test_the_prompt_is_never_stored_again_with_a_run(story_ledger):
    ledger = story_ledger()
    ledger.conversation("k").ask("a remarkable question")
    assert sum("remarkable" in row for row in _payloads(ledger, "MessageJournaled")) == 2
    for topic in ("RunStarted", "RunCompleted", "RunFailed", "FallbackUsed"):
        assert not any("remarkable" in row for row in _payloads(ledger, topic))


def test_failures_can_be_asked_for_by_time_cause_code_and_backend(simulator, story_ledger):
    simulator.add_fault(RUNS, fail=True)
    ledger = story_ledger()
    ledger.conversation("k").ask("hello")
    assert len(ledger.failures(since=timedelta(hours=1), cause="provider_error", code="server_error")) == 1
    assert ledger.failures(until=now() - timedelta(hours=1)) == []
    assert ledger.failures(cause=Cause.RATE_LIMITED) == ledger.failures(backend="chat") == []
    with pytest.raises(InvalidInput, match="'bad luck'"):
        ledger.failures(cause="bad luck")


def test_a_conversation_in_which_a_tool_was_not_bound_is_mended_and_gone_on_with(simulator, open_ledger):
    ledger = open_ledger(backends=("responses",), threads="conversations", retries=0)
    chat = ledger.conversation("k")
    simulator.answer({"tool_calls": [{"name": "web_search", "arguments": {"query": "parcel"}}]})
    with pytest.raises(AllBackendsFailed):
        chat.ask("Where is it?")
    assert chat.ask("And now?").text == "You said: And now?"
    assert [each.found.state.value for each in ledger.replay.verify(["k"])] == ["same"]


def test_messages_appended_at_once_by_many_reach_the_thread_once_each(simulator, open_ledger):
    ledgers = [open_ledger(threads="conversations") for _ in range(4)]
    words = [f"word {number}" for number in range(24)]

    def append(number):
        ledgers[number % len(ledgers)].conversation("k").append("user", words[number])

    with ThreadPoolExecutor(len(ledgers)) as pool:
        list(pool.map(append, range(len(words))))
    ledgers[0].conversation("k").append("user", "the last")
    linked = ledgers[0].state("k").links["conversations"].thread_id  # of several created concurrently, one is linked
    held = [item["content"][0]["text"] for item in simulator.provider.items[linked]]
    assert sorted(held) == sorted([*words, "the last"])
    assert [each.found.state.value for each in ledgers[0].replay.verify(["k"])] == ["same"]


def test_a_thread_that_somebody_else_is_writing_to_is_waited_for_and_then_the_run_is_refused(simulator, open_ledger):
    ledger = open_ledger(backends=("assistants", "chat"), threads="assistants", retries=0)
    chat = ledger.conversation("k")
    chat.append("user", "hello")
    thread_id = ledger.state("k").links["assistants"].thread_id
    heads = ledger.services.outbox.heads
    heads.claim("conversation:k", "assistants", thread_id, "somebody", now() + timedelta(minutes=1))
    answer = chat.ask("Where is it?")
    assert (answer.backend, [failure.cause.value for failure in answer.failures]) == ("chat", ["thread_busy"])
    heads.release("conversation:k", "assistants", "somebody")
    chat.append("user", "thanks")
    assert [each.found.state.value for each in ledger.replay.verify(["k"])] == ["same"]


def test_a_ledger_that_is_closed_leaves_no_connection_to_the_provider_open(simulator, open_ledger):
    ledger = open_ledger(backends=("chat",), threads="none")
    ledger.conversation("k").ask("hello")
    client = ledger.services.backends["chat"]._client.sdk
    ledger.close()
    assert client.is_closed()


@pytest.mark.parametrize("kind", ["conversations", "assistants"])
def test_real_conversations_are_rebuilt_into_threads_and_verified(simulator, open_ledger, kind):
    if not REAL.is_file():
        pytest.skip("there is no large export to import (conversations.jsonl.gz): the other tests prove the same")
    ledger = open_ledger(threads=kind)
    with gzip.open(REAL, "rb") as lines:
        imported = list(import_lines(ledger, islice(lines, 20)))
    plan = ledger.replay.plan_rebuild(to=kind)
    assert sum(item.messages for item in plan.items) == sum(each.messages for each in imported)
    assert {(item.state, item.verified) for item in plan.apply()} == {("done", True)}
    assert {each.found.state.value for each in ledger.replay.verify(to=kind)} == {"same"}
    assert not simulator.provider.runs
    assert not simulator.provider.responses


def test_a_second_question_between_two_runs_of_the_first_is_refused_and_not_mixed_up(simulator, open_ledger):
    ledger = open_ledger(backends=("chat",), threads="none", retries=1)
    other = open_ledger(backends=("chat",), threads="none", retries=0)
    simulator.add_fault(CHAT, fail=True)
    refused = []

    def meanwhile(seconds):
        with pytest.raises(ConversationBusy) as busy:
            other.conversation("k").ask("second question")
        refused.append(busy)

    ledger = replaced(ledger, wait=meanwhile)
    assert ledger.conversation("k").ask("first question").text == "You said: first question"
    assert len(refused) == 1
    assert texts(ledger) == ["first question", "You said: first question"]


def test_an_answer_that_comes_after_its_run_was_closed_as_interrupted_is_kept(simulator, open_ledger):
    ledger = open_ledger(backends=("chat",), threads="none", retries=0, timeout_seconds=5)
    backend = ledger.services.backends["chat"]
    answer = backend.answer

    def slowly(request):
        with freeze_time(now() + timedelta(minutes=5)):
            assert len(ledger.close_overdue_runs()) == 1
        return answer(request)

    backend.answer = slowly
    assert ledger.conversation("k").ask("hello").text == "You said: hello"
    assert texts(ledger) == ["hello", "You said: hello"]
    assert [failure.cause.value for failure in ledger.failures(unanswered=True)] == []


def test_after_memory_was_cleared_a_run_answers_in_a_thread_that_does_not_show_it(simulator, open_ledger):
    ledger = open_ledger(backends=("responses",), threads="conversations")
    chat = ledger.conversation("k")
    chat.ask("my dog is called Rex")
    chat.clear()
    chat.ask("what is my dog called?")
    thread_id = ledger.state("k").links["conversations"].thread_id
    assert "Rex" not in json.dumps(simulator.provider.items[thread_id])
    assert [each.found.state.value for each in ledger.replay.verify(["k"])] == ["same"]


def test_a_secret_in_what_the_provider_said_is_in_no_event(simulator, open_ledger):
    ledger = open_ledger(backends=("assistants", "chat"), threads="assistants", retries=0)
    simulator.add_fault(RUNS, fail={"code": "server_error", "message": "the key sk-proj-planted123456 is broken"})
    ledger.conversation("k").ask("hello")
    assert "planted" not in json.dumps([logged.as_json() for logged in ledger.events()])
