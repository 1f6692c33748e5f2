"""Implement `threadledger audit report` (one HTML file) and `export` (an exchange as a simulator script and a test)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..main import Exit, MomentParameter, common, load_settings, opened
from ..output import note, print_json

if TYPE_CHECKING:
    from threadledger.adapters import ExportedRun, Report
    from threadledger.domain.ledger import Ledger


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
    from threadledger.adapters import private_file, render_report

    _refuse_if_there(output, force)
    with opened(reads=True) as ledger:
        page = render_report(_report(ledger, since))
    try:
        with private_file(output, overwrite=force) as file:
            file.write(page)
    except FileExistsError:
        _refuse_if_there(output, force)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror}): name another file") from error
    note(f"wrote {output} ({len(page.encode()) // 1024 + 1:,} KB)")
    return Exit.DONE


def _refuse_if_there(output: Path, force: bool) -> None:
    if output.exists() and not force:
        from threadledger.domain.errors import Conflict

        raise Conflict(f"{output} already exists and was not changed: name another file, or pass --force")


def _report(ledger: Ledger, since: datetime | None) -> Report:
    from threadledger.adapters import Report
    from threadledger.domain.failures import GroupState
    from threadledger.domain.ids import now

    groups = ledger.failure_groups(since, tuple(GroupState))
    return Report(
        made_at=now(),
        since=since,
        backends=ledger.summary("backend", since),
        causes=ledger.summary("cause", since),
        models=ledger.summary("model", since),
        days=ledger.journal.views.failure_days(since),
        groups=[each for each in groups if each.state is not GroupState.MUTED],
        unanswered=len({run.exchange_id for run in ledger.journal.views.unanswered(since)}),
        muted=sum(each.state is GroupState.MUTED for each in groups),
    )


@click.command()
@click.argument("run")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write RUN.json and test_RUN.py to this folder instead of printing the script.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "--redact-text",
    is_flag=True,
    help="Replace message texts, tool arguments and results, and instructions with placeholders of equal length.",
)
@common
def export(run: str, output: Path | None, force: bool, redact_text: bool) -> int:
    """Turn a failure into a test: export the exchange of RUN, with its faults, as a simulator script.

    With --output, also write a pytest file that plays the script and expects the recorded outcome. The script is first
    rehearsed on a temporary simulator; no provider is called.
    """
    from threadledger.adapters import export_run

    with opened(reads=True) as ledger:
        ledger.close_overdue_runs()
        with _without_its_failures():
            exported = export_run(ledger.journal, run, load_settings(), redact_text=redact_text)
    if output is None:
        print_json(exported.script, indent=2)
    else:
        _write(exported, output, force)
    for difference in exported.notes:
        note(f"not reproduced exactly: {difference}")
    return Exit.DONE


@contextmanager
def _without_its_failures() -> Iterator[None]:
    """Disable logging during the rehearsal, because its failures are expected."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _write(exported: ExportedRun, folder: Path, force: bool) -> None:
    from threadledger.adapters import private_file

    script, test = folder / f"{exported.name}.json", folder / f"test_{exported.name}.py"
    there = [path for path in (script, test) if path.exists()]
    if there and not force:
        from threadledger.domain.errors import Conflict

        raise Conflict(f"{there[0]} already exists and was not changed: name another folder, or pass --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with private_file(script, overwrite=force) as file:
            file.write(json.dumps(exported.script, ensure_ascii=False, indent=2) + "\n")
        with private_file(test, overwrite=force) as file:
            file.write(exported.test)
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written to ({error.strerror}): name another folder") from error
    note(f"wrote {script} and {test}; run the test with: pytest {test}")
