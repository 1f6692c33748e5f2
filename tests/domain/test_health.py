"""The circuit breaker: when a backend cools down, for how long, and who is let in again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import limits
from threadledger.domain.failures import BACKEND_UNWELL, BackendEnd, BackendHealth, Cause, Failure, Health, diagnose
from threadledger.domain.failures.health import Cooling
from threadledger.domain.failures.recorded_health import cooling_after

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SERVER_ERROR = Failure("failed", code="server_error", message="Sorry, something went wrong.")
TOO_LONG = Failure("error", code="context_length_exceeded", http_status=400)
REFUSED = Failure("refused", code="provider_error", message="cooling down")
INTERRUPTED = Failure("interrupted")
BUSY = Failure("error", code="conversation_locked", http_status=400)
ENOUGH = limits.BREAKER_FAILURES


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def ends(*failures: Failure | None) -> list[BackendEnd]:
    """One end a second, the first at noon."""
    return [BackendEnd("chat", after(number), failure) for number, failure in enumerate(failures)]


def cooldown_of(*failures: Failure | None) -> float | None:
    """Seconds from the last failure on."""
    cooling = cooling_after(ends(*failures))
    return (cooling.until - cooling.since).total_seconds() if cooling else None


def rate_limited(seconds: float) -> Failure:
    return Failure("error", http_status=429, code="rate_limit_exceeded", retry_after_seconds=seconds)


class TestTheRule:
    def test_a_backend_cools_down_after_so_many_failures_in_a_row_and_not_before(self):
        assert cooldown_of() is None
        assert cooldown_of(*[SERVER_ERROR] * (ENOUGH - 1)) is None
        assert cooldown_of(*[SERVER_ERROR] * ENOUGH) == limits.BREAKER_COOLDOWN_SECONDS

    def test_the_cooldown_begins_with_the_last_failure_and_names_it(self):
        last = Failure("error", http_status=503)
        cooling = cooling_after(ends(*[SERVER_ERROR] * (ENOUGH - 1), last))
        assert cooling == Cooling(after(ENOUGH - 1), after(ENOUGH - 1 + 30), ENOUGH, last)

    def test_each_further_failure_doubles_it_up_to_the_maximum(self):
        found = [cooldown_of(*[SERVER_ERROR] * (ENOUGH + further)) for further in (0, 1, 2, 3, 4, 5, 5_000)]
        assert found == [30, 60, 120, 240, 300, 300, 300]

    @pytest.mark.parametrize("closing", [None, TOO_LONG, BUSY], ids=["an answer", "too long", "busy"])
    def test_an_answer_or_a_failure_for_the_questions_sake_ends_the_row(self, closing):
        assert cooldown_of(*[SERVER_ERROR] * 9, closing) is None
        assert cooldown_of(*[SERVER_ERROR] * 9, closing, *[SERVER_ERROR] * (ENOUGH - 1)) is None

    @pytest.mark.parametrize(
        "silent", [REFUSED, INTERRUPTED, Failure("cancelled"), Failure("refused", code="tool_not_supported")]
    )
    def test_what_was_never_sent_or_was_stopped_by_us_neither_counts_nor_ends_the_row(self, silent):
        assert cooling_after(ends(*[SERVER_ERROR] * (ENOUGH - 1), *[silent] * 9)) is None
        assert cooling_after(ends(*[SERVER_ERROR] * ENOUGH, *[silent] * 9)) == cooling_after(
            ends(*[SERVER_ERROR] * ENOUGH)
        )

    @pytest.mark.parametrize(
        ("seconds", "expected"), [(5.0, 30), (200.0, 200), (86_400.0, 3_600), (float("inf"), 3_600), (float("nan"), 30)]
    )
    def test_a_longer_time_that_the_provider_asks_for_counts_within_bounds(self, seconds, expected):
        assert cooldown_of(*[SERVER_ERROR] * (ENOUGH - 1), rate_limited(seconds)) == expected

    @for_all(st.lists(st.sampled_from([None, SERVER_ERROR, TOO_LONG, REFUSED, rate_limited(50)]), max_size=20))
    def test_what_counts_is_the_row_since_the_last_end_that_was_well(self, failures):
        row = 0
        for failure in failures:
            if failure is None or (failure.status != "refused" and diagnose(failure) not in BACKEND_UNWELL):
                row = 0
            elif failure.status != "refused":
                row += 1
        cooling = cooling_after(ends(*failures))
        assert (cooling.failures_in_a_row if cooling else 0) == (row if row >= ENOUGH else 0)


@pytest.fixture
def health() -> Health:
    return Health(lambda: NOON)


def fail(health: Health, times: int = ENOUGH, at: datetime = NOON, failure: Failure = SERVER_ERROR) -> None:
    for _ in range(times):
        health.saw("chat", failure, at)


class TestHealth:
    def test_a_backend_that_nobody_has_asked_is_well(self, health):
        assert health.cooling("chat", NOON) is None
        assert health.enter("chat", NOON) is None

    def test_what_one_backend_does_says_nothing_about_another(self, health):
        fail(health)
        assert health.cooling("responses", NOON) is None

    def test_it_cools_down_until_its_time_is_over(self, health):
        fail(health)
        for moment, cooling in ((0, True), (29.999, True), (30, False)):
            assert (health.cooling("chat", after(moment)) is not None) is cooling

    def test_after_the_cooldown_one_is_let_in_and_the_others_wait_for_what_comes_of_it(self, health):
        fail(health)
        assert health.enter("chat", after(30), 60) is None
        waiting = health.enter("chat", after(31), 60)
        assert waiting is not None
        assert (waiting.until, waiting.failures_in_a_row) == (after(90), ENOUGH)
        assert health.cooling("chat", after(31)) == waiting

    def test_looking_lets_nobody_in(self, health):
        fail(health)
        assert health.cooling("chat", after(30)) is None
        assert health.enter("chat", after(30)) is None

    def test_a_probe_that_fails_begins_a_longer_cooldown(self, health):
        fail(health)
        health.enter("chat", after(30), 60)
        fail(health, 1, after(40))
        assert health.cooling("chat", after(40)).until == after(40 + 60)

    @pytest.mark.parametrize("failure", [None, TOO_LONG])
    def test_a_probe_that_the_backend_answers_lets_everybody_in(self, health, failure):
        fail(health)
        health.enter("chat", after(30), 60)
        health.saw("chat", failure, after(40))
        assert [health.enter("chat", after(41)), health.enter("chat", after(41))] == [None, None]

    @pytest.mark.parametrize("failure", [REFUSED, INTERRUPTED])
    def test_a_probe_that_came_to_nothing_lets_the_next_one_probe(self, health, failure):
        fail(health)
        health.enter("chat", after(30), 60)
        health.saw("chat", failure, after(31))
        assert health.enter("chat", after(32), 60) is None
        assert health.enter("chat", after(32), 60) is not None

    def test_a_probe_that_never_ends_is_given_up_when_its_time_is_over(self, health):
        fail(health)
        health.enter("chat", after(30), 60)
        assert health.enter("chat", after(89.9), 60) is not None
        assert health.enter("chat", after(90), 60) is None

    def test_a_clock_that_was_set_back_does_not_prolong_a_cooldown(self, health):
        fail(health)
        assert health.cooling("chat", after(-3_600)) is None

    def test_the_text_of_an_answer_that_broke_off_is_not_kept(self, health):
        fail(health, failure=Failure("failed", code="server_error", partial_text="x" * 9_000))
        assert health.cooling("chat", NOON).last.partial_text is None

    def test_of_many_threads_one_probes(self, health):
        fail(health)
        threads = 16
        together = Barrier(threads)

        def enter(_: int) -> bool:
            together.wait()
            return health.enter("chat", after(30), 60) is None

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(enter, range(threads))) == 1

    def test_no_failure_is_lost_among_many_threads(self, health):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: fail(health, 50), range(8)))
        assert health.cooling("chat", NOON).failures_in_a_row == 400


class TestRefusal:
    def test_it_carries_the_cause_of_the_last_failure_and_says_until_when(self):
        cooling = cooling_after(ends(*[SERVER_ERROR] * (ENOUGH - 1), rate_limited(1)))
        refusal = cooling.refusal()
        assert (refusal.status, diagnose(refusal)) == ("refused", Cause.RATE_LIMITED)
        assert refusal.message.startswith("cooling down until 12:00:34 UTC after 5 failures in a row")

    @pytest.mark.parametrize("cause", sorted(BACKEND_UNWELL))
    def test_every_cause_that_counts_can_be_carried(self, cause):
        assert diagnose(Failure("refused", code=cause.value)) is cause

    def test_it_is_bounded(self):
        chatty = Failure("error", http_status=500, message="x" * 2_000)
        assert len(Cooling(NOON, NOON, ENOUGH, chatty).refusal().message) == limits.REASON_CHARS_MAX


class TestFromOutside:
    @pytest.mark.parametrize(
        ("failures", "at", "expected"),
        [
            ((), 0, (0, None, None, None)),
            ((None,), 1, (0, None, after(0), None)),
            ((SERVER_ERROR, None, SERVER_ERROR), 3, (1, "provider_error", after(2), None)),
            ((TOO_LONG,), 1, (0, "context_too_long", after(0), None)),
            ((SERVER_ERROR,) * 5, 5, (5, "provider_error", after(4), after(34))),
            ((SERVER_ERROR,) * 5, 34, (5, "provider_error", after(4), None)),
            ((SERVER_ERROR, REFUSED), 5, (1, "provider_error", after(0), None)),
        ],
    )
    def test_it_is_what_the_ends_come_to(self, failures, at, expected):
        told = BackendHealth.of("chat", ends(*failures), after(at))
        assert (told.failures_in_a_row, told.last_cause, told.last_at, told.cooling_until) == expected

    def test_it_is_told_in_json(self):
        assert BackendHealth.of("chat", ends(*[SERVER_ERROR] * 5), after(5)).as_json() == {
            "backend": "chat",
            "failures_in_a_row": 5,
            "last_cause": "provider_error",
            "last_at": "2026-11-22T12:00:04.000000Z",
            "cooling_until": "2026-11-22T12:00:34.000000Z",
        }

    @for_all(st.lists(st.sampled_from([None, SERVER_ERROR, TOO_LONG, REFUSED]), max_size=20))
    def test_it_is_what_a_process_that_met_all_of_them_would_do(self, failures):
        health = Health()
        for end in ends(*failures):
            health.saw(end.backend, end.failure, end.at)
        cooling = health.cooling("chat", after(20))
        assert BackendHealth.of("chat", ends(*failures), after(20)).cooling_until == (cooling and cooling.until)
