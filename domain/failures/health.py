"""Track the health of backends with a circuit breaker: after failures in a row a backend cools down and is skipped.

`Health` applies the rule of `Condition` to the calls of this process, so that a backend that failed in one
conversation is skipped in the others. The audit applies it to the log, so that other processes see the same state.

    healthy ── failures in a row ──→ cooling ── cooldown ends ──→ half-open: one request probes
       ↑                                ↑                             │
       └──────── answered, or failed because of the question ─────────┴── failed: cooling, for longer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from threading import Lock

from ..ids import now, to_iso
from ..limits import (
    BACKEND_TIMEOUT_SECONDS,
    BREAKER_COOLDOWN_MAX_SECONDS,
    BREAKER_COOLDOWN_SECONDS,
    BREAKER_FAILURES,
    BREAKER_RETRY_AFTER_MAX_SECONDS,
    REASON_CHARS_MAX,
)
from .diagnosis import BACKEND_UNWELL, diagnose
from .failure import Failure

SAYS_NOTHING = ("refused", "interrupted", "cancelled")
"""Statuses of failures that do not reflect a backend's health: nothing was sent, or the run was stopped on our side."""


def concerns_backend(failure: Failure) -> bool:
    """Return whether a failure reflects the health of its backend."""
    return failure.status not in SAYS_NOTHING


@dataclass(frozen=True)
class BackendEnd:
    """Represent the outcome of one call to a backend; `failure` is None if the backend answered."""

    backend: str
    at: datetime
    failure: Failure | None = None


@dataclass(frozen=True)
class Cooling:
    """Represent a period in which a backend is skipped.

    It is a cooldown after the last failure, or the time limit of a probe in progress.
    """

    since: datetime
    until: datetime
    failures_in_a_row: int
    last: Failure

    def holds(self, at: datetime) -> bool:
        """Return whether the backend is skipped at this moment; False before `since`, when the clock was set back."""
        return self.since <= at < self.until

    def refusal(self) -> Failure:
        """Return the failure of a run that skips the backend, with the cause of the last failure."""
        return Failure(
            "refused",
            code=diagnose(self.last).value,
            message=f"cooling down until {to_iso(self.until)[11:19]} UTC after {self.failures_in_a_row} failures in a "
            f"row, the last one: {self.last.summary()}"[:REASON_CHARS_MAX],
            details={"cooling_until": to_iso(self.until), "failures_in_a_row": self.failures_in_a_row},
        )


@dataclass(frozen=True)
class Condition:
    """Hold the state that a sequence of calls leaves a backend in."""

    failures_in_a_row: int = 0
    last: BackendEnd | None = None
    """Newest outcome that reflects the backend's health."""

    def after(self, end: BackendEnd) -> Condition:
        """Return the condition after this call has ended too."""
        if end.failure is None:
            return Condition(0, end)
        if not concerns_backend(end.failure):
            return self
        unwell = diagnose(end.failure) in BACKEND_UNWELL
        return Condition(self.failures_in_a_row + 1 if unwell else 0, end)

    @property
    def cooling(self) -> Cooling | None:
        """Return the cooldown that the last failure started; None for fewer than `BREAKER_FAILURES` in a row."""
        if self.last is None or self.last.failure is None or self.failures_in_a_row < BREAKER_FAILURES:
            return None
        until = self.last.at + timedelta(seconds=self._cooldown_seconds(self.last.failure))
        return Cooling(self.last.at, until, self.failures_in_a_row, self.last.failure)

    def _cooldown_seconds(self, failure: Failure) -> float:
        further = min(self.failures_in_a_row - BREAKER_FAILURES, 30)  # capped, because further doubling would overflow
        seconds = min(BREAKER_COOLDOWN_SECONDS * 2.0**further, BREAKER_COOLDOWN_MAX_SECONDS)
        asked_for = min(failure.retry_after_seconds or 0.0, BREAKER_RETRY_AFTER_MAX_SECONDS)
        return max(seconds, asked_for)


def condition_after(ends: Iterable[BackendEnd]) -> Condition:
    """Return the condition of one backend after these calls, oldest first."""
    return reduce(Condition.after, ends, Condition())


@dataclass
class _Watched:
    """Hold one backend's condition and the probe in progress."""

    condition: Condition = field(default_factory=Condition)
    probe: tuple[datetime, datetime] | None = None
    """Start and latest end of the probe."""


class Health:
    """Track the health of each backend as this process sees it.

    All conversations of a ledger share it, from any thread.

    `now` is the wall clock, because the end of a cooldown is shown to people.
    """

    def __init__(self, now: Callable[[], datetime] = now) -> None:
        self.now = now
        self._lock = Lock()
        self._watched: dict[str, _Watched] = {}

    def saw(self, backend: str, failure: Failure | None, at: datetime) -> None:
        """Record the end of a call, which ends a probe too; `failure` is None if the backend answered."""
        kept = replace(failure, partial_text=None) if failure is not None else None  # the text may be long
        with self._lock:
            watched = self._watched.setdefault(backend, _Watched())
            watched.condition = watched.condition.after(BackendEnd(backend, at, kept))
            watched.probe = None

    def cooling(self, backend: str, at: datetime) -> Cooling | None:
        """Return the cooldown or another caller's probe at this moment; None if the backend may be called."""
        with self._lock:
            return self._cooling(backend, at)

    def enter(self, backend: str, at: datetime, seconds: float = BACKEND_TIMEOUT_SECONDS) -> Cooling | None:
        """Return the cooldown like `cooling`, or let the caller in.

        The first caller after a cooldown becomes the probe, for at most `seconds`. Call this right before the backend.
        """
        with self._lock:
            cooling = self._cooling(backend, at)
            watched = self._watched.get(backend)
            if cooling is None and watched is not None and watched.condition.cooling is not None:
                watched.probe = (at, at + timedelta(seconds=seconds))
            return cooling

    def _cooling(self, backend: str, at: datetime) -> Cooling | None:
        watched = self._watched.get(backend)
        cooling = watched.condition.cooling if watched is not None else None
        if watched is None or cooling is None or cooling.holds(at):
            return cooling
        if watched.probe is None:
            return None
        probed = Cooling(*watched.probe, cooling.failures_in_a_row, cooling.last)
        return probed if probed.holds(at) else None
