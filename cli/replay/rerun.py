"""Implement `threadledger replay rerun`, which reruns failed exchanges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..main import Exit, MomentParameter, invocation, opened
from ..output import console, counted, emit_many, note, short, span
from ..terminal import printable
from .plans import (
    DETACH,
    Tally,
    apply_options,
    check_detached,
    confirm,
    ending,
    for_people,
    hand_over,
    how_options,
    performed,
    stoppable,
)

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger
    from threadledger.domain.replay import ApplyKeywords, RerunComparison, RerunItem, RerunPlan

NOTHING_TO_RERUN = "nothing to rerun: no failed exchange is waiting for an answer"
PLANNED = ("run", "key", "backend", "model", "tokens", "USD", "fork", "state", "reason")
COMPARED_MAX = 10
"""Maximum number of reruns whose comparison with the original is printed."""

MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
MARK_STYLES = {"same": "", "removed": "red", "added": "green"}
"""Marks and styles of the pieces of a difference, as in `git diff --word-diff`."""

MADE = (*PLANNED[:4], "cost", "fork", "state", "reason", "answer", "original")


@click.command()
@click.argument("targets", nargs=-1, metavar="[RUN|KEY]...")
@click.option("--failed", is_flag=True, help="Rerun every unanswered exchange; with RUN or KEY, only theirs.")
@click.option("--since", type=MomentParameter(), metavar="T", help="Only exchanges that failed at T or later.")
@click.option("--until", type=MomentParameter(), metavar="T", help="Only exchanges that failed at T or earlier.")
@click.option("--cause", metavar="C", help="Only exchanges that failed with this cause.")
@click.option("--backend", metavar="B", help="Only exchanges that failed on this backend.")
@click.option("--on", metavar="BACKEND", help="Call this backend instead of the configured ones.")
@click.option("--model", metavar="M", help="Use this model instead of the configured one.")
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Use this profile instead of the configured one.",
)
@click.option(
    "--tools",
    type=click.Choice(["recorded", "live"]),
    default="recorded",
    show_default=True,
    help="For recorded function calls: reuse their results, or call the functions again.",
)
@click.option(
    "--into",
    type=click.Choice(["tail", "fork", "shadow"]),
    default="tail",
    show_default=True,
    help="Where the answer goes: tail appends it to the conversation, fork adds it to a copy, shadow only shows it.",
)
@click.option(
    "--include",
    type=click.Choice(["answered", "overtaken", "tools", "interrupted"]),
    multiple=True,
    help="Include exchanges that are skipped by default; can be repeated.",
)
@click.option(
    "--max-runs", type=click.IntRange(min=1), metavar="N", help="Stop after N runs; the rest remains planned."
)
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Start no run that could bring the cost to USD, based on the usage that the provider reports.",
)
@how_options
@DETACH
@apply_options
def rerun(
    targets: tuple[str, ...],
    failed: bool,
    profile: Path | None,
    max_runs: int | None,
    max_cost: float | None,
    concurrency: int,
    rps: float | None,
    detach: bool,
    apply: bool,
    yes: bool,
    **chosen: Any,
) -> int:
    """Rerun failed exchanges: by RUN, by conversation KEY, or all unanswered ones (--failed).

    Everything that is given narrows the selection: --failed KEY reruns only the unanswered exchanges of KEY. The model
    sees exactly the memory of the failed run.
    """
    if not targets and not failed:
        raise click.UsageError("name runs or conversations, or pass --failed", click.get_current_context())
    check_detached(detach, apply, concurrency=concurrency > 1, rps=rps, max_cost=max_cost, profile=profile)
    with opened(reads=not apply, primary=True, sends=apply, profile=profile) as ledger:
        runs, keys = _runs_and_keys(ledger, targets)
        own = ledger.services.profile if profile is not None else None
        plan = ledger.replay.plan_rerun(runs or None, keys or None, failed, profile=own, **chosen)
        plan.limit(max_runs, max_cost)
        if not apply:
            return _show_plan(plan, max_runs)
        planned = [item for item in plan.items if item.state == "planned"]
        confirm(len(planned), f"rerun {counted(len(planned), 'exchange')} ({_estimated_cost(planned)})", yes)
        if detach:
            return hand_over(ledger, plan, max_runs)
        with stoppable() as stop:
            how: ApplyKeywords = {"concurrency": concurrency, "rps": rps, "max_runs": max_runs, "max_cost": max_cost}
            for _ in performed(plan, len(planned), "rerunning", stop, how):
                pass
            stopped = stop()
        shown = [item if item.original or invocation().output != "table" else None for item in plan.items]
        compared = [ledger.replay.compare(item) if item is not None else None for item in shown]
    return _show_made(plan, stopped, compared)


def _runs_and_keys(ledger: Ledger, targets: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Split targets into runs and conversation keys; a target that is no known key is treated as a run."""
    is_key = {each: ledger.journal.load(each) is not None for each in targets}
    return [each for each in targets if not is_key[each]], [each for each in targets if is_key[each]]


