"""Doing what was planned, in a terminal: a bar with rate and time left, rows as they come, Ctrl-C between two items."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from .exits import Exit
from .invocation import common, invocation
from .output import counted, emit_many, note, short
from .progress import tracked

if TYPE_CHECKING:
    from threadledger.domain import JobState

TABLE_ROWS_MAX = 50
"""Rows of a table of items; of more, those that went wrong are shown first. JSON, JSON lines and CSV have all."""

REASONS_TOLD_MAX = 5
"""How many reasons for leaving items out are told, the most frequent first."""


@dataclass
class Tally:
    """What became of many items, without keeping them."""

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why items were skipped."""

    def add(self, item: Any) -> None:
        self.states[item.state] += 1
        if item.state == "skipped":
            self.reasons[item.reason or "no reason"] += 1

    def why_skipped(self) -> str:
        """How many were skipped, and why; empty where none was."""
        if not self.reasons:
            return ""
        told = [f"{reason} ({count:,})" for reason, count in self.reasons.most_common(REASONS_TOLD_MAX)]
        more = len(self.reasons) - len(told)
        return f"{self.states['skipped']:,} skipped: {'; '.join(told)}{f'; {more} reasons more' if more > 0 else ''}"


def how_options(command: Any) -> Any:
    """The options that say how a job is done."""
    options = (
        click.option(
            "--concurrency",
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            metavar="N",
            help="Items at once.",
        ),
        click.option(
            "--rps", type=click.FloatRange(min=0, min_open=True), metavar="R", help="At most R requests a second."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def apply_options(command: Any) -> Any:
    """`--apply` and `--yes`, and what every command shares."""
    options = (
        click.option("--apply", is_flag=True, help="Do it."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        common,
    )
    for option in reversed(options):
        command = option(command)
    return command


def show_items(
    items: Iterable[Any], total: int, columns: tuple[str, ...], as_row: Callable[[Any], dict[str, Any]], empty: str
) -> Tally:
    """Show items as they come; none is kept but the rows of a table."""
    tally = Tally()
    if invocation().output != "table":
        emit_many((_told(item, tally).as_json() for item in items), ())
        return tally
    rows: list[dict[str, Any]] = []
    for item in items:
        tally.add(item)
        wrong = item.state == "failed"
        if len(rows) < TABLE_ROWS_MAX:
            rows.append(as_row(item))
        elif wrong:
            ordinary = next((row for row in rows if row["state"] != "failed"), None)
            if ordinary is not None:
                rows.remove(ordinary)
                rows.append(as_row(item))
    emit_many(rows, columns, empty=empty)
    if total > len(rows) > 0:
        note(f"… and {total - len(rows):,} more; -o jsonl shows all")
    return tally


def _told(item: Any, tally: Tally) -> Any:
    tally.add(item)
    return item


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the step in hand is ended then. Pressed again, it breaks off at once."""
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        note("\nending the step in hand; Ctrl-C again breaks off")

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def performed(plan: Any, total: int, what: str, stop: Callable[[], bool], **how: Any) -> Iterator[Any]:
    """The items of a plan as they end, under a bar."""
    return tracked(plan.each(stop=stop, **how), total, what)


def ending(plan: Any, tally: Tally, stopped: bool) -> Exit:
    """Say how a job ended where it is not over, and the exit code."""
    job: JobState | None = plan.job
    if job is not None and job.state == "stopped" and (stopped or plan.stopped_by_limit):
        why = "interrupted" if stopped else "stopped by a limit"
        note(f"{why}; {counted(job.left, 'item')} left: threadledger replay resume {short(job.job_id)}")
        return Exit.INTERRUPTED if stopped else Exit.LIMIT_REACHED
    if stopped:
        return Exit.INTERRUPTED
    if tally.states["failed"]:
        if job is not None:
            note(f"once it is mended: threadledger replay resume {short(job.job_id)} tries what failed again")
        return Exit.SOME_FAILED
    return Exit.LIMIT_REACHED if plan.stopped_by_limit else Exit.DONE
