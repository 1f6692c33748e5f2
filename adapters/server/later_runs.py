"""Find the runs of an exchange that began after its first run had ended: a client sent a question again that it had left.

An ended run never changes, so each of these is a run of its own in the API, named after its first attempt. Reruns, which an
operator makes, are runs of their own too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from threadledger.domain.conversation.messages import Source
from threadledger.domain.ids import moment_of_id

from .run_objects import ServedRun, folded_later_runs, folded_run

if TYPE_CHECKING:
    from threadledger.domain.conversation.messages import JournaledMessage
    from threadledger.domain.journal import Journal
    from threadledger.domain.journal.lookups import Lookups

OWN_ANSWERS = frozenset({Source.RUN, Source.FALLBACK})
"""Sources of messages whose run is named after its exchange, unless it is a later one."""


def first_run(journal: Journal, key: str, exchange_id: str, version: int | None) -> ServedRun | None:
    """Return the first run of an exchange, whose first event has this version; None if there is no such exchange."""
    if version is None:
        return None
    lookups = journal.lookups(key)
    run = folded_run(lookups.after(version - 1) if lookups is not None else (), exchange_id, key)
    return run if run.created_at is not None else None


def later_run(journal: Journal, first: ServedRun, run_id: str, version: int | None = None) -> ServedRun | None:
    """Return the run after the first one that has this attempt, or None; `version` is that of its start, if that is known."""
    if not first.ended:
        return None
    events = journal.history(first.key, first.ended_version)
    for run in folded_later_runs(events, first.exchange_id, first.key):
        if any(each.run_id == run_id for each in run.started):
            return run
        if version is not None and run.version > version:
            return None
    return None


def names_of_runs(journal: Journal, key: str, lookups: Lookups, messages: Sequence[JournaledMessage]) -> dict[str, str]:
    """Return the ids in the API of the later runs that said messages of a page, by the ids of their attempts."""
    said = [each for each in messages if each.run_id is not None and each.exchange_id and each.source in OWN_ANSWERS]
    if not said:
        return {}
    low, high = (chosen(messages, key=lambda each: each.version) for chosen in (min, max))
    ended = lookups.ended_between(low.version - 1, high.version)
    names: dict[str, str] = {}
    firsts: dict[str, ServedRun | None] = {}
    for each in said:
        exchange_id, run_id = each.exchange_id or "", each.run_id or ""
        begun = moment_of_id(exchange_id)
        may_be_later = begun is None or begun <= low.at or ended.get(exchange_id, each.version) < each.version
        if not may_be_later or run_id in names:
            continue
        if exchange_id not in firsts:
            firsts[exchange_id] = first_run(journal, key, exchange_id, lookups.first_of_exchange(exchange_id))
        first = firsts[exchange_id]
        if first is None or not first.ended or each.version <= first.newest_version:
            continue
        found = later_run(journal, first, run_id, each.version)
        names |= {started.run_id: found.name for started in found.started} if found is not None else {}
    return names
