"""Represent side effects as values: a generator yields them and a driver (`drivers.py`) performs them.

The same generator serves the blocking and the asynchronous API, so every decision and every write is implemented once:

    def catch_up(self, …) -> Effects[int]:
        held = yield from mirror.read(thread_id)      # yields a Call
        yield Pause(0.5)
        version = yield from work(lambda: journal.commit(key, decide))
        return version

The driver sends the result of an effect back into the generator. An exception is raised at the effect's `yield`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """Represent a network call; its result is sent back."""

    blocking: Callable[[], Any]
    awaited: Callable[[], Awaitable[Any]]
    """The same call, for a driver that awaits it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Represent database work on the ledger; its return value is sent back. Drivers never interrupt it. See `work`."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Use:
    """Represent a call of an app's function, blocking or asynchronous; its return value is sent back."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Represent a pause, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Represent a stream part or a job item for the listener, if there is one."""

    part: Any


class ApprovalNeeded(Exception):
    """Raised in a backend whose model called tools on which a person has to decide: the run ends with the calls."""

    def __init__(self, message: Any, waits_for: tuple[str, ...]) -> None:
        super().__init__(", ".join(waits_for))
        self.message = message
        """The message with the calls, which is not journaled yet."""
        self.waits_for = waits_for
        """Ids of the calls that need a decision."""
        self.usage: Any = None
        """Tokens of the run, if the backend knows them."""


class ListenerLeft(BaseException):
    """Raised in effects whose listener has stopped reading.

    `GeneratorExit` does not work here: `yield from` closes the inner generator instead of raising the exception inside
    it. A generator that is being closed must not yield, so it could not clean up.
    """


Effect = Call | Work | Use | Pause | Emit
Effects = Generator[Effect, Any, T]
"""Generator that yields effects and returns a value of type T."""


def work(do: Callable[[], T]) -> Effects[T]:
    """Do the ledger's database work in a generator of effects: `version = yield from work(lambda: journal.commit(…))`.

    `yield from` keeps the type of the result, which a plain `yield Work(…)` loses.
    """
    return cast("T", (yield Work(do)))


def attended(
    effects: Effects[T],
    after: Callable[[Effect], Effects[None]],
    before: Callable[[Effect], Effect] = lambda effect: effect,
) -> Effects[T]:
    """Wrap effects: pass each one through `before`, and run `after` when it has been performed.

    Every exception, including one raised by `after`, is raised inside the wrapped effects so that they can clean up.
    """
    step: Callable[[Any], Effect] = effects.send
    given: Any = None
    while True:
        try:
            effect = before(step(given))
        except StopIteration as end:
            return cast("T", end.value)
        try:
            step = effects.send
            given = yield effect
            yield from after(effect)
        except BaseException as error:  # noqa: BLE001 - the effects must see every exception first
            step, given = effects.throw, error
