"""What has to be done outside, as values: a generator yields them, a driver (`driving.py`) performs them.

The same generator serves the blocking world and the asynchronous one, so that nothing is decided, or written, twice:

    def brought_up(self, …) -> Effects[int]:
        held = yield from mirror.read(thread_id)      # in the end a Call
        yield Pause(0.5)
        version = yield Work(lambda: journal.commit(key, decide))
        return version

What an effect comes to is sent back; what it raises is raised at its `yield`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from .stream import StreamPart

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """Ask somebody over the network. Sent back: the answer."""

    blocking: Callable[[], Any]
    awaited: Callable[[], Awaitable[Any]]
    """The same, for a driver that awaits it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Read or write the ledger's database. Sent back: what it returns. Never broken off half-way."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Use:
    """Call a function of the app, blocking or asynchronous. Sent back: what it returns."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Hand something to whoever listens, if anybody does: a part of an exchange's stream, an item of a job."""

    part: StreamPart | Any


class ListenerLeft(BaseException):
    """Raised in effects whose listener has gone. A `GeneratorExit` would not do: `yield from` closes what it delegates to
    instead of passing it on, and what is closed must not yield, so that nothing could be cleaned up."""


Effect = Call | Work | Use | Pause | Tell
Effects = Generator[Effect, Any, T]
"""A generator of effects whose value is a T."""


def attended(
    effects: Effects[T],
    after: Callable[[Effect], Effects[None]],
    before: Callable[[Effect], Effect] = lambda effect: effect,
) -> Effects[T]:
    """The same effects, with something to do after each of them (`before` may change one before it is performed). What
    is raised, by whatever is done, is raised inside: the effects may have something to clean up."""
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
        except BaseException as error:  # noqa: BLE001 - whatever it is, the effects hear of it first
            step, given = effects.throw, error
