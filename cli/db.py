"""Implement `threadledger db`, which manages the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .main import Exit, LazyGroup, TextParameter, common, invocation, opened
from .output import counted, emit_many, emit_one, note, prose, reported

if TYPE_CHECKING:
    from rich.console import Console


@click.group(
    cls=LazyGroup,
    places={
        "status": (".db", "status", "Show what the database contains and its size."),
        "check": (".db", "check", "Verify that the stored data is intact."),
        "backup": (".db", "backup", "Back up the ledger to a new file, even while in use."),
        "copy": (".db", "copy", "Copy the ledger to another database (SQLite or PostgreSQL)."),
        "upgrade": (".db", "upgrade", "Upgrade the schema to this version."),
        "rebuild-views": (".db", "rebuild_views", "Rebuild the read models from the log."),
    },
)
@common
def db() -> None:
    """Inspect, check, back up and upgrade the database."""


@click.command()
@common
def status() -> int:
    """Show what the database contains and its size."""
    with opened() as ledger:
        thing = ledger.status()
    emit_one(thing, lambda console: _draw(console, thing))
    return Exit.DONE


@click.command()
@common
def check() -> int:
    """Verify that all events, the data derived from them and the database itself are intact. Changes nothing.

    Edited, removed and moved events are listed. Exit 4 on findings.
    """
    with opened() as ledger:
        with reported("events") as progress:
            found = [finding.as_json() for finding in ledger.check(progress)]
        thing = ledger.status()
    emit_many(
        found,
        ("subject", "key", "position", "version", "problem"),
        empty=f"no problems found: {counted(thing['events'], 'event')} of "
        f"{counted(thing['conversations'], 'conversation')} are intact",
    )
    if found and invocation().output == "table":
        note("Nothing was changed. Keep this database, and check a backup with: threadledger db check --db URL")
    return Exit.FOUND_SOMETHING if found else Exit.DONE


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@common
def backup(file: Path) -> int:
    """Back up the current ledger to FILE, a new SQLite database; other processes can keep writing.

    The file is itself a ledger: any command reads it with --db FILE.
    """
    with opened() as ledger, reported("events") as progress:
        copied = ledger.back_up(file, progress)
    size = file.stat().st_size
    thing = {"file": str(file), "events": copied, "size_bytes": size}
    emit_one(thing, lambda console: prose(console, f"{file}: {counted(copied, 'event')}, {size:,} bytes"))
    return Exit.DONE


@click.command()
@click.argument("url", type=TextParameter())
@common
def copy(url: str) -> int:
    """Copy the current ledger to the empty database at URL: from SQLite to PostgreSQL, or back.

    Stop all apps that write to the ledger first, and switch them to the new URL afterwards.
    """
    with opened() as ledger, reported("events") as progress:
        copied = ledger.copy_to(url, progress)
    emit_one({"events": copied}, lambda console: prose(console, f"{counted(copied, 'event')} copied"))
    return Exit.DONE


@click.command()
@common
def upgrade() -> int:
    """Upgrade the schema to this version; opening a database does this too.

    A schema cannot be downgraded: back up first with `db backup`.
    """
    with opened() as ledger:
        before, thing = ledger.schema_before, ledger.status()
    now = thing["schema_version"]
    outcome = f"schema {now} is current" if before is None else f"schema {now}, upgraded from {before}"
    emit_one(
        {"schema_before": before, "schema_version": now},
        lambda console: prose(console, f"{thing['url']}: {outcome}"),
    )
    return Exit.DONE


@click.command()
@click.argument("views", nargs=-1)
@common
def rebuild_views(views: tuple[str, ...]) -> int:
    """Rebuild all read models, or those named, from the log; the old ones stay in use until the end."""
    with opened() as ledger:
        with reported("views") as progress:
            ledger.rebuild_views(views, lambda name, done, total: progress(done, total))
        rebuilt = [view for view in ledger.status()["views"] if not views or view["name"] in views]
    emit_many(rebuilt, ("name", "version", "position", "lag", "parked"))
    return Exit.DONE


def _draw(console: Console, thing: dict[str, Any]) -> None:
    from rich.text import Text

    for name, value in thing.items():
        if name == "views":
            for view in value:
                state = (
                    "up to date"
                    if not view["lag"]
                    else f"{counted(view['lag'], 'event')} behind: it catches up when read"
                )
                parked = f", {counted(view['parked'], 'event')} parked" if view["parked"] else ""
                console.print(Text.assemble((f"{'view ' + view['name']:<20}", "dim"), state + parked))
        else:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            console.print(Text.assemble((f"{name.replace('_', ' '):<20}", "dim"), shown))
