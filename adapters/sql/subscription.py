"""Follow the log: read its existing events, then new ones from any process.

Appends of this process wake the follower; events of other processes are found by polling. PostgreSQL's NOTIFY would
avoid polling, but would halve the throughput of appends.
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
"""Interval between polls for events of other processes, in seconds."""

PAGE_EVENTS = 500
"""Number of events that a follower reads per query."""


class LogSubscription(Subscription[ApplicationRecorder]):
    """Iterate over the log without end; `stop()` ends the iteration, also from another thread."""

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
        """Read the next page and return whether there were new events; a lost connection is retried at the next poll."""
        try:
            end = self._log.max_notification_id() or 0
            if end <= self._after:
                return False
            found = self._log.select_notifications(
                self._after, PAGE_EVENTS, end, self._topics, inclusive_of_start=False
            )
        except ConnectionLost as lost:
            logger.warning("cannot read new events, retrying: %s", lost)
            return False
        self._page = deque(found)
        self._after = self._page[-1].id if len(self._page) == PAGE_EVENTS else end
        return True
