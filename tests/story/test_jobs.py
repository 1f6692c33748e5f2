"""Test bulk jobs: they are recorded before they start, run by one or several processes, and resumed where they stopped."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import pytest
from freezegun import freeze_time

import threadledger
from threadledger.adapters.sql import Database
from threadledger.domain.effects import AsyncDriver, Call, work
from threadledger.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from threadledger.domain.ids import now
from threadledger.domain.ledger import AsyncLedger
from threadledger.domain.limits import CLAIM_SECONDS, JOB_LOOK_SECONDS
from threadledger.domain.replay import ApplyKeywords, Plan
from threadledger.domain.replay.jobs import Jobs
from threadledger.domain.replay.plan import ApplyOptions, CallRate


@dataclass(frozen=True)
class Task:
    key: str
    state: str = "done"
    reason: str = ""

    def as_json(self):
        return {"key": self.key, "state": self.state, "reason": self.reason}


class Errand(Plan[Task]):
    """Represent a plan whose steps do nothing; `outcomes` has the states of steps that do not end as done."""

    kind = "errand"

    def __init__(self, ledger, keys=(), outcomes=None, during=lambda key: None):
        super().__init__(Jobs(ledger.journal), ledger.services.wait)
        self.keys, self.outcomes, self.during = keys, outcomes or {}, during
        self.done: list[str] = []

    def planned(self):
        return (Task(key, "planned") for key in self.keys)

    def options(self):
        return {"errand": "milk"}

    def pins(self):
        return ({"key": key, "version": 1} for key in self.keys)

    def step(self, pin):
        yield from work(lambda: self.during(pin["key"]))
        self.done.append(pin["key"])
        return Task(pin["key"], self.outcomes.get(pin["key"], "done"))

    def again(self, ledger):
        """Return the same plan as another process would load it."""
        errand = Errand(ledger, outcomes={})
        errand.job = Jobs(ledger.journal).get(self.job.job_id)
        return errand


KEYS = [f"k{number:03}" for number in range(50)]


@pytest.fixture
def ledger(any_db_url):
    with threadledger.open(any_db_url, openai_api_key=None) as opened:
        yield opened


@pytest.fixture
def errand(ledger):
    return Errand(ledger, KEYS)


def job_of(ledger, plan):
    return ledger.replay.job(plan.job.job_id)


def test_a_plan_is_written_down_as_a_job_and_every_item_with_what_became_of_it(ledger, errand):
    assert [item.key for item in errand.apply()] == KEYS
    (job,) = ledger.replay.jobs()
    assert (job.kind, job.state, job.items, job.done, job.left) == ("errand", "done", 50, 50, 0)
    assert job.options == {"errand": "milk"}
    assert [result["key"] for result in ledger.replay.results(job.job_id)] == KEYS


def test_the_plan_stands_in_the_log_before_anything_is_done(ledger):
    seen = []
    errand = Errand(
        ledger, ["a"], during=lambda key: seen.extend(ledger.events(types=["JobItemsPlanned", "JobStarted"]))
    )
    errand.apply()
    assert [event.type for event in seen] == ["JobItemsPlanned", "JobStarted"]


def test_a_plan_of_nothing_is_no_failure_and_no_job(ledger):
    assert Errand(ledger).apply() == []
    assert ledger.replay.jobs() == []


def test_a_plan_that_was_broken_off_while_it_was_written_down_is_no_job(ledger):
    def pins():
        yield from ({"key": key, "version": 1} for key in KEYS * 30)
        raise StoreUnavailable("the disk is full")

    with pytest.raises(StoreUnavailable):
        Jobs(ledger.journal).start("errand", {}, pins())
    assert ledger.replay.jobs() == []


def test_progress_hears_of_each_item_as_it_ends(errand):
    heard = []
    errand.apply(progress=lambda item: heard.append(item.key))
    assert heard == KEYS


def test_one_that_fails_does_not_stop_the_others_and_is_counted(ledger):
    errand = Errand(ledger, KEYS, {"k007": "failed", "k008": "skipped"})
    states = Counter(item.state for item in errand.apply())
    assert states == {"done": 48, "failed": 1, "skipped": 1}
    job = job_of(ledger, errand)
    assert (job.done, job.failed, job.skipped, job.state) == (48, 1, 1, "done")


def test_resume_tries_what_failed_again_and_counts_it_once(ledger):
    errand = Errand(ledger, KEYS, {"k007": "failed"})
    errand.apply()
    again = errand.again(ledger)
    assert [item.key for item in again.apply()] == ["k007"]
    job = job_of(ledger, errand)
    assert (job.done, job.failed) == (50, 0)


def test_a_job_that_was_told_to_stop_ends_the_step_in_hand_and_goes_on_later(ledger, errand):
    asked = count()
    errand.apply(stop=lambda: next(asked) > 20)
    assert 0 < len(errand.done) < 50
    assert job_of(ledger, errand).state == "stopped"
    again = errand.again(ledger)
    again.resume()
    assert errand.done + again.done == KEYS
    assert job_of(ledger, errand).state == "done"


def test_a_limit_stops_a_job_and_the_item_it_stopped_is_not_recorded(ledger):
    errand = Errand(ledger, KEYS, {"k030": "planned"})
    errand.apply()
    assert errand.stopped_by_limit
    assert job_of(ledger, errand).left == 20
    again = errand.again(ledger)
    again.apply()
    assert again.done == KEYS[30:]


def test_a_plan_that_was_never_applied_cannot_be_resumed(errand):
    with pytest.raises(Conflict, match="never applied"):
        errand.resume()


def test_a_job_that_was_cancelled_is_not_gone_on_with(ledger, errand):
    asked = count()
    errand.apply(stop=lambda: next(asked) > 5)
    assert ledger.replay.cancel(errand.job.job_id).state == "cancelled"
    with pytest.raises(Conflict, match="cancelled"):
        errand.again(ledger).apply()


def test_whoever_is_at_a_job_that_is_cancelled_ends_what_it_holds_and_takes_no_more(ledger):
    errand = Errand(
        ledger, KEYS, during=lambda key: key == "k000" and ledger.replay.cancel(ledger.replay.jobs()[0].job_id)
    )
    errand.apply()
    assert 0 < len(errand.done) < 50
    assert job_of(ledger, errand).state == "cancelled"


def test_a_job_that_is_done_cannot_be_cancelled(ledger, errand):
    errand.apply()
    with pytest.raises(Conflict, match="nothing to cancel"):
        ledger.replay.cancel(errand.job.job_id)


def test_a_job_is_found_by_the_ending_of_its_id(ledger, errand):
    errand.apply()
    assert ledger.replay.job(errand.job.job_id[-8:]).job_id == errand.job.job_id
    with pytest.raises(NotFound, match="no job"):
        ledger.replay.job("nowhere-1")


@pytest.mark.parametrize("workers", [2, 8])
def test_several_workers_do_each_item_once(ledger, errand, workers):
    assert {item.key for item in errand.apply(concurrency=workers)} == set(KEYS)
    assert Counter(errand.done) == Counter(KEYS)
    assert job_of(ledger, errand).done == 50


def test_two_processes_at_one_job_never_do_the_same_item(any_db_url, ledger, errand):
    asked = count()
    errand.apply(stop=lambda: next(asked) > 5)
    with threadledger.open(any_db_url, openai_api_key=None) as other:
        both = [errand.again(ledger), errand.again(other)]
        threads = [threading.Thread(target=plan.apply, kwargs={"concurrency": 3}) for plan in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Counter(errand.done + both[0].done + both[1].done) == Counter(KEYS)
    assert job_of(ledger, errand).done == 50


def sizes(ledger):
    """The number of items in each block that was recorded, in order."""
    return [len(event.event.items) for event in ledger.events(types=["JobItemsEnded"])]


def test_blocks_are_a_share_of_what_is_left_and_the_last_ones_are_single_items(ledger, errand):
    errand.apply()
    assert sizes(ledger) == [20, 15, 7, 4, 2, 1, 1]


def test_the_workers_of_all_processes_share_what_is_left(ledger):
    errand = Errand(ledger, KEYS[:16])
    errand.apply(stop=lambda: True)
    claims, others = ledger.journal.job_claims, [ledger.journal.job_claims.name() for _ in range(3)]
    for number, name in enumerate(others):
        taken(claims, errand, [12 + number], name)
    again = errand.again(ledger)
    again._wait = lambda seconds: [claims.give_back(errand.job.job_id, name) for name in others]
    again.apply()
    assert sizes(ledger)[0] == 2  # 16 items, four workers
    assert sizes(ledger)[-4:] == [1, 1, 1, 1]
    assert sorted(again.done) == KEYS[:16]


def taken(claims, errand, items, name):
    """Claim items of a job for another worker."""
    found = claims.take(errand.job.job_id, items, name, now() + timedelta(minutes=10))
    assert list(found.taken) == items


def ended_by(ledger, errand, number):
    """Record the outcome of an item, as another worker would."""
    outcome = {"item": number, "key": KEYS[number], "state": "done"}
    Jobs(ledger.journal).end_items(errand.job.job_id, [outcome])


@pytest.mark.parametrize("way", ["blocking", "awaited"])
def test_a_worker_waits_for_the_items_of_others_and_does_those_that_are_left(any_db_url, ledger, errand, way):
    errand.apply(stop=lambda: True)
    claims = ledger.journal.job_claims
    taken(claims, errand, [3, 4], other := claims.name())
    again, waited = errand.again(ledger), []

    def wait(seconds):
        if not waited:
            ended_by(ledger, errand, 3)
            claims.end(errand.job.job_id, [3], other)
            claims.give_back(errand.job.job_id, other)
        waited.append(seconds)

    async def pause(seconds):
        wait(seconds)

    again._wait = wait
    if way == "blocking":
        again.apply()
    else:
        with ThreadPoolExecutor(2) as pool:
            asyncio.run(again.apply_async(AsyncDriver(pool, pause)))
    assert waited
    assert set(waited) == {JOB_LOOK_SECONDS}
    assert set(again.done) == {*KEYS} - {"k003"}
    assert again.done[-1] == "k004"
    assert (again.job.state, again.job.done) == ("done", 50)


def test_a_worker_that_waits_for_others_stops_when_it_is_told_to(ledger, errand):
    errand.apply(stop=lambda: True)
    taken(ledger.journal.job_claims, errand, [3], ledger.journal.job_claims.name())
    again, waited = errand.again(ledger), []
    again._wait = waited.append
    again.apply(stop=lambda: len(waited) > 2)
    assert len(again.done) == 49
    assert job_of(ledger, errand).state == "running"


def test_an_item_that_a_killed_worker_had_recorded_is_not_done_or_counted_again(ledger, errand):
    errand.apply(stop=lambda: True)
    claims = ledger.journal.job_claims
    machine, _, own = claims.name().split("/")
    taken(claims, errand, [0, 1], f"{machine}/{os.getpid()}@1/{own}")  # a process that is no more
    ended_by(ledger, errand, 0)
    again = errand.again(ledger)
    again.apply()
    assert again.done == KEYS[1:]
    assert job_of(ledger, errand).done == 50


def test_a_worker_that_lost_its_claims_records_nothing(ledger, any_db_url):
    database = Database(any_db_url)

    def during(key):
        if (
            key == "k007" and "k007" not in errand.done
        ):  # this process was stopped for minutes: its time is over, and another one has the item
            database.execute("UPDATE job_items SET holder = 'other', held_until = '2999' WHERE item = 7")

    errand = Errand(ledger, KEYS, during=during)
    errand._wait = lambda seconds: database.execute("UPDATE job_items SET held_until = '2000' WHERE item = 7")
    errand.apply()
    database.close()
    assert Counter(errand.done) == Counter([*KEYS, "k007"])
    assert [result["key"] for result in Jobs(ledger.journal).results(errand.job.job_id)].count("k007") == 1
    assert job_of(ledger, errand).done == 50


def test_a_worker_that_was_stopped_does_nothing_that_others_have_or_have_done_meanwhile(ledger, any_db_url):
    database = Database(any_db_url)

    def during(key):
        if key == "k002" and len(errand.done) == 2:
            clock.tick(CLAIM_SECONDS + 1)
            database.execute("UPDATE job_items SET holder = 'other', held_until = '2999' WHERE item BETWEEN 3 AND 5")
            for number in range(6, 10):
                ended_by(ledger, errand, number)
                database.execute("UPDATE job_items SET ended = 1 WHERE item = ?", (number,))

    errand = Errand(ledger, KEYS, during=during)
    errand._wait = lambda seconds: database.execute("UPDATE job_items SET held_until = '2000' WHERE item < 6")
    with freeze_time("2026-11-29 12:00:00", auto_tick_seconds=0.01, ignore=["eventsourcing.persistence"]) as clock:
        errand.apply()
    database.close()
    assert errand.done == [*KEYS[:3], *KEYS[10:], *KEYS[3:6]]
    assert job_of(ledger, errand).done == 50


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_of_one_worker_ends_the_job_and_is_raised_and_what_was_done_is_recorded(ledger, workers):
    def during(key):
        if key == "k031":
            raise StoreUnavailable("the database went away")

    errand = Errand(ledger, KEYS, during=during)
    with pytest.raises(StoreUnavailable):
        errand.apply(concurrency=workers)
    job = job_of(ledger, errand)
    assert job.state == "stopped"
    assert job.done == len(errand.done)
    again = errand.again(ledger)
    again.apply()
    assert Counter(errand.done + again.done) == Counter(KEYS)


def test_whoever_stops_listening_ends_the_job_and_what_was_done_is_recorded(ledger, errand):
    items = errand.each()
    for _ in range(7):
        next(items)
    items.close()
    job = job_of(ledger, errand)
    assert (job.state, job.done) == ("stopped", len(errand.done))


@pytest.mark.parametrize(
    ("workers", "rate", "told"), [(0, None, "0 workers"), (65, None, "65 workers"), (1, 0, "a rate of 0")]
)
def test_a_concurrency_or_rate_that_means_nothing_is_refused_and_no_job_begins(ledger, errand, workers, rate, told):
    with pytest.raises(InvalidInput, match=told):
        errand.apply(concurrency=workers, rps=rate)
    assert ledger.replay.jobs() == []


def test_limits_of_money_are_refused_by_what_costs_none(ledger, errand):
    with pytest.raises(InvalidInput, match="omit them for a errand"):
        errand.apply(max_runs=1)
    assert ledger.replay.jobs() == []


def test_each_option_of_applying_a_plan_is_a_keyword_of_apply():
    assert ApplyKeywords.__annotations__.keys() == ApplyOptions.__dataclass_fields__.keys()


def test_with_a_rate_every_request_takes_a_place_in_the_line():
    at = [100.0]
    rate = CallRate(4, lambda: at[0])
    assert [rate.wait() for _ in range(4)] == [0.0, 0.25, 0.5, 0.75]
    at[0] = 101.5
    assert rate.wait() == 0.0


def test_a_rate_holds_up_the_requests_of_all_workers(ledger):
    waited = []

    class Caller(Errand):
        def step(self, pin):
            yield Call(lambda: None, None)
            return Task(pin["key"])

    caller = Caller(ledger, KEYS[:10])
    caller._wait = waited.append
    caller.apply(rps=100)
    assert len(waited) >= 8


@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_is_awaited(any_db_url, workers):
    async def story():
        async with AsyncLedger(threadledger.open(any_db_url, openai_api_key=None)) as ours:
            errand = Errand(ours.ledger, KEYS, {"k007": "failed"})
            asked = count()
            await errand.apply_async(ours.driver, concurrency=workers, stop=lambda: next(asked) > 20)
            first = list(errand.done)
            assert 0 < len(first) < 50
            errand.outcomes = {}
            await errand.apply_async(ours.driver, concurrency=workers)
            return errand, ours.ledger.replay.job(errand.job.job_id)

    errand, job = asyncio.run(story())
    assert (job.done, job.failed, job.state) == (50, 0, "done")
    assert set(errand.done) == set(KEYS)


def test_an_awaited_job_that_is_cancelled_as_a_task_records_what_was_done(any_db_url):
    async def story():
        async with AsyncLedger(threadledger.open(any_db_url, openai_api_key=None)) as ours:
            task = None

            def during(key):
                if key == "k025":
                    loop.call_soon_threadsafe(task.cancel)

            loop = asyncio.get_running_loop()
            errand = Errand(ours.ledger, KEYS, during=during)
            task = asyncio.create_task(errand.apply_async(ours.driver))
            with pytest.raises(asyncio.CancelledError):
                await task
            job = ours.ledger.replay.job(errand.job.job_id)
            again = errand.again(ours.ledger)
            again.apply()
            return errand, again, job

    errand, again, job = asyncio.run(story())
    assert job.state == "stopped"
    assert set(errand.done) | set(again.done) == set(KEYS)
    assert ledger_done(again) == 50


def ledger_done(plan):
    return plan.job.done


def test_the_log_of_jobs_disturbs_no_view_and_no_check(ledger, errand):
    ledger.conversation("real").append("user", "hello")
    errand.apply()
    assert [state.key for state in ledger.conversations()] == ["real"]
    assert ledger.status()["conversations"] == 1
    assert list(ledger.check()) == []
