"""Run the exchanges that requests have opened, in an event loop of its own, and take over those that a stopped process left."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation import key_of, stream_of
from threadledger.domain.effects import AsyncDriver, Interruption, ListenerLeft
from threadledger.domain.errors import (
    AllBackendsFailed,
    Conflict,
    ConversationNotFound,
    StoreUnavailable,
    ThreadledgerError,
)
from threadledger.domain.exchange import Conversing
from threadledger.domain.exchange.served import continued, expired
from threadledger.domain.failures import redact

from .calls import STORED_PREFIX, idempotency_key_of
from .exchange_slots import ExchangeSlots
from .limits import ServerLimits
from .refusals import without_text
from .replies import HandlerThreads
from .threads import requested_by

if TYPE_CHECKING:
    from threadledger.domain.effects import Effect, Effects
    from threadledger.domain.exchange import Answer, Exchange
    from threadledger.domain.journal import StreamHead
    from threadledger.domain.journal.served_notes import ServedNotes
    from threadledger.domain.ledger import Ledger

T = TypeVar("T")

logger = logging.getLogger("threadledger.server")

WORKERS = 16
"""Number of threads for the database work of running exchanges."""

SETTLE_SECONDS = 0.1
"""Interval at which ends of exchanges and sent responses are noted, in seconds: many in one commit."""

LOOK_SECONDS = 1.0
"""Interval at which exchanges are searched that no living process runs, in seconds."""

UPKEEP_PAUSE_SECONDS_MAX = 5.0
"""Longest pause before upkeep that failed is tried again, in seconds."""

NEWEST_EVENTS_READ = 100
"""Maximum number of events that are read to find out how an exchange ended that is still running here."""

TAKEN_AT_ONCE = 50
"""Maximum number of exchanges that are taken over at a time."""

STOP_SECONDS = 5.0
"""How long a server that stops lets running exchanges end, in seconds; then other processes continue them."""

LEAVE_SECONDS = 2.0
"""How long a server that stops waits for calls that it has broken off, in seconds: an app's function may not return."""

EXPIRED = "its time was over before it had an answer"

End = tuple[str, str]
"""Stream and id of an exchange."""


