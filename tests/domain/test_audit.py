"""What became of every run: a fold over the events of runs."""

from datetime import UTC, datetime, timedelta
from functools import partial as fact

import pytest
from freezegun import freeze_time

from threadledger.domain.conversation import Exchanges, FailureFilter, fold_exchanges
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import InvalidInput
from threadledger.domain.failures import Cause

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def run(run_id, backend="assistants", attempt=1, exchange_id="x1", **more):
    return fact(
        e.RunStarted, run_id=run_id, exchange_id=exchange_id, attempt=attempt, backend=backend, model="gpt", **more
    )


def failed(run_id, status="failed", **more):
    return fact(e.RunFailed, run_id=run_id, status=status, **more)


def completed(run_id):
    return fact(e.RunCompleted, run_id=run_id, duration_seconds=1.5)


def fell_back(run_id, to="chat", exchange_id="x1"):
    return fact(
        e.FallbackUsed,
        exchange_id=exchange_id,
        failed_run_id=run_id,
        from_backend="assistants",
        to_backend=to,
        reason="",
    )


def abandoned(*run_ids, exchange_id="x1"):
    return fact(e.ExchangeAbandoned, exchange_id=exchange_id, run_ids=list(run_ids))


@pytest.fixture
def told(log):
    """`told(*facts)`: run id, what followed, and who answered, of each failure."""
    return lambda *facts: [
        (failure.run_id, failure.next, failure.answered_by) for failure in fold_exchanges(log(*facts)).failures()
    ]


class TestWhatFollowed:
    def test_nothing_yet(self, told):
        assert told(run("r1"), failed("r1")) == [("r1", "open", None)]

    def test_a_run_whose_model_asked_for_tools_has_not_answered_yet(self, log):
        asking = fact(e.RunCompleted, run_id="r2", goes_on=True)
        folded = fold_exchanges(log(run("r1"), failed("r1"), run("r2", attempt=2), asking))
        assert folded.by_id["x1"].answered_by is None
        folded = fold_exchanges(log(run("r3", attempt=3), completed("r3")), folded)
        assert [failure.answered_by for failure in folded.failures()] == ["r3"]

    def test_a_run_that_did_not_fail_is_not_retried(self, log):
        folded = fold_exchanges(log(run("r1"), completed("r1"), run("r2", attempt=2)))
        assert folded.runs["r1"].next == "open"

    def test_a_retry(self, told):
        assert told(run("r1"), failed("r1"), run("r2", attempt=2)) == [("r1", "retried", None)]

    def test_a_retry_that_answers(self, told):
        assert told(run("r1"), failed("r1"), run("r2", attempt=2), completed("r2")) == [("r1", "retried", "r2")]

    def test_a_fallback(self, told):
        assert told(run("r1"), failed("r1"), fell_back("r1"), run("r2", "chat"), completed("r2")) == [
            ("r1", "fallback", "r2")
        ]

    def test_an_abandonment(self, told):
        assert told(run("r1"), failed("r1"), abandoned("r1")) == [("r1", "abandoned", None)]

    def test_the_whole_way_down(self, told):
        assert told(
            run("r1"),
            failed("r1"),
            run("r2", attempt=2),
            failed("r2"),
            fell_back("r2"),
            run("r3", "chat"),
            failed("r3"),
            abandoned("r1", "r2", "r3"),
        ) == [("r1", "retried", None), ("r2", "fallback", None), ("r3", "abandoned", None)]

    def test_a_rerun_answers_the_failures_before_it_and_what_followed_then_still_stands(self, told):
        assert told(
            run("r1"),
            failed("r1"),
            fell_back("r1"),
            run("r2", "chat"),
            failed("r2"),
            abandoned("r1", "r2"),
            run("r3", rerun_of="r2"),
            completed("r3"),
        ) == [("r1", "fallback", "r3"), ("r2", "abandoned", "r3")]

    def test_a_rerun_after_a_crash_is_a_retry(self, told):
        facts = [run("r1"), failed("r1", "interrupted"), run("r2", rerun_of="r1"), completed("r2")]
        assert told(*facts) == [("r1", "retried", "r2")]

    def test_an_abandoned_run_stays_abandoned_when_its_exchange_is_rerun(self, told):
        facts = [run("r1"), failed("r1"), abandoned("r1"), run("r2", rerun_of="r1")]
        assert told(*facts) == [("r1", "abandoned", None)]

    def test_an_app_that_takes_up_an_abandoned_exchange_has_retried_it_or_fallen_back(self, told):
        facts = [run("r1"), failed("r1"), abandoned("r1")]
        assert told(*facts, run("r2", attempt=2)) == [("r1", "retried", None)]
        facts += [fell_back("r1"), run("r2", "chat"), completed("r2")]
        assert told(*facts) == [("r1", "fallback", "r2")]

    def test_exchanges_do_not_mix(self, told):
        assert told(
            run("r1"),
            failed("r1"),
            run("r2", exchange_id="x2", attempt=2),
            completed("r2"),
            abandoned(exchange_id="x2"),
        ) == [("r1", "open", None)]

    def test_an_exchange_abandoned_without_runs_has_no_failure(self, told):
        assert told(abandoned()) == []

    def test_an_abandonment_does_not_change_a_run_that_is_still_open(self, log):
        folded = fold_exchanges(log(run("r1"), abandoned("r1")))
        assert (folded.runs["r1"].next, folded.by_id["x1"].abandoned) == ("open", True)

    def test_ends_without_a_start_are_passed_over(self, log):
        folded = fold_exchanges(log(failed("r9"), completed("r9"), fell_back("r9"), abandoned("r9")))
        assert folded == Exchanges()


