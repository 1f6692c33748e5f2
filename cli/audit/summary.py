"""Implement `threadledger audit summary`, which shows counts and rates of runs, with bars."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ..main import KEY, Exit, MomentParameter, common, invocation, opened
from ..output import WIDE_TERMINAL, bar, console, counted, emit_many, note, span, table
from ..terminal import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadledger.domain.failures import SummaryRow
    from threadledger.domain.ledger import Ledger

BY = ("cause", "code", "backend", "model", "profile", "actor", "owner", "conversation", "day", "hour")

WIDE = ("runs", "failed", "rate", "", "fallbacks", "answered", "unanswered", "p50", "p95", "input", "output")
NARROW = ("runs", "failed", "rate", "", "unanswered", "p95")
OF_SPENDERS, OF_MODELS = ("cached", "cost"), ("ratings", "mean rating")
"""Columns of a summary by owner or conversation, and by model, in addition."""

BAR_CHARS, NARROW_BAR_CHARS = 20, 8

PROFILE_HASH_CHARS = 8


@click.command()
@click.option("--by", type=click.Choice(BY), default="cause", show_default=True, help="Group runs by this property.")
@click.option(
    "--since", type=MomentParameter(), metavar="T", help="Only runs that started at T or later (ISO 8601, or 24h)."
)
@click.option("--until", type=MomentParameter(), metavar="T", help="Only runs that started at T or earlier.")
@click.option("--actor", type=KEY, metavar="NAME", help="Only runs that this actor caused.")
@common
def summary(by: str, since: datetime | None, until: datetime | None, actor: str | None) -> int:
    """Show counts, failure rates, durations and tokens of runs, with bars for the number of failures.

    By owner and conversation, the costs are shown, if the extra `prices` is installed; by model, the ratings of answers.

    By cause and by code, `runs` counts all runs, because only failed runs have a cause. `answered` and `unanswered` count
    exchanges, which may have several failed runs each.
    """
    with opened(reads=True) as ledger:
        rows = ledger.summary(by, since, until, actor=actor)
        names = _profile_names(ledger, rows) if by == "profile" else {}
    if invocation().output != "table":
        emit_many((row.as_json() for row in rows), ())
    elif rows:
        wide = console().width >= WIDE_TERMINAL
        more = {"owner": OF_SPENDERS, "conversation": OF_SPENDERS, "model": OF_MODELS}.get(by, ())
        columns = (*(WIDE if wide else NARROW), *more)
        console().print(table([_drawn(row, rows, names, wide) for row in rows], (by, *columns)))
        unpriced = sum(row.unpriced_runs or 0 for row in rows)
        if unpriced:
            note(
                f"the costs lack {counted(unpriced, 'run')} without a known price (pip install 'threadledger[prices]')"
            )
    else:
        note("no runs failed" if by in {"cause", "code"} else "no runs")
    return Exit.DONE


def _drawn(row: SummaryRow, rows: Sequence[SummaryRow], names: Mapping[str, str], wide: bool) -> dict[str, Any]:
    from rich.text import Text

    value = names.get(row.value or "", row.value or "(none)").replace("T", " ").removesuffix(":00Z")
    value = value if row.by in {"day", "hour"} else names.get(row.value or "", row.value or "(none)")
    length = BAR_CHARS if wide else NARROW_BAR_CHARS
    return {
        row.by: printable(value, lines=False),
        "runs": row.runs,
        "failed": row.failed,
        "rate": Text(f"{row.failure_rate:.1%}", justify="right"),
        "": Text(bar(row.failed, max(each.failed for each in rows), length), style="red"),
        "fallbacks": row.fallbacks,
        "answered": row.answered,
        "unanswered": row.unanswered,
        "p50": Text(span(row.p50_seconds), justify="right"),
        "p95": Text(span(row.p95_seconds), justify="right"),
        "input": row.input_tokens,
        "output": row.output_tokens,
        "cached": row.cached_tokens,
        "cost": Text(f"{row.cost:.4f} USD" if row.cost is not None else "", justify="right"),
        "ratings": row.ratings,
        "mean rating": Text(f"{row.mean_rating:g}" if row.mean_rating is not None else "", justify="right"),
    }


def _profile_names(ledger: Ledger, rows: Sequence[SummaryRow]) -> dict[str, str]:
    """Return profile names by hash; each name includes a short hash, because several profiles may share a name."""
    from threadledger.domain.ledger import defined_profile

    names = {}
    for row in rows:
        profile = defined_profile(ledger.journal, row.value)
        if profile is not None and row.value is not None:
            names[row.value] = f"{profile.name} {row.value[:PROFILE_HASH_CHARS]}"
    return names
