"""Represent the recorded runs of an exchange, and infer the policy that made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from .diagnosis import BACKEND_UNWELL, diagnose
from .exchange import may_be_retried, pause_before_retry
from .failures import Cause, Failure
from .health import tells
from .limits import BREAKER_FAILURES, WAIT_BEFORE_FALLBACK_SECONDS
from .messages import ToolCall

RETRIES_TRIED_MAX = 20
"""Maximum number of retries of one backend that settings allow."""


@dataclass(frozen=True)
class RecordedRun:
    """Describe one run: the tools that its model requested in each round, and its answer or failure."""

    run_id: str
    backend: str
    model: str
    memory_hash: str | None
    rounds: tuple[tuple[ToolCall, ...], ...] = ()
    answer: str | None = None
    finish_reason: str | None = None
    thread_id: str | None = None
    failure: Failure | None = None

    @property
    def cause(self) -> Cause | None:
        """Return the cause of its failure, or None if it answered."""
        return diagnose(self.failure) if self.failure is not None else None

    @property
    def was_passed_over(self) -> bool:
        """Return whether its backend was cooling down and was not called."""
        return self.failure is not None and "failures_in_a_row" in self.failure.details


def policy_of(runs: Sequence[RecordedRun], retries: int) -> tuple[int, dict[str, int]]:
    """Return the retries with which the policy would have made these runs, and the earlier failures of each backend.

    Earlier failures are inferred for a backend that was given up before its retries were used up, or was not called at
    all.
    """
    given_up = {tried: list(_given_up_early(runs, tried)) for tried in (retries, *range(RETRIES_TRIED_MAX + 1))}
    wrong = {tried: len(early) + _retried_too_often(runs, tried) for tried, early in given_up.items()}
    best = min(wrong, key=lambda tried: wrong[tried])
    unwell = {backend: max(BREAKER_FAILURES - met, 0) for backend, met in given_up[best]}
    return best, unwell | {run.backend: BREAKER_FAILURES for run in runs if run.was_passed_over}


def _given_up_early(runs: Sequence[RecordedRun], retries: int) -> Iterator[tuple[str, int]]:
    """Yield (backend, its consecutive failures in this exchange) where a retry was left and was not made."""
    for backend, failures, followed in _failures(runs):
        if not followed and _would_retry(runs, backend, failures, retries):
            unwell = [diagnose(each) in BACKEND_UNWELL and tells(each) for each in failures]
            yield backend, unwell[::-1].index(False) if False in unwell else len(unwell)


def _retried_too_often(runs: Sequence[RecordedRun], retries: int) -> int:
    return sum(
        followed and not _would_retry(runs, backend, failures, retries)
        for backend, failures, followed in _failures(runs)
    )


def _failures(runs: Sequence[RecordedRun]) -> Iterator[tuple[str, list[Failure], bool]]:
    """Yield (backend, its failures up to one of them, whether it was called again after that)."""
    met: dict[str, list[Failure]] = {}
    for run, following in pairwise([*runs, None]):
        if run is not None and run.failure is not None and not run.was_passed_over:
            met[run.backend] = [*met.get(run.backend, []), run.failure]
            yield run.backend, met[run.backend], following is not None and following.backend == run.backend


def _would_retry(runs: Sequence[RecordedRun], backend: str, failures: Sequence[Failure], retries: int) -> bool:
    failed = Counter(diagnose(each) for each in failures)
    pause = pause_before_retry(len(failures), failures[-1], Random(0))  # noqa: S311 - jitter, not a secret
    is_last = backend == runs[-1].backend
    return may_be_retried(failures[-1], failed, retries) and (is_last or pause <= WAIT_BEFORE_FALLBACK_SECONDS)
