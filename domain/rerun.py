"""Rerun: a failed exchange run again. Always says first what it will call and about what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .answers import why_not_rerun
from .audit import ExchangeRecord, RunRecord
from .conversing import Conversing
from .driving import AsyncDriver, perform
from .effects import Effects, Work
from .errors import AllBackendsFailed, ThreadledgerError
from .exchange import Candidate, Policy
from .failures import RecordedFailure
from .journal import Journal
from .messages import Usage
from .outside import Outside

ESTIMATED_ANSWER_TOKENS = 300
"""Tokens that an answer is taken to have when a plan estimates its cost."""


@dataclass(frozen=True)
class RerunItem:
    """One exchange of a rerun, as planned and as it went."""

    key: str
    exchange_id: str
    run_id: str
    state: str = "planned"
    reason: str = ""
    answer: str | None = None
    new_run_id: str | None = None
    backend: str | None = None
    model: str | None = None
    estimated_tokens: int | None = None
    estimated_cost: float | None = None
    usage: Usage | None = None
    runs_made: int = 0

    def as_json(self) -> dict[str, Any]:
        """The keys of CONTRACT.md."""
        fields = {name: value for name, value in vars(self).items() if name != "runs_made"}
        return fields | {"usage": self.usage.as_json() if self.usage else None}


@dataclass
class RerunPlan:
    """What would be asked again; `apply` asks."""

    items: list[RerunItem]
    journal: Journal
    outside: Outside
    policy: Policy
    live_tools: bool = False
    """Whether tool calls are made anew that are on record."""
    stopped_by_limit: bool = False

    def apply(
        self, max_runs: int | None = None, progress: Callable[[RerunItem], None] | None = None
    ) -> list[RerunItem]:
        """Run every planned exchange, one after the other, until `max_runs` runs have been made.

        What is stopped by the limit stays planned: the same rerun again goes on with it.
        """
        for done in self.each(max_runs):
            if progress is not None:
                progress(done)
        return self.items

    async def apply_async(
        self, driver: AsyncDriver, max_runs: int | None = None, progress: Callable[[RerunItem], None] | None = None
    ) -> list[RerunItem]:
        """`apply`, awaited."""
        for effects in self.effects(max_runs):
            done = await driver.perform(effects)
            if progress is not None:
                progress(done)
        return self.items

    def each(self, max_runs: int | None = None) -> Iterator[RerunItem]:
        """Like `apply`, handing over each exchange as it is done."""
        return (perform(effects, self.outside.wait) for effects in self.effects(max_runs))

    def effects(self, max_runs: int | None = None) -> Iterator[Effects[RerunItem]]:
        """Each planned exchange as effects, until `max_runs` runs have been made; to be performed one after the other."""
        made = [0]
        for index, item in enumerate(self.items):
            if item.state != "planned":
                continue
            if max_runs is not None and made[0] >= max_runs:
                self.stopped_by_limit = True
                break
            yield self._one(index, item, max_runs, made)

    def _one(self, index: int, item: RerunItem, max_runs: int | None, made: list[int]) -> Effects[RerunItem]:
        left = None if max_runs is None else max_runs - made[0]
        allowed = _within(self.policy, left)
        done = yield from _rerun(self.journal, self.outside, item, allowed, self.live_tools)
        made[0] += done.runs_made
        if done.state == "failed" and allowed != self.policy and made[0] >= (max_runs or 0):
            self.stopped_by_limit = True
            done = replace(done, state="planned", reason=f"stopped by the limit of {max_runs} runs: {done.reason}")
        self.items[index] = done
        return done


def plan_exchanges(
    journal: Journal, outside: Outside, chosen: Sequence[tuple[ExchangeRecord, RunRecord]], policy: Policy
) -> list[RerunItem]:
    """What a rerun of these exchanges would do, each with the run it stands for."""
    return [_planned(journal, outside, exchange, run, policy) for exchange, run in chosen]


def _planned(journal: Journal, outside: Outside, exchange: ExchangeRecord, run: RunRecord, policy: Policy) -> RerunItem:
    item = RerunItem(exchange.key, exchange.exchange_id, run.run_id)
    reason = _why_not(journal, exchange)
    if reason or not policy.candidates:
        return replace(item, state="skipped", reason=reason or "no backend is set: set THREADLEDGER_BACKENDS")
    first = policy.candidates[0]
    tokens = journal.memory(exchange.key, last=policy.memory_last, tokens=policy.memory_tokens).estimated_tokens()
    price = outside.price
    cost = price(first.model, tokens, ESTIMATED_ANSWER_TOKENS) if price is not None else None
    return replace(item, backend=first.backend, model=first.model, estimated_tokens=tokens, estimated_cost=cost)


def _why_not(journal: Journal, exchange: ExchangeRecord) -> str:
    if exchange.answered_by is not None:
        return f"already answered by run {exchange.answered_by}"
    state = journal.require(exchange.key).state
    if state.open_runs:
        return "a run is open: wait for its end"
    return why_not_rerun(journal, exchange.key, exchange.exchange_id)


def _rerun(journal: Journal, outside: Outside, item: RerunItem, policy: Policy, live: bool) -> Effects[RerunItem]:
    def state() -> tuple[str, int]:
        reason = _why_not(journal, journal.exchanges(item.key).by_id[item.exchange_id])
        return reason, journal.require(item.key).state.failed_runs

    reason, before = yield Work(state)
    if reason:
        return replace(item, state="skipped", reason=reason)
    try:
        answer = yield from Conversing(journal, outside, item.key).rerun(item.exchange_id, policy, live=live)
    except AllBackendsFailed as nobody:
        last: RecordedFailure | None = nobody.failures[-1] if nobody.failures else None
        told = f"{last.cause.value}: {last.summary()}" if last else "nobody was asked"
        return replace(item, state="failed", reason=told, runs_made=max(len(nobody.failures), 1))
    except ThreadledgerError as error:
        return replace(item, state="failed", reason=str(error))
    _, after = yield Work(state)
    return replace(
        item,
        state="answered",
        answer=answer.text,
        new_run_id=answer.run_id,
        backend=answer.backend,
        model=answer.model,
        usage=answer.usage,
        runs_made=1 + after - before,
    )


def _within(policy: Policy, runs_left: int | None) -> Policy:
    """The policy, cut so that it cannot make more runs than are left."""
    if runs_left is None:
        return policy
    retries = min(policy.retries, runs_left - 1)
    backends = max(runs_left // (retries + 1), 1)
    return replace(policy, retries=retries, candidates=policy.candidates[:backends])


def with_model(policy: Policy, model: str | None) -> Policy:
    """The policy with another model for every backend."""
    if model is None:
        return policy
    return replace(policy, candidates=tuple(Candidate(each.backend, model) for each in policy.candidates))
