"""Provide the domain API for asynchronous apps, with the names and the meaning of `Ledger`, `Chat` and `Replay`.

A ledger is used by one event loop. A few threads do the database work, however many exchanges are in progress.

`failures = awaited(Ledger.failures)` declares a method by the blocking one: same parameters, same result, same docstring.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from copy import copy
from datetime import datetime
from functools import partial, wraps
from itertools import islice
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from ..conversation import Profile
from ..conversation.messages import JournaledMessage
from ..effects import AsyncDriver, Effects
from ..exchange import Answer, AskKeywords, Policy, Services, StreamPart
from ..journal import Finding, Journal, UpkeepProgress, quietly
from ..journal.uploads import AttachmentCopy
from ..limits import ASYNC_WORKERS, TOOL_WORKERS
from ..replay import ApplyKeywords, Item, JobState, Plan, Progress, Replay, forked
from ..signatures import checked
from .api_keys import ApiKeys
from .chat import OWN_RUN_TIMEOUT_SECONDS, PARSED, Chat
from .ledger import Ledger
from .logged_events import LoggedEvent, in_log
from .own_runs import AsyncOwnRun, OwnExchange, OwnRunning

P = ParamSpec("P")
T = TypeVar("T")
BlockingT = TypeVar("BlockingT")
ItemT = TypeVar("ItemT", bound=Item)

EVENTS_AT_ONCE = 200
"""Number of events that a worker reads from the log at once."""


class AsyncFace(Generic[BlockingT]):
    """Hold a blocking object and the driver on whose pool its methods run."""

    def __init__(self, blocking: BlockingT, driver: AsyncDriver) -> None:
        self._blocking = blocking
        self._driver = driver


def awaited(
    method: Callable[Concatenate[BlockingT, P], T],
) -> Callable[Concatenate[AsyncFace[BlockingT], P], Coroutine[Any, Any, T]]:
    """Return an asynchronous method that does the work of a blocking one on the driver's pool."""

    @wraps(method)
    async def working(face: AsyncFace[BlockingT], /, *args: P.args, **named: P.kwargs) -> T:
        return await face._driver.work(partial(method, face._blocking, *args, **named))

    return working


def performed(
    method: Callable[Concatenate[BlockingT, P], Effects[T]],
) -> Callable[Concatenate[AsyncFace[BlockingT], P], Coroutine[Any, Any, T]]:
    """Return an asynchronous method that performs the effects of a method."""

    @wraps(method)
    async def performing(face: AsyncFace[BlockingT], /, *args: P.args, **named: P.kwargs) -> T:
        return await face._driver.perform(method(face._blocking, *args, **named))

    return performing


def planned(
    method: Callable[Concatenate[Replay, P], Plan[ItemT]],
) -> Callable[Concatenate[AsyncFace[Replay], P], Coroutine[Any, Any, AsyncPlan[ItemT]]]:
    """Return an asynchronous method that makes the plan of a blocking one and reads the data that the plan needs."""

    @wraps(method)
    async def planning(face: AsyncFace[Replay], /, *args: P.args, **named: P.kwargs) -> AsyncPlan[ItemT]:
        plan = await face._driver.work(partial(method, face._blocking, *args, **named))
        await face._driver.perform(plan.read())
        return AsyncPlan(plan, face._driver)

    return planning


