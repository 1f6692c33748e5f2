"""Test what all processes of a ledger share about their providers: limits of a minute, refusals, and backends that cool down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import threadledger
from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.doctor.ledger import check_backends_health
from threadledger.adapters.sql import Database, SqlBackendHealth, SqlProviderLimits
from threadledger.domain.conversation import events as e
from threadledger.domain.durations import RATE_LIMITS
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange.provider_limits import LimitBucket, SaidLimit, limits_said
from threadledger.domain.failures import Failure
from threadledger.domain.failures.shared_health import Cooling, SharedHealth
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger
from threadledger.domain.limits import BREAKER_FAILURES

Open = Callable[..., Ledger]
UNWELL = Failure("error", http_status=500, type="server_error", message="overloaded")


@pytest.fixture
def opened(any_db_url: str, simulator: Simulator) -> Iterator[Open]:
    """Yield a function that opens ledgers on one database, each as in a process of its own."""
    ledgers: list[Ledger] = []

    def open_one(**given: Any) -> Ledger:
        common: dict[str, Any] = {"db": any_db_url, "openai_api_key": "sk-test", "threads": "none", "retries": 0}
        common |= {"openai_base_url": simulator.base_url, "backends": ("chat",), "shared_limits": True}
        ledgers.append(open_ledger(load_settings(**common | given), wait=lambda _: None))
        return ledgers[-1]

    yield open_one
    for each in ledgers:
        each.close()


def calls(simulator: Simulator) -> int:
    return sum(each.template == "POST /chat/completions" for each in simulator.requests)


def failure(ledger: Ledger, key: str) -> e.RunFailed:
    *_, last = (each for each in ledger.journal.history(key) if isinstance(each, e.RunFailed))
    return last


@given(
    per_minute=st.integers(1, 10_000),
    start=st.floats(0, 1),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3)), max_size=60),
)
def test_callers_that_wait_for_their_turn_are_never_refused(
    per_minute: int, start: float, steps: list[tuple[float, float]]
) -> None:
    ours = LimitBucket(per_minute, per_minute * start, 0.0)
    arrivals, now = [], 0.0
    for pause, way in steps:  # each caller asks some time after the one before, and its request takes some time
        now += pause
        arrivals.append(now + ours.seconds_until(1.0, now) + way)
        ours = ours.taken(1.0, now)
    provider = LimitBucket(per_minute, per_minute * start, 0.0)
    for arrival in sorted(arrivals):
        assert provider.seconds_until(1.0, arrival) < 1e-6
        provider = provider.taken(1.0, arrival)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 60))
def test_an_answer_never_lets_more_go_than_the_provider_says(known: float, said: float, later: float) -> None:
    heard = SaidLimit(100.0, said).applied(LimitBucket(100.0, known, 0.0), later)
    assert heard.available <= said and heard.available <= LimitBucket(100.0, known, 0.0).refilled(later).available


def test_a_limit_of_a_day_is_not_taken_for_one_of_a_minute() -> None:
    def headers(limit: int, left: int, reset: str) -> dict[str, str]:
        return {
            f"x-ratelimit-{n}-requests": str(v) for n, v in (("limit", limit), ("remaining", left), ("reset", reset))
        }

    assert limits_said(headers(60, 59, "1s"))["requests"] == SaidLimit(60.0, 59.0)
    assert limits_said(headers(60, 60, "0ms"))["requests"] == SaidLimit(60.0, 60.0)
    assert limits_said(headers(200, 199, "7m12s"))["requests"].per_minute == pytest.approx(200 / 1_440)
    for wrong in (
        {},
        headers(0, 0, "1s"),
        headers(5, 9, "1s"),
        {**headers(5, 4, "x"), "x-ratelimit-limit-requests": "a"},
    ):
        assert limits_said(wrong) == {}


def test_what_one_process_hears_of_a_limit_holds_for_all(opened: Open, simulator: Simulator) -> None:
    simulator.limit_rates(requests_per_minute=60, tokens_per_minute=100_000)
    first, second = opened(), opened()
    first.conversation("a").ask("Hello.")
    limits = SqlProviderLimits(second.journal.factory.database)  # type: ignore[attr-defined]
    known = {quantity: bucket for *_, quantity, bucket in limits.known()}
    assert known.keys() == set(RATE_LIMITS) and known["requests"].per_minute == 60
    before = known["requests"].available
    second.conversation("b").ask("Hello.")
    ((endpoint, model, _, after),) = [each for each in limits.known() if each[2] == "requests"]
    assert after.available < before and endpoint.startswith(simulator.base_url) and model == "gpt-5.5"
    assert "sk-test" not in endpoint
    shown = [each.message for each in check_backends_health(second)]
    assert any(f"{simulator.base_url} (gpt-5.5), shared by all processes: 58 of 60 requests" in each for each in shown)


def test_a_refusal_that_one_process_gets_keeps_the_others_from_calling(opened: Open, simulator: Simulator) -> None:
    first, second, alone = opened(), opened(), opened(shared_limits=False)
    first.conversation("a").ask("Hello.")
    refused = {"status": 429, "headers": {"retry-after": "45"}}
    simulator.add_fault("POST /chat/completions", refuse=refused, times=1)
    with pytest.raises(AllBackendsFailed):
        first.conversation("a").ask("Are you there?")
    sent = calls(simulator)
    with pytest.raises(AllBackendsFailed) as caught:
        second.conversation("b").ask("Hello.")
    assert calls(simulator) == sent
    found = failure(second, "b")
    assert (found.status, found.code) == ("refused", "rate_limit_exceeded")
    assert found.retry_after_seconds is not None and 30 < found.retry_after_seconds <= 45
    assert "rate_limited" in str(caught.value) and "all processes share" in str(found.message)
    assert alone.conversation("c").ask("Hello.").text


def test_an_asynchronous_app_keeps_the_limits_too(any_db_url: str, opened: Open, simulator: Simulator) -> None:
    opened().conversation("a").ask("Hello.")
    simulator.add_fault("POST /chat/completions", refuse={"status": 429, "headers": {"retry-after": "45"}}, times=1)

    async def ask(key: str) -> None:
        async with threadledger.open_async(
            any_db_url,
            threads="none",
            openai_api_key="sk-test",
            openai_base_url=simulator.base_url,
            backends=("chat",),
            shared_limits=True,
            retries=0,
        ) as ledger:
            await ledger.conversation(key).ask("Hello.")

    for key in ("b", "c"):
        with pytest.raises(AllBackendsFailed):
            asyncio.run(ask(key))
    assert calls(simulator) == 2 and failure(opened(), "c").status == "refused"


def test_calls_go_as_if_nothing_were_shared_while_the_notes_cannot_be_used(opened: Open) -> None:
    ledger = opened()
    database: Database = ledger.journal.factory.database  # type: ignore[attr-defined]
    for table in ("provider_limits", "backend_health"):
        database.execute(f"ALTER TABLE {table} RENAME TO away_{table}")
    assert ledger.conversation("k").ask("Hello.").text
    for table in ("provider_limits", "backend_health"):
        database.execute(f"ALTER TABLE away_{table} RENAME TO {table}")


def test_a_backend_that_cools_down_for_one_process_is_skipped_by_all(opened: Open, simulator: Simulator) -> None:
    first, second = opened(), opened(backends=("chat", "responses"))
    simulator.add_fault("POST /chat/completions", refuse={"status": 500}, times=None)
    for number in range(BREAKER_FAILURES):
        with pytest.raises(AllBackendsFailed):
            first.conversation(f"k{number}").ask("Hello.")
    answer = second.conversation("k").ask("Hello.")
    assert answer.fallback and calls(simulator) == BREAKER_FAILURES
    assert failure(second, "k").status == "refused"


def test_one_process_alone_probes_a_backend_and_its_answer_counts_for_all(any_db_url: str) -> None:
    with open_ledger(load_settings(db=any_db_url, threads="none")) as ledger:
        shared = SqlBackendHealth(ledger.journal.factory.database)  # type: ignore[attr-defined]
        clock = [0.0]
        one, other, third = (SharedHealth(shared, clock=lambda: clock[0]) for _ in range(3))
        at = now()
        for _ in range(BREAKER_FAILURES):
            one.saw("chat", UNWELL, at)
        cooling = other.enter("chat", at)
        assert isinstance(cooling, Cooling) and cooling.last.type == "server_error"
        later = cooling.until + timedelta(seconds=1)
        clock[0] += 5
        assert one.enter("chat", later, 10) is None
        assert other.enter("chat", later, 10) is not None and third.cooling("chat", later) is not None
        one.saw("chat", UNWELL, later)  # the probe failed: it cools for longer
        clock[0] += 5
        longer = other.cooling("chat", later + timedelta(seconds=11))
        assert longer is not None and longer.until - longer.since > cooling.until - cooling.since
        much_later = longer.until + timedelta(seconds=1)
        clock[0] += 5
        assert third.enter("chat", much_later, 10) is None
        third.saw("chat", None, much_later)
        clock[0] += 5
        assert [each.enter("chat", much_later) for each in (other, third)] == [None, None]
        assert shared.cooling() == {}


def test_limits_are_shared_by_processes_that_stay_on_postgresql_unless_a_setting_says_otherwise(
    any_db_url: str, simulator: Simulator
) -> None:
    def shares(stays: bool, given: bool | None) -> bool:
        settings = load_settings(
            db=any_db_url, openai_api_key="sk-test", openai_base_url=simulator.base_url, shared_limits=given
        )
        with open_ledger(settings, stays=stays) as ledger:
            return isinstance(ledger.services.health, SharedHealth)

    is_server = any_db_url.startswith("postgres")
    assert [shares(True, None), shares(False, None)] == [is_server, False]
    assert [shares(False, True), shares(True, False)] == [True, False]
