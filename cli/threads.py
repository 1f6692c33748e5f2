"""Implement `threadledger threads`, which lists linked threads and how they compared with the journal."""

from __future__ import annotations

from typing import Any

import click

from .main import KEY, Exit, common, invocation, opened
from .output import clock
from .pages import emit_page, with_cursor

STATES = ("same", "behind", "drifted", "gone", "unlinked")

COLUMNS = ("key", "backend", "thread_id", "version", "state", "verified_at", "lost")


@click.command()
@click.option("--key", type=KEY, metavar="KEY", help="Only the threads of this conversation.")
@click.option("--state", type=click.Choice(STATES), metavar="STATE", help=f"Only one state: {', '.join(STATES)}.")
@click.option("--backend", type=KEY, metavar="KIND", help="Only one kind: conversations or assistants.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N threads.")
@click.option("--after", type=KEY, metavar="CURSOR", help="Continue after a page of the list.")
@with_cursor
@common
def threads(
    key: str | None, state: str | None, backend: str | None, limit: int | None, after: str | None, cursor: bool
) -> int:
    """List linked threads with the outcome of their last verification. The provider is not called.

    The state is the one that replay verify, reconcile or rebuild found last, at verified_at; an append that was not
    sent since makes it behind. It is empty if a thread was never read back.
    """
    with opened(reads=True) as ledger:
        found = ledger.threads(backend=backend, state=state, key=key, limit=limit, after=after)
    rows = [each.as_json() for each in found]
    shown = [_drawn(row) for row in rows] if invocation().output == "table" else rows
    is_filtered = any(given is not None for given in (key, state, backend, after))
    empty = "no linked thread matches" if is_filtered else "no linked threads"
    emit_page(shown, COLUMNS, found.cursor, cursor, empty=empty, spare=("lost", "version", "verified_at"))
    return Exit.DONE


def _drawn(row: dict[str, Any]) -> dict[str, Any]:
    at = row["verified_at"]
    return row | {"verified_at": clock(at)[:16] if at is not None else ""}
