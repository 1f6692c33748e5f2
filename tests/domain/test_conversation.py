"""The aggregate: each command emits, refuses, or stays quiet."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial as fact

import pytest

from threadledger.domain import limits
from threadledger.domain.conversation import Completion, Conversation, RunPlan, ThreadLink, text_message
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Source, Usage
from threadledger.domain.errors import (
    ConversationBusy,
    ConversationChanged,
    ExchangeAnswered,
    InvalidInput,
    InvalidKey,
    InvalidMessage,
    RunNotOpen,
)
from threadledger.domain.failures import Failure
from threadledger.domain.ids import to_iso
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.memory import fold_memory

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LATER = to_iso(NOW + timedelta(seconds=30))
EARLIER = to_iso(NOW - timedelta(seconds=1))

started = fact(e.ConversationStarted, key="customer-42")
asked = fact(e.MessageJournaled, message_id="m1", role="user", content="Where is my parcel?", exchange_id="x1")
assistants_runs = fact(
    e.RunStarted, run_id="r1", exchange_id="x1", attempt=1, backend="assistants", model="gpt", deadline=LATER
)
assistants_failed = fact(e.RunFailed, run_id="r1", status="failed", code="server_error")
chat_runs = fact(e.RunStarted, run_id="r2", exchange_id="x1", attempt=1, backend="chat", model="gpt", deadline=LATER)
chat_failed = fact(e.RunFailed, run_id="r2", status="error")
fell_back = fact(
    e.FallbackUsed, exchange_id="x1", failed_run_id="r1", from_backend="assistants", to_backend="chat", reason=""
)
abandoned = fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1"], reason="nobody is left")

QUESTION = text_message("user", "And the other one?")
ANSWER = Completion((text_message("assistant", "On its way."),))


class TestStart:
    def test_a_conversation_starts_under_the_apps_own_key(self, clock):
        conversation = Conversation.start("customer-42", {"plan": "gold"}, parent_key="customer-41", parent_version=7)
        (event,) = conversation.collect_events()
        assert isinstance(event, e.ConversationStarted)
        assert (event.key, event.metadata, event.parent_key, event.parent_version) == (
            "customer-42",
            {"plan": "gold"},
            "customer-41",
            7,
        )
        assert (event.originator_id, event.originator_version, event.timestamp) == ("conversation:customer-42", 1, NOW)

    def test_an_unusable_key_is_refused(self):
        with pytest.raises(InvalidKey):
            Conversation.start("")

    @pytest.mark.parametrize("metadata", [{"at": datetime.now(UTC)}, {"x": float("nan")}, {"x": "\ud800"}])
    def test_metadata_that_is_not_json_is_refused(self, metadata):
        with pytest.raises(InvalidInput, match="metadata"):
            Conversation.start("k", metadata)

    def test_metadata_over_the_limit_is_refused(self):
        with pytest.raises(InvalidInput, match="1,048,576 bytes"):
            Conversation.start("k", {"note": "x" * limits.METADATA_BYTES_MAX})

    def test_the_limit_of_metadata_counts_bytes_not_characters(self):
        with pytest.raises(InvalidInput, match="bytes"):
            Conversation.start("k", {"note": "é" * (limits.METADATA_BYTES_MAX * 3 // 4)})

    def test_metadata_changed_by_the_caller_afterwards_stays_as_it_was_given(self, clock):
        metadata = {"plan": "gold"}
        conversation = Conversation.start("k", metadata)
        metadata["plan"] = "none"
        assert conversation.collect_events()[0].metadata == {"plan": "gold"}


class TestJournal:
    def test_a_message_is_journaled_with_all_it_carries(self, given):
        given(started).when(
            lambda it: it.journal(
                text_message("assistant", "Hello"),
                source=Source.IMPORT,
                exchange_id="x1",
                run_id="r1",
                message_id="m9",
                written_at="2025-01-01T00:00:00Z",
            )
        ).then(
            fact(
                e.MessageJournaled,
                originator_version=2,
                message_id="m9",
                role="assistant",
                content="Hello",
                source="import",
                exchange_id="x1",
                run_id="r1",
                written_at="2025-01-01T00:00:00Z",
            )
        )

    def test_two_equal_texts_are_two_messages(self, given):
        def twice(it):
            return it.journal(QUESTION), it.journal(QUESTION)

        outcome = given(started).when(twice).then(fact(e.MessageJournaled), fact(e.MessageJournaled))
        first, second = outcome.result
        assert first.message_id != second.message_id
        assert first.event_id != second.event_id
        assert outcome.conversation.state.messages == 2
        assert len(fold_memory(outcome.emitted).messages) == 2

    @pytest.mark.parametrize("key", ["", "x" * (limits.IDEMPOTENCY_KEY_CHARS_MAX + 1), "\udfff"])
    def test_an_unusable_idempotency_key_is_refused(self, given, key):
        given(started).when(lambda it: it.journal(QUESTION, idempotency_key=key)).then_refused(
            InvalidInput, "idempotency key"
        )


class TestAsk:
    def test_a_question_is_journaled_and_opens_its_exchange(self, given):
        outcome = given(started).when(lambda it: it.ask(QUESTION))
        outcome.then(
            fact(
                e.MessageJournaled,
                role="user",
                content="And the other one?",
                source="app",
                exchange_id=outcome.result,
                run_id=None,
            )
        )
        assert list(outcome.conversation.state.open_exchanges) == [outcome.result]

    def test_a_question_while_a_run_is_open_is_refused(self, given):
        given(started, asked, assistants_runs).when(lambda it: it.ask(QUESTION)).then_refused(
            ConversationBusy, "run r1 on assistants is open"
        )

    def test_a_run_left_open_by_a_crash_is_closed_as_interrupted(self, given):
        crashed = fact(assistants_runs, deadline=EARLIER)
        given(started, asked, crashed).when(lambda it: it.ask(QUESTION)).then(
            fact(e.RunFailed, run_id="r1", status="interrupted"),
            fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1"]),
            fact(e.MessageJournaled, role="user"),
        )

    def test_an_exchange_left_without_a_run_is_abandoned(self, given):
        given(started, asked).when(lambda it: it.ask(QUESTION)).then(
            fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=[]), fact(e.MessageJournaled)
        )

    def test_an_answered_exchange_is_left_alone(self, given):
        done = fact(e.RunCompleted, run_id="r1")
        given(started, asked, assistants_runs, done).when(lambda it: it.ask(QUESTION)).then(fact(e.MessageJournaled))


class TestStartRun:
    def test_a_run_is_recorded_with_its_plan_but_never_its_prompt(self, given):
        plan = RunPlan(
            backend="responses",
            model="gpt",
            attempt=2,
            timeout_seconds=60,
            profile_hash="p" * 64,
            memory_version=2,
            memory_rule="last=20",
            memory_hash="h" * 64,
        )
        outcome = given(started, asked).when(lambda it: it.start_run("x1", plan))
        outcome.then(
            fact(
                e.RunStarted,
                run_id=outcome.result,
                exchange_id="x1",
                attempt=2,
                backend="responses",
                model="gpt",
                profile_hash="p" * 64,
                memory_version=2,
                memory_rule="last=20",
                memory_hash="h" * 64,
                rerun_of=None,
            )
        )
        assert "parcel" not in repr(outcome.emitted)

    def test_an_exchange_that_has_its_answer_is_not_answered_again(self, given):
        done = fact(e.RunCompleted, run_id="r1")
        given(started, asked, assistants_runs, done).when(
            lambda it: it.start_run("x1", RunPlan("chat", "gpt", rerun_of="r1"))
        ).then_refused(ExchangeAnswered, "already has an answer")

    def test_the_last_answered_exchanges_are_remembered_and_no_more(self, state_of):
        facts = [started]
        for number in range(limits.ANSWERED_KEPT + 3):
            facts += [
                fact(assistants_runs, run_id=f"r{number}", exchange_id=f"x{number}"),
                fact(e.RunCompleted, run_id=f"r{number}"),
            ]
        assert state_of(*facts).answered == [f"x{number}" for number in range(3, limits.ANSWERED_KEPT + 3)]

    def test_the_deadline_is_the_attempts_limit_and_the_grace(self, given):
        seconds = 60 + limits.RUN_GRACE_SECONDS
        given(started, asked).when(lambda it: it.start_run("x1", RunPlan("chat", "gpt", timeout_seconds=60))).then(
            fact(e.RunStarted, deadline=to_iso(NOW + timedelta(seconds=seconds)))
        )

    def test_a_second_run_while_one_is_open_is_refused(self, given):
        given(started, asked, assistants_runs).when(lambda it: it.start_run("x1", RunPlan("chat", "gpt"))).then_refused(
            ConversationBusy
        )

    def test_another_backend_after_a_failed_run_is_a_fallback_in_the_same_commit(self, given):
        plan = RunPlan("chat", "gpt", fallback_reason="provider_error: server_error")
        given(started, asked, assistants_runs, assistants_failed).when(lambda it: it.start_run("x1", plan)).then(
            fact(
                e.FallbackUsed,
                exchange_id="x1",
                failed_run_id="r1",
                from_backend="assistants",
                to_backend="chat",
                reason="provider_error: server_error",
            ),
            fact(e.RunStarted, backend="chat"),
        )

    def test_a_fallback_names_the_last_failed_run(self, given):
        past = [started, asked, assistants_runs, assistants_failed, fell_back, chat_runs, chat_failed]
        given(*past).when(lambda it: it.start_run("x1", RunPlan("own", "llama"))).then(
            fact(e.FallbackUsed, failed_run_id="r2", from_backend="chat", to_backend="own"), fact(e.RunStarted)
        )

    def test_the_same_backend_after_a_failed_run_is_a_retry_without_fallback(self, given):
        given(started, asked, assistants_runs, assistants_failed).when(
            lambda it: it.start_run("x1", RunPlan("assistants", "gpt", attempt=2))
        ).then(fact(e.RunStarted, backend="assistants", attempt=2))

    def test_the_first_run_of_the_next_exchange_is_no_fallback(self, given):
        next_asked = fact(e.MessageJournaled, message_id="m2", role="user", content="?", exchange_id="x2")
        given(started, asked, assistants_runs, assistants_failed, abandoned, next_asked).when(
            lambda it: it.start_run("x2", RunPlan("chat", "gpt"))
        ).then(fact(e.RunStarted, exchange_id="x2"))

    def test_a_rerun_on_another_backend_begins_anew_without_fallback(self, given):
        given(started, asked, assistants_runs, assistants_failed, abandoned).when(
            lambda it: it.start_run("x1", RunPlan("chat", "gpt", rerun_of="r1"))
        ).then(fact(e.RunStarted, backend="chat", rerun_of="r1"))

    def test_a_fallback_within_a_rerun_is_recorded(self, given):
        again = fact(chat_runs, rerun_of="r1")
        given(started, asked, assistants_runs, assistants_failed, abandoned, again, chat_failed).when(
            lambda it: it.start_run("x1", RunPlan("own", "llama", rerun_of="r1"))
        ).then(fact(e.FallbackUsed, failed_run_id="r2", from_backend="chat"), fact(e.RunStarted, rerun_of="r1"))

    def test_a_crashed_run_is_closed_first_and_its_backend_given_up(self, given):
        crashed = fact(assistants_runs, deadline=EARLIER)
        given(started, asked, crashed).when(lambda it: it.start_run("x1", RunPlan("chat", "gpt"))).then(
            fact(e.RunFailed, run_id="r1", status="interrupted"),
            fact(e.FallbackUsed, failed_run_id="r1", from_backend="assistants", to_backend="chat"),
            fact(e.RunStarted, backend="chat"),
        )

    def test_an_exchange_that_is_under_way_goes_on_with_its_next_run(self, given):
        given(started, asked, assistants_runs, assistants_failed).when(
            lambda it: it.start_run("x1", RunPlan("assistants", "gpt", attempt=2), must_be_open=True)
        ).then(fact(e.RunStarted, exchange_id="x1", attempt=2))

    def test_an_exchange_that_was_given_up_for_a_newer_question_does_not_go_on(self, given):
        given(started, asked, assistants_runs, assistants_failed, abandoned).when(
            lambda it: it.start_run("x1", RunPlan("assistants", "gpt", attempt=2), must_be_open=True)
        ).then_refused(ConversationChanged, "a newer question replaced the exchange x1")

    def test_an_exchange_that_was_given_up_is_begun_again_where_that_is_wanted(self, given):
        given(started, asked, assistants_runs, assistants_failed, abandoned).when(
            lambda it: it.start_run("x1", RunPlan("assistants", "gpt", rerun_of="r1"))
        ).then(fact(e.RunStarted, rerun_of="r1"))

    def test_an_exchange_that_was_answered_meanwhile_says_so_rather_than_that_it_was_given_up(self, given):
        done = fact(e.RunCompleted, run_id="r1")
        given(started, asked, assistants_runs, done).when(
            lambda it: it.start_run("x1", RunPlan("assistants", "gpt"), must_be_open=True)
        ).then_refused(ExchangeAnswered)

    def test_an_exchange_whose_run_others_have_open_is_busy_also_when_it_goes_on(self, given):
        given(started, asked, assistants_runs).when(
            lambda it: it.start_run("x1", RunPlan("chat", "gpt"), must_be_open=True)
        ).then_refused(ConversationBusy, "run r1")


class TestCompleteRun:
    def test_an_answer_is_recorded_in_one_commit_with_its_messages(self, given):
        completion = Completion(
            (text_message("assistant", "Let me see."), text_message("assistant", "On its way.")),
            finish_reason="stop",
            remote_run_id="run_abc",
            thread_id="thread_abc",
            request_id="req_abc",
            model="gpt-6",
            usage=Usage(10, 3),
        )
        outcome = given(started, asked, assistants_runs).when(
            lambda it: it.complete_run("r1", completion, duration_seconds=1.5)
        )
        outcome.then(
            fact(
                e.RunCompleted,
                run_id="r1",
                remote_run_id="run_abc",
                thread_id="thread_abc",
                request_id="req_abc",
                model="gpt-6",
                finish_reason="stop",
                usage={"input_tokens": 10, "output_tokens": 3, "total_tokens": 13},
                duration_seconds=1.5,
            ),
            fact(e.MessageJournaled, content="Let me see.", exchange_id="x1", run_id="r1", source="run"),
            fact(e.MessageJournaled, content="On its way.", exchange_id="x1", run_id="r1", message_id=outcome.result),
        )
        assert outcome.conversation.state.open_exchanges == {}
        assert outcome.conversation.state.open_runs == {}

    def test_the_version_that_the_thread_held_is_recorded_with_the_answer(self, given):
        completion = replace(ANSWER, thread_id="t", thread_version=2)
        given(started, asked, assistants_runs).when(lambda it: it.complete_run("r1", completion)).then(
            fact(e.RunCompleted, thread_id="t", thread_version=2), fact(e.MessageJournaled)
        )

    def test_an_answer_outside_of_any_thread_has_no_version_of_one(self, given):
        given(started, asked, chat_runs).when(lambda it: it.complete_run("r2", ANSWER)).then(
            fact(e.RunCompleted, thread_id=None, thread_version=None), fact(e.MessageJournaled)
        )

    def test_a_run_whose_model_asks_for_tools_leaves_its_exchange_open_without_an_answer(self, given):
        outcome = given(started, asked, assistants_runs).when(
            lambda it: it.complete_run("r1", replace(ANSWER, goes_on=True))
        )
        outcome.then(fact(e.RunCompleted, goes_on=True), fact(e.MessageJournaled))
        assert list(outcome.conversation.state.open_exchanges) == ["x1"]
        assert outcome.conversation.state.answered == []

    def test_a_rerun_whose_model_asks_for_tools_is_not_accepted_yet(self, given):
        again = fact(chat_runs, rerun_of="r1")
        given(started, asked, assistants_runs, assistants_failed, abandoned, again).when(
            lambda it: it.complete_run("r2", replace(ANSWER, goes_on=True), source=Source.RERUN)
        ).then(fact(e.RunCompleted, goes_on=True), fact(e.MessageJournaled, source="rerun"))

    def test_the_answer_of_a_fallback_says_so(self, given):
        given(started, asked, chat_runs).when(lambda it: it.complete_run("r2", ANSWER, source=Source.FALLBACK)).then(
            fact(e.RunCompleted), fact(e.MessageJournaled, source="fallback")
        )

    def test_a_reruns_answer_is_accepted(self, given):
        again = fact(chat_runs, rerun_of="r1")
        outcome = given(started, asked, assistants_runs, assistants_failed, abandoned, again).when(
            lambda it: it.complete_run("r2", ANSWER, source=Source.RERUN)
        )
        outcome.then(
            fact(e.RunCompleted, run_id="r2"),
            fact(e.MessageJournaled, source="rerun"),
            fact(e.RerunAccepted, exchange_id="x1", run_id="r2", message_id=outcome.result, superseded_run_id="r1"),
        )
        assert outcome.conversation.state.unanswered == 0

    def test_a_completion_without_a_message_is_refused(self, given):
        given(started, asked, assistants_runs).when(lambda it: it.complete_run("r1", Completion(()))).then_refused(
            InvalidMessage, "without an answer"
        )

    @pytest.mark.parametrize("end", [fact(e.RunCompleted, run_id="r1"), assistants_failed])
    def test_a_run_that_has_ended_cannot_be_completed(self, given, end):
        given(started, asked, assistants_runs, end).when(lambda it: it.complete_run("r1", ANSWER)).then_refused(
            RunNotOpen, "threadledger audit show r1"
        )


class TestFailRun:
    def test_a_failure_is_recorded_with_every_fact(self, given):
        facts = {
            "status": "failed",
            "code": "server_error",
            "type": "api_error",
            "message": "Sorry, something went wrong.",
            "http_status": 500,
            "request_id": "req_abc",
            "retry_after_seconds": 2.0,
            "param": "model",
            "partial_text": "On its",
            "remote_run_id": "run_abc",
            "thread_id": "thread_abc",
            "details": {"endpoint": "POST /threads"},
        }
        given(started, asked, assistants_runs).when(lambda it: it.fail_run("r1", Failure(**facts), 1.5)).then(
            fact(e.RunFailed, run_id="r1", duration_seconds=1.5, **facts)
        )

    @pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
    def test_a_failure_with_a_number_that_json_lacks_can_be_stored(self, given, seconds):
        failure = Failure("error", http_status=429, retry_after_seconds=seconds)
        (event,) = given(started, asked, assistants_runs).when(lambda it: it.fail_run("r1", failure)).emitted
        EventMapper(PlainJSON()).to_stored_event(event)

    def test_a_failed_run_leaves_its_exchange_open(self, given):
        outcome = given(started, asked, assistants_runs).when(lambda it: it.fail_run("r1", Failure("failed")))
        assert list(outcome.conversation.state.open_exchanges) == ["x1"]
        assert outcome.conversation.state.open_runs == {}
        assert outcome.conversation.state.failed_runs == 1

    @pytest.mark.parametrize("end", [fact(e.RunCompleted, run_id="r1"), assistants_failed])
    def test_a_run_that_has_ended_cannot_fail(self, given, end):
        given(started, asked, assistants_runs, end).when(lambda it: it.fail_run("r1", Failure("failed"))).then_refused(
            RunNotOpen
        )

    def test_a_run_that_never_began_cannot_fail(self, given):
        given(started, asked).when(lambda it: it.fail_run("r1", Failure("failed"))).then_refused(RunNotOpen)


class TestCloseOverdueRuns:
    def test_an_overdue_run_is_closed_as_interrupted(self, given):
        outcome = given(started, asked, fact(assistants_runs, deadline=EARLIER)).when(
            lambda it: it.close_overdue_runs()
        )
        outcome.then(fact(e.RunFailed, run_id="r1", status="interrupted"))
        assert outcome.result == ["r1"]

    @pytest.mark.parametrize("deadline", [LATER, to_iso(NOW), None])
    def test_a_run_whose_deadline_has_not_passed_is_left_open(self, given, deadline):
        outcome = given(started, asked, fact(assistants_runs, deadline=deadline)).when(
            lambda it: it.close_overdue_runs()
        )
        outcome.then_nothing()
        assert list(outcome.conversation.state.open_runs) == ["r1"]

    def test_a_closed_run_is_not_closed_again(self, given):
        given(started, asked, fact(assistants_runs, deadline=EARLIER), assistants_failed).when(
            lambda it: it.close_overdue_runs()
        ).then_nothing()


class TestInterrupt:
    superseded = fact(e.RunFailed, run_id="r1", status="interrupted", code="superseded")

    def test_an_open_run_is_closed_and_its_exchange_given_up_for_a_newer_question(self, given):
        outcome = given(started, asked, assistants_runs).when(lambda it: it.interrupt())
        outcome.then(
            fact(self.superseded, message="a newer question took its place"),
            fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1"], reason="a newer question took its place"),
        )
        assert (outcome.conversation.state.open_runs, outcome.conversation.state.open_exchanges) == ({}, {})

    def test_an_exchange_between_two_runs_is_given_up(self, given):
        given(started, asked, assistants_runs, assistants_failed).when(lambda it: it.interrupt()).then(
            fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1"])
        )

    @pytest.mark.parametrize("end", [fact(e.RunCompleted, run_id="r1"), abandoned])
    def test_where_nothing_is_open_nothing_is_interrupted(self, given, end):
        past = [started, asked, assistants_runs, *([assistants_failed] if end is abandoned else []), end]
        given(*past).when(lambda it: it.interrupt()).then_nothing()

    def test_a_question_that_interrupts_is_journaled_in_the_same_commit(self, given):
        def ask_instead(it):
            it.interrupt()
            return it.ask(QUESTION)

        outcome = given(started, asked, assistants_runs).when(ask_instead)
        outcome.then(self.superseded, fact(e.ExchangeAbandoned, exchange_id="x1"), fact(e.MessageJournaled))
        assert list(outcome.conversation.state.open_exchanges) == [outcome.result]

    def test_what_was_interrupted_can_be_neither_completed_nor_failed_nor_gone_on_with(self, given):
        past = [started, asked, assistants_runs, self.superseded, abandoned]
        given(*past).when(lambda it: it.complete_run("r1", ANSWER)).then_refused(RunNotOpen)
        given(*past).when(lambda it: it.fail_run("r1", Failure("failed"))).then_refused(RunNotOpen)
        given(*past).when(lambda it: it.start_run("x1", RunPlan("chat", "gpt"), must_be_open=True)).then_refused(
            ConversationChanged
        )


class TestAbandon:
    def test_an_exchange_is_abandoned_with_all_its_runs(self, given):
        past = [started, asked, assistants_runs, assistants_failed, fell_back, chat_runs, chat_failed]
        outcome = given(*past).when(lambda it: it.abandon("x1", "nobody is left"))
        outcome.then(fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1", "r2"], reason="nobody is left"))
        assert outcome.conversation.state.unanswered == 1

    def test_an_exchange_that_is_not_open_is_not_abandoned(self, given):
        past = [started, asked, assistants_runs, assistants_failed, abandoned]
        given(*past).when(lambda it: it.abandon("x1", "again")).then_nothing()

    def test_an_answered_exchange_is_not_abandoned(self, given):
        past = [started, asked, assistants_runs, fact(e.RunCompleted, run_id="r1")]
        given(*past).when(lambda it: it.abandon("x1", "too late")).then_nothing()

    def test_an_exchange_that_is_being_answered_is_not_abandoned(self, given):
        assert given(started, asked, assistants_runs).when(lambda it: it.abandon("x1", "too early")).emitted == []

    def test_an_answer_that_comes_after_the_abandonment_still_answers_the_exchange(self, given):
        outcome = given(started, asked, assistants_runs, abandoned).when(lambda it: it.complete_run("r1", ANSWER))
        assert outcome.conversation.state.unanswered == 0
        assert outcome.conversation.state.abandoned == {}


class TestThreads:
    linked = fact(e.ThreadLinked, backend="conversations", thread_id="conv_1", endpoint="https://api.openai.com/v1")
    lost = fact(e.ThreadLost, backend="conversations", thread_id="conv_1", reason="thread_missing")

    @staticmethod
    def link(thread_id="conv_1", endpoint="https://api.openai.com/v1"):
        return lambda it: it.link_thread("conversations", thread_id, endpoint)

    def test_a_thread_is_linked(self, given):
        given(started).when(self.link()).then(self.linked)

    def test_a_linked_thread_is_not_linked_again(self, given):
        given(started, self.linked).when(self.link()).then_nothing()

    def test_another_thread_takes_the_place_of_the_linked_one(self, given):
        outcome = given(started, self.linked).when(self.link("conv_2")).then(fact(self.linked, thread_id="conv_2"))
        assert outcome.conversation.state.links["conversations"].thread_id == "conv_2"

    def test_a_lost_thread_that_is_found_again_is_linked_again(self, given):
        outcome = given(started, self.linked, self.lost).when(self.link()).then(self.linked)
        assert outcome.conversation.state.links["conversations"].lost is None

    def test_a_thread_of_another_endpoint_is_another_thread(self, given):
        given(started, self.linked).when(self.link(endpoint="http://127.0.0.1:9/v1")).then(
            fact(self.linked, endpoint="http://127.0.0.1:9/v1")
        )

    def test_threads_of_two_kinds_stand_side_by_side(self, given):
        outcome = given(started, self.linked).when(lambda it: it.link_thread("assistants", "thread_1", ""))
        assert set(outcome.conversation.state.links) == {"conversations", "assistants"}

    def test_the_linked_thread_is_lost(self, given):
        outcome = given(started, self.linked).when(lambda it: it.lose_thread("conversations", "conv_1", "gone"))
        outcome.then(
            fact(
                e.ThreadLost,
                backend="conversations",
                thread_id="conv_1",
                reason="gone",
                endpoint="https://api.openai.com/v1",
            )
        )
        assert outcome.conversation.state.links["conversations"].lost == "gone"

    @pytest.mark.parametrize(("past", "thread_id"), [((), "conv_1"), ((linked,), "conv_2"), ((linked, lost), "conv_1")])
    def test_a_thread_that_is_not_linked_or_lost_already_is_not_lost(self, given, past, thread_id):
        given(started, *past).when(lambda it: it.lose_thread("conversations", thread_id, "gone")).then_nothing()

    def test_a_lost_thread_without_a_reason_is_lost_all_the_same(self, given):
        outcome = given(started, self.linked).when(lambda it: it.lose_thread("conversations", "conv_1", ""))
        assert outcome.conversation.state.links["conversations"].lost

    def test_a_rebuilt_thread_takes_the_place_of_the_lost_one(self, given):
        rebuilt = {
            "backend": "conversations",
            "thread_id": "conv_2",
            "endpoint": "https://api.openai.com/v1",
            "memory_version": 2,
            "message_count": 1,
            "digest": "d" * 64,
            "losses": {"image": 1},
        }
        outcome = given(started, self.linked, self.lost).when(lambda it: it.rebuild_thread(rebuilt))
        outcome.then(fact(e.ThreadRebuilt, old_thread_id="conv_1", **rebuilt))
        assert outcome.conversation.state.links["conversations"] == ThreadLink(
            thread_id="conv_2", endpoint="https://api.openai.com/v1", version=4, lost=None
        )

    def test_a_thread_rebuilt_where_there_was_none_has_no_predecessor(self, given):
        given(started).when(lambda it: it.rebuild_thread({"backend": "assistants", "thread_id": "t"})).then(
            fact(e.ThreadRebuilt, old_thread_id=None)
        )


class TestMemoryCommands:
    def test_a_message_is_retracted_not_deleted(self, given):
        outcome = given(started, asked).when(lambda it: it.retract("m1", "sent by mistake"))
        outcome.then(fact(e.MessageRetracted, message_id="m1", reason="sent by mistake"))
        assert outcome.conversation.state.messages == 1

    def test_memory_is_cleared_up_to_now(self, given):
        given(started, asked).when(lambda it: it.clear_memory("new topic")).then(
            fact(e.MemoryCleared, up_to_version=2, reason="new topic", originator_version=3)
        )


class TestState:
    def test_a_rerun_that_answers_takes_its_exchange_out_of_the_unanswered(self, state_of):
        again = (started, asked, assistants_runs, assistants_failed, abandoned, fact(chat_runs, rerun_of="r1"))
        assert state_of(*again).unanswered == 1
        assert state_of(*again, fact(e.RunCompleted, run_id="r2")).unanswered == 0

    def test_a_rerun_opens_its_exchange_again_as_it_was(self, state_of):
        state = state_of(started, asked, assistants_runs, assistants_failed, abandoned, fact(chat_runs, rerun_of="r1"))
        assert state.open_exchanges["x1"].question == "m1"
        assert state.open_exchanges["x1"].runs == ["r2"]
        assert state.open_exchanges["x1"].failed_run is None

    def test_a_rerun_that_fails_too_counts_once_as_unanswered(self, state_of):
        again = fact(chat_runs, rerun_of="r1")
        state = state_of(started, asked, assistants_runs, assistants_failed, abandoned, again, chat_failed, abandoned)
        assert state.unanswered == 1

    def test_only_the_last_unanswered_exchanges_are_remembered_but_all_are_counted(self, state_of):
        facts = [started]
        for number in range(limits.ABANDONED_KEPT + 5):
            facts += [
                fact(e.MessageJournaled, message_id=f"m{number}", role="user", exchange_id=f"x{number}"),
                fact(e.ExchangeAbandoned, exchange_id=f"x{number}"),
            ]
        state = state_of(*facts)
        assert state.unanswered == limits.ABANDONED_KEPT + 5
        assert list(state.abandoned) == [f"x{number}" for number in range(5, limits.ABANDONED_KEPT + 5)]

    def test_a_rerun_of_an_exchange_too_old_to_be_remembered_is_counted_when_it_answers(self, state_of):
        facts = [started]
        for number in range(limits.ABANDONED_KEPT + 1):
            facts += [
                fact(e.MessageJournaled, message_id=f"m{number}", role="user", exchange_id=f"x{number}"),
                fact(e.ExchangeAbandoned, exchange_id=f"x{number}"),
            ]
        state = state_of(*facts, fact(chat_runs, exchange_id="x0", rerun_of="r0"), fact(e.RunCompleted, run_id="r2"))
        assert state.unanswered == limits.ABANDONED_KEPT
        assert state.exchanges == limits.ABANDONED_KEPT + 1

    def test_a_rerun_of_an_answered_exchange_does_not_make_the_unanswered_fewer_than_none(self, state_of):
        done, again = fact(e.RunCompleted, run_id="r1"), fact(chat_runs, rerun_of="r1")
        assert state_of(started, asked, assistants_runs, done, again).unanswered == 0
        assert state_of(started, asked, assistants_runs, done, again, fact(done, run_id="r2")).unanswered == 0

    @pytest.mark.parametrize("more", [{"role": "assistant"}, {"run_id": "r1"}, {"exchange_id": None}], ids=str)
    def test_only_an_apps_question_opens_an_exchange(self, state_of, more):
        state = state_of(started, fact(asked, **more))
        assert (state.messages, state.exchanges, state.open_exchanges) == (1, 0, {})

    def test_the_loss_of_another_thread_does_not_lose_the_linked_one(self, state_of):
        lost = fact(e.ThreadLost, backend="conversations", thread_id="conv_0", reason="gone")
        assert state_of(started, TestThreads.linked, lost).links["conversations"].lost is None

    def test_an_apps_own_run_opens_an_exchange_without_a_question(self, state_of):
        state = state_of(started, assistants_runs)
        assert state.open_exchanges["x1"].question is None
        assert state.exchanges == 1

    def test_the_next_deadline_is_that_of_the_run_overdue_first(self, state_of):
        other = fact(chat_runs, deadline=EARLIER)
        assert state_of(started, asked, assistants_runs, other).next_deadline == EARLIER
        assert state_of(started, asked, fact(assistants_runs, deadline=None)).next_deadline is None

    def test_the_state_stays_small_however_long_the_conversation(self, state_of):
        short = state_of(started, *[fact(asked, message_id=f"m{n}", exchange_id=None) for n in range(3)])
        long = state_of(started, *[fact(asked, message_id=f"m{n}", exchange_id=None) for n in range(3_000)])
        assert len(long.as_json()) <= len(short.as_json()) + 20

    def test_a_snapshot_of_a_newer_version_is_read_without_its_unknown_fields(self, state_of):
        state = state_of(started, asked)
        text = state.as_json()[:-1] + ',"invented_later":1}'
        assert type(state).from_json(text) == state


class TestTheClock:
    def test_a_clock_that_was_set_back_does_not_reorder_the_log(self, given):
        ahead = fact(asked, timestamp=NOW + timedelta(minutes=5))
        given(started, ahead).when(lambda it: it.journal(QUESTION)).then(
            fact(e.MessageJournaled, timestamp=NOW + timedelta(minutes=5))
        )

    def test_a_clock_that_goes_on_is_believed(self, given):
        given(started, asked).when(lambda it: it.journal(QUESTION)).then(fact(e.MessageJournaled, timestamp=NOW))


def test_events_are_handed_over_once(given):
    conversation = given(started).when(lambda it: None).conversation
    conversation.journal(QUESTION)
    assert len(conversation.collect_events()) == 1
    assert conversation.collect_events() == []


def test_the_state_knows_a_recorded_event_before_it_is_stored(given):
    outcome = given(started).when(lambda it: it.journal(QUESTION))
    assert (outcome.conversation.version, outcome.conversation.state.messages) == (2, 1)


def test_a_time_is_text_of_one_length_in_utc() -> None:
    class Moment(datetime):
        """A class derived from `datetime`, as some libraries and clocks of tests have."""

    east = timezone(timedelta(hours=2))
    assert to_iso(datetime(2026, 11, 29, 14, 0, 0, 7, tzinfo=east)) == "2026-11-29T12:00:00.000007Z"
    assert to_iso(datetime(2026, 11, 29, 12, tzinfo=UTC)) == "2026-11-29T12:00:00.000000Z"
    assert to_iso(Moment(2026, 11, 29, 12, 0, 0, 7, tzinfo=UTC)) == "2026-11-29T12:00:00.000007Z"
