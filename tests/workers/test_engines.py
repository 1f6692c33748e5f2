"""Test what every engine does for workers: each item once, one of a name at a time, later ones later, small shares first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from threadledger.adapters.sql import Deferral
from threadledger.adapters.workers import Engine, WorkItem
from threadledger.domain.ids import now

from .performing import WAIT_SECONDS, Performer, wait_until

OpenEngine = Callable[..., Engine]


def item(subject: str, **options: Any) -> WorkItem:
    return WorkItem("mirror", subject, **options)


def test_an_item_that_is_deferred_twice_before_it_runs_runs_once(open_engine: OpenEngine, performer: Performer) -> None:
    performer.holds = True
    engine = open_engine(concurrency=1)
    engine.defer([item("first")])
    performer.wait_until_running(1)
    engine.defer([item("k"), item("k")])
    engine.defer([item("k"), item("last")])
    performer.let_go()
    performer.wait_for(lambda: "mirror:last" in performer.done)
    assert performer.done == ["mirror:first", "mirror:k", "mirror:last"]


def test_an_item_that_is_deferred_while_it_runs_runs_again_and_never_next_to_itself(
    open_engine: OpenEngine, performer: Performer
) -> None:
    performer.holds = True
    engine = open_engine()
    engine.defer([item("k")])
    performer.wait_until_running(1)
    engine.defer([item("k"), item("other")])
    performer.wait_for(lambda: "mirror:other" in performer._running)
    assert performer._running.count("mirror:k") == 1
    performer.let_go()
    performer.wait_for(lambda: performer.done.count("mirror:k") == 2)
    assert performer.most_at_once["mirror:k"] == 1


def test_an_item_that_is_wanted_once_is_not_done_again_because_it_was_deferred_meanwhile(
    open_engine: OpenEngine, performer: Performer
) -> None:
    performer.holds = True
    engine = open_engine()
    engine.defer([item("k", once=True)])
    performer.wait_until_running(1)
    engine.defer([item("k", once=True), item("other")])
    performer.let_go()
    performer.wait_for(lambda: "mirror:other" in performer.done)
    engine.defer([item("last")])
    performer.wait_for(lambda: {"mirror:last", "mirror:k"} <= {*performer.done})
    assert performer.done.count("mirror:k") == 1


def test_an_item_that_is_due_later_waits_and_an_earlier_wish_wins(
    open_engine: OpenEngine, performer: Performer
) -> None:
    engine = open_engine()
    later = now() + timedelta(hours=1)
    engine.defer([item("never", due_at=later), item("k", due_at=later)])
    engine.defer([item("k", due_at=later + timedelta(hours=1))])
    assert engine.counts()["waiting"] == 2
    engine.defer([item("k")])
    performer.wait_for(lambda: performer.done == ["mirror:k"])


def test_an_item_says_itself_when_it_is_to_be_done_again(open_engine: OpenEngine, performer: Performer) -> None:
    performer.again_at = {"mirror:k": now()}
    engine = open_engine()
    engine.defer([item("k")])
    performer.wait_for(lambda: performer.done == ["mirror:k", "mirror:k"])


def test_work_of_both_lanes_goes_on_while_the_other_is_full(open_engine: OpenEngine, performer: Performer) -> None:
    performer.holds = True
    engine = open_engine(concurrency=1)
    engine.defer([WorkItem("job", f"j/{number}") for number in range(3)])
    performer.wait_until_running(1)
    engine.defer([item("k")])
    performer.wait_for(lambda: "mirror:k" in performer._running)


def test_who_has_much_work_does_not_keep_others_waiting(open_engine: OpenEngine, performer: Performer) -> None:
    performer.holds = True
    engine = open_engine(concurrency=1)
    engine.defer([item("first")])
    performer.wait_until_running(1)
    engine.defer([item(f"giant {number}", share="owner:giant") for number in range(50)])
    engine.defer([item("small", share="owner:small"), item("tiny", share="owner:tiny")])
    performer.let_go()
    performer.wait_for(lambda: len(performer.done) == 53)
    assert max(performer.done.index("mirror:small"), performer.done.index("mirror:tiny")) <= 4


def test_what_was_deferred_is_counted_and_leaves_room_for_less(open_engine: OpenEngine, performer: Performer) -> None:
    performer.holds = True
    engine = open_engine(concurrency=1)
    room = engine.room()
    engine.defer([item("first")])
    performer.wait_until_running(1)
    engine.defer([item("a"), item("b")])
    assert engine.counts() == {"waiting": 2, "running": 1}
    assert engine.room() == room - 2


def test_an_error_of_an_item_ends_that_item_alone(open_engine: OpenEngine) -> None:
    done: list[str] = []
    ended = threading.Event()

    def perform(each: WorkItem) -> None:
        if each.subject == "broken":
            raise RuntimeError("no")
        done.append(each.subject)
        if each.subject == "last":
            ended.set()

    engine = open_engine(perform, concurrency=1)
    engine.defer([item("broken"), item("k"), item("last")])
    assert ended.wait(WAIT_SECONDS)
    assert done == ["k", "last"]


def test_an_engine_that_stops_leaves_what_waits_to_the_others(
    open_engine: OpenEngine, performer: Performer, any_db_url: str
) -> None:
    if any_db_url.startswith("sqlite"):
        pytest.skip("what waits in one process is found again from the log")
    other = Performer()
    performer.holds = True
    stopping, staying = open_engine(concurrency=1), None
    stopping.defer([item(str(number)) for number in range(5)])
    performer.wait_until_running(1)
    performer.again_at = {performer.running[0]: now()}
    performer.let_go()
    stopping.stop(10)
    staying = open_engine(other)
    other.wait_for(lambda: len(performer.done) + len(other.done) >= 6)
    assert sorted({*performer.done, *other.done}) == [f"mirror:{number}" for number in range(5)]
    wait_until(lambda: staying.counts()["running"] <= 1)  # what has just ended is noted a moment later


def test_each_row_of_an_ended_worker_is_done_by_another_one(
    postgres_url: str, open_engine: OpenEngine, performer: Performer, any_db_url: str
) -> None:
    if any_db_url.startswith("sqlite"):
        pytest.skip("there is one process")
    engine = open_engine()
    deferral = Deferral(engine._database)  # type: ignore[attr-defined]
    schema = deferral.schema
    for subject in ("left", "left and deferred again"):  # as a killed worker leaves them
        row = f'{{"kind": "mirror", "subject": "{subject}", "share": ""}}'
        engine._database.execute(  # type: ignore[attr-defined]
            f"INSERT INTO {schema}.procrastinate_jobs (queue_name, task_name, status, lock, queueing_lock, args) "
            f"VALUES ('none', 'threadledger', 'doing', ?, ?, CAST(? AS jsonb))",
            (f"mirror:{subject}", f"mirror:{subject}", row),
        )
        engine._database.execute(  # type: ignore[attr-defined]
            f"UPDATE {schema}.procrastinate_jobs SET queue_name = 'conversations' WHERE queue_name = 'none'"
        )
    engine.defer([item("left and deferred again")])
    assert performer.done == []
    reaped: list[int] = []  # one of a database's engines at a time does it, and another test may
    wait_until(lambda: reaped.append(engine.reap()) or sum(reaped) == 2)  # type: ignore[func-returns-value]
    performer.wait_for(lambda: len(performer.done) == 2)
    assert sorted(performer.done) == ["mirror:left", "mirror:left and deferred again"]
