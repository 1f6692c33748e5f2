"""Rerun failed exchanges. A plan always shows first what it will call and about what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from .audit import FailureFilter
from .budget import Budget, Limits
from .driving import AsyncDriver
from .effects import Effects
from .errors import InvalidInput
from .exchange import Policy
from .jobs import Jobs
from .journal import Journal
from .outside import Outside
from .plans import Plan, Progress
from .rerun_item import RerunItem
from .rerun_wanted import Wanted
from .rerunning import Rerunning, can_be_included

CONVERSATIONS_KEPT = 64
"""Number of conversations whose runs are cached while a plan is made: failures of one conversation follow each
other."""


class RerunPlan(Plan[RerunItem]):
    """Plan to rerun exchanges; `apply` calls the models."""

    kind = "rerun"
    block = 1  # each item costs seconds and money, so its outcome is recorded at once

    def __init__(self, jobs: Jobs, journal: Journal, outside: Outside, wanted: Wanted) -> None:
        """Create a plan.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        super().__init__(jobs, outside.wait)
        self.wanted = wanted
        self.budget = Budget(Limits())
        self._journal = journal
        self._price = outside.price
        self._rerunning = Rerunning(journal, outside, wanted)
        self._items: list[RerunItem] | None = None
        self._places: dict[str, int] = {}

    @property
    def items(self) -> list[RerunItem]:
        """Return what is planned for each exchange; after the plan was applied, the outcomes."""
        if self._items is None:
            self._items = list(self.planned())
            self._places = {item.exchange_id: place for place, item in enumerate(self._items)}
        return self._items

    def planned(self) -> Iterator[RerunItem]:
        """Yield what is planned, one exchange at a time."""
        folded = lru_cache(CONVERSATIONS_KEPT)(self._journal.exchanges)
        for key, run_ids in self._chosen().values():
            runs = folded(key).runs
            named = [run_id for run_id in run_ids if not runs[run_id].shadow or run_id in self.wanted.runs]
            if named:
                yield self._rerunning.planned(key, named[-1], folded(key))

    def options(self) -> dict[str, Any]:
        return self.wanted.as_json()

    def pins(self) -> Iterator[Mapping[str, Any]]:
        return (item.pin() for item in self.items if item.state == "planned")

    def step(self, pin: Mapping[str, Any]) -> Effects[RerunItem]:
        item: RerunItem = yield from self._rerunning.rerunning(RerunItem.of(pin), self.budget)
        if self._items is not None and item.exchange_id in self._places:
            self._items[self._places[item.exchange_id]] = item
        return item

    @property
    def policy(self) -> Policy:
        """Return the policy: which backends are called, in which order, and how often."""
        return self._rerunning.policy

    def skipped(self) -> Counter[str]:
        """Return the number of skipped items by reason; the ids of runs in reasons are ignored."""
        return Counter(item.reason.split(" by run ")[0] for item in self.items if item.state == "skipped")

    def can_be_included(self) -> set[str]:
        """Return the values of `include` that would allow skipped items to run."""
        return {what for item in self.items if item.state == "skipped" for what in can_be_included(item)}

    def runs_at_most(self, max_runs: int | None = None) -> int:
        """Return the maximum number of runs that `apply` makes: every backend with every retry."""
        each = len(self.policy.candidates) * (self.policy.retries + 1)
        planned = sum(item.state == "planned" for item in self.items) * each
        return planned if max_runs is None else min(planned, max_runs)

    def limit(self, max_runs: int | None = None, max_cost: float | None = None) -> None:
        """Set the limits of later calls of `apply`: runs made, and US dollars by the usage that providers report.

        Raises:
            InvalidInput: a limit is not positive, or `max_cost` needs a price that is unknown.
        """
        limits = Limits(max_runs, max_cost)
        for candidate in self.policy.candidates if max_cost is not None else ():
            if self._price is None or self._price(candidate.model, 1, 1) is None:
                raise InvalidInput(
                    f"the cost cannot be limited: no price is known for the model {candidate.model!r}; install the prices "
                    "with pip install 'threadledger[prices]', or use a model whose price is known"
                )
        self.budget = Budget(limits)

    def apply(
        self,
        progress: Progress | None = None,
        *,
        max_runs: int | None = None,
        max_cost: float | None = None,
        **how: Any,
    ) -> list[RerunItem]:
        """Rerun what is planned until a limit is reached; the rest stays planned, and `resume` continues with it.

        Args:
            progress: called with each item as it ends.
            max_runs: maximum number of runs.
            max_cost: maximum US dollars by the usage that the provider reports; no run is started that may reach it.
            how: `concurrency`, `rps` and `stop`, as in every plan.

        Raises:
            InvalidInput: a limit or another argument is out of range, or the price of a model is unknown.
        """
        self.limit(max_runs, max_cost)
        return super().apply(progress, **how)

    def each(self, *, max_runs: int | None = None, max_cost: float | None = None, **how: Any) -> Iterator[RerunItem]:
        """Run the plan like `apply`, but yield each item as it ends."""
        self.limit(max_runs, max_cost)
        return super().each(**how)

    async def apply_async(
        self,
        driver: AsyncDriver,
        progress: Progress | None = None,
        *,
        max_runs: int | None = None,
        max_cost: float | None = None,
        **how: Any,
    ) -> list[RerunItem]:
        """Run the plan like `apply`, awaited."""
        self.limit(max_runs, max_cost)
        return await super().apply_async(driver, progress, **how)

    def _chosen(self) -> dict[str, tuple[str, list[str]]]:
        """Return a mapping of exchange to conversation and runs, in the order of failure.

        The last run is the one that is rerun.
        """
        wanted = self.wanted
        chosen: dict[str, tuple[str, list[str]]] = {}
        for run_id in wanted.runs:
            run, _ = self._journal.run(run_id)
            chosen.setdefault(run.exchange_id, (run.key, []))[1].append(run.run_id)
        unanswered = not wanted.includes("answered")
        matching = FailureFilter(wanted.since, wanted.until, wanted.cause, None, wanted.backend, unanswered)
        keys = set(wanted.keys)
        for failure in self._journal.views.failures(matching) if keys or wanted.failed else ():
            if wanted.failed or failure.key in keys:
                chosen.setdefault(failure.exchange_id, (failure.key, []))[1].append(failure.run_id)
        return chosen

    def _listed(self, found: Mapping[int, RerunItem]) -> list[RerunItem]:
        if self._items is None:  # a resumed job: its items were planned by another process
            self._items = super()._listed(found)
        return self._items
