"""Apply a plan in the terminal: show a progress bar, print each item when it ends, and stop between items on Ctrl-C.

This is what the `replay` commands share: options, the selection of conversations, rows of tables, and the confirmation
before money is spent or a provider is written to (the user types the number of items, or passes `--yes`).
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..main import Declined, Exit, NeedsYes, common, invocation, wrapped
from ..output import counted, emit_line, emit_many, note, short, short_thread, tracked

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger
    from threadledger.domain.replay import ApplyKeywords, JobState

TABLE_ROWS_MAX = 50
"""Maximum rows in a table of items; beyond it, failed items replace others. JSON, JSON Lines and CSV contain every item."""

REASONS_SHOWN_MAX = 5
"""Maximum number of skip reasons shown, the most frequent first."""


@dataclass
class Tally:
    """Count the outcomes of many items without keeping the items."""

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of skipped items by reason."""

    def add(self, item: Any) -> None:
        self.states[item.state] += 1
        if item.state == "skipped":
            self.reasons[item.reason or "no reason"] += 1

    def why_skipped(self) -> str:
        """Return how many items were skipped and why, or an empty string if none were."""
        if not self.reasons:
            return ""
        shown = [f"{reason} ({count:,})" for reason, count in self.reasons.most_common(REASONS_SHOWN_MAX)]
        more = len(self.reasons) - len(shown)
        return f"{self.states['skipped']:,} skipped: {'; '.join(shown)}{f'; {more} more reasons' if more > 0 else ''}"


def how_options(command: Any) -> Any:
    """Add the options for concurrency and request rate."""
    options = (
        click.option(
            "--concurrency",
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            metavar="N",
            help="Number of items processed at once.",
        ),
        click.option(
            "--rps", type=click.FloatRange(min=0, min_open=True), metavar="R", help="At most R requests per second."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def apply_options(command: Any) -> Any:
    """Add `--apply`, `--yes` and the options shared by all commands."""
    options = (
        click.option("--apply", is_flag=True, help="Apply the plan; without this option it is only printed."),
        click.option("--yes", is_flag=True, help="Skip the confirmation prompt."),
        common,
    )
    for option in reversed(options):
        command = option(command)
    return command


DETACH = click.option(
    "--detach", is_flag=True, help="With --apply: hand the job over to the workers (threadledger worker) and return."
)
"""Option of the commands whose plans become jobs."""


def check_detached(detach: bool, apply: bool, **others: Any) -> None:
    """Raise a usage error if a job cannot be handed over to workers with these options."""
    if not detach:
        return
    context = click.get_current_context()
    if not apply:
        raise click.UsageError("--detach hands over what --apply does: pass both", context)
    for name, given in others.items():
        if given:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} holds for one process, and workers are several: leave it out", context)


def hand_over(ledger: Ledger, plan: Any, max_runs: int | None = None) -> Exit:
    """Store a plan as a job of the workers, and print it."""
    job: JobState | None = plan.detach(max_runs)
    if job is None:
        emit_many([], (), empty="nothing is planned")
        return Exit.DONE
    alive = sum(row.is_alive for row in ledger.journal.worker_notes.workers())
    emit_line(job.as_json(), f"job {short(job.job_id)}: {counted(job.items, 'item')} for {counted(alive, 'worker')}")
    if not alive:
        note("no worker is running: start one with: threadledger worker")
    note(
        f"see how far it is with: threadledger replay jobs; stop it with: threadledger replay cancel {short(job.job_id)}"
    )
    return Exit.DONE


def show_items(
    items: Iterable[Any], total: int, columns: tuple[str, ...], as_row: Callable[[Any], dict[str, Any]], empty: str
) -> Tally:
    """Show items as they arrive and return their tally; only the rows of a table are kept in memory."""
    tally = Tally()
    if invocation().output != "table":
        emit_many((_tallied(item, tally).as_json() for item in items), ())
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


def _tallied(item: Any, tally: Tally) -> Any:
    tally.add(item)
    return item


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed.

    The first Ctrl-C lets the current step finish; the second one stops immediately.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        note("\nfinishing the current step; press Ctrl-C again to stop immediately")

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def performed(plan: Any, total: int, what: str, stop: Callable[[], bool], how: ApplyKeywords) -> Iterator[Any]:
    """Apply a plan and yield its items as they end, with a progress bar."""
    return tracked(plan.each(**{**how, "stop": stop}), total, what)


def ending(plan: Any, tally: Tally, stopped: bool) -> Exit:
    """Print how to resume a stopped or partly failed job, and return the exit code."""
    job: JobState | None = plan.job
    if job is not None and job.state == "stopped" and (stopped or plan.stopped_by_limit):
        why = "interrupted" if stopped else "stopped by a limit"
        note(f"{why}; {counted(job.left, 'item')} left: threadledger replay resume {short(job.job_id)}")
        return Exit.INTERRUPTED if stopped else Exit.LIMIT_REACHED
    if stopped:
        return Exit.INTERRUPTED
    if tally.states["failed"]:
        if job is not None:
            note(f"fix the cause, then retry the failed items: threadledger replay resume {short(job.job_id)}")
        return Exit.SOME_FAILED
    return Exit.LIMIT_REACHED if plan.stopped_by_limit else Exit.DONE


KINDS = click.Choice(["conversations", "assistants"])


def chosen_keys(
    keys: tuple[str, ...], everything: bool, search: str | None, keys_from: BinaryIO | None
) -> list[str] | None:
    """Return the named keys, or None if conversations are selected by `--all` or `--search`."""
    ways = [bool(keys), everything, search is not None, keys_from is not None]
    if sum(ways) != 1:
        message = "name conversations, or pass exactly one of --all, --search and --keys-from"
        raise click.UsageError(message, click.get_current_context())
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
        raise click.UsageError("name conversations or pass --all, but not both", click.get_current_context())


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


def needs_asking(yes: bool) -> bool:
    """Return whether the user will be prompted, so that the prompt text has to be prepared."""
    return not yes and sys.stdin.isatty()


def confirm(count: int, what: str, yes: bool) -> None:
    """Prompt for the number of items.

    Raises:
        Declined: the user typed something else.
        NeedsYes: there is no terminal for the prompt.
    """
    if yes or count == 0:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"this would {what}, but there is no terminal for the confirmation: add --yes")
    asked = wrapped(f"This will {what}. Type {count} to continue", sys.stderr)
    typed = click.prompt(asked, default="", show_default=False, err=True)
    if typed.strip() != str(count):
        raise Declined("declined: nothing was done")
