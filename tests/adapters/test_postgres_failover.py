"""A primary dies: a synchronous standby lacks nothing, and what an asynchronous one lacks is noticed by every reader."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice

import pytest

from threadledger.cli import main
from threadledger.domain.conversation import FailureFilter
from threadledger.domain.errors import LogRewound
from threadledger.domain.ids import now
from threadledger.domain.ledger import follow_failures

from ..conftest import SOAK
from .postgres_pair import pair, wait_for
from .writing import assert_sound, open_at, said, writers

ROUNDS = 20 if SOAK else 1
WRITERS = 8
COMMITS = 200 if SOAK else 40
"""Commits of each writer in each round."""


def waiting_for_a_standby(servers, other_than=0):
    """Return the process ids of connections whose commit waits for a synchronous standby."""
    waiting = f"SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> {other_than}"
    return [pid for (pid,) in servers.primary.ask(waiting)]


def assert_an_interrupted_wait_for_the_standby_is_waited_for_again(servers, ledger, pool):
    """The row is stored and visible once the waiting connection is terminated, but no standby has it yet."""
    servers.primary.set("synchronous_standby_names", "missing")
    appended = pool.submit(ledger.conversation("waited for").append, "user", "w 0 x/x")
    wait_for(lambda: bool(waiting_for_a_standby(servers)))
    (waiting,) = waiting_for_a_standby(servers)
    servers.primary.ask(f"SELECT pg_terminate_backend({waiting})")
    wait_for(lambda: appended.done() or bool(waiting_for_a_standby(servers, waiting)))
    assert not appended.done()
    servers.primary.set("synchronous_standby_names", servers.standby.data.name)
    servers.primary.ask("SELECT pg_switch_wal()")  # a standby without news replies late
    appended.result()


def test_a_promoted_standby_has_everything_that_was_acknowledged_once_and_no_app_sees_an_error():
    acknowledged = []
    with pair() as servers, writers() as running, ThreadPoolExecutor(2) as pool, open_at(servers.url) as ledger:
        ledger.conversations()  # a view, which is behind when the server dies
        assert_an_interrupted_wait_for_the_standby_is_waited_for_again(servers, ledger, pool)
        claims = ledger.journal.job_claims
        for attempt in range(ROUNDS):
            if attempt:
                servers.add_standby()
            names = [f"r{attempt}w{number}" for number in range(WRITERS)]
            running.start(servers.url, names, commits=COMMITS, seed=attempt)
            acknowledged += running.acknowledged(WRITERS * COMMITS // 4)
            servers.primary.kill()
            claimed = pool.submit(claims.take, f"job {attempt}", [1, 2], claims.name(), now() + timedelta(minutes=1))
            opened = pool.submit(open_at, servers.url)  # there is no primary now
            servers.promote()
            with opened.result() as other:
                assert other.state("shared 0").messages > 0
            acknowledged += running.wait()  # fails if one of them ended with an error
            assert claimed.result().taken == [1, 2]
            assert len(ledger.conversations()) == 3 + WRITERS * (attempt + 1)
        stored = said(assert_sound(servers.primary.url))
    assert len(acknowledged) == ROUNDS * WRITERS * COMMITS
    assert stored.pop("w") == ["w 0 x"]
    assert sorted(commit for commits in stored.values() for commit in commits) == sorted(acknowledged)


def say(ledger, text, messages):
    ledger.conversation("k").extend({"role": "user", "content": f"{text} {number}"} for number in range(messages))


def fail(ledger, key):
    with pytest.raises(RuntimeError), ledger.conversation(key).run("own", "m"):
        raise RuntimeError(key)


def in_views(ledger):
    """What the three views show: messages by conversation, hits by word, failed runs."""
    hits = {word: len(ledger.journal.views.hits(word)) for word in ("kept", "lost", "new")}
    return {each.key: each.messages for each in ledger.conversations()}, hits, [each.key for each in ledger.failures()]


def ids(events):
    return [each.event.event_id for each in events]


def test_what_an_asynchronous_standby_lacks_is_noticed_by_each_reader_and_nothing_else_is_missed(capsys):
    with pair(synchronous=False) as servers, ExitStack() as opened:
        ledger = opened.enter_context(open_at(servers.url))
        fail(ledger, "a")
        say(ledger, "kept", 50)
        before, common = in_views(ledger), list(ledger.events())[-1]
        servers.part()
        say(ledger, "lost", 50)
        fail(ledger, "b")
        following, failures = ledger.events(follow=True), follow_failures(ledger.journal, FailureFilter())
        seen = list(islice(following, len(list(ledger.events()))))
        lost = seen[-1]
        assert {next(failures).key, next(failures).key} == {"a", "b"}
        assert in_views(ledger) == ({"k": 100, "a": 0, "b": 0}, {"kept": 50, "lost": 50, "new": 0}, ["a", "b"])
        standby = opened.enter_context(open_at(servers.standby.url, read_only=True))
        assert list(standby.events(after=lost.cursor)) == []  # it lags behind, as far as it knows
        followed = standby.events(after=common.cursor, follow=True)
        servers.primary.kill()
        servers.promote()
        assert in_views(ledger) == before
        for messages in (5, 95):  # the log is shorter than before, then longer
            say(ledger, "new", messages)
            for reader in (ledger, standby):
                with pytest.raises(LogRewound) as caught:
                    list(reader.events(after=lost.cursor))
                assert (caught.value.position, caught.value.common) == (lost.position, None)
        with pytest.raises(LogRewound) as caught:
            next(following)
        assert (caught.value.position, caught.value.common) == (lost.position, common.position)
        with pytest.raises(LogRewound):
            next(failures)
        assert main(["--db", servers.url, "events", "--after", lost.cursor]) == 4
        assert "the log was rewound" in capsys.readouterr().err
        stored = [each.event_id for each in assert_sound(servers.primary.url)]
        resumed = [ledger.events(after=common.position), ledger.events(after=common.cursor), islice(followed, 100)]
        assert [ids(seen[: common.position]) + ids(rest) for rest in resumed] == [stored] * 3
        assert in_views(ledger) == ({"k": 150, "a": 0}, {"kept": 50, "lost": 0, "new": 100}, ["a"])
        assert list(ledger.check()) == []
