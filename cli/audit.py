"""`threadledger audit`: why runs failed."""

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
"""Columns of a terminal below which the table has no room."""


@click.group(
    cls=LazyGroup,
    places={
        "failures": (".audit", "failures", "Every failed run, with cause and advice."),
        "groups": (".audit_groups", "groups", "Failures by cause, backend and message, with their trend."),
        "resolve": (".audit_groups", "resolve", "A group is mended; it is marked if it returns."),
        "mute": (".audit_groups", "mute", "A group is not to be shown."),
        "reopen": (".audit_groups", "reopen", "A group is neither resolved nor muted any more."),
        "show": (".audit_show", "show", "One run: facts, cause, advice, what happened next."),
        "summary": (".audit_summary", "summary", "Counts, rates, durations and tokens, with bars."),
        "report": (".audit_report", "report", "All of it as one HTML file that can be mailed."),
        "export": (".audit_export", "export", "The exchange of a run as a simulator script and a test."),
    },
)
@common
def audit() -> None:
    """Every run failure: why it happened, and what was done about it."""


@click.command()
@click.option("--since", type=MomentParameter(), metavar="T", help="Failed then or later (ISO 8601, or 24h, 7d).")
@click.option("--until", type=MomentParameter(), metavar="T", help="Failed then or earlier.")
@click.option("--cause", metavar="C", help="Of this cause.")
@click.option("--code", metavar="C", help="With this code of the provider.")
@click.option("--backend", metavar="B", help="On this backend.")
@click.option("--unanswered", is_flag=True, help="Of exchanges that nobody has answered yet.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The newest N.")
@click.option("--exit-code", is_flag=True, help="Exit 4 where there is one, for cron.")
@click.option("--follow", is_flag=True, help="Go on with what comes; Ctrl-C ends.")
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
    """Every failed run, oldest first."""
    if follow and (until is not None or exit_code):
        raise click.UsageError("--follow has no end: it does not go with --until and --exit-code")
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
    """Each advice once, with the cause, the newest of its messages, and how many runs it is for."""
    by_advice: dict[tuple[str, str], list[RecordedFailure]] = {}
    for each in found:
        by_advice.setdefault((each.cause.value, each.advice), []).append(each)
    for (cause, advice), failures in by_advice.items():
        times = f", {len(failures)} times" if len(failures) > 1 else ""
        yield f"{cause} ({failures[-1].summary()}){times}\n  {advice}"


def _draw_narrow(rows: Sequence[dict[str, Any]]) -> None:
    """Two lines a failure, where a table has no room."""
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
