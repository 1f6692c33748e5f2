"""Perform effects by awaiting them. Loaded apart from the blocking driver, because importing asyncio takes long."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from types import AsyncGeneratorType
from typing import Any, Generic, TypeVar, cast

from .drivers import used
from .effects import Call, Effect, Effects, Emit, ListenerLeft, Pause, Use, Work

T = TypeVar("T")

Pausing = Callable[[float], Awaitable[None]]


@dataclass
class _End(Generic[T]):
    """Hold the value of effects, because an asynchronous generator cannot return one."""

    value: T | None = None


class AsyncDriver:
    """Perform effects in an event loop; a thread pool does the database work."""

    def __init__(self, pool: Executor, pause: Pausing = asyncio.sleep, tools: Executor | None = None) -> None:
        """Create a driver with a `pool` for database work and an executor `tools` for the app's blocking functions.

        Without `tools`, those functions run in the event loop's default executor.
        """
        self._pool = pool
        self._tools = tools
        self._pause = pause
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: dict[AsyncGenerator[Any, None], asyncio.Lock] = {}

    async def perform(self, effects: Effects[T]) -> T:
        """Perform effects to the end and return their value; stream parts are discarded."""
        end: _End[T] = _End()
        task = asyncio.current_task()
        outermost = task is not None and task not in self._tasks
        try:
            if task is not None:
                self._tasks.add(task)
            async for _ in self._each(effects, end):
                pass
        finally:
            if task is not None and outermost:
                self._tasks.discard(task)
        return cast("T", end.value)

    async def stream(self, effects: Effects[Any]) -> AsyncGenerator[Any, None]:
        """Perform effects and yield their stream parts; closing the generator ends them as in the function `stream`."""
        parts = self._each(effects, _End())
        self._streams[parts] = asyncio.Lock()
        try:
            async for part in parts:
                yield part
        finally:
            await self._end(parts)

    heard = stream  # its name in earlier versions

    async def close(self) -> None:
        """Cancel tasks that are still in progress, and close streams that were not read to the end.

        The event loop would close such a stream later, or too late. A stream that a task is still reading is closed by
        that task.
        """
        at_it = self._tasks - {asyncio.current_task()}
        for task in at_it:
            task.cancel()
        await asyncio.gather(*at_it, return_exceptions=True)
        for parts, ending in list(self._streams.items()):
            if ending.locked() or not cast("AsyncGeneratorType[Any, None]", parts).ag_running:
                await self._end(parts)

    async def work(self, do: Callable[[], T]) -> T:
        """Run `do` in the pool, with the caller's context variables."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, do)

    async def _end(self, parts: AsyncGenerator[Any, None]) -> None:
        ending = self._streams.get(parts)
        if ending is None:
            return
        async with ending:
            try:
                await parts.aclose()
            finally:
                self._streams.pop(parts, None)

    async def _each(self, effects: Effects[T], ended: _End[T]) -> AsyncGenerator[Any, None]:
        step: Callable[[Any], Effect] = effects.send
        given: Any = None
        left: GeneratorExit | None = None
        stopped: list[asyncio.CancelledError] = []
        while True:
            try:
                effect = step(given)
            except BaseException as error:
                if stopped:
                    raise stopped[-1] from error
                if isinstance(error, StopIteration):
                    ended.value = error.value
                    return
                if isinstance(error, ListenerLeft):
                    raise left or GeneratorExit from None
                raise
            try:
                step, given = effects.send, None
                if isinstance(effect, Work):
                    given = await self._unbroken(effect.do, stopped)
                elif stopped:
                    raise stopped.pop()
                elif not isinstance(effect, Emit):
                    given = await self._awaited(effect)
                elif left is None:
                    yield effect.part
            except GeneratorExit as gone:
                left, step, given = gone, effects.throw, ListenerLeft()
            except BaseException as error:  # noqa: BLE001 - the effects must see every exception first
                step, given = effects.throw, error

    async def _unbroken(self, do: Callable[[], Any], stopped: list[asyncio.CancelledError]) -> Any:
        """Return the result of the work, even if it is cancelled meanwhile: the caller must know what was stored.

        The cancellation is kept in `stopped`.
        """
        working = asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, do)
        while True:
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError as cancelled:
                if working.cancelled():
                    raise
                stopped[:] = [cancelled]

    async def _awaited(self, effect: Effect) -> Any:
        match effect:
            case Call():
                return await effect.awaited()
            case Use():
                if inspect.iscoroutinefunction(effect.function):
                    return await effect.function(**effect.arguments)
                result = await asyncio.get_running_loop().run_in_executor(self._tools, used, effect)
                return await result if inspect.isawaitable(result) else result
            case Pause():
                return await self._pause(effect.seconds)
            case _:
                raise TypeError(f"{effect!r} is not an effect")
