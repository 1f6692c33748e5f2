"""Implement `threadledger replay rebuild`, which rewrites threads from the journal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..main import KEY, Exit, MomentParameter, complete_keys, invocation, opened
from ..output import counted, emit_many, note, tracked
from .plans import (
    DETACH,
    TABLE_ROWS_MAX,
    Tally,
    apply_options,
    check_detached,
    chosen_keys,
    confirm,
    ending,
    for_people,
    hand_over,
    how_options,
    needs_asking,
    performed,
    show_items,
    stoppable,
)

if TYPE_CHECKING:
    from threadledger.domain.replay import RebuildItem, RebuildOutline

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
@DETACH
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
    detach: bool,
    apply: bool,
    yes: bool,
) -> int:
    """Rewrite threads from the journal, read them back, and link those that match. Never calls a model."""
    named = chosen_keys(keys, everything, search, keys_from)
    if (to == "file") != (output is not None):
        raise click.UsageError("--to file and --output FILE require each other", click.get_current_context())
    check_detached(detach, apply, concurrency=concurrency > 1, rps=rps, output=output)
    with opened(reads=not apply, primary=True, sends=apply) as ledger:
        if output is not None:
            plan: Any = ledger.replay.plan_rebuild_file(output, named, at, limit, search)
        else:
            plan = ledger.replay.plan_rebuild(named, to, at, fresh, limit, search)
        if not apply:
            return _show_plan(plan)
        what = f"write {counted(len(plan), 'thread')}"
        confirm(len(plan), f"{what} with {_messages(plan)}" if needs_asking(yes) else what, yes)
        if detach:
            return hand_over(ledger, plan)
        with stoppable() as stop:
            items = performed(plan, len(plan), "rebuilding", stop, {"concurrency": concurrency, "rps": rps})
            tally = show_items(items, len(plan), WRITTEN, as_row, "nothing to rebuild")
            stopped = stop()
    _show_tally(tally)
    return ending(plan, tally, stopped)


def as_row(item: RebuildItem) -> dict[str, Any]:
    """Return an item as a table row."""
    return for_people([item.as_json()])[0]


def _show_plan(plan: Any) -> int:
    if invocation().output == "table" and len(plan) > TABLE_ROWS_MAX:
        return _outline_plan(plan)
    sums = _Sums()
    items = sums.watched(tracked(plan.planned(), len(plan), "planning"))
    tally = show_items(items, len(plan), PLANNED, as_row, "nothing to rebuild")
    if invocation().output == "table":
        threads, why_skipped = tally.states["planned"], tally.why_skipped()
        _note_plan(threads, counted(sums.messages, "message"), sums.requests, sums.linked, why_skipped)
    return Exit.DONE


def _outline_plan(plan: Any) -> int:
    """Show a plan of many conversations: the first ones as a table, and the sums of all by their stored counts."""
    rows = [as_row(item) for item in islice(plan.planned(), TABLE_ROWS_MAX)]
    outline: RebuildOutline = plan.outline()
    emit_many(rows, PLANNED)
    note(f"… and {len(plan) - len(rows):,} more; -o jsonl shows all")
    skipped = f"{outline.empty:,} skipped: nothing to write ({outline.empty:,})" if outline.empty else ""
    messages = f"about {counted(outline.messages, 'message')}"
    _note_plan(outline.threads, messages, outline.requests, outline.linked, skipped)
    note("messages that are no longer in memory are counted too; the exact numbers are those of -o jsonl and --apply")
    return Exit.DONE


def _note_plan(threads: int, messages: str, requests: int, linked: int, skipped: str) -> None:
    asked = f", about {counted(requests, 'request')}" if requests else ""
    parts = [f"{counted(threads, 'thread')} with {messages}{asked}"]
    parts += [f"{linked:,} already linked and kept if they match the journal"] if linked else []
    parts += filter(None, [skipped])
    note(f"plan: {'; '.join(parts)}")
    note("no model is called, so no tokens are billed; nothing was done; pass --apply to execute the plan")


def _show_tally(tally: Tally) -> None:
    if invocation().output == "table":
        skipped = tally.why_skipped() or "0 skipped"
        note(f"{tally.states['done']:,} written and verified, {skipped}, {tally.states['failed']:,} failed")


def _messages(plan: Any) -> str:
    """Return the number of messages for the confirmation: exact for a plan that is short enough to be shown."""
    if len(plan) > TABLE_ROWS_MAX:
        return f"about {counted(plan.outline().messages, 'message')}"
    return counted(sum(item.messages for item in plan.planned()), "message")


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
