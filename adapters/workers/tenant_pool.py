"""Do the work of many tenants in one process: the ledger of each is visited in turn, by a worker that stays while there is work.

A visit is short, so that no tenant waits for another one's work, and a tenant without news costs one query.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadledger.domain.errors import FileMissing, InvalidSettings, ThreadledgerError
from threadledger.domain.failures import redact
from threadledger.domain.ids import now, to_iso

from ..settings import TENANT, read_named_file
from ..tenant_ledgers import OPEN_LEDGERS, TenantLedgers
from .status import Labelled, Metric, StatusServer
from .worker import Worker, WorkerOptions, report_to_opentelemetry, run_until_signal, served_status

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger

    from ..settings import Settings

logger = logging.getLogger("threadledger.worker")

VISITS_AT_ONCE = 4
"""Maximum number of tenants that are visited at a time; they share the concurrency of the process."""

SLICE_SECONDS = 10.0
"""How long a visit lasts at most while other tenants wait, in seconds."""

LOOK_SECONDS = 0.1
"""Interval at which a visit is looked at, in seconds."""

ROUND_SECONDS = 1.0
"""Shortest time between two looks at the same tenant, in seconds."""

ROUND_SECONDS_EACH = 0.1
"""The same for each tenant, if there are more than ledgers may be open: each look then opens one, and closes another."""

RECENT_SECONDS = 30.0
"""How long a tenant is visited in each round after something of it has changed, in seconds."""

RARE_SECONDS, RARE_SECONDS_EACH = 30.0, 0.5
"""Longest time between two visits of a tenant without news, in seconds: as a whole, and for each tenant."""

FILE_SECONDS = 5.0
"""Interval at which the file of tenants is looked at, in seconds."""

ABSENT_SECONDS = 30.0
"""Pause before a tenant whose ledger cannot be opened is tried again, in seconds."""


@dataclass
class _OpenLedger:
    """Hold the ledger of a tenant."""

    ledger: Ledger

    def is_idle(self) -> bool:
        return True  # a visit that uses it has borrowed it

    def close(self) -> None:
        self.ledger.close()


@dataclass
class _Tenant:
    """Hold what is known of a tenant."""

    name: str
    next_at: float = 0.0
    """When it is looked at again, by the monotonic clock."""
    visited_at: float = float("-inf")
    changed_at: float = float("-inf")
    cursor: str = ""
    was_idle: bool = False
    """Whether the last visit ended because nothing was left to do."""
    problem: str = ""
    """Why its ledger cannot be used; empty if it can."""
    noted: Mapping[str, int] | None = None
    """Number of its failed and parked items."""


class TenantPool:
    """Do the work of the tenants of a file until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        path: Path,
        open_ledger: Callable[[Settings], Ledger],
        make_worker: Callable[[Ledger, Settings, WorkerOptions], Worker],
        options: WorkerOptions,
        open_ledgers: int = OPEN_LEDGERS,
    ) -> None:
        """Prepare a pool; `open_ledger` opens the ledger of a tenant's settings, and creates none.

        Raises:
            FileMissing: the file of tenants cannot be read.
            InvalidSettings: the database is the same for all tenants.
        """
        if not settings.is_per_tenant:
            raise InvalidSettings(
                "there is one ledger for all: --tenants needs {tenant} in THREADLEDGER_DB, and no --tenant"
            )
        self._settings = settings
        self._path = path
        self._make_worker = make_worker
        self._options = options
        self._open_ledgers = open_ledgers
        self._visits = max(min(options.concurrency, VISITS_AT_ONCE, open_ledgers), 1)
        self._ledgers = TenantLedgers(settings, lambda each: _OpenLedger(open_ledger(each)), open_ledgers)
        self._tenants: dict[str, _Tenant] = {}
        self._wrong: set[str] = set()
        self._visited: set[str] = set()
        """Tenants that are visited now."""
        self._done: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._started_at = now()
        self._read_at, self._read_as = float("-inf"), b""
        self._status: StatusServer | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"threadledger-tenants-{number}", daemon=True)
            for number in range(self._visits)
        ]
        self._read()

    @property
    def url(self) -> str:
        """Return where health and metrics are served; empty before the start."""
        return self._status.url if self._status is not None else ""

    @property
    def number_open(self) -> int:
        """Return the number of ledgers that are open now."""
        return self._ledgers.number_open

    def start(self) -> None:
        """Start to work, in threads.

        Raises:
            OSError: the address of health and metrics cannot be bound.
        """
        self._status = served_status(self._options, self.health, self.metrics)
        for thread in self._threads:
            thread.start()
        if self._settings.telemetry:
            report_to_opentelemetry(self.metrics)

    def stop(self) -> None:
        """End all visits, each as a worker ends, and close the ledgers."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._ledgers.stop()
        if self._status is not None:
            self._status.stop()

    def run_forever(self, announce: Callable[[], None] = lambda: None) -> bool:
        """Run until SIGTERM or Ctrl-C, and return whether it stopped in order. A second signal ends it at once."""
        return run_until_signal(self.start, self.stop, announce)

    def health(self) -> dict[str, Any]:
        """Return the facts of `/health`."""
        with self._lock:
            tenants = [*self._tenants.values()]
        problems = {each.name: each.problem for each in tenants if each.problem}
        return {
            "status": "stopping" if self._stopping.is_set() else "ok",
            "started_at": to_iso(self._started_at),
            "concurrency": self._options.concurrency,
            "tenants": len(tenants),
            "visited": len(self._visited),
            "open_ledgers": self.number_open,
            "failed": sum((each.noted or {}).get("failed", 0) for each in tenants),
            "parked": sum((each.noted or {}).get("parked", 0) for each in tenants),
            "unusable": problems,
        }

    def metrics(self) -> Iterable[Metric]:
        """Return the metrics of this process, over all its tenants."""
        with self._lock:
            done: Labelled = {
                (("kind", kind), ("outcome", outcome)): float(n) for (kind, outcome), n in self._done.items()
            }
        yield Metric("threadledger_worker_items_total", "Items that this worker has ended.", "counter", done)
        found = self.health()
        for name, value, text in (
            ("tenants", found["tenants"], "Tenants that are visited in turn."),
            ("tenants_unusable", len(found["unusable"]), "Tenants whose ledgers cannot be used."),
            ("open_ledgers", found["open_ledgers"], "Ledgers that are open."),
            ("items_failed", found["failed"], "Items that failed and are tried again."),
            ("items_parked", found["parked"], "Items that failed too often and wait for a person."),
        ):
            yield Metric(f"threadledger_worker_{name}", text, "gauge", {(): float(value)})

    def _run(self) -> None:
        """Visit one tenant after the other."""
        while not self._stopping.is_set():
            tenant = self._next()
            if tenant is None:
                self._stopping.wait(LOOK_SECONDS)
                continue
            try:
                self._look(tenant)
                tenant.problem = ""
            except ThreadledgerError as error:
                self._note_problem(tenant, redact(str(error)))
            except Exception as error:
                logger.exception("the work for the tenant %s broke off", tenant.name)
                self._note_problem(tenant, redact(str(error)) or type(error).__name__)
            finally:
                with self._lock:
                    self._visited.discard(tenant.name)

    def _next(self) -> _Tenant | None:
        """Take the tenant that has waited longest, if one is due."""
        with self._lock:
            if time.monotonic() - self._read_at >= FILE_SECONDS:
                self._read()
            moment = time.monotonic()
            due = [each for name, each in self._tenants.items() if each.next_at <= moment and name not in self._visited]
            if not due:
                return None
            tenant = min(due, key=lambda each: each.next_at)
            self._visited.add(tenant.name)
            return tenant

    def _look(self, tenant: _Tenant) -> None:
        """Visit a tenant if it has news, if its last visit was cut short, or if it was not visited for long."""
        with self._ledgers.lent(tenant.name) as opened:
            journal, moment = opened.ledger.journal, time.monotonic()
            cursor = journal.last_cursor()
            if cursor != tenant.cursor:
                tenant.cursor, tenant.changed_at = cursor, moment
            rare = self._rare_seconds
            is_recent = moment - tenant.changed_at < RECENT_SECONDS
            if is_recent or not tenant.was_idle or moment - tenant.visited_at >= rare:
                self._visit(tenant, opened.ledger)
            each = ROUND_SECONDS_EACH * len(self._tenants) if len(self._tenants) > self._open_ledgers else 0.0
            tenant.next_at = time.monotonic() + max(ROUND_SECONDS, each)

    @property
    def _rare_seconds(self) -> float:
        return max(RARE_SECONDS, RARE_SECONDS_EACH * len(self._tenants))

    def _visit(self, tenant: _Tenant, ledger: Ledger) -> None:
        options = WorkerOptions(
            max(self._options.concurrency // self._visits, 1),
            shows_status=False,
            looks_at_all=not tenant.was_idle,
            returns_seconds=self._rare_seconds + SLICE_SECONDS,
        )
        worker = self._make_worker(ledger, self._settings.of_tenant(tenant.name), options)
        until = time.monotonic() + SLICE_SECONDS
        worker.start()
        try:
            tenant.was_idle = False
            while not self._stopping.wait(LOOK_SECONDS):
                tenant.was_idle = worker.is_idle
                is_over = time.monotonic() > until and not worker.work.doing["schedule"]  # a command is not cut short
                if tenant.was_idle or is_over:
                    break
        finally:
            worker.stop()
            tenant.visited_at = time.monotonic()
            with self._lock:
                self._done.update(worker.work.done)
        tenant.noted = worker.work.notes.counts()

    def _note_problem(self, tenant: _Tenant, problem: str) -> None:
        if problem != tenant.problem:
            logger.warning("%s: its ledger cannot be used, and is tried again: %s", tenant.name, problem)
        tenant.problem, tenant.next_at = problem, time.monotonic() + ABSENT_SECONDS

    def _read(self) -> None:
        """Read the file of tenants if it has changed; wrong lines are said once, and the others hold.

        Raises:
            FileMissing: it cannot be read for the first time; later, the tenants stay as they were.
        """
        is_first, self._read_at = self._read_at == float("-inf"), time.monotonic()
        try:
            content = read_named_file(self._path)
        except OSError as error:
            problem = f"the file of tenants {self._path} cannot be read ({error.strerror})"
            if is_first:
                raise FileMissing(f"{problem}: give a file with one tenant a line (--tenants)") from error
            logger.warning("%s: the tenants stay as they were", problem)
            return
        if content == self._read_as:
            return
        self._read_as = content
        names = tenants_in(content.decode("utf-8", "replace"))
        for wrong in [each for each in names if TENANT.fullmatch(each) is None and each not in self._wrong]:
            self._wrong.add(wrong)
            logger.warning("%s: %a cannot be the name of a tenant and is left out", self._path, wrong[:100])
        right = dict.fromkeys(each for each in names if TENANT.fullmatch(each) is not None)
        self._tenants = {name: self._tenants.get(name) or _Tenant(name) for name in right}


def tenants_in(text: str) -> Sequence[str]:
    """Return the lines of a file of tenants, without comments (`#`) and empty lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
