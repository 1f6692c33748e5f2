"""Record the items that an engine does, for the tests of engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from threadledger.adapters.workers import WorkItem

WAIT_SECONDS = 30.0
"""Maximum time for something that a worker does, in seconds."""


def wait_until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until something that a worker does has been done."""
    ticks, until = threading.Event(), time.monotonic() + seconds
    while True:
        if condition():
            return
        if time.monotonic() > until:  # a condition may take its time itself
            break
        ticks.wait(0.02)
    raise AssertionError("a worker does not do what was waited for")


class Performer:
    """Record the items that an engine has done, and hold each until it is let go."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.again_at: dict[str, datetime] = {}
        self.holds = False
        self._running: list[str] = []
        self._changed = threading.Condition()
        self._let_go: set[str] = set()
        self.most_at_once: dict[str, int] = {}

    def __call__(self, item: WorkItem) -> datetime | None:
        with self._changed:
            self._running.append(item.name)
            self.most_at_once[item.name] = max(self.most_at_once.get(item.name, 0), self._running.count(item.name))
            self._changed.notify_all()
            if self.holds:
                assert self._changed.wait_for(lambda: not self.holds or item.name in self._let_go, WAIT_SECONDS)
                self._let_go.discard(item.name)
            self._running.remove(item.name)
            self.done.append(item.name)
            self._changed.notify_all()
            return self.again_at.pop(item.name, None)

    @property
    def running(self) -> list[str]:
        with self._changed:
            return [*self._running]

    def let_go(self, *names: str) -> None:
        """Let items end; without names, all, also later ones."""
        with self._changed:
            self._let_go |= set(names)
            self.holds = self.holds and bool(names)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what was done holds."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_SECONDS), (self.done, self._running)

    def wait_until_running(self, number: int) -> None:
        self.wait_for(lambda: len(self._running) >= number)
