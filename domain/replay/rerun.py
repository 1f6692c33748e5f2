"""Rerun failed exchanges. A plan always shows first what it will call and about what it costs.

Each exchange is rerun from its pin: it is checked, run within the limits, and its answer is journaled or shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

from ..conversation import (
    Conversation,
    ExchangeRecord,
    Exchanges,
    Place,
    RunRecord,
    parse_message,
    recorded_failure,
)
from ..conversation.messages import Usage
from ..effects import Effects, Pause, work
from ..errors import AllBackendsFailed, Conflict, ConversationBusy, InvalidInput, RunNotFound, ThreadledgerError
from ..exchange import (
    Exchange,
    Mode,
    Policy,
    SentOptions,
    Services,
    ToolFunction,
    Turns,
    only_harmless,
    recorded_answer,
    tools_on_record,
)
from ..failures import RecordedFailure
from ..journal import Journal
from ..limits import QUEUE_LOOK_MAX_SECONDS
from ..memory import Memory, rule_in_copy, version_in_copy
from .fork import events_of_copy, exchange_in_fork, fork, fork_key, is_fork
from .jobs import Jobs
from .plan import CHANGED, ApplyOptions, JobRun, Plan, has_changed
from .rerun_obstacles import ExchangeLook, Obstacle, by_rerun, is_aside, is_left, look, looking_first, obstacles, placed
from .rerun_request import INCLUDE, Budget, Limits, RerunItem, Wanted


class RerunPlan(Plan[RerunItem]):
    """Plan to rerun exchanges; `apply` calls the models."""

    kind = "rerun"
    block = 1  # each item costs seconds and money, so its outcome is recorded at once

    def __init__(self, jobs: Jobs, journal: Journal, services: Services, wanted: Wanted) -> None:
        """Create a plan.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        super().__init__(jobs, services.wait)
        self.wanted = wanted
        self.budget = Budget(Limits())
        self._journal = journal
        self._cost_of = services.cost
        self._load = services.load
        self._rerunning = Rerunning(journal, services, wanted)

    def planned(self) -> Iterator[RerunItem]:
        """Yield the planned items, one exchange at a time."""
        for key, run_ids in self._chosen().values():
            exchanges = self._journal.views.exchange(run_ids[-1])
            runs = exchanges.runs
            named = [run_id for run_id in run_ids if not runs[run_id].shadow or run_id in (self.wanted.runs or ())]
            if named:
                yield self._rerunning.planned(key, named[-1], exchanges)

    def options(self) -> dict[str, Any]:
        return self.wanted.as_json()

    def pins(self) -> Iterator[Mapping[str, Any]]:
        return (item.pin() for item in self.items if item.state == "planned")

    def _begun(self, how: ApplyOptions, reopen: bool = True) -> JobRun[RerunItem] | None:
        if self._load is not None:
            self._load()
        return super()._begun(how, reopen)

    def step(self, pin: Mapping[str, Any]) -> Effects[RerunItem]:
        item = yield from self._rerunning.rerunning(RerunItem.of(pin), self.budget)
        if self._items is not None and item.exchange_id in self._places:
            self._items[self._places[item.exchange_id]] = item
        return item

    def resumed_step(self, pin: Mapping[str, Any]) -> Effects[RerunItem]:
        """Rerun an exchange whose worker has stopped: its open run is closed first.

        Only reruns start such runs, and no other job with reruns has a worker: so no process is still at this run. If
        there is one, the run is left open until its deadline, and the exchange is skipped.
        """
        jobs = yield from work(self._jobs.all)
        own = self.job.job_id if self.job is not None else None
        if not any(job.kind == self.kind and job.holders for job in jobs if job.job_id != own):
            yield from work(partial(self._rerunning.close_runs, RerunItem.of(pin)))
        return (yield from self.step(pin))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {item.exchange_id: place for place, item in enumerate(self.items)}

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
        """Return the maximum number of runs that `apply` starts: every backend with every retry."""
        each = sum(
            (self.policy.retries if candidate.retries is None else candidate.retries) + 1
            for candidate in self.policy.candidates
        )
        planned = sum(item.state == "planned" for item in self.items) * each
        return planned if max_runs is None else min(planned, max_runs)

    def limit(self, max_runs: int | None = None, max_cost: float | None = None) -> None:
        """Set the limits of later calls of `apply`: number of runs, and US dollars by the usage that providers report.

        Raises:
            InvalidInput: a limit is not positive, or `max_cost` needs a price that is unknown.
        """
        limits = Limits(max_runs, max_cost)
        for candidate in self.policy.candidates if max_cost is not None else ():
            if self._cost_of(candidate.backend, candidate.model, 1, 1) is None:
                raise InvalidInput(
                    f"the cost cannot be limited: no price is known for the model {candidate.model!r}; install the prices "
                    "with pip install 'threadledger[prices]', or use a model whose price is known"
                )
        self.budget = Budget(limits)

    def _chosen(self) -> dict[str, tuple[str, list[str]]]:
        """Return a mapping of exchange to conversation and runs, in the order of failure.

        Every selection narrows: named runs only if they match the filters, too. The last run is the one that is rerun.
        """
        wanted = self.wanted
        chosen: dict[str, tuple[str, list[str]]] = {}
        for key, exchange_id, run_id in self._named() if wanted.runs is not None else self._failed():
            if wanted.keys is None or key in wanted.keys:
                chosen.setdefault(exchange_id, (key, []))[1].append(run_id)
        return self._without_deleted(chosen)

    def _without_deleted(self, chosen: dict[str, tuple[str, list[str]]]) -> dict[str, tuple[str, list[str]]]:
        """Return the exchanges of conversations that were not deleted.

        Raises:
            RunNotFound: a run that was named belongs to a deleted one.
        """
        used = self._journal.used_keys({key for key, _ in chosen.values()})
        runs = {key: self._journal.exchanges(key).runs for key, was_deleted in used.items() if was_deleted}
        kept: dict[str, tuple[str, list[str]]] = {}
        for exchange_id, (key, run_ids) in chosen.items():
            if key not in runs or run_ids[-1] in runs[key]:
                kept[exchange_id] = key, run_ids
            elif self.wanted.runs is not None:
                raise RunNotFound(
                    f"run {run_ids[-1]} belongs to a conversation {key!r} that was deleted: it cannot be run again, and is "
                    f"shown by: threadledger audit show {run_ids[-1]}"
                )
        return kept

    def _named(self) -> Iterator[tuple[str, str, str]]:
        """Yield the named runs that match the filters: key, exchange and run."""
        wanted = self.wanted
        matching = wanted.matching(unanswered=wanted.failed and not wanted.includes("answered"))
        for run_id in wanted.runs or ():
            run, exchanges = self._journal.run(run_id)
            has_failed = run.failure is not None and matching(recorded_failure(run, exchanges.exchange_of(run)))
            if has_failed or not wanted.filters_failures:
                yield run.key, run.exchange_id, run.run_id

    def _failed(self) -> Iterator[tuple[str, str, str]]:
        """Yield the failed runs that match the filters: key, exchange and run."""
        wanted = self.wanted
        if wanted.failed or wanted.keys:
            matching = wanted.matching(unanswered=not wanted.includes("answered"))
            among = [matching] if wanted.keys is None else [replace(matching, key=key) for key in wanted.keys]
            found = [failure for each in among for failure in self._journal.views.failures(each)]
            for failure in sorted(found, key=lambda failure: failure.at) if len(among) > 1 else found:
                yield failure.key, failure.exchange_id, failure.run_id

    def _listed(self, found: Mapping[int, RerunItem]) -> list[RerunItem]:
        if self._items is None:  # a resumed job: its items were planned by another process
            self._items = super()._listed(found)
        return self._items


