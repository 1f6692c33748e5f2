"""Measure what several workers gain over one: a job of 48 conversations, a provider that takes 0.3 seconds for a request.

python benchmarks/workers.py [--quick]

Each figure is the time from the hand-over of the job to its last item, with workers that are running already. Needs PostgreSQL:
THREADLEDGER_TEST_POSTGRES names a server; otherwise the one of the test dependencies is started.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.domain.ledger import Ledger

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import PostgresServer, administer

ITEMS = 48
PROVIDER_SECONDS = 0.3
PROCESSES = (1, 4)
ROUNDS = 1 if "--quick" in sys.argv else 3
PROGRAM = "import sys; from threadledger.cli import main; sys.exit(main())"


def started(settings: dict[str, Any], number: int) -> list[subprocess.Popen[bytes]]:
    """Return workers that do one item at a time each."""
    names = {"db": "THREADLEDGER_DB", "openai_api_key": "OPENAI_API_KEY", "openai_base_url": "OPENAI_BASE_URL"}
    environment = os.environ | {names[key]: value for key, value in settings.items() if key in names}
    environment |= {"THREADLEDGER_THREADS": "none"}  # nothing but the job
    command = [sys.executable, "-c", PROGRAM, "worker", "--concurrency", "1", "--port", "0"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [subprocess.Popen(command, env=environment, **quiet) for _ in range(number)]


def seconds_of(ledger: Ledger, keys: list[str]) -> float:
    """Return how long the workers take for a job that rebuilds these conversations."""
    begin = time.monotonic()
    job = ledger.replay.plan_rebuild(keys, to="conversations", fresh=True).detach()
    assert job is not None
    while ledger.replay.job(job.job_id).left:
        time.sleep(0.02)
    took = time.monotonic() - begin
    assert ledger.replay.job(job.job_id).done == len(keys)
    return took


def main() -> None:
    """Print the medians of all numbers of workers."""
    place = Path(tempfile.mkdtemp(prefix="threadledger-bench-"))
    given = os.environ.get("THREADLEDGER_TEST_POSTGRES")
    server = None if given else PostgresServer(place, durable=True)
    url = given or server.start() if server is not None or given else ""
    try:
        medians = {}
        for number in PROCESSES:
            schema = f"bench_{uuid4().hex}"
            administer(url, f"CREATE SCHEMA {schema}")
            with Simulator(seed=1, poll_after_ms=0) as simulator:
                simulator.add_fault("*", hang=PROVIDER_SECONDS, times=None)
                joined = "&" if "?" in url else "?"
                settings: dict[str, Any] = {"db": f"{url}{joined}options=-csearch_path%3D{schema}"}
                settings |= {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url}
                with open_ledger(load_settings(**settings, mirror_by="worker")) as ledger:
                    keys = [f"k{n}" for n in range(ITEMS)]
                    for key in keys:
                        ledger.conversation(key).append("user", "Where is my parcel?")
                    workers = started(settings, number)
                    while len(ledger.journal.worker_notes.workers()) < number:
                        time.sleep(0.05)
                    time.sleep(2)
                    medians[number] = statistics.median(seconds_of(ledger, keys) for _ in range(ROUNDS))
                    print(f"{number} workers: {ITEMS} items in {medians[number]:.2f} s")
                    for each in workers:
                        each.terminate()
                    for each in workers:
                        each.wait()
        print(f"{PROCESSES[-1]} workers are {medians[PROCESSES[0]] / medians[PROCESSES[-1]]:.2f} times as fast as one")
    finally:
        if server is not None:
            server.remove()


if __name__ == "__main__":
    main()
