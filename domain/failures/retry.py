"""Decide whether a failed request is worth a retry, and how long to wait before it."""

from __future__ import annotations

from random import Random

from ..limits import (
    BACKOFF_FIRST_SECONDS,
    BACKOFF_MAX_SECONDS,
    RETRY_AFTER_MAX_SECONDS,
)
from .diagnosis import diagnose, may_succeed_when_retried
from .failure import Cause, Failure


def pause_before_retry(attempt: int, failure: Failure, random: Random) -> float:
    """Return the seconds to wait: what the provider asked for, or doubling from half a second with jitter."""
    if failure.retry_after_seconds is not None:
        return max(failure.retry_after_seconds, 0.0)
    if diagnose(failure) in {Cause.THREAD_MISSING, Cause.CONTEXT_TOO_LONG, Cause.FILE_MISSING}:
        return 0.0  # the retry uses another thread, or none, or no file
    ceiling = min(BACKOFF_FIRST_SECONDS * 2 ** (attempt - 1), BACKOFF_MAX_SECONDS)
    return random.uniform(ceiling / 2, ceiling)


def is_worth_a_retry(failure: Failure) -> bool:
    """Return whether the same request can have another result, soon enough to wait for it."""
    soon_enough = (failure.retry_after_seconds or 0) <= RETRY_AFTER_MAX_SECONDS
    return may_succeed_when_retried(diagnose(failure)) and soon_enough and not _has_wrong_address(failure)


def _has_wrong_address(failure: Failure) -> bool:
    """Return whether another server than the API answered: a redirect, or a 4xx that says nothing about the request."""
    answered = 300 <= (failure.http_status or 0) < 500
    return failure.code == "redirect_refused" or (answered and diagnose(failure) is Cause.NETWORK)
