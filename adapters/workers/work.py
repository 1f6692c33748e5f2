"""Do the items of workers: mirror a conversation, compact one, work on a job, look through all conversations."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation.tenants import tenant_of
from threadledger.domain.effects import Interrupted, Interruption
from threadledger.domain.errors import Conflict, ConversationNotFound, NotFound, StoreError, ThreadledgerError
from threadledger.domain.exchange import Conversing
from threadledger.domain.failures import redact
from threadledger.domain.ids import now
from threadledger.domain.journal.descriptions import description_of
from threadledger.domain.ledger import lags_among
from threadledger.domain.limits import CLAIM_SECONDS, WORK_ATTEMPTS_MAX
from threadledger.domain.replay import ApplyOptions

from .engine import WorkItem

if TYPE_CHECKING:
    from threadledger.domain.effects import Effects
    from threadledger.domain.journal.worker_notes import WorkerNotes
    from threadledger.domain.ledger import Ledger

    from .engine import Engine

logger = logging.getLogger("threadledger.worker")

SLICE_SECONDS = 10.0
"""How long a worker does items of one job before another job has its turn, in seconds."""

STORE_PAUSE_SECONDS = 5.0
"""Pause before an item is tried again that could not read or write the ledger, in seconds."""

CHANGED_PAUSE_SECONDS = 1.0
"""Pause before a conversation is looked at again that was changed while its threads were written, in seconds."""

DOUBT_LOOK_SECONDS = 60.0
"""Interval at which a thread is read to which an unconfirmed write may still arrive, in seconds; ten minutes later it cannot."""

SWEEP_CONVERSATIONS = 200
"""Number of conversations whose threads are compared with the journal at a time, by what is noted of them."""

BEHIND = ("unlinked", "unsettled", "behind")
"""States of a thread that sending repairs."""


class WorkFailed(Exception):
    """Raised when an item is not done; it is tried again later."""


@dataclass(frozen=True)
class Done:
    """Describe the outcome of an item."""

    what: str = "done"
    again_at: datetime | None = None
    """When it is to be done again; None if it need not."""


class LedgerWork:
    """Do items for one ledger. Its methods may be called from any thread."""

    def __init__(self, ledger: Ledger, is_stopping: threading.Event) -> None:
        self._ledger = ledger
        self._journal = ledger.journal
        self._is_stopping = is_stopping
        self.engine: Engine | None = None
        """Takes further items; set before the first one is done."""
        self.done: dict[tuple[str, str], int] = {}
        """Number of items by kind and outcome: `done`, `later` or `failed`."""
        self.doing: Counter[str] = Counter()
        """Number of items in progress by kind."""
        self._lock = threading.Lock()
        self._in_progress: set[Interruption] = set()
        self._kinds: dict[str, Callable[[str], Done]] = {
            "mirror": self._mirror,
            "compact": self._compact,
            "job": self._job,
            "sweep": self._sweep,
        }
        self._most: dict[str, int] = {}

    def add_kind(self, kind: str, do: Callable[[str], Done], most: int = WORK_ATTEMPTS_MAX) -> None:
        """Do another kind of work with a function of its subject; after `most` failures an item is parked."""
        self._kinds[kind] = do
        self._most[kind] = most

    @property
    def notes(self) -> WorkerNotes:
        """Return the notes of workers."""
        return self._journal.worker_notes

    def perform(self, item: WorkItem) -> datetime | None:
        """Do an item and return when it is to be done again; a failure is noted, and tried again from the notes."""
        with self._lock:
            self.doing[item.kind] += 1
        try:
            return self._performed_item(item)
        finally:
            with self._lock:
                self.doing[item.kind] -= 1

    def _performed_item(self, item: WorkItem) -> datetime | None:
        began = time.monotonic()
        do = self._kinds.get(item.kind)
        if do is None:
            return _later(STORE_PAUSE_SECONDS)  # a worker with other settings has queued it, and does it
        try:
            outcome = do(item.subject)
            self.notes.succeed(item.kind, item.subject)
        except Interrupted:
            return now()  # another worker does it
        except StoreError as error:
            self._log(item, began, "later", f"the ledger cannot be used: {error}")
            return _later(STORE_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - it is noted, and tried again
            return self._failed(item, began, error)
        self._log(item, began, "done" if outcome.again_at is None else "later", outcome.what)
        return outcome.again_at

    def interrupt(self) -> None:
        """Interrupt what is in progress, because the worker stops: others do the rest."""
        with self._lock:
            in_progress = [*self._in_progress]
        for each in in_progress:
            each.interrupt(Interrupted())

    def share_of(self, key: str) -> str:
        """Return whose work a conversation is: that of its tenant, or of its owner."""
        tenant = tenant_of(key)
        if tenant:
            return f"tenant:{tenant}"
        loaded = self._journal.load(key)
        if loaded is None:
            return ""
        owner = description_of(self._journal, key, loaded.state).owner
        return f"owner:{owner}" if owner else ""

    def places(self) -> int:
        """Return the number of items of a kind that all living workers do at a time: no job has more rows in an engine."""
        alive = [row.facts for row in self.notes.workers() if row.is_alive]
        return sum(int(facts.get("concurrency", 1)) for facts in alive)

    def _failed(self, item: WorkItem, began: float, error: Exception) -> datetime | None:
        known = isinstance(error, ThreadledgerError | WorkFailed)
        if not known:
            logger.exception("%s of %r broke off", item.kind, item.subject)
        try:
            most = self._most.get(item.kind, WORK_ATTEMPTS_MAX)
            noted = self.notes.fail(item.kind, item.subject, str(error) or repr(error), most=most)
        except StoreError:
            return _later(STORE_PAUSE_SECONDS)
        then = "it is parked" if noted.next_at is None else f"attempt {noted.attempts}, tried again"
        self._log(item, began, "failed", f"{error}; {then}")
        return None

    def _log(self, item: WorkItem, began: float, outcome: str, what: str) -> None:
        with self._lock:
            ended = (item.kind, outcome)
            self.done[ended] = self.done.get(ended, 0) + 1
        level = logging.WARNING if outcome == "failed" else logging.INFO
        seconds = time.monotonic() - began
        place = f"{self._journal.tenant}: " if self._journal.tenant else ""
        logger.log(level, "%s%s %r: %s (%.2f s)", place, item.kind, item.subject, redact(what), seconds)

    @contextmanager
    def _interruptible(self) -> Iterator[Interruption]:
        interruption = Interruption(threading.Semaphore())
        with self._lock:
            self._in_progress.add(interruption)
        try:
            if self._is_stopping.is_set():
                raise Interrupted
            yield interruption
        finally:
            with self._lock:
                self._in_progress.discard(interruption)

    def _performed(self, effects: Effects[Any], put: Callable[[Any], None] = lambda _: None) -> Any:
        with self._interruptible() as interruption:
            return interruption.perform(effects, put)

    # Kinds of work

    def _mirror(self, key: str) -> Done:
        """Send what the threads of a conversation lack."""
        services = self._ledger.services
        outbox = services.outbox
        if outbox is None or not outbox.has_mirrors:
            if services.mirrored_to == "none":
                return Done("no threads are written")
            raise WorkFailed("this worker can reach no threads: give it the key of the provider")
        try:
            before = self._journal.require(key).version
            unsent = self._performed(outbox.send_missing(self._journal, key))
        except ConversationNotFound:
            return Done("it was deleted")
        refused = [each.reason for each in unsent if each.until is None]
        if refused:
            raise WorkFailed("; ".join(refused))
        if unsent:
            return Done(unsent[0].reason, max(each.until for each in unsent))
        lags = lags_among(self._journal, services, [key])
        if lags.held_keys:
            return Done("another process writes to its thread", _later(CLAIM_SECONDS))
        behind = [each for each in lags.threads if each.state in BEHIND]
        if not behind and lags.doubtful_keys:  # its copy is deleted when it is found
            return Done("up to date; an unconfirmed write may still arrive", _later(DOUBT_LOOK_SECONDS))
        if not behind:
            return Done("up to date")
        if self._journal.require(key).version == before:
            raise WorkFailed(f"{behind[0].mirror}: the thread is {behind[0].state} after it was written")
        return Done("changed meanwhile", _later(CHANGED_PAUSE_SECONDS))

    def _compact(self, key: str) -> Done:
        """Cover the older messages of a conversation by a summary, if the policy says so."""
        try:
            self._performed(Conversing(self._journal, self._ledger.services, key).compact_if_due())
        except ConversationNotFound:
            return Done("it was deleted")
        return Done()

    def _job(self, subject: str) -> Done:
        """Do items of a job, which other workers do too; its subject is `JOB/NUMBER`, a place in which one worker does so."""
        job_id, _, number = subject.partition("/")
        until = time.monotonic() + SLICE_SECONDS
        is_over = False

        def stop() -> bool:
            nonlocal is_over
            is_over = self._is_stopping.is_set() or time.monotonic() > until
            return is_over

        try:
            plan = self._ledger.replay.plan_of(job_id)
            effects = plan.shared(ApplyOptions(stop=stop, expected=max(self.places(), 1)))
            self._performed(effects, partial(self._log_ended, job_id))
        except (NotFound, Conflict) as error:  # it was cancelled, or lost with a rewound log
            return Done(str(error))
        except StoreError:
            raise
        except ThreadledgerError as error:  # no worker with these settings can do it
            if number == "0":
                self.notes.fail("job", job_id, str(error), most=WORK_ATTEMPTS_MAX)
            return Done(f"it cannot be done here: {error}")
        job = plan.job
        if job is None or is_over:
            return Done("another job has its turn", now())
        if number == "0" and not job.left and not job.cancelled:
            return self._end_job(job_id, job.kind, job.failed)
        return Done("nothing is left to do here")

    def _end_job(self, job_id: str, kind: str, failed: int) -> Done:
        """Note that all items of a job have ended; failed ones are tried again, except those that would call a model again."""
        if not failed:
            self.notes.succeed("job", job_id)
            return Done("the job is done")
        most = 1 if kind == "rerun" else WORK_ATTEMPTS_MAX
        noted = self.notes.fail("job", job_id, f"{failed} items of the {kind} failed", most=most)
        return Done("failed items are tried again" if noted.next_at is not None else "the job has failed items")

    def _log_ended(self, job_id: str, part: Any) -> None:
        item = getattr(part, "item", None)
        if item is not None:
            reason = f": {redact(item.reason)}" if item.reason else ""
            logger.info("job %s %r: %s%s", job_id[-8:], item.key, item.state, reason)

    def _sweep(self, _subject: str) -> Done:
        """Find all conversations whose threads lag behind, page by page, while there is room for them."""
        found, page = 0, list[str]()
        for key, _ in self._journal.versions():
            page.append(key)
            if len(page) == SWEEP_CONVERSATIONS:
                found += self.defer_lagging(page)
                page = []
                self._wait_for_room()
        found += self.defer_lagging(page)
        return Done(f"{found} conversations are behind")

    def defer_lagging(self, keys: list[str]) -> int:
        """Queue those of these conversations whose threads lag behind; return their number."""
        engine, services = self.engine, self._ledger.services
        if engine is None or not keys or services.outbox is None or not services.outbox.has_mirrors:
            return 0
        lags = lags_among(self._journal, services, keys)
        held = _later(CLAIM_SECONDS)
        behind = dict.fromkeys(each.key for each in lags.threads if each.state in BEHIND)
        items = [WorkItem("mirror", key, self.share_of(key)) for key in behind]
        items += [WorkItem("mirror", key, self.share_of(key), held) for key in lags.held_keys if key not in behind]
        doubtful = [key for key in lags.doubtful_keys if key not in behind and key not in lags.held_keys]
        items += [WorkItem("mirror", key, self.share_of(key), _later(DOUBT_LOOK_SECONDS)) for key in doubtful]
        engine.defer(items)
        return len(items)

    def _wait_for_room(self) -> None:
        while self.engine is not None and self.engine.room() < SWEEP_CONVERSATIONS:
            if self._is_stopping.wait(1.0):
                raise Interrupted


def _later(seconds: float) -> datetime:
    return now() + timedelta(seconds=seconds)
