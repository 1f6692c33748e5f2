"""Record that the provider of a thread refused or could not be reached, and say when it may be tried again."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..errors import ProviderRefused
from ..failures import Cause, Failure, diagnose
from ..ids import now
from ..limits import BACKOFF_MAX_SECONDS

if TYPE_CHECKING:
    from ..journal import Journal
    from .mirror import ThreadMirror

logger = logging.getLogger("threadledger.threads")


def end_of_limit(failure: Failure) -> datetime | None:
    """Return when a provider that has refused more calls may be called again; None for another failure."""
    if diagnose(failure) is not Cause.RATE_LIMITED:
        return None
    return now() + timedelta(seconds=failure.retry_after_seconds or BACKOFF_MAX_SECONDS)


def record_unreached(journal: Journal, key: str, mirror: ThreadMirror, refused: ProviderRefused) -> None:
    """Log that a thread is not up to date, and record it as lost if the provider no longer has it."""
    cause = diagnose(refused.failure)
    lost = refused.failure.thread_id
    if lost is not None and cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
        journal.commit(key, lambda it: it.lose_thread(mirror.name, lost, cause.value))
    logger.warning("%s thread of %r is not up to date: %s (%s)", mirror.name, key, cause.value, refused)