def _show_plan(plan: RerunPlan, max_runs: int | None) -> int:
    emit_many(for_people([item.as_json() for item in plan.items]), PLANNED, empty=NOTHING_TO_RERUN)
    if invocation().output != "table" or not plan.items:
        return Exit.DONE
    planned = [item for item in plan.items if item.state == "planned"]
    if planned:
        asked = ", then ".join(f"{each.backend} ({each.model})" for each in plan.policy.candidates)
        runs = counted(plan.runs_at_most(max_runs), "run")
        note(f"plan: rerun {counted(len(planned), 'exchange')} on {asked}: at most {runs}, {_estimated_cost(planned)}")
    else:
        note("plan: nothing to rerun")
    _report_skipped(plan)
    note("nothing was done; pass --apply to execute the plan" if planned else "nothing was done")
    return Exit.DONE


def _report_skipped(plan: RerunPlan) -> None:
    counts = plan.skipped()
    if counts:
        note(f"{counts.total():,} skipped: {'; '.join(f'{why} ({count:,})' for why, count in counts.most_common())}")
    ways = sorted(plan.can_be_included())
    if ways:
        note(f"to include them, pass {' '.join(f'--include {way}' for way in ways)}")


def _show_made(plan: RerunPlan, stopped: bool, compared: list[RerunComparison | None]) -> int:
    rows = [
        item.as_json() | {"comparison": both.as_json() if both is not None else None}
        for item, both in zip(plan.items, compared, strict=True)
    ]
    drawn = [(item.key, both) for item, both in zip(plan.items, compared, strict=True) if both and item.original]
    columns = MADE[:-2] if drawn and len(drawn) == len(rows) <= COMPARED_MAX else MADE
    emit_many(for_people(rows), columns, empty=NOTHING_TO_RERUN)
    if invocation().output == "table":
        for key, both in drawn[:COMPARED_MAX]:
            _draw_comparison(key, both)
        if len(drawn) > COMPARED_MAX:
            note(f"… and {len(drawn) - COMPARED_MAX:,} more comparisons; -o json has all")
    tally = Tally()
    for item in plan.items:
        tally.add(item)
    if invocation().output == "table" and plan.items:
        counts = ", ".join(f"{tally.states[state]:,} {state}" for state in ("answered", "failed", "skipped"))
        costs = [item.cost for item in plan.items if item.runs_made]
        known = [cost for cost in costs if cost is not None]
        cost = f"{sum(known):.4f} USD" if len(known) == len(costs) else "cost unknown"
        note(f"{counts}; {counted(sum(item.runs_made for item in plan.items), 'run')} made, {cost}")
    return ending(plan, tally, stopped)


def _draw_comparison(key: str, both: RerunComparison) -> None:
    """Print the original and the rerun side by side, and the difference of their texts."""
    from rich.table import Table
    from rich.text import Text

    sides = (both.original, both.rerun)
    rows = (
        ("run", [short(side.run_id) for side in sides]),
        ("backend", [side.backend for side in sides]),
        ("model", [side.model for side in sides]),
        ("tokens", [f"{side.usage.input_tokens:,} in, {side.usage.output_tokens:,} out" for side in sides]),
        ("duration", [span(side.duration_seconds) for side in sides]),
        ("failure", [side.failure or "" for side in sides]),
        ("text", [side.text or "" for side in sides]),
    )
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in (printable(key, lines=False), "original", "rerun"):
        drawn.add_column(name, overflow="fold", ratio=None if name not in {"original", "rerun"} else 1)
    for name, texts in rows:
        if any(texts):
            drawn.add_row(Text(name, style="dim"), *(Text(printable(text)) for text in texts))
    difference = Text()
    for kind, text in both.difference() if both.original.text and not both.same_text else ():
        begin, end = MARKS[kind]
        difference.append(f"{begin}{printable(text)}{end}", style=MARK_STYLES[kind])
    console().print()
    console().print(drawn)
    if both.same_text:
        difference = Text("the texts are the same")
    if difference:
        console().print(Text("difference", style="dim"), difference, sep="\n")


def _estimated_cost(items: list[RerunItem]) -> str:
    from threadledger.adapters import prices_from

    tokens = sum(item.estimated_tokens or 0 for item in items)
    costs = [item.estimated_cost for item in items if item.estimated_cost is not None]
    source = prices_from()
    if source is None:
        return f"about {tokens} input tokens, cost unknown: pip install 'threadledger[prices]' adds prices"
    if len(costs) < len(items):
        unknown = sorted({str(item.model) for item in items if item.estimated_cost is None})
        return f"about {tokens} input tokens, cost unknown: {source}, has no price for {', '.join(unknown)}"
    return f"about {tokens} input tokens, {sum(costs):.4f} USD by {source}"
