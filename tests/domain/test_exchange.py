"""The policy of an exchange, performed by hand: who is asked, in which order, how often, and when it ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import limits
from threadledger.domain.conversation import Completion, text_message
from threadledger.domain.effects import Effects
from threadledger.domain.effects import perform as perform_effects
from threadledger.domain.exchange import Candidate, Policy
from threadledger.domain.exchange.exchange import answered_by_a_backend
from threadledger.domain.exchange.policy import RETRIES_BY_CAUSE, Pace, reason_of
from threadledger.domain.failures import Cause, Failure, Health, diagnose

ANSWER = Completion((text_message("assistant", "On its way."),))
SERVER_ERROR = Failure("failed", code="server_error", message="Sorry, something went wrong.")
WRONG_KEY = Failure("error", code="invalid_api_key", http_status=401)
THREAD_MISSING = Failure("error", http_status=404, message="No thread found with id 'thread_x'.", thread_id="thread_x")

ASSISTANTS, RESPONSES, CHAT = (Candidate(name, "gpt") for name in ("assistants", "responses", "chat"))


def rate_limited(seconds: float | None) -> Failure:
    return Failure("error", code="rate_limit_exceeded", http_status=429, retry_after_seconds=seconds)


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Time:
    """A clock that goes on only where the steps take time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)


class RunsOnPaper:
    """Stands in for `Runs`: writes down what the loop does, and answers each call as the test says."""

    def __init__(
        self, outcome_of: Callable[[Candidate, int], Completion | Failure], clock: Time, seconds: float
    ) -> None:
        self.steps: list[SimpleNamespace] = []
        self._outcome_of = outcome_of
        self._clock = clock
        self._seconds = seconds
        self._started = 0

    def start(self, candidate: Candidate, attempt: int, timeout_seconds: float) -> Effects[Any]:
        self._started += 1
        facts = {"candidate": candidate, "attempt": attempt, "timeout_seconds": timeout_seconds}
        return self._step("start", run_id=f"run-{self._started}", **facts)

    def call(self, run: Any) -> Effects[Completion | Failure]:
        assert run.run_id == f"run-{self._started}"
        yield from self._step("call", candidate=run.candidate)
        self._clock.seconds += self._seconds
        return self._outcome_of(run.candidate, self._started)

    def complete(self, run: Any, completion: Completion, fallback: bool) -> Effects[str]:
        facts = {"run_id": run.run_id, "candidate": run.candidate, "completion": completion, "fallback": fallback}
        yield from self._step("complete", **facts)
        return "the answer"

    def fail(self, run: Any, failure: Failure) -> Effects[Any]:
        return self._step("fail", run_id=run.run_id, candidate=run.candidate, failure=failure)

    def lost_answer(self) -> Effects[None]:
        return None
        yield

    def abandon(self, reason: str) -> Effects[Any]:
        return self._step("abandon", reason=reason)

    def _step(self, name: str, **facts: Any) -> Effects[Any]:
        self.steps.append(SimpleNamespace(name=name, **facts))
        return self.steps[-1]
        yield


class Performed:
    """The steps of an exchange, and its value. Pauses take their time, and each call takes `call_seconds`."""

    def __init__(
        self,
        policy: Policy,
        outcome_of: Callable[[Any, int], Any],
        clock: Time | None = None,
        health: Health | None = None,
        call_seconds: float = 0.0,
        pause_takes: Callable[[float], float] = lambda seconds: seconds,
    ) -> None:
        clock = clock or Time()
        runs = RunsOnPaper(outcome_of, clock, call_seconds)
        self.steps = runs.steps
        pace = Pace(policy, Random(7), clock, health)

        def wait(seconds: float) -> None:
            self.steps.append(SimpleNamespace(name="pause", seconds=seconds))
            clock.seconds += pause_takes(seconds)

        self.value = perform_effects(answered_by_a_backend(policy, pace, cast("Any", runs)), wait)

    @property
    def names(self) -> list[str]:
        return [step.name for step in self.steps]

    def only(self, name: str) -> list[Any]:
        return [step for step in self.steps if step.name == name]

    @property
    def asked(self) -> list[tuple[str, int]]:
        return [(step.candidate.backend, step.attempt) for step in self.only("start")]

    @property
    def called(self) -> list[str]:
        return [step.candidate.backend for step in self.only("call")]

    @property
    def waits(self) -> list[float]:
        return [step.seconds for step in self.only("pause")]