ESTIMATED_ANSWER_TOKENS = 300
"""Number of tokens that a plan assumes for an answer when it estimates the cost."""


@dataclass(frozen=True)
class Price:
    """Hold the estimated usage of one exchange."""

    tokens: int
    """Number of input tokens."""
    cost: float | None
    """US dollars; None if the model's price is unknown."""


class Rerunning:
    """Rerun exchanges with the options of one rerun. Several threads may rerun several at once."""

    def __init__(self, journal: Journal, services: Services, wanted: Wanted) -> None:
        """Prepare reruns with these options.

        Raises:
            InvalidInput: there is no such backend, or no model is known for it.
        """
        self.policy = wanted.policy_of(services)
        self._journal = journal
        self._configured = services
        self._services = wanted.services_of(services)
        self._wanted = wanted
        self._turns = Turns()

    def planned(self, key: str, run_id: str, exchanges: Exchanges | None = None) -> RerunItem:
        """Return the planned rerun of one run's exchange, which is among `exchanges`. No model is called."""
        seen = look(self._journal, key, run_id, exchanges)
        item = RerunItem(key, seen.exchange.exchange_id, run_id, version=seen.state.version)
        if self._wanted.into == "fork":
            item = replace(item, fork=fork_key(self._journal, key, run_id, self._memory_version(seen)))
        try:
            own = self._as_requested(seen)
        except InvalidInput as error:
            return skipped(item, [Obstacle("options", str(error))])
        found = obstacles(seen, self._wanted, own._services, own.policy)
        if found or not own.policy.candidates:
            return skipped(item, found)
        return own._estimated(item, seen)

    def _as_requested(self, seen: ExchangeLook) -> Rerunning:
        """Return the rerun of an exchange: with the options that were recorded with its question, except those of the rerun.

        Raises:
            InvalidInput: one of them is not valid any more.
        """
        first = seen.exchange.runs[0].version
        sent = SentOptions.of(self._journal, seen.run.key, seen.exchange.exchange_id, first)
        if sent is None:
            return self
        own, wanted = copy(self), self._wanted
        own._services = sent.services_of(
            self._configured, {"model": wanted.model, "profile": wanted.profile, "backend": wanted.on}
        )
        own.policy = own._services.policy
        return own

    def _estimated(self, item: RerunItem, seen: ExchangeLook) -> RerunItem:
        estimate = self._estimate(seen.memory or Memory())
        return replace(self._with_backend(item), estimated_tokens=estimate.tokens, estimated_cost=estimate.cost)

    def rerunning(self, item: RerunItem, budget: Budget) -> Effects[RerunItem]:
        """Rerun one planned item. If a limit prevents this, the item is returned as planned.

        Provider failures and conflicts are reported in the item, never raised.
        """
        try:
            if self._wanted.into != "tail":
                return (yield from self._rerun(item, budget))
            return (yield from self._in_turn(item, budget))
        except ConversationBusy:
            return replace(item, state="skipped", reason="a run is open: wait for its end", kind="open")
        except Conflict as error:
            return replace(item, state="skipped", reason=str(error), kind="changed")
        except ThreadledgerError as error:
            return replace(item, state="failed", reason=str(error))

    def close_runs(self, item: RerunItem) -> None:
        """Close the open runs of reruns of this item, because their process has stopped."""
        for key in (item.key, item.fork):
            if key is None or self._journal.load(key) is None:
                continue
            runs = self._journal.exchanges(key).runs.values()
            mine = [run for run in runs if key == item.fork or run.exchange_id == item.exchange_id]
            left = [run.run_id for run in mine if run.state == "open" and run.rerun_of is not None]
            if left:
                self._journal.commit(key, partial(_close_runs, run_ids=left))

    def _in_turn(self, item: RerunItem, budget: Budget) -> Effects[RerunItem]:
        """Rerun an item when all earlier reruns of its conversation in this process have ended."""
        ticket = self._turns.take(item.key)
        try:
            while not self._turns.has_come(item.key, ticket):
                yield Pause(QUEUE_LOOK_MAX_SECONDS)
            return (yield from self._rerun(item, budget))
        finally:
            self._turns.give_back(item.key, ticket)

    def _rerun(self, item: RerunItem, budget: Budget) -> Effects[RerunItem]:
        own, seen, item = yield from work(partial(self._examined, item))
        if item.state != "planned":
            return item
        item = own._estimated(item, seen)
        estimated = item.estimated_cost
        if estimated is None and budget.limits.max_cost is not None:
            reason = f"the cost is limited, and no price is known for the recorded model {item.model!r}"
            return replace(item, state="skipped", reason=reason, kind="price")
        limit = budget.begin(estimated or 0.0)
        if limit:
            return replace(item, reason=limit)
        cost = estimated or 0.0  # used if the actual cost remains unknown
        try:
            exchange = yield from work(partial(own._exchange, item, seen, budget))
            item = yield from _ran(exchange, item)
            cost, item = yield from work(partial(own._paid, exchange, item, cost))
            return item
        finally:
            budget.end(estimated or 0.0, cost)

    def _examined(self, item: RerunItem) -> tuple[Rerunning, ExchangeLook, RerunItem]:
        """Return the rerun with the exchange's recorded options, and what `_checked` returns."""
        every = self._journal.exchanges(item.key)
        seen = look(self._journal, item.key, item.run_id, every)
        own = self._as_requested(seen)
        return own, *own._checked(item, seen, every)

    def _checked(self, item: RerunItem, seen: ExchangeLook, every: Exchanges) -> tuple[ExchangeLook, RerunItem]:
        """Return the exchange as of now, and the item: done by an earlier attempt, skipped, or still planned."""
        if self._wanted.into != "tail":
            item = replace(item, original=self._original(seen))
        done = self._done_before(item, seen)
        if done is not None:
            return seen, done
        if has_changed(self._journal, seen.run.key, item.version, by_rerun(every)):
            return seen, replace(item, state="skipped", reason=CHANGED, kind="changed")
        found = obstacles(seen, self._wanted, self._services, self.policy)
        since = [run for run in seen.exchange.runs if run.version > item.version and run.completed and not run.shadow]
        if since and not found and self._wanted.into == "tail":  # regardless of `include`: the answer exists
            found = [Obstacle("answered", f"already answered by run {since[-1].run_id}")]
        if found or not self.policy.candidates:
            return seen, skipped(item, found)
        return seen, item

    def _done_before(self, item: RerunItem, seen: ExchangeLook) -> RerunItem | None:
        """Return the result of an earlier attempt at this item that was killed before reporting it, or None."""
        if self._wanted.into == "shadow":
            since = [run for run in seen.exchange.runs if run.shadow and run.version > item.version]
            ours = next((run for run in since if run.rerun_of == item.run_id and run.completed), None)
            return _shown(item, ours) if ours is not None else None
        if item.fork is None or self._journal.load(item.fork) is None:
            return None
        exchange = self._journal.exchanges(item.fork).by_id.get(exchange_in_fork(self._journal, item.fork) or "")
        last = exchange.last() if exchange is not None else None
        if not is_fork(self._journal, item.fork, item.key, self._memory_version(seen)):
            return replace(
                item, state="skipped", reason=f"a conversation {item.fork!r} was created after the plan: plan again"
            )
        if exchange is not None and exchange.answered_by is not None:
            answer = recorded_answer(self._journal, item.fork, exchange.exchange_id)
            return _answered(item, answer.text if answer else "", exchange.answered_by, exchange)
        if last is not None and not self._policy(item.fork, last).candidates:
            interrupted = f"its last run in {item.fork!r} was interrupted: the provider may already have answered it"
            return skipped(item, [Obstacle("interrupted", interrupted)])
        return None

    def _exchange(self, item: RerunItem, seen: ExchangeLook, budget: Budget) -> Exchange:
        if self._wanted.into == "fork" and item.fork is not None:
            return self._in_fork(item, seen, item.fork, budget)
        memory, is_shadow = seen.memory or Memory(), self._wanted.into == "shadow"
        last = seen.exchange.last()
        mode = self._mode(item, seen.exchange, memory, budget)
        if is_aside(seen.exchange) and not is_shadow:
            mode = mode.beside(self._journal, seen.exchange)
        else:
            mode = replace(
                mode,
                supersedes=seen.exchange.answered_by if not is_shadow else None,
                place=partial(self._place, item, memory),
                shadow=is_shadow,
            )
        services = replace(self._services, outbox=None) if is_shadow else self._services
        policy = self.policy if is_shadow or last is None else self._policy(item.key, last)
        return Exchange(self._journal, services, item.key, seen.exchange.exchange_id, mode=mode, policy=policy)

    def _in_fork(self, item: RerunItem, seen: ExchangeLook, key: str, budget: Budget) -> Exchange:
        """Return the rerun in a copy of the conversation; the copy is created unless an earlier attempt has done so."""
        at = self._memory_version(seen)
        if self._journal.load(key) is None:
            fork(self._journal, item.key, key, at, asked_in=item.exchange_id, leaf=seen.run.memory_leaf_version)
        exchange_id = exchange_in_fork(self._journal, key)
        shown, full = (
            self._journal.memory(item.key, at, leaf=seen.run.memory_leaf_version, full=full) for full in (False, True)
        )
        rule = rule_in_copy(seen.run.memory_rule, full)
        first = version_in_copy(seen.run.memory_first_version or 0, full)
        memory = self._journal.memory(key, events_of_copy(shown, full)).by_rule(rule, first)
        copied, saw = ([each.message for each in view.messages] for view in (memory, seen.memory or memory))
        if exchange_id is None or copied != saw:
            raise Conflict(f"the memory of the fork {key!r} differs from the memory of the run: plan again")
        recorded = self._journal.exchanges(key).by_id.get(exchange_id) or ExchangeRecord(exchange_id, key)
        last = recorded.last()
        mode = self._mode(item, recorded, memory, budget)
        policy = self.policy if last is None else self._policy(key, last)
        return Exchange(self._journal, self._services, key, exchange_id, mode=mode, policy=policy)

    def _mode(self, item: RerunItem, exchange: ExchangeRecord, memory: Memory, budget: Budget) -> Mode:
        """Return the mode that all reruns share: the recorded memory, the recorded tool results, and the limits."""
        return Mode(
            again=True,
            rerun_of=_rerun_of(exchange, item.run_id),
            memory=memory,
            tools=self._tools(item),
            admit=budget.take_run,
            give_back=budget.give_back_run,
        )

    def _policy(self, key: str, last: RunRecord) -> Policy:
        """Return the policy; after an interrupted run, only with backends that first search for its answer."""
        if not is_left(last) or self._wanted.includes("interrupted"):
            return self.policy
        return looking_first(look(self._journal, key, last.run_id), self._services, self.policy)

    def _tools(self, item: RerunItem) -> Callable[[], Mapping[str, ToolFunction]]:
        tools = self._services.tools
        if self._wanted.live:
            return lambda: tools
        if self._wanted.into == "shadow":  # the answer is only shown, so it must have no side effects
            tools = only_harmless(tools, self._services.profile.read_only)
        return partial(tools_on_record, self._journal, item.key, item.exchange_id, tools)

    def _place(self, item: RerunItem, memory: Memory) -> Place:
        exchange = self._journal.exchanges(item.key).by_id[item.exchange_id]
        return placed(self._journal.memory(item.key), memory, exchange)[0] or Place()

    def _paid(self, exchange: Exchange, item: RerunItem, otherwise: float) -> tuple[float, RerunItem]:
        """Return the cost of the started runs, and the item with this cost."""
        made = {*exchange.made, item.new_run_id}
        runs = [run for run in self._journal.exchanges(item.fork or item.key).runs.values() if run.run_id in made]
        costs = [self._cost(run) for run in runs]
        known = [cost for cost in costs if cost is not None]
        cost = sum(known) if len(known) == len(costs) else None
        return (otherwise if cost is None else cost), replace(item, cost=cost, runs_made=len(runs))

    def _cost(self, run: RunRecord) -> float | None:
        used = usage_of(run)
        if used.input_tokens == used.output_tokens == 0:
            return 0.0
        named = run.completed.model if run.completed is not None and run.completed.model else run.model
        cost = self._services.cost(run.backend, named, used.input_tokens, used.output_tokens)
        if cost is not None:
            return cost
        return self._services.cost(run.backend, run.model, used.input_tokens, used.output_tokens)

    def _estimate(self, memory: Memory) -> Price:
        tokens, first = memory.estimated_tokens(), self.policy.candidates[0]
        return Price(tokens, self._services.cost(first.backend, first.model, tokens, ESTIMATED_ANSWER_TOKENS))

    def _with_backend(self, item: RerunItem) -> RerunItem:
        first = self.policy.candidates[0]
        return replace(item, backend=first.backend, model=first.model)

    def _memory_version(self, seen: ExchangeLook) -> int:
        return seen.memory.version if seen.memory is not None else seen.run.memory_version

    def _original(self, seen: ExchangeLook) -> str | None:
        answer = recorded_answer(self._journal, seen.run.key, seen.exchange.exchange_id)
        if answer is not None:
            return answer.text
        failed = [run for run in seen.exchange.runs if run.failure is not None and not run.shadow]
        return _failure_reason([recorded_failure(failed[-1], seen.exchange)]) if failed else None


