"""Journal an answer that is in a thread although its acknowledgement was lost, before its exchange is abandoned."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..conversation import Completion
from ..effects import work
from ..errors import ProviderRefused
from ..limits import RUN_GRACE_SECONDS
from .runs import Mode, NoFurtherRuns, Runs

if TYPE_CHECKING:
    from ..effects import Effects
    from ..journal import Journal
    from .answer import Answer
    from .services import Services

logger = logging.getLogger("threadledger")


def lost_answer(runs: Runs, journal: Journal, services: Services, key: str, exchange_id: str) -> Effects[Answer | None]:
    """Return the answer that a failed run left in a thread, journaled as the answer of a new run; None without one.

    The new run reads the answer from the thread; it does not call the model.
    """
    unacknowledged, outbox = list(runs.unacknowledged.values()), services.outbox
    runs.unacknowledged.clear()  # each thread is read once
    for candidate, attempts in unacknowledged:
        kind = services.backends[candidate.backend].thread
        if outbox is None or kind is None:
            continue
        try:
            is_there = yield from outbox.holds_answer(journal, key, kind, exchange_id, runs.asked_at)
        except ProviderRefused as refused:
            logger.info("the %s thread of %r cannot be read for a lost answer: %s", kind, key, refused)
            continue
        if not is_there:
            continue
        run = yield from runs.start(candidate, attempts + 1, RUN_GRACE_SECONDS)
        outcome = yield from runs.call(run)
        if isinstance(outcome, Completion):
            is_fallback = candidate.backend != services.policy.candidates[0].backend
            return (yield from runs.complete(run, outcome, is_fallback))
        yield from runs.fail(run, outcome)
        runs.unacknowledged.clear()
    return None


def recover_answer(journal: Journal, services: Services, key: str, exchange_id: str) -> Effects[None]:
    """Journal the answer that a thread holds to an exchange which a stopped process left unfinished, if there is one."""
    yield from work(lambda: journal.commit(key, lambda it: it.close_overdue_runs()))
    exchange = yield from work(lambda: journal.exchanges(key).by_id.get(exchange_id))
    last = exchange.last() if exchange is not None else None
    candidates = {each.backend: each for each in (*services.policy.candidates, *services.policy.others)}
    if last is None or last.apart or last.shadow or last.backend not in candidates:
        return
    runs = Runs(journal, services, key, exchange_id, Mode(again=True, rerun_of=last.run_id), services.policy)
    runs.unacknowledged[last.backend] = (candidates[last.backend], last.attempt)
    try:
        yield from lost_answer(runs, journal, services, key, exchange_id)
    except NoFurtherRuns:
        return