def perform(*outcomes: Completion | Failure, policy: Policy, **how: Any) -> Performed:
    """An exchange in which the runs end like this, one after the other; the last outcome is that of all further runs."""
    return Performed(policy, lambda _, run: outcomes[min(run, len(outcomes)) - 1], **how)


def policy(*candidates: Candidate, retries: int = 2, **more: Any) -> Policy:
    return Policy(candidates, retries, **more)


class TestAnswered:
    def test_the_first_backend_that_answers_ends_the_exchange(self):
        done = perform(ANSWER, policy=policy(ASSISTANTS, CHAT))
        assert done.names == ["start", "call", "complete"]
        assert done.value == "the answer"

    def test_the_answer_is_completed_under_the_run_that_gave_it(self):
        (completed,) = perform(SERVER_ERROR, ANSWER, policy=policy(ASSISTANTS)).only("complete")
        assert (completed.run_id, completed.completion, completed.candidate) == ("run-2", ANSWER, ASSISTANTS)

    def test_an_answer_of_the_first_backend_is_no_fallback_even_after_a_retry(self):
        (completed,) = perform(SERVER_ERROR, ANSWER, policy=policy(ASSISTANTS, CHAT)).only("complete")
        assert completed.fallback is False

    def test_an_answer_of_another_backend_is_a_fallback(self):
        (completed,) = perform(WRONG_KEY, ANSWER, policy=policy(ASSISTANTS, CHAT)).only("complete")
        assert (completed.fallback, completed.candidate) == (True, CHAT)


class TestRetries:
    def test_a_failure_that_may_pass_is_retried_on_the_same_backend(self):
        done = perform(SERVER_ERROR, ANSWER, policy=policy(ASSISTANTS, CHAT))
        assert done.names == [
            "start",
            "call",
            "fail",
            "pause",
            "start",
            "call",
            "complete",
        ]
        assert done.asked == [("assistants", 1), ("assistants", 2)]

    @pytest.mark.parametrize("retries", [0, 1, 2, 5])
    def test_a_backend_is_asked_once_and_then_retried_as_often_as_is_set(self, retries):
        done = perform(SERVER_ERROR, policy=policy(CHAT, retries=retries))
        assert done.asked == [("chat", attempt) for attempt in range(1, retries + 2)]
        assert len(done.waits) == retries

    def test_no_time_is_lost_waiting_before_the_next_backend(self):
        done = perform(SERVER_ERROR, policy=policy(ASSISTANTS, CHAT, retries=1))
        assert done.names == [
            "start",
            "call",
            "fail",
            "pause",
            "start",
            "call",
            "fail",
        ] * 2 + ["abandon"]

    @pytest.mark.parametrize(
        "failure",
        [
            SERVER_ERROR,
            rate_limited(None),
            THREAD_MISSING,
            Failure("error", http_status=400, code="conversation_locked"),
            Failure("timed_out"),
            Failure("error", details={"exception": "APIConnectionError"}),
            Failure("expired"),
            Failure("interrupted"),
        ],
        ids=lambda failure: failure.code or failure.status,
    )
    def test_what_may_pass_is_retried(self, failure):
        assert perform(failure, ANSWER, policy=policy(ASSISTANTS, CHAT)).asked[1] == ("assistants", 2)

    @pytest.mark.parametrize(
        "failure",
        [
            WRONG_KEY,
            Failure("error", http_status=429, code="insufficient_quota"),
            Failure("error", http_status=403),
            Failure("error", http_status=404, code="model_not_found"),
            Failure("error", http_status=404, details={"endpoint": "POST /threads"}),
            Failure("error", http_status=404, message="No assistant found with id 'asst_x'."),
            Failure("error", http_status=400, code="context_length_exceeded"),
            Failure("refused", code="instructions_too_long"),
            Failure("refused", code="tool_not_supported"),
            Failure("refused", code="empty_memory"),
            Failure("incomplete", details={"incomplete_reason": "content_filter"}),
            Failure("incomplete"),
            Failure("cancelled"),
            Failure("error", type="ValueError", message="a bug"),
        ],
        ids=lambda failure: f"{failure.status}-{failure.code or failure.http_status}",
    )
    def test_what_cannot_pass_goes_to_the_next_backend_at_once(self, failure):
        done = perform(failure, ANSWER, policy=policy(ASSISTANTS, CHAT))
        assert done.names == ["start", "call", "fail", "start", "call", "complete"]
        assert done.asked == [("assistants", 1), ("chat", 1)]

    @pytest.mark.parametrize("failure", [THREAD_MISSING, Failure("timed_out"), Failure("expired")])
    def test_what_seldom_passes_is_retried_less_often_than_the_policy_allows(self, failure):
        assert perform(failure, policy=policy(CHAT, retries=9)).asked == [("chat", 1), ("chat", 2)]
        assert RETRIES_BY_CAUSE[diagnose(failure)] == 1

    def test_failures_of_another_cause_do_not_use_up_a_causes_retries(self):
        done = perform(SERVER_ERROR, THREAD_MISSING, SERVER_ERROR, ANSWER, policy=policy(CHAT, retries=3))
        assert done.value == "the answer"

    def test_failures_of_several_causes_together_are_not_retried_more_often_than_the_policy_allows(self):
        done = perform(SERVER_ERROR, rate_limited(0.0), SERVER_ERROR, ANSWER, policy=policy(CHAT, retries=2))
        assert (done.asked, done.value) == ([("chat", 1), ("chat", 2), ("chat", 3)], None)

    def test_a_cause_is_never_retried_more_often_than_the_policy_allows(self):
        assert perform(THREAD_MISSING, policy=policy(CHAT, retries=0)).asked == [("chat", 1)]


