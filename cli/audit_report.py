"""Implement `threadledger audit report`, which writes a self-contained HTML file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import Exit
from .invocation import MomentParameter, common, opened
from .output import note

if TYPE_CHECKING:
    from threadledger.adapters import Report
    from threadledger.domain import Ledger


@click.command()
@click.option(
    "--since", type=MomentParameter(), metavar="T", help="Only runs and failures since T (ISO 8601, or 24h, 7d)."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="File to write, such as report.html.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@common
def report(since: datetime | None, output: Path, force: bool) -> int:
    """Write failures by day, rates, durations and groups with advice to one HTML file.

    The file loads no other resources and runs no scripts, so it can be printed and mailed.
    """
    from threadledger.adapters import render_report

    _refuse_if_there(output, force)
    with opened() as ledger:
        page = render_report(_report(ledger, since))
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(page)
    except FileExistsError:
        _refuse_if_there(output, force)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror}): name another file") from error
    note(f"wrote {output} ({len(page.encode()) // 1024 + 1:,} KB)")
    return Exit.DONE


def _refuse_if_there(output: Path, force: bool) -> None:
    if output.exists() and not force:
        from threadledger.domain import Conflict

        raise Conflict(f"{output} already exists and was not changed: name another file, or pass --force")


def _report(ledger: Ledger, since: datetime | None) -> Report:
    from threadledger.adapters import Report
    from threadledger.domain import GroupState, now

    groups = ledger.failure_groups(since, tuple(GroupState))
    return Report(
        made_at=now(),
        since=since,
        backends=ledger.summary("backend", since),
        causes=ledger.summary("cause", since),
        models=ledger.summary("model", since),
        days=ledger.journal.views.failure_days(since),
        groups=[each for each in groups if each.state is not GroupState.MUTED],
        muted=sum(each.state is GroupState.MUTED for each in groups),
    )
