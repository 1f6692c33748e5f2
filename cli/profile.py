"""Implement `threadledger profile`, which lists profiles with their failure rates, and compares two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .main import KEY, Exit, LazyGroup, common, invocation, opened
from .output import (
    clock,
    emit_one,
    print_text,
    table,
)
from .pages import emit_page, with_cursor
from .terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from threadledger.domain.ledger import Ledger

HASH_CHARS = 12
"""Number of characters of a hash shown in tables, by which every command finds the profile."""

COLUMNS = ("hash", "name", "model", "defined_at", "tools", "runs", "failed", "rate", "instructions")

OUTCOME = ("", "hash", "name", "model", "defined_at", "runs", "failed", "rate")


@click.group(
    cls=LazyGroup,
    places={
        "list": (".profile", "list_", "List profiles with the failure rates of their runs."),
        "diff": (".profile", "diff", "Compare two profiles, and how often their runs failed."),
    },
)
@common
def profile() -> None:
    """List and compare profiles: name, instructions, model, tools and settings, each content stored once."""


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N profiles.")
@click.option("--after", type=KEY, metavar="CURSOR", help="Continue after a page of the list.")
@with_cursor
@common
def list_(limit: int | None, after: str | None, cursor: bool) -> int:
    """List all profiles that were ever defined, newest first, with the outcome of their runs."""
    with opened(reads=True) as ledger:
        ledger.close_overdue_runs()
        found = ledger.profiles(limit, after)
    rows = [each.as_json() for each in found]
    shown = [_drawn(row) for row in rows] if invocation().output == "table" else rows
    emit_page(shown, COLUMNS, found.cursor, cursor, empty="no profiles", spare=("tools", "model", "instructions"))
    return Exit.DONE


@click.command()
@click.argument("before", type=KEY, metavar="A")
@click.argument("after", type=KEY, metavar="B")
@common
def diff(before: str, after: str) -> int:
    """Compare profile B with profile A: what changed, and how often the runs of each failed.

    A and B are hashes of profiles, or their first characters. Exit 4 if they differ.
    """
    with opened(reads=True) as ledger:
        thing = _compared(ledger, before, after)
    emit_one(thing, lambda console: _draw(console, thing))
    return Exit.DONE if thing["same"] else Exit.FOUND_SOMETHING


def _compared(ledger: Ledger, before: str, after: str) -> dict[str, Any]:
    ledger.close_overdue_runs()
    return ledger.diff_profiles(before, after).as_json()


def _drawn(row: dict[str, Any]) -> dict[str, Any]:
    from rich.text import Text

    rate = Text(f"{row['failure_rate']:.1%}" if row["runs"] else "", justify="right")
    return row | {"hash": row["hash"][:HASH_CHARS], "defined_at": clock(row["defined_at"])[:16], "rate": rate}


def _draw(console: Console, thing: dict[str, Any]) -> None:
    from rich.text import Text

    console.print(table([_drawn(thing[name]) | {"": name} for name in ("before", "after")], OUTCOME))
    if thing["same"]:
        console.print(Text("the profiles are the same", style="green"))
        return
    for name in ("name", "model"):
        if thing[name] is not None:
            _draw_changed(console, name, thing[name])
    for mark, style, names in (
        ("+", "green", "tools_added"),
        ("-", "red", "tools_removed"),
        ("~", "yellow", "tools_changed"),
    ):
        for tool in thing[names]:
            console.print(Text(f"{mark} tool {printable(tool, lines=False)}", style=style))
    for name, both in thing["settings"].items():
        _draw_changed(console, f"setting {printable(name, lines=False)}", both)
    if thing["instructions"]:
        console.print()
        console.print(Text("instructions", style="bold"))
        print_text(console, thing["instructions"])


def _draw_changed(console: Console, name: str, both: dict[str, Any]) -> None:
    import json

    from rich.text import Text

    before, after = ("none" if value is None else json.dumps(value, ensure_ascii=False) for value in both.values())
    console.print(Text(f"~ {name}: {printable(before, lines=False)} → {printable(after, lines=False)}", style="yellow"))
