"""Implement `threadledger delete`: end conversations, after showing what would be deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .main import KEY, Exit, complete_keys, opened
from .output import clock, counted, emit_many, note
from .replay.plans import apply_options, confirm

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger

COLUMNS = ("key", "title", "messages", "last_at", "threads", "state", "reason")

THREADS_SHOWN_MAX = 20
"""Maximum number of threads that are named after a deletion in a table; JSON names all."""


@click.command()
@click.argument("keys", type=KEY, nargs=-1, required=True, metavar="KEY...", shell_complete=complete_keys)
@click.option("--reason", type=KEY, default="", metavar="TEXT", help="Why; stored with the event.")
@apply_options
def delete(keys: tuple[str, ...], reason: str, apply: bool, yes: bool) -> int:
    """Delete conversations: they are not listed, shown, searched or exported any more. No command undoes it.

    Prints what would be deleted; --apply does it. Events stay in the log, and failed runs in the audit. The provider's threads
    are not deleted: the output names them. The next message to KEY starts another conversation with nothing of the old one.
    """
    with opened(reads=not apply, primary=True) as ledger:
        rows = [_planned(ledger, key) for key in dict.fromkeys(keys)]
        if apply:
            confirm(len(rows), f"delete {counted(len(rows), 'conversation')}", yes)
            rows = [_deleted(ledger, row, reason) for row in rows]
        emit_many([_shown(row) for row in rows], COLUMNS)
    if not apply:
        note("nothing was deleted: add --apply to delete")
    _name_threads(rows)
    return Exit.SOME_FAILED if any(row["state"] == "failed" for row in rows) else Exit.DONE


def _planned(ledger: Ledger, key: str) -> dict[str, Any]:
    state = ledger.state(key)
    return {
        "key": key,
        "version": state.version,
        "title": state.description.title or None if state.description is not None else None,
        "messages": state.messages,
        "last_at": state.last_at,
        "threads": ledger.journal.threads_ever_linked(key) if state.links else {},
        "state": "planned",
        "reason": "",
    }


def _deleted(ledger: Ledger, row: dict[str, Any], reason: str) -> dict[str, Any]:
    from threadledger.domain.errors import Conflict, NotFound

    try:
        threads = ledger.conversation(row["key"]).delete(reason)
    except (Conflict, NotFound) as error:
        return row | {"state": "failed", "reason": str(error)}
    return row | {"state": "done", "threads": threads}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    from .main import invocation

    if invocation().output != "table":
        return row
    threads = [thread for ids in row["threads"].values() for thread in ids]
    more = f" and {len(threads) - 1} more" if len(threads) > 1 else ""
    return row | {"last_at": clock(row["last_at"]), "threads": f"{threads[-1]}{more}" if threads else ""}


def _name_threads(rows: Sequence[dict[str, Any]]) -> None:
    """Say which threads remain at the provider."""
    left = [thread for row in rows if row["state"] != "failed" for ids in row["threads"].values() for thread in ids]
    if left:
        more = f" and {len(left) - THREADS_SHOWN_MAX} more" if len(left) > THREADS_SHOWN_MAX else ""
        remain = "would remain" if any(row["state"] == "planned" for row in rows) else "remain"
        note(f"these threads {remain} at the provider: {', '.join(left[:THREADS_SHOWN_MAX])}{more}")
