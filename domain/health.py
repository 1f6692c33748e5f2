"""How backends are doing: after failures in a row a backend cools down, and exchanges pass it over (a circuit breaker).

The rule is `cooling_after`. `Health` applies it to what this process meets, so that one conversation's failures spare the
others the wait; the audit applies it to the log, so that the same is seen from outside.

    well ── failures in a row ──→ cooling ── its time is over ──→ half-open: one request probes
     ↑                               ↑                               │
     └───────── answered, or failed for the question's sake ─────────┴── failed: cooling, for longer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from threading import Lock
from typing import Any

from .diagnosis import BACKEND_UNWELL, diagnose
from .failures import Cause, Failure
from .ids import now, to_iso
from .limits import (
    BACKEND_TIMEOUT_SECONDS,
    BREAKER_COOLDOWN_MAX_SECONDS,
    BREAKER_COOLDOWN_SECONDS,
    BREAKER_FAILURES,
    BREAKER_RETRY_AFTER_MAX_SECONDS,
    REASON_CHARS_MAX,
)

SAYS_NOTHING = ("refused", "interrupted", "cancelled")
"""Status of the failures that tell nothing about a backend: nothing was sent, or somebody of ours stopped it."""


def tells(failure: Failure) -> bool:
    """Whether a failure says anything about its backend."""
    return failure.status not in SAYS_NOTHING


@dataclass(frozen=True)
class BackendEnd:
    """How one call of a backend ended, and when; no failure where it answered."""

    backend: str
    at: datetime
    failure: Failure | None = None


@dataclass(frozen=True)
class Cooling:
    """A backend that is passed over: from its last failure until the cooldown ends, or until the probe has had its time."""

    since: datetime
    until: datetime
    failures_in_a_row: int
    last: Failure

    def holds(self, at: datetime) -> bool:
        """Whether the backend is passed over at this moment. Not before `since` either: the clock was set back."""
        return self.since <= at < self.until

    def refusal(self) -> Failure:
        """The failure of a run that passes the backend over: its cause is that of the last failure."""
        return Failure(
            "refused",
            code=diagnose(self.last).value,
            message=f"cooling down until {to_iso(self.until)[11:19]} UTC after {self.failures_in_a_row} failures in a "
            f"row, the last one: {self.last.summary()}"[:REASON_CHARS_MAX],
            details={"cooling_until": to_iso(self.until), "failures_in_a_row": self.failures_in_a_row},
        )


@dataclass(frozen=True)
class Condition:
    """What the ends of a backend's calls come to, one after the other."""

    failures_in_a_row: int = 0
    last: BackendEnd | None = None
    """The newest end that tells anything."""

    def after(self, end: BackendEnd) -> Condition:
        """The condition once this call has ended too."""
        if end.failure is None:
            return Condition(0, end)
        if not tells(end.failure):
            return self
        unwell = diagnose(end.failure) in BACKEND_UNWELL
        return Condition(self.failures_in_a_row + 1 if unwell else 0, end)

    @property
    def cooling(self) -> Cooling | None:
        """The cooldown that the last failure began; None while there are fewer than `BREAKER_FAILURES` in a row."""
        if self.last is None or self.last.failure is None or self.failures_in_a_row < BREAKER_FAILURES:
            return None
        until = self.last.at + timedelta(seconds=self._cooldown_seconds(self.last.failure))
        return Cooling(self.last.at, until, self.failures_in_a_row, self.last.failure)

    def _cooldown_seconds(self, failure: Failure) -> float:
        further = min(self.failures_in_a_row - BREAKER_FAILURES, 30)  # doubled more often, it is no number any more
        seconds = min(BREAKER_COOLDOWN_SECONDS * 2.0**further, BREAKER_COOLDOWN_MAX_SECONDS)
        asked_for = min(failure.retry_after_seconds or 0.0, BREAKER_RETRY_AFTER_MAX_SECONDS)
        return max(seconds, asked_for)


def condition_after(ends: Iterable[BackendEnd]) -> Condition:
    """What the ends of one backend's calls, oldest first, come to."""
    return reduce(Condition.after, ends, Condition())


def cooling_after(ends: Iterable[BackendEnd]) -> Cooling | None:
    """The cooldown that follows from the ends of one backend's calls, oldest first; it may be over by now."""
    return condition_after(ends).cooling


@dataclass(frozen=True)
class BackendHealth:
    """How a backend is doing, as its runs in the ledger tell."""

    backend: str
    failures_in_a_row: int
    last_cause: Cause | None
    """The cause of the newest end that tells anything; None where it answered."""
    last_at: datetime | None
    cooling_until: datetime | None
    """None where it is not cooling down."""

    @classmethod
    def of(cls, backend: str, ends: Iterable[BackendEnd], at: datetime) -> BackendHealth:
        """How a backend is doing at a moment, from its ends, oldest first."""
        condition = condition_after(ends)
        last, cooling = condition.last, condition.cooling
        return cls(
            backend=backend,
            failures_in_a_row=condition.failures_in_a_row,
            last_cause=diagnose(last.failure) if last is not None and last.failure is not None else None,
            last_at=last.at if last is not None else None,
            cooling_until=cooling.until if cooling is not None and cooling.holds(at) else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Times as ISO 8601 in UTC."""
        return {
            "backend": self.backend,
            "failures_in_a_row": self.failures_in_a_row,
            "last_cause": self.last_cause.value if self.last_cause is not None else None,
            "last_at": to_iso(self.last_at) if self.last_at is not None else None,
            "cooling_until": to_iso(self.cooling_until) if self.cooling_until is not None else None,
        }


def health_of(ends: Iterable[BackendEnd], at: datetime) -> list[BackendHealth]:
    """How each backend is doing at a moment, by name, from the ends of all of them, oldest first."""
    by_backend: dict[str, list[BackendEnd]] = {}
    for end in ends:
        by_backend.setdefault(end.backend, []).append(end)
    return [BackendHealth.of(name, by_backend[name], at) for name in sorted(by_backend)]


@dataclass
class _Watched:
    """One backend: its condition, and the probe that is under way."""

    condition: Condition = field(default_factory=Condition)
    probe: tuple[datetime, datetime] | None = None
    """From when, and until when at the latest."""


class Health:
    """What this process has met, backend by backend. Shared by all conversations of a ledger, safe for threads.

    `now` is the wall clock: a cooldown's end is told to people.
    """

    def __init__(self, now: Callable[[], datetime] = now) -> None:
        self.now = now
        self._lock = Lock()
        self._watched: dict[str, _Watched] = {}

    def saw(self, backend: str, failure: Failure | None, at: datetime) -> None:
        """Note how a call ended; no failure where the backend answered. A probe is over with it."""
        kept = replace(failure, partial_text=None) if failure is not None else None  # which may be long
        with self._lock:
            watched = self._watched.setdefault(backend, _Watched())
            watched.condition = watched.condition.after(BackendEnd(backend, at, kept))
            watched.probe = None

    def cooling(self, backend: str, at: datetime) -> Cooling | None:
        """The cooldown that holds at this moment, or that lasts as long as somebody else probes; None where all is well."""
        with self._lock:
            return self._cooling(backend, at)

    def enter(self, backend: str, at: datetime, seconds: float = BACKEND_TIMEOUT_SECONDS) -> Cooling | None:
        """Like `cooling`, for somebody about to call: who is let in after a cooldown is the probe, for `seconds` at most."""
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
