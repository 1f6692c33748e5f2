"""`threadledger replay rebuild`: threads written anew from the journal."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .confirm import confirm
from .exits import Exit
from .invocation import KEY, MomentParameter, common, complete_keys, invocation, opened
from .output import counted, emit_many, note
from .progress import tracked
from .replaying import KINDS, for_people, one_choice

if TYPE_CHECKING:
    from threadledger.domain import RebuildItem


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="The kind of thread; by default THREADLEDGER_THREADS.")
@click.option("--at", type=MomentParameter(versions=True), metavar="VERSION|TIME", help="The memory as it was then.")
@click.option("--fresh", is_flag=True, help="A new thread even where the old one is sound.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N conversations.")
@click.option("--apply", is_flag=True, help="Do it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def rebuild(
    keys: tuple[str, ...],
    everything: bool,
    to: str | None,
    at: datetime | int | None,
    fresh: bool,
    limit: int | None,
    apply: bool,
    yes: bool,
) -> int:
    """Write threads anew from the journal, read them back, and link those that are equal. Never calls a model."""
    one_choice(bool(keys), everything)
    with opened() as ledger:
        plan = ledger.replay.plan_rebuild(None if everything else list(keys), to, at, fresh, limit)
        if apply:
            messages = sum(item.messages for item in plan.items)
            confirm(
                len(plan.items), f"write {counted(len(plan.items), 'thread')} with {counted(messages, 'message')}", yes
            )
            for _ in tracked(plan.each(), len(plan.items), "rebuilding"):
                pass
        _show_rebuild(plan.items, applied=apply)
    return Exit.SOME_FAILED if any(item.state == "failed" for item in plan.items) else Exit.DONE


def _show_rebuild(items: list[RebuildItem], *, applied: bool) -> None:
    rows: list[dict[str, Any]] = [item.as_json() for item in items]
    written = (
        ("thread_id", "messages", "sent", "losses", "verified") if applied else ("old_thread_id", "messages", "losses")
    )
    emit_many(for_people(rows), ("key", "backend", *written, "state", "reason"))
    if invocation().output == "table":
        count = {state: sum(item.state == state for item in items) for state in ("done", "failed", "skipped")}
        note(
            f"{count['done']} written and verified, {count['skipped']} skipped, {count['failed']} failed"
            if applied
            else f"plan: {counted(len(items), 'thread')}, {counted(sum(item.messages for item in items), 'message')}; "
            "nothing was done, --apply does it"
        )