class TestWaiting:
    @pytest.mark.parametrize("seconds", [0.0, 1.5, limits.RETRY_AFTER_MAX_SECONDS])
    def test_the_time_that_the_provider_asks_for_is_waited(self, seconds):
        assert perform(rate_limited(seconds), ANSWER, policy=policy(CHAT)).waits == [seconds]

    @pytest.mark.parametrize("seconds", [limits.RETRY_AFTER_MAX_SECONDS + 0.001, 86_400, float("inf"), float("nan")])
    def test_a_time_too_long_to_wait_goes_to_the_next_backend_at_once(self, seconds):
        done = perform(rate_limited(seconds), ANSWER, policy=policy(ASSISTANTS, CHAT))
        assert done.waits == []
        assert done.asked == [("assistants", 1), ("chat", 1)]

    @pytest.mark.parametrize(("seconds", "waits"), [(10.0, [10.0]), (10.001, [])])
    def test_with_another_backend_left_nobody_waits_long(self, seconds, waits):
        done = perform(rate_limited(seconds), ANSWER, policy=policy(ASSISTANTS, CHAT))
        assert done.waits == waits
        assert done.asked[1] == (("assistants", 2) if waits else ("chat", 1))

    def test_the_pauses_double_and_stay_below_the_maximum(self):
        waits = perform(SERVER_ERROR, policy=policy(CHAT, retries=8)).waits
        for number, seconds in enumerate(waits):
            ceiling = min(limits.BACKOFF_FIRST_SECONDS * 2**number, limits.BACKOFF_MAX_SECONDS)
            assert ceiling / 2 <= seconds <= ceiling

    def test_pauses_are_not_all_alike(self):
        waits = perform(SERVER_ERROR, policy=policy(CHAT, retries=12)).waits
        assert len(set(waits)) == len(waits)

    def test_a_lost_thread_is_made_anew_without_a_pause(self):
        assert perform(THREAD_MISSING, ANSWER, policy=policy(ASSISTANTS)).waits == [0.0]

    def test_nobody_can_wait_a_negative_time(self):
        assert all(seconds >= 0 for seconds in perform(rate_limited(-1.0), ANSWER, policy=policy(CHAT)).waits)


