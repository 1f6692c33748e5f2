"""Decide what to do with one thread of a reconcile, and why. The functions are pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .diagnosis import diagnose
from .drift import Drift, drift_of
from .errors import Conflict, ProviderRefused, ThreadledgerError
from .threads import Comparison, ThreadItem, ThreadState
from .verification import Verification

NOTHING_TO_WRITE = "nothing to write"
EQUAL = "the thread equals the journal"
LEFT = "left in the thread: --adopt journals it, replay rebuild --fresh writes a thread without it"


@dataclass(frozen=True, slots=True)
class ReconcileItem:
    """Describe one thread of a reconcile, as planned and with its outcome."""

    key: str
    backend: str
    version: int = 0
    thread_id: str | None = None
    new_thread_id: str | None = None
    action: str = "none"
    """`none`, `send`, `adopt`, `rebuild`, or several of them in the order of execution, joined by a plus sign."""
    missing: int = 0
    extra: int = 0
    different: int = 0
    foreign: int = 0
    """Number of the thread's foreign entries, which are among the extra and the different ones."""
    sent: int = 0
    adopted: int = 0
    """Number of messages that were journaled as adopted."""
    deleted: int = 0
    """Number of our late copies that were deleted from the thread."""
    state: str = "planned"
    reason: str = ""
    in_the_way: bool = False
    """Whether it is skipped because another process uses the conversation, or has changed it since the plan."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields except those that only a plan needs."""
        left_out = {"version", "in_the_way"}
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}


def decided(
    item: ReconcileItem,
    found: Comparison,
    drift: Drift,
    journal: Sequence[ThreadItem],
    thread: Sequence[ThreadItem],
    *,
    adopt: bool,
) -> ReconcileItem:
    """Return the item with what to do to a thread that was read.

    This sets the counts of differences, the action and the reason.
    """
    item = replace(item, missing=found.missing, extra=found.extra, different=found.different, foreign=drift.strangers)
    if drift.waiting:
        return replace(item, state="skipped", reason="a tool call waits for its result: try again", in_the_way=True)
    broken = bool(drift.moved or drift.stale or (adopt and drift.unfit))
    if adopt and drift.foreign and not broken:
        broken = drift_of([*journal, *drift.foreign], thread).moved > 0
    actions = [
        *(["adopt"] if adopt and drift.foreign else []),
        *(["rebuild"] if broken else ["send"] if drift.lacking else []),
    ]
    reason = "; ".join(_reasons(drift, adopt=adopt, broken=broken)) or EQUAL
    return replace(item, action="+".join(actions) or "none", state="planned" if actions else "skipped", reason=reason)


def decided_again(item: ReconcileItem, drift: Drift) -> ReconcileItem:
    """Return the item with what is left to do after foreign entries were journaled."""
    broken = bool(drift.moved or drift.stale or drift.unfit)
    left = ["rebuild"] if broken else ["send"] if drift.lacking else []
    return replace(item, action="+".join(["adopt", *left]))


def without_thread(item: ReconcileItem, verification: Verification) -> ReconcileItem:
    """Return the item with what to do if there is no thread that can be read."""
    found = verification.found
    item = replace(item, thread_id=verification.thread_id, missing=found.missing)
    if not found.journal:
        return replace(item, state="skipped", reason=NOTHING_TO_WRITE)
    state = "the thread is gone" if found.state is ThreadState.GONE else "no thread is linked here"
    reason = f"{state} ({verification.reason})" if verification.reason else state
    return replace(item, action="rebuild", state="planned", reason=reason)


def stopped(item: ReconcileItem, error: ThreadledgerError) -> ReconcileItem:
    """Return an item that could not be continued: skipped after a conflict, else failed."""
    if isinstance(error, Conflict):
        return replace(item, state="skipped", reason=str(error), in_the_way=True)
    cause = f"{diagnose(error.failure).value}: " if isinstance(error, ProviderRefused) else ""
    return replace(item, state="failed", reason=f"{cause}{error}")


def _reasons(drift: Drift, *, adopt: bool, broken: bool) -> list[str]:
    told = []
    if drift.moved:
        told.append(f"{_entries(drift.moved)} out of place")
    if drift.stale:
        told.append(f"{_entries(drift.stale)} from this ledger that the journal shows differently or no longer")
    if drift.lacking:
        told.append(f"{_entries(drift.lacking)} missing")
    if adopt and drift.foreign:
        amid = " between those of the journal" if broken and not (drift.moved or drift.stale or drift.unfit) else ""
        told.append(f"{_entries(len(drift.foreign), 'foreign ')}{amid}")
    if adopt and drift.unfit:
        told.append(f"{_entries(drift.unfit, 'foreign ')} that memory cannot hold, left in the old thread")
    if not adopt and drift.strangers:
        left = "left in the old thread: --adopt journals it" if broken else LEFT
        told.append(f"{_entries(drift.strangers, 'foreign ')}, {left}")
    return told


def _entries(number: int, what: str = "") -> str:
    return f"{number} {what}{'entry' if number == 1 else 'entries'}"
