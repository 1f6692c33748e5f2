"""Decide how an exchange proceeds: which backend is tried, how often, for how long, and with which pauses.

Nothing here performs or records anything; `exchange.py` has the loop that follows these decisions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from ..failures import Cause, Failure, Health, diagnose, is_worth_a_retry, pause_before_retry
from ..limits import (
    ATTEMPT_SECONDS_MIN,
    BACKEND_TIMEOUT_SECONDS,
    COMPACT_KEEP_LAST,
    EXCHANGE_DEADLINE_SECONDS,
    REASON_CHARS_MAX,
    RETRIES_DEFAULT,
    WAIT_BEFORE_FALLBACK_SECONDS,
)


@dataclass(frozen=True)
class Candidate:
    """Name a backend that may answer, and the model that it uses."""

    backend: str
    model: str
    timeout_seconds: float | None = None
    """Limit of one attempt on this backend; None uses the policy's limit."""
    retries: int | None = None
    """Number of attempts after the first on this backend; None uses the policy's number."""


@dataclass(frozen=True)
class Policy:
    """Define which backends are tried, in which order, how often, and for how long."""

    candidates: tuple[Candidate, ...] = ()
    """Backends in the order in which they are tried."""
    retries: int = RETRIES_DEFAULT
    """Number of attempts after the first on one backend."""
    timeout_seconds: float = BACKEND_TIMEOUT_SECONDS
    """Limit of one attempt."""
    memory_last: int | None = None
    """Number of newest messages sent to a backend without a thread; None sends all of them."""
    memory_tokens: int | None = None
    """Token budget of the memory sent to a backend without a thread; None sets no budget."""
    compact_at_tokens: int | None = None
    """Estimated tokens of memory above which a question is preceded by a compaction; None never compacts."""
    compact_keep_last: int = COMPACT_KEEP_LAST
    """Number of newest messages that a compaction leaves as they are."""
    deadline_seconds: float = EXCHANGE_DEADLINE_SECONDS
    """Limit of all attempts and pauses together."""
    while_running: str = "reject"
    """What happens to a second question while a run is open: `reject`, `queue` or `interrupt`."""
    fallback: str = "drop"
    """What a fallback does without the tools that it lacks: `drop` calls it without them, `strict` refuses."""
    on_loss: str = "allow"
    """What happens if a backend cannot be shown a part of the memory: `allow` calls it all the same, `refuse` does not."""
    stream_fallback: str = "restart"
    """What a run does after a stream that broke: `restart` answers again, `continue` continues the text."""
    others: tuple[Candidate, ...] = ()
    """Backends that are called only if they are asked for by name."""


RETRIES_BY_CAUSE: Mapping[Cause, int] = {
    Cause.THREAD_MISSING: 1,  # the thread was created again: if it is missing again, it will not stay
    Cause.CONTEXT_TOO_LONG: 1,  # the retry is answered outside the thread, from a window of memory
    Cause.FILE_MISSING: 1,  # the retry has a text in its place
    Cause.CONTENT_FILTERED: 1,  # likewise, if an image is unusable; otherwise there is no retry
    Cause.TIMED_OUT: 1,  # each takes the time of a whole attempt
    Cause.EXPIRED: 1,
}
"""Maximum retries on one backend by cause, for causes that allow fewer retries than the policy."""


class Pace:
    """Decide on retries, pauses and skipped backends in one exchange, by its deadline and the failures so far."""

    def __init__(
        self,
        policy: Policy,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
        health: Health | None = None,
    ) -> None:
        """Start the clock of an exchange.

        Args:
            clock: returns seconds; the deadline counts from now.
            health: knows which backends are cooling down, and learns how each call ended; None: no backend is skipped.
        """
        self._policy = policy
        self._random = random
        self._clock = clock
        self._health = health
        self._until = clock() + policy.deadline_seconds
        self._out_of_time = False
        self._reason = ""

    def attempt_seconds(self, candidate: Candidate) -> float:
        """Return the time limit of an attempt that starts now: the backend's limit, or the time until the deadline."""
        return min(candidate.timeout_seconds or self._policy.timeout_seconds, self._left())

    def has_no_time(self, after: float = 0.0) -> bool:
        """Return whether too little time is left for another attempt after a pause of some seconds."""
        needed = min(ATTEMPT_SECONDS_MIN, self._policy.deadline_seconds / 2)
        self._out_of_time = self._left() - after <= needed
        return self._out_of_time

    def refusal(self, candidate: Candidate, later: Sequence[Candidate]) -> Failure | None:
        """Return the refusal of a backend that is cooling down, so that it is skipped.

        None if it may be called, or if every later backend is cooling down too.
        """
        if self._health is None:
            return None
        at = self._health.now()
        cooling = self._health.enter(candidate.backend, at, self.attempt_seconds(candidate))
        is_last_resort = all(self._health.cooling(each.backend, at) is not None for each in later)
        return None if is_last_resort or cooling is None else cooling.refusal()

    def record_end(self, candidate: Candidate, failure: Failure | None) -> None:
        """Record how a call ended; `failure` is None if the backend answered."""
        if self._health is not None:
            self._health.saw(candidate.backend, failure, self._health.now())

    def give_up(self, failure: Failure) -> None:
        """Record why a backend was given up."""
        self._reason = reason_of(failure)

    def pause_before_retry(
        self, candidate: Candidate, later: Sequence[Candidate], failure: Failure, failed: Counter[Cause]
    ) -> float | None:
        """Return the seconds to wait before the same backend is tried again; None if it is given up.

        `failed` counts the failures of this backend in this exchange by cause, the last one included.
        """
        self.give_up(failure)
        retries = candidate.retries if candidate.retries is not None else self._policy.retries
        if not may_be_retried(failure, failed, retries) or self.refusal(candidate, later) is not None:
            return None
        pause = pause_before_retry(failed.total(), failure, self._random)
        if (later and pause > WAIT_BEFORE_FALLBACK_SECONDS) or self.has_no_time(after=pause):
            return None
        return pause

    def reason_to_abandon(self) -> str:
        """Return why no backend answered."""
        if not self._policy.candidates:
            return "no backend is configured"
        late = f"too little time is left before the deadline of {self._policy.deadline_seconds:g} seconds"
        reasons = [late if self._out_of_time else "", self._reason]
        return ": ".join(filter(None, reasons))[:REASON_CHARS_MAX]

    def _left(self) -> float:
        return self._until - self._clock()


def reason_of(failure: Failure) -> str:
    """Return why a backend was given up: the cause and the facts, in one line."""
    cause, facts = diagnose(failure).value, failure.summary()
    return (facts if facts.split(":", 1)[0] == cause else f"{cause}: {facts}")[:REASON_CHARS_MAX]


def may_be_retried(failure: Failure, failed: Counter[Cause], retries: int) -> bool:
    """Return whether a backend may be tried once more after these failures, the last one included."""
    cause = diagnose(failure)
    has_one_left = failed.total() <= retries and failed[cause] <= RETRIES_BY_CAUSE.get(cause, retries)
    return has_one_left and (is_worth_a_retry(failure) or _can_be_avoided(failure))


def _can_be_avoided(failure: Failure) -> bool:
    """Return whether the next run is given something else: another thread, a window, or no missing file."""
    from ..memory import MISSING_FILES, UPLOADS_GONE
    from .left_threads import reason_to_leave

    return reason_to_leave(failure) is not None or not failure.details.keys().isdisjoint({MISSING_FILES, UPLOADS_GONE})
