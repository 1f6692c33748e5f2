"""Counts and rates of runs, by cause, code, backend, model, profile, day or hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

SUMMARY_BY = ("cause", "code", "backend", "model", "profile", "day", "hour")
"""By what runs are counted."""

BY_FAILURE = frozenset({"cause", "code"})
"""What only a failed run has: of the others, `runs` alone tells."""


@dataclass(frozen=True)
class SummaryRow:
    """Runs that have something in common. `value` is None for those that have none of what is asked for.

    By cause and by code, a row is of failed runs, and `runs` counts all runs of the time that is looked at, failed or not:
    the rate tells how much of all is lost to this cause.
    """

    by: str
    value: str | None
    runs: int
    failed: int
    fallbacks: int
    """Failed runs after which another backend took over."""
    answered: int
    """Failed runs whose exchange was answered in the end."""
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def failure_rate(self) -> float:
        """Failed runs of all runs, from 0 to 1."""
        return self.failed / self.runs if self.runs else 0.0

    def as_json(self) -> dict[str, Any]:
        """The keys of CONTRACT.md, and tokens."""
        return {
            "by": self.by,
            "value": self.value,
            "runs": self.runs,
            "failed": self.failed,
            "failure_rate": round(self.failure_rate, 6),
            "fallbacks": self.fallbacks,
            "answered": self.answered,
            "unanswered": self.failed - self.answered,
            "p50_seconds": self.p50_seconds,
            "p95_seconds": self.p95_seconds,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of these (sorted) values that at least this share of them does not exceed; None where there are none."""
    return ordered[max(ceil(share * len(ordered)) - 1, 0)] if ordered else None


def in_order(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Days and hours as they came; all else the most failures first, then the most runs."""
    if rows and rows[0].by in {"day", "hour"}:
        return sorted(rows, key=lambda row: row.value or "")
    return sorted(rows, key=lambda row: (-row.failed, -row.runs, row.value or ""))
