"""Work on one job in a separate process that may hang at one of its effects until it is killed. Started by the tests:

    python working.py

It reads orders, one JSON object per line, and forks for each. The child prints what happens as JSON lines: its process
id, `reached` when it hangs, `waiting` when it has nothing to do until another worker has ended, and the items that it
did. Shared modules are imported once, so a worker costs a fork instead of a process start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from threadledger.adapters import load_settings, open_ledger
from threadledger.domain.effects import Call, drivers
from threadledger.domain.replay import plan as plans

LOOK_SECONDS = 0.02
AT_FIRST_CALL = 0
"""Moment before the first call of the provider."""


class Worker:
    """Let processes work on jobs, one after another; this is the client used by the tests."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = 0

    def start(self, settings: dict[str, Any], job: str, hangs_at: int = -1) -> None:
        """Start a process that works on a job and hangs at an effect: before (odd number) or after (even number) it."""
        assert self._process.stdin is not None
        order = {"settings": settings, "job": job, "hangs_at": hangs_at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self.pid = self.next()["pid"]

    def next(self) -> dict[str, Any]:
        """Return what the process reports next; the last report of each has its `status`."""
        assert self._process.stdout is not None
        reported: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reported

    def kill(self) -> None:
        """Kill the process, and return when it has ended."""
        os.kill(self.pid, signal.SIGKILL)
        while "status" not in self.next():
            pass

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    import openai  # noqa: F401 - once for all children

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                perform(json.loads(line))
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the child ends here after any error
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        report(status=os.waitstatus_to_exitcode(status))


def report(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def perform(order: dict[str, Any]) -> None:
    """Work on the job of an order."""
    met, waits, performed = 0, [], drivers.performed

    def counted(effect: Any, wait: Any) -> Any:
        nonlocal met
        met += 2
        if order["hangs_at"] == AT_FIRST_CALL and isinstance(effect, Call):
            order["hangs_at"] = met - 1
        for is_before in (True, False):
            if order["hangs_at"] == met - is_before:
                report(reached=met)
                signal.pause()
            if is_before:
                result = performed(effect, wait)
        return result

    def wait(seconds: float) -> None:
        if seconds == LOOK_SECONDS:
            if not waits:
                report(waiting=True)
            waits.append(seconds)
            time.sleep(seconds)

    drivers.performed = counted
    plans.JOB_LOOK_SECONDS = LOOK_SECONDS
    report(pid=os.getpid())
    with open_ledger(load_settings(**order["settings"]), wait=wait) as ledger:
        done = [item.as_json() for item in ledger.replay.plan_of(order["job"]).each()]
        report(items=done, effects=met)


if __name__ == "__main__":
    serve()
