"""Appends of many threads at once share commits, and each thread gets its result."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from threadledger.adapters.sql.group_commit import Group, Request

from .writing import assert_sound, stored_texts

THREADS = 16
APPENDS = 10
GROUP_MIN = 6

TRIES = 100
"""Looks at the queue, a millisecond apart, before a commit does not wait any longer."""


class Crowd:
    """Threads that append at once. Each commit waits until all that do not append in it are in the queue."""

    def __init__(self):
        self.sizes = []
        self.running = THREADS
        self._commit = Group._commit

    def commit(self, group, requests):
        for _ in range(TRIES):
            if len(group._waiting) + len(requests) >= self.running:
                break
            threading.Event().wait(0.001)
        self.sizes.append(len(requests))
        return self._commit(group, requests)

    def append(self, ledger, key=None):
        def append(number):
            for index in range(APPENDS):
                ledger.conversation(key or f"k{number}").append("user", f"{number} {index}")
            self.running -= 1

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(append, range(THREADS)))


@pytest.fixture
def crowd(monkeypatch):
    found = Crowd()

    def commit(group, requests):
        return found.commit(group, requests)

    monkeypatch.setattr(Group, "_commit", commit)
    return found


@pytest.mark.parametrize("key", [None, "shared"], ids=["conversations of their own", "one conversation"])
def test_threads_that_append_again_and_again_share_their_commits(any_db_url, open_store_on, crowd, key):
    crowd.append(open_store_on(any_db_url), key)
    assert sum(crowd.sizes) >= THREADS * APPENDS
    assert len(crowd.sizes) * GROUP_MIN <= THREADS * APPENDS
    said = stored_texts(any_db_url)
    for number in range(THREADS):
        assert [text for text in said if text.startswith(f"{number} ")] == [f"{number} {i}" for i in range(APPENDS)]
    assert_sound(any_db_url)


def test_a_thread_that_is_never_woken_asks_for_the_lead_by_itself(db_url, open_store_on, crowd, monkeypatch):
    monkeypatch.setattr(Request, "wake", lambda self: None)
    monkeypatch.setattr("threadledger.adapters.sql.group_commit.SLEEP_SECONDS_MAX", 0.001)
    crowd.append(open_store_on(db_url))
    assert len(stored_texts(db_url)) == THREADS * APPENDS


def test_nothing_sleeps_where_one_thread_appends(db_url, open_store_on, monkeypatch):
    monkeypatch.setattr(Group, "_sleep", lambda self, own: pytest.fail("it slept"))
    ledger = open_store_on(db_url)
    for _ in range(3):
        ledger.conversation("k").append("user", "alone")
    assert stored_texts(db_url) == ["alone"] * 3
