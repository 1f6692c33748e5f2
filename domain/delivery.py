"""Bring a thread up to the journal: what it lacks is sent in order; after a write whose answer never came, the thread is
read before anything is sent again."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from .diagnosis import diagnose
from .errors import ProviderRefused
from .exchange import is_worth_a_retry, pause_before_retry
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
    sent: int | None = None
    left = len(journal) + 1
    attempt = 0
    while True:
        try:
            missing = lacking(journal, held if held is not None else mirror.read(thread_id))
            held = None
            sent = len(missing) if sent is None else sent
            attempt = 0 if len(missing) < left else attempt
            left = len(missing)
            if missing:
                mirror.add(thread_id, missing)
            return sent
        except ProviderRefused as refused:
            attempt += 1
            lost = diagnose(refused.failure) is Cause.THREAD_MISSING
            if lost or attempt >= DELIVERY_ATTEMPTS_MAX or not is_worth_a_retry(refused.failure):
                raise
            wait(pause_before_retry(attempt, refused.failure, Random()))  # noqa: S311 - jitter, not a secret


def lacking(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> list[ThreadItem]:
    """The journal's items that the thread does not hold, in order; each copy in the thread stands for one in the journal.

    Order is not asked: what stands in the thread in another place is not sent a second time (`compare` tells the drift).
    """
    held = Counter(thread)
    missing = []
    for item in journal:
        if held[item] > 0:
            held[item] -= 1
        else:
            missing.append(item)
    return missing
