"""A primary dies under eight writers and its synchronous standby is promoted: nothing is lost or doubled."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from threadledger.domain.ids import now

from ..conftest import SOAK
from .postgres_pair import pair
from .writing import assert_sound, open_at, said, writers

ROUNDS = 20 if SOAK else 1
WRITERS = 8
COMMITS = 200 if SOAK else 40
"""Commits of each writer in each round."""


def test_a_promoted_standby_has_everything_that_was_acknowledged_once_and_no_app_sees_an_error():
    acknowledged = []
    with pair() as servers, writers() as running, ThreadPoolExecutor(2) as pool, open_at(servers.url) as ledger:
        ledger.conversations()  # a view, which is behind when the server dies
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
            assert len(ledger.conversations()) == 2 + WRITERS * (attempt + 1)
        stored = said(assert_sound(servers.primary.url))
    assert len(acknowledged) == ROUNDS * WRITERS * COMMITS
    assert sorted(commit for commits in stored.values() for commit in commits) == sorted(acknowledged)
