"""Print failures as they arrive, one line or object each."""

from __future__ import annotations

import csv
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .invocation import invocation
from .output import clock, console, flat, printable, short

if TYPE_CHECKING:
    from threadledger.domain import RecordedFailure

logger = logging.getLogger("threadledger")

CLOSE_OVERDUE_SECONDS = 5.0
"""Interval in seconds for closing runs that a crash left open; no other process may be running to close them."""


def tell_failures(failures: Iterable[RecordedFailure], close_overdue: Callable[[], object]) -> None:
    """Print each failure as soon as it arrives, as a table line, a JSON line or a CSV row."""
    tell = {"table": _line, "csv": _csv()}.get(invocation().output, _json)
    with _now_and_then(close_overdue):
        for each in failures:
            tell(each)


def _json(failure: RecordedFailure) -> None:
    click.echo(json.dumps(failure.as_json(), ensure_ascii=False))


def _csv() -> Callable[[RecordedFailure], None]:
    writers: list[Any] = []

    def tell(failure: RecordedFailure) -> None:
        row = failure.as_json()
        if not writers:
            writers.append(csv.DictWriter(sys.stdout, list(row), lineterminator="\n"))
            writers[0].writeheader()
        writers[0].writerow({name: flat(value) for name, value in row.items()})
        sys.stdout.flush()

    return tell


def _line(failure: RecordedFailure) -> None:
    from rich.text import Text

    told = Text(f"{clock(failure.as_json()['at'])}  {short(failure.run_id)}  ")
    told.append(f"{failure.cause.value:<16}", style="red")
    told.append(printable(f"  {failure.backend:<10}  {failure.key}  {failure.summary()}", lines=False))
    console().print(told, no_wrap=True, overflow="ellipsis")


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
