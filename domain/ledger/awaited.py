"""Provide the domain API for asynchronous apps, with the names and the meaning of `Ledger`, `Chat` and `Replay`.

A ledger is used by one event loop. A few threads do the database work, however many exchanges are in progress.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..conversation import ConversationState, Exchanges, RunRecord
from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from ..effects import AsyncDriver
from ..exchange import Answer, Conversing, Policy, Services, StreamPart
from ..failures import BackendHealth, Cause, FailureGroup, GroupState, RecordedFailure, SummaryRow
from ..journal import Finding, Journal, UpkeepProgress, quietly
from ..limits import ASYNC_WORKERS, TOOL_WORKERS
from ..memory import Memory, MemoryDiff
from ..replay import Item, JobState, Plan, Progress, RebuildItem, ReconcileItem, Replay, RerunItem, forked
from ..threads import Verification
from .chat import OWN_RUN_TIMEOUT_SECONDS, AsyncOwnRun, Chat, OwnRunning
from .ledger import Ledger, LoggedEvent, in_log

T = TypeVar("T")

EVENTS_AT_ONCE = 200
"""Number of events that a worker reads from the log at once."""


class AsyncLedger:
    """Provide all conversations of one database; created by `threadledger.open_async()`.

    `Ledger` documents the methods.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._closed = False
        self._pool = ThreadPoolExecutor(ASYNC_WORKERS, thread_name_prefix="threadledger")
        self._tools = ThreadPoolExecutor(TOOL_WORKERS, thread_name_prefix="threadledger-tools")
        self.driver = AsyncDriver(self._pool, tools=self._tools)

    def __await__(self) -> Generator[Any, None, Self]:
        """Return the ledger itself, so that `ledger = await threadledger.open_async()` is allowed."""
        return self
        yield

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close streams that were not read to the end, the database, and the connections to the provider."""
        await self.driver.close()
        if self._closed:
            return
        self._closed = True
        aclose = self.ledger.services.aclose
        if aclose is not None:
            await aclose()
        await self.driver.work(self.ledger.close)
        self._tools.shutdown(wait=False)
        self._pool.shutdown(wait=False)

    @property
    def schema_before(self) -> int | None:
        """See `Ledger.schema_before`."""
        return self.ledger.schema_before

    def conversation(self, key: str) -> AsyncChat:
        """See `Ledger.conversation`."""
        return AsyncChat(self.ledger.journal, self.ledger.services, key, self.driver)

    async def conversations(self, limit: int | None = None, search: str | None = None) -> list[ConversationState]:
        """See `Ledger.conversations`."""
        return await self._work(lambda: self.ledger.conversations(limit, search))

    async def state(self, key: str) -> ConversationState:
        """See `Ledger.state`."""
        return await self._work(lambda: self.ledger.state(key))

    async def events(
        self, after: int = 0, types: Sequence[str] = (), key: str | None = None, follow: bool = False
    ) -> AsyncIterator[LoggedEvent]:
        """See `Ledger.events`: `async for event in ledger.events(…)`. With `follow`, it uses a thread of its own."""
        if not follow:
            events = self.ledger.events(after, types, key)
            while page := await self._work(lambda: list(islice(events, EVENTS_AT_ONCE))):
                for event in page:
                    yield event
            return
        # The thread may be waiting for an event that is not wanted any more: end the subscription first, then the
        # thread.
        with (
            ThreadPoolExecutor(1, thread_name_prefix="threadledger-follow") as alone,
            self.ledger.journal.following(after, types) as followed,
        ):
            waiting, coming = AsyncDriver(alone), in_log(followed, key)
            while next_one := await waiting.work(lambda: list(islice(coming, 1))):
                yield next_one[0]

    async def failures(
        self,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        cause: Cause | str | None = None,
        code: str | None = None,
        backend: str | None = None,
        unanswered: bool = False,
        limit: int | None = None,
    ) -> list[RecordedFailure]:
        """See `Ledger.failures`."""
        return await self._work(lambda: self.ledger.failures(since, until, cause, code, backend, unanswered, limit))

    async def failure_groups(
        self, since: datetime | timedelta | None = None, states: Iterable[GroupState | str] | None = None
    ) -> list[FailureGroup]:
        """See `Ledger.failure_groups`."""
        return await self._work(lambda: self.ledger.failure_groups(since, states))

    async def resolve_group(self, group: str, note: str = "") -> FailureGroup:
        """See `Ledger.resolve_group`."""
        return await self._work(lambda: self.ledger.resolve_group(group, note))

    async def mute_group(self, group: str, until: datetime | None = None, note: str = "") -> FailureGroup:
        """See `Ledger.mute_group`."""
        return await self._work(lambda: self.ledger.mute_group(group, until, note))

    async def reopen_group(self, group: str, note: str = "") -> FailureGroup:
        """See `Ledger.reopen_group`."""
        return await self._work(lambda: self.ledger.reopen_group(group, note))

    async def summary(
        self, by: str = "cause", since: datetime | timedelta | None = None, until: datetime | timedelta | None = None
    ) -> list[SummaryRow]:
        """See `Ledger.summary`."""
        return await self._work(lambda: self.ledger.summary(by, since, until))

    async def health(self) -> list[BackendHealth]:
        """See `Ledger.health`."""
        return await self._work(self.ledger.health)

    async def fork(self, key: str, new_key: str, at: int | datetime | None = None) -> AsyncChat:
        """See `Ledger.fork`."""
        await self.driver.perform(forked(self.ledger.journal, self.ledger.services, key, new_key, at))
        return self.conversation(new_key)

    async def parent(self, key: str) -> tuple[str, int] | None:
        """See `Ledger.parent`."""
        return await self._work(lambda: self.ledger.parent(key))

    async def exchanges(self, key: str) -> Exchanges:
        """See `Ledger.exchanges`."""
        return await self._work(lambda: self.ledger.exchanges(key))

    async def memory(self, key: str, at: int | datetime | None = None) -> Memory:
        """See `Ledger.memory`."""
        return await self._work(lambda: self.ledger.memory(key, at))

    async def diff(
        self, key: str, before: int | datetime | None = None, after: int | datetime | None = None
    ) -> MemoryDiff:
        """See `Ledger.diff`."""
        return await self._work(lambda: self.ledger.diff(key, before, after))

    async def run(self, run_id: str) -> tuple[RunRecord, Exchanges]:
        """See `Ledger.run`."""
        return await self._work(lambda: self.ledger.run(run_id))

    async def status(self) -> dict[str, Any]:
        """See `Ledger.status`."""
        return await self._work(self.ledger.status)

    async def check(self, progress: UpkeepProgress = quietly) -> list[Finding]:
        """See `Ledger.check`; returns all findings at once."""
        return await self._work(lambda: list(self.ledger.check(progress)))

    async def rebuild_views(
        self, names: Sequence[str] = (), progress: Callable[[str, int, int], None] = lambda name, done, total: None
    ) -> None:
        """See `Ledger.rebuild_views`."""
        await self._work(lambda: self.ledger.rebuild_views(names, progress))

    async def back_up(self, path: str | Path, progress: UpkeepProgress = quietly) -> int:
        """See `Ledger.back_up`."""
        return await self._work(lambda: self.ledger.back_up(path, progress))

    async def copy_to(self, url: str, progress: UpkeepProgress = quietly) -> int:
        """See `Ledger.copy_to`."""
        return await self._work(lambda: self.ledger.copy_to(url, progress))

    async def close_overdue_runs(self) -> list[str]:
        """See `Ledger.close_overdue_runs`."""
        return await self._work(self.ledger.close_overdue_runs)

    @property
    def replay(self) -> AsyncReplay:
        """See `Ledger.replay`."""
        return AsyncReplay(self.ledger.replay, self.driver)

    async def _work(self, do: Callable[[], T]) -> T:
        return await self.driver.work(do)


class AsyncChat:
    """Represent a conversation by its key; it starts with its first message. `Chat` documents the methods."""

    def __init__(self, journal: Journal, services: Services, key: str, driver: AsyncDriver) -> None:
        self._conversing = Conversing(journal, services, key)
        self._chat = Chat(journal, services, key)
        self._driver = driver
        self.key = key

    async def append(
        self,
        role: str,
        content: str | Sequence[Mapping[str, Any]] | None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JournaledMessage:
        """See `Chat.append`."""
        return await self._driver.perform(self._conversing.append(role, content, idempotency_key, fields))

    async def extend(self, messages: Iterable[Mapping[str, Any]]) -> list[JournaledMessage]:
        """See `Chat.extend`."""
        return await self._driver.perform(self._conversing.extend(messages))

    async def ask(self, text: str, *, idempotency_key: str | None = None) -> Answer:
        """See `Chat.ask`. If it is cancelled, the run ends as interrupted."""
        return await self._driver.perform(self._conversing.ask(text, idempotency_key))

    def stream(self, text: str, *, idempotency_key: str | None = None) -> AsyncGenerator[StreamPart, None]:
        """See `Chat.stream`: `async for part in chat.stream(text)`."""
        return self._driver.stream(self._conversing.ask(text, idempotency_key, stream=True))

    async def rerun(self, exchange_id: str, policy: Policy | None = None, *, live: bool = False) -> Answer:
        """See `Chat.rerun`."""
        return await self._driver.perform(self._conversing.rerun(exchange_id, policy, live=live))

    @asynccontextmanager
    async def run(
        self, backend: str, model: str, timeout_seconds: float = OWN_RUN_TIMEOUT_SECONDS
    ) -> AsyncIterator[AsyncOwnRun]:
        """See `Chat.run`: `async with chat.run(…) as run`."""
        running = OwnRunning(self._conversing, backend, model, timeout_seconds)
        await self._driver.perform(running.start())
        try:
            yield AsyncOwnRun(running, self._driver)
        except BaseException as error:
            await self._driver.perform(running.fail(error))
            raise
        await self._driver.perform(running.end())

    async def memory(
        self, *, last: int | None = None, tokens: int | None = None, at: int | datetime | None = None
    ) -> Memory:
        """See `Chat.memory`."""
        return await self._driver.work(lambda: self._chat.memory(last=last, tokens=tokens, at=at))

    async def events(self, after: int = 0) -> list[e.Event]:
        """See `Chat.events`."""
        return await self._driver.work(lambda: self._chat.events(after))

    async def failures(self) -> list[RecordedFailure]:
        """See `Chat.failures`."""
        return await self._driver.work(self._chat.failures)

    async def retract(self, message_id: str, reason: str = "") -> None:
        """See `Chat.retract`."""
        await self._driver.work(lambda: self._chat.retract(message_id, reason))

    async def clear(self, reason: str = "") -> None:
        """See `Chat.clear`."""
        await self._driver.work(lambda: self._chat.clear(reason))


ItemT = TypeVar("ItemT", bound=Item)


class AsyncPlan(Generic[ItemT]):
    """Describe what would be done; `apply` does it. See `Plan`."""

    def __init__(self, plan: Plan[ItemT], driver: AsyncDriver) -> None:
        self._plan = plan
        self._driver = driver

    @property
    def items(self) -> list[ItemT]:
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

    async def apply(self, progress: Progress | None = None, **how: Any) -> list[ItemT]:
        """See the `apply` of the plan, which accepts the same arguments."""
        return await self._plan.apply_async(self._driver, progress, **how)

    async def resume(self, progress: Progress | None = None, **how: Any) -> list[ItemT]:
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
