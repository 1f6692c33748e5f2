"""Interrupt effects that another thread performs: at once, also while it waits for the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Semaphore
from typing import Any, TypeVar, cast

from .drivers import Wait, performed, stream
from .effects import Effect, Effects, Work

T = TypeVar("T")

_here = threading.local()
"""Has the interruption of what this thread performs."""


class Interrupted(BaseException):
    """Raised in effects that another thread has interrupted."""


class Interruption:
    """Allow another thread to stop the effects that one thread performs.

    Database work is never interrupted: the caller must know what was stored. What interrupts the effects is raised where they
    wait next.
    """

    def __init__(self, working: Semaphore | None = None) -> None:
        """Prepare it; `working` limits how many threads do database work at a time."""
        self._working = working or Semaphore()
        self._lock = Lock()
        self._came = Event()
        self._error: BaseException | None = None
        self._wake: Callable[[], object] | None = None
        self._was_woken = False
        """Whether what this thread waited for was ended: its result is not what the other side meant."""

    def interrupt(self, error: BaseException) -> None:
        """Raise an error in the effects, once: at once if they wait, or when they wait next."""
        with self._lock:
            self._error = error
            self._came.set()
            if self._wake is not None:
                self._was_woken = True
                with suppress(OSError):  # the connection has ended meanwhile
                    self._wake()

    def perform(self, effects: Effects[T], put: Callable[[Any], None] = lambda _: None) -> T:
        """Perform effects in this thread, pass their stream parts on, and return their value.

        Raises:
            Interrupted: they have ended because of it, or because their listener has left.
        """
        parts = stream(effects, self._wait, self._performed)
        _here.interruption = self
        try:
            while True:
                put(next(parts))
        except StopIteration as end:
            return cast("T", end.value)
        except GeneratorExit:  # the listener has left
            raise Interrupted from None
        finally:
            del _here.interruption

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` if an interruption comes meanwhile; raise the one that has come before."""
        with self._lock:
            if self._error is None:
                self._wake = wake
        self._check()
        try:
            yield
        finally:
            with self._lock:
                self._wake = None

    def _performed(self, effect: Effect, wait: Wait) -> Any:
        if isinstance(effect, Work):
            with self._working:
                return effect.do()
        self._check()
        try:
            result = performed(effect, wait)
        except Exception:
            self._check()  # it is the reason
            raise
        if self._was_woken:
            self._check()
        return result

    def _wait(self, seconds: float) -> None:
        self._came.wait(seconds)
        self._check()

    def _check(self) -> None:
        """Raise what has interrupted the effects, unless it was raised before."""
        with self._lock:
            error, self._error, self._was_woken = self._error, None, False
            self._came.clear()
        if error is not None:
            raise error


@contextmanager
def waking(wake: Callable[[], object]) -> Iterator[None]:
    """Call `wake` from another thread if it interrupts what this one does meanwhile."""
    interruption: Interruption | None = getattr(_here, "interruption", None)
    if interruption is None:
        yield
        return
    with interruption.waking(wake):
        yield
