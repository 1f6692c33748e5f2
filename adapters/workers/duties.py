"""Do what one worker at a time does for all of them: follow the log, close overdue runs, keep views caught up, reap, rerun."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import CONVERSATION, key_of
from threadledger.domain.conversation import events as e
from threadledger.domain.errors import InvalidInput, LogRewound, NotFound, StoreError, ThreadledgerError
from threadledger.domain.failures import redact
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import LogCursor, restore
from threadledger.domain.replay import DETACHED, JOB

from .engine import WorkItem

if TYPE_CHECKING:
    from threadledger.domain.journal.worker_notes import FailedWork, WorkerNotes
    from threadledger.domain.ledger import Ledger

    from .engine import Engine
    from .work import LedgerWork

logger = logging.getLogger("threadledger.worker")

FOLLOW_SECONDS = 0.5
CLOSE_SECONDS = 5.0
VIEWS_SECONDS = 5.0
REAP_SECONDS = 2.0
"""Intervals of the duties, in seconds."""

DUTY_PAUSE_SECONDS_MAX = 15.0
"""Longest pause before a duty that failed is tried again, in seconds."""

FOLLOW_GRACE_SECONDS = 10.0
"""How long a process has to send what it has journaled itself, in seconds; then workers do it."""

FOLLOW_EVENTS_MAX = 2_000
"""Maximum number of events that are followed in one step."""

FAILING_MAX = 1_000
"""Maximum number of failed items among which failing jobs are looked for."""

RETRIES_AT_ONCE = 500
"""Maximum number of failed items that are tried again in one step."""

State = Mapping[str, Any]
"""What is remembered of a duty, as JSON."""


@dataclass(frozen=True)
class DutyStep:
    """Define a duty: its name, its interval in seconds, and what one step of it does to its state."""

    name: str
    seconds: float
    do: Callable[[State], State]


class Duties:
    """Do steps of duties, each in a thread, while this process holds them."""

    def __init__(self, notes: WorkerNotes, steps: list[DutyStep]) -> None:
        self._notes = notes
        self._stopping = threading.Event()
        self._done: set[str] = set()
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=f"threadledger-duty-{step.name}", daemon=True)
            for step in steps
        ]

    @property
    def were_done(self) -> bool:
        """Return whether each duty has had a step since the start, here or in another process that has it."""
        return len(self._done) == len(self._threads)

    def start(self) -> None:
        """Start with the duties that no other worker holds."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """End after the steps in progress, or after some seconds, and give the duties up."""
        self._stopping.set()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        with suppress(StoreError):  # they end with this process
            self._notes.release()

    def _run(self, step: DutyStep) -> None:
        failures, pause = 0, 0.0
        while not self._stopping.wait(pause):
            try:
                self._do(step)
                self._done.add(step.name)
                failures, pause = 0, step.seconds
            except Exception as error:  # noqa: BLE001 - it is tried again
                failures += 1
                pause = min(step.seconds * 2.0 ** min(failures, 32), DUTY_PAUSE_SECONDS_MAX)
                if failures == 1:
                    _log_failure(step.name, error)

    def _do(self, step: DutyStep) -> None:
        duty = self._notes.hold(step.name)
        if duty is None:
            return
        state = step.do(duty.state)
        if state is not duty.state:
            self._notes.keep(step.name, state)


def _log_failure(name: str, error: Exception) -> None:
    text = "the duty %s failed, and is tried again in growing intervals: %s"
    known = isinstance(error, ThreadledgerError)
    logger.warning(text, name, redact(str(error)), exc_info=None if known else error)


class Followed:
    """Find out from the log what is to be done, and queue it."""

    def __init__(self, ledger: Ledger, work: LedgerWork, engine: Engine, *, by_worker: bool) -> None:
        self._ledger = ledger
        self._journal = ledger.journal
        self._work = work
        self._engine = engine
        self._grace = 0.0 if by_worker else FOLLOW_GRACE_SECONDS
        self.has_swept = engine.remembers
        """Whether all conversations were looked through, or need not be."""
        self.behind_since: datetime | None = None
        """Time of the first event that was not followed; None if all were."""

    def steps(self) -> list[DutyStep]:
        """Return the duties that every worker may have."""
        return [
            DutyStep("follow", FOLLOW_SECONDS, self.follow),
            DutyStep("close", CLOSE_SECONDS, self.close),
            DutyStep("views", VIEWS_SECONDS, self.catch_up),
            DutyStep("reap", REAP_SECONDS, self.reap),
        ]

    def follow(self, state: State) -> State:
        """Queue what new events ask for, what has failed and is due, and the jobs that workers do."""
        cursor, jobs = state.get("cursor"), dict.fromkeys(state.get("jobs", ()))
        jobs_cursor = state.get("jobs_cursor", cursor)
        self._retry(jobs)
        if cursor is None:
            cursor = jobs_cursor = self._journal.last_cursor()
            jobs |= dict.fromkeys(job.job_id for job in self._ledger.replay.jobs() if job.is_detached and job.left)
            self.has_swept = False
        elif self._engine.room():
            try:
                jobs_cursor = self._follow_jobs(jobs_cursor, jobs)
                cursor = self._follow(cursor)
            except (LogRewound, InvalidInput) as error:  # a failover lost events, or the database was replaced
                logger.warning("workers follow the log from its end: %s", redact(str(error)))
                return {"jobs": [*jobs]}
        if not self.has_swept:
            self._engine.defer([WorkItem("sweep", "all")])
            self.has_swept = True
        failing = self._failing_jobs() if jobs else set()
        places = self._work.places() if jobs else 0
        for job_id in jobs.keys() - failing:
            if not self._defer_job(job_id, places):
                del jobs[job_id]
        found = {"cursor": cursor, "jobs_cursor": jobs_cursor, "jobs": [*jobs]}
        return state if found == state else found

    def close(self, state: State) -> State:
        """Close runs past their deadline that a crash left open."""
        closed = self._ledger.close_overdue_runs()
        if closed:
            logger.info("closed %d overdue runs", len(closed))
        return state

    def catch_up(self, state: State) -> State:
        """Bring all views up to date, so that lists do not have to."""
        self._journal.views.catch_up()
        return state

    def reap(self, state: State) -> State:
        """Queue the items of ended workers again."""
        found = self._engine.reap()
        if found:
            logger.info("took over %d items of ended workers", found)
        return state

    def _follow_jobs(self, cursor: str, jobs: dict[str, None]) -> str:
        """Find the jobs that were handed over since, which need not wait for any process, and return the cursor behind them."""
        end = self._journal.last_cursor()
        for _, rows in self._journal.pages_after(cursor, (e.JobStarted.__name__,)):
            for row in rows:
                event = restore(row[:8])
                if isinstance(event, e.JobStarted) and event.options.get(DETACHED):
                    jobs[row[1].removeprefix(JOB)] = None
        return end

    def _follow(self, cursor: str) -> str:
        """Queue what the next events ask for, and return the cursor behind them."""
        latest = to_iso(now() - timedelta(seconds=self._grace))
        keys: dict[str, None] = {}
        compacting: dict[str, None] = {}
        count, is_at_end = 0, True
        compacts = self._ledger.services.policy.compact_at_tokens is not None
        for ledger_id, rows in self._journal.pages_after(cursor):
            for row in rows:
                stream, topic = row[1], row[3]
                if row[6] > latest or count >= FOLLOW_EVENTS_MAX:
                    is_at_end = False
                    self.behind_since = from_iso(row[6]) if count >= FOLLOW_EVENTS_MAX else None
                    break
                count += 1
                cursor = LogCursor.at(row[0], (ledger_id, row[8]))
                if stream.startswith(CONVERSATION):
                    keys[key_of(stream)] = None
                    if compacts and topic == e.RunCompleted.__name__:
                        compacting[key_of(stream)] = None
            if not is_at_end:
                break
        if is_at_end:
            self.behind_since = None
        self._work.defer_lagging([*keys])
        self._engine.defer([WorkItem("compact", key, self._work.share_of(key)) for key in compacting])
        return cursor

    def _retry(self, jobs: dict[str, None]) -> None:
        """Queue failed items again that are due."""
        due = self._work.notes.due(RETRIES_AT_ONCE)
        self._engine.defer([_again(each, self._work) for each in due if not _is_whole_job(each)])
        for each in due:
            if _is_whole_job(each):
                try:
                    reopened = self._ledger.replay.reopen(each.subject)
                except NotFound:  # it was lost with a rewound log
                    self._work.notes.succeed(each.kind, each.subject)
                    continue
                logger.info("job %s: %d failed items are tried again", each.subject[-8:], reopened)
                self._engine.defer([_place(each.subject, number) for number in range(max(self._work.places(), 1))])
                jobs[each.subject] = None

    def _failing_jobs(self) -> set[str]:
        """Return the jobs that are tried again later, or parked: nothing is queued for them until then."""
        return {each.subject for each in self._work.notes.failed(FAILING_MAX) if _is_whole_job(each)}

    def _defer_job(self, job_id: str, places: int) -> bool:
        """Have all workers work on a job; return whether there is something left to do."""
        try:
            job = self._ledger.replay.job(job_id)
        except NotFound:
            return False
        if job.cancelled or not job.left:
            return False
        self._engine.defer([_place(job_id, number) for number in range(min(max(places, 1), job.left))])
        return True


def _place(job_id: str, number: int) -> WorkItem:
    return WorkItem("job", f"{job_id}/{number}", once=True)


def _is_whole_job(failed: FailedWork) -> bool:
    return failed.kind == "job" and "/" not in failed.subject


def _again(failed: FailedWork, work: LedgerWork) -> WorkItem:
    try:
        share = work.share_of(failed.subject) if failed.kind in {"mirror", "compact"} else ""
    except StoreError:
        share = ""
    return WorkItem(failed.kind, failed.subject, share)
