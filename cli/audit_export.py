"""`threadledger audit export`: the exchange of a run as a simulator script, and as a test that plays it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import Exit
from .invocation import common, load_settings, opened
from .output import note

if TYPE_CHECKING:
    from threadledger.adapters import ExportedRun


@click.command()
@click.argument("run")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write RUN.json and test_RUN.py there, instead of the script to stdout.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@click.option(
    "--redact-text",
    is_flag=True,
    help="Placeholders of the same length for texts of messages, tool arguments and results, and instructions.",
)
@common
def export(run: str, output: Path | None, force: bool, redact_text: bool) -> int:
    """A failure becomes a test: the exchange of RUN, and the faults that it met, as a script for the simulator.

    With --output also a pytest file that plays it and expects what happened then. It is rehearsed first, at a
    simulator that is started for it: nobody else is asked.
    """
    from threadledger.adapters import export_run

    with opened() as ledger:
        ledger.close_overdue_runs()
        with _without_its_failures():
            exported = export_run(ledger.journal, run, load_settings(), redact_text=redact_text)
    if output is None:
        click.echo(json.dumps(exported.script, ensure_ascii=False, indent=2))
    else:
        _write(exported, output, force)
    for told in exported.notes:
        note(f"not as it was: {told}")
    return Exit.DONE


@contextmanager
def _without_its_failures() -> Iterator[None]:
    """What fails in the rehearsal is meant to, and nothing to tell."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _write(exported: ExportedRun, folder: Path, force: bool) -> None:
    script, test = folder / f"{exported.name}.json", folder / f"test_{exported.name}.py"
    there = [path for path in (script, test) if path.exists()]
    if there and not force:
        from threadledger.domain import Conflict

        raise Conflict(f"{there[0]} is there already, and was not touched: name another folder, or say --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        script.write_text(json.dumps(exported.script, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        test.write_text(exported.test, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written to ({error.strerror}): name another folder") from error
    note(f"written: {script} and {test}; run it with: pytest {test}")
