"""The storm: processes ask and append in the same conversations under faults, and are killed (SIGKILL) again and again.

What was acknowledged is in the log once and in order, and after one reconcile every thread equals the journal. `make soak` takes
40 rounds on each database.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain import ids
from threadledger.domain.ledger import Ledger
from threadledger.domain.limits import ORPHAN_SECONDS_MIN
from threadledger.domain.threads import ThreadState

from ..adapters.writing import Stored, Writers, assert_sound, writers
from .storming import ROUND_SECONDS, ledger_of, shifted

pytestmark = pytest.mark.crash

ROUNDS = 40 if "THREADLEDGER_SOAK" in os.environ else 2
NAMES = "abcd"
SEED = 20_261_129
ACKNOWLEDGED_BEFORE_THE_KILL_MAX = 40
FAULTS = (
    ("POST /responses", {"lose_answer": True}),
    ("POST /responses", {"refuse": {"status": 500}}),
    ("POST /chat/completions", {"refuse": {"status": 429}}),
    ("POST /conversations", {"lose_answer": True}),
    ("POST /conversations/{conversation_id}/items", {"lose_answer": True}),
    ("POST /conversations/{conversation_id}/items", {"drop": True}),
    ("GET /conversations/{conversation_id}/items", {"refuse": {"status": 500}}),
)


@pytest.fixture(scope="module")
def storming() -> Iterator[Writers]:
    with writers(str(Path(__file__).with_name("storming.py"))) as started:
        yield started


def storm(storming: Writers, url: str, simulator: Any) -> list[str]:
    """Return what was acknowledged, in this order."""
    rng = random.Random(SEED)
    for route, fault in FAULTS:
        simulator.add_fault(route, **fault, times=None, probability=0.08)
    ledger_of(url, simulator.base_url).close()
    lines: list[str] = []
    for number in range(ROUNDS):
        names = [f"{name}{number}" for name in NAMES]
        later = number * ROUND_SECONDS
        storming.start(url, names, seed=SEED, base_url=simulator.base_url, later_by_seconds=later)
        lines += storming.acknowledged(rng.randint(len(NAMES), ACKNOWLEDGED_BEFORE_THE_KILL_MAX))
        lines += storming.kill()
    simulator.clear_faults()
    return lines


def assert_said_once_and_in_order(events: list[Stored], lines: list[str]) -> None:
    said = defaultdict(list)
    answers = Counter()
    for each in events:
        if each.topic == "MessageJournaled" and each.data["role"] == "user":
            said[each.stream].append(each.data["content"])
        elif each.topic == "MessageJournaled":
            answers[each.data["exchange_id"]] += 1
    every = Counter(text for texts in said.values() for text in texts)
    assert set(every.values()) == {1}, "a message is stored twice"
    assert set(answers.values()) == {1}, "a question has two answers"
    acknowledged = defaultdict(list)
    for line in lines:
        outcome, key, text = line.split(" ", 2)
        if outcome != "busy":
            acknowledged[f"conversation:{key}", text.split()[0]].append(text)
    for (stream, writer), texts in acknowledged.items():
        stored = [text for text in said[stream] if text.split()[0] == writer]
        assert [text for text in stored if text in set(texts)] == texts, "lost, or in another order"
        assert len(stored) <= len(texts) + 1, "more than the one that was in progress"


def assert_answered(events: list[Stored], lines: list[str]) -> None:
    questions = {
        each.data["content"]: each.data.get("exchange_id") for each in events if each.topic == "MessageJournaled"
    }
    answered = {
        each.data["exchange_id"] for each in events if each.topic == "MessageJournaled" and "run_id" in each.data
    }
    for outcome, _, text in (line.split(" ", 2) for line in lines):
        assert outcome != "answered" or questions[text] in answered, text


def assert_every_run_ended_once(events: list[Stored]) -> None:
    started = [each.data["run_id"] for each in events if each.topic == "RunStarted"]
    ended = [each.data["run_id"] for each in events if each.topic in {"RunCompleted", "RunFailed"}]
    assert sorted(started) == sorted(ended)


def assert_threads(ledger: Ledger) -> None:
    """After one reconcile every thread equals the journal."""
    repaired = ledger.replay.plan_reconcile().apply()
    assert {item.state for item in repaired} <= {"done", "skipped"}, repaired
    assert [each for each in ledger.replay.verify() if each.found.state is not ThreadState.SAME] == [], repaired


def assert_no_orphans(ledger: Ledger, simulator: Any) -> None:
    """No thread is left at the provider that the log does not name, except creations that were never acknowledged."""
    unnamed = [item for item in ledger.replay.plan_orphans().apply() if item.thread_id is None]
    named = {
        each.event.thread_id  # type: ignore[attr-defined] # all three have it
        for each in ledger.events(types=["ThreadLinked", "ThreadRebuilt", "ThreadLost"])
    }
    assert len(simulator.provider.conversations.keys() - named) <= len(unnamed)


def test_what_was_acknowledged_survives_the_storm_once_in_order_and_in_every_thread(
    any_db_url: str, storming: Writers, simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = storm(storming, any_db_url, simulator)
    assert {line.split()[0] for line in lines} >= {"appended", "answered"}
    monkeypatch.setattr(ids, "datetime", shifted(ROUNDS * ROUND_SECONDS))
    with ledger_of(any_db_url, simulator.base_url) as ledger:
        ledger.close_overdue_runs()
        assert list(ledger.check()) == []
        events = assert_sound(any_db_url)
        assert_said_once_and_in_order(events, lines)
        assert_answered(events, lines)
        assert_every_run_ended_once(events)
        assert_threads(ledger)
        monkeypatch.setattr(ids, "datetime", shifted(ROUNDS * ROUND_SECONDS + ORPHAN_SECONDS_MIN))
        assert_no_orphans(ledger, simulator)
