"""Run a job: workers claim items block by block, do one after another, and record the outcomes.

A worker is a generator of effects: several threads perform one each, or several tasks of an event loop await one each
(`plans.py`). Whatever interrupts a worker, the items it has done are recorded and its claims are released.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, Protocol

from .effects import Call, Effect, Effects, Pause, Tell, Work, attended
from .ids import now
from .jobs import Jobs, JobState
from .limits import JOB_BLOCK_ITEMS_MAX, JOB_CLAIM_SECONDS


class Item(Protocol):
    """Describe the outcome of one item of a plan."""

    @property
    def key(self) -> str: ...

    @property
    def state(self) -> str:
        """Return `done`, `answered`, `skipped` or `failed`, or `planned` if a limit stopped the item."""
        ...

    @property
    def reason(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Ended:
    """Represent the end of one item of a job, as reported by a worker."""

    number: int
    item: Item


class Pace:
    """Limit the calls per second of all workers of a process; without a rate, no call waits."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = 1 / rate if rate else 0.0
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> float:
        """Reserve the next slot and return the seconds until it."""
        with self._lock:
            place = max(self._next, self._clock())
            self._next = place + self._seconds
        return max(place - self._clock(), 0.0)


Step = Callable[[Mapping[str, Any]], Effects[Any]]
"""Function that does one item of a plan; its value is an `Item`."""

Pins = list[tuple[int, dict[str, Any]]]


class JobRun:
    """Hold what the workers of one process share."""

    def __init__(
        self,
        jobs: Jobs,
        job: JobState,
        step: Step,
        *,
        workers: int = 1,
        block: int = JOB_BLOCK_ITEMS_MAX,
        rate: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Create a run of a job.

        `rate` is in requests to the provider per second. `stop` is called between items, to end the run early.
        """
        self.job = job
        self.stopped_by_limit = False
        self._jobs = jobs
        self._step = step
        self._stop = stop
        self._pace = Pace(rate)
        self._rated = bool(rate)
        self._block = max(1, min(block, job.left // (workers * 2) or 1))
        self._lock = threading.Lock()
        self._before = jobs.ended(job)
        self._ahead = self._not_ended()
        self._stopping = False

    def reopen_failed(self) -> int:
        """Make the failed items available again and return their number."""
        failed = [number for number, state in enumerate(self._before) if state == ord("f")]
        self._jobs.claims.reopen(self.job.job_id, failed)
        return len(failed)

    def stop(self) -> None:
        """Start no further item."""
        self._stopping = True

    def worker(self) -> Effects[None]:
        """Do items until all have ended or been claimed, and report each ended one (`Ended`)."""
        holder = self._jobs.claims.name()
        renew = _Renewing(partial(self._renew, holder))
        try:
            while block := (yield Work(partial(self._take, holder))):
                yield from self._do(block, holder, renew)
        finally:
            yield Work(partial(self._jobs.claims.give_back, self.job.job_id, holder))

    def _do(self, block: Pins, holder: str, renew: _Renewing) -> Effects[None]:
        ended: list[Ended] = []
        try:
            for number, pin in block:
                if self._is_over():
                    return
                item: Item = yield from attended(self._step(pin), partial(self._after, renew))
                if item.state == "planned":
                    self.stopped_by_limit = True
                    self.stop()
                    return
                ended.append(Ended(number, item))
                yield Tell(ended[-1])
        finally:
            if ended:
                yield Work(partial(self._record, ended, holder))

    def _after(self, renew: _Renewing, effect: Effect) -> Effects[None]:
        if self._rated and isinstance(effect, Call):
            seconds = self._pace.wait()
            if seconds:
                yield Pause(seconds)
        yield from renew()

    def _take(self, holder: str) -> Pins:
        """Claim the next items that no other worker has or has ended; none if the run is over."""
        while not self._is_over() and not self._jobs.is_cancelled(self.job.job_id):
            with self._lock:
                block = dict(islice(self._ahead, self._block))
            if not block:
                break
            until = now() + timedelta(seconds=JOB_CLAIM_SECONDS)
            ours = self._jobs.claims.take(self.job.job_id, list(block), holder, until)
            if ours:
                return [(number, block[number]) for number in ours]
        return []

    def _record(self, ended: list[Ended], holder: str) -> None:
        entries = []
        for each in ended:
            before = chr(self._before[each.number]) if self._before[each.number] else None
            entries.append(
                {"item": each.number, **each.item.as_json(), **({"before": _STATES[before]} if before else {})}
            )
        state = self._jobs.end_items(self.job.job_id, entries)
        with self._lock:
            self.job = state if state.version > self.job.version else self.job
        self._jobs.claims.end(self.job.job_id, [each.number for each in ended], holder)

    def _renew(self, holder: str) -> None:
        self._jobs.claims.renew(self.job.job_id, holder, now() + timedelta(seconds=JOB_CLAIM_SECONDS))

    def _is_over(self) -> bool:
        self._stopping = self._stopping or self._stop()
        return self._stopping

    def _not_ended(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Return the items that had not ended, or had failed, when this process joined the job."""
        return (
            (number, pin)
            for number, pin in self._jobs.pins(self.job.job_id)
            if not self._before[number] or self._before[number] == ord("f")
        )


_STATES = {"d": "done", "s": "skipped", "f": "failed"}


class _Renewing:
    """Renew a worker's claims while it is active."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._at = time.monotonic()

    def __call__(self) -> Effects[None]:
        if time.monotonic() - self._at > JOB_CLAIM_SECONDS / 4:
            self._at = time.monotonic()
            yield Work(self._renew)
