"""Implement `threadledger doctor`, which diagnoses problems and shows how to fix them."""

from __future__ import annotations

from functools import partial

import click

from .main import Exit, common, invocation, load_settings, opened
from .output import counted, emit_many, note

COLUMNS = ("check", "state", "message", "mend")


@click.command()
@click.option(
    "--online", is_flag=True, help="Also check key, models and assistant at the provider; nothing is written there."
)
@common
def doctor(online: bool) -> int:
    """Diagnose problems and show how to fix them.

    Checks settings, database, runs, unanswered exchanges, threads, jobs, backends and views. The provider is called only
    with --online, and a model never. Runs that a crash left open past their deadline are closed as interrupted. Exit 4 on
    findings.
    """
    from threadledger.adapters.doctor import doctor_document, examined

    rows = doctor_document(examined(load_settings, partial(opened, reads=True, primary=True), note, online=online))
    emit_many(rows, COLUMNS)
    found = sum(row["state"] == "finding" for row in rows)
    if invocation().output == "table":
        note(f"{counted(found, 'finding')}" if found else "no problems found")
    return Exit.FOUND_SOMETHING if found else Exit.DONE
