"""Follow failures: first those in the ledger, then each new one when any process records it."""

from __future__ import annotations

from collections.abc import Iterator

from . import events as e
from .audit import RUN_TOPICS, FailureFilter, fold_exchanges, recorded_failure
from .failures import RecordedFailure
from .journal import Journal


def follow_failures(journal: Journal, wanted: FailureFilter, limit: int | None = None) -> Iterator[RecordedFailure]:
    """Yield the newest `limit` matching failures in the ledger, then each new one that matches, without end.

    Each failure is reported as of now; a later retry or answer is mostly not included yet.
    """
    journal.close_overdue_runs()
    end = journal.recorder.max_notification_id() or 0
    told: set[str] = set()  # the view may already include failures after `end`
    for failure in journal.views.failures(wanted, limit):
        told.add(failure.run_id)
        yield failure
    for _, event in journal.followed(end, (e.RunFailed.__name__,)):
        if isinstance(event, e.RunFailed) and event.run_id not in told:
            come = _failure_of(journal, event)
            if come is not None and wanted(come):
                yield come


def _failure_of(journal: Journal, event: e.RunFailed) -> RecordedFailure | None:
    folded = fold_exchanges(journal.stream(event.originator_id, RUN_TOPICS))
    run = folded.runs.get(event.run_id)
    return recorded_failure(run, folded.exchange_of(run)) if run is not None else None
