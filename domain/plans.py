"""Plans: what replay would do, said before it is done. A plan that is applied runs as a job (`jobs.py`): recorded, done by
several workers where that is asked for, and gone on with wherever it stopped."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import chain
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, TypeVar

from .driving import AsyncDriver, Wait, heard
from .effects import Effects
from .errors import Conflict, InvalidInput
from .job_run import Ended, Item, JobRun
from .jobs import Jobs, JobState
from .limits import JOB_BLOCK_ITEMS_MAX, JOB_WORKERS_MAX

T = TypeVar("T", bound=Item)

Progress = Callable[[Any], None]


class Plan(ABC, Generic[T]):
    """What would be done, an item each. Nothing is, before it is applied."""

    kind: ClassVar[str]
    """`rebuild`, `rerun` or `reconcile`."""
    block: ClassVar[int] = JOB_BLOCK_ITEMS_MAX
    """Items that a worker takes at once: what a killed process leaves to be looked at again."""

    def __init__(self, jobs: Jobs, wait: Wait) -> None:
        self.job: JobState | None = None
        """The job that this plan became when it was applied, as it stood at its last stop."""
        self.stopped_by_limit = False
        self._jobs = jobs
        self._wait = wait

    @property
    @abstractmethod
    def items(self) -> list[T]:
        """What is planned, an item each; once it was applied, what became of them."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the plan was made with, as JSON: enough to go on with it in another process."""

    @abstractmethod
    def pins(self) -> Iterator[Mapping[str, Any]]:
        """The items, as JSON: key and version of a conversation, and what else tells one from another."""

    @abstractmethod
    def step(self, pin: Mapping[str, Any]) -> Effects[T]:
        """Do one item. Never raises for a provider or a conflict: the item says how it went. Once more after a process that
        was killed in the middle, it goes on, or finds that all is done."""

    def apply(
        self,
        progress: Progress | None = None,
        *,
        concurrency: int = 1,
        rps: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[T]:
        """Do what is planned, as a job; one item that fails does not stop the others. Returns what became of the items.

        Args:
            progress: told each item as it ends.
            concurrency: how many items are under way at once, a thread each.
            rps: at most so many requests to the provider a second.
            stop: asked between items; once it says yes, none is begun: `resume` goes on.

        Raises:
            InvalidInput: the concurrency or rate means nothing.
        """
        return self._collected(self.ended(concurrency, rps, stop), progress)

    def each(
        self, *, concurrency: int = 1, rps: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[T]:
        """Like `apply`, handing over each item as it ends and keeping none."""
        return (ended.item for ended in self.ended(concurrency, rps, stop))  # type: ignore[misc] # steps make this kind

    def resume(self, progress: Progress | None = None, **how: Any) -> list[T]:
        """Go on with the plan where it stopped; items that failed are tried again. Takes what `apply` takes.

        Raises:
            Conflict: it was never applied, or its job was cancelled.
        """
        self.require_job()
        return self.apply(progress, **how)

    def require_job(self) -> None:
        """Raises Conflict where the plan was never applied."""
        if self.job is None:
            raise Conflict("this plan was never applied: there is nothing to resume; apply it")

    async def apply_async(
        self,
        driver: AsyncDriver,
        progress: Progress | None = None,
        *,
        concurrency: int = 1,
        rps: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[T]:
        """`apply`, awaited: a task for each item under way."""
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
        """Do what is planned, handing over each item with its number."""
        run = self._begun(concurrency, rps, stop)
        if run is None:
            return
        try:
            yield from _performed(run, concurrency, self._wait)
        finally:
            self._ended(run)

    def _begun(self, concurrency: int, rps: float | None, stop: Callable[[], bool]) -> JobRun | None:
        """The job, begun or gone on with; None where nothing is planned."""
        if not 1 <= concurrency <= JOB_WORKERS_MAX:
            raise InvalidInput(f"{concurrency} workers cannot be had: give a concurrency of 1 to {JOB_WORKERS_MAX}")
        if rps is not None and rps <= 0:
            raise InvalidInput(f"a rate of {rps:g} requests a second does nothing: give more than 0")
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
        """The items in the plan's order."""
        return [found[number] for number in sorted(found)]


def _performed(run: JobRun, workers: int, wait: Wait) -> Iterator[Ended]:
    """Each item as it ends. One worker works in the caller's thread, several have one each."""
    if workers == 1:
        yield from (part for part in heard(run.worker(), wait) if isinstance(part, Ended))
        return
    told: SimpleQueue[Ended | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            for part in heard(run.worker(), wait):
                if isinstance(part, Ended):
                    told.put(part)
            told.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are handed over
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
    finally:  # whoever listens may have gone, or was told to stop: the steps in hand are ended
        run.stop()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


async def _awaited(run: JobRun, workers: int, driver: AsyncDriver) -> AsyncIterator[Ended]:
    """Each item as it ends, of workers that are tasks."""
    told: asyncio.Queue[Ended | None] = asyncio.Queue()

    async def work() -> None:
        try:
            async for part in driver.heard(run.worker()):
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
