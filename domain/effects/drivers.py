"""Perform effects by blocking; `async_driver.py` awaits them. Neither driver depends on what an exchange is."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

from .effects import Call, Effect, Effects, Emit, ListenerLeft, Pause, Use, Work

T = TypeVar("T")

Wait = Callable[[float], None]


def perform(effects: Effects[T], wait: Wait = time.sleep) -> T:
    """Perform effects to the end and return their value; stream parts are discarded."""
    parts = stream(effects, wait)
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return cast("T", end.value)


def performed(effect: Effect, wait: Wait) -> Any:
    """Perform one effect and return its result."""
    match effect:
        case Call():
            return effect.blocking()
        case Work():
            return effect.do()
        case Use():
            result = used(effect)
            if inspect.isawaitable(result):
                from .own_loop import awaited_apart

                return awaited_apart(result)
            return result
        case Pause():
            return wait(effect.seconds)
        case _:
            raise TypeError(f"{effect!r} is not an effect")


def stream(
    effects: Effects[T], wait: Wait = time.sleep, perform_one: Callable[[Effect, Wait], Any] | None = None
) -> Generator[Any, None, T]:
    """Perform effects and yield their stream parts; `perform_one` takes the place of `performed`.

    If the listener closes this generator, `ListenerLeft` is raised in the effects and their clean-up is performed.
    """
    step: Callable[[Any], Effect] = effects.send
    given: Any = None
    left: GeneratorExit | None = None
    while True:
        try:
            effect = step(given)
        except StopIteration as end:
            return cast("T", end.value)
        except ListenerLeft:
            raise left or GeneratorExit from None
        try:
            step, given = effects.send, None
            if not isinstance(effect, Emit):
                given = (perform_one or performed)(effect, wait)
            elif left is None:
                yield effect.part
        except GeneratorExit as gone:
            left, step, given = gone, effects.throw, ListenerLeft()
        except BaseException as error:  # noqa: BLE001 - the effects must see every exception first
            step, given = effects.throw, error


def used(effect: Use) -> Any:
    """Call the app's function and return its result.

    A `StopIteration` raised by the function becomes a `RuntimeError`, as in a coroutine. It would otherwise be mistaken
    for the end of a generator, and a future cannot carry it.
    """
    try:
        return effect.function(**effect.arguments)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error
