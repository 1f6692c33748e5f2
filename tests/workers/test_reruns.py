"""Test reruns by policy: which exchanges, when, how often, and within which limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.doctor.workers import check_workers
from threadledger.adapters.workers import WorkerOptions, open_worker, reruns
from threadledger.adapters.workers.reruns import RERUN_AGE_MAX, RerunPolicy, Reruns
from threadledger.domain.effects import perform
from threadledger.domain.errors import AllBackendsFailed, InvalidSettings
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger
from threadledger.domain.replay import ApplyOptions

from .performing import wait_until

Opened = Callable[..., tuple[Ledger, "Policy"]]
MINUTES = 5


class Policy:
    """Do the steps of the duty at times of one's choice, and the jobs that they hand over."""

    def __init__(self, ledger: Ledger, reruns: Reruns) -> None:
        self.ledger, self.reruns = ledger, reruns
        self.state: Any = reruns.step({})

    def step(self, after: timedelta = timedelta(minutes=MINUTES, seconds=30)) -> None:
        with freeze_time(now() + after, tick=True):
            self.state = self.reruns.step(self.state)
            job_id = self.state.get("job")
            job = self.ledger.replay.job(job_id) if job_id is not None else None
            if job is not None and job.left:
                perform(self.ledger.replay.plan_of(job.job_id).shared(ApplyOptions()), lambda _: None)


@pytest.fixture
def opened(any_db_url: str, simulator: Simulator) -> Iterator[Opened]:
    ledgers: list[Ledger] = []

    def open_one(**given: Any) -> tuple[Ledger, Policy]:
        common: dict[str, Any] = {"db": any_db_url, "openai_api_key": "sk-test", "threads": "none", "retries": 0}
        common |= {"openai_base_url": simulator.base_url, "backends": ("chat",), "rerun_unanswered": MINUTES}
        settings = load_settings(**common | given)
        ledgers.append(open_ledger(settings, wait=lambda _: None))
        policy = RerunPolicy.of(settings)
        assert policy is not None
        return ledgers[-1], Policy(ledgers[-1], Reruns(ledgers[-1], policy))

    yield open_one
    for each in ledgers:
        each.close()


def ask(ledger: Ledger, simulator: Simulator, *keys: str) -> None:
    """Ask a question that is not answered, because the provider refuses it."""
    simulator.add_fault("POST /chat/completions", refuse={"status": 500}, times=len(keys))
    for key in keys:
        with pytest.raises(AllBackendsFailed):
            ledger.conversation(key).ask("Where is my parcel?")


def unanswered(ledger: Ledger) -> list[str]:
    return [each.key for each in ledger.journal.views.unanswered()]


def calls(simulator: Simulator) -> int:
    return sum(each.template == "POST /chat/completions" for each in simulator.requests)


def test_an_unanswered_exchange_is_answered_when_its_time_has_come_and_not_before(
    opened: Opened, simulator: Simulator
) -> None:
    ledger, policy = opened()
    ask(ledger, simulator, "k")
    policy.step(timedelta(minutes=MINUTES - 1))
    assert unanswered(ledger) == ["k"]
    policy.step()
    assert unanswered(ledger) == [] and ledger.state("k").messages == 2
    policy.step(timedelta(hours=1))
    assert calls(simulator) == 2


def test_what_failed_before_the_policy_or_too_long_ago_is_left_to_a_person(
    opened: Opened, simulator: Simulator
) -> None:
    ledger, _ = opened()
    ask(ledger, simulator, "before")
    _, policy = opened()
    policy.step()
    ask(ledger, simulator, "old")
    policy.step(RERUN_AGE_MAX + timedelta(minutes=1))
    assert sorted(unanswered(ledger)) == ["before", "old"] and calls(simulator) == 2


def test_a_conversation_that_went_on_is_not_answered_late(opened: Opened, simulator: Simulator) -> None:
    ledger, policy = opened()
    ask(ledger, simulator, "k")
    ledger.conversation("k").ask("And my other parcel?")
    before = calls(simulator)
    policy.step()
    assert calls(simulator) == before


