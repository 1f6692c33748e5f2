"""Turns: who waits for a conversation in this process goes in the order of coming."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """Tickets by conversation. Other processes have their own: between them, whoever looks first goes."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[object]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> object:
        """A ticket behind those that are there."""
        ticket = object()
        with self._lock:
            self._waiting.setdefault(key, deque()).append(ticket)
        return ticket

    def has_come(self, key: str, ticket: object) -> bool:
        """Whether everybody who came before is done."""
        with self._lock:
            return self._waiting[key][0] is ticket

    def give_back(self, key: str, ticket: object) -> None:
        """Done, or no longer waiting."""
        with self._lock:
            waiting = self._waiting[key]
            waiting.remove(ticket)
            if not waiting:
                del self._waiting[key]
