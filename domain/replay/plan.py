"""Define plans, which show what a replay would do before it is done.

An applied plan runs as a job (`jobs.py`): it is recorded, can use several workers, and can be resumed wherever it
stopped. Workers of one or several processes claim items block by block, do one after another, and record the outcomes.
A worker is a generator of effects: several threads perform one each, or several tasks of an event loop await one each.
Whatever interrupts a worker, the items it has done are recorded and its claims are released. At the end, a worker waits
for the items of other processes, and does those that a killed one has left.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, Protocol, TypedDict, TypeVar, Unpack

from ..arguments import check, is_number, short
from ..conversation import events as e
from ..effects import AsyncDriver, Call, Effect, Effects, Emit, Pause, Wait, attended, stream, work
from ..errors import Conflict, InvalidInput
from ..ids import now
from ..journal import Journal
from ..limits import CLAIM_SECONDS, CLAIM_STEP_SECONDS_MAX, JOB_BLOCK_ITEMS_MAX, JOB_LOOK_SECONDS, JOB_WORKERS_MAX
from .jobs import DETACHED, Jobs, JobState

CHANGED = "changed since the plan: plan again"
"""Reason for skipping an item whose conversation has changed since the plan."""

ABOUT_THREADS = (e.ThreadLinked, e.ThreadLost, e.ThreadRebuilt, e.ThreadReconciled)


def has_changed(
    journal: Journal, key: str, version: int, apart_from: Callable[[e.Event], bool] = lambda event: False
) -> bool:
    """Return whether a conversation has changed after a version, apart from its threads and from certain events.

    Events about threads do not count, because an interrupted plan may itself have linked or lost a thread.
    """
    events = journal.history(key, after=version)
    return any(not isinstance(event, ABOUT_THREADS) and not apart_from(event) for event in events)


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


class ApplyKeywords(TypedDict, total=False):
    """Declare the keyword arguments of `apply`, `each` and `resume`; `ApplyOptions` describes them."""

    concurrency: int
    rps: float | None
    stop: Callable[[], bool]
    expected: int
    max_runs: int | None
    max_cost: float | None


@dataclass(frozen=True)
class ApplyOptions:
    """Hold the options of applying a plan."""

    concurrency: int = 1
    """Number of items in progress at once, each in its own thread or task."""
    rps: float | None = None
    """Maximum requests to the provider per second."""
    stop: Callable[[], bool] = lambda: False
    """Function called between items; once it returns true, no further item is started, and `resume` continues later."""
    expected: int = 1
    """Number of workers of all processes that are expected, so that the first one does not claim too much."""
    max_runs: int | None = None
    """For a rerun: maximum number of runs."""
    max_cost: float | None = None
    """For a rerun: maximum US dollars by the usage that the provider reports; no run is started that may reach it."""

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            InvalidInput: an option is of another kind, or the concurrency or the rate is out of range.
        """
        workers, rate = self.concurrency, self.rps
        check({"concurrency": "int", "expected": "int", "max_runs": "int | None", "stop": "Progress"}, vars(self))
        for name, given in (("rps", rate), ("max_cost", self.max_cost)):
            if given is not None and not is_number(given):
                raise InvalidInput(
                    f"{name}={short(given)} is no number: nothing was done; give a finite number, or None"
                )
        if not 1 <= workers <= JOB_WORKERS_MAX:
            raise InvalidInput(f"{workers} workers are not possible: use a concurrency of 1 to {JOB_WORKERS_MAX}")
        if self.expected < 1:
            raise InvalidInput(
                f"{self.expected} workers cannot be expected: give the number of all processes' workers, or 1"
            )
        if rate is not None and rate <= 0:
            raise InvalidInput(f"a rate of {rate:g} requests per second is not possible: use a number greater than 0")


