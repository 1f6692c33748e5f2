"""Implement `threadledger replay verify`, which compares threads with the journal."""

from __future__ import annotations

import click

from .exits import Exit
from .invocation import KEY, common, complete_keys, invocation, opened
from .output import counted, emit_many, note
from .progress import tracked
from .replaying import KINDS, for_people, one_choice


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="Kind of thread; default: those that are linked.")
@common
def verify(keys: tuple[str, ...], everything: bool, to: str | None) -> int:
    """Compare threads with the journal, message by message. Nothing is written. Exit 4 on drift."""
    from threadledger.domain import ProviderRefused

    one_choice(bool(keys), everything)
    with opened() as ledger:
        chosen = ledger.replay.keys(None if everything else list(keys))
        found, refused = [], 0
        for key in tracked(chosen, len(chosen), "verifying"):
            try:
                found += ledger.replay.verify([key], to)
            except ProviderRefused as error:
                if len(chosen) == 1:
                    raise
                refused += 1
                note(f"{key}: the thread could not be read ({error})")
    rows = [each.as_json() for each in found]
    emit_many(
        for_people(rows),
        ("key", "backend", "thread_id", "journal", "thread", "missing", "extra", "different", "state"),
    )
    drifted = [row for row in rows if row["state"] in {"behind", "drifted", "gone"}]
    if drifted and invocation().output == "table":
        told = f"{len(drifted)} of {counted(len(rows), 'thread')} with drift"
        note(f"{told}; show the differences with: threadledger diff KEY --thread")
        note("repair with: threadledger replay reconcile KEY --apply")
    if refused:
        return Exit.SOME_FAILED
    return Exit.FOUND_SOMETHING if drifted else Exit.DONE
