"""Run functions in threads that no process waits for when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads:
    """Run functions in threads, which are started when they are needed, and end with the process.

    The threads of the standard library's pool would keep a process alive until each handler has returned.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0
        self._idle = 0
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = Lock()

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call a function in one of the threads, and return what has its result, or its error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                settle: Callable[[], None] = partial(_settle, future, future.set_result, function())
            except BaseException as raised:  # noqa: BLE001 - it is raised where the result is waited for
                settle = partial(_settle, future, future.set_exception, raised)
            with suppress(RuntimeError):  # the loop has ended, and with it the server: no one waits
                loop.call_soon_threadsafe(settle)

        self.submit(work)
        return future

    def stop(self) -> None:
        """End the threads that have nothing to do, and the others when they have returned."""
        with self._lock:
            for _ in range(self._started):
                self._work.put(None)

    def submit(self, work: Callable[[], None]) -> None:
        """Call a function in one of the threads, from any thread; it raises nothing."""
        with self._lock:
            is_missing = self._idle == 0 and self._started < self._most
            self._idle -= self._idle > 0
            self._started += is_missing
            name = f"{self._name}-{self._started}"
        self._work.put(work)
        if is_missing:
            Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # it holds the request
            with self._lock:
                self._idle += 1


def _settle(future: asyncio.Future[Any], set_end: Callable[[Any], None], end: Any) -> None:
    if not future.done():
        set_end(end)
