"""A job under way: workers take items block by block, do one after the other, and record what became of them.

A worker is a generator of effects: several threads perform one each, or several tasks of an event loop await one each
(`plans.py`). Whatever breaks a worker off, what it had done is recorded, and what it held is given back.
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
    """What became of one item of a plan."""

    @property
    def key(self) -> str: ...

    @property
    def state(self) -> str:
        """`done` or `answered`, `skipped`, `failed`; `planned` where a limit stopped it: it has not ended."""
        ...

    @property
    def reason(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Ended:
    """An item of a job has ended: told to whoever listens to its workers."""

    number: int
    item: Item


class Pace:
    """At most so many calls a second, shared by all workers of a process; without a rate, none waits."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = 1 / rate if rate else 0.0
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> float:
        """Take the next place in the line; how many seconds it is away."""
        with self._lock:
            place = max(self._next, self._clock())
            self._next = place + self._seconds
        return max(place - self._clock(), 0.0)


Step = Callable[[Mapping[str, Any]], Effects[Any]]
"""Does one item of a plan; its value is an `Item`."""

Pins = list[tuple[int, dict[str, Any]]]


class JobRun:
    """What the workers of one process share."""

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
        """`rate`: requests to the provider a second. `stop` is asked between two items: they say no more is to be begun."""
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
        """Have the items that failed tried again; how many they are."""
        failed = [number for number, state in enumerate(self._before) if state == ord("f")]
        self._jobs.claims.reopen(self.job.job_id, failed)
        return len(failed)

    def stop(self) -> None:
        """No further item is begun."""
        self._stopping = True

    def worker(self) -> Effects[None]:
        """Do items until none is left, telling each that ended (`Ended`)."""
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
        """The next items that nobody else is at or has ended; none where the job is over."""
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
        """The items that have not ended, or failed, when this process came to the job."""
        return (
            (number, pin)
            for number, pin in self._jobs.pins(self.job.job_id)
            if not self._before[number] or self._before[number] == ord("f")
        )


_STATES = {"d": "done", "s": "skipped", "f": "failed"}


class _Renewing:
    """Holds a worker's items for longer while it is at work."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._at = time.monotonic()

    def __call__(self) -> Effects[None]:
        if time.monotonic() - self._at > JOB_CLAIM_SECONDS / 4:
            self._at = time.monotonic()
            yield Work(self._renew)
