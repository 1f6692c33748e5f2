"""Implement `threadledger worker`: a process that does what otherwise happens only when an app calls the ledger."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .main import (
    OPEN_LEDGERS,
    TEXT,
    Exit,
    LazyGroup,
    common,
    load_settings,
    opened,
    opened_with,
    run_until_stopped,
    tenant_opener,
)
from .output import clock, counted, emit_line, emit_many, note

if TYPE_CHECKING:
    from threadledger.adapters.workers import TenantPool, Worker

PLACES = {
    "status": (".worker", "status", "List workers, duties and what failed."),
    "retry": (".worker", "retry", "Try parked items again."),
}
"""Commands of the group."""

LISTED_MAX = 1_000
"""Maximum number of failed items that are listed."""


@click.group(cls=LazyGroup, places=PLACES, invoke_without_command=True)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    metavar="N",
    help="Number of items of each kind of work done at a time.",
)
@click.option(
    "--host",
    type=TEXT,
    default="127.0.0.1",
    show_default=True,
    help="Address of health and metrics; open to its network.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="P",
    help="Port of health and metrics; default: 8733, or a free one if another worker has it.",
)
@click.option(
    "--tenants",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Work for the tenants of FILE, one a line, if each has a ledger; it is read again when it changes.",
)
@OPEN_LEDGERS
@common
@click.pass_context
def worker(
    context: click.Context, concurrency: int, host: str, port: int | None, tenants: Path | None, open_ledgers: int
) -> int:
    """Mirror threads that are behind, answer exchanges of stopped processes, work on jobs, and keep views caught up.

    One process a machine is enough; on PostgreSQL any number of machines may have one. After SIGTERM it hands over and ends
    within 10 seconds. Prints the address of /health and /metrics. See docs/workers.md.
    """
    if context.invoked_subcommand is not None:
        return Exit.DONE
    from threadledger.adapters.workers import TenantPool, WorkerOptions, open_worker

    from .schedules import check_command

    settings, options = load_settings(), WorkerOptions(concurrency, host, port)
    with ExitStack() as opened:
        if tenants is not None:
            open_one, make = tenant_opener(settings), partial(open_worker, check_command=check_command)
            working: Worker | TenantPool = TenantPool(settings, tenants, open_one, make, options, open_ledgers)
        else:
            ledger = opened.enter_context(opened_with(settings, create=True, sends=True, stays=True))
            working = open_worker(ledger, settings, options, check_command=check_command)
        return run_until_stopped(working.run_forever, "threadledger.worker", partial(_announce, working, concurrency))


def _announce(working: Worker | TenantPool, concurrency: int) -> None:
    click.echo(working.url)
    note(f"working with {counted(concurrency, 'item')} of each kind at a time; Ctrl-C hands over and stops")


@click.command()
@click.option("--parked", is_flag=True, help="Only items that failed too often to be tried again.")
@common
def status(parked: bool) -> int:
    """List failed items of work, the newest first; on stderr the workers that are alive, and the last runs of schedules."""
    from threadledger.adapters.workers import ScheduledRun

    with opened(reads=True) as ledger:
        notes = ledger.journal.worker_notes
        workers, notes_of_duties = notes.workers(), notes.duties()
        failed = notes.failed(LISTED_MAX, parked=True if parked else None)
    for each in workers:
        state = "alive" if each.is_alive else "has ended without handing over"
        note(f"{each.worker}: {state}, {counted(int(each.facts.get('items', 0)), 'item')} ended")
    for run in filter(None, map(ScheduledRun.of, notes_of_duties)):
        note(f"schedule {run.name}: {run.outcome()}")
    if not workers:
        note("no worker is running: start one with: threadledger worker")
    rows = [each.as_json() for each in failed]
    for row in rows:
        row["failed_at"] = clock(row["failed_at"])
    columns = ("kind", "subject", "attempts", "state", "failed_at", "reason")
    emit_many(rows, columns, empty="no item of work has failed", spare=("failed_at",))
    return Exit.DONE


@click.command()
@click.argument("kind", required=False, type=TEXT)
@click.argument("subject", required=False, type=TEXT)
@common
def retry(kind: str | None, subject: str | None) -> int:
    """Try parked items again: all, those of a KIND, or one by its KIND and SUBJECT."""
    with opened() as ledger:
        number = ledger.journal.worker_notes.retry(kind, subject)
    emit_line({"retried": number}, f"{counted(number, 'parked item')} will be tried again by a worker")
    return Exit.DONE if number or kind is None else Exit.NOT_FOUND
