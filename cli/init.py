"""Implement `threadledger init`, which creates the settings file and the database."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from .exits import Exit
from .invocation import common, invocation, opened
from .output import emit_one, note

ENV = Path(".env")
BACKUP = Path(".env.bak")


@click.command()
@click.option("--force", is_flag=True, help="Rewrite .env; the old file is kept as .env.bak.")
@common
def init(force: bool) -> int:
    """Write .env from the example, which explains every setting, and create the database."""
    with opened(create=True) as ledger:
        url = ledger.status()["url"]
    thing = {"env": str(ENV), "db": url}
    if ENV.exists() and not force:
        emit_one(thing, lambda console: console.print(f"database {url}", markup=False))
        note(".env already exists and was not changed: --force rewrites it and keeps the old file as .env.bak")
        return Exit.DONE
    if ENV.exists():
        ENV.replace(BACKUP)
        note(f"the old settings are in {BACKUP}")
    example = files("threadledger.cli").joinpath("env.example").read_text(encoding="utf-8")
    chosen = invocation().db
    if chosen is not None:
        example = example.replace("# THREADLEDGER_DB=sqlite:///threadledger.db", f"THREADLEDGER_DB={chosen}")
    ENV.write_text(example, encoding="utf-8")
    ENV.chmod(0o600)
    emit_one(thing, lambda console: console.print(f"wrote {ENV}, database {url}", markup=False))
    note("set OPENAI_API_KEY in .env, then: threadledger ask KEY TEXT")
    return Exit.DONE
