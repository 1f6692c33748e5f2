"""Count the exchanges that run in a server, and divide them among its keys, so that no key keeps others from running theirs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from threading import Lock

from .refusals import too_many

Begin = Callable[[], object]
Queue = deque[Begin]


class ExchangeSlots:
    """Hold the exchanges of each key that run or wait: up to `per_key` of a key run at a time, and `most` of all keys.

    What is above the share of its key waits without a slot. What is within its share and finds no slot gets the next free
    one in turns: one exchange of each key. Starting and ending an exchange cost the same however many wait. Its methods may be
    called from any thread.
    """

    def __init__(self, most: int, per_key: int) -> None:
        self._free = most
        self._per_key = per_key
        self._shares: Counter[str] = Counter()
        """Number of exchanges of each key that run or wait for a slot."""
        self._above: dict[str, Queue] = {}
        """Those above the share of their key, by key."""
        self._within: dict[str, Queue] = {}
        """Those that wait for a slot, by key; the key that is next comes first."""
        self._lock = Lock()

    @property
    def has_free(self) -> bool:
        """Return whether an exchange would begin at once, if there is something left of the share of its key."""
        with self._lock:
            return self._free > 0

    def reserve(self, key: str) -> None:
        """Take a part of the share of a key; raise a 429 if nothing is left of it."""
        with self._lock:
            if self._shares[key] >= self._per_key:
                raise too_many("exchanges", self._per_key)
            self._shares[key] += 1

    def give_back(self, key: str) -> None:
        """Give back a part of the share of a key, which the next one gets that waits for it."""
        with self._lock:
            begun = self._returned(key)
        for begin in begun:
            begin()

    def enter(self, key: str, begin: Begin, *, reserved: bool = False) -> None:
        """Call `begin` when there is a part of the share of a key, unless it was reserved, and a slot: now or later.

        It must not block. It has both until `leave` is called.
        """
        with self._lock:
            if not reserved and self._shares[key] >= self._per_key:
                self._above.setdefault(key, deque()).append(begin)
                return
            self._shares[key] += not reserved
            has_slot = self._has_slot(key, begin)
        if has_slot:
            begin()

    def leave(self, key: str) -> None:
        """Give back a slot, to the key whose turn it is, and a part of the share of a key."""
        with self._lock:
            begun = [*self._passed_on(), *self._returned(key)]
        for begin in begun:
            begin()

    def withdraw(self, key: str, begin: Begin) -> bool:
        """Take something out of its queue, with what it has of a share; return whether it was in one."""
        with self._lock:
            if _taken_out(self._above, key, begin):
                return True
            if not _taken_out(self._within, key, begin):
                return False
            begun = self._returned(key)
        for each in begun:
            each()
        return True

    def _has_slot(self, key: str, begin: Begin) -> bool:
        """Take a slot, or queue what waits for one."""
        if not self._free:
            self._within.setdefault(key, deque()).append(begin)
            return False
        self._free -= 1
        return True

    def _passed_on(self) -> list[Begin]:
        """Return what gets a slot that is free again; its key is the last one then."""
        if not self._within:
            self._free += 1
            return []
        key = next(iter(self._within))
        queue = self._within.pop(key)
        begin = queue.popleft()
        if queue:
            self._within[key] = queue
        return [begin]

    def _returned(self, key: str) -> list[Begin]:
        """Return what gets a part of a share that is free again, if it finds a slot too."""
        queue = self._above.get(key)
        if not queue:
            self._shares[key] -= 1
            if not self._shares[key]:
                del self._shares[key]
            return []
        begin = queue.popleft()
        if not queue:
            del self._above[key]
        return [begin] if self._has_slot(key, begin) else []


def _taken_out(queues: dict[str, Queue], key: str, begin: Begin) -> bool:
    queue = queues.get(key)
    if not queue or begin not in queue:
        return False
    queue.remove(begin)
    if not queue:
        del queues[key]
    return True
