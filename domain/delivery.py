"""Bring a thread up to the journal: what it lacks is sent in order; after a write whose answer never came, the thread is
read before anything is sent again."""

from collections.abc import Callable, Sequence
from random import Random

from .diagnosis import diagnose, may_succeed_when_retried
from .errors import ProviderRefused
from .exchange import pause_before_retry
from .failures import Cause
from .ports import ThreadMirror
from .threads import ThreadItem

DELIVERY_ATTEMPTS_MAX = 6
"""How often one delivery is taken up again without getting any further."""


def bring_up(
    mirror: ThreadMirror,
    thread_id: str,
    journal: Sequence[ThreadItem],
    wait: Callable[[float], None],
    held: Sequence[ThreadItem] | None = None,
) -> int:
    """Send what the thread lacks of the journal; `held` is what it is known to hold, else it is read first.

    Returns:
        How many items were sent and acknowledged, or found on reading back.

    Raises:
        ProviderRefused: the provider refuses for good, or gives no way forward after `DELIVERY_ATTEMPTS_MAX` attempts.
    """
    began: int | None = None
    position = -1
    attempt = 0
    while True:
        try:
            known = held if held is not None else mirror.read(thread_id)
            held = None
            reached = matched(journal, known)
            attempt = 0 if reached > position else attempt
            position = reached
            began = reached if began is None else began
            if position < len(journal):
                mirror.add(thread_id, journal[position:])
            return len(journal) - began
        except ProviderRefused as refused:
            attempt += 1
            cause = diagnose(refused.failure)
            lost = cause is Cause.THREAD_MISSING
            if lost or attempt >= DELIVERY_ATTEMPTS_MAX or not may_succeed_when_retried(cause):
                raise
            wait(pause_before_retry(attempt, refused.failure, Random()))  # noqa: S311 - jitter, not a secret


def matched(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> int:
    """How many of the journal's items, from the first on, stand in the thread in order. Foreign entries are passed over."""
    found = 0
    for item in thread:
        if found < len(journal) and item == journal[found]:
            found += 1
    return found
