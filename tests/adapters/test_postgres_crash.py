"""A server that is killed under load: nothing acknowledged is lost, and no follower is given an event that is then not there."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.errors import StoreUnavailable

from ..conftest import SOAK
from .postgres_pair import Node, pair, programs, user_of_servers, wait_for
from .writing import assert_sound, open_at, stored_texts

pytestmark = pytest.mark.crash

ROUNDS = 20 if SOAK else 2
WRITERS = 8
ACKNOWLEDGED_BEFORE_A_KILL = 150 if SOAK else 60


@contextmanager
def one_server() -> Iterator[Node]:
    """Provide a server whose write-ahead log reaches the disk with a commit, or 200 ms later."""
    found = programs()
    if found is None:
        pytest.skip("needs initdb: apt-get install postgresql")
    place, user = Path(tempfile.mkdtemp(prefix="threadledger-crash-")), user_of_servers()
    if user is not None:
        shutil.chown(place, user)
    node = Node(place / "node", found, user)
    try:
        node.run("initdb", "-D", str(node.data), "-A", "trust", "-U", "postgres", "--no-sync")
        node.start()
        yield node
    finally:
        node.kill()
        shutil.rmtree(place, ignore_errors=True)


class Load:
    """Writers and a follower, each in a thread of its own, and what they have been told."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[str] = []
        self.followed: list[tuple[int, str]] = []
        self._stop = threading.Event()
        self._ledgers, self._reader = [open_at(url), open_at(url)], open_at(url)
        self._pool = ThreadPoolExecutor(WRITERS + 1)
        self._running = [self._pool.submit(self._write, number) for number in range(WRITERS)]
        self._following = self._pool.submit(self._follow)

    def _write(self, writer: int) -> None:
        index = 0
        while not self._stop.is_set():
            text = f"{writer} {index}"
            try:
                self._ledgers[self._ledger_of(writer)].conversation(f"k{writer % 3}").append("user", text)
                self.acknowledged.append(text)
            except StoreUnavailable:  # stored, or not
                pass
            index += 1

    def _follow(self) -> None:
        with self._reader.journal.following() as events:
            for position, event, _ in events:
                self.followed.append((position, event.event_id))
                if self._stop.is_set():
                    return

    def work(self) -> None:
        """Wait until more was acknowledged, and followed."""
        count, seen = len(self.acknowledged), len(self.followed)
        wait_for(lambda: self._ended() or self._grew(count, seen))

    def end(self) -> None:
        """Stop; raise what one of the threads raised."""
        self._stop.set()
        for each in self._running:
            each.result()
        self._ledgers[0].conversation("last").append("user", "the follower wakes up")
        self._following.result(30)
        self._pool.shutdown()
        for each in (*self._ledgers, self._reader):
            each.close()

    def _ledger_of(self, writer: int) -> int:
        """One ledger appends alone from time to time, and next to another one otherwise."""
        return writer % 2 if len(self.acknowledged) // 20 % 2 else 0

    def _grew(self, count: int, seen: int) -> bool:
        return len(self.acknowledged) >= count + ACKNOWLEDGED_BEFORE_A_KILL and len(self.followed) > seen

    def _ended(self) -> bool:
        return any(each.done() for each in [*self._running, self._following])


def assert_nothing_is_lost(load: Load, url: str) -> None:
    stored = assert_sound(url)
    texts = Counter(stored_texts(url))
    assert set(texts.values()) == {1}
    assert set(load.acknowledged) <= texts.keys()
    assert set(load.followed) <= {(each.position, each.event_id) for each in stored}
    assert [position for position, _ in load.followed] == sorted({position for position, _ in load.followed})


def test_a_server_killed_under_load_loses_nothing_that_was_acknowledged_or_followed():
    with one_server() as node:
        open_at(node.url).close()
        load = Load(node.url)
        for _ in range(ROUNDS):
            load.work()
            node.kill()
            node.start()
        load.work()
        load.end()
        assert_nothing_is_lost(load, node.url)


def test_a_standby_that_is_promoted_under_load_has_all_that_was_acknowledged_or_followed():
    with pair() as servers:
        open_at(servers.url).close()
        load = Load(servers.url)
        for number in range(ROUNDS // 2):
            if number:
                servers.add_standby()
            load.work()
            servers.primary.kill()
            servers.promote()
        load.work()
        load.end()
        assert_nothing_is_lost(load, servers.primary.url)


def assert_an_append_holds_no_lock(url: str, servers: Any) -> None:
    """Two processes wait for the standby at the same time: the first does not hold the head of the log."""
    with open_at(url) as one, open_at(url) as other, ThreadPoolExecutor(3) as pool:
        servers.primary.set("synchronous_standby_names", "missing")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        appended = [
            pool.submit(ledger.conversation(key).append, "user", "x") for key, ledger in (("a", one), ("b", other))
        ]
        try:
            wait_for(lambda: servers.primary.ask(waiting) == [(2,)])
            assert not any(each.done() for each in appended)
            following = pool.submit(lambda: list(one.events()))
            wait_for(lambda: servers.primary.ask(waiting) == [(3,)])
        finally:
            servers.primary.set("synchronous_standby_names", servers.standby.data.name)
            servers.primary.ask("SELECT pg_switch_wal()")  # a standby without news replies late
        for each in appended:
            each.result()
        assert len(following.result()) == 4


def test_two_writers_wait_for_the_standby_at_the_same_time_and_a_reader_waits_with_them():
    with pair() as servers:
        open_at(servers.url).close()
        assert_an_append_holds_no_lock(servers.url, servers)
