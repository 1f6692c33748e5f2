"""Implement `threadledger audit failures`, which lists failed runs, or prints them as they arrive (`--follow`)."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ..main import KEY, Exit, MomentParameter, common, invocation, opened
from ..output import (
    clock,
    console,
    csv_writer,
    emit_many,
    note,
    print_json,
    print_line,
    prose,
    short,
)
from ..pages import emit_items, note_more, with_cursor
from ..terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from threadledger.domain.failures import RecordedFailure


COLUMNS = ("run", "at", "key", "backend", "cause", "next", "answered_by")

NARROW_TERMINAL = 90
"""Terminal width in columns below which failures are printed without a table."""


@click.command()
@click.option(
    "--since", type=MomentParameter(), metavar="T", help="Only runs that failed at T or later (ISO 8601, or 24h, 7d)."
)
@click.option("--until", type=MomentParameter(), metavar="T", help="Only runs that failed at T or earlier.")
@click.option("--cause", metavar="C", help="Only failures with this cause.")
@click.option("--code", metavar="C", help="Only failures with this error code of the provider.")
@click.option("--backend", metavar="B", help="Only failures on this backend.")
@click.option("--actor", type=KEY, metavar="NAME", help="Only runs that this actor caused.")
@click.option("--unanswered", is_flag=True, help="Only failures of exchanges that are still unanswered.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show only the newest N failures.")
@click.option("--after", type=KEY, metavar="CURSOR", help="Continue after a page with the same filters.")
@with_cursor
@click.option("--exit-code", is_flag=True, help="Exit 4 if there are failures (for cron).")
@click.option("--follow", is_flag=True, help="Keep printing new failures; Ctrl-C stops.")
@common
def failures(
    since: datetime | None,
    until: datetime | None,
    cause: str | None,
    code: str | None,
    backend: str | None,
    actor: str | None,
    unanswered: bool,
    limit: int | None,
    after: str | None,
    cursor: bool,
    exit_code: bool,
    follow: bool,
) -> int:
    """List failed runs, oldest first; with --limit, the newest ones, and with --after, those before them."""
    if follow and (until is not None or exit_code or after is not None or cursor):
        raise click.UsageError("--follow never ends: do not combine it with --until, --exit-code, --after or --cursor")
    from threadledger.domain.conversation import FailureFilter
    from threadledger.domain.ledger import follow_failures

    with opened(reads=True) as ledger:
        if follow:
            wanted = FailureFilter.of(since, None, cause, code, backend, unanswered, actor)
            print_failures(follow_failures(ledger.journal, wanted, limit), ledger.close_overdue_runs)
            return Exit.DONE
        found = ledger.failures(since, until, cause, code, backend, unanswered, limit, actor=actor, after=after)
    if cursor:
        emit_items((failure.as_json() for failure in found), found.cursor)
    elif invocation().output == "table":
        rows = [_row(failure) for failure in found]
        if found and console().width < NARROW_TERMINAL:
            _draw_narrow(rows)
        else:
            emit_many(rows, COLUMNS, empty="no failures")
        for advice in _explained(found):
            note(advice)
        note_more(found.cursor)
    else:
        emit_many((failure.as_json() for failure in found), ())
    return Exit.FOUND_SOMETHING if exit_code and found else Exit.DONE


def _explained(found: Sequence[RecordedFailure]) -> Iterator[str]:
    """Yield each advice once, with its cause, the number of failures that it applies to, and the newest of their messages."""
    by_advice: dict[tuple[str, str], list[RecordedFailure]] = {}
    for each in found:
        by_advice.setdefault((each.cause.value, each.advice), []).append(each)
    for (cause, advice), failures in by_advice.items():
        newest, number = failures[-1].summary(), len(failures)
        if number == 1:
            facts = f"({newest})"
        elif all(each.summary() == newest for each in failures):
            facts = f"{number} times ({newest})"
        else:
            facts = f"{number} times (the newest: {newest})"
        yield f"{cause} {facts}\n  {advice}"


def _draw_narrow(rows: Sequence[dict[str, Any]]) -> None:
    """Print two lines per failure, for terminals too narrow for a table."""
    from rich.text import Text

    for row in rows:
        head = Text(f"{row['run']}  {row['at']}  ").append(row["cause"], style="red")
        answered = f", answered by {row['answered_by']}" if row["answered_by"] else ""
        console().print(head)
        prose(console(), f"{row['key']} on {row['backend']}: {row['next']}{answered}", indent=2)


def _row(failure: RecordedFailure) -> dict[str, Any]:
    return {
        "run": short(failure.run_id),
        "at": clock(failure.as_json()["at"])[5:16],
        "key": failure.key,
        "backend": failure.backend,
        "cause": failure.cause.value,
        "next": failure.next,
        "answered_by": short(failure.answered_by),
    }


logger = logging.getLogger("threadledger")

CLOSE_OVERDUE_SECONDS = 5.0
"""Interval in seconds for closing runs that a crash left open; no other process may be running to close them."""


def print_failures(failures: Iterable[RecordedFailure], close_overdue: Callable[[], object]) -> None:
    """Print each failure as soon as it arrives, as a table line, a JSON line or a CSV row."""
    write = {"table": _line, "csv": _csv()}.get(invocation().output, _json)
    with _now_and_then(close_overdue):
        for each in failures:
            write(each)


def _json(failure: RecordedFailure) -> None:
    print_json(failure.as_json())


def _csv() -> Callable[[RecordedFailure], None]:
    write_row = csv_writer()

    def write(failure: RecordedFailure) -> None:
        write_row(failure.as_json())
        sys.stdout.flush()

    return write


def _line(failure: RecordedFailure) -> None:
    from rich.text import Text

    text = Text(f"{clock(failure.as_json()['at'])}  {short(failure.run_id)}  ")
    text.append(f"{failure.cause.value:<16}", style="red")
    text.append(printable(f"  {failure.backend:<10}  {failure.key}  {failure.summary()}", lines=False))
    print_line(console(), text)


@contextmanager
def _now_and_then(work: Callable[[], object]) -> Iterator[None]:
    """Call `work` every few seconds in a background thread until the block exits."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(CLOSE_OVERDUE_SECONDS):
            try:
                work()
            except Exception as error:  # noqa: BLE001 - it is retried soon; following must continue
                logger.warning("runs past their deadline could not be closed: %s", error)

    thread = threading.Thread(target=loop, name="threadledger-overdue", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
