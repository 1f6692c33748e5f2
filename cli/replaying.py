"""What the commands of `replay` share: which conversations are meant, and how a plan is shown."""

from __future__ import annotations

from typing import Any

import click

from .invocation import invocation
from .output import short, short_thread

KINDS = click.Choice(["conversations", "assistants"])


def one_choice(named: bool, everything: bool) -> None:
    if named == everything:
        raise click.UsageError(
            "name conversations, or say --all (rerun: --failed), but not both", click.get_current_context()
        )


def for_people(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In a table, ids by their ending; elsewhere the rows as they are."""
    if invocation().output != "table":
        return rows
    short_ids = {"thread_id": short_thread, "old_thread_id": short_thread}
    return [
        {name: short_ids[name](value) if name in short_ids else value for name, value in row.items()}
        | {"run": short(row.get("run_id")), "tokens": row.get("estimated_tokens"), "USD": row.get("estimated_cost")}
        for row in rows
    ]
