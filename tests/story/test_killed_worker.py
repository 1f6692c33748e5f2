"""Kill one of two processes at a job at random moments: the other one ends the job, and nothing is done twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger
from threadledger.domain.replay import Plan
from threadledger.domain.replay.jobs import Jobs
from threadledger.domain.threads import ThreadState

from .working import AT_FIRST_CALL, Worker

pytestmark = pytest.mark.crash

SEED = 14
DRAWS = 30 if "THREADLEDGER_SOAK" in os.environ else 1
"""Number of random moments for each kind of job."""

KEYS = [f"k{number}" for number in range(4)]


class Stage:
    """Prepare jobs on one database and simulator, and let two processes work on them."""

    def __init__(self, simulator: Simulator, workers: tuple[Worker, Worker]) -> None:
        self.simulator = simulator
        self.killed, self.survivor = workers
        self.settings: dict[str, Any] = {}

    def opened(self, **settings: Any) -> Ledger:
        return open_ledger(load_settings(**self.settings | settings), wait=lambda _: None)

    def job(self, plan: Plan[Any]) -> str:
        """Store a plan as a job without doing any of it."""
        plan.apply(stop=lambda: True)
        assert plan.job is not None
        return plan.job.job_id

    def work(self, job: str, hangs_at: int) -> list[dict[str, Any]]:
        """Let two processes work on a job, of which one hangs and is killed once the other one waits for it.

        Return the items that the survivor did.
        """
        self.killed.start(self.settings, job, hangs_at)
        has_ended = "items" in self.killed.next()
        self.survivor.start(self.settings, job)
        reported = self.survivor.next()
        if has_ended:
            assert self.killed.next() == {"status": 0}
        else:
            self.killed.kill()
        if "waiting" in reported:
            assert not has_ended
            reported = self.survivor.next()
        assert self.survivor.next() == {"status": 0}
        items: list[dict[str, Any]] = reported["items"]
        return items


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Worker, Worker]]:
    both = (Worker(), Worker())
    yield both
    for worker in both:
        worker.close()


@pytest.fixture(scope="module")
def provider() -> Iterator[Simulator]:
    with Simulator(seed=7, poll_after_ms=0) as simulator:
        yield simulator


@pytest.fixture
def stage(provider: Simulator, workers: tuple[Worker, Worker], db_url: str) -> Stage:
    provider.reset()
    stage = Stage(provider, workers)
    stage.settings = {"db": db_url, "threads": "conversations", "retries": 0}
    stage.settings |= {"openai_base_url": provider.base_url, "openai_api_key": "sk-test"}
    return stage


def rebuild(stage: Stage) -> str:
    with stage.opened(threads="none") as ledger:
        for key in KEYS:
            ledger.conversation(key).extend([{"role": "user", "content": f"{key} {number}"} for number in range(3)])
    with stage.opened() as ledger:
        return stage.job(ledger.replay.plan_rebuild())


def reconcile(stage: Stage) -> str:
    with stage.opened() as ledger:
        for key in KEYS:
            ledger.conversation(key).append("user", "Where is it?")
    with stage.opened(openai_api_key=None) as ledger:  # the threads fall behind
        for key in KEYS:
            ledger.conversation(key).append("user", "And the other one?")
    with stage.opened() as ledger:
        return stage.job(ledger.replay.plan_reconcile())


def rerun(stage: Stage) -> str:
    backend = stage.settings["backends"][0]
    stage.simulator.add_fault(MODEL_CALLS[backend], refuse={"status": 400}, times=len(KEYS))
    with stage.opened() as ledger:
        for key in KEYS:
            with pytest.raises(AllBackendsFailed):
                ledger.conversation(key).ask("Where is it?")
        return stage.job(ledger.replay.plan_rerun(failed=True))


MODEL_CALLS = {"responses": "POST /responses", "chat": "POST /chat/completions"}
KINDS: dict[str, tuple[Callable[[Stage], str], str, int]] = {
    "rebuild": (rebuild, "responses", 72),
    "reconcile": (reconcile, "responses", 136),
    "rerun": (rerun, "responses", 188),
    "rerun without threads": (rerun, "chat", 132),
}
"""For each kind of job: how it is made, the backend, and the number of moments before and after effects of one process alone."""


@pytest.mark.parametrize("kind", KINDS if DRAWS > 1 else ("rebuild", "rerun"))
@pytest.mark.parametrize("draw", range(DRAWS))
def test_the_survivor_of_two_processes_at_a_job_ends_it_and_nothing_is_done_twice(
    stage: Stage, kind: str, draw: int
) -> None:
    prepare, backend, moments = KINDS[kind]
    stage.settings["backends"] = [backend]
    job_id = prepare(stage)
    hangs_at = 1 + Random(f"{SEED} {kind} {draw}").randrange(moments)
    print(f"{kind}: killed at {hangs_at}")
    survived = stage.work(job_id, hangs_at)
    with stage.opened() as ledger:
        job = ledger.replay.job(job_id)
        assert (job.state, job.left, job.failed) == ("done", 0, 0)
        results = list(Jobs(ledger.journal).results(job_id))
        assert Counter(result["item"] for result in results) == Counter(range(len(KEYS)))
        assert len(survived) <= len(KEYS)
        if prepare is rerun:
            check_reruns(stage, ledger, backend, results)
        else:
            assert [found.found.state for found in ledger.replay.verify()] == [ThreadState.SAME] * len(KEYS)
            assert list(ledger.check()) == []


def check_reruns(stage: Stage, ledger: Ledger, backend: str, results: list[dict[str, Any]]) -> None:
    """Check that each exchange was paid for and answered at most once; an unknown outcome is skipped, not repeated."""
    made = [each for each in stage.simulator.requests if each.template == MODEL_CALLS[backend] and each.status == 200]
    assert len(made) <= len(KEYS)
    answers = {key: [m.message.text for m in ledger.memory(key).messages][1:] for key in KEYS}
    without = [key for key, texts in answers.items() if texts != ["You said: Where is it?"]]
    assert len(without) <= 1
    assert all(answers[key] == [] for key in without)
    skipped = {item["key"]: item["reason"] for item in results if item["state"] == "skipped"}
    assert len(skipped) <= 1
    assert all("may already have answered" in skipped.pop(key) for key in without)
    assert all("already answered by run" in reason for reason in skipped.values())  # not recorded by the killed worker


def test_a_run_that_another_rerun_may_still_be_making_is_left_open(stage: Stage) -> None:
    stage.settings["backends"] = ["chat"]
    job_id = rerun(stage)
    stage.killed.start(stage.settings, job_id, AT_FIRST_CALL)
    assert "reached" in stage.killed.next()
    stage.killed.kill()
    with stage.opened() as ledger:
        (open_run,) = ledger.state(KEYS[0]).open_runs
        other = ledger.replay.plan_rerun(failed=True, include=["answered"], into="shadow")
        claims, name = ledger.journal.job_claims, ledger.journal.job_claims.name()
        claims.take(stage.job(other), [0], name, now() + timedelta(minutes=1))
        items = ledger.replay.resume(job_id).items
        assert items[0].reason == "a run is open: wait for its end"
        assert [item.state for item in items[1:]] == ["answered"] * (len(KEYS) - 1)
        assert list(ledger.state(KEYS[0]).open_runs) == [open_run]
        claims.give_back(other.job.job_id, name)