@dataclass
class LiveRun:
    """Show what happens in one running exchange to those who listen, each from its beginning.

    `parts` are the parts of the answer, then `None` at the end.
    """

    key: str
    exchange_id: str
    share: str = ""
    """Actor of the request, whose share of the exchanges it is part of; empty without keys."""
    parts: list[Any] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    error: Exception | None = None
    """Why there is no answer, once an attended run has ended; None if there is one."""
    listeners: int = 0
    """Number of those who attend the run: it is cancelled when the last one leaves."""
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set in the event loop when nothing of it is in progress any more."""
    has_begun: bool = False
    """Whether it has a slot: before that, it waits."""
    was_broken_off: bool = False
    """Whether it was cancelled because it has ended in the ledger."""
    seen_version: int = 0
    """Version of the conversation at which it was open, when that was last read."""

    def put(self, part: Any) -> None:
        """Add a part and wake the listeners."""
        with self.changed:
            self.parts.append(part)
            self.changed.notify_all()

    def listen(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[list[Any]]:
        """Yield the parts as they arrive, those that are there at the same time together.

        It ends when the run has ended, or when the listener has `stopped`.
        """
        number = 0
        while True:
            with self.changed:
                while number >= len(self.parts):
                    if stopped():
                        return
                    self.changed.wait(LOOK_SECONDS)
                parts = self.parts[number:]
            number += len(parts)
            if parts[-1] is not None:
                yield parts
                continue
            if parts[:-1]:
                yield parts[:-1]
            return

    @property
    def is_over(self) -> bool:
        """Return whether the run has ended, or waits for results."""
        return bool(self.parts) and self.parts[-1] is None

    def wait(self, seconds: float) -> None:
        """Block until the run has ended or waits for results, at most so many seconds."""
        until = time.monotonic() + seconds
        with self.changed:
            while not self.is_over and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)


class Runner:
    """Run exchanges in the background of a server. Its methods may be called from any thread."""

    def __init__(self, ledger: Ledger, limits: ServerLimits | None = None) -> None:
        limits = limits or ServerLimits()
        self._ledger = ledger
        self._live: dict[str, LiveRun] = {}
        self._attended: dict[str, LiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._sent: list[str] = []
        self._ended: list[End] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="threadledger-runs", daemon=True)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="threadledger-runs")
        self._slots = ExchangeSlots(limits.exchanges, limits.exchanges_per_key)
        self._threads = HandlerThreads(limits.exchanges)
        self._working = threading.Semaphore(WORKERS)
        self._leaves_threads = False

    @property
    def notes(self) -> ServedNotes:
        """Return the claims on exchanges and the notes of requests."""
        return self._ledger.journal.served_notes

    def start(self) -> None:
        """Start the event loop, and load what backends need; return when exchanges can be run."""
        services = self._ledger.services
        if services.load is not None:
            services.load()
        for candidate in services.policy.candidates:  # or the first request would wait for it
            getattr(services.backends[candidate.backend], "load", lambda: None)()
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Wait some seconds for running exchanges, then leave them to other processes, and end the event loop."""
        if self._stopping.is_set() or not self._ready.is_set():
            return
        self._stopping.set()
        self._do(self._end(STOP_SECONDS)).result()
        self._thread.join()
        self._settle()
        self.notes.release_all()
        self._pool.shutdown()

    def run(
        self,
        key: str,
        exchange_id: str,
        actor: str | None,
        *,
        stream: bool = False,
        resumed: bool = False,
        share: str | None = None,
    ) -> LiveRun:
        """Run an exchange that this process has claimed; return what listens to it. One that is running is not run again.

        One that is `resumed` was given the results for which it waited: what still runs of it only mirrors its calls, and it
        is run again after that. It counts in the `share` of its actor, unless another one is given, and waits if that is full.
        """
        with self._lock:
            before = self._live.get(exchange_id)
            if before is not None and not before.is_over and not resumed:
                return before
            live = self._live[exchange_id] = LiveRun(key, exchange_id, actor or "" if share is None else share)
        self._do(self._begin(live, actor, stream, before))
        return live

    def live(self, exchange_id: str) -> LiveRun | None:
        """Return what listens to an exchange that this process runs; None if it does not."""
        with self._lock:
            return self._live.get(exchange_id)

    def reserve(self, share: str) -> None:
        """Make sure that an exchange of this actor can be attended; raise a 429 if its key runs as many as it may.

        `attend` uses the reservation. Without it, call `give_back`.
        """
        self._slots.reserve(share)

    def give_back(self, share: str) -> None:
        """Give back what was reserved and is not used."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._slots.give_back, share)

    def attend(self, name: str, key: str, exchange_id: str, exchange: Exchange, share: str) -> LiveRun:
        """Run an exchange for those who listen to it, unless it runs under this name; nothing continues it when all have left.

        It was reserved for `share`. Each listener has to `leave`.
        """
        with self._lock:
            before = self._attended.get(name)
            live = before or LiveRun(key, exchange_id, share)
            live.listeners += 1
            self._attended[name] = live
        if before is not None:
            self.give_back(share)
        else:
            self._do(self._attend(name, live, exchange))
        return live

    def join(self, name: str) -> LiveRun | None:
        """Return the exchange that runs under this name, with one more listener; None if there is none."""
        with self._lock:
            live = self._attended.get(name)
            if live is not None:
                live.listeners += 1
            return live

    def leave(self, name: str, live: LiveRun) -> None:
        """Remove a listener from a run, which is cancelled if it has no other."""
        with self._lock:
            live.listeners -= 1
            if live.listeners == 0 and self._attended.get(name) is live:
                del self._attended[name]
            task = live.task if live.listeners == 0 and not live.is_over else None
        if task is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def is_attended(self, exchange_id: str) -> bool:
        """Return whether this process runs an exchange for those who listen to it."""
        with self._lock:
            return any(live.exchange_id == exchange_id for live in self._attended.values())

    def mirror(self, key: str) -> None:
        """Send what is missing to the conversation's threads at a provider, if it has any, without waiting for it."""
        services = self._ledger.services
        outbox = services.outbox
        if outbox is not None and outbox.has_mirrors and services.mirrored_to != "none":
            self._do(self._quietly(Conversing(self._ledger.journal, services, key)))

    def end(self, key: str, exchange_id: str) -> None:
        """Note that an exchange has ended, so that no process takes it over."""
        self._note_end(stream_of(key), exchange_id)

    def cancel(self, key: str, exchange_id: str) -> None:
        """Note that an exchange was cancelled, and break off its call to a provider if it is made here."""
        self.end(key, exchange_id)
        with self._lock:
            attended = (each for each in self._attended.values() if each.exchange_id == exchange_id)
            live = self._live.get(exchange_id) or next(attended, None)
        if live is not None:
            self._cancel(live)

    def sent(self, request_key: str) -> None:
        """Note that the response to a request was sent completely."""
        with self._lock:
            self._sent.append(request_key)

    def unsent(self, fingerprint: str) -> str | None:
        """Return the key of the newest request like this whose response was not completely sent; None if there is none."""
        found = self.notes.unsent(fingerprint)
        with self._lock:
            return None if found in self._sent else found

    def has_followers(self, key: str, request_key: str) -> bool:
        """Return whether another request was stored in a conversation after this one."""
        journal, own = self._ledger.journal, idempotency_key_of(request_key)
        stored = journal.keyed(key, own)
        if stored is None:
            return False
        later = (getattr(event, "idempotency_key", None) for event in journal.history(key, stored.originator_version))
        return any(each is not None and each != own and each.startswith(STORED_PREFIX) for each in later)

    def expire(self, key: str, exchange_id: str) -> bool:
        """End an exchange if its time is over; return whether it has ended."""
        try:
            is_over = expired(self._ledger.journal, self._ledger.services, key, exchange_id, EXPIRED)
        except ConversationNotFound:
            is_over = True
        if is_over:
            self._note_end(stream_of(key), exchange_id)
        return bool(is_over)

    # In the event loop

    def _do(self, what: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the event loop, from another thread."""
        if self._loop is None:
            raise RuntimeError("the runner was not started")
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    def _serve(self) -> None:
        asyncio.run(self._loop_until_stopped())

    async def _loop_until_stopped(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._driver = AsyncDriver(self._pool)
        self._stopped = asyncio.Event()
        keepers = [asyncio.create_task(self._every(SETTLE_SECONDS, self._settle))]
        keepers.append(asyncio.create_task(self._every(LOOK_SECONDS, self._look)))
        self._ready.set()
        await self._stopped.wait()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await self._driver.close()
        used = self._ledger.services_in_use
        if used is not None and used.aclose is not None:
            await used.aclose()

    async def _end(self, grace_seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS)
        self._leaves_threads = True
        self._threads.stop()
        self._stopped.set()

    async def _every(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something again and again; while it fails, in growing intervals. The log has its first failure and its recovery."""
        failures, logged = 0, ""
        while True:
            await asyncio.sleep(pause_after(failures, seconds))
            try:
                await self._driver.work(do)
            except Exception as error:  # noqa: BLE001 - it is tried again
                failures += 1
                if logged != type(error).__name__:
                    logged = type(error).__name__
                    _log_failure(error)
            else:
                if failures:
                    logger.warning("the server's upkeep works again, after %d failed attempts", failures)
                failures, logged = 0, ""

    async def _begin(self, live: LiveRun, actor: str | None, stream: bool, before: LiveRun | None) -> None:
        task = live.task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            if before is not None:
                await before.ended.wait()
            async with self._slots.of(live.share):
                live.has_begun = True
                await self._run(live, actor, stream)
        finally:
            if task is not None:
                self._tasks.discard(task)
            live.put(None)
            live.ended.set()
            with self._lock:
                if self._live.get(live.exchange_id) is live:
                    del self._live[live.exchange_id]

    async def _attend(self, name: str, live: LiveRun, exchange: Exchange) -> None:
        task = asyncio.current_task()
        with self._lock:
            live.task = task
        if task is not None:
            self._tasks.add(task)
        try:
            async with self._slots.reserved(live.share):
                live.has_begun = True
                if live.listeners:
                    await self._perform(_attended(exchange.run(), live), live.put)
        except asyncio.CancelledError:
            live.error = StoreUnavailable("the server stops, or all listeners have left: send the request again")
        except Exception as error:  # noqa: BLE001 - each listener raises it
            live.error = error
        finally:
            if task is not None:
                self._tasks.discard(task)
            with self._lock:
                if self._attended.get(name) is live:
                    del self._attended[name]
            live.put(None)

    async def _run(self, live: LiveRun, actor: str | None, stream: bool) -> None:
        journal = self._ledger.journal
        acting = journal if actor is None else journal.as_actor(actor, reserved=True)
        chat = Conversing(acting, self._ledger.services, live.key)
        place = stream_of(live.key), live.exchange_id
        answer: Answer | None = None

        def put(part: Any) -> None:
            nonlocal answer
            answer = part if part.type == "answer" else answer
            live.put(part)

        try:
            waits = partial(self.notes.wait, *place)
            await self._perform(continued(chat, live.exchange_id, stream=stream, waits=waits), put)
        except AllBackendsFailed:
            self._note_end(*place)
        except Conflict as error:  # it has ended, or another process runs it
            logger.info("exchange %s of %r is not run here: %s", live.exchange_id, live.key, redact(str(error)))
            self._note_end(*place)
        except ThreadledgerError as error:
            logger.warning("exchange %s of %r: %s", live.exchange_id, live.key, redact(str(error)))
        except Exception:
            logger.exception("exchange %s of %r broke off", live.exchange_id, live.key)
        else:
            if answer is None or not answer.pending:
                self._note_end(*place)

    async def _perform(self, effects: Effects[Any], put: Callable[[Any], None]) -> None:
        """Perform effects in a thread, which takes less time than awaiting them; cancelling this task interrupts them."""
        interruption = Interruption(self._working)
        ended = self._threads.call(partial(interruption.perform, effects, put))
        while True:
            try:
                return await asyncio.shield(ended)
            except asyncio.CancelledError as cancelled:
                if ended.done() or self._leaves_threads:
                    raise
                interruption.interrupt(cancelled)

    async def _quietly(self, chat: Conversing) -> None:
        try:
            await self._driver.perform(chat.mirror())
        except ThreadledgerError as error:
            logger.warning("the threads of %r are behind: %s", chat.key, redact(str(error)))

    # Notes

    def _note_end(self, stream: str, exchange_id: str) -> None:
        with self._lock:
            self._ended.append((stream, exchange_id))

    def _settle(self) -> None:
        with self._lock:
            sent, self._sent = self._sent, []
            ended, self._ended = self._ended, []
        try:
            self.notes.settle(sent=sent, ended=ended)
        except BaseException:
            with self._lock:
                self._sent, self._ended = [*sent, *self._sent], [*ended, *self._ended]
            raise

    def _look(self) -> None:
        self._take_over()
        self._break_off()

    def _break_off(self) -> None:
        """Cancel the exchanges that run here and were ended by another process: a silent call would not notice.

        One query finds the conversations that have changed since the last look.
        """
        with self._lock:
            live_runs = (*self._live.values(), *self._attended.values())
        running = [each for each in live_runs if each.has_begun and not each.was_broken_off]
        heads = {key_of(head.stream): head for head in self._ledger.journal.heads_of({each.key for each in running})}
        for live in running:
            head = heads.get(live.key)
            if head is not None and (head.version == live.seen_version or not self._was_ended(live, head)):
                live.seen_version = head.version
                continue
            logger.info("exchange %s of %r has ended elsewhere, and is not continued", live.exchange_id, live.key)
            live.was_broken_off = True
            self._note_end(stream_of(live.key), live.exchange_id)
            self._cancel(live)

    def _was_ended(self, live: LiveRun, head: StreamHead) -> bool:
        """Return whether an exchange was cancelled, or its conversation deleted; what its own task ends has ended otherwise."""
        journal, name = self._ledger.journal, live.exchange_id
        state = journal.state_of(head)
        if name in state.open_exchanges or name in state.abandoned:
            return False
        if name not in state.answered:
            return True  # it was of a deleted conversation whose key is used again
        newest = islice(journal.newest(live.key), NEWEST_EVENTS_READ)
        return any(isinstance(event, e.ExchangeCancelled) and event.exchange_id == name for event in newest)

    def _cancel(self, live: LiveRun) -> None:
        if live.task is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(live.task.cancel)

    def _share_of(self, key: str, exchange_id: str) -> str:
        """Return the actor that has requested an exchange."""
        lookups = self._ledger.journal.lookups(key)
        event = requested_by(lookups, exchange_id) if lookups is not None else None
        return event.actor or "" if event is not None else ""

    def _take_over(self) -> None:
        """Run or end exchanges that no living process runs: those of a stopped process, and those whose time is over."""
        if self._stopping.is_set():
            return
        for stream, exchange_id in self.notes.abandoned(TAKEN_AT_ONCE):
            if self.live(exchange_id) is not None:
                continue
            if self.expire(key_of(stream), exchange_id) or not self.notes.hold(stream, exchange_id):
                continue
            logger.info("exchange %s of %r is continued here", exchange_id, key_of(stream))
            share = self._share_of(key_of(stream), exchange_id)
            self.run(key_of(stream), exchange_id, None, share=share)


def pause_after(failures: int, seconds: float) -> float:
    """Return the pause before upkeep of this interval, in seconds: it doubles with each failure in a row, up to a limit."""
    return min(seconds * 2.0 ** min(failures, 32), max(seconds, UPKEEP_PAUSE_SECONDS_MAX))


def _log_failure(error: Exception) -> None:
    what = "the server's upkeep failed, and is tried again in growing intervals"
    if isinstance(error, ThreadledgerError):
        logger.warning("%s: %s", what, redact(str(error)))
    else:
        logger.warning("%s", what, exc_info=without_text(error))


def _attended(effects: Effects[T], live: LiveRun) -> Effects[T]:
    """Run effects; when their task is cancelled because all listeners have left, they see that."""
    step: Callable[[Any], Effect] = effects.send
    given: Any = None
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            effect = step(given)
        except StopIteration as end:
            return cast("T", end.value)
        except ListenerLeft:
            raise cancelled or asyncio.CancelledError from None
        try:
            step, given = effects.send, None
            given = yield effect
        except asyncio.CancelledError as error:
            cancelled = error
            step, given = effects.throw, error if live.listeners else ListenerLeft()
        except BaseException as error:  # noqa: BLE001 - the effects must see every exception first
            step, given = effects.throw, error
