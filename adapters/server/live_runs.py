"""Show what happens in exchanges that run, to the requests that listen to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain.effects import Interruption

LISTEN_SECONDS = 1.0
"""Interval at which a listener looks whether its client has left, in seconds."""


@dataclass(eq=False)
class LiveRun:
    """Show what happens in one running exchange to those who listen, each from its beginning.

    `parts` are the parts of the answer, then `None` at the end.
    """

    key: str
    exchange_id: str
    share: str = ""
    """Actor of the request, whose share of the exchanges it is part of; empty without keys."""
    version: int | None = None
    """Version of its request, if that was stored just now."""
    parts: list[Any] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    error: Exception | None = None
    """Why there is no answer, once an attended run has ended; None if there is one."""
    listeners: int = 0
    """Number of those who attend the run: it is cancelled when the last one leaves."""
    interruption: Interruption = field(default_factory=Interruption)
    is_cancelled: bool = False
    """Whether it was interrupted, or is to end without a beginning."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when nothing of it is in progress any more."""
    begin: Callable[[], None] = lambda: None
    """What begins it when it has a slot."""
    has_begun: bool = False
    """Whether it has a slot: before that, it waits."""
    is_claimed: bool = False
    """Whether this process has claimed it, although a listener has to attend it."""
    has_left: bool = False
    """Whether it was taken out of the queue for a slot."""
    _has_text: bool = False
    """Whether a piece of text has been added."""
    seen_version: int = 0
    """Version of the conversation at which it was open, when that was last read."""

    def interrupt(self, error: BaseException) -> None:
        """Raise an error where it waits for something, or keep it from beginning."""
        self.is_cancelled = True
        self.interruption.interrupt(error)

    def put(self, part: Any) -> None:
        """Add a part and wake the listeners; they get the first piece of text before the next one is read."""
        with self.changed:
            self.parts.append(part)
            self.changed.notify_all()
        if not self._has_text and part is not None and part.type == "delta":
            self._has_text = True
            time.sleep(0)  # lets another thread run

    def end(self) -> None:
        """Note that nothing more happens, and wake those who listen or wait."""
        self.put(None)
        self.ended.set()

    def listen(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[list[Any]]:
        """Yield the parts as they arrive, those that are there at the same time together.

        It ends when the run has ended, or when the listener has `stopped`.
        """
        number = 0
        while True:
            with self.changed:
                while number >= len(self.parts):
                    if stopped():
                        return
                    self.changed.wait(LISTEN_SECONDS)
                parts = self.parts[number:]
            number += len(parts)
            if parts[-1] is not None:
                yield parts
                continue
            if parts[:-1]:
                yield parts[:-1]
            return

    @property
    def is_answered(self) -> bool:
        """Return whether the answer is stored."""
        return any(part is not None and part.type == "answer" for part in self.parts[-2:])

    @property
    def is_over(self) -> bool:
        """Return whether the run has ended, or waits for results."""
        return bool(self.parts) and self.parts[-1] is None

    def wait(self, seconds: float) -> None:
        """Block until the run has ended or waits for results, at most so many seconds."""
        until = time.monotonic() + seconds
        with self.changed:
            while not self.is_over and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