class TestFallback:
    def test_backends_are_asked_in_the_order_of_the_policy(self):
        done = perform(WRONG_KEY, policy=policy(RESPONSES, ASSISTANTS, CHAT))
        assert done.asked == [("responses", 1), ("assistants", 1), ("chat", 1)]

    def test_the_reason_says_which_failure_gave_the_backend_up(self):
        assert reason_of(WRONG_KEY).startswith("authentication: HTTP 401: invalid_api_key")

    def test_a_reason_is_bounded(self):
        chatty = Failure("error", http_status=401, message="x" * 2_000)
        assert len(reason_of(chatty)) == 500


class TestNobodyAnswers:
    def test_the_exchange_is_abandoned_with_the_last_failure(self):
        done = perform(WRONG_KEY, SERVER_ERROR, policy=policy(ASSISTANTS, CHAT, retries=0))
        assert done.names[-2:] == ["fail", "abandon"]
        assert done.steps[-1].reason == "provider_error: server_error: Sorry, something went wrong."
        assert done.value is None

    def test_without_backends_it_is_abandoned_at_once(self):
        done = perform(ANSWER, policy=policy())
        assert done.names == ["abandon"]
        assert done.steps[0].reason == "no backend is configured"


def refused_by(
    health: Health, backend: str, failure: Failure, clock: Time, times: int = limits.BREAKER_FAILURES
) -> None:
    for _ in range(times):
        health.saw(backend, failure, clock.now())


class TestDeadline:
    def test_an_attempt_has_the_policys_time_or_what_is_left_of_the_deadline(self):
        given = policy(CHAT, timeout_seconds=60, deadline_seconds=100)
        done = perform(Failure("timed_out"), policy=given, call_seconds=60)
        waited = sum(done.waits)
        assert [step.timeout_seconds for step in done.only("start")] == [60, 40 - waited]

    def test_a_pause_that_would_pass_the_deadline_goes_to_the_next_backend(self):
        given = policy(ASSISTANTS, CHAT, deadline_seconds=30)
        done = perform(rate_limited(20.0), ANSWER, policy=given, call_seconds=15)
        assert (done.waits, done.asked) == ([], [("assistants", 1), ("chat", 1)])

    def test_no_backend_is_asked_once_the_deadline_has_passed(self):
        given = policy(ASSISTANTS, RESPONSES, CHAT, deadline_seconds=30)
        done = perform(WRONG_KEY, policy=given, call_seconds=30)
        assert done.asked == [("assistants", 1)]
        assert done.steps[-1].reason.startswith(
            "too little time is left before the deadline of 30 seconds: authentication: HTTP 401"
        )

    def test_the_last_backend_is_not_retried_past_the_deadline_and_the_reason_says_so(self):
        done = perform(SERVER_ERROR, policy=policy(CHAT, retries=9, deadline_seconds=30), call_seconds=15)
        assert done.asked == [("chat", 1), ("chat", 2)]
        assert "deadline of 30 seconds: provider_error" in done.steps[-1].reason

    def test_a_deadline_that_cut_a_retry_short_is_not_the_reason_where_the_next_backend_failed_in_time(self):
        outcomes = [rate_limited(25.0), WRONG_KEY]
        done = perform(*outcomes, policy=policy(ASSISTANTS, CHAT, deadline_seconds=40), call_seconds=15)
        assert done.asked == [("assistants", 1), ("chat", 1)]
        assert "deadline" not in done.steps[-1].reason

    def test_a_pause_that_took_too_long_is_not_followed_by_an_attempt_without_time(self):
        done = perform(SERVER_ERROR, policy=policy(CHAT, deadline_seconds=30), pause_takes=lambda _: 29.5)
        assert done.names == ["start", "call", "fail", "pause", "abandon"]

    @pytest.mark.parametrize("seconds", [0.0, -1.0])
    def test_without_any_time_nobody_is_asked(self, seconds):
        done = perform(ANSWER, policy=policy(CHAT, deadline_seconds=seconds))
        assert (done.names, "deadline" in done.steps[0].reason) == (["abandon"], True)

    def test_a_deadline_shorter_than_the_shortest_attempt_still_asks_once(self):
        assert perform(ANSWER, policy=policy(CHAT, deadline_seconds=0.2)).value == "the answer"


