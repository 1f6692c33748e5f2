"""Run asynchronous functions of an app for code that blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class OwnLoop:
    """Run coroutines for code that blocks, all in one event loop.

    If the thread already runs an event loop, as in a notebook, they run in a thread of their own.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._thread: ThreadPoolExecutor | None = None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="threadledger-loop")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of the coroutine."""
        if self._thread is None:
            return self._runner.run(coroutine)
        context = copy_context()
        return self._thread.submit(lambda: self._runner.run(coroutine, context=context)).result()

    def close(self) -> None:
        """Close the event loop."""
        if self._thread is None:
            self._runner.close()
            return
        with self._thread:
            self._thread.submit(self._runner.close).result()


def awaited_apart(result: Awaitable[Any]) -> Any:
    """Return the result of an awaitable that a function of an app returned."""

    async def finish() -> Any:
        return await result

    loop = OwnLoop()
    try:
        return loop.run(finish())
    finally:
        loop.close()
