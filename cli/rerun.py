"""`threadledger replay rerun`: failed exchanges run again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .confirm import confirm
from .exits import Exit
from .invocation import MomentParameter, common, invocation, opened
from .output import counted, emit_many, note
from .progress import tracked
from .replaying import for_people, one_choice

if TYPE_CHECKING:
    from threadledger.domain import Ledger, RerunItem

NOTHING_TO_RERUN = "nothing to rerun: no exchange has failed and waits for an answer"


@click.command()
@click.argument("targets", nargs=-1, metavar="[RUN|KEY]...")
@click.option("--failed", is_flag=True, help="Every exchange that nobody answered.")
@click.option("--since", type=MomentParameter(), metavar="T", help="Failed then or later.")
@click.option("--cause", metavar="C", help="Failed for this cause.")
@click.option("--backend", metavar="B", help="Failed on this backend.")
@click.option("--model", metavar="M", help="Use this model instead of the settings'.")
@click.option(
    "--tools",
    type=click.Choice(["recorded", "live"]),
    default="recorded",
    show_default=True,
    help="Calls of functions that are on record: answered from there, or made anew.",
)
@click.option("--max-runs", type=click.IntRange(min=1), metavar="N", help="Stop after N runs; the rest stays planned.")
@click.option("--apply", is_flag=True, help="Do it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def rerun(
    targets: tuple[str, ...],
    failed: bool,
    since: datetime | None,
    cause: str | None,
    backend: str | None,
    model: str | None,
    tools: str,
    max_runs: int | None,
    apply: bool,
    yes: bool,
) -> int:
    """Run failed exchanges again: those of a RUN, of a conversation KEY, or all (--failed)."""
    one_choice(bool(targets), failed)
    with opened() as ledger:
        runs, keys = _runs_and_keys(ledger, targets)
        plan = ledger.replay.plan_rerun(runs, keys, failed, since, cause, backend, model, tools)
        planned = [item for item in plan.items if item.state == "planned"]
        if apply:
            confirm(len(planned), f"ask {counted(len(planned), 'question')} again ({_told_cost(planned)})", yes)
            for _ in tracked(plan.each(max_runs), len(planned), "rerunning"):
                pass
        _show_rerun(plan.items, applied=apply)
    if any(item.state == "failed" for item in plan.items):
        return Exit.SOME_FAILED
    return Exit.LIMIT_REACHED if plan.stopped_by_limit else Exit.DONE


def _runs_and_keys(ledger: Ledger, targets: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What is not a conversation's key is taken for a run."""
    known = {state.key for state in ledger.conversations()}
    return [each for each in targets if each not in known], [each for each in targets if each in known]


def _show_rerun(items: list[RerunItem], *, applied: bool) -> None:
    rows: list[dict[str, Any]] = [item.as_json() for item in items]
    columns = ("run", "key", "backend", "model", "tokens", "USD", "state", "reason", "answer")
    emit_many(
        for_people(rows),
        columns if applied else columns[:-1],
        empty=NOTHING_TO_RERUN,
    )
    if invocation().output == "table" and not applied and items:
        planned = [item for item in items if item.state == "planned"]
        told = (
            f"{counted(len(planned), 'question')} asked again ({_told_cost(planned)})" if planned else "nothing to ask"
        )
        note(f"plan: {told}; nothing was done, --apply does it")


def _told_cost(items: list[RerunItem]) -> str:
    from threadledger.adapters import prices_from

    tokens = sum(item.estimated_tokens or 0 for item in items)
    costs = [item.estimated_cost for item in items if item.estimated_cost is not None]
    if len(costs) < len(items) or not costs:
        return f"about {tokens} tokens of input, cost unknown: pip install 'threadledger[prices]' brings prices"
    return f"about {tokens} tokens of input, {sum(costs):.4f} USD by {prices_from()}"
