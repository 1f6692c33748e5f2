"""Implement `threadledger audit`, which explains why runs failed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .audit_follow import tell_failures
from .exits import Exit
from .invocation import MomentParameter, common, invocation, opened
from .lazy import LazyGroup
from .output import clock, console, emit_many, note, printable, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from threadledger.domain import RecordedFailure


COLUMNS = ("run", "at", "key", "backend", "cause", "next", "answered_by")

NARROW_TERMINAL = 90
"""Terminal width in columns below which failures are printed without a table."""


@click.group(
    cls=LazyGroup,
    places={
        "failures": (".audit", "failures", "List failed runs with cause and advice."),
        "groups": (".audit_groups", "groups", "Group failures by cause, backend and message, with trend."),
        "resolve": (".audit_groups", "resolve", "Mark a group as resolved until it fails again."),
        "mute": (".audit_groups", "mute", "Hide a group, permanently or until a time."),
        "reopen": (".audit_groups", "reopen", "Undo resolving or muting a group."),
        "show": (".audit_show", "show", "Show one run: facts, cause, advice, what happened next."),
        "summary": (".audit_summary", "summary", "Show counts, rates, durations and tokens of runs."),
        "report": (".audit_report", "report", "Write failures and statistics to one HTML file."),
        "export": (".audit_export", "export", "Export a run's exchange as a simulator script and test."),
    },
)
@common
def audit() -> None:
    """Show why runs failed and what was done about it."""


@click.command()
@click.option(
    "--since", type=MomentParameter(), metavar="T", help="Only runs that failed at T or later (ISO 8601, or 24h, 7d)."
)
@click.option("--until", type=MomentParameter(), metavar="T", help="Only runs that failed at T or earlier.")
@click.option("--cause", metavar="C", help="Only failures with this cause.")
@click.option("--code", metavar="C", help="Only failures with this error code of the provider.")
@click.option("--backend", metavar="B", help="Only failures on this backend.")
@click.option("--unanswered", is_flag=True, help="Only failures of exchanges that are still unanswered.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show only the newest N failures.")
@click.option("--exit-code", is_flag=True, help="Exit 4 if there are failures (for cron).")
@click.option("--follow", is_flag=True, help="Keep printing new failures; Ctrl-C stops.")
@common
def failures(
    since: datetime | None,
    until: datetime | None,
    cause: str | None,
    code: str | None,
    backend: str | None,
    unanswered: bool,
    limit: int | None,
    exit_code: bool,
    follow: bool,
) -> int:
    """List failed runs, oldest first."""
    if follow and (until is not None or exit_code):
        raise click.UsageError("--follow never ends: do not combine it with --until or --exit-code")
    from threadledger.domain import FailureFilter, follow_failures

    with opened() as ledger:
        if follow:
            wanted = FailureFilter.of(since, None, cause, code, backend, unanswered)
            tell_failures(follow_failures(ledger.journal, wanted, limit), ledger.close_overdue_runs)
            return Exit.DONE
        found = ledger.failures(since, until, cause, code, backend, unanswered, limit)
    if invocation().output == "table":
        rows = [_row(failure) for failure in found]
        if found and console().width < NARROW_TERMINAL:
            _draw_narrow(rows)
        else:
            emit_many(rows, COLUMNS, empty="no failures")
        for told in _explained(found):
            note(told)
    else:
        emit_many((failure.as_json() for failure in found), ())
    return Exit.FOUND_SOMETHING if exit_code and found else Exit.DONE


def _explained(found: Sequence[RecordedFailure]) -> Iterator[str]:
    """Yield each advice once, with its cause, its newest message and the number of runs that it applies to."""
    by_advice: dict[tuple[str, str], list[RecordedFailure]] = {}
    for each in found:
        by_advice.setdefault((each.cause.value, each.advice), []).append(each)
    for (cause, advice), failures in by_advice.items():
        times = f", {len(failures)} times" if len(failures) > 1 else ""
        yield f"{cause} ({failures[-1].summary()}){times}\n  {advice}"


def _draw_narrow(rows: Sequence[dict[str, Any]]) -> None:
    """Print two lines per failure, for terminals too narrow for a table."""
    from rich.padding import Padding
    from rich.text import Text

    for row in rows:
        head = Text(f"{row['run']}  {row['at']}  ").append(row["cause"], style="red")
        answered = f", answered by {row['answered_by']}" if row["answered_by"] else ""
        console().print(head)
        told = printable(f"{row['key']} on {row['backend']}: {row['next']}{answered}", lines=False)
        console().print(Padding(Text(told), (0, 0, 0, 2)))


def _row(failure: RecordedFailure) -> dict[str, Any]:
    return {
        "run": short(failure.run_id),
        "at": clock(failure.as_json()["at"])[5:16],
        "key": failure.key,
        "backend": failure.backend,
        "cause": failure.cause.value,
        "next": failure.next,
        "answered_by": short(failure.answered_by),
    }
