"""Pin plans to versions: a plan notes each conversation's version, and applying it checks for later changes."""

from __future__ import annotations

from . import events as e
from .journal import Journal

CHANGED = "changed since the plan: plan again"
"""Reason for skipping an item whose conversation has changed since the plan."""

ABOUT_THREADS = (e.ThreadLinked, e.ThreadLost, e.ThreadRebuilt, e.ThreadReconciled)


def moved_on(journal: Journal, key: str, version: int) -> bool:
    """Return whether a conversation has changed after a version, apart from its threads.

    Events about threads do not count, because an interrupted rebuild may itself have linked or lost a thread.
    """
    return any(not isinstance(event, ABOUT_THREADS) for event in journal.history(key, after=version))
