"""List the runs of a thread and the steps of a run, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from threadledger.domain.conversation import events as e
from threadledger.domain.journal.lookups import Lookups

from ..wire import Json
from ..wire.pages import not_in_list
from .calls import Served, ServedCall
from .imported_runs import ImportedRun, Place, runs_in
from .pages import PageQuery, page_of
from .runs import FoundRun, found_run, place_of, run_again
from .threads import FoundThread, find_thread

BEGINNING: Place = (0, -1)
"""The place before all runs."""


def run_page(served: Served, call: ServedCall) -> Json:
    """Return a page of the runs of a thread: its own and the imported ones, in the order of their beginning."""
    thread, query = find_thread(served, call), PageQuery.of(call.query)
    after = _place_of(thread, query.after, "after") if query.after else None
    before = _place_of(thread, query.before, "before") if query.before else None
    low, high = (before, after) if query.newest_first else (after, before)
    runs = _runs(thread, low or BEGINNING, high, newest_first=query.reads_newest_first)
    return page_of([each.object() for each in islice(runs, query.limit + 1)], query)


def _place_of(thread: FoundThread, run_id: str, param: str) -> Place:
    place = place_of(thread, run_id)
    if place is None:
        raise not_in_list(run_id, param)
    return place


def _runs(
    thread: FoundThread, low: Place, high: Place | None, *, newest_first: bool
) -> Iterator[FoundRun | ImportedRun]:
    """Yield the runs between two places; own ones are searched only as far as the next imported one."""
    lookups = thread.lookups()
    end = lookups.version if high is None else high[0]
    edge: int | None = (None if high is None else high[0]) if newest_first else low[0]
    for event in lookups.imported_runs(max(low[0] - 1, 0), end, newest_first=newest_first):
        version = event.originator_version
        between = (version, edge) if newest_first else (edge or 0, version)
        yield from _own_runs(thread, lookups, *between, newest_first=newest_first)
        runs = [each for each in runs_in(thread, event) if each.place > low and (high is None or each.place < high)]
        yield from reversed(runs) if newest_first else runs
        edge = version
    between = (low[0], edge) if newest_first else (edge or 0, None if high is None else high[0])
    yield from _own_runs(thread, lookups, *between, newest_first=newest_first)


def _own_runs(
    thread: FoundThread, lookups: Lookups, low: int, high: int | None, *, newest_first: bool
) -> Iterator[FoundRun]:
    """Yield the runs of this ledger that began between two versions, each at the event that gives it its place."""
    if not thread.state.exchanges:
        return
    firsts: dict[str, FoundRun | None] = {}
    for event in lookups.exchange_events(low, high, newest_first=newest_first):
        if event.exchange_id not in firsts:
            firsts[event.exchange_id] = found_run(thread, event.exchange_id)
        found = _begun_at(thread, event, firsts[event.exchange_id])
        if found is not None:
            yield found


def _begun_at(
    thread: FoundThread, event: e.ExchangeRequested | e.RunStarted, first: FoundRun | None
) -> FoundRun | None:
    """Return the run that has its place in the list at an event; `first` is the first one of its exchange."""
    version = event.originator_version
    if first is None or first.run.begun_version == version:
        return first
    if not isinstance(event, e.RunStarted) or not first.ended or version < first.run.ended_version:
        return None
    found = run_again(thread, event, first.run)
    return found if found is not None and found.run.begun_version == version else None