@checked("conversation")
class AsyncLedger(AsyncFace[Ledger]):
    """Provide all conversations of one database; created by `threadledger.open_async()`.

    `Ledger` documents the methods.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._closed = False
        self._pool = ThreadPoolExecutor(ASYNC_WORKERS, thread_name_prefix="threadledger")
        self._tools = ThreadPoolExecutor(TOOL_WORKERS, thread_name_prefix="threadledger-tools")
        self.driver = AsyncDriver(self._pool, tools=self._tools)
        super().__init__(ledger, self.driver)

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
        if self.ledger.journal.copied is not None:  # of an actor
            return
        await self.driver.close()
        if self._closed:
            return
        self._closed = True
        used = self.ledger.services_in_use
        if used is not None and used.aclose is not None:
            await used.aclose()
        await self.driver.work(self.ledger.close)
        self._tools.shutdown(wait=False)
        self._pool.shutdown(wait=False)

    @property
    def schema_before(self) -> int | None:
        """See `Ledger.schema_before`."""
        return self.ledger.schema_before

    @property
    def replay(self) -> AsyncReplay:
        """See `Ledger.replay`."""
        return AsyncReplay(self.ledger.replay, self.driver)

    @property
    def api_keys(self) -> AsyncApiKeys:
        """See `Ledger.api_keys`."""
        return AsyncApiKeys(self.ledger.api_keys, self.driver)

    def conversation(self, key: str, *, profile: Profile | None = None) -> AsyncChat:
        """See `Ledger.conversation`."""
        return AsyncChat(self.ledger.journal, self.ledger.services, key, self.driver, profile)

    def as_actor(self, name: str) -> AsyncLedger:
        """See `Ledger.as_actor`."""
        acting = copy(self)
        acting.ledger = acting._blocking = self.ledger.as_actor(name)
        return acting

    read_blob = awaited(Ledger.read_blob)

    async def remove_upload(self, upload: AttachmentCopy) -> None:
        """See `Ledger.remove_upload`."""
        from .attachments import remove_upload

        await self.driver.perform(remove_upload(self.ledger.journal, self.ledger.services, upload))

    async def fork(self, key: str, new_key: str, at: int | datetime | None = None) -> AsyncChat:
        """See `Ledger.fork`."""
        await self.driver.perform(forked(self.ledger.journal, self.ledger.services, key, new_key, at))
        return self.conversation(new_key)

    async def events(
        self,
        after: int | str = 0,
        types: Iterable[str] = (),
        key: str | None = None,
        follow: bool = False,
        *,
        checked: bool = False,
    ) -> AsyncIterator[LoggedEvent]:
        """See `Ledger.events`: `async for event in ledger.events(…)`. With `follow`, it uses a separate thread."""
        if not follow:
            events = self.ledger.events(after, types, key, checked=checked)
            while page := await self.driver.work(lambda: list(islice(events, EVENTS_AT_ONCE))):
                for event in page:
                    yield event
            return
        # The thread may be waiting for an event that is not wanted any more: end the subscription first, then the
        # thread.
        with (
            ThreadPoolExecutor(1, thread_name_prefix="threadledger-follow") as alone,
            self.ledger.journal.following(after, tuple(types)) as followed,
        ):
            waiting, coming = AsyncDriver(alone), in_log(followed, key, self.ledger.journal)
            while next_one := await waiting.work(lambda: list(islice(coming, 1))):
                yield next_one[0]

    async def check(self, progress: UpkeepProgress = quietly) -> list[Finding]:
        """See `Ledger.check`; returns all findings at once."""
        return await self.driver.work(lambda: list(self.ledger.check(progress)))

    attach = awaited(Ledger.attach)
    uploads = awaited(Ledger.uploads)
    removable_uploads = awaited(Ledger.removable_uploads)
    conversations = awaited(Ledger.conversations)
    search = awaited(Ledger.search)
    state = awaited(Ledger.state)
    failures = awaited(Ledger.failures)
    runs = awaited(Ledger.runs)
    failure_groups = awaited(Ledger.failure_groups)
    resolve_group = awaited(Ledger.resolve_group)
    mute_group = awaited(Ledger.mute_group)
    reopen_group = awaited(Ledger.reopen_group)
    summary = awaited(Ledger.summary)
    profiles = awaited(Ledger.profiles)
    diff_profiles = awaited(Ledger.diff_profiles)
    threads = awaited(Ledger.threads)
    health = awaited(Ledger.health)
    parent = awaited(Ledger.parent)
    exchanges = awaited(Ledger.exchanges)
    memory = awaited(Ledger.memory)
    diff = awaited(Ledger.diff)
    run = awaited(Ledger.run)
    status = awaited(Ledger.status)
    rebuild_views = awaited(Ledger.rebuild_views)
    back_up = awaited(Ledger.back_up)
    copy_to = awaited(Ledger.copy_to)
    close_overdue_runs = awaited(Ledger.close_overdue_runs)


class AsyncApiKeys(AsyncFace[ApiKeys]):
    """Add, revoke and find the keys of the served API. `ApiKeys` documents the methods."""

    add = awaited(ApiKeys.add)
    revoke = awaited(ApiKeys.revoke)
    all = awaited(ApiKeys.all)
    find = awaited(ApiKeys.find)
    any_exists = awaited(ApiKeys.any_exists)


@checked(*PARSED)
class AsyncChat(AsyncFace[Chat]):
    """Represent a conversation by its key; it starts with its first message. `Chat` documents the methods."""

    def __init__(
        self, journal: Journal, services: Services, key: str, driver: AsyncDriver, profile: Profile | None = None
    ) -> None:
        super().__init__(Chat(journal, services, key, profile), driver)
        self._conversing = self._blocking._conversing
        self.key = key

    async def append(
        self,
        role: str,
        content: str | Sequence[Mapping[str, Any]] | None,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
        **fields: Any,
    ) -> JournaledMessage:
        """See `Chat.append`."""
        chat = self._conversing.acting(actor)
        append = partial(chat.append, role, content, idempotency_key, fields, expected_version)
        return await self._driver.perform(chat.mirrored(append))

    async def extend(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> list[JournaledMessage]:
        """See `Chat.extend`."""
        chat = self._conversing.acting(actor)
        extend = partial(chat.extend, messages, idempotency_key, expected_version)
        return await self._driver.perform(chat.mirrored(extend))

    async def ask(
        self,
        text: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[AskKeywords],
    ) -> Answer:
        """See `Chat.ask`. If it is cancelled, the run ends as interrupted."""
        return await self._driver.perform(self._conversing.using(options).ask(text, idempotency_key))

    def stream(
        self,
        text: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[AskKeywords],
    ) -> AsyncGenerator[StreamPart, None]:
        """See `Chat.stream`: `async for part in chat.stream(text)`."""
        return self._driver.stream(self._conversing.using(options).ask(text, idempotency_key, stream=True))

    async def rerun(
        self,
        exchange_id: str,
        policy: Policy | None = None,
        *,
        live: bool = False,
        idempotency_key: str | None = None,
        **options: Unpack[AskKeywords],
    ) -> Answer:
        """See `Chat.rerun`."""
        return await self._driver.perform(
            self._conversing.using(options).rerun(exchange_id, policy, live=live, idempotency_key=idempotency_key)
        )

    @asynccontextmanager
    async def run(
        self,
        backend: str,
        model: str,
        timeout_seconds: float = OWN_RUN_TIMEOUT_SECONDS,
        *,
        journal: bool = True,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> AsyncIterator[AsyncOwnRun]:
        """See `Chat.run`: `async with chat.run(…) as run`."""
        running = OwnRunning(self._conversing.acting(actor), backend, model, timeout_seconds, journal, idempotency_key)
        await self._driver.perform(running.start())
        try:
            yield AsyncOwnRun(running, self._driver)
        except BaseException as error:
            await self._driver.perform(running.fail(error))
            raise
        await self._driver.perform(running.end())

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[OwnExchange]:
        """See `Chat.exchange`: `async with chat.exchange() as exchange`."""
        with OwnExchange(self._conversing).entered() as exchange:
            try:
                yield exchange
            except BaseException as error:
                await self._driver.perform(exchange.end(interrupted=not isinstance(error, Exception)))
                raise
            await self._driver.perform(exchange.end())

    async def edit(
        self,
        message_id: str,
        content: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> JournaledMessage:
        """See `Chat.edit`."""
        return await self._driver.perform(self._conversing.acting(actor).edit(message_id, content, idempotency_key))

    async def regenerate(
        self, message_id: str | None = None, *, idempotency_key: str | None = None, **options: Unpack[AskKeywords]
    ) -> Answer:
        """See `Chat.regenerate`."""
        return await self._driver.perform(self._conversing.using(options).regenerate(message_id, idempotency_key))

    def stream_regenerate(
        self, message_id: str | None = None, *, idempotency_key: str | None = None, **options: Unpack[AskKeywords]
    ) -> AsyncGenerator[StreamPart, None]:
        """See `Chat.stream_regenerate`."""
        return self._driver.stream(self._conversing.using(options).regenerate(message_id, idempotency_key, stream=True))

    async def select_branch(
        self, message_id: str, reason: str = "", *, here: bool = False, actor: str | None = None
    ) -> JournaledMessage:
        """See `Chat.select_branch`."""
        return await self._driver.perform(self._conversing.acting(actor).select(message_id, reason, here=here))

    async def approve(self, call_id: str, reason: str = "", *, actor: str | None = None) -> Answer:
        """See `Chat.approve`."""
        chat = self._conversing.acting(actor)
        return await self._driver.perform(chat.decide_call(call_id, reason, approved=True))

    async def reject(self, call_id: str, reason: str = "", *, actor: str | None = None) -> Answer:
        """See `Chat.reject`."""
        chat = self._conversing.acting(actor)
        return await self._driver.perform(chat.decide_call(call_id, reason, approved=False))

    async def compact(self, keep_last: int | None = None, **options: Unpack[AskKeywords]) -> JournaledMessage | None:
        """See `Chat.compact`."""
        return await self._driver.perform(self._conversing.using(options).compact(keep_last))

    async def delete(self, reason: str = "", *, actor: str | None = None) -> Mapping[str, Sequence[str]]:
        """See `Chat.delete`."""
        return await self._driver.perform(self._conversing.acting(actor).delete(reason))

    memory = awaited(Chat.memory)
    variants = awaited(Chat.variants)
    branches = awaited(Chat.branches)
    pin = awaited(Chat.pin)
    rate = awaited(Chat.rate)
    events = awaited(Chat.events)
    failures = awaited(Chat.failures)
    describe = awaited(Chat.describe)
    retract = awaited(Chat.retract)
    clear = awaited(Chat.clear)


class AsyncPlan(AsyncFace[Plan[ItemT]]):
    """Describe what would be done; `apply` does it. See `Plan`."""

    @property
    def items(self) -> list[ItemT]:
        """Return the planned items; after the plan was applied, their outcomes.

        This may read the ledger's database, because some plans keep only keys.
        """
        return self._blocking.items

    @property
    def job(self) -> JobState | None:
        """See `Plan.job`."""
        return self._blocking.job

    @property
    def stopped_by_limit(self) -> bool:
        """Return whether a limit stopped it."""
        return self._blocking.stopped_by_limit

    async def apply(self, progress: Progress | None = None, **how: Unpack[ApplyKeywords]) -> list[ItemT]:
        """See `Plan.apply`."""
        return await self._blocking.apply_async(self._driver, progress, **how)

    async def resume(self, progress: Progress | None = None, **how: Unpack[ApplyKeywords]) -> list[ItemT]:
        """See `Plan.resume`."""
        self._blocking.require_job()
        return await self.apply(progress, **how)


@checked()
class AsyncReplay(AsyncFace[Replay]):
    """Create plans over the conversations of one ledger. `Replay` documents the methods."""

    plan_rebuild = planned(Replay.plan_rebuild)
    plan_rerun = planned(Replay.plan_rerun)
    plan_reconcile = planned(Replay.plan_reconcile)
    verify = performed(Replay.verifying)
    jobs = awaited(Replay.jobs)
    job = awaited(Replay.job)
    results = awaited(Replay.results)
    cancel = awaited(Replay.cancel)
    compare = awaited(Replay.compare)

    async def resume(
        self, job_id: str, progress: Progress | None = None, **how: Unpack[ApplyKeywords]
    ) -> AsyncPlan[Any]:
        """See `Replay.resume`."""
        plan: AsyncPlan[Any] = AsyncPlan(await self._driver.work(lambda: self._blocking.plan_of(job_id)), self._driver)
        await plan.apply(progress, **how)
        return plan
