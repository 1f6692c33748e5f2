"""Effects performed by either driver, for tests that speak to a backend or a mirror directly: what was told is kept, and no
time passes in pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadledger.domain.effects import AsyncDriver, Effect, Effects, Emit, Pause, attended, perform


class Performing:
    """A driver for one test, and what it heard and waited; a block, at whose end nothing is left open."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.waited: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens in each pause."""
        self._clients: list[Any] = []

    def __enter__(self) -> Performing:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def __call__(self, made: Any) -> Any:
        """What effects come to; anything else as it is."""
        return self._run(attended(made, _nothing, self._note)) if isinstance(made, Generator) else made

    def closing(self, client: Any) -> Any:
        """The same client, closed with the block."""
        self._clients.append(client)
        return client

    def of(self, one: Any) -> Performed:
        """The same object, with its effects performed when they are made."""
        return Performed(one, self)

    def _run(self, effects: Effects[Any]) -> Any:
        return perform(effects)

    def _note(self, effect: Effect) -> Effect:
        if isinstance(effect, Emit):
            self.told.append(effect.part)
        if not isinstance(effect, Pause):
            return effect
        self.waited.append(effect.seconds)
        self.meanwhile()
        return Pause(0)


class Awaiting(Performing):
    """The same with the asynchronous driver, all in one event loop: connections belong to the loop they were made in."""

    def __enter__(self) -> Performing:
        self._pool = ThreadPoolExecutor(1)
        self._loop = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            self._loop.run(client.aclose())
        self._loop.close()
        self._pool.shutdown()

    def _run(self, effects: Effects[Any]) -> Any:
        return self._loop.run(AsyncDriver(self._pool).perform(effects))


class Performed:
    """An object whose effects are performed when they are made."""

    def __init__(self, one: Any, performing: Performing) -> None:
        self._one = one
        self._performing = performing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._one, name)
        return (lambda *args, **kwargs: self._performing(found(*args, **kwargs))) if callable(found) else found


DRIVERS = {"blocking": Performing, "awaited": Awaiting}


def _nothing(effect: Effect) -> Effects[None]:
    return
    yield effect
