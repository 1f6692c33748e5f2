"""Test the notes of workers on every database: duties that one worker has at a time, who is alive, and what failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from freezegun import freeze_time

from threadledger.adapters.sql import Database, Factory
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal
from threadledger.domain.journal.worker_notes import WorkerNotes
from threadledger.domain.limits import (
    CLAIM_SECONDS,
    WORK_ATTEMPTS_MAX,
    WORK_RETRY_FIRST_SECONDS,
    WORK_RETRY_MAX_SECONDS,
    WORKERS_GONE_SECONDS,
)

ELSEWHERE = "other-machine#0123456789ab/4711@1"
"""A process of another machine, of which only the time says whether it runs."""

HOLD_AND_DIE = """
import os, sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain.journal import Journal
notes = Journal(Factory(database=Database(sys.argv[1]))).worker_notes
assert notes.hold("follow") is not None and notes.keep("follow", {"cursor": "7"})
notes.seen({"concurrency": 3})
os.kill(os.getpid(), 9)
"""


class Process:
    """A database and its notes, as one process has them."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.journal = Journal(Factory(database=self.database))
        self.notes: WorkerNotes = self.journal.worker_notes


@pytest.fixture
def opened(any_db_url: str) -> Iterator[Callable[[], Process]]:
    made: list[Process] = []

    def open_one() -> Process:
        made.append(Process(any_db_url))
        return made[-1]

    yield open_one
    for each in made:
        each.journal.close()


@pytest.fixture
def one(opened: Callable[[], Process]) -> Process:
    return opened()


@pytest.fixture
def other(opened: Callable[[], Process], one: Process) -> Process:
    return opened()


def hold_elsewhere(process: Process, duty: str) -> None:
    """Let a process of another machine hold a duty as of now."""
    process.database.execute(
        "INSERT INTO duties (duty, holder, held_until, due_at, state) VALUES (?, ?, ?, NULL, ?)",
        (duty, f"{ELSEWHERE}/w", (now() + timedelta(seconds=CLAIM_SECONDS)).isoformat(), '{"cursor":"7"}'),
    )


def test_a_duty_is_held_by_one_worker_until_it_gives_it_up(one: Process, other: Process) -> None:
    assert one.notes.hold("follow") is not None
    assert one.notes.hold("follow") is not None
    assert other.notes.hold("follow") is None
    assert other.notes.hold("views") is not None
    assert one.notes.keep("follow", {"cursor": "7"})
    one.notes.release()
    taken = other.notes.hold("follow")
    assert taken is not None and taken.state == {"cursor": "7"}
    assert not one.notes.keep("follow", {"cursor": "8"})


def test_a_duty_of_a_killed_process_is_taken_at_once(one: Process, any_db_url: str) -> None:
    killed = subprocess.run([sys.executable, "-c", HOLD_AND_DIE, any_db_url], check=False)
    assert killed.returncode == -9
    taken = one.notes.hold("follow")
    assert taken is not None and taken.state == {"cursor": "7"}
    (row,) = one.notes.workers()
    assert not row.is_alive and row.facts == {"concurrency": 3}


def test_a_duty_of_a_machine_that_is_gone_is_taken_when_its_lease_is_over(one: Process) -> None:
    with freeze_time("2026-12-01T12:00:00Z", real_asyncio=True) as clock:
        hold_elsewhere(one, "follow")
        clock.tick(CLAIM_SECONDS - 1)
        assert one.notes.hold("follow") is None
        clock.tick(2)
        taken = one.notes.hold("follow")
    assert taken is not None and taken.state == {"cursor": "7"}


def test_duties_are_shown_with_who_holds_them(one: Process) -> None:
    one.notes.hold("follow")
    one.notes.keep("follow", {}, due_at=now())
    (duty,) = one.notes.duties()
    assert str(os.getpid()) in duty.held_by and duty.due_at is not None


def test_a_worker_is_alive_while_it_is_seen_and_forgotten_when_it_leaves(one: Process, other: Process) -> None:
    one.notes.seen({"concurrency": 2})
    other.notes.seen({"concurrency": 4})
    assert [row.is_alive for row in one.notes.workers()] == [True, True]
    one.notes.leave()
    assert [row.facts["concurrency"] for row in one.notes.workers()] == [4]
    with freeze_time(now() + timedelta(seconds=CLAIM_SECONDS + 1)):
        assert [row.is_alive for row in one.notes.workers()] == [False]
    with freeze_time(now() + timedelta(seconds=WORKERS_GONE_SECONDS + 1)):
        assert one.notes.workers() == []


def test_failed_work_is_due_again_after_growing_pauses_and_is_parked_in_the_end(one: Process) -> None:
    pauses = []
    with freeze_time("2026-12-01T12:00:00Z") as clock:
        for attempt in range(1, WORK_ATTEMPTS_MAX + 1):
            failed = one.notes.fail("mirror", "k", "the provider is away", most=WORK_ATTEMPTS_MAX)
            assert failed.attempts == attempt
            assert one.notes.due(10) == []
            if failed.next_at is not None:
                pauses.append((failed.next_at - now()).total_seconds())
                clock.move_to(failed.next_at)
                assert [each.subject for each in one.notes.due(10)] == ["k"]
        clock.tick(timedelta(days=365))
        assert one.notes.due(10) == []
    assert pauses[:3] == [WORK_RETRY_FIRST_SECONDS * factor for factor in (1, 2, 4)]
    assert pauses == sorted(pauses) and pauses[-1] == WORK_RETRY_MAX_SECONDS
    (parked,) = one.notes.failed(10)
    assert (parked.as_json()["state"], parked.reason) == ("parked", "the provider is away")
    assert one.notes.counts() == {"failed": 0, "parked": 1}


def test_failed_work_that_is_due_is_given_to_one_worker(one: Process, other: Process) -> None:
    with freeze_time("2026-12-01T12:00:00Z") as clock:
        one.notes.fail("mirror", "k", "no", most=3)
        clock.tick(WORK_RETRY_FIRST_SECONDS + 1)
        assert [each.subject for each in one.notes.due(10)] == ["k"]
        assert other.notes.due(10) == []
        clock.tick(CLAIM_SECONDS + 1)  # whoever had it was killed
        assert [each.subject for each in other.notes.due(10)] == ["k"]


def test_work_that_succeeds_or_is_retried_by_a_person_begins_to_count_anew(one: Process) -> None:
    for subject in ("a", "b", "c"):
        one.notes.fail("mirror", subject, "no", most=1)
    one.notes.fail("job", "j", "no", most=1)
    one.notes.succeed("mirror", "a")
    assert one.notes.retry("mirror", "b") == 1
    assert one.notes.retry("mirror") == 1
    assert sorted(each.subject for each in one.notes.due(10)) == ["b", "c"]
    assert one.notes.fail("mirror", "b", "no", most=2).attempts == 1
    assert one.notes.counts() == {"failed": 2, "parked": 1}
    assert [each.subject for each in one.notes.failed(10, parked=True)] == ["j"]


def test_the_reason_of_failed_work_holds_no_secret(one: Process) -> None:
    one.notes.fail("mirror", "k", "401 for Bearer sk-proj-abcdefghijklmnopqrstuvwxyz0123456789", most=3)
    assert "abcdefghij" not in one.notes.failed(1)[0].reason
