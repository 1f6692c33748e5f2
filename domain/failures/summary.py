"""Count runs and compute their rates, by cause, code, backend, model, profile, actor, owner, conversation, day or hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

SUMMARY_BY = ("cause", "code", "backend", "model", "profile", "actor", "owner", "conversation", "day", "hour")
"""Properties by which runs can be counted. The owner of a run is the one that its conversation has now."""

BY_FAILURE = frozenset({"cause", "code"})
"""Properties that only failed runs have; other runs count in `runs` alone."""


@dataclass(frozen=True)
class SummaryRow:
    """Represent the runs that share one value; `value` is None for runs without one.

    By cause and by code, a row covers failed runs, and `runs` counts all runs of the period, failed or not: the rate is
    the share of all runs that failed for this cause.
    """

    by: str
    value: str | None
    runs: int
    failed: int
    fallbacks: int
    """Number of failed runs after which another backend took over."""
    answered: int
    """Number of exchanges with a failed run in this row that were answered in the end."""
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    exchanges: int = 0
    """Number of exchanges with a failed run in this row; one exchange may have several, because runs are retried."""
    cached_tokens: int | None = None
    """Input tokens that providers read from their caches; this and the costs are counted by owner and conversation only."""
    cost: float | None = None
    """Sum of the known costs in US dollars; None if no cost is known."""
    unpriced_runs: int | None = None
    """Number of runs with tokens whose price is unknown: they are not in `cost`."""
    ratings: int | None = None
    """Number of ratings of what the runs said; this and their mean are counted by model only."""
    mean_rating: float | None = None

    @property
    def failure_rate(self) -> float:
        """Return the share of failed runs among all runs, from 0 to 1."""
        return self.failed / self.runs if self.runs else 0.0

    @property
    def unanswered(self) -> int:
        """Return the number of exchanges that have no answer."""
        return self.exchanges - self.answered

    @staticmethod
    def ranked(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
        """Sort rows: days and hours by time; all others by most failures, then by most runs."""
        if rows and rows[0].by in {"day", "hour"}:
            return sorted(rows, key=lambda row: row.value or "")
        return sorted(rows, key=lambda row: (-row.failed, -row.runs, row.value or ""))

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a row of `audit summary`; docs/commands.md lists its keys."""
        return {
            "by": self.by,
            "value": self.value,
            "runs": self.runs,
            "failed": self.failed,
            "failure_rate": round(self.failure_rate, 6),
            "fallbacks": self.fallbacks,
            "answered": self.answered,
            "unanswered": self.unanswered,
            "p50_seconds": self.p50_seconds,
            "p95_seconds": self.p95_seconds,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "exchanges": self.exchanges,
            "cached_tokens": self.cached_tokens,
            "cost": self.cost,
            "unpriced_runs": self.unpriced_runs,
            "ratings": self.ratings,
            "mean_rating": self.mean_rating,
        }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest of the sorted values that at least `share` of them do not exceed; None without values."""
    return ordered[max(ceil(share * len(ordered)) - 1, 0)] if ordered else None
