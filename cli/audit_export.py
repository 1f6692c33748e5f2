"""Implement `threadledger audit export`, which writes a run's exchange as a simulator script and a test."""

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

    with opened() as ledger:
        ledger.close_overdue_runs()
        with _without_its_failures():
            exported = export_run(ledger.journal, run, load_settings(), redact_text=redact_text)
    if output is None:
        click.echo(json.dumps(exported.script, ensure_ascii=False, indent=2))
    else:
        _write(exported, output, force)
    for told in exported.notes:
        note(f"not reproduced exactly: {told}")
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
    script, test = folder / f"{exported.name}.json", folder / f"test_{exported.name}.py"
    there = [path for path in (script, test) if path.exists()]
    if there and not force:
        from threadledger.domain import Conflict

        raise Conflict(f"{there[0]} already exists and was not changed: name another folder, or pass --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        script.write_text(json.dumps(exported.script, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        test.write_text(exported.test, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written to ({error.strerror}): name another folder") from error
    note(f"wrote {script} and {test}; run the test with: pytest {test}")
