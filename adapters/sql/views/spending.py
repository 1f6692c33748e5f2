"""Count runs with their tokens and costs by owner or conversation, from the rows of runs in a period."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from threadledger.domain.conversation import key_of
from threadledger.domain.conversation.messages import Usage
from threadledger.domain.failures import SummaryRow
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal.budgets import Price

from .figures import RunTally, summary_row
from .owners import Owners
from .runs import RunRow, storable
from .transaction import ViewTransaction

LINEAR_TOKENS_MAX = 100_000
"""Number of input tokens up to which each token of a model has the same price; above, some models have another one."""

PROBE_TOKENS = 1_000
"""Number of tokens whose price is computed, to know the price of one."""

DAY_CHARS = 10

_COLUMNS = (
    "started, conversation, started_at, exchange_id, backend, model, failed, next, answered_by, seconds, input_tokens, "
    "output_tokens, cached_tokens"
)


@dataclass
class _Spender:
    """Hold what is counted of one owner or conversation."""

    tally: RunTally = field(default_factory=RunTally)
    cached: int = 0
    cost: float | None = None
    unpriced: int = 0


def spending(
    transaction: ViewTransaction,
    begin: str,
    by: str,
    since: datetime | None,
    until: datetime | None,
    actor: str | None,
    price: Price | None,
) -> list[SummaryRow]:
    """Return a summary of the runs that started in a period, by `owner` or `conversation`, with their costs."""
    costs = Costs(price)
    owners = Owners(transaction, begin) if by == "owner" else None
    spenders: defaultdict[str | None, _Spender] = defaultdict(_Spender)
    for row in _runs(transaction, begin, since, until, storable(actor)):
        run = _run_of(*row)
        value = owners.of(run) if owners is not None else key_of(run.conversation)
        spender = spenders[value]
        spender.tally.add(run)
        spender.cached += run.cached_tokens
        if run.failed is not None:
            spender.tally.failed_in.add(run.exchange_id)
            if run.answered_by is not None:
                spender.tally.answered_in.add(run.exchange_id)
        if run.input_tokens or run.output_tokens:
            cost = costs.of(run)
            if cost is None:
                spender.unpriced += 1
            else:
                spender.cost = (spender.cost or 0.0) + cost
    rows = []
    for value, spender in spenders.items():
        spender.tally.close()
        cost = round(spender.cost, 9) if spender.cost is not None else None
        row = summary_row(by, value, spender.tally, None)
        rows.append(replace(row, cached_tokens=spender.cached, cost=cost, unpriced_runs=spender.unpriced))
    return sorted(SummaryRow.ranked(rows), key=lambda row: -(row.cost or 0.0))


class Costs:
    """Compute the costs of many runs; the price of one token is looked up once for each model and day."""

    def __init__(self, price: Price | None) -> None:
        self._price = price
        self._units: dict[tuple[str, str, str], tuple[float, float, float] | None] = {}

    def of(self, run: RunRow) -> float | None:
        """Return the cost of a run in US dollars at the prices of its day; None if it is unknown."""
        if self._price is None or run.backend is None or run.model is None:
            return None
        usage = Usage(run.input_tokens, run.output_tokens, min(run.cached_tokens, run.input_tokens))
        if usage.input_tokens > LINEAR_TOKENS_MAX:
            return self._price(run.backend, run.model, usage, from_iso(run.started_at))
        key = run.backend, run.model, run.started_at[:DAY_CHARS]
        if key not in self._units:
            self._units[key] = self._unit(run.backend, run.model, from_iso(run.started_at))
        unit = self._units[key]
        if unit is None:
            return None
        fresh = usage.input_tokens - usage.cached_tokens
        return fresh * unit[0] + usage.cached_tokens * unit[1] + usage.output_tokens * unit[2]

    def _unit(self, backend: str, model: str, at: datetime) -> tuple[float, float, float] | None:
        """Return the prices of an input token, of a cached one and of an output token."""
        n = PROBE_TOKENS
        probes = Usage(n, 0), Usage(n, 0, n), Usage(0, n)
        found = [self._price(backend, model, each, at) if self._price is not None else None for each in probes]
        fresh, cached, output = (each / n if each is not None else None for each in found)
        return (fresh, cached, output) if fresh is not None and cached is not None and output is not None else None


def _runs(
    transaction: ViewTransaction, begin: str, since: datetime | None, until: datetime | None, actor: str | None
) -> list[Any]:
    given = [
        ("started_at >= ?", to_iso(since) if since is not None else None),
        ("started_at <= ?", to_iso(until) if until is not None else None),
        ("actor = ?", actor),
    ]
    conditions = " AND ".join(["1 = 1", *(condition for condition, value in given if value is not None)])
    query = f"SELECT {_COLUMNS} FROM {begin}runs WHERE {conditions}"
    return list(transaction.rows(query, [value for _, value in given if value is not None]))


def _run_of(
    started: int, conversation: str, started_at: str, exchange_id: str, backend: Any, model: Any, failed: Any, then: str,
    answered_by: Any, seconds: Any, input_tokens: int, output_tokens: int, cached_tokens: int,
) -> RunRow:  # fmt: skip
    return RunRow(
        started=started, id_reversed="", exchange_id=exchange_id, conversation=conversation, started_at=started_at,
        backend=backend, model=model, profile=None, actor=None, rerun_of=None, shadow=0, failed=failed, next=then,
        answered_by=answered_by, seconds=seconds, input_tokens=input_tokens, output_tokens=output_tokens,
        cached_tokens=cached_tokens,
    )  # fmt: skip