def _close_runs(conversation: Conversation, run_ids: Sequence[str]) -> None:
    conversation.close_runs(run_ids)


def skipped(item: RerunItem, found: Sequence[Obstacle]) -> RerunItem:
    """Return the item as skipped, with the reason."""
    if not found:
        return replace(item, state="skipped", reason="no backend is set: set THREADLEDGER_BACKENDS", kind="no backend")
    reason = "; ".join(each.why for each in found)
    return replace(item, state="skipped", reason=reason, kind=",".join(each.kind for each in found))


def can_be_included(item: RerunItem) -> Iterator[str]:
    """Yield the values of `include` that would allow a skipped item to run; none if another obstacle would remain."""
    kinds = item.kind.split(",") if item.kind else []
    return iter(kinds if all(kind in INCLUDE for kind in kinds) else ())


def usage_of(run: RunRecord) -> Usage:
    """Return the usage that the provider reports for a run, also for a failed one; zero if it reports none."""
    usage = run.completed.usage if run.completed is not None else None
    if usage is None and run.failure is not None:
        usage = run.failure.details.get("usage")
    counts = [usage.get(each.name) for each in fields(Usage)] if isinstance(usage, dict) else []
    return Usage(*(count if isinstance(count, int) else 0 for count in counts))


def _ran(exchange: Exchange, item: RerunItem) -> Effects[RerunItem]:
    try:
        answer = yield from exchange.run()
    except AllBackendsFailed as error:
        reason = _failure_reason(error.failures)
        if exchange.limit:
            return replace(item, reason=f"{exchange.limit}: {reason}" if error.failures else exchange.limit)
        return replace(item, state="failed", reason=reason)
    return replace(
        item,
        state="answered",
        answer=answer.text,
        new_run_id=answer.run_id,
        backend=answer.backend,
        model=answer.model,
        usage=answer.usage,
    )


def _failure_reason(failures: Sequence[RecordedFailure]) -> str:
    return f"{failures[-1].cause.value}: {failures[-1].summary()}" if failures else "no backend was called"


def _answered(item: RerunItem, text: str, run_id: str, exchange: ExchangeRecord) -> RerunItem:
    run = next(run for run in exchange.runs if run.run_id == run_id)
    model = run.completed.model if run.completed is not None else None
    item = replace(item, state="answered", answer=text, new_run_id=run_id)
    return replace(item, backend=run.backend, model=model or run.model, usage=usage_of(run))


def _shown(item: RerunItem, run: RunRecord) -> RerunItem:
    """Return the item with the answer of a completed shadow run."""
    said = run.completed.shadow_messages if run.completed is not None else []
    text = parse_message(said[-1]).text if said else ""
    return _answered(item, text, run.run_id, ExchangeRecord(run.exchange_id, run.key, [run]))


def _rerun_of(exchange: ExchangeRecord, run_id: str) -> str:
    """Return the id of the run to rerun: after an earlier attempt, that attempt's last run."""
    last = exchange.last()
    tried = any(run.rerun_of == run_id and not run.shadow for run in exchange.runs)
    return last.run_id if tried and last is not None else run_id