class TestCoolingDown:
    def test_a_backend_that_cools_down_is_passed_over_by_a_run_that_nobody_was_called_for(self):
        clock = Time()
        health = Health(clock.now)
        refused_by(health, "assistants", SERVER_ERROR, clock)
        done = perform(ANSWER, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health)
        assert done.names == ["start", "fail", "start", "call", "complete"]
        refusal = done.only("fail")[0].failure
        assert (refusal.status, refusal.code, diagnose(refusal)) == ("refused", "provider_error", Cause.PROVIDER_ERROR)
        assert refusal.message == (
            "cooling down until 12:00:30 UTC after 5 failures in a row, the last one: "
            "server_error: Sorry, something went wrong."
        )
        assert refusal.details == {"cooling_until": "2026-11-22T12:00:30.000000Z", "failures_in_a_row": 5}
        assert reason_of(refusal) == f"provider_error: {refusal.message}"
        assert done.only("complete")[0].fallback is True

    def test_the_last_resort_is_always_asked(self):
        clock = Time()
        health = Health(clock.now)
        for backend in ("assistants", "chat"):
            refused_by(health, backend, SERVER_ERROR, clock)
        done = perform(WRONG_KEY, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health)
        assert done.called == ["assistants", "chat"]

    def test_a_later_backend_that_is_well_lets_all_before_it_be_passed_over(self):
        clock = Time()
        health = Health(clock.now)
        for backend in ("assistants", "responses"):
            refused_by(health, backend, WRONG_KEY, clock)
        done = perform(ANSWER, policy=policy(ASSISTANTS, RESPONSES, CHAT), clock=clock, health=health)
        assert (done.called, len(done.only("fail"))) == (["chat"], 2)

    def test_a_backend_is_asked_again_after_its_cooldown(self):
        clock = Time()
        health = Health(clock.now)
        refused_by(health, "assistants", SERVER_ERROR, clock)
        clock.seconds += limits.BREAKER_COOLDOWN_SECONDS
        done = perform(ANSWER, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health)
        assert done.called == ["assistants"]
        assert health.cooling("assistants", clock.now()) is None

    def test_while_one_exchange_probes_the_others_pass_over(self):
        clock = Time()
        health = Health(clock.now)
        refused_by(health, "assistants", SERVER_ERROR, clock)
        clock.seconds += limits.BREAKER_COOLDOWN_SECONDS
        others: list[list[str]] = []

        def outcome_of(candidate, _):
            if candidate is ASSISTANTS:
                others.append(perform(ANSWER, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health).called)
            return ANSWER

        Performed(policy(ASSISTANTS, CHAT), outcome_of, clock, health)
        assert others == [["chat"]]
        assert perform(ANSWER, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health).called == ["assistants"]

    def test_what_came_of_each_call_is_told(self):
        clock = Time()
        health = Health(clock.now)
        perform(SERVER_ERROR, policy=policy(CHAT, retries=limits.BREAKER_FAILURES - 1), clock=clock, health=health)
        cooling = health.cooling("chat", clock.now())
        assert cooling is not None
        assert cooling.failures_in_a_row == limits.BREAKER_FAILURES
        perform(ANSWER, policy=policy(CHAT), clock=clock, health=health)
        assert health.cooling("chat", clock.now()) is None

    def test_a_backend_that_begins_to_cool_down_is_not_retried_while_another_is_well(self):
        clock = Time()
        health = Health(clock.now)
        refused_by(health, "assistants", SERVER_ERROR, clock, limits.BREAKER_FAILURES - 1)
        done = perform(SERVER_ERROR, ANSWER, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health)
        assert (done.called, done.waits) == (["assistants", "chat"], [])

    def test_a_backend_that_was_passed_over_does_not_cool_down_for_longer(self):
        clock = Time()
        health = Health(clock.now)
        refused_by(health, "assistants", SERVER_ERROR, clock)
        before = health.cooling("assistants", clock.now())
        for _ in range(10):
            perform(ANSWER, policy=policy(ASSISTANTS, CHAT), clock=clock, health=health)
        assert health.cooling("assistants", clock.now()) == before

    def test_without_a_health_every_backend_is_asked_as_often_as_is_set(self):
        done = perform(SERVER_ERROR, policy=policy(ASSISTANTS, CHAT, retries=7))
        assert done.called == ["assistants"] * 8 + ["chat"] * 8


