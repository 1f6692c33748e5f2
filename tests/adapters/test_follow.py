"""Following the log: nothing is missed, nothing comes twice, all of it in the order of the commits, whoever writes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from threadledger.adapters.sql.recorder import Recorder
from threadledger.adapters.sql.subscription import LogPages
from threadledger.domain.errors import StoreUnavailable
from threadledger.domain.ledger import Ledger
from threadledger.domain.ledger.logged_events import LoggedEvent

from .writing import Writers, assert_sound, open_at, query, writers

LAST = "that was all"
"""What the followers of these tests wait for: a missing event fails a test, and does not hang it."""

WAITED_SECONDS_MAX = 30.0


@pytest.fixture
def opened() -> Iterator[Callable[..., Ledger]]:
    """Opens ledgers, and closes them after the test."""
    ledgers: list[Ledger] = []

    def open_one(url: str) -> Ledger:
        ledgers.append(open_at(url))
        return ledgers[-1]

    yield open_one
    for ledger in ledgers:
        ledger.close()


@pytest.fixture(scope="module")
def writing() -> Iterator[Writers]:
    with writers() as started:
        yield started


class Follower:
    """Takes the log in a thread of its own until `LAST` was said; `events` grows meanwhile."""

    def __init__(self, ledger: Ledger, **wanted: Any) -> None:
        self.events: list[LoggedEvent] = []
        self.ended: BaseException | None = None
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._follow, args=(ledger.events(follow=True, **wanted),), daemon=True)
        self._thread.start()

    def _follow(self, logged: Iterator[LoggedEvent]) -> None:
        try:
            for event in logged:
                with self._came:
                    self.events.append(event)
                    self._came.notify_all()
                if event.type == "MessageJournaled" and event.event.content == LAST:
                    return
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.ended = error

    def wait_for(self, count: int) -> None:
        """Until so many events have come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.events) >= count, WAITED_SECONDS_MAX), self.events

    def wait(self) -> list[LoggedEvent]:
        """Until it has ended; what it saw."""
        self._thread.join(WAITED_SECONDS_MAX)
        assert not self._thread.is_alive(), f"the follower saw {len(self.events)} events, and not the last one"
        return self.events


def positions(events: list[LoggedEvent]) -> list[int]:
    return [each.position for each in events]


def test_a_follower_beside_eight_writing_processes_misses_nothing_and_sees_each_event_once_in_order(
    any_db_url, opened, writing
):
    ledger = opened(any_db_url)
    followers = [
        Follower(ledger),
        Follower(opened(any_db_url)),
        Follower(ledger, types=["RunCompleted", "MessageJournaled"]),
    ]
    writing.start(any_db_url, [f"w{number}" for number in range(8)], commits=25)
    acknowledged = writing.wait()
    ledger.conversation("end").append("user", LAST)
    stored = assert_sound(any_db_url)
    assert len(acknowledged) == 200
    expected = [(each.position, each.topic) for each in stored]
    for follower in followers[:2]:
        assert [(each.position, each.type) for each in follower.wait()] == expected
    wanted = [each for each in expected if each[1] in {"RunCompleted", "MessageJournaled"}]
    assert [(each.position, each.type) for each in followers[2].wait()] == wanted


