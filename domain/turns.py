"""Queue the callers that wait for a conversation in this process: first come, first served."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """Issue tickets by conversation.

    Other processes have their own tickets; between processes, the first one to check goes first.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[object]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> object:
        """Return a new ticket at the end of the queue."""
        ticket = object()
        with self._lock:
            self._waiting.setdefault(key, deque()).append(ticket)
        return ticket

    def has_come(self, key: str, ticket: object) -> bool:
        """Return whether all earlier tickets have been given back."""
        with self._lock:
            return self._waiting[key][0] is ticket

    def give_back(self, key: str, ticket: object) -> None:
        """Give a ticket back, because its holder is done or no longer waits."""
        with self._lock:
            waiting = self._waiting[key]
            waiting.remove(ticket)
            if not waiting:
                del self._waiting[key]
