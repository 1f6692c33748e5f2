"""`threadledger db`: the database."""

from __future__ import annotations

from typing import Any

import click

from .exits import Exit
from .invocation import common, opened
from .lazy import LazyGroup
from .output import emit_one


@click.group(cls=LazyGroup, places={"status": (".db", "status", "What is in the database, and how large it is.")})
@common
def db() -> None:
    """The database."""


@click.command()
@common
def status() -> int:
    """What is in the database, and how large it is."""
    with opened() as ledger:
        thing = ledger.status()
    emit_one(thing, lambda console: _draw(console, thing))
    return Exit.DONE


def _draw(console: Any, thing: dict[str, Any]) -> None:
    from rich.text import Text

    for name, value in thing.items():
        if value != []:
            told = f"{value:,}" if isinstance(value, int) else str(value)
            console.print(Text.assemble((f"{name.replace('_', ' '):<16}", "dim"), told))