def test_a_follower_beside_eight_threads_of_its_own_process_misses_nothing(any_db_url, opened):
    ledger = opened(any_db_url)
    follower = Follower(ledger)

    def write(number: int) -> None:
        for index in range(15):
            ledger.conversation(f"k{number % 3}").append("user", f"{number} {index}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    ledger.conversation("end").append("user", LAST)
    seen = follower.wait()
    assert positions(seen) == [each.position for each in assert_sound(any_db_url)]
    said = [each.event.content for each in seen if each.type == "MessageJournaled"]
    assert sorted(said[:-1]) == sorted(f"{number} {index}" for number in range(8) for index in range(15))


def test_a_follower_begins_after_the_position_it_is_given(any_db_url, opened):
    ledger = opened(any_db_url)
    for index in range(5):
        ledger.conversation("k").append("user", str(index))
    follower = Follower(ledger, after=3)
    ledger.conversation("k").append("user", LAST)
    assert positions(follower.wait()) == [4, 5, 6, 7]


@pytest.mark.parametrize("types", [[], ["MessageJournaled", "MemoryCleared"]], ids=["of everything", "of some events"])
def test_a_follower_with_a_long_log_before_it_takes_it_page_by_page(any_db_url, opened, monkeypatch, types):
    monkeypatch.setattr("threadledger.adapters.sql.subscription.SUBSCRIPTION_PAGE_EVENTS", 7)
    ledger = opened(any_db_url)
    ledger.conversation("k").extend([{"role": "user", "content": str(index)} for index in range(100)])
    follower = Follower(ledger, types=types)
    ledger.conversation("k").append("user", LAST)
    assert positions(follower.wait()) == list(range(2 if types else 1, 103))


def test_a_follower_of_one_conversation_sees_its_events_alone(any_db_url, opened):
    ledger = opened(any_db_url)
    follower = Follower(ledger, key="b")
    for key in ("a", "b", "a"):
        ledger.conversation(key).append("user", "hello")
    ledger.conversation("b").append("user", LAST)
    assert [(each.position, each.key) for each in follower.wait()] == [(3, "b"), (4, "b"), (6, "b")]


def test_a_follower_of_rare_events_passes_the_others_for_good(any_db_url, opened, monkeypatch):
    ledger = opened(any_db_url)
    asked: list[tuple[int, int]] = []
    read = LogPages.read

    def counting(pages: LogPages, upto: int) -> Any:
        begin, found = pages.after, read(pages, upto)
        asked.append((begin, pages.after))
        return found

    monkeypatch.setattr(LogPages, "read", counting)
    follower = Follower(ledger, types=["ConversationStarted"])
    for index in range(40):
        ledger.conversation(f"k{index // 20}").append("user", str(index))
    follower.wait_for(2)
    for index in range(20):
        ledger.conversation("k0").append("user", str(index))
    ledger.conversation("k2").append("user", "the third to begin")
    follower.wait_for(3)
    assert positions(follower.events) == [1, 22, 63]
    assert asked[-1][0] >= 22
    assert all(begin == end for (_, end), (begin, _) in pairwise(asked))  # what was passed is not looked at again
    assert all(one[1] == following[0] for one, following in pairwise(asked)), asked


@pytest.mark.parametrize("written_by", ["its own process", "another process"])
def test_a_follower_whose_connections_are_killed_goes_on_without_gap_or_repetition(
    postgres_url, opened, writing, written_by
):
    named = f"follower of {make_url(postgres_url).query['options']}"
    followed = opened(f"{postgres_url}&application_name={quote(named)}")
    follower = Follower(followed)
    for number in range(5):
        if written_by == "another process":
            writing.start(postgres_url, [f"{number}"], commits=5)
            writing.wait()
        else:
            for index in range(5):
                followed.conversation("k").append("user", f"{number} {index}")
        follower.wait_for(query(postgres_url, "SELECT count(*) FROM events")[0][0])
        killed = query(
            postgres_url,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{named}'",
        )
        assert killed != []
    opened(postgres_url).conversation("end").append("user", LAST)
    assert positions(follower.wait()) == [each.position for each in assert_sound(postgres_url)]
    assert follower.ended is None


def test_a_follower_ends_when_it_is_stopped(any_db_url, opened):
    ledger = opened(any_db_url)
    ledger.conversation("k").append("user", "hello")
    recorder: Recorder = ledger.journal.recorder
    subscription = recorder.subscribe(0)
    seen: list[int] = []
    waiting = threading.Event()

    def follow() -> None:
        for notification in subscription:
            seen.append(notification.id)
            waiting.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert waiting.wait(WAITED_SECONDS_MAX)
    subscription.stop()
    thread.join(WAITED_SECONDS_MAX)
    assert not thread.is_alive()
    assert seen[:1] == [1]
    ledger.conversation("k").append("user", "nobody listens")
    assert list(subscription) == []


def test_a_follower_of_a_ledger_that_is_closed_is_told(any_db_url):
    ledger = open_at(any_db_url)
    ledger.conversation("k").append("user", "hello")
    follower = Follower(ledger)
    follower.wait_for(2)
    ledger.close()
    assert len(follower.wait()) == 2
    assert isinstance(follower.ended, StoreUnavailable)
    assert "closed by this program" in str(follower.ended)


def test_whoever_stops_iterating_leaves_no_follower_behind(any_db_url, opened):
    ledger = opened(any_db_url)
    ledger.conversation("k").append("user", "hello")
    logged = ledger.events(follow=True)
    assert [next(logged).position, next(logged).position] == [1, 2]
    assert len(ledger.journal.recorder._followers) == 1
    logged.close()
    assert ledger.journal.recorder._followers == set()
