"""Define plans, which show what a replay would do before it is done.

An applied plan runs as a job (`jobs.py`): it is recorded, can use several workers, and can be resumed wherever it
stopped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ..effects import AsyncDriver, Call, Effect, Effects, Emit, Pause, Wait, attended, stream, work
from ..errors import Conflict, InvalidInput
from ..ids import now
from ..limits import JOB_BLOCK_ITEMS_MAX, JOB_CLAIM_SECONDS, JOB_WORKERS_MAX
from .jobs import Jobs, JobState


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


T = TypeVar("T", bound=Item)

Progress = Callable[[Any], None]


class Plan(ABC, Generic[T]):
    """Describe what would be done, item by item. Nothing is done before the plan is applied."""

    kind: ClassVar[str]
    """One of `rebuild`, `rerun` and `reconcile`."""
    block: ClassVar[int] = JOB_BLOCK_ITEMS_MAX
    """Number of items that a worker claims at once, which is also how many a killed worker leaves to be checked
    again."""

    def __init__(self, jobs: Jobs, wait: Wait) -> None:
        self.job: JobState | None = None
        """The job that this plan became when it was applied, as of its last stop; None before."""
        self.stopped_by_limit = False
        self._jobs = jobs
        self._wait = wait

    @property
    @abstractmethod
    def items(self) -> list[T]:
        """Return the planned items; after the plan was applied, their outcomes."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the plan's options as JSON, enough to resume it in another process."""

    @abstractmethod
    def pins(self) -> Iterator[Mapping[str, Any]]:
        """Yield the items as JSON: key and version of a conversation, and whatever else identifies an item."""

    @abstractmethod
    def step(self, pin: Mapping[str, Any]) -> Effects[T]:
        """Do one item and return its outcome. Provider failures and conflicts are reported in the item, never raised.

        If it is called again after a process was killed in the middle, it continues, or finds nothing left to do.
        """

    def apply(
        self,
        progress: Progress | None = None,
        *,
        concurrency: int = 1,
        rps: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[T]:
        """Run the plan as a job and return the outcomes of its items; a failed item does not stop the others.

        Args:
            progress: called with each item as it ends.
            concurrency: number of items in progress at once, each in its own thread.
            rps: maximum requests to the provider per second.
            stop: called between items; once it returns true, no further item is started, and `resume` continues later.

        Raises:
            InvalidInput: the concurrency or the rate is out of range.
        """
        return self._collected(self.ended(concurrency, rps, stop), progress)

    def each(
        self, *, concurrency: int = 1, rps: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[T]:
        """Run the plan like `apply`, but yield each item as it ends and keep none."""
        return (ended.item for ended in self.ended(concurrency, rps, stop))  # type: ignore[misc] # steps make this kind

    def resume(self, progress: Progress | None = None, **how: Any) -> list[T]:
        """Resume the plan where it stopped, and retry failed items. Accepts the same arguments as `apply`.

        Raises:
            Conflict: it was never applied, or its job was cancelled.
        """
        self.require_job()
        return self.apply(progress, **how)

    def require_job(self) -> None:
        """Raise Conflict if the plan was never applied."""
        if self.job is None:
            raise Conflict("this plan was never applied, so there is nothing to resume: apply it first")

    async def apply_async(
        self,
        driver: AsyncDriver,
        progress: Progress | None = None,
        *,
        concurrency: int = 1,
        rps: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[T]:
        """Run the plan like `apply`, awaited, with a task for each item in progress."""
        run = await driver.work(lambda: self._begun(concurrency, rps, stop))
        found: dict[int, Any] = {}
        if run is not None:
            async for ended in _awaited(run, concurrency, driver):
                found[ended.number] = ended.item
                if progress is not None:
                    progress(ended.item)
            await driver.work(lambda: self._ended(run))
        return self._listed(found)

    def ended(self, concurrency: int, rps: float | None, stop: Callable[[], bool]) -> Iterator[Ended]:
        """Run the plan and yield each item with its number as it ends."""
        run = self._begun(concurrency, rps, stop)
        if run is None:
            return
        try:
            yield from _performed(run, concurrency, self._wait)
        finally:
            self._ended(run)

    def _begun(self, concurrency: int, rps: float | None, stop: Callable[[], bool]) -> JobRun | None:
        """Return the job, started or resumed, or None if nothing is planned."""
        if not 1 <= concurrency <= JOB_WORKERS_MAX:
            raise InvalidInput(f"{concurrency} workers are not possible: use a concurrency of 1 to {JOB_WORKERS_MAX}")
        if rps is not None and rps <= 0:
            raise InvalidInput(f"a rate of {rps:g} requests per second is not possible: use a number greater than 0")
        self.stopped_by_limit = False
        if self.job is not None:
            self.job = self._jobs.get(self.job.job_id)
            if self.job.cancelled:
                raise Conflict(f"job {self.job.job_id} was cancelled: plan again")
            run = self._run(self.job, concurrency, rps, stop)
            run.reopen_failed()
            return run
        pins = iter(self.pins())
        first = next(pins, None)
        if first is None:
            return None
        self.job = self._jobs.start(self.kind, self.options(), chain([first], pins))
        return self._run(self.job, concurrency, rps, stop)

    def _run(self, job: JobState, concurrency: int, rps: float | None, stop: Callable[[], bool]) -> JobRun:
        return JobRun(self._jobs, job, self.step, workers=concurrency, block=self.block, rate=rps, stop=stop)

    def _ended(self, run: JobRun) -> None:
        self.stopped_by_limit = run.stopped_by_limit
        self.job = self._jobs.get(run.job.job_id)

    def _collected(self, all_ended: Iterator[Ended], progress: Progress | None) -> list[T]:
        found: dict[int, Any] = {}
        for ended in all_ended:
            found[ended.number] = ended.item
            if progress is not None:
                progress(ended.item)
        return self._listed(found)

    def _listed(self, found: Mapping[int, T]) -> list[T]:
        """Return the items in the plan's order."""
        return [found[number] for number in sorted(found)]


def _performed(run: JobRun, workers: int, wait: Wait) -> Iterator[Ended]:
    """Yield each item as it ends. A single worker runs in the caller's thread; several have one thread each."""
    if workers == 1:
        yield from (part for part in stream(run.worker(), wait) if isinstance(part, Ended))
        return
    told: SimpleQueue[Ended | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            for part in stream(run.worker(), wait):
                if isinstance(part, Ended):
                    told.put(part)
            told.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are yielded
            run.stop()
            told.put(error)

    threads = [threading.Thread(target=work, name=f"threadledger-job-{n}", daemon=True) for n in range(workers)]
    errors: list[BaseException] = []
    try:
        for thread in threads:
            thread.start()
        at_work = workers
        while at_work:
            part = told.get()
            if isinstance(part, Ended):
                yield part
            else:
                at_work -= 1
                errors += [part] if part is not None else []
    finally:  # the listener may have stopped early: wait until the current steps have ended
        run.stop()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


async def _awaited(run: JobRun, workers: int, driver: AsyncDriver) -> AsyncIterator[Ended]:
    """Yield each item as it ends; the workers are tasks."""
    told: asyncio.Queue[Ended | None] = asyncio.Queue()

    async def work() -> None:
        try:
            async for part in driver.stream(run.worker()):
                if isinstance(part, Ended):
                    told.put_nowait(part)
        except BaseException:
            run.stop()
            raise
        finally:
            told.put_nowait(None)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        at_work = workers
        while at_work:
            part = await told.get()
            if part is None:
                at_work -= 1
            else:
                yield part
        await asyncio.gather(*tasks)
    finally:
        run.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
            while block := (yield from work(partial(self._take, holder))):
                yield from self._do(block, holder, renew)
        finally:
            yield from work(partial(self._jobs.claims.give_back, self.job.job_id, holder))

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
                yield Emit(ended[-1])
        finally:
            if ended:
                yield from work(partial(self._record, ended, holder))

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
            yield from work(self._renew)
