"""Run the work of workers with Procrastinate, in a schema of its own in the ledger's PostgreSQL database.

An item is one row, which is deleted when it has been done: what it did is in the log, and what failed in the notes of workers.
A worker that is killed leaves its rows `doing`: `reap`, which one worker at a time calls, has them done again. Workers poll:
a notification for each row would make all appends wait for each other when they commit.

Source: Procrastinate 3.10, its schema.sql and worker.py, read in November 2026.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import procrastinate
from procrastinate import exceptions, jobs
from procrastinate.schema import SchemaManager

from threadledger.domain.errors import StoreUnavailable
from threadledger.domain.failures import redact
from threadledger.domain.limits import CLAIM_RENEWAL_SECONDS

from ..daemon_threads import DaemonThreads
from ..sql import TASK, Deferral, deferred
from .engine import LANES, WAITING_MAX, Perform, WorkItem, performed

if TYPE_CHECKING:
    from ..sql import Database

logger = logging.getLogger("threadledger.worker")

for _name in ("procrastinate", "psycopg.pool"):  # what they report is reported here, in one line
    logging.getLogger(_name).addHandler(logging.NullHandler())

POLL_SECONDS = 0.5
"""Interval at which a worker that has nothing to do looks for items, in seconds."""

SILENCE_SECONDS = 3 * CLAIM_RENEWAL_SECONDS
"""Time after which a worker that does not report counts as gone, in seconds: less than a claim lasts."""

RESTART_SECONDS = 1.0
"""Pause before a worker connects again whose database was away, in seconds."""

REAP_SECONDS_MAX = 10.0
"""Maximum time of one look for items of ended workers, in seconds."""

IDLE_SECONDS_MAX = 10.0
"""Time after which the server ends a transaction of the engine whose process sends nothing, in seconds."""

CONNECTIONS_MAX = 4
"""Maximum number of connections of one worker process for the engine."""

CHANGES = (
    "DROP TRIGGER procrastinate_jobs_notify_queue_job_inserted_v1 ON procrastinate_jobs",
    "CREATE INDEX threadledger_locks ON procrastinate_jobs (lock) WHERE status IN ('todo', 'doing')",
    "CREATE INDEX threadledger_shares ON procrastinate_jobs ((args ->> 'share')) WHERE status = 'todo'",
)
"""What is changed in the engine's schema: no notifications, and indexes for many waiting rows."""


class ProcrastinateEngine:
    """Run items of a PostgreSQL database, each by one worker of one of the processes that share it."""

    remembers = True

    def __init__(self, database: Database, perform: Perform, concurrency: int) -> None:
        self._database = database
        self._deferral = Deferral(database)
        self._perform = perform
        self._concurrency = concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app: procrastinate.App | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._is_stopping = threading.Event()
        self._threads = DaemonThreads(concurrency * len(set(LANES.values())), "threadledger-work")
        self._thread = threading.Thread(target=self._run, name="threadledger-engine", daemon=True)

    def start(self) -> None:
        self._deferral.set_up(SchemaManager.get_schema(), version("procrastinate"), CHANGES)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        self._is_stopping.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self._cancel)
        self._thread.join(seconds)
        self._threads.stop()

    def defer(self, items: Iterable[WorkItem]) -> None:
        self._deferral.defer(
            deferred(LANES[item.kind], item.kind, item.subject, item.share, item.due_at, once=item.once)
            for item in items
        )

    def room(self) -> int:
        waiting, _ = self._deferral.counts()
        return max(WAITING_MAX - waiting, 0)

    def reap(self) -> int:
        loop = self._loop
        if loop is None or self._app is None:
            return 0
        future = asyncio.run_coroutine_threadsafe(self._reaped(), loop)
        try:
            return future.result(REAP_SECONDS_MAX) + self._deferral.revive()
        except (TimeoutError, exceptions.ProcrastinateException) as error:
            future.cancel()
            raise StoreUnavailable(f"the engine of workers cannot be used: {redact(str(error))}") from error

    def counts(self) -> Mapping[str, int]:
        waiting, running = self._deferral.counts()
        return {"waiting": waiting, "running": running}

    # In the thread of the engine

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                asyncio.run(self._serve())
            except Exception as error:  # noqa: BLE001 - it connects again
                logger.warning("the engine of workers is started again: %s", redact(str(error) or repr(error)))
            self._is_stopping.wait(RESTART_SECONDS)

    async def _serve(self) -> None:
        """Run a worker for each lane until the engine stops, or the database cannot be used."""
        parameters: dict[str, Any] = self._database.kind.connection_parameters()  # type: ignore[attr-defined]
        connector = procrastinate.PsycopgConnector(
            conninfo="",
            kwargs=parameters,
            configure=partial(_configure, self._deferral.schema),
            min_size=1,
            max_size=CONNECTIONS_MAX,
        )
        app = procrastinate.App(connector=connector)
        app.task(name=TASK, pass_context=False)(self._do)
        asyncio.get_running_loop().set_exception_handler(_log_quietly)
        async with app.open_async():
            self._loop, self._app = asyncio.get_running_loop(), app
            try:
                self._workers = {
                    asyncio.create_task(self._work(app, lane), name=f"lane {lane}") for lane in set(LANES.values())
                }
                await asyncio.wait(self._workers, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._loop = self._app = None
                self._cancel()
                await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, app: procrastinate.App, lane: str) -> None:
        await app.run_worker_async(
            queues=[lane],
            name=f"threadledger-{lane}",
            concurrency=self._concurrency,
            fetch_job_polling_interval=POLL_SECONDS,
            listen_notify=False,
            delete_jobs="successful",
            install_signal_handlers=False,
            update_heartbeat_interval=CLAIM_RENEWAL_SECONDS,
            stalled_worker_timeout=SILENCE_SECONDS,
        )

    def _cancel(self) -> None:
        """End the workers after their items in progress; a second cancellation would break these off."""
        for worker in self._workers - self._cancelled:
            worker.cancel()
        self._cancelled |= self._workers

    async def _do(self, kind: str, subject: str, share: str = "") -> None:
        """Do an item in a thread; one that is to be done again later becomes another row."""
        await self._threads.call(partial(self._done, WorkItem(kind, subject, share)))

    def _done(self, item: WorkItem) -> None:
        again = item if self._is_stopping.is_set() else performed(self._perform, item)
        if again is not None:
            self.defer([again])

    async def _reaped(self) -> int:
        """Have the rows of ended workers done again; a row whose item waits again already is deleted."""
        app = self._app
        if app is None:
            return 0
        stalled = [*await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=SILENCE_SECONDS)]
        for job in stalled:
            try:
                await app.job_manager.retry_job(job)
            except exceptions.ConnectorException:
                await app.job_manager.finish_job(job, status=jobs.Status.FAILED, delete_job=True)
        return len(stalled)


def _log_quietly(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no one waits for: the end of an item that could not be noted, which is found and done again."""
    logger.debug("the engine of workers: %s", redact(str(context.get("exception") or context.get("message"))))


async def _configure(schema: str, connection: Any) -> None:
    """Prepare a connection: the engine's own tables, and no wait for the disk, because its rows are only hints."""
    await connection.execute(f"SET search_path TO {schema}")
    await connection.execute("SET synchronous_commit TO off")
    await connection.execute(f"SET idle_in_transaction_session_timeout TO '{IDLE_SECONDS_MAX:.0f}s'")
    await connection.commit()
