"""An exchange as a policy without I/O: a generator that yields steps and is sent what came of them.

    StartRun → CallBackend → CompleteRun                      answered
                           → FailRun → Wait → StartRun        the same backend again: a retry
                                     → StartRun               the next backend: a fallback
                                     → Abandon                nobody is left, or no time
    StartRun → FailRun → StartRun                             passed over: the backend is cooling down

A driver performs the steps (`asking.py`). What is decided here is decided once, for every driver.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ..conversation import Completion
from ..failures import (
    Cause,
    Cooling,
    Failure,
    Health,
    diagnose,
    is_worth_a_retry,
    pause_before_retry,
)
from ..limits import (
    ATTEMPT_SECONDS_MIN,
    BACKEND_TIMEOUT_SECONDS,
    EXCHANGE_DEADLINE_SECONDS,
    REASON_CHARS_MAX,
    RETRIES_DEFAULT,
    WAIT_BEFORE_FALLBACK_SECONDS,
)


@dataclass(frozen=True)
class Candidate:
    """A backend that may answer, with the model it is asked to use."""

    backend: str
    model: str


@dataclass(frozen=True)
class Policy:
    """Who is asked, in which order, how often, and for how long."""

    candidates: tuple[Candidate, ...] = ()
    retries: int = RETRIES_DEFAULT
    timeout_seconds: float = BACKEND_TIMEOUT_SECONDS
    """One attempt's limit."""
    memory_last: int | None = None
    memory_tokens: int | None = None
    deadline_seconds: float = EXCHANGE_DEADLINE_SECONDS
    """The limit of all attempts and pauses together."""
    while_running: str = "reject"
    """What a second question does while a run is open: `reject`, `queue` or `interrupt`. For the driver."""


@dataclass(frozen=True)
class StartRun:
    """Record that a backend is about to be asked. Sent back: the run's id.

    `timeout_seconds` is this attempt's limit: the policy's, or what is left of the exchange's deadline.
    """

    candidate: Candidate
    attempt: int
    fallback_reason: str = ""
    timeout_seconds: float = BACKEND_TIMEOUT_SECONDS


@dataclass(frozen=True)
class CallBackend:
    """Ask. Sent back: a `Completion`, or a `Failure`."""

    run_id: str
    candidate: Candidate


@dataclass(frozen=True)
class CompleteRun:
    """Record the answer. Sent back: anything; it ends the exchange's generator as its value."""

    run_id: str
    completion: Completion
    candidate: Candidate
    fallback: bool


@dataclass(frozen=True)
class FailRun:
    """Record the failure. Without a `CallBackend` before it, the backend was not asked at all."""

    run_id: str
    failure: Failure
    candidate: Candidate


@dataclass(frozen=True)
class Wait:
    """Let time pass before the next attempt."""

    seconds: float


@dataclass(frozen=True)
class Abandon:
    """Record that nobody answered."""

    reason: str


Step = StartRun | CallBackend | CompleteRun | FailRun | Wait | Abandon


RETRIES_BY_CAUSE: Mapping[Cause, int] = {
    Cause.THREAD_MISSING: 1,  # it was made anew: missing again, it will not stay
    Cause.TIMED_OUT: 1,  # each takes a whole attempt's time
    Cause.EXPIRED: 1,
}
"""Retries of one backend after failures of one cause, where they are fewer than the policy allows."""


def exchange(
    policy: Policy, random: Random, clock: Callable[[], float] = time.monotonic, health: Health | None = None
) -> Generator[Step, Any, Any]:
    """The steps of one exchange. Its value is what was sent back for `CompleteRun`, or None where nobody answered.

    `clock` tells seconds; the exchange's deadline counts from the first step. `health` knows which backends are cooling
    down, and is told what came of each call; without it none is passed over.
    """
    under_way = _UnderWay(policy, random, clock, health)
    for number, candidate in enumerate(policy.candidates, 1):
        if under_way.has_no_time():
            break
        later = policy.candidates[number:]
        cooling = under_way.passes_over(candidate, later)
        if cooling is not None:
            yield from under_way.pass_over(candidate, cooling)
            continue
        answered = yield from under_way.ask(candidate, later)
        if answered is not None:
            return (yield answered)
    yield Abandon(under_way.reason_to_abandon())
    return None


