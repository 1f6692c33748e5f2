"""Rerun unanswered exchanges by policy: as jobs of all workers, within limits of a day, and no exchange again and again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import events as e
from threadledger.domain.errors import InvalidInput, InvalidSettings, LogRewound, NotFound
from threadledger.domain.failures import redact
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import LogCursor

if TYPE_CHECKING:
    from threadledger.domain.exchange import Candidate
    from threadledger.domain.ledger import Ledger
    from threadledger.domain.replay import RerunItem, RerunPlan

    from ..settings import Settings

logger = logging.getLogger("threadledger.worker")

RERUN_SECONDS = 10.0
"""Interval at which unanswered exchanges are looked for, in seconds."""

RERUN_AGE_MAX = timedelta(hours=24)
"""Age after which a failure is left to a person: an answer a day later helps nobody who waits."""

RERUNS_OF_EXCHANGE_MAX = 2
"""Maximum number of reruns of one exchange by policy; one that fails each time is not paid for again and again."""

FAILURES_AT_ONCE = 50
"""Maximum number of failures that are planned in one step."""

TOPICS = (e.RunFailed.__name__, e.ExchangeAbandoned.__name__)
"""Events after which an exchange may be without an answer."""

RERUN_DUTY = "rerun"
"""Name of the duty, whose state says what was rerun on this day."""


@dataclass(frozen=True)
class RerunPolicy:
    """Hold when unanswered exchanges are rerun, and what that may cost on one day (UTC)."""

    after: timedelta
    max_runs: int
    max_cost: float | None
    """US dollars; None for no limit."""
    output_tokens: int
    """Number of output tokens for which the highest cost of a run is reckoned."""

    @classmethod
    def of(cls, settings: Settings) -> RerunPolicy | None:
        """Return the policy of these settings; None if nothing is rerun.

        Raises:
            FolderNotTrusted: only the working folder asks for it.
        """
        if settings.rerun_unanswered is None:
            return None
        settings.require_trust("reruns")
        after = timedelta(minutes=settings.rerun_unanswered)
        costs = settings.rerun_max_cost_per_day, settings.budget_output_tokens
        return cls(after, settings.rerun_max_runs_per_day, *costs)


@dataclass(frozen=True)
class Failed:
    """Hold runs that have failed, and the cursor behind the event that says so."""

    run_ids: tuple[str, ...]
    cursor: str


@dataclass
class Day:
    """Count what the policy may still do on a day."""

    runs: int
    cost: float | None

    def take(self, runs: int, cost: float | None) -> bool:
        """Reserve runs and their highest cost, and return whether there was room for them."""
        if runs > self.runs or (self.cost is not None and (cost is None or cost > self.cost)):
            return False
        self.runs -= runs
        if self.cost is not None and cost is not None:
            self.cost -= cost
        return True


class Reruns:
    """Plan reruns of the exchanges that the log shows as unanswered, and hand them over to all workers as jobs."""

    def __init__(self, ledger: Ledger, policy: RerunPolicy) -> None:
        """Prepare the reruns.

        Raises:
            InvalidSettings: a cost is to be limited and the price of a model is not known, or the limit allows no rerun.
        """
        self._ledger = ledger
        self._journal = ledger.journal
        self._policy = policy
        most = self._attempts()
        if most > policy.max_runs:
            raise InvalidSettings(
                f"THREADLEDGER_RERUN_MAX_RUNS_PER_DAY={policy.max_runs} allows no rerun: with retries and fallbacks, one "
                f"exchange may take {most} runs; give a higher limit, or fewer retries"
            )
        for candidate in ledger.services.policy.candidates if policy.max_cost is not None else ():
            if ledger.services.cost(candidate.backend, candidate.model, 1, 1) is None:
                raise InvalidSettings(
                    f"THREADLEDGER_RERUN_MAX_COST_PER_DAY cannot be kept: no price is known for the model "
                    f"{candidate.model!r}; install the prices with pip install 'threadledger[prices]', or limit the runs alone"
                )

    def step(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store the reruns that are due as a job, if the ones before have ended and the limits of the day have room.

        The first step begins at the end of the log: what failed before is left to `replay rerun`.
        """
        cursor, moment = state.get("cursor"), now()
        if cursor is None:
            return {"cursor": self._journal.last_cursor()}
        is_over_for_today = (state.get("limited"), state.get("limited_after")) == (
            to_iso(moment)[:10],
            state.get("job"),
        )
        if is_over_for_today or self._is_running(state.get("job")):
            return state
        try:
            found, end = self._follow(cursor, moment)
        except (LogRewound, InvalidInput) as error:
            logger.warning("reruns follow the log from its end: %s", redact(str(error)))
            return {**state, "cursor": self._journal.last_cursor()}
        if not found:
            return state if end == cursor else {**state, "cursor": end}
        return self._hand_over(state, found, end, moment)

    def _is_running(self, job_id: str | None) -> bool:
        try:
            job = self._ledger.replay.job(job_id) if job_id is not None else None
        except NotFound:  # it was lost with a rewound log
            return False
        return job is not None and bool(job.left) and not job.cancelled

    def _follow(self, cursor: str, moment: datetime) -> tuple[list[Failed], str]:
        """Return the next failures that are old enough and not too old, and the cursor behind them."""
        latest, earliest = to_iso(moment - self._policy.after), to_iso(moment - RERUN_AGE_MAX)
        found = list[Failed]()
        for ledger_id, rows in self._journal.pages_after(cursor, TOPICS):
            for row in rows:
                if row[6] > latest:
                    return found, cursor
                cursor = LogCursor.at(row[0], (ledger_id, row[8]))
                if row[6] >= earliest:
                    facts = json.loads(row[4])
                    run_ids = facts["run_ids"] if row[3] == e.ExchangeAbandoned.__name__ else [facts["run_id"]]
                    found.append(Failed(tuple(run_ids), cursor))
                if len(found) == FAILURES_AT_ONCE:
                    return found, cursor
        return found, cursor

    def _hand_over(
        self, state: Mapping[str, Any], found: Sequence[Failed], end: str, moment: datetime
    ) -> Mapping[str, Any]:
        """Store a job with the reruns for which there is room, and return the state behind them."""
        today = to_iso(moment)[:10]
        if state.get("day") != today:
            state = {"cursor": state["cursor"], "day": today, "counts": _recent(state.get("counts", {}), moment)}
        counts: dict[str, Any] = dict(state.get("counts", {}))
        runs, kept, behind = list[str](), self._left_of(state), state["cursor"]
        planned = {item.run_id: item for item in self._planned([each for one in found for each in one.run_ids], counts)}
        limited = ""
        for each in found:
            items = [planned.pop(run_id) for run_id in each.run_ids if run_id in planned]
            if not all(kept.take(*self._highest(item)) for item in items):
                limited = today
                break
            runs += [item.run_id for item in items]
            behind = each.cursor
        else:
            behind = end
        if limited and state.get("limited") != today:
            logger.warning("unanswered exchanges are not rerun any more today: the limit of the day is reached")
        state = {**state, "cursor": behind, "limited": limited, "limited_after": state.get("job")}
        if not runs:
            return state
        plan = self._plan(runs)
        job = plan.detach()
        if job is None:
            return state
        for item in plan.items:
            if item.state == "planned":
                counts[item.exchange_id] = [counts.get(item.exchange_id, [0])[0] + 1, to_iso(moment)]
        logger.info("rerun of %d unanswered exchanges: job %s", job.items, job.job_id[-8:])
        return {**state, "job": job.job_id, "jobs": [*state.get("jobs", ()), job.job_id], "counts": counts}

    def _planned(self, run_ids: Sequence[str], counts: Mapping[str, Any]) -> Iterator[RerunItem]:
        """Yield the exchanges of these runs that can be rerun, and were not too often."""
        known = [run_id for run_id in dict.fromkeys(run_ids) if self._exists(run_id)]
        for item in self._plan(known).items if known else ():
            if item.state == "planned" and counts.get(item.exchange_id, [0])[0] < RERUNS_OF_EXCHANGE_MAX:
                yield item

    def _plan(self, run_ids: Sequence[str]) -> RerunPlan:
        return self._ledger.replay.plan_rerun(runs=run_ids, failed=True)

    def _exists(self, run_id: str) -> bool:
        try:
            run, _ = self._journal.run(run_id)
        except NotFound:
            return False
        return not self._journal.used_keys({run.key})[run.key]

    def _left_of(self, state: Mapping[str, Any]) -> Day:
        """Return what is left of the limits after the jobs of this day, which have ended."""
        left = Day(self._policy.max_runs, self._policy.max_cost)
        for job_id in state.get("jobs", ()):
            try:
                results = self._ledger.replay.results(job_id)
            except NotFound:
                continue
            for each in results:
                left.runs -= int(each.get("runs_made") or 0)
                if left.cost is not None:
                    cost = each.get("cost")
                    left.cost -= float(cost if cost is not None else each.get("estimated_cost") or 0.0)
        return left

    def _highest(self, item: RerunItem) -> tuple[int, float | None]:
        """Return the highest number of runs that an exchange may take, and their highest cost."""
        services, cost = self._ledger.services, 0.0
        for candidate in services.policy.candidates if self._policy.max_cost is not None else ():
            tokens = item.estimated_tokens or 0, self._policy.output_tokens
            one = services.cost(candidate.backend, candidate.model, *tokens)
            if one is None:
                return self._attempts(), None
            cost += one * self._attempts_of(candidate)
        return self._attempts(), cost

    def _attempts(self) -> int:
        """Return the highest number of runs that one exchange may take."""
        return sum(map(self._attempts_of, self._ledger.services.policy.candidates))

    def _attempts_of(self, candidate: Candidate) -> int:
        retries = self._ledger.services.policy.retries if candidate.retries is None else candidate.retries
        return retries + 1


def _recent(counts: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
    """Return the counts of exchanges that could still be rerun."""
    return {name: each for name, each in counts.items() if from_iso(each[1]) >= moment - 2 * RERUN_AGE_MAX}
