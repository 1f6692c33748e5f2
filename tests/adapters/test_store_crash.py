"""Kill writers (SIGKILL) at random moments, again and again: what was acknowledged is stored, and the log is whole.

`make soak` kills them 50 times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from .writing import Stored, Writers, assert_sound, open_at, said, writers

pytestmark = pytest.mark.crash

ROUNDS = 50 if "THREADLEDGER_SOAK" in os.environ else 6
NAMES = "abcd"
SEED = 20_240_229
ACKNOWLEDGED_BEFORE_THE_KILL_MAX = 60


@pytest.fixture(scope="module")
def writing() -> Iterator[Writers]:
    with writers() as started:
        yield started


def assert_kept(events: list[Stored], acknowledged: dict[str, list[str]]) -> None:
    """Of each writer: what was acknowledged, once, in its order; and at most the one commit more that was under way."""
    found = said(events)
    for writer, commits in acknowledged.items():
        stored = found.get(writer, [])
        assert stored[: len(commits)] == commits
        assert len(stored) <= len(commits) + 1
    assert found.keys() <= acknowledged.keys()


def test_four_writers_killed_at_random_moments_leave_a_whole_log_with_all_that_was_acknowledged(any_db_url, writing):
    rng = random.Random(SEED)
    acknowledged: dict[str, list[str]] = {}
    for number in range(ROUNDS):
        names = [f"{name}{number}" for name in NAMES]
        writing.start(any_db_url, names, seed=SEED)
        lines = writing.acknowledged(rng.randint(0, ACKNOWLEDGED_BEFORE_THE_KILL_MAX))
        lines += writing.kill()
        acknowledged |= {name: [] for name in names}
        for line in lines:
            acknowledged[line.split()[0]].append(line)
        open_at(any_db_url).close()  # in the first round, the writers may have been killed before there were tables
        assert_kept(assert_sound(any_db_url), acknowledged)
    with open_at(any_db_url) as ledger:
        assert list(ledger.check()) == []
        assert ledger.close_overdue_runs() == []
        assert not any(state.open_runs for state in ledger.conversations())