class _UnderWay:
    """One exchange under way: what is left of its time, and why the last backend was given up."""

    def __init__(self, policy: Policy, random: Random, clock: Callable[[], float], health: Health | None) -> None:
        self._policy = policy
        self._random = random
        self._clock = clock
        self._health = health
        self._until = clock() + policy.deadline_seconds
        self._reason = ""
        self._out_of_time = False

    def ask(self, candidate: Candidate, later: Sequence[Candidate]) -> Generator[Step, Any, CompleteRun | None]:
        """Ask one backend until it answers or is given up. The value is the step that completes the run."""
        failed: Counter[Cause] = Counter()
        while True:
            run_id = yield self._start(candidate, failed.total() + 1)
            outcome = yield CallBackend(run_id, candidate)
            answered = isinstance(outcome, Completion)
            if self._health is not None:
                self._health.saw(candidate.backend, None if answered else outcome, self._health.now())
            if answered:
                return CompleteRun(run_id, outcome, candidate, candidate.backend != self._policy.candidates[0].backend)
            yield FailRun(run_id, outcome, candidate)
            self._reason = reason_of(outcome)
            failed[diagnose(outcome)] += 1
            if not may_be_retried(outcome, failed, self._policy.retries) or self.passes_over(candidate, later):
                return None
            pause = pause_before_retry(failed.total(), outcome, self._random)
            if (later and pause > WAIT_BEFORE_FALLBACK_SECONDS) or self.has_no_time(after=pause):
                return None
            yield Wait(pause)
            if self.has_no_time():  # the pause took longer than it should have
                return None

    def passes_over(self, candidate: Candidate, later: Sequence[Candidate]) -> Cooling | None:
        """The cooldown for which a backend is passed over: only while a later one is not cooling down itself."""
        if self._health is None:
            return None
        at = self._health.now()
        cooling = self._health.enter(candidate.backend, at, self._attempt_seconds())
        is_last_resort = all(self._health.cooling(each.backend, at) is not None for each in later)
        return None if is_last_resort else cooling

    def pass_over(self, candidate: Candidate, cooling: Cooling) -> Generator[Step, Any, None]:
        """Record that a backend was not asked: a run that is refused, and costs nothing."""
        refusal = cooling.refusal()
        run_id = yield self._start(candidate, 1)
        yield FailRun(run_id, refusal, candidate)
        self._reason = reason_of(refusal)

    def has_no_time(self, after: float = 0.0) -> bool:
        """Whether too little is left for another attempt after a pause of some seconds; remembered as why we stop."""
        needed = min(ATTEMPT_SECONDS_MIN, self._policy.deadline_seconds / 2)
        self._out_of_time = self._left() - after <= needed
        return self._out_of_time

    def reason_to_abandon(self) -> str:
        """Why nobody answered."""
        if not self._policy.candidates:
            return "no backend is set"
        late = f"too little time is left before the deadline of {self._policy.deadline_seconds:g} seconds"
        reasons = [late if self._out_of_time else "", self._reason]
        return ": ".join(filter(None, reasons))[:REASON_CHARS_MAX]

    def _start(self, candidate: Candidate, attempt: int) -> StartRun:
        return StartRun(candidate, attempt, self._reason if attempt == 1 else "", self._attempt_seconds())

    def _attempt_seconds(self) -> float:
        return min(self._policy.timeout_seconds, self._left())

    def _left(self) -> float:
        return self._until - self._clock()


def reason_of(failure: Failure) -> str:
    """Why a backend was given up: the cause and the facts, in one line."""
    cause, facts = diagnose(failure).value, failure.summary()
    return (facts if facts.split(":", 1)[0] == cause else f"{cause}: {facts}")[:REASON_CHARS_MAX]


def may_be_retried(failure: Failure, failed: Counter[Cause], retries: int) -> bool:
    """Whether one more attempt is left after these failures of a backend, the last one included, and is worth it."""
    cause = diagnose(failure)
    has_one_left = failed.total() <= retries and failed[cause] <= RETRIES_BY_CAUSE.get(cause, retries)
    return has_one_left and is_worth_a_retry(failure)
