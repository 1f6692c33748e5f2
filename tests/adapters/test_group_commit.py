"""Appends of many threads at once share commits, and each thread gets its result."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from threadledger.adapters.sql import group_commit
from threadledger.adapters.sql.group_commit import Group, Request
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.errors import ConversationBusy, RunNotOpen
from threadledger.domain.journal import Appending

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


# Heads that are kept for the next append


@pytest.fixture
def two_writers(open_any_store):
    """Two programs with one ledger, the first of which keeps the head of the conversation."""
    first, second = open_any_store(), open_any_store()
    for text in ("one", "two"):
        first.conversation("k").append("user", text)
    return first.conversation("k"), second.conversation("k")


def test_the_head_of_an_append_is_kept_and_not_read_by_the_next_one(open_any_store, monkeypatch):
    chat = open_any_store().conversation("k")
    for text in ("one", "two"):
        chat.append("user", text)
    reads = []
    heads = Group._heads
    monkeypatch.setattr(Group, "_heads", lambda *given: reads.append(given) or heads(*given))
    for text in ("three", "four"):
        chat.append("user", text)
    assert reads == []
    assert [each.message.text for each in chat.memory().messages] == ["one", "two", "three", "four"]


def test_what_another_program_appended_is_known_to_the_next_decision(two_writers, any_db_url):
    first, second = two_writers
    second.append("user", "three")
    assert first.append("user", "four").version == 5
    assert stored_texts(any_db_url) == ["one", "two", "three", "four"]
    assert_sound(any_db_url)


def test_a_run_that_another_program_started_or_ended_is_known_to_the_next_decision(two_writers):
    first, second = two_writers
    with second.run("chat", "m") as run:
        with pytest.raises(ConversationBusy), first.run("chat", "m"):
            pass
        run.complete("an answer")
    with first.run("chat", "m") as own:
        first.append("user", "meanwhile")
        assert second._journal.commit("k", lambda conversation: conversation.close_runs([own.run_id])) is None
        with first.run("chat", "m") as other:  # its kept head says that a run is open
            other.complete("another answer")
        with pytest.raises(RunNotOpen):
            own.complete("too late")


def test_a_decision_that_stores_nothing_is_made_on_the_newest_head(two_writers):
    first, second = two_writers
    second.append("user", "three")
    assert first._journal.commit("k", lambda conversation: conversation.version) == 4


def test_a_program_whose_group_was_overtaken_stores_it_in_one_commit(open_any_store, monkeypatch):
    first, second = open_any_store(), open_any_store()
    for ledger in (first, first, second):
        ledger.conversation("k").append("user", "hi")
    sizes = []
    store = Group._store
    monkeypatch.setattr(Group, "_store", lambda group, *given: sizes.append(len(given[1])) or store(group, *given))
    group = first.journal.recorder._database.group
    decided = [lambda heads: Appending() for _ in range(3)]
    requests = [Request(["conversation:k"], each) for each in decided]
    with group._turn:
        group._commit(requests)
    assert set(sizes) == {3}


def test_a_decision_that_fails_or_notes_something_behind_another_one_is_made_when_the_log_has_that(open_any_store):
    ledger = open_any_store()
    journal, group, noted = ledger.journal, ledger.journal.recorder._database.group, []
    ledger.conversation("k").append("user", "one")

    def plain(conversation):
        conversation.journal(Message(Role.USER, "two"))

    def counted(conversation):
        stored = len(journal.memory("k").messages)
        if stored < conversation.state.messages:
            raise ConversationBusy(f"the log has only {stored} messages")
        conversation.journal(Message(Role.USER, f"behind {stored}"))

    decisions = [(plain, None), (counted, None), (counted, lambda cursor: noted.append("noted"))]
    with ThreadPoolExecutor(3) as pool:
        with group._turn:
            asked = []
            for number, (decide, also) in enumerate(decisions, 1):
                asked.append(pool.submit(journal.commit, "k", decide, also=also))
                for _ in range(TRIES):
                    if len(group._waiting) == number:
                        break
                    threading.Event().wait(0.001)
        assert [each.exception() for each in asked] == [None, None, None]
    assert [each.message.text for each in journal.memory("k").messages] == ["one", "two", "behind 2", "behind 3"]
    assert noted == ["noted"]


def test_few_heads_are_kept(open_any_store, monkeypatch):
    monkeypatch.setattr(group_commit, "KEPT_HEADS_MAX", 2)
    ledger = open_any_store()
    for key in ("a", "b", "c"):
        for text in ("one", "two"):
            ledger.conversation(key).append("user", text)
    assert list(ledger.journal.recorder._database.group._kept) == ["conversation:b", "conversation:c"]
    assert ledger.conversation("a").append("user", "three").version == 4


def test_a_head_is_not_kept_beyond_an_append_that_failed(open_any_store, monkeypatch):
    ledger = open_any_store()
    chat = ledger.conversation("k")
    for text in ("one", "two"):
        chat.append("user", text)
    with pytest.raises(OSError):
        ledger.journal.commit("k", lambda conversation: conversation.clear_memory(), also=fails)
    assert chat.append("user", "three").version == 4
    assert [each.message.text for each in chat.memory().messages] == ["one", "two", "three"]


def fails(cursor):
    raise OSError
