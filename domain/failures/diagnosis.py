"""Find the cause of a failure: `rules.py` has the table, `advice.py` says what to do about each cause."""

from __future__ import annotations

from .failure import Cause, Failure

DIAGNOSIS_VERSION = 4
"""Version of the table. Increment it with every change, to rebuild the views that store causes. A test checks this."""


def diagnose(failure: Failure) -> Cause:
    """Return the cause of a failure; `Cause.UNKNOWN` if no rule matches."""
    from .rules import RULES  # loaded at the first failure: a question that is answered does not need the table

    return next((cause for cause, matches in RULES if matches(failure)), Cause.UNKNOWN)


def may_succeed_when_retried(cause: Cause) -> bool:
    """Return whether the same request to the same backend may succeed on a retry."""
    return cause in RETRYABLE


RETRYABLE = frozenset(
    {
        Cause.RATE_LIMITED,
        Cause.PROVIDER_ERROR,
        Cause.THREAD_MISSING,  # the retry creates a new thread and fills it from the journal first
        Cause.THREAD_BUSY,
        Cause.TIMED_OUT,
        Cause.NETWORK,
        Cause.EXPIRED,
        Cause.INTERRUPTED,
    }
)

BACKEND_UNWELL = frozenset(
    {
        Cause.PROVIDER_ERROR,
        Cause.PROVIDER_GONE,
        Cause.TIMED_OUT,
        Cause.NETWORK,
        Cause.RATE_LIMITED,
        Cause.QUOTA_EXHAUSTED,
        Cause.AUTHENTICATION,
        Cause.PERMISSION,
        Cause.EXPIRED,
        Cause.MODEL_UNAVAILABLE,
    }
)
"""Causes that lie with the backend, not with the question: the next question is likely to fail for them too."""
