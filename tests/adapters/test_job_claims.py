"""Who is at which item of a job: `JobClaims` on every database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.claims import SqlJobClaims
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal

JOB = "job-1"
LATER = timedelta(minutes=2)


@pytest.fixture
def claims(any_db_url: str) -> Iterator[SqlJobClaims]:
    database = Database(any_db_url)
    journal = Journal(Factory(database=database))
    yield journal.job_claims
    journal.close()


def take(claims: SqlJobClaims, items: list[int], holder: str, until: timedelta = LATER) -> list[int]:
    return list(claims.take(JOB, items, holder, now() + until).taken)


def dead_holder(claims: SqlJobClaims) -> str:
    """The name of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    machine, _, own = claims.name().split("/")
    return f"{machine}/{process.pid}@1/{own}"


def test_an_item_that_somebody_holds_is_not_taken_by_others(claims):
    first, second = claims.name(), claims.name()
    assert take(claims, [0, 1, 2], first) == [0, 1, 2]
    assert take(claims, [1, 2, 3], second) == [3]
    assert sorted(claims.holders(JOB)) == sorted([first, second])


def test_an_item_of_one_job_says_nothing_about_another_job(claims):
    take(claims, [0], claims.name())
    assert claims.take("job-2", [0], claims.name(), now() + LATER).taken == [0]


def test_an_item_that_has_ended_is_taken_by_nobody_not_even_by_whoever_ended_it(claims):
    holder = claims.name()
    take(claims, [0, 1], holder)
    claims.end(JOB, [0], holder)
    assert take(claims, [0, 1], holder) == [1]
    assert take(claims, [0], claims.name()) == []


def test_only_its_holder_ends_an_item(claims):
    holder, other = claims.name(), claims.name()
    take(claims, [0], holder)
    claims.end(JOB, [0], other)
    claims.give_back(JOB, holder)
    assert take(claims, [0], other) == [0]


def test_what_is_given_back_may_be_taken(claims):
    holder = claims.name()
    take(claims, [0, 1], holder)
    claims.give_back(JOB, holder)
    assert not claims.holders(JOB)
    assert take(claims, [0, 1], claims.name()) == [0, 1]


def test_an_item_that_failed_may_be_taken_once_more_when_it_is_reopened(claims):
    holder = claims.name()
    take(claims, [0, 1], holder)
    claims.end(JOB, [0, 1], holder)
    claims.reopen(JOB, [1])
    assert take(claims, [0, 1], claims.name()) == [1]


def test_a_process_that_was_killed_holds_nothing(claims):
    take(claims, [0], dead_holder(claims))
    assert not claims.holders(JOB)
    assert take(claims, [0], claims.name()) == [0]


def test_a_process_of_another_machine_is_waited_for_until_its_time_is_over(claims):
    elsewhere = "another-machine/1/x"
    take(claims, [0], elsewhere)
    take(claims, [1], elsewhere, until=timedelta(seconds=-1))
    assert take(claims, [0, 1], claims.name()) == [1]


def test_whoever_gives_a_sign_of_life_holds_for_longer(claims):
    elsewhere = "another-machine/1/x"
    take(claims, [0], elsewhere, until=timedelta(seconds=-1))
    claims.renew(JOB, elsewhere, now() + LATER)
    assert take(claims, [0], claims.name()) == []


def test_taken_by_many_at_once_each_item_is_held_by_one(claims):
    names = [claims.name() for _ in range(6)]

    def take_all(name: str) -> list[int]:
        return [item for start in range(0, 60, 5) for item in take(claims, list(range(start, start + 5)), name)]

    with ThreadPoolExecutor(6) as pool:
        taken = [item for items in pool.map(take_all, names) for item in items]
    assert sorted(taken) == list(range(60))
