"""Let workers mirror and rebuild while they, the provider and the database fail: every thread equals its journal in the end.

`make soak` runs the whole form: 8 workers in 4 processes, 20,000 conversations to mirror and 2,000 to rebuild, one worker killed
every 5 seconds, the provider away for 30 seconds, the primary killed and its standby promoted, and one worker cut from the
network for 40 seconds.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.domain.errors import StoreError
from threadledger.domain.ledger import Ledger, lags_among
from threadledger.domain.threads import ThreadState

from .worker_processes import WorkerProcesses

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "adapters"))
from postgres_pair import Pair, pair

pytestmark = pytest.mark.crash

SOAK = "THREADLEDGER_SOAK" in os.environ
MIRRORED, REBUILT = (20_000, 2_000) if SOAK else (60, 12)
KILL_SECONDS = 5.0 if SOAK else 0.8
AWAY_SECONDS = 30.0 if SOAK else 1.0
STORM_SECONDS_MAX = 7_200.0 if SOAK else 120.0
PROCESSES, CONCURRENCY = 4, 2
SEED = 20


class Storm:
    """Hold the workers of a storm, and what disturbs them."""

    def __init__(self, url: str, simulator: Simulator, log: Path) -> None:
        self.simulator = simulator
        self.settings: dict[str, Any] = {
            "db": url,
            "openai_api_key": "sk-test",
            "openai_base_url": simulator.base_url,
            "mirror_by": "worker",
        }
        environment = {
            "THREADLEDGER_DB": url,
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": simulator.base_url,
            "THREADLEDGER_MIRROR_BY": "worker",
        }
        self.processes = WorkerProcesses(environment, log)
        self.workers: list[int] = []
        self.kills = 0
        self._rng = random.Random(SEED)
        self._over = threading.Event()

    def opened(self, **given: Any) -> Ledger:
        return open_ledger(load_settings(**self.settings | given), wait=lambda _: None)

    def start(self) -> None:
        for _ in range(PROCESSES):
            self.workers.append(self.processes.start("--concurrency", str(CONCURRENCY), quick=not SOAK))

    def add_faults(self) -> None:
        self.simulator.add_fault("*", lose_answer=True, probability=0.05, times=None)
        self.simulator.add_fault("*", refuse={"status": 429}, probability=0.05, times=None)
        self.simulator.add_fault("*", refuse={"status": 500}, probability=0.02, times=None)

    @contextmanager
    def killing(self) -> Iterator[None]:
        """Kill a worker again and again, and start another one in its place."""
        thread = threading.Thread(target=self._kill)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _kill(self) -> None:
        while not self._over.wait(KILL_SECONDS):
            place = self._rng.randrange(PROCESSES)
            self.processes.kill(self.workers[place])
            self.workers[place] = self.processes.start("--concurrency", str(CONCURRENCY), quick=not SOAK)
            self.kills += 1

    def wait_until(self, condition: Callable[[], bool], seconds: float = STORM_SECONDS_MAX) -> None:
        ticks, pause = threading.Event(), 2.0 if SOAK else 0.2
        for _ in range(int(seconds / pause)):
            with suppress(StoreError):  # the database is being promoted
                if condition():
                    return
            ticks.wait(pause)
        raise AssertionError(f"after {self.kills} kills, the storm does not end")

    def pause(self, seconds: float) -> None:
        self._over.wait(seconds)


def lagging(ledger: Ledger) -> int:
    return len(lags_among(ledger.journal, ledger.services, ledger.journal.keys()).threads)


@pytest.fixture
def servers() -> Iterator[Pair]:
    with pair() as running:
        yield running


def test_every_thread_equals_its_journal_after_a_storm(servers: Pair, tmp_path: Path) -> None:
    with Simulator(seed=SEED, poll_after_ms=0) as simulator:
        storm = Storm(servers.url, simulator, tmp_path / "workers.log")
        try:
            weather(storm, servers)
        except BaseException:
            print((tmp_path / "workers.log").read_text(encoding="utf-8", errors="replace")[-8_000:])
            raise
        finally:
            storm.processes.close()


def weather(storm: Storm, servers: Pair) -> None:
    mirrored = [f"m{number}" for number in range(MIRRORED)]
    rebuilt = [f"r{number}" for number in range(REBUILT)]
    with storm.opened(mirror_by="app", threads="none") as ledger:
        for key in rebuilt:
            ledger.conversation(key).extend([{"role": "user", "content": f"{key} {n}"} for n in range(3)])
    with storm.opened() as ledger:
        storm.add_faults()
        storm.start()
        job = ledger.replay.plan_rebuild(rebuilt).detach()
        assert job is not None
        with storm.killing():
            for number, key in enumerate(mirrored):
                ledger.conversation(key).append("user", f"{key} first")
                if number == MIRRORED // 2:
                    servers.primary.kill()  # all that was acknowledged is on the standby
                    servers.promote()
                ledger.conversation(key).append("assistant", f"{key} second")
            storm.simulator.add_fault("*", drop=True, times=None)
            storm.pause(AWAY_SECONDS)
            storm.simulator.clear_faults()
            storm.add_faults()
            storm.wait_until(lambda: lagging(ledger) == 0)
            storm.wait_until(lambda: has_ended(ledger, job.job_id))
        storm.simulator.clear_faults()
        assert storm.kills > 0
        found = Counter(each.found.state for each in ledger.replay.verify())
        assert found == {ThreadState.SAME: MIRRORED + REBUILT}
        assert list(ledger.check()) == []
        assert ledger.journal.worker_notes.counts()["parked"] == 0


def has_ended(ledger: Ledger, job_id: str) -> bool:
    job = ledger.replay.job(job_id)
    return job.left == 0 and job.failed == 0
