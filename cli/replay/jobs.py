"""Implement `threadledger replay jobs`, `resume` and `cancel`, which manage resumable bulk jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..main import Exit, common, invocation, opened
from ..output import clock, counted, emit_many, note, short
from .plans import ending, for_people, how_options, performed, show_items, stoppable

if TYPE_CHECKING:
    from threadledger.domain.replay import ApplyKeywords

COLUMNS = ("job", "kind", "what", "state", "items", "done", "skipped", "failed", "left", "started_at")

RESULTS = ("run", "key", "backend", "thread_id", "messages", "sent", "state", "reason", "answer")


@click.command()
@click.argument("job", required=False)
@common
def jobs(job: str | None) -> int:
    """List bulk jobs and their progress, newest first; with JOB, show the result of each of its items."""
    with opened(reads=True, primary=True) as ledger:
        if job is not None:
            results = ledger.replay.results(job)
            emit_many(for_people(results), RESULTS, empty="no item has finished yet")
            return Exit.SOME_FAILED if any(each.get("state") == "failed" for each in results) else Exit.DONE
        rows: list[dict[str, Any]] = [each.as_json() for each in ledger.replay.jobs()]
    if invocation().output == "table":
        rows = [
            row | {"job": short(row["job"]), "started_at": clock(row["started_at"]), "what": _what(row["options"])}
            for row in rows
        ]
    nothing = "no jobs: replay rebuild, rerun and reconcile create them with --apply"
    emit_many(rows, COLUMNS, empty=nothing, spare=("started_at", "what"))
    return Exit.DONE


@click.command()
@click.argument("job")
@how_options
@click.option("--max-runs", type=click.IntRange(min=1), metavar="N", help="For a rerun: stop after N runs.")
@click.option(
    "--max-cost", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="For a rerun: stop at this cost."
)
@click.option("--yes", is_flag=True, help="Accepted for scripts: the plan was confirmed when it was applied.")
@common
def resume(
    job: str, concurrency: int, rps: float | None, max_runs: int | None, max_cost: float | None, yes: bool
) -> int:
    """Resume JOB where it stopped; failed items are retried. No confirmation is needed."""
    how: ApplyKeywords = {"concurrency": concurrency, "rps": rps, "max_runs": max_runs, "max_cost": max_cost}
    with opened(sends=True) as ledger:
        plan = ledger.replay.plan_of(job)
        state = ledger.replay.job(job)
        if state.kind != "rerun" and (max_runs or max_cost):
            raise click.UsageError(f"--max-runs and --max-cost apply only to a rerun; this job is a {state.kind}")
        if state.state == "running":
            note(f"{' and '.join(state.holders)} is working on this job: items that it has not claimed run here")
        to_do = state.left + state.failed
        with stoppable() as stop:
            items = performed(plan, to_do, f"resuming {state.kind}", stop, how)
            tally = show_items(items, 0, RESULTS, _as_row, "nothing left to do")
            stopped = stop()
    if invocation().output == "table":
        done = sum(tally.states[name] for name in ("done", "answered"))
        skipped = tally.why_skipped() or "0 skipped"
        note(f"{done:,} done, {skipped}, {tally.states['failed']:,} failed")
    return ending(plan, tally, stopped)


@click.command()
@click.argument("job")
@common
def cancel(job: str) -> int:
    """Cancel JOB; completed items are kept."""
    with opened() as ledger:
        state = ledger.replay.cancel(job)
    note(
        f"job {short(state.job_id)} is cancelled: {counted(state.left, 'item')} not processed; completed items are kept"
    )
    return Exit.DONE


def _as_row(item: Any) -> dict[str, Any]:
    return for_people([item.as_json()])[0]


def _what(options: dict[str, Any]) -> str:
    """Return the options as they would be typed."""
    given = {name.replace("_", "-"): value for name, value in options.items() if value not in (None, False, [], "")}
    words = (f"--{name}" if value is True else f"--{name} {_typed(value)}" for name, value in given.items())
    return " ".join(words)


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
