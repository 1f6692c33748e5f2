"""Run a command that never ends, as a schedule, print its process id, and die: python killed_schedule.py URL SUBJECT."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.workers import ScheduledRuns, parse_schedules
from threadledger.domain.journal import Journal


def children() -> list[str]:
    """Return the ids of the processes that this one has started."""
    return [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def main(url: str, subject: str) -> None:
    """Start the run and kill this process once it is in progress."""
    notes = Journal(Factory(database=Database(url))).worker_notes
    schedules = parse_schedules({"nightly": "events --follow"}, Path("threadledger.toml"))
    runs = ScheduledRuns(notes, schedules, threading.Event(), {**os.environ, "THREADLEDGER_DB": url})
    threading.Thread(target=runs.run, args=(subject,), daemon=True).start()
    ticks = threading.Event()
    while not children():
        ticks.wait(0.01)
    print(children()[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
