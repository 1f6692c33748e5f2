"""Run rebuilds in separate processes that are killed (SIGKILL) before or after one of their effects. Started by the tests:

    python rebuilding.py

It reads orders, one JSON object per line, and forks for each. The child is killed, or finishes and reports its number
of effects. Shared modules are imported once, so a kill costs a fork instead of a process start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from threadledger.adapters import load_settings, open_ledger
from threadledger.domain.effects import drivers as driving

NOBODY = -1


class Rebuilder:
    """Let processes that may be killed do rebuilds; this is the client used by the tests."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rebuild(self, db_url: str, base_url: str, to: str, killed_at: int = NOBODY, **order: Any) -> dict[str, Any]:
        """Start a full rebuild or resume the newest job; return the exit status and the number of effects."""
        order |= {"db": db_url, "base_url": base_url, "to": to, "killed_at": killed_at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    import openai  # noqa: F401 - once for all children

    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            effects = perform(order)
            os.write(writing, str(effects).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            effects_told = told.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "effects": int(effects_told or 0)}), flush=True)


def perform(order: dict[str, Any]) -> int:
    """Execute an order; the process is killed before (odd number) or after (even number) the given effect."""
    met = [0]
    performed = driving.performed

    def counted(effect: Any, wait: Any) -> Any:
        met[0] += 2
        if order["killed_at"] == met[0] - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return performed(effect, wait)
        finally:
            if order["killed_at"] == met[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    driving.performed = counted
    settings = load_settings(
        db=order["db"], openai_base_url=order["base_url"], openai_api_key="sk-test", threads=order["to"]
    )
    with open_ledger(settings, wait=lambda seconds: None) as ledger:
        waiting = [job for job in ledger.replay.jobs() if job.state in {"stopped", "running"} or job.failed]
        how = {"concurrency": order.get("concurrency", 1)}
        if waiting:
            plan = ledger.replay.plan_of(waiting[0].job_id)
        else:
            plan = ledger.replay.plan_rebuild(to=order["to"], fresh=order.get("fresh", False))
        for _ in plan.each(**how):
            pass
    return met[0]


if __name__ == "__main__":
    serve()
