"""Kill workers at random while they answer queued exchanges: each is answered once, or recorded as failed.

`make soak` queues 500 exchanges.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.domain.conversation import Profile, stream_of
from threadledger.domain.conversation import events as e
from threadledger.domain.exchange.served import ServedRequest, requested
from threadledger.domain.ledger import Ledger

from .performing import wait_until
from .worker_processes import WorkerProcesses

pytestmark = pytest.mark.crash

SOAK = "THREADLEDGER_SOAK" in os.environ
EXCHANGES = 500 if SOAK else 16
KILL_SECONDS = 2.0 if SOAK else 1.0
PROCESSES = 4
REQUESTS_PER_MINUTE = 1_200 if SOAK else 120


@pytest.fixture
def processes(postgres_url: str, simulator: Simulator, tmp_path: Path) -> Iterator[WorkerProcesses]:
    environment = {"THREADLEDGER_DB": postgres_url, "OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": simulator.base_url}
    environment |= {"THREADLEDGER_THREADS": "none", "THREADLEDGER_BACKENDS": "chat", "THREADLEDGER_RETRIES": "1"}
    made = WorkerProcesses(environment, tmp_path / "workers.log")
    yield made
    made.close()


@pytest.fixture
def ledger(postgres_url: str, simulator: Simulator) -> Iterator[Ledger]:
    settings: dict[str, Any] = {"db": postgres_url, "openai_api_key": "sk-test", "threads": "none"}
    with open_ledger(load_settings(**settings, openai_base_url=simulator.base_url, backends=("chat",))) as opened:
        yield opened


def queue(ledger: Ledger, key: str) -> str:
    """Request an exchange in the background, as a served API does, and leave it to others."""
    notes = ledger.journal.served_notes
    asked = ServedRequest("assistants", Profile(), "gpt-5.5", 3_600, f"request {key}")
    return requested(
        ledger.journal, key, asked, lambda exchange_id: notes.claim(stream_of(key), exchange_id)
    ).exchange_id


def test_each_queued_exchange_is_answered_once_or_has_failed_however_many_workers_are_killed(
    ledger: Ledger, processes: WorkerProcesses, simulator: Simulator
) -> None:
    simulator.add_fault("POST /chat/completions", slow=0.05, times=None)
    simulator.add_fault("POST /chat/completions", lose_answer=True, probability=0.05, times=None)
    simulator.add_fault("POST /chat/completions", refuse={"status": 500}, probability=0.1, times=None)
    keys = [f"k{number}" for number in range(EXCHANGES)]
    for key in keys:
        ledger.conversation(key).append("user", f"Where is parcel {key}?")
    exchanges = {key: queue(ledger, key) for key in keys}
    ledger.journal.served_notes.release_all()
    with killing(processes):
        wait_until(lambda: all_have_ended(ledger, exchanges), 1_200 if SOAK else 60)
    outcomes = Counter(outcome(ledger, key, exchange_id) for key, exchange_id in exchanges.items())
    assert outcomes.keys() <= {("answered", 1), ("failed", 0)}
    assert outcomes["answered", 1] > EXCHANGES // 2
    assert ledger.journal.served_notes.abandoned(10) == []
    assert list(ledger.check()) == []


def test_workers_together_keep_the_limit_of_the_provider_however_many_are_killed(
    ledger: Ledger, processes: WorkerProcesses, simulator: Simulator
) -> None:
    simulator.limit_rates(requests_per_minute=REQUESTS_PER_MINUTE)
    simulator.add_fault("POST /chat/completions", slow=0.02, times=None)
    keys = [f"k{number}" for number in range(EXCHANGES)]
    for key in keys:
        ledger.conversation(key).append("user", f"Where is parcel {key}?")
    exchanges = {key: queue(ledger, key) for key in keys}
    ledger.journal.served_notes.release_all()
    simulator.provider.rates.buckets["requests"].left = 2.0  # the limit is felt at once
    processes.start("--concurrency", "1")
    wait_until(lambda: len(sent(simulator)) > 1)  # the first answers tell the limit
    with killing(processes):
        wait_until(lambda: all_have_ended(ledger, exchanges), 1_200 if SOAK else 60)
    statuses = Counter(each.status for each in sent(simulator))
    assert statuses[200] >= EXCHANGES
    assert statuses[429] <= 0.02 * statuses.total(), statuses
    outcomes = Counter(outcome(ledger, key, exchange_id) for key, exchange_id in exchanges.items())
    assert outcomes == {("answered", 1): EXCHANGES}


def sent(simulator: Simulator) -> list[Any]:
    return [each for each in simulator.requests if each.template == "POST /chat/completions"]


@contextmanager
def killing(processes: WorkerProcesses) -> Iterator[None]:
    """Run workers of which one is killed again and again, and replaced."""
    workers, rng, over = (
        [processes.start("--concurrency", "2") for _ in range(PROCESSES)],
        random.Random(20),
        threading.Event(),
    )

    def kill() -> None:
        while not over.wait(KILL_SECONDS):
            place = rng.randrange(PROCESSES)
            processes.kill(workers[place])
            workers[place] = processes.start("--concurrency", "2")

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def all_have_ended(ledger: Ledger, exchanges: dict[str, str]) -> bool:
    states = dict(ledger.journal.states_of(exchanges))
    return not any(states[key].open_exchanges for key in exchanges)


def outcome(ledger: Ledger, key: str, exchange_id: str) -> tuple[str, int]:
    """Return how an exchange ended, and how many answers it has."""
    events = list(ledger.journal.history(key))
    answers = [each for each in events if isinstance(each, e.MessageJournaled) and each.role == "assistant"]
    started = {each.run_id for each in events if isinstance(each, e.RunStarted)}
    ended = {each.run_id for each in events if isinstance(each, e.RunCompleted | e.RunFailed)}
    assert started == ended and {each.exchange_id for each in answers} <= {exchange_id}
    return "answered" if exchange_id in ledger.state(key).answered else "failed", len(answers)
