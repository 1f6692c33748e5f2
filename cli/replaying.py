"""Provide what the `replay` commands share: selecting conversations and formatting rows."""

from __future__ import annotations

from typing import Any, BinaryIO

import click

from .invocation import invocation
from .output import short, short_thread

KINDS = click.Choice(["conversations", "assistants"])


def chosen_keys(
    keys: tuple[str, ...], everything: bool, search: str | None, keys_from: BinaryIO | None
) -> list[str] | None:
    """Return the named keys, or None for all conversations or those of a search."""
    ways = [bool(keys), everything, search is not None, keys_from is not None]
    if sum(ways) != 1:
        told = "name conversations, or pass exactly one of --all, --search and --keys-from"
        raise click.UsageError(told, click.get_current_context())
    if keys_from is not None:
        try:
            lines = keys_from.read().decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise click.UsageError(
                f"the file of keys is not UTF-8 text (byte {error.start}): convert it first"
            ) from None
        return [line for line in lines if line.strip()]
    return list(keys) if keys else None


def one_choice(named: bool, everything: bool) -> None:
    """Raise a usage error unless exactly one of the two choices was made."""
    if named == everything:
        raise click.UsageError(
            "name conversations or pass --all (rerun: --failed), but not both", click.get_current_context()
        )


def for_people(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with shortened ids for a table, or unchanged rows for other formats."""
    if invocation().output != "table":
        return rows
    short_ids = {"thread_id": short_thread, "old_thread_id": short_thread, "new_thread_id": short_thread}
    return [
        {name: short_ids[name](value) if name in short_ids else value for name, value in row.items()}
        | {"run": short(row.get("run_id")), "tokens": row.get("estimated_tokens"), "USD": row.get("estimated_cost")}
        for row in rows
    ]
