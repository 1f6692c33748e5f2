"""Share the exchanges that a server runs at a time among its keys, so that no key keeps the others from running theirs."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Lock

from .access import too_many

Queue = deque[asyncio.Future[None]]


class ExchangeSlots:
    """Let each key run up to `per_key` exchanges, and all keys together up to `most`.

    What is above the share of its key waits without a slot. What is within its share and finds no slot gets the next free
    one in turns: one exchange of each key. Starting and ending an exchange cost the same however many wait.
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

    def reserve(self, key: str) -> None:
        """Take a part of the share of a key, from any thread; raise a 429 if nothing is left of it."""
        with self._lock:
            if self._shares[key] >= self._per_key:
                raise too_many("exchanges", self._per_key)
            self._shares[key] += 1

    def give_back(self, key: str) -> None:
        """Give back a part of the share of a key, which the next one gets that waits for it; called in the event loop."""
        with self._lock:
            if _woken(self._above, key):
                return
            self._shares[key] -= 1
            if not self._shares[key]:
                del self._shares[key]

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Wait for a part of the share of a key and for a slot, and hold both while the context lasts."""
        with self._lock:
            is_above = self._shares[key] >= self._per_key
            waiting = _queued(self._above, key) if is_above else None
            self._shares[key] += not is_above
        if waiting is not None:
            await _granted(waiting, lambda: self.give_back(key))
        async with self.reserved(key):
            yield

    @asynccontextmanager
    async def reserved(self, key: str) -> AsyncIterator[None]:
        """Wait for a slot with a part of the share of a key that was reserved, and give both back at the end."""
        try:
            if self._free:
                self._free -= 1
            else:
                await _granted(_queued(self._within, key), self._pass_on)
            try:
                yield
            finally:
                self._pass_on()
        finally:
            self.give_back(key)

    def _pass_on(self) -> None:
        """Give a slot to the key whose turn it is, which is the last one then."""
        while self._within:
            key = next(iter(self._within))
            queue = self._within.pop(key)
            waiting = queue.popleft()
            if queue:
                self._within[key] = queue
            if not waiting.done():
                waiting.set_result(None)
                return
        self._free += 1


def _queued(queues: dict[str, Queue], key: str) -> asyncio.Future[None]:
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    queues.setdefault(key, deque()).append(waiting)
    return waiting


def _woken(queues: dict[str, Queue], key: str) -> bool:
    """Wake the first one in the queue of a key that still waits; return whether there was one."""
    queue = queues.get(key)
    while queue:
        waiting = queue.popleft()
        if not queue:
            del queues[key]
        if not waiting.done():
            waiting.set_result(None)
            return True
    return False


async def _granted(waiting: asyncio.Future[None], give_back: Callable[[], None]) -> None:
    """Wait until something is granted; one that is cancelled at that moment gives it back."""
    try:
        await waiting
    except asyncio.CancelledError:
        if not waiting.cancelled():
            give_back()
        raise
