"""`threadledger audit`: why runs failed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .exits import Exit
from .invocation import MomentParameter, common, invocation, opened
from .lazy import LazyGroup
from .output import clock, emit_many, emit_one, note, printable, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from threadledger.domain import Exchanges, RecordedFailure, RunRecord


COLUMNS = ("run", "at", "key", "backend", "cause", "next", "answered_by")


@click.group(
    cls=LazyGroup,
    places={
        "failures": (".audit", "failures", "Every failed run, with cause and advice."),
        "show": (".audit", "show", "One run: facts, cause, advice, what happened next."),
    },
)
@common
def audit() -> None:
    """Every run failure: why it happened, and what was done about it."""


@click.command()
@click.option("--since", type=MomentParameter(), metavar="T", help="Failed then or later (ISO 8601, or 24h, 7d).")
@click.option("--until", type=MomentParameter(), metavar="T", help="Failed then or earlier.")
@click.option("--cause", metavar="C", help="Of this cause.")
@click.option("--code", metavar="C", help="With this code of the provider.")
@click.option("--backend", metavar="B", help="On this backend.")
@click.option("--unanswered", is_flag=True, help="Of exchanges that nobody has answered yet.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The newest N.")
@click.option("--exit-code", is_flag=True, help="Exit 4 where there is one, for cron.")
@common
def failures(
    since: datetime | None,
    until: datetime | None,
    cause: str | None,
    code: str | None,
    backend: str | None,
    unanswered: bool,
    limit: int | None,
    exit_code: bool,
) -> int:
    """Every failed run, oldest first."""
    with opened() as ledger:
        found = ledger.failures(since, until, cause, code, backend, unanswered, limit)
    if invocation().output == "table":
        emit_many([_row(failure) for failure in found], COLUMNS, empty="no failures")
        for told in _explained(found):
            note(told)
    else:
        emit_many((failure.as_json() for failure in found), ())
    return Exit.FOUND_SOMETHING if exit_code and found else Exit.DONE


@click.command()
@click.argument("run")
@common
def show(run: str) -> int:
    """One run, by its id or the ending of it that the tables show."""
    from threadledger.domain import recorded_failure

    with opened() as ledger:
        ledger.close_overdue_runs()
        record, folded = ledger.run(run)
    thing = _as_json(record, folded)
    advice = recorded_failure(record, folded.exchange_of(record)).advice_here()
    emit_one(thing, lambda console: _draw(console, thing, advice))
    return Exit.DONE


def _explained(found: Sequence[RecordedFailure]) -> Iterator[str]:
    """Each advice once, with the cause, the newest of its messages, and how many runs it is for."""
    by_advice: dict[tuple[str, str], list[RecordedFailure]] = {}
    for each in found:
        by_advice.setdefault((each.cause.value, each.advice), []).append(each)
    for (cause, advice), failures in by_advice.items():
        times = f", {len(failures)} times" if len(failures) > 1 else ""
        yield f"{cause} ({failures[-1].summary()}){times}\n  {advice}"


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


def _as_json(run: RunRecord, folded: Exchanges) -> dict[str, Any]:
    from threadledger.domain import recorded_failure, to_iso

    exchange = folded.exchange_of(run)
    told = recorded_failure(run, exchange).as_json()
    if run.failure is None:
        told |= {"status": run.state, "cause": None, "advice": None, "next": None}
    if run.completed is not None:
        told |= {"remote_run_id": run.completed.remote_run_id, "thread_id": run.completed.thread_id}
    return told | {
        "partial_text": run.failure.partial_text if run.failure is not None else None,
        "started_at": to_iso(run.started_at),
        "ended_at": to_iso(run.ended_at) if run.ended_at else None,
        "memory_version": run.memory_version,
        "memory_rule": run.memory_rule,
        "profile_hash": run.profile_hash,
        "rerun_of": run.rerun_of,
        "exchange": [
            {
                "run_id": each.run_id,
                "backend": each.backend,
                "attempt": each.attempt,
                "state": each.state,
                "next": each.next,
            }
            for each in exchange.runs
        ],
    }


def _draw(console: Console, thing: dict[str, Any], advice: str) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"run {thing['run_id']}", style="bold"))
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in (
        *("key", "backend", "model", "attempt", "started_at", "duration_seconds", "status", "code", "type", "message"),
        *("http_status", "request_id", "remote_run_id", "thread_id", "memory_version", "details"),
    ):
        if thing[name] not in (None, {}, ""):
            facts.add_row(Text(name.replace("_", " "), style="dim"), Text(str(thing[name])))
    console.print(facts)
    console.print()
    if thing["partial_text"]:
        console.print(Text("what it had said", style="bold"))
        console.print(Text(printable(thing["partial_text"])))
        console.print()
    if thing["cause"]:
        console.print(Text(f"cause   {thing['cause']}", style="bold red"))
        console.print(Text(f"advice  {advice}"))
        console.print()
    console.print(Text("the exchange", style="bold"))
    for each in thing["exchange"]:
        mark = "→" if each["run_id"] == thing["run_id"] else " "
        ending = each["state"] + (f", {each['next']}" if each["state"] == "failed" else "")
        console.print(Text(f"{mark} {short(each['run_id'])}  {each['backend']}  attempt {each['attempt']}  {ending}"))
    answered = f"answered by {short(thing['answered_by'])}" if thing["answered_by"] else "not answered yet"
    console.print(Text(f"  {answered}", style="green" if thing["answered_by"] else "red"))