def test_an_exchange_that_fails_again_is_rerun_only_so_often(opened: Opened, simulator: Simulator) -> None:
    ledger, policy = opened()
    ask(ledger, simulator, "k")
    simulator.add_fault("POST /chat/completions", refuse={"status": 500}, times=None)
    for number in range(1, 6):
        policy.step(number * timedelta(minutes=MINUTES + 1))
    assert calls(simulator) == 1 + reruns.RERUNS_OF_EXCHANGE_MAX


def test_no_more_runs_are_made_on_a_day_than_allowed_and_the_rest_on_the_next(
    opened: Opened, simulator: Simulator
) -> None:
    with freeze_time("2026-12-01T10:00:00Z", tick=True):
        ledger, policy = opened(rerun_max_runs_per_day=3)
        ask(ledger, simulator, *(f"k{number}" for number in range(5)))
        for _ in range(3):
            policy.step()
        assert len(unanswered(ledger)) == 2
        with freeze_time("2026-12-01T10:06:00Z", tick=True):
            notes = ledger.journal.worker_notes
            notes.hold(reruns.RERUN_DUTY)
            notes.keep(reruns.RERUN_DUTY, policy.state)
            assert any("THREADLEDGER_RERUN_MAX_RUNS_PER_DAY" in str(each) for each in check_workers(ledger))
        policy.step(timedelta(hours=14, minutes=1))
        policy.step(timedelta(hours=14, minutes=2))
    assert unanswered(ledger) == [] and calls(simulator) == 10


def test_no_run_is_made_that_could_bring_the_cost_of_the_day_beyond_its_limit(
    opened: Opened, simulator: Simulator
) -> None:
    with freeze_time("2026-12-01T10:00:00Z", tick=True):
        ledger, policy = opened(
            rerun_max_cost_per_day=0.02, budget_output_tokens=1_000, openai_model="gpt-4o", retries=0
        )
        highest = ledger.services.cost("chat", "gpt-4o", 100, 1_000)
        assert highest is not None and 0.01 < highest < 0.02
        ask(ledger, simulator, "a", "b", "c")
        policy.step()
        assert len(unanswered(ledger)) == 2  # both together could cost too much
        policy.step()
        policy.step()
    assert unanswered(ledger) == []  # the first ones cost little in the end


def test_a_limit_below_the_runs_of_one_exchange_is_refused(opened: Opened) -> None:
    with pytest.raises(InvalidSettings, match="one exchange may take 6 runs"):
        opened(rerun_max_runs_per_day=5, retries=2, backends=("chat", "responses"))


def test_a_cost_that_cannot_be_known_is_refused(opened: Opened) -> None:
    with pytest.raises(InvalidSettings, match="no price is known for the model 'home-made'"):
        opened(rerun_max_cost_per_day=1.0, openai_model="home-made")


def test_a_worker_answers_by_itself_what_was_left_unanswered(
    any_db_url: str, simulator: Simulator, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.workers.worker.RERUN_SECONDS", 0.05)
    monkeypatch.setattr("threadledger.adapters.workers.duties.FOLLOW_SECONDS", 0.05)
    ledger, _ = opened()
    settings = load_settings(
        db=any_db_url,
        threads="none",
        openai_api_key="sk-test",
        openai_base_url=simulator.base_url,
        backends=("chat",),
        rerun_unanswered=MINUTES,
    )
    with open_ledger(settings) as own:
        worker = open_worker(own, settings, WorkerOptions(2, port=0))
        assert worker is not None
        monkeypatch.setattr(
            "threadledger.adapters.workers.reruns.now", lambda: now() + timedelta(minutes=MINUTES, seconds=1)
        )
        worker.start()
        try:
            wait_until(
                lambda: any(each.name == reruns.RERUN_DUTY and each.state for each in worker.work.notes.duties())
            )
            ask(ledger, simulator, "k")
            wait_until(lambda: unanswered(ledger) == [])
        finally:
            worker.stop()
    assert ledger.state("k").messages == 2