failures = st.sampled_from(
    [SERVER_ERROR, WRONG_KEY, THREAD_MISSING, rate_limited(None), rate_limited(0.0), rate_limited(1e6), Failure("?")]
) | st.builds(
    Failure,
    status=st.text(max_size=5) | st.sampled_from(["failed", "refused", "expired"]),
    code=st.none() | st.text(max_size=5),
    http_status=st.none() | st.integers(100, 599),
    message=st.none() | st.text(max_size=20),
    retry_after_seconds=st.none() | st.floats(0),
)
policies = st.builds(
    Policy,
    candidates=st.lists(st.sampled_from([ASSISTANTS, RESPONSES, CHAT]), unique=True, max_size=3).map(tuple),
    retries=st.integers(0, 3),
)


class TestAnyOutcomes:
    @for_all(policies, st.lists(failures | st.just(ANSWER), min_size=1, max_size=12))
    def test_an_exchange_ends_after_at_most_all_attempts_of_all_backends(self, given, outcomes):
        done = perform(*outcomes, policy=given)
        assert len(done.asked) <= len(given.candidates) * (given.retries + 1)
        assert done.names.count("complete") + done.names.count("abandon") == 1
        assert done.names[-1] in {"complete", "abandon"}

    @for_all(policies, st.lists(failures | st.just(ANSWER), min_size=1, max_size=12))
    def test_nothing_is_called_after_an_answer(self, given, outcomes):
        calls: list[Any] = []

        def outcome_of(_, run):
            assert ANSWER not in calls
            calls.append(outcomes[min(run, len(outcomes)) - 1])
            return calls[-1]

        done = Performed(given, outcome_of)
        assert (done.value is not None) == (ANSWER in calls)

    @for_all(policies, st.lists(failures | st.just(ANSWER), min_size=1, max_size=12))
    def test_every_run_is_started_called_and_ended_in_this_order(self, given, outcomes):
        names = [name for name in perform(*outcomes, policy=given).names if name != "pause"][:-1]
        names += ["fail"] * (len(names) % 3 == 2)
        assert names == ["start", "call", "fail"] * (len(names) // 3)

    @for_all(policies, st.lists(failures | st.just(ANSWER), min_size=1, max_size=12))
    def test_attempts_count_up_on_each_backend_and_backends_follow_the_policy(self, given, outcomes):
        asked = perform(*outcomes, policy=given).asked
        order = [candidate.backend for candidate in given.candidates]
        expected_order = sorted(asked, key=lambda each: (order.index(each[0]), each[1]))
        assert asked == expected_order
        assert len(set(asked)) == len(asked)
        assert [attempt for _, attempt in asked[:1]] in ([], [1])

    @for_all(policies, st.lists(failures, min_size=1, max_size=12))
    def test_no_pause_is_longer_than_the_longest_that_is_waited_for(self, given, outcomes):
        longest = max(limits.BACKOFF_MAX_SECONDS, limits.RETRY_AFTER_MAX_SECONDS)
        assert all(0 <= seconds <= longest for seconds in perform(*outcomes, policy=given).waits)

    @for_all(
        policies, st.lists(failures | st.just(ANSWER), min_size=1, max_size=12), st.floats(0, 40), st.floats(1, 90)
    )
    def test_no_attempt_and_no_pause_goes_past_the_deadline(self, given, outcomes, call_seconds, deadline):
        given, clock, health = replace(given, deadline_seconds=deadline), Time(), Health()

        def outcome_of(_, run):
            return outcomes[min(run, len(outcomes)) - 1]

        done = Performed(given, outcome_of, clock, health, call_seconds)
        assert all(0 < step.timeout_seconds <= deadline for step in done.only("start"))
        assert sum(done.waits) + call_seconds * (len(done.called) - 1) <= deadline
