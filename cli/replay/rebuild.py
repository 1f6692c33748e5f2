"""Implement `threadledger replay rebuild`, which rewrites threads from the journal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..main import KEY, Exit, MomentParameter, complete_keys, invocation, opened
from ..output import counted, note, tracked
from .plans import (
    Tally,
    apply_options,
    chosen_keys,
    confirm,
    ending,
    for_people,
    how_options,
    needs_asking,
    performed,
    show_items,
    stoppable,
)

if TYPE_CHECKING:
    from threadledger.domain.replay import RebuildItem, RebuildPlan

PLANNED = ("key", "backend", "old_thread_id", "messages", "losses", "state", "reason")
WRITTEN = ("key", "backend", "thread_id", "messages", "sent", "losses", "verified", "state", "reason")


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--search", metavar="TEXT", help="Conversations that contain these words.")
@click.option(
    "--keys-from", type=click.File("rb"), metavar="FILE", help="Read keys from FILE, one per line; - is standard input."
)
@click.option(
    "--to",
    type=click.Choice(["conversations", "assistants", "file"]),
    help="Kind of thread; default: THREADLEDGER_THREADS. `file` writes one JSON line per conversation.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --to file: the file to write.",
)
@click.option(
    "--at",
    type=MomentParameter(versions=True),
    metavar="VERSION|TIME",
    help="Use the memory as of this version or time.",
)
@click.option("--fresh", is_flag=True, help="Create a new thread even if the old one matches the journal.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N conversations.")
@how_options
@apply_options
def rebuild(
    keys: tuple[str, ...],
    everything: bool,
    search: str | None,
    keys_from: Any,
    to: str | None,
    output: Path | None,
    at: datetime | int | None,
    fresh: bool,
    limit: int | None,
    concurrency: int,
    rps: float | None,
    apply: bool,
    yes: bool,
) -> int:
    """Rewrite threads from the journal, read them back, and link those that match. Never calls a model."""
    named = chosen_keys(keys, everything, search, keys_from)
    if (to == "file") != (output is not None):
        raise click.UsageError("--to file and --output FILE require each other", click.get_current_context())
    with opened(reads=not apply, sends=apply) as ledger:
        if output is not None:
            plan: Any = ledger.replay.plan_rebuild_file(output, named, at, limit, search)
        else:
            plan = ledger.replay.plan_rebuild(named, to, at, fresh, limit, search)
        if not apply:
            return _show_plan(plan)
        what = f"write {counted(len(plan), 'thread')}"
        confirm(len(plan), f"{what} with {_messages(plan)}" if needs_asking(yes) else what, yes)
        with stoppable() as stop:
            items = performed(plan, len(plan), "rebuilding", stop, {"concurrency": concurrency, "rps": rps})
            tally = show_items(items, len(plan), WRITTEN, as_row, "nothing to rebuild")
            stopped = stop()
    _show_tally(tally)
    return ending(plan, tally, stopped)


def as_row(item: RebuildItem) -> dict[str, Any]:
    """Return an item as a table row."""
    return for_people([item.as_json()])[0]


def _show_plan(plan: RebuildPlan) -> int:
    sums = _Sums()
    items = sums.watched(tracked(plan.planned(), len(plan), "planning"))
    tally = show_items(items, len(plan), PLANNED, as_row, "nothing to rebuild")
    if invocation().output == "table":
        requests = f", about {counted(sums.requests, 'request')}" if sums.requests else ""
        parts = [f"{counted(tally.states['planned'], 'thread')} with {counted(sums.messages, 'message')}{requests}"]
        parts += [f"{sums.linked:,} already linked and kept if they match the journal"] if sums.linked else []
        parts += filter(None, [tally.why_skipped()])
        note(f"plan: {'; '.join(parts)}")
        note("no model is called, so no tokens are billed; nothing was done; pass --apply to execute the plan")
    return Exit.DONE


def _show_tally(tally: Tally) -> None:
    if invocation().output == "table":
        skipped = tally.why_skipped() or "0 skipped"
        note(f"{tally.states['done']:,} written and verified, {skipped}, {tally.states['failed']:,} failed")


def _messages(plan: RebuildPlan) -> str:
    sums = _Sums()
    for _ in sums.watched(tracked(plan.planned(), len(plan), "planning")):
        pass
    return counted(sums.messages, "message")


class _Sums:
    """Sum up the items of a plan."""

    def __init__(self) -> None:
        self.messages = self.requests = self.linked = 0

    def watched(self, items: Iterator[RebuildItem]) -> Iterator[RebuildItem]:
        for item in items:
            self.messages += item.messages
            self.requests += item.requests
            self.linked += item.state == "planned" and item.old_thread_id is not None
            yield item
