"""Following the log: what is there, then what comes, whichever process writes it.

A wake-up is only ever a hint: it comes from appends of this process, and what other processes append is found by looking.
PostgreSQL's NOTIFY would save the looking, at half the throughput of appends.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import ApplicationRecorder, Notification, Subscription

from .kinds import ConnectionLost

logger = logging.getLogger("threadledger")

FOLLOW_SECONDS = 0.05
"""How often a follower looks for events of other processes."""

PAGE_EVENTS = 500
"""Events that a follower takes at a time."""


class LogSubscription(Subscription[ApplicationRecorder]):
    """An endless iterator over the log; `stop()` ends it, from another thread too."""

    def __init__(
        self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str], followers: set[threading.Event]
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._log = recorder
        self._after = gt or 0
        self._page: deque[Notification] = deque()
        self._woken = threading.Event()
        self._followers = followers
        followers.add(self._woken)

    def stop(self) -> None:
        """End the iteration."""
        super().stop()
        self._followers.discard(self._woken)
        self._woken.set()

    def __next__(self) -> Any:
        while not self._has_been_stopped:
            if self._page:
                return self._page.popleft()
            self._woken.clear()
            if not self._look():
                self._woken.wait(FOLLOW_SECONDS)
        raise StopIteration

    def _look(self) -> bool:
        """Take the next page; whether there was anything new. A server that went away is waited for."""
        try:
            end = self._log.max_notification_id() or 0
            if end <= self._after:
                return False
            found = self._log.select_notifications(
                self._after, PAGE_EVENTS, end, self._topics, inclusive_of_start=False
            )
        except ConnectionLost as lost:
            logger.warning("following the log is held up: %s", lost)
            return False
        self._page = deque(found)
        self._after = self._page[-1].id if len(self._page) == PAGE_EVENTS else end
        return True
