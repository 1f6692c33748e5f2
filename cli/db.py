"""`threadledger db`: the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exits import Exit
from .invocation import TextParameter, common, invocation, opened
from .lazy import LazyGroup
from .output import counted, emit_many, emit_one, note
from .progress import reported

if TYPE_CHECKING:
    from rich.console import Console


@click.group(
    cls=LazyGroup,
    places={
        "status": (".db", "status", "What is in the database, and how large it is."),
        "check": (".db", "check", "Whether all is as it was stored."),
        "backup": (".db", "backup", "A copy in a new file, consistent while in use."),
        "copy": (".db", "copy", "The ledger into another database, of the other kind too."),
        "upgrade": (".db", "upgrade", "The schema to this version's."),
        "rebuild-views": (".db", "rebuild_views", "The read models anew from the log."),
    },
)
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


@click.command()
@common
def check() -> int:
    """Whether all is as it was stored: every event, what follows from it, and the database itself. Changes nothing.

    An edited, removed or moved event is named. Exit 4 on findings.
    """
    with opened() as ledger:
        with reported("events") as progress:
            found = [finding.as_json() for finding in ledger.check(progress)]
        thing = ledger.status()
    emit_many(
        found,
        ("subject", "key", "position", "version", "problem"),
        empty=f"all is well: {counted(thing['events'], 'event')} of "
        f"{counted(thing['conversations'], 'conversation')} are as they were stored",
    )
    if found and invocation().output == "table":
        note("Nothing was changed. Keep this file, and compare it with a backup: threadledger db check --db URL")
    return Exit.FOUND_SOMETHING if found else Exit.DONE


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@common
def backup(file: Path) -> int:
    """The ledger as it is at this moment into FILE, a new SQLite database; others may go on writing.

    The file is a ledger itself: any command reads it with --db sqlite:///FILE.
    """
    with opened() as ledger, reported("events") as progress:
        copied = ledger.back_up(file, progress)
    size = file.stat().st_size
    thing = {"file": str(file), "events": copied, "size_bytes": size}
    emit_one(
        thing, lambda console: console.print(f"{file}: {counted(copied, 'event')}, {size:,} bytes", soft_wrap=True)
    )
    return Exit.DONE


@click.command()
@click.argument("url", type=TextParameter())
@common
def copy(url: str) -> int:
    """The ledger as it is at this moment into the empty database at URL: from SQLite to PostgreSQL, or back.

    Stop the apps that write before, and give them the new URL afterwards.
    """
    with opened() as ledger, reported("events") as progress:
        copied = ledger.copy_to(url, progress)
    emit_one({"events": copied}, lambda console: console.print(f"{counted(copied, 'event')} copied"))
    return Exit.DONE


@click.command()
@common
def upgrade() -> int:
    """The schema to this version's; opening a database does so as well. It only goes forward: see `db backup`."""
    with opened() as ledger:
        before, thing = ledger.schema_before, ledger.status()
    now = thing["schema_version"]
    told = f"schema {now} already" if before is None else f"schema {now}, upgraded from {before}"
    emit_one(
        {"schema_before": before, "schema_version": now},
        lambda console: console.print(f"{thing['url']}: {told}", soft_wrap=True),
    )
    return Exit.DONE


@click.command()
@click.argument("views", nargs=-1)
@common
def rebuild_views(views: tuple[str, ...]) -> int:
    """The read models (or only those named) anew from the log, beside the old ones, which are read until the end."""
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
            told = f"{value:,}" if isinstance(value, int) else str(value)
            console.print(Text.assemble((f"{name.replace('_', ' '):<20}", "dim"), told))
