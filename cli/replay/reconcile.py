"""Implement `threadledger replay verify`, which compares threads with the journal, and `reconcile`, which repairs them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from ..main import KEY, Exit, common, complete_keys, invocation, opened
from ..output import counted, emit_many, note, tracked
from .plans import (
    DETACH,
    KINDS,
    Tally,
    apply_options,
    check_detached,
    confirm,
    ending,
    for_people,
    hand_over,
    how_options,
    one_choice,
    performed,
    show_items,
    stoppable,
)

if TYPE_CHECKING:
    from threadledger.domain.replay import ReconcileItem

FOUND = ("missing", "extra", "different", "foreign")
PLANNED = ("key", "backend", "thread_id", *FOUND, "action", "state", "reason")
ORPHANS = ("key", "backend", "thread_id", "created_at", "state", "reason")
REPAIRED = (
    "key",
    "backend",
    "thread_id",
    "new_thread_id",
    "action",
    "answered",
    "sent",
    "adopted",
    "deleted",
    "state",
    "reason",
)


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="Kind of thread; default: those that are linked.")
@click.option("--adopt", is_flag=True, help="Journal messages that other writers added to the thread.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N conversations.")
@click.option("--orphans", is_flag=True, help="Delete threads that a crash kept from being linked.")
@how_options
@DETACH
@apply_options
def reconcile(
    keys: tuple[str, ...],
    everything: bool,
    to: str | None,
    adopt: bool,
    limit: int | None,
    orphans: bool,
    concurrency: int,
    rps: float | None,
    detach: bool,
    apply: bool,
    yes: bool,
) -> int:
    """Repair threads that have drifted from the journal: send missing messages, rewrite threads with a broken order.

    Messages from other writers are kept and reported; --adopt journals them. Never calls a model.

    With --orphans, delete instead the threads that a process created and that a crash kept from being linked.
    """
    check_detached(detach, apply, concurrency=concurrency > 1, rps=rps, orphans=orphans)
    if orphans:
        return _remove_orphans(bool(keys) or everything or to is not None or adopt or limit is not None, apply, yes)
    one_choice(bool(keys), everything)
    with opened(reads=not apply, sends=True) as ledger:
        plan = ledger.replay.plan_reconcile(None if everything else list(keys), to, adopt, limit)
        for _ in tracked(plan.planned(), len(plan), "reading"):
            pass
        planned = [item for item in plan.items if item.state == "planned"]
        if not apply:
            tally = show_items(plan.items, len(plan), PLANNED, _as_row, "nothing to reconcile")
            _report(
                f"plan: {_what(planned)}",
                tally,
                "; nothing was done; pass --apply to execute the plan" if planned else "",
            )
            return Exit.SOME_FAILED if tally.states["failed"] else Exit.DONE
        confirm(len(planned), f"repair {_what(planned)}", yes)
        if detach:
            return hand_over(ledger, plan)
        others = [item for item in plan.items if item.state != "planned"]
        seen = _Seen()
        with stoppable() as stop:
            repaired = performed(plan, len(planned), "reconciling", stop, {"concurrency": concurrency, "rps": rps})
            items = map(seen, chain(others, repaired if planned else ()))
            tally = show_items(items, len(plan), REPAIRED, _as_row, "nothing to reconcile")
            stopped = stop()
    _report(f"{tally.states['done']:,} repaired", tally)
    code = ending(plan, tally, stopped)
    return Exit.CONFLICT if code == Exit.DONE and seen.in_the_way and not tally.states["done"] else code


def _remove_orphans(more_options: bool, apply: bool, yes: bool) -> int:
    """Plan or apply the deletion of threads that no log names."""
    if more_options:
        message = "--orphans deletes threads of all conversations: pass it without keys and without other choices"
        raise click.UsageError(message, click.get_current_context())
    with opened() as ledger:
        plan = ledger.replay.plan_orphans()
        found = plan.items
        planned = sum(item.state == "planned" for item in found)
        what = f"delete {counted(planned, 'thread')} without a link"
        if not apply:
            tally = show_items(found, len(found), ORPHANS, _as_row, "no threads without a link")
            last = "; nothing was done; pass --apply to execute the plan" if planned else ""
            if found:
                _report(f"plan: {what}", tally, last)
            return Exit.DONE
        confirm(planned, what, yes)
        with stoppable() as stop:
            removed = performed(plan, len(found), "deleting", stop, {})
            tally = show_items(removed, len(found), ORPHANS, _as_row, "no threads without a link")
            stopped = stop()
    if found:
        _report(f"{tally.states['done']:,} deleted", tally)
    return ending(plan, tally, stopped)


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
    rewritten = sum("rebuild" in item.action for item in planned)
    foreign = sum(item.foreign for item in planned if "adopt" in item.action)
    answers = sum("answer" in item.action for item in planned)
    parts = [
        f"{len(sending):,} to receive {counted(sum(item.missing + item.different for item in sending), 'message')}"
        if sending
        else "",
        f"{rewritten:,} to rewrite" if rewritten else "",
        f"{counted(foreign, 'foreign message')} to journal" if foreign else "",
        f"{counted(answers, 'possible answer')} to journal" if answers else "",
    ]
    return f"{counted(len(planned), 'thread')}: {', '.join(filter(None, parts))}"


def _report(outcome: str, tally: Tally, last: str = "") -> None:
    if invocation().output == "table":
        failed = f"{tally.states['failed']:,} failed" if tally.states["failed"] else ""
        note("; ".join(filter(None, [outcome, tally.why_skipped(), failed])) + last)


def _as_row(item: ReconcileItem) -> dict[str, Any]:
    return for_people([item.as_json()])[0]


@click.command()
@click.argument("keys", nargs=-1, type=KEY, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("--to", type=KINDS, help="Kind of thread; default: those that are linked.")
@click.option("--detach", is_flag=True, help="Hand the work over to the workers (threadledger worker) and return.")
@common
def verify(keys: tuple[str, ...], everything: bool, to: str | None, detach: bool) -> int:
    """Compare threads with the journal, message by message, for threadledger threads too. Exit 4 on drift.

    Neither the journal nor a thread is changed. With --detach, `replay jobs JOB` and `threads` show what was found.
    """
    from threadledger.domain.errors import ProviderRefused

    one_choice(bool(keys), everything)
    with opened(reads=not detach, sends=True) as ledger:
        chosen = ledger.replay.keys(None if everything else list(keys))
        if detach:
            return hand_over(ledger, ledger.replay.plan_verify(chosen, to))
        found, refused = [], 0
        for key in tracked(chosen, len(chosen), "verifying"):
            try:
                found += ledger.replay.verify([key], to)
            except ProviderRefused as error:
                if len(chosen) == 1:
                    raise
                refused += 1
                note(f"{key}: the thread could not be read ({error})")
    rows = [each.as_json() for each in found]
    emit_many(
        for_people(rows),
        ("key", "backend", "thread_id", "journal", "thread", "missing", "extra", "different", "state"),
    )
    drifted = [row for row in rows if row["state"] in {"behind", "drifted", "gone"}]
    if drifted and invocation().output == "table":
        message = f"{len(drifted)} of {counted(len(rows), 'thread')} with drift"
        note(f"{message}; show the differences with: threadledger diff KEY --thread")
        note("repair with: threadledger replay reconcile KEY --apply")
    if refused:
        return Exit.SOME_FAILED
    return Exit.FOUND_SOMETHING if drifted else Exit.DONE
