"""Pins: a plan notes at which version it saw a conversation, and whoever performs it later tells whether that has moved on."""

from __future__ import annotations

from . import events as e
from .journal import Journal

CHANGED = "changed since the plan: plan again"
"""Why an item is skipped whose conversation has moved on."""

ABOUT_THREADS = (e.ThreadLinked, e.ThreadLost, e.ThreadRebuilt, e.ThreadReconciled)


def moved_on(journal: Journal, key: str, version: int) -> bool:
    """Whether anything has happened in a conversation after a version but what concerns its threads: a rebuild that was
    broken off has linked or lost a thread itself."""
    return any(not isinstance(event, ABOUT_THREADS) for event in journal.history(key, after=version))
