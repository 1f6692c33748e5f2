"""Run the commands of schedules: one run at a time over all workers, and a missed one once."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from threadledger.domain.effects import Interrupted
from threadledger.domain.failures import redact
from threadledger.domain.ids import from_iso, now, to_iso

from .engine import Engine, WorkItem

if TYPE_CHECKING:
    from threadledger.domain.journal.worker_notes import Duty, WorkerNotes

    from .schedules import Schedule

logger = logging.getLogger("threadledger.worker")

LOOK_SECONDS = 1.0
"""Interval at which schedules are looked at, in seconds."""

OUTPUT_LINES_LOGGED = 5
"""Number of the last lines of a command's output that are logged."""

OUTPUT_BYTES_MAX = 64 * 1024
"""Number of the last bytes of a command's output that are kept."""

STOP_LOOK_SECONDS = 0.1
"""Interval at which a running command is looked at, in seconds."""

TERMINATE_SECONDS = 5.0
"""How long a command has to end after its worker was stopped, in seconds."""

ENDED_IN_ORDER = frozenset({0, 3, 4, 5})
"""Exit codes of a command that did its work: also if items failed, a check found something, or a limit was reached."""

BROKEN_OFF = -99
"""Exit code of a run whose worker ended in the middle of it."""

RUN = """
import os, sys, threading

def leave_with_the_worker():
    os.read(0, 1)
    os._exit(130)

threading.Thread(target=leave_with_the_worker, daemon=True).start()
from threadledger.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""Program of a run. Its standard input is a pipe of the worker, whose end is that of the worker, however it ends."""


PREFIX = "schedule "
"""Beginning of the names of the duties of schedules."""


@dataclass(frozen=True)
class ScheduledRun:
    """Describe the newest run of a schedule, and when the next one is due."""

    name: str
    due_at: datetime | None = None
    """When the newest run was due."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    code: int | None = None
    """Exit code; `BROKEN_OFF` if its worker ended first, None while it runs."""

    @classmethod
    def of(cls, duty: Duty) -> ScheduledRun | None:
        """Return what is remembered in the duty of a schedule; None for another duty."""
        if not duty.name.startswith(PREFIX):
            return None
        times = {name: from_iso(text) for name, text in duty.state.items() if name.endswith("_at") and text}
        code = duty.state.get("code")
        is_left = times.get("started_at") is not None and code is None and not duty.held_by
        return cls(duty.name.removeprefix(PREFIX), code=BROKEN_OFF if is_left else code, **times)

    def outcome(self) -> str:
        """Return how the run ended, and when it began."""
        at = f", begun at {to_iso(self.started_at)[:19]}Z" if self.started_at is not None else ""
        return f"{_ended(self.code)}{at}"

    def state(self) -> Mapping[str, Any]:
        """Return it as the state of a duty."""
        times = {"due_at": self.due_at, "started_at": self.started_at, "ended_at": self.ended_at}
        return {name: to_iso(at) if at is not None else None for name, at in times.items()} | {"code": self.code}


class ScheduledRuns:
    """Queue the runs of schedules when they are due, and run them."""

    def __init__(
        self,
        notes: WorkerNotes,
        schedules: Mapping[str, Schedule],
        is_stopping: threading.Event,
        environment: Mapping[str, str],
    ) -> None:
        """Prepare the runs; `environment` is that of the commands."""
        self._notes = notes
        self._schedules = schedules
        self._is_stopping = is_stopping
        self._environment = dict(environment)

    def look(self, engine: Engine) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """Return the step of the duty that queues runs; its state holds when each schedule is due next."""

        def step(state: Mapping[str, Any]) -> Mapping[str, Any]:
            moment, due = now(), dict(state.get("due", {}))
            for name, schedule in self._schedules.items():
                planned = [schedule.when(), *schedule.command]
                known = due.get(name)
                if known is None or known["planned"] != planned:  # new, or changed in the file
                    due[name] = {"planned": planned, "at": to_iso(schedule.next_after(moment))}
                elif from_iso(known["at"]) <= moment:  # several missed runs are made up once
                    engine.defer([WorkItem("schedule", f"{name}@{known['at']}", once=True)])
                    due[name] = {"planned": planned, "at": to_iso(schedule.next_after(moment))}
            kept = {name: each for name, each in due.items() if name in self._schedules}
            return state if kept == state.get("due") else {"due": kept}

        return step

    def run(self, subject: str) -> str:
        """Run a command whose time has come, unless it was begun before or another run of it is in progress.

        Raises:
            Interrupted: the worker stops before it was begun.
        """
        name, _, text = subject.partition("@")
        schedule, due_at = self._schedules.get(name), from_iso(text)
        if schedule is None:
            return "the schedule was removed"
        if self._is_stopping.is_set():
            raise Interrupted
        duty = self._notes.hold(PREFIX + name)
        if duty is None:
            return "the run before it is still in progress"
        before = ScheduledRun.of(duty) or ScheduledRun(name)
        if duty.held_by and before.started_at is not None and before.code is None:
            return "the run before it is still in progress"
        try:
            if before.due_at is not None and before.due_at >= due_at:
                return f"it was begun before, and {_ended(before.code)}"
            begun = ScheduledRun(name, due_at, started_at=now())
            self._notes.keep(PREFIX + name, begun.state())
            code, output = self._run(schedule.command)
            ended = ScheduledRun(name, due_at, begun.started_at, now(), code)
            self._notes.keep(PREFIX + name, ended.state())
        finally:
            self._notes.release(PREFIX + name)
        last = "; ".join(output.strip().splitlines()[-OUTPUT_LINES_LOGGED:])
        if code not in ENDED_IN_ORDER:
            logger.warning("schedule %s %s: %s", name, _ended(code), redact(last))
        return f"{_ended(code)}: {last}" if last else _ended(code)

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command in a process of its own; it is ended with the worker. Return its exit code and its last output."""
        words = [sys.executable, "-c", RUN, *command]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        kept = bytearray()
        # The command is one of ours, from a trusted file, and no shell reads it.
        with subprocess.Popen(words, env=self._environment, **pipes) as process:  # noqa: S603
            reading = threading.Thread(target=_keep_last, args=(process.stdout, kept), daemon=True)
            reading.start()
            stopped_at: float | None = None
            while process.poll() is None:
                if stopped_at is None and self._is_stopping.wait(STOP_LOOK_SECONDS):
                    stopped_at = time.monotonic()
                    process.terminate()
                with suppress(subprocess.TimeoutExpired):  # it is looked at again
                    process.wait(0 if stopped_at is None else STOP_LOOK_SECONDS)
                if stopped_at is not None and time.monotonic() - stopped_at > TERMINATE_SECONDS:
                    process.kill()
            reading.join(TERMINATE_SECONDS)
        return process.returncode, kept.decode(errors="replace")


def _keep_last(pipe: Any, kept: bytearray) -> None:
    while piece := pipe.read1(OUTPUT_BYTES_MAX):
        kept += piece
        del kept[:-OUTPUT_BYTES_MAX]


def _ended(code: int | None) -> str:
    if code == BROKEN_OFF:
        return "ended with its worker"
    return "is in progress" if code is None else f"ended with exit code {code}"