class TestRuns:
    def test_a_run_is_open_then_failed_or_completed(self, log):
        folded = fold_exchanges(log(run("r1"), failed("r1"), run("r2", attempt=2), completed("r2"), run("r3")))
        assert [each.state for each in folded.runs.values()] == ["failed", "completed", "open"]

    def test_a_run_keeps_its_plan_and_its_place(self, log):
        plan = {
            "memory_version": 7,
            "memory_rule": "last=2",
            "memory_hash": "m",
            "profile_hash": "p",
            "deadline": "2026-11-22T12:01:00Z",
            "rerun_of": "r0",
        }
        (record,) = fold_exchanges(log(fact(e.ConversationStarted, key="k"), run("r1", **plan))).runs.values()
        assert {name: getattr(record, name) for name in plan} == plan
        assert (record.key, record.version, record.backend, record.model) == ("customer-42", 2, "assistants", "gpt")

    def test_an_answered_exchange_is_not_abandoned(self, log):
        folded = fold_exchanges(
            log(run("r1"), failed("r1"), abandoned("r1"), run("r2", rerun_of="r1"), completed("r2"))
        )
        assert (folded.by_id["x1"].abandoned, folded.by_id["x1"].answered_by) == (False, "r2")

    def test_an_answer_that_comes_after_the_abandonment_still_answers_the_exchange(self, log):
        folded = fold_exchanges(log(run("r1"), abandoned("r1"), completed("r1")))
        assert (folded.by_id["x1"].abandoned, folded.by_id["x1"].answered_by) == (False, "r1")

    def test_a_run_leads_to_its_exchange_and_the_exchange_to_its_runs_in_order(self, log):
        folded = fold_exchanges(log(run("r1"), failed("r1"), run("r2", attempt=2)))
        exchange = folded.exchange_of(folded.runs["r1"])
        assert [each.run_id for each in exchange.runs] == ["r1", "r2"]

    def test_failures_come_in_the_order_of_failing(self, log):
        folded = fold_exchanges(log(run("r1"), run("r2", exchange_id="x2"), failed("r2"), failed("r1")))
        assert [failure.run_id for failure in folded.failures()] == ["r2", "r1"]


def test_a_failure_shows_the_keys_of_the_contract(log):
    facts = {
        "code": "server_error",
        "type": "api_error",
        "message": "Sorry, something went wrong.",
        "http_status": 500,
        "request_id": "req_abc",
        "remote_run_id": "run_abc",
        "thread_id": "thread_abc",
        "details": {"endpoint": "POST /threads/{thread_id}/runs"},
        "duration_seconds": 2.5,
    }
    events = log(run("r1", attempt=2), failed("r1", **facts), abandoned("r1"), began=NOON)
    (failure,) = fold_exchanges(events).failures()
    shown = failure.as_json()
    assert "replay rerun" in shown.pop("advice")
    assert shown == facts | {
        "run_id": "r1",
        "key": "customer-42",
        "exchange_id": "x1",
        "at": "2026-11-22T12:00:01.000000Z",
        "backend": "assistants",
        "model": "gpt",
        "endpoint": None,
        "actor": None,
        "attempt": 2,
        "status": "failed",
        "cause": "provider_error",
        "next": "abandoned",
        "answered_by": None,
    }


class TestFilter:
    @pytest.fixture
    def found(self, log):
        events = log(
            run("r1"),
            failed("r1", code="server_error"),
            fell_back("r1"),
            run("r2", "chat"),
            failed("r2", http_status=429),
            abandoned("r1", "r2"),
            run("r3", exchange_id="x2"),
            failed("r3", code="server_error"),
            run("r4", exchange_id="x2", attempt=2),
            completed("r4"),
            began=NOON,
        )
        failures = list(fold_exchanges(events).failures())

        def find(since=None, until=None, cause=None, code=None, backend=None, unanswered=False):
            wanted = FailureFilter.of(since, until, cause, code, backend, unanswered)
            return [failure.run_id for failure in failures if wanted(failure)]

        return find

    def test_without_a_filter_all_are_found(self, found):
        assert found() == ["r1", "r2", "r3"]

    @pytest.mark.parametrize("cause", ["rate_limited", Cause.RATE_LIMITED])
    def test_by_cause(self, found, cause):
        assert found(cause=cause) == ["r2"]

    def test_by_code(self, found):
        assert found(code="server_error") == ["r1", "r3"]
        assert found(code="none_such") == []

    def test_by_backend(self, found):
        assert found(backend="assistants") == ["r1", "r3"]

    def test_the_unanswered_alone(self, found):
        assert found(unanswered=True) == ["r1", "r2"]

    def test_since_and_until_are_inclusive(self, found):
        first, second, third = (NOON + timedelta(seconds=seconds) for seconds in (1, 4, 7))
        assert found(since=second) == ["r2", "r3"]
        assert found(until=second) == ["r1", "r2"]
        assert found(since=first + timedelta(microseconds=1), until=third - timedelta(microseconds=1)) == ["r2"]

    def test_a_span_counts_back_from_now(self, found):
        with freeze_time(NOON + timedelta(seconds=10)):
            assert found(since=timedelta(seconds=6)) == ["r2", "r3"]
            assert found(until=timedelta(seconds=6)) == ["r1", "r2"]

    def test_filters_go_together(self, found):
        assert found(code="server_error", backend="assistants", unanswered=True) == ["r1"]

    def test_a_cause_that_there_is_not_is_refused_with_those_there_are(self, found):
        with pytest.raises(InvalidInput, match=r"there is no cause 'slow'.*rate_limited"):
            found(cause="slow")
