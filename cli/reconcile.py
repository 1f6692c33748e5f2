"""Implement `threadledger replay reconcile`, which repairs threads that have drifted from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from .applying import Tally, apply_options, ending, how_options, performed, show_items, stoppable
from .confirm import confirm
from .exits import Exit
from .invocation import KEY, complete_keys, invocation, opened
from .output import counted, note
from .progress import tracked
from .replaying import KINDS, for_people, one_choice

if TYPE_CHECKING:
    from threadledger.domain import ReconcileItem

FOUND = ("missing", "extra", "different", "foreign")
PLANNED = ("key", "backend", "thread_id", *FOUND, "action", "state", "reason")
MENDED = ("key", "backend", "thread_id", "new_thread_id", "action", "sent", "adopted", "deleted", "state", "reason")


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="Kind of thread; default: those that are linked.")
@click.option("--adopt", is_flag=True, help="Journal messages that other writers added to the thread.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N conversations.")
@how_options
@apply_options
def reconcile(
    keys: tuple[str, ...],
    everything: bool,
    to: str | None,
    adopt: bool,
    limit: int | None,
    concurrency: int,
    rps: float | None,
    apply: bool,
    yes: bool,
) -> int:
    """Repair threads that have drifted from the journal: send missing messages, rewrite threads with a broken order.

    Messages from other writers are kept and reported; --adopt journals them. Never calls a model.
    """
    one_choice(bool(keys), everything)
    with opened() as ledger:
        plan = ledger.replay.plan_reconcile(None if everything else list(keys), to, adopt, limit)
        for _ in tracked(plan.planned(), len(plan), "reading"):
            pass
        planned = [item for item in plan.items if item.state == "planned"]
        if not apply:
            tally = show_items(plan.items, len(plan), PLANNED, _as_row, "nothing to reconcile")
            _tell(f"plan: {_what(planned)}", tally, "; nothing was done, pass --apply to do it" if planned else "")
            return Exit.SOME_FAILED if tally.states["failed"] else Exit.DONE
        confirm(len(planned), f"repair {_what(planned)}", yes)
        others = [item for item in plan.items if item.state != "planned"]
        seen = _Seen()
        with stoppable() as stop:
            mended = performed(plan, len(planned), "reconciling", stop, concurrency=concurrency, rps=rps)
            items = map(seen, chain(others, mended if planned else ()))
            tally = show_items(items, len(plan), MENDED, _as_row, "nothing to reconcile")
            stopped = stop()
    _tell(f"{tally.states['done']:,} repaired", tally)
    code = ending(plan, tally, stopped)
    return Exit.CONFLICT if code == Exit.DONE and seen.in_the_way and not tally.states["done"] else code


class _Seen:
    """Pass items through and record whether a conflict with another writer blocked one."""

    def __init__(self) -> None:
        self.in_the_way = False

    def __call__(self, item: ReconcileItem) -> ReconcileItem:
        self.in_the_way |= item.in_the_way
        return item


def _what(planned: Sequence[ReconcileItem]) -> str:
    """Describe a plan in one sentence."""
    if not planned:
        return "nothing to repair"
    sending = [item for item in planned if "send" in item.action]
    anew = sum("rebuild" in item.action for item in planned)
    foreign = sum(item.foreign for item in planned if "adopt" in item.action)
    parts = [
        f"{len(sending):,} to receive {counted(sum(item.missing + item.different for item in sending), 'message')}"
        if sending
        else "",
        f"{anew:,} to rewrite" if anew else "",
        f"{counted(foreign, 'foreign message')} to journal" if foreign else "",
    ]
    return f"{counted(len(planned), 'thread')}: {', '.join(filter(None, parts))}"


def _tell(told: str, tally: Tally, last: str = "") -> None:
    if invocation().output == "table":
        failed = f"{tally.states['failed']:,} failed" if tally.states["failed"] else ""
        note("; ".join(filter(None, [told, tally.why_skipped(), failed])) + last)


def _as_row(item: ReconcileItem) -> dict[str, Any]:
    return for_people([item.as_json()])[0]
