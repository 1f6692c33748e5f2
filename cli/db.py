"""Implement `threadledger db`, which manages the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .main import Exit, LazyGroup, TextParameter, common, error_message, invocation, load_settings, opened
from .output import clock, counted, emit_many, emit_one, note, prose, reported
from .replay.plans import confirm

if TYPE_CHECKING:
    from rich.console import Console

    from threadledger.adapters import Settings


@click.group(
    cls=LazyGroup,
    places={
        "status": (".db", "status", "Show what the database contains and its size."),
        "check": (".db", "check", "Verify that the stored data is intact."),
        "backup": (".db", "backup", "Back up the ledger to a new file, even while in use."),
        "restore": (".db", "restore", "Replace the database by a verified backup; the old one is kept."),
        "copy": (".db", "copy", "Copy the ledger to another database (SQLite or PostgreSQL)."),
        "upgrade": (".db", "upgrade", "Upgrade the schema to this version."),
        "rebuild-views": (".db", "rebuild_views", "Rebuild the read models from the log."),
    },
)
@common
def db() -> None:
    """Inspect, check, back up and upgrade the database."""


FINDING = ("subject", "key", "position", "version", "problem")
"""Columns of a problem that a check found."""


@click.command()
@common
def status() -> int:
    """Show what the database contains and its size."""
    with opened(reads=True, primary=True) as ledger:
        thing = ledger.status()
    emit_one(thing, lambda console: _draw(console, thing))
    return Exit.DONE


@click.command()
@common
def check() -> int:
    """Verify that all events, the data derived from them and the database itself are intact. Changes nothing.

    Edited, removed and moved events are listed. Exit 4 on findings.
    """
    with opened(reads=True, primary=True) as ledger:
        with reported("events") as progress:
            found = [finding.as_json() for finding in ledger.check(progress)]
        thing = ledger.status()
        attachments = 0 if found else sum(1 for _ in ledger.journal.blobs.listed())
    checked = f"{counted(thing['events'], 'event')} of {counted(thing['conversations'], 'conversation')}"
    checked += f" and {counted(attachments, 'attachment')}" if attachments else ""
    emit_many(found, FINDING, empty=f"no problems found: {checked} are intact")
    if found and invocation().output == "table":
        note("nothing was changed; go back to a backup, which is checked first, with: threadledger db restore FILE")
    return Exit.FOUND_SOMETHING if found else Exit.DONE


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@common
def backup(file: Path) -> int:
    """Back up the current ledger to FILE, a new SQLite database; other processes can keep writing.

    The file is itself a ledger: any command reads it with --db FILE. A SQLite file of an older schema is backed up as it
    is; from a server, the backup has the current schema.
    """
    from threadledger.domain.errors import OlderSchema

    try:
        with opened(reads=True, primary=True) as ledger, reported("events") as progress:
            copied = ledger.back_up(file, progress)
    except OlderSchema:
        copied = _back_up_older(file)
    size = file.stat().st_size
    thing = {"file": str(file), "events": copied, "size_bytes": size}
    emit_one(thing, lambda console: prose(console, f"{file}: {counted(copied, 'event')}, {size:,} bytes"))
    return Exit.DONE


def _back_up_older(file: Path) -> int:
    """Back up a database whose schema must be upgraded before a ledger can be opened on it."""
    from threadledger.adapters import Database, back_up

    database = Database(load_settings().db, create=False, upgrade=False)
    with closing(database), reported("events") as progress:
        return back_up(database, file, progress)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Replace without a prompt.")
@common
def restore(file: Path, yes: bool) -> int:
    """Replace the current SQLite database by the backup FILE, if FILE passes every check.

    The replaced database is kept next to it. Stop all apps that use it first: while one has it open, nothing is replaced.
    Exit 4 if FILE does not pass.
    """
    from threadledger.adapters import restore as replace

    bars: list[Callable[[int, int], None]] = []
    with ExitStack() as drawn:

        def ask(plan: Mapping[str, Any]) -> None:
            if plan["replaced"] is not None:
                confirm(max(plan["events"], 1), _question(file, plan), yes)
            bars.append(drawn.enter_context(reported("events")))  # a bar would be drawn over the prompt

        def progress(checked: int, total: int) -> None:
            bars[0](checked, total)

        done = replace(load_settings().db, file, ask, progress)
    if done.findings:
        emit_many([finding.as_json() for finding in done.findings], FINDING)
        note(f"{file} does not pass: nothing was replaced")
        return Exit.FOUND_SOMETHING
    thing = {"file": str(file), "events": done.events, "kept": str(done.kept) if done.kept is not None else None}
    kept = f"; the replaced database is {done.kept}" if done.kept is not None else ""
    emit_one(thing, lambda console: prose(console, f"{counted(done.events, 'event')} restored from {file}{kept}"))
    return Exit.DONE


def _question(file: Path, plan: Mapping[str, Any]) -> str:
    def described(events: int | None, last_at: str | None) -> str:
        if events is None:
            return "no readable ledger"
        return counted(events, "event") + (f", the last one of {clock(last_at)}" if last_at else "")

    old = described(plan["replaced"]["events"], plan["replaced"]["last_at"])
    new = described(plan["events"], plan["last_at"])
    return f"replace {plan['file']} ({old}) by {file} ({new})"


@click.command()
@click.argument("url", type=TextParameter())
@common
def copy(url: str) -> int:
    """Copy the current ledger to the empty database at URL: from SQLite to PostgreSQL, or back.

    Stop all apps that write to the ledger first, and switch them to the new URL afterwards.
    """
    with opened(reads=True, primary=True) as ledger, reported("events") as progress:
        copied = ledger.copy_to(url, progress)
    emit_one({"events": copied}, lambda console: prose(console, f"{counted(copied, 'event')} copied"))
    return Exit.DONE


@click.command()
@click.option("--all-tenants", is_flag=True, help="Upgrade the ledgers of all tenants; one that fails stops no other.")
@common
def upgrade(all_tenants: bool) -> int:
    """Upgrade the schema to this version. It can be interrupted and goes on where it stopped; others can read meanwhile.

    A schema cannot be downgraded: back up first with `db backup`. Programs of an earlier version must be restarted with
    this one afterwards.
    """
    settings = load_settings()
    settings.require_trust("database")
    if all_tenants:
        return _upgrade_all(settings)
    upgraded = _upgraded(settings)
    outcome = f"{upgraded.pop('url')}: {_outcome(upgraded)}"
    emit_one(upgraded, lambda console: prose(console, outcome))
    return Exit.DONE


def _upgraded(settings: Settings) -> dict[str, Any]:
    """Upgrade one ledger, and return its URL and its schema before and now."""
    from threadledger.adapters import SCHEMA_VERSION, Database
    from threadledger.adapters import upgrade as upgraded

    with closing(Database(settings.db, create=False)) as database, reported("events") as progress:
        before, shown_url = upgraded(database, progress), database.shown_url
    return {"url": shown_url, "schema_before": before, "schema_version": SCHEMA_VERSION}


def _outcome(upgraded: Mapping[str, Any]) -> str:
    before, version = upgraded["schema_before"], upgraded["schema_version"]
    return f"schema {version} is current" if before is None else f"schema {version}, upgraded from {before}"


def _upgrade_all(settings: Settings) -> int:
    from threadledger.adapters import tenants_of
    from threadledger.domain.errors import ThreadledgerError

    if not settings.is_per_tenant:
        raise click.UsageError(
            "there is one ledger for all: --all-tenants needs {tenant} in THREADLEDGER_DB, and no --tenant"
        )
    rows: list[dict[str, Any]] = []
    for tenant in tenants_of(settings):
        row: dict[str, Any] = {"tenant": tenant, "schema_before": None, "schema_version": None, "outcome": ""}
        try:
            upgraded = _upgraded(settings.of_tenant(tenant))
            row |= {name: upgraded[name] for name in ("schema_before", "schema_version")}
            row["outcome"] = _outcome(upgraded)
        except ThreadledgerError as error:
            row["outcome"] = f"failed: {error_message(error)}"
        rows.append(row)
    emit_many(rows, ("tenant", "schema_version", "outcome"), empty="no tenant has a ledger")
    return Exit.SOME_FAILED if any(row["schema_version"] is None for row in rows) else Exit.DONE


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

    read_only = thing["read_only"]
    for name, value in thing.items():
        if name == "views":
            for view in value:
                state = (
                    "up to date"
                    if not view["lag"]
                    else f"{counted(view['lag'], 'event')} behind" + ("" if read_only else ": it catches up when read")
                )
                parked = f", {counted(view['parked'], 'event')} parked" if view["parked"] else ""
                console.print(Text.assemble((f"{'view ' + view['name']:<20}", "dim"), state + parked))
        else:
            if value is None:
                continue
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            console.print(Text.assemble((f"{name.replace('_', ' '):<20}", "dim"), shown))
