"""Run work of this package that blocks in a thread, for callers in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Callable[[], T]) -> T:
    """Run `work` in a thread and wait for its end; a cancellation of the task is raised only after the work has ended."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # marks the exception as retrieved, because the cancellation is raised instead
        raise cancelled
    return task.result()
