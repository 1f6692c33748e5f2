"""An exchange as a policy without I/O: a generator that yields steps and is sent what came of them.

    StartRun → CallBackend → CompleteRun                      answered
                           → FailRun → Wait → StartRun        the same backend again: a retry
                                     → StartRun               the next backend: a fallback
                                     → Abandon                nobody is left

A driver performs the steps (`asking.py`). What is decided here is decided once, for every driver.
"""

from collections.abc import Generator
from dataclasses import dataclass
from random import Random
from typing import Any

from .diagnosis import diagnose, may_succeed_when_retried
from .failures import Cause, Failure
from .limits import (
    BACKEND_TIMEOUT_SECONDS,
    BACKOFF_FIRST_SECONDS,
    BACKOFF_MAX_SECONDS,
    REASON_CHARS_MAX,
    RETRIES_DEFAULT,
    RETRY_AFTER_MAX_SECONDS,
)
from .runs import Completion


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
    memory_last: int | None = None
    memory_tokens: int | None = None


@dataclass(frozen=True)
class StartRun:
    """Record that a backend is about to be asked. Sent back: the run's id."""

    candidate: Candidate
    attempt: int
    fallback_reason: str = ""


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
    """Record the failure."""

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


def exchange(policy: Policy, random: Random) -> Generator[Step, Any, Any]:
    """The steps of one exchange. Its value is what was sent back for `CompleteRun`, or None where nobody answered."""
    reason = ""
    for candidate in policy.candidates:
        for attempt in range(1, policy.retries + 2):
            run_id = yield StartRun(candidate, attempt, reason if attempt == 1 else "")
            outcome = yield CallBackend(run_id, candidate)
            if isinstance(outcome, Completion):
                fallback = candidate.backend != policy.candidates[0].backend
                return (yield CompleteRun(run_id, outcome, candidate, fallback))
            yield FailRun(run_id, outcome, candidate)
            cause = diagnose(outcome)
            reason = f"{cause.value}: {outcome.summary()}"[:REASON_CHARS_MAX]
            if attempt > policy.retries or not is_worth_a_retry(outcome):
                break
            yield Wait(pause_before_retry(attempt, outcome, random))
    yield Abandon(reason or "no backend is set")
    return None


def pause_before_retry(attempt: int, failure: Failure, random: Random) -> float:
    """Seconds to wait: what the provider asked for, or doubling from half a second with jitter."""
    if failure.retry_after_seconds is not None:
        return max(failure.retry_after_seconds, 0.0)
    if diagnose(failure) is Cause.THREAD_MISSING:
        return 0.0
    ceiling = min(BACKOFF_FIRST_SECONDS * 2 ** (attempt - 1), BACKOFF_MAX_SECONDS)
    return random.uniform(ceiling / 2, ceiling)


def is_worth_a_retry(failure: Failure) -> bool:
    """Whether the same request can have another end, and soon enough to wait for it."""
    soon_enough = (failure.retry_after_seconds or 0) <= RETRY_AFTER_MAX_SECONDS
    return may_succeed_when_retried(diagnose(failure)) and soon_enough
