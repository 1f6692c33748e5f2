"""Provide replay to asynchronous apps, with the names and the meaning of `Replay` and its plans."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from .driving import AsyncDriver
from .failures import Cause
from .job_run import Item
from .jobs import JobState
from .plans import Plan, Progress
from .rebuild import RebuildItem
from .reconcile_item import ReconcileItem
from .replay import Replay
from .rerun_item import RerunItem
from .verification import Verification

T = TypeVar("T", bound=Item)


class AsyncPlan(Generic[T]):
    """Describe what would be done; `apply` does it. See `Plan`."""

    def __init__(self, plan: Plan[T], driver: AsyncDriver) -> None:
        self._plan = plan
        self._driver = driver

    @property
    def items(self) -> list[T]:
        """Return the planned items; after the plan was applied, their outcomes.

        This may read the ledger's database, because some plans keep only keys.
        """
        return self._plan.items

    @property
    def job(self) -> JobState | None:
        """See `Plan.job`."""
        return self._plan.job

    @property
    def stopped_by_limit(self) -> bool:
        """Return whether a limit stopped it."""
        return self._plan.stopped_by_limit

    async def apply(self, progress: Progress | None = None, **how: Any) -> list[T]:
        """See the `apply` of the plan, which accepts the same arguments."""
        return await self._plan.apply_async(self._driver, progress, **how)

    async def resume(self, progress: Progress | None = None, **how: Any) -> list[T]:
        """See `Plan.resume`."""
        self._plan.require_job()
        return await self.apply(progress, **how)


class AsyncReplay:
    """Create plans over the conversations of one ledger. `Replay` documents the methods."""

    def __init__(self, replay: Replay, driver: AsyncDriver) -> None:
        self._replay = replay
        self._driver = driver

    async def plan_rebuild(
        self,
        keys: Sequence[str] | None = None,
        to: str | None = None,
        at: int | datetime | None = None,
        fresh: bool = False,
        limit: int | None = None,
        search: str | None = None,
    ) -> AsyncPlan[RebuildItem]:
        """See `Replay.plan_rebuild`."""
        plan = await self._driver.work(lambda: self._replay.plan_rebuild(keys, to, at, fresh, limit, search))
        return AsyncPlan(plan, self._driver)

    async def plan_rerun(
        self,
        runs: Sequence[str] = (),
        keys: Sequence[str] = (),
        failed: bool = False,
        since: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        backend: str | None = None,
        model: str | None = None,
        tools: str = "recorded",
        **more: Any,
    ) -> AsyncPlan[RerunItem]:
        """See `Replay.plan_rerun`, which accepts the same arguments."""
        plan = await self._driver.work(
            lambda: self._replay.plan_rerun(runs, keys, failed, since, cause, backend, model, tools, **more)
        )
        return AsyncPlan(plan, self._driver)

    async def plan_reconcile(
        self,
        keys: Sequence[str] | None = None,
        to: str | None = None,
        adopt: bool = False,
        limit: int | None = None,
    ) -> AsyncPlan[ReconcileItem]:
        """See `Replay.plan_reconcile`; here, the threads are read immediately."""
        plan = await self._driver.work(lambda: self._replay.plan_reconcile(keys, to, adopt, limit))
        plan.keep([await self._driver.perform(planning) for planning in plan.plannings()])
        return AsyncPlan(plan, self._driver)

    async def verify(self, keys: Sequence[str] | None = None, to: str | None = None) -> list[Verification]:
        """See `Replay.verify`."""
        places = await self._driver.work(lambda: list(self._replay.places(keys, to)))
        return [await self._driver.perform(self._replay.verifier.verifying(key, kind)) for key, kind in places]

    async def jobs(self) -> list[JobState]:
        """See `Replay.jobs`."""
        return await self._driver.work(self._replay.jobs)

    async def job(self, job_id: str) -> JobState:
        """See `Replay.job`."""
        return await self._driver.work(lambda: self._replay.job(job_id))

    async def results(self, job_id: str) -> list[dict[str, Any]]:
        """See `Replay.results`."""
        return await self._driver.work(lambda: self._replay.results(job_id))

    async def resume(self, job_id: str, progress: Progress | None = None, **how: Any) -> AsyncPlan[Any]:
        """See `Replay.resume`."""
        plan: AsyncPlan[Any] = AsyncPlan(await self._driver.work(lambda: self._replay.plan_of(job_id)), self._driver)
        await plan.apply(progress, **how)
        return plan

    async def cancel(self, job_id: str) -> JobState:
        """See `Replay.cancel`."""
        return await self._driver.work(lambda: self._replay.cancel(job_id))
