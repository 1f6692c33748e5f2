"""Provide the domain API for asynchronous apps, with the names and the meaning of `Ledger`.

A ledger is used by one event loop. A few threads do the database work, however many exchanges are in progress.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .async_chat import AsyncChat
from .async_replay import AsyncReplay
from .audit import Exchanges, RunRecord
from .driving import AsyncDriver
from .failures import Cause, RecordedFailure
from .forking import forked
from .grouping import FailureGroup, GroupState
from .health import BackendHealth
from .ledger import Ledger, LoggedEvent, in_log
from .limits import ASYNC_WORKERS, TOOL_WORKERS
from .memory import Memory
from .memory_diff import MemoryDiff
from .state import ConversationState
from .summary import SummaryRow
from .upkeep import Finding, Progress, quietly

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
        aclose = self.ledger.outside.aclose
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
        return AsyncChat(self.ledger.journal, self.ledger.outside, key, self.driver)

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
        await self.driver.perform(forked(self.ledger.journal, self.ledger.outside, key, new_key, at))
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

    async def check(self, progress: Progress = quietly) -> list[Finding]:
        """See `Ledger.check`; returns all findings at once."""
        return await self._work(lambda: list(self.ledger.check(progress)))

    async def rebuild_views(
        self, names: Sequence[str] = (), progress: Callable[[str, int, int], None] = lambda name, done, total: None
    ) -> None:
        """See `Ledger.rebuild_views`."""
        await self._work(lambda: self.ledger.rebuild_views(names, progress))

    async def back_up(self, path: str | Path, progress: Progress = quietly) -> int:
        """See `Ledger.back_up`."""
        return await self._work(lambda: self.ledger.back_up(path, progress))

    async def copy_to(self, url: str, progress: Progress = quietly) -> int:
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