class Plan(ABC, Generic[T]):
    """Describe what would be done, item by item. Nothing is done before the plan is applied."""

    kind: ClassVar[str]
    """One of `rebuild`, `rerun`, `reconcile` and `verify`."""
    block: ClassVar[int] = JOB_BLOCK_ITEMS_MAX
    """Maximum number of items that a worker claims at once. If it is killed, at most this many are checked again."""

    def __init__(self, jobs: Jobs, wait: Wait) -> None:
        self.job: JobState | None = None
        """Job that runs this plan, as of its last stop; None before the plan is applied."""
        self.stopped_by_limit = False
        self._jobs = jobs
        self._wait = wait
        self._items: list[T] | None = None

    @property
    def items(self) -> list[T]:
        """Return the planned items; after the plan was applied, their outcomes."""
        if self._items is None:
            self._items = list(self.planned())
        return self._items

    @abstractmethod
    def planned(self) -> Iterator[T]:
        """Yield the planned items one at a time."""

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

    def resumed_step(self, pin: Mapping[str, Any]) -> Effects[T]:
        """Do one item that a worker left in the middle, because its process was killed or has hung."""
        return self.step(pin)

    def read(self) -> Effects[None]:
        """Read what the items depend on outside the ledger, so that an asynchronous app can await it."""
        yield from ()

    def limit(self, max_runs: int | None = None, max_cost: float | None = None) -> None:
        """Set the limits of `apply`. Only a rerun has limits.

        Raises:
            InvalidInput: a limit was given.
        """
        if max_runs is not None or max_cost is not None:
            raise InvalidInput(f"max_runs and max_cost limit only reruns: omit them for a {self.kind}")

    def apply(self, progress: Progress | None = None, **how: Unpack[ApplyKeywords]) -> list[T]:
        """Run the plan as a job and return the outcomes of its items; a failed item does not stop the others.

        A rerun stops when a limit is reached; the rest stays planned, and `resume` continues with it.

        Args:
            progress: called with each item as it ends.
            how: the fields of `ApplyOptions`: `concurrency`, `rps` and `stop`; for a rerun, also `max_runs` and
                `max_cost`.

        Raises:
            InvalidInput: an option is out of range, or a limit does not apply to this plan or needs a price that is
                unknown.
        """
        found: dict[int, T] = {}
        for ended in self.run(ApplyOptions(**how)):
            found[ended.number] = ended.item
            if progress is not None:
                progress(ended.item)
        return self._listed(found)

    async def apply_async(
        self, driver: AsyncDriver, progress: Progress | None = None, **how: Unpack[ApplyKeywords]
    ) -> list[T]:
        """Run the plan like `apply`, awaited, with a task for each item in progress."""
        found: dict[int, T] = {}
        async with aclosing(self.run_async(ApplyOptions(**how), driver)) as all_ended:
            async for ended in all_ended:
                found[ended.number] = ended.item
                if progress is not None:
                    progress(ended.item)
        return self._listed(found)

    def each(self, **how: Unpack[ApplyKeywords]) -> Iterator[T]:
        """Run the plan like `apply`, but yield each item as it ends."""
        return (ended.item for ended in self.run(ApplyOptions(**how)))

    def resume(self, progress: Progress | None = None, **how: Unpack[ApplyKeywords]) -> list[T]:
        """Resume the plan where it stopped, and retry failed items. Accepts the same arguments as `apply`.

        Raises:
            Conflict: the plan was never applied, or its job was cancelled.
        """
        self.require_job()
        return self.apply(progress, **how)

    def detach(self, max_runs: int | None = None) -> JobState | None:
        """Store the plan as a job that workers do, without doing anything here; return None if nothing is planned.

        With `max_runs`, the job has only the first items of the plan, so that no number of workers does more.

        Raises:
            InvalidInput: the limit does not apply to this plan.
        """
        self.limit(max_runs)
        pins = iter(self.pins()) if max_runs is None else islice(self.pins(), max_runs)
        first = next(pins, None)
        if first is None:
            return None
        self.job = self._jobs.start(self.kind, self.options() | {DETACHED: True}, chain([first], pins))
        return self.job

    def shared(self, how: ApplyOptions, *, reopen: bool = False) -> Effects[None]:
        """Do items of the job, together with other processes, until all have ended or `how.stop` says so.

        Failed items are tried again only with `reopen`. Items are emitted as they end.

        Raises:
            Conflict: the plan was never applied, or its job was cancelled.
        """
        self.require_job()
        run = yield from work(partial(self._begun, how, reopen=reopen))
        if run is not None:
            yield from run.worker()
            yield from work(partial(self._ended, run))

    def require_job(self) -> None:
        """Raise Conflict if the plan was never applied."""
        if self.job is None:
            raise Conflict("this plan was never applied, so there is nothing to resume: apply it first")

    def run(self, how: ApplyOptions) -> Iterator[Ended[T]]:
        """Start or resume the job, and yield each item with its number as it ends."""
        run = self._begun(how)
        if run is None:
            return
        try:
            yield from _performed(run, how.concurrency, self._wait)
        finally:
            self._ended(run)

    async def run_async(self, how: ApplyOptions, driver: AsyncDriver) -> AsyncGenerator[Ended[T], None]:
        """Start or resume the job, and yield like `run`, awaited."""
        run = await driver.work(lambda: self._begun(how))
        if run is None:
            return
        async with aclosing(_awaited(run, how.concurrency, driver)) as all_ended:
            async for ended in all_ended:
                yield ended
        await driver.work(lambda: self._ended(run))

    def _begun(self, how: ApplyOptions, reopen: bool = True) -> JobRun[T] | None:
        """Return the job, started or resumed, or None if nothing is planned."""
        self.limit(how.max_runs, how.max_cost)
        self.stopped_by_limit = False
        if self.job is not None:
            self.job = self._jobs.get(self.job.job_id)
            if self.job.cancelled:
                raise Conflict(f"job {self.job.job_id} was cancelled: plan again")
            run = JobRun(self._jobs, self.job, self, how)
            if reopen:
                run.reopen_failed()
            return run
        pins = iter(self.pins())
        first = next(pins, None)
        if first is None:
            return None
        self.job = self._jobs.start(self.kind, self.options(), chain([first], pins))
        return JobRun(self._jobs, self.job, self, how)

    def _ended(self, run: JobRun[T]) -> None:
        self.stopped_by_limit = run.stopped_by_limit
        self.job = self._jobs.get(run.job.job_id)

    def _listed(self, found: Mapping[int, T]) -> list[T]:
        """Keep the outcomes as the plan's items, in the plan's order."""
        self._items = [found[number] for number in sorted(found)]
        return self._items


