"""Processes of `threadledger worker` that tests kill (SIGKILL) and stop. Started by the tests:

    python worker_processes.py

It reads orders, one JSON object per line, and forks for each: the child runs the command with the environment of its order.
Shared modules are imported once, so a worker costs a fork instead of a process start.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

QUICK = {
    "threadledger.adapters.workers.duties": {
        **dict.fromkeys(("FOLLOW_SECONDS", "CLOSE_SECONDS", "VIEWS_SECONDS", "REAP_SECONDS"), 0.2),
        "FOLLOW_GRACE_SECONDS": 0.0,
    },
    "threadledger.adapters.workers.procrastinate_engine": {
        "POLL_SECONDS": 0.1,
        "CLAIM_RENEWAL_SECONDS": 0.5,
        "SILENCE_SECONDS": 1.5,
        "RESTART_SECONDS": 0.1,
        "IDLE_SECONDS_MAX": 2.0,
    },
    "threadledger.adapters.workers.work": {
        "STORE_PAUSE_SECONDS": 0.2,
        "CLAIM_SECONDS": 1.0,
        "SLICE_SECONDS": 1.0,
        "DOUBT_LOOK_SECONDS": 1.0,
    },
    "threadledger.adapters.sql.claims": {"CLAIM_SECONDS": 2.0, "CLAIM_RENEWAL_SECONDS": 0.5},
    "threadledger.domain.replay.plan": {"CLAIM_SECONDS": 2.0},
    "threadledger.adapters.server.runner": {"LOOK_SECONDS": 0.1},
    "threadledger.adapters.sql.worker_notes": {"WORK_RETRY_FIRST_SECONDS": 0.2},
    "threadledger.domain.failures.health": {"BREAKER_COOLDOWN_SECONDS": 0.5},
}
"""Intervals that are shorter in a test, by module."""

ENDED_SECONDS_MAX = 30.0
PR_SET_PDEATHSIG = 1


class WorkerProcesses:
    """Start, kill and stop workers; with `namespace`, in that network namespace."""

    def __init__(self, environment: Mapping[str, str], log: Path, namespace: str = "") -> None:
        within = ["ip", "netns", "exec", namespace] if namespace else []
        command = [*within, sys.executable, str(Path(__file__)), str(log)]
        self._environment = dict(environment)
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, *arguments: str, quick: bool = True) -> int:
        """Start a worker and return the id of its process."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        order = {"arguments": ["worker", "--port", "0", *arguments], "env": self._environment, "quick": quick}
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def kill(self, pid: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a worker, and return when it has ended."""
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        ticks = threading.Event()
        for _ in range(int(ENDED_SECONDS_MAX / 0.01)):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            ticks.wait(0.01)
        raise AssertionError(f"the worker {pid} does not end")

    def close(self) -> None:
        """Kill all workers."""
        with self._parent:  # closes its pipes
            self._parent.kill()


def run(arguments: Sequence[str], environment: Mapping[str, str], *, quick: bool, log: str) -> int:
    """Run the command in a child process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(environment)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for module, values in QUICK.items() if quick else ():
        for name, value in values.items():
            found = import_module(module)
            assert hasattr(found, name), (module, name)
            setattr(found, name, value)
    if quick:
        postgres = import_module("threadledger.adapters.sql.postgres").PostgreSQL
        assert "idle_in_transaction_session_timeout" in postgres.begin_write
        postgres.begin_write = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 2000"
    from threadledger.cli import main

    return main(arguments)


def serve(log: str) -> None:
    """Fork a worker for each order."""
    import threadledger.adapters.openai
    import threadledger.adapters.server
    import threadledger.adapters.workers.procrastinate_engine
    import threadledger.adapters.workers.worker
    import threadledger.cli.worker
    import threadledger.domain.failures.health

    _ = threadledger
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # an ended child leaves nothing behind
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                code = run(order["arguments"], order["env"], quick=order["quick"], log=log)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(sys.argv[1])
