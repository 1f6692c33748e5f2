"""Run a worker: one long-lived process that does what otherwise happens only when an app calls the ledger."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from dataclasses import replace as with_values
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from threadledger.domain.errors import InvalidSettings, StoreError
from threadledger.domain.failures import redact
from threadledger.domain.ids import now, to_iso
from threadledger.domain.journal.worker_notes import RETURNS_BY
from threadledger.domain.limits import CLAIM_RENEWAL_SECONDS

from ..server import Runner, ServerLimits
from ..tenant_ledgers import environment_of
from .duties import Duties, DutyStep, Followed
from .engine import Engine, LocalEngine
from .reruns import RERUN_DUTY, RERUN_SECONDS, RerunPolicy, Reruns
from .scheduled_runs import LOOK_SECONDS, ScheduledRuns
from .status import Labelled, Metric, StatusApp, StatusServer
from .webhooks import WEBHOOK_SECONDS, Webhook, Webhooks
from .work import Done, LedgerWork

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger

    from ..settings import Settings
    from ..sql import Database
    from .schedules import Schedule

logger = logging.getLogger("threadledger.worker")

CONCURRENCY = 8
"""Number of items of each kind of work that a worker does at a time, unless it is told otherwise."""

CONCURRENCY_MAX = 64

STOP_SECONDS = 8.0
"""How long a worker that stops lets items in progress end, in seconds; then it breaks them off, and others do the rest."""

LEAVE_SECONDS = 1.0
"""How long a worker that stops waits for what it has broken off, in seconds."""

PORT_DEFAULT = 8733
"""Port of the health and the metrics of a worker."""


@dataclass(frozen=True)
class WorkerOptions:
    """Hold the options of a worker."""

    concurrency: int = CONCURRENCY
    host: str = "127.0.0.1"
    port: int | None = None
    """Port of health and metrics; None for `PORT_DEFAULT`, or a free one if another worker of this machine has it."""
    shows_status: bool = True
    """Whether health and metrics are served."""
    returns_seconds: float = 0.0
    """Time after which the worker is back at the latest when it has left, in seconds: one that visits many ledgers in turn."""
    looks_at_all: bool = True
    """Whether all conversations are looked through at the start, if what waits does not outlive the process."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidSettings: the concurrency is out of range.
        """
        if not 1 <= self.concurrency <= CONCURRENCY_MAX:
            raise InvalidSettings(
                f"a worker cannot do {self.concurrency} items at a time: give a concurrency of 1 to {CONCURRENCY_MAX}"
            )


class Worker:
    """Do the work of one ledger until it is stopped."""

    def __init__(
        self,
        ledger: Ledger,
        make_engine: Callable[[Callable[..., Any], int], Engine],
        options: WorkerOptions,
        *,
        by_worker: bool = False,
        schedules: Mapping[str, Schedule] | None = None,
        environment: Mapping[str, str] | None = None,
        webhooks: Webhooks | None = None,
        reruns: Reruns | None = None,
    ) -> None:
        """Prepare a worker; `schedules` are run as commands with this environment."""
        self._ledger = ledger
        self._options = options
        self._stopping = threading.Event()
        self._started_at = now()
        self.work = LedgerWork(ledger, self._stopping)
        self.engine = self.work.engine = make_engine(self.work.perform, options.concurrency)
        self._followed = Followed(ledger, self.work, self.engine, by_worker=by_worker)
        self._followed.has_swept |= not options.looks_at_all
        limits = ServerLimits(exchanges=options.concurrency, exchanges_per_key=options.concurrency)
        self._runner = Runner(ledger, limits)
        steps = self._followed.steps()
        if schedules:
            runs = ScheduledRuns(self.work.notes, schedules, self._stopping, environment or {})
            self.work.add_kind("schedule", lambda subject: Done(runs.run(subject)))
            steps.append(DutyStep("schedules", LOOK_SECONDS, runs.look(self.engine)))
        if webhooks is not None:
            self.work.add_kind("webhook", webhooks.send, most=1)
            steps.append(DutyStep("webhook", WEBHOOK_SECONDS, partial(webhooks.step, self.engine)))
        if reruns is not None:
            steps.append(DutyStep(RERUN_DUTY, RERUN_SECONDS, reruns.step))
        self._duties = Duties(self.work.notes, steps)
        self._status: StatusServer | None = None
        self.on_start: Callable[[Worker], None] = lambda _: None
        """Function that is called when the worker has started."""
        self._seen = threading.Thread(target=self._show, name="threadledger-worker-seen", daemon=True)

    @property
    def shows_status(self) -> bool:
        """Return whether health and metrics are served."""
        return self._options.shows_status

    @property
    def url(self) -> str:
        """Return where health and metrics are served; empty before the start."""
        return self._status.url if self._status is not None else ""

    def start(self) -> None:
        """Start to work, in threads.

        Raises:
            OSError: the address of health and metrics cannot be bound.
            StoreError: the database cannot be used.
        """
        self._status = served_status(self._options, self.health, self.metrics) if self._options.shows_status else None
        try:
            self._runner.start()
            self.work.notes.seen(self._facts())
            self.engine.start()
            self._duties.start()
            self._seen.start()
            self.on_start(self)
        except BaseException:
            self._runner.stop()
            if self._status is not None:
                self._status.stop()
            raise

    def stop(self) -> None:
        """End the work: start nothing new, let items in progress end for some seconds, and break off the rest."""
        self._stopping.set()
        self._duties.stop(LEAVE_SECONDS)
        stopping = threading.Thread(target=_stopped, args=(self._runner,), daemon=True)  # both take their time together
        stopping.start()
        self.engine.stop(STOP_SECONDS - LEAVE_SECONDS * 3)
        self.work.interrupt()
        self.engine.stop(LEAVE_SECONDS)
        stopping.join(STOP_SECONDS)
        with suppress(StoreError):
            if self._options.returns_seconds:
                back = now() + timedelta(seconds=self._options.returns_seconds)
                self.work.notes.seen({**self._facts(), RETURNS_BY: to_iso(back)})
            else:
                self.work.notes.leave()
        if self._status is not None:
            self._status.stop()

    def run_forever(self, announce: Callable[[], None] = lambda: None) -> bool:
        """Run until SIGTERM or Ctrl-C, and return whether the worker stopped in order. A second signal ends it at once."""
        return run_until_signal(self.start, self.stop, announce)

    @property
    def is_idle(self) -> bool:
        """Return whether each duty was done, and nothing waits or is in progress."""
        counts = {**self.engine.counts(), **self._runner.counts}
        return self._duties.were_done and not any(counts.values()) and self._followed.behind_since is None

    def health(self) -> dict[str, Any]:
        """Return the facts of `/health`; `status` is `ok` if the ledger can be read."""
        counts = {**self.engine.counts(), **self.work.notes.counts(), **self._runner.counts}
        since = self._followed.behind_since
        status = "stopping" if self._stopping.is_set() else "ok"
        return {
            "status": status,
            "started_at": to_iso(self._started_at),
            "concurrency": self._options.concurrency,
            **counts,
            "behind_seconds": round((now() - since).total_seconds(), 1) if since is not None else 0.0,
        }

    def metrics(self) -> Iterable[Metric]:
        """Return the metrics of this worker, and of the work of all."""
        done: Labelled = {
            (("kind", kind), ("outcome", outcome)): float(n) for (kind, outcome), n in [*self.work.done.items()]
        }
        yield Metric("threadledger_worker_items_total", "Items that this worker has ended.", "counter", done)
        counts = self.engine.counts()
        failed = self.work.notes.counts()
        for name, value, text in (
            ("waiting", counts["waiting"], "Items that wait for a worker."),
            ("running", counts["running"], "Items in progress, of all workers."),
            ("failed", failed["failed"], "Items that failed and are tried again."),
            ("parked", failed["parked"], "Items that failed too often and wait for a person."),
        ):
            yield Metric(f"threadledger_worker_items_{name}", text, "gauge", {(): float(value)})
        exchanges = float(self._runner.counts["exchanges"])
        text = "Exchanges in progress in this worker."
        yield Metric("threadledger_worker_exchanges", text, "gauge", {(): exchanges})
        since = self._followed.behind_since
        behind = (now() - since).total_seconds() if since is not None else 0.0
        yield Metric(
            "threadledger_worker_behind_seconds", "Age of the first event not followed.", "gauge", {(): behind}
        )
        lags: Labelled = {(("view", view["name"]),): float(view["lag"]) for view in self._ledger.status()["views"]}
        yield Metric("threadledger_view_lag_events", "Events that a view has not processed.", "gauge", lags)

    def _facts(self) -> dict[str, Any]:
        since = self._followed.behind_since
        behind = round((now() - since).total_seconds(), 1) if since is not None else 0.0
        facts = {"concurrency": self._options.concurrency, "items": sum(self.work.done.values()), "url": self.url}
        return facts | {"exchanges": self._runner.counts["exchanges"], "behind_seconds": behind}

    def _show(self) -> None:
        """Note again and again that this worker is alive."""
        while not self._stopping.wait(CLAIM_RENEWAL_SECONDS):
            try:
                self.work.notes.seen({**self._facts(), **self.engine.counts()})
            except StoreError as error:  # it is tried again
                logger.debug("the worker could not be noted as alive: %s", redact(str(error)))


def served_status(
    options: WorkerOptions, health: Callable[[], dict[str, Any]], metrics: Callable[[], Iterable[Metric]]
) -> StatusServer:
    """Serve health and metrics at the address of the options.

    Raises:
        OSError: it cannot be bound.
    """
    app = StatusApp(health, metrics)
    if options.port is not None:
        return StatusServer(app, options.host, options.port)
    try:
        return StatusServer(app, options.host, PORT_DEFAULT)
    except OSError:  # of another worker
        return StatusServer(app, options.host, 0)


def _stopped(runner: Runner) -> None:
    with suppress(StoreError):  # its claims end without it
        runner.stop()


def run_until_signal(start: Callable[[], None], stop: Callable[[], None], announce: Callable[[], None]) -> bool:
    """Start something, and stop it after SIGTERM or Ctrl-C; return whether it stopped before a second signal."""
    asked, forced = threading.Event(), threading.Event()
    with _signals(asked, forced):
        start()
        announce()
        while not asked.wait(0.5):  # in slices: some platforms do not notice a signal otherwise
            pass
        stopping = threading.Thread(target=stop, name="threadledger-worker-stop", daemon=True)
        stopping.start()
        while stopping.is_alive() and not forced.is_set():
            stopping.join(0.1)
    return not forced.is_set()


@contextmanager
def _signals(asked: threading.Event, forced: threading.Event) -> Iterator[None]:
    """Set an event at SIGTERM or Ctrl-C, and the other at the second one; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: object) -> None:
        (forced if asked.is_set() else asked).set()

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def open_worker(
    ledger: Ledger,
    settings: Settings,
    options: WorkerOptions | None = None,
    *,
    check_command: Callable[[str, Sequence[str]], tuple[str, ...]] | None = None,
) -> Worker:
    """Return a worker for a ledger, which is not started.

    `check_command` gets the place of each scheduled command and its words, and returns the words to run; without it, schedules
    are not run.

    Raises:
        InvalidSettings: the database is PostgreSQL, and Procrastinate is not installed or cannot be used with this URL; or a
            scheduled command cannot be run; or the webhook or the limits of reruns cannot be used.
        FolderNotTrusted: only the working folder names the schedules or the webhook, or asks for reruns.
    """
    schedules: dict[str, Schedule] = {}
    if check_command is not None and settings.schedules:
        settings.require_trust("schedules")
        for name, each in settings.schedules.items():
            words = check_command(f"{settings.config_file}: [schedules] {name!r}", each.command)
            schedules[name] = with_values(each, command=words)
    database: Database = ledger.journal.factory.database  # type: ignore[attr-defined]

    def make_engine(perform: Callable[..., datetime | None], concurrency: int) -> Engine:
        if database.kind.name != "postgresql":
            return LocalEngine(perform, concurrency)
        try:
            from .procrastinate_engine import ProcrastinateEngine
        except ImportError:
            raise InvalidSettings(
                "a worker on PostgreSQL needs Procrastinate, which is not installed: run pip install 'threadledger[workers]'"
            ) from None
        if database.kind.pooled:
            raise InvalidSettings(
                "a worker needs a connection of its own to PostgreSQL, and THREADLEDGER_DB names a pooler: give the worker "
                "the address of the server itself"
            )
        return ProcrastinateEngine(database, perform, concurrency)

    by_worker = settings.mirror_by == "worker" and database.kind.name != "postgresql"
    environment = os.environ | environment_of(settings)
    more: dict[str, Any] = {"schedules": schedules, "environment": environment}
    webhook = Webhook.of(settings)
    if webhook is not None:
        from ..sql import SqlWebhookMessages

        more["webhooks"] = Webhooks(ledger, SqlWebhookMessages(database), webhook)
    policy = RerunPolicy.of(settings)
    if policy is not None:
        more["reruns"] = Reruns(ledger, policy)
    worker = Worker(ledger, make_engine, options or WorkerOptions(), by_worker=by_worker, **more)
    if settings.telemetry and worker.shows_status:
        worker.on_start = lambda it: report_to_opentelemetry(it.metrics)
    return worker


def report_to_opentelemetry(metrics: Callable[[], Iterable[Metric]]) -> None:
    """Report metrics to OpenTelemetry too; opening a ledger has found out whether it is installed."""
    from .telemetry import report

    report(metrics)