def _performed(run: JobRun[T], workers: int, wait: Wait) -> Iterator[Ended[T]]:
    """Yield each item as it ends. A single worker runs in the caller's thread; several have one thread each."""
    if workers == 1:
        yield from (part for part in stream(run.worker(), wait) if isinstance(part, Ended))
        return
    results: SimpleQueue[Ended[T] | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            for part in stream(run.worker(), wait):
                if isinstance(part, Ended):
                    results.put(part)
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are yielded
            run.stop()
            results.put(error)

    threads = [threading.Thread(target=work, name=f"threadledger-job-{n}", daemon=True) for n in range(workers)]
    errors: list[BaseException] = []
    try:
        for thread in threads:
            thread.start()
        at_work = workers
        while at_work:
            part = results.get()
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


async def _awaited(run: JobRun[T], workers: int, driver: AsyncDriver) -> AsyncGenerator[Ended[T], None]:
    """Yield each item as it ends; the workers are tasks."""
    results: asyncio.Queue[Ended[T] | None] = asyncio.Queue()

    async def work() -> None:
        try:
            async for part in driver.stream(run.worker()):
                if isinstance(part, Ended):
                    results.put_nowait(part)
        except BaseException:
            run.stop()
            raise
        finally:
            results.put_nowait(None)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        at_work = workers
        while at_work:
            part = await results.get()
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
class Ended(Generic[T]):
    """Represent the end of one item of a job, as reported by a worker."""

    number: int
    item: T


class CallRate:
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


Pins = dict[int, Mapping[str, Any]]
"""Items of a job by number."""


@dataclass(frozen=True, slots=True)
class Block:
    """Hold the items that a worker has claimed; `left` are those that another worker left in the middle."""

    pins: Pins
    left: Collection[int] = ()


class JobRun(Generic[T]):
    """Hold what the workers of one process share."""

    def __init__(self, jobs: Jobs, job: JobState, plan: Plan[T], how: ApplyOptions) -> None:
        self.job = job
        self.stopped_by_limit = False
        self._jobs = jobs
        self._plan = plan
        self._stop = how.stop
        self._rate = CallRate(how.rps)
        self._rated = how.rps is not None
        self._workers = how.concurrency
        self._expected = how.expected
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._before = jobs.ended(job)
        self._over = self._before.replace(b"f", b"\0")
        """One byte per item: zero if it is not known to have ended since this process joined the job."""
        self._ahead = self._not_ended()
        self._passed: dict[int, tuple[str, Mapping[str, Any]]] = {}
        """Items that another process held when this one reached them, each with its holder."""
        self._looked_at = -math.inf
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
        """Do items until every item of the job has ended, and report each one done here (`Ended`)."""
        holder = self._jobs.claims.name()
        self._names.add(holder)
        renew = _Renewing(partial(self._renew, holder))
        try:
            while (block := (yield from work(partial(self._take, holder)))) is not None:
                if block.pins:
                    yield from self._do(block, holder, renew)
                else:
                    yield Pause(JOB_LOOK_SECONDS)
        finally:
            yield from work(partial(self._jobs.claims.give_back, self.job.job_id, holder))

    def _do(self, block: Block, holder: str, renew: _Renewing) -> Effects[None]:
        ended: list[Ended[T]] = []
        waiting, left, looked_at = dict(block.pins), set(block.left), time.monotonic()
        try:
            for number, pin in block.pins.items():
                if self._is_over():
                    return
                if time.monotonic() - looked_at > CLAIM_SECONDS:  # this process may have been stopped meanwhile
                    again = yield from work(partial(self._claimed, waiting, holder))
                    waiting, left, looked_at = dict(again.pins), left | set(again.left), time.monotonic()
                if waiting.pop(number, None) is None:  # another process has it, or has done it
                    continue
                step = self._plan.resumed_step(pin) if number in left else self._plan.step(pin)
                item = yield from attended(step, partial(self._after, renew))
                if item.state == "planned":
                    self.stopped_by_limit = True
                    self.stop()
                    return
                ended.append(Ended(number, item))
                yield Emit(ended[-1])
        finally:
            if ended:
                yield from work(partial(self._record, ended, block, holder))

    def _after(self, renew: _Renewing, effect: Effect) -> Effects[None]:
        if self._rated and isinstance(effect, Call):
            seconds = self._rate.wait()
            if seconds:
                yield Pause(seconds)
        yield from renew()

    def _take(self, holder: str) -> Block | None:
        """Claim the next items. Return no items while other processes hold all that is left, and None at the end."""
        while not self._is_over():
            job = self._jobs.current(self.job)
            if job.cancelled:
                break
            size = self._size(job)
            with self._lock:
                pins = dict(islice(self._ahead, size))
            if pins:
                block = self._claimed(pins, holder)
                if block.pins:
                    return block
            elif not self._passed:
                break
            elif not self._look_again(job):
                return Block({})
        return None

    def _size(self, job: JobState) -> int:
        """Return the size of the next block: a share of what is left, so that all workers of all processes end together."""
        others = self._holders(job).keys() - self._names
        left = job.left + min(job.failed, self._before.count(b"f"))
        workers = max(self._workers + len(others), self._expected)
        return max(1, min(self._plan.block, left // (2 * workers)))

    def _claimed(self, pins: Pins, holder: str) -> Block:
        """Claim these items, and remember those that others hold."""
        found = self._jobs.claims.take(self.job.job_id, list(pins), holder, _latest())
        taken, left = set(found.taken), set(found.left)
        if left:  # their worker may have been killed after it recorded the outcome
            outcomes = self._jobs.ended(self.job)
            recorded = {each for each in left if outcomes[each] and outcomes[each] != self._before[each]}
            self._jobs.claims.end(self.job.job_id, sorted(recorded), holder)
            taken, left = taken - recorded, left - recorded
        with self._lock:
            self._passed |= {number: (by, pins[number]) for number, by in found.held.items()}
            for number in pins.keys() - found.held.keys() - taken:
                self._over[number] = 1
        return Block({number: pin for number, pin in pins.items() if number in taken}, left)

    def _look_again(self, job: JobState) -> bool:
        """Go back to items whose holder has released everything, has ended, or has lost its claims; return whether."""
        if time.monotonic() - self._looked_at < JOB_LOOK_SECONDS:
            return False
        at_work = self._holders(job)
        with self._lock:
            self._looked_at = time.monotonic()
            found = {number: pin for number, (by, pin) in self._passed.items() if by not in at_work}
            self._passed = {number: each for number, each in self._passed.items() if number not in found}
            self._ahead = chain(self._ahead, sorted(found.items()))
        return bool(found)

    def _holders(self, job: JobState) -> Mapping[str, str]:
        return self._jobs.claims.holders(job.job_id, max(self._over.find(0), 0))

    def _record(self, ended: list[Ended[T]], block: Block, holder: str) -> None:
        """Record the outcomes; an item whose claim was lost is recorded by the worker that has it now."""
        numbers = [each.number for each in ended]
        own = self._claimed({number: block.pins[number] for number in numbers}, holder).pins.keys()
        entries = []
        for each in ended:
            before = chr(self._before[each.number]) if self._before[each.number] else None
            facts = each.item.as_json() | {"runs_made": getattr(each.item, "runs_made", None)}  # of reruns alone
            entry = {"item": each.number, **facts, **({"before": _STATES[before]} if before else {})}
            entries += [entry] if each.number in own else []
        if not entries:
            return
        state = self._jobs.end_items(self.job.job_id, entries)
        with self._lock:
            self.job = state if state.version > self.job.version else self.job
            for number in own:
                self._over[number] = 1
        self._jobs.claims.end(self.job.job_id, sorted(own), holder)

    def _renew(self, holder: str) -> None:
        self._jobs.claims.renew(self.job.job_id, holder, _latest())

    def _is_over(self) -> bool:
        self._stopping = self._stopping or self._stop()
        return self._stopping

    def _not_ended(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Return the items that had not ended, or had failed, when this process joined the job."""
        return ((number, pin) for number, pin in self._jobs.pins(self.job.job_id) if not self._over[number])


_STATES = {"d": "done", "s": "skipped", "f": "failed"}


def _latest() -> datetime:
    """Return until when a claim is held if its worker makes no further step."""
    return now() + timedelta(seconds=CLAIM_STEP_SECONDS_MAX)


class _Renewing:
    """Set the latest end of a worker's claims again while it makes steps."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._at = time.monotonic()

    def __call__(self) -> Effects[None]:
        if time.monotonic() - self._at > CLAIM_STEP_SECONDS_MAX / 10:
            self._at = time.monotonic()
            yield from work(self._renew)
