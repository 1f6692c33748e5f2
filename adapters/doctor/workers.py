"""Check for `doctor` what workers do: who is alive, what waits for one, what failed too often, how far behind they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from threadledger.domain.ids import now, to_iso

from ..documents import clock, counted
from .settings import Checked

if TYPE_CHECKING:
    from threadledger.domain.journal.worker_notes import WorkerRow
    from threadledger.domain.ledger import Ledger

BEHIND_SECONDS_MAX = 60.0
"""How far workers may be behind the log before that is reported, in seconds."""

ENDED_NAMED = 3
"""Maximum number of ended workers that are named."""

START = "start one with: threadledger worker"


def check_workers(ledger: Ledger) -> Iterator[Checked]:
    """Report what waits for a worker while none runs, workers that ended without handing over, and parked work."""
    workers = ledger.journal.worker_notes.workers()
    alive = [row for row in workers if row.is_alive]
    findings = [*(_none_alive(ledger, workers) if not alive else _behind(alive)), *_parked(ledger)]
    findings += [*_schedules(ledger), *_reruns(ledger)]
    yield from findings
    if not findings and alive:
        yield Checked("workers", _described(ledger, alive))
    elif not findings:
        yield Checked("workers", "no worker is running, and nothing waits for one")


def _none_alive(ledger: Ledger, workers: Sequence[WorkerRow]) -> Iterator[Checked]:
    from threadledger.domain.ids import to_iso

    outbox = ledger.services.outbox
    if outbox is not None and outbox.by_worker and outbox.has_mirrors:
        problem = "THREADLEDGER_MIRROR_BY is worker, but no worker is running: threads fall behind"
        yield Checked("workers", problem, START)
    waiting = sum(bool(job.is_detached and job.left and not job.cancelled) for job in ledger.replay.jobs())
    if waiting:
        yield Checked("workers", f"{counted(waiting, 'job')} handed over to workers, but no worker is running", START)
    for row in workers[:ENDED_NAMED]:
        seen = clock(to_iso(row.seen_at))
        yield Checked("workers", f"a worker ended without handing over: {row.worker}, last seen {seen} UTC", START)


def _behind(alive: Sequence[WorkerRow]) -> Iterator[Checked]:
    behind = max(float(row.facts.get("behind_seconds", 0)) for row in alive)
    if behind > BEHIND_SECONDS_MAX:
        fix = "start more workers, or give them a higher --concurrency"
        yield Checked("workers", f"the workers are {behind:,.0f} s behind the log", fix)


def _parked(ledger: Ledger) -> Iterator[Checked]:
    notes = ledger.journal.worker_notes
    number = notes.counts()["parked"]
    if number:
        (newest,) = notes.failed(1, parked=True)
        yield Checked(
            "workers",
            f"{counted(number, 'item')} of work failed too often and wait for a person, the newest is {newest.kind} "
            f"{newest.subject!r}: {newest.reason}",
            "list them with: threadledger worker status --parked; when the cause is gone: threadledger worker retry",
        )


def _schedules(ledger: Ledger) -> Iterator[Checked]:
    from ..workers import ENDED_IN_ORDER, ScheduledRun

    for duty in ledger.journal.worker_notes.duties():
        run = ScheduledRun.of(duty)
        if run is not None and run.code is not None and run.code not in ENDED_IN_ORDER:
            fix = "see the log of the worker that ran it; the next run is at its next time"
            yield Checked("workers", f"the schedule {run.name} {run.outcome()}", fix)


def _reruns(ledger: Ledger) -> Iterator[Checked]:
    from ..workers import RERUN_DUTY

    today = to_iso(now())[:10]
    if any(
        duty.name == RERUN_DUTY and duty.state.get("limited") == today for duty in ledger.journal.worker_notes.duties()
    ):
        yield Checked(
            "workers",
            "unanswered exchanges are not rerun any more today: the limit of the day is reached",
            "answer them with: threadledger replay rerun --failed, or raise THREADLEDGER_RERUN_MAX_RUNS_PER_DAY or "
            "THREADLEDGER_RERUN_MAX_COST_PER_DAY",
        )


def _described(ledger: Ledger, alive: Sequence[WorkerRow]) -> str:
    at_once = sum(int(row.facts.get("concurrency", 1)) for row in alive)
    waiting = max(int(row.facts.get("waiting", 0)) for row in alive)
    failed = ledger.journal.worker_notes.counts()["failed"]
    again = f", {failed:,} tried again later" if failed else ""
    return f"{counted(len(alive), 'worker')} with {counted(at_once, 'item')} at a time; {waiting:,} waiting{again}"
