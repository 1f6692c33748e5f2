"""Bring a thread up to date with the journal.

Missing items are sent in order. After a write without a response, the thread is read before anything is sent again, and
once more afterwards, because such a write may still arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from ..effects import Effects, Pause
from ..errors import ProviderRefused
from ..failures import Cause, Failure, diagnose, is_worth_a_retry, pause_before_retry
from ..ids import now, to_iso
from .doubts import Doubt
from .late_copies import open_doubts, surplus
from .mirror import ThreadMirror
from .thread import ThreadItem, digest, in_order_of

DELIVERY_ATTEMPTS_MAX = 6
"""Maximum attempts of one delivery without progress, if a caller waits for the whole thread (rebuild)."""

CATCH_UP_ATTEMPTS_MAX = 2
"""Maximum attempts of one delivery without progress, if no caller waits for the thread: the next message sends the
missing items."""

LEFT_IN_THREAD = "left_in_thread"
"""Key in a failure's details by which a backend reports that its run wrote to the thread and the entry remains
there."""

T = TypeVar("T")

Note = Callable[[Sequence[Doubt]], None]

NOT_SHOWN = "the thread does not show what was written to it"

NEVER_SENT = frozenset({"tool_failed", "missing_credentials", "conversation_locked", "redirect_refused"})
"""Codes of failures of requests that had no effect, or that occur locally while no request is in progress."""


@dataclass(frozen=True)
class Delivered:
    """Hold the result of a delivery."""

    sent: int = 0
    """Number of items that were sent and acknowledged, or found when the thread was read back."""
    deleted: tuple[str, ...] = ()
    """The provider's ids of our surplus copies that were deleted."""
    doubts: tuple[Doubt, ...] = ()
    """Unconfirmed writes, which may still arrive."""


def bring_up(
    mirror: ThreadMirror,
    thread_id: str,
    journal: Sequence[ThreadItem],
    held: Sequence[ThreadItem] | None = None,
    doubts: Sequence[Doubt] = (),
    unclean: bool = False,
    attempts_max: int = DELIVERY_ATTEMPTS_MAX,
    note: Note = lambda doubts: None,
) -> Effects[Delivered]:
    """Send the items of the journal that are missing from the thread.

    Args:
        held: the items that the thread is known to contain; if None, the thread is read first.
        doubts: earlier unconfirmed writes; surplus copies that provably come from them are deleted.
        unclean: whether a writer stopped in the middle, so that every missing item may have been sent before.
        attempts_max: maximum attempts without progress.
        note: called with the unconfirmed writes whenever they change, so that they are known after an interruption.

    Raises:
        ProviderRefused: the provider refuses permanently, or there is no progress after `attempts_max` attempts.
    """
    delivery = _Delivery(mirror, thread_id, journal, doubts, note)
    left, attempt, unseen = len(journal) + 1, 0, 0
    while True:
        try:
            missing = yield from delivery.compared(held)
            held = None
            if unclean and missing:
                delivery.doubt(Doubt.of(missing, to_iso(now())))
            unclean = False
            attempt = 0 if len(missing) < left else attempt
            left = len(missing)
            yield from delivery.send(missing)
            if missing and unseen == attempts_max:
                raise ProviderRefused(Failure("error", code="server_error", message=NOT_SHOWN, thread_id=thread_id))
            if missing and delivery.doubts:
                unseen += 1
                continue  # read again: an earlier write may have arrived in the meantime
            return Delivered(delivery.sent, tuple(delivery.deleted), tuple(delivery.doubts))
        except ProviderRefused as refused:
            attempt += 1
            lost = diagnose(refused.failure) is Cause.THREAD_MISSING
            if lost or attempt >= attempts_max or not is_worth_a_retry(refused.failure):
                raise
            yield Pause(pause_before_retry(attempt, refused.failure, Random()))  # noqa: S311 - jitter, not a secret


def retried(ask: Callable[[], Effects[T]], attempts_max: int = DELIVERY_ATTEMPTS_MAX) -> Effects[T]:
    """Retry an operation that is safe to repeat, such as reading a thread or creating an empty one.

    Raises:
        ProviderRefused: the last failure, if it is permanent or after `attempts_max` attempts.
    """
    for attempt in range(1, attempts_max + 1):
        try:
            return (yield from ask())
        except ProviderRefused as refused:
            lost = diagnose(refused.failure) is Cause.THREAD_MISSING
            if lost or attempt == attempts_max or not is_worth_a_retry(refused.failure):
                raise
            yield Pause(pause_before_retry(attempt, refused.failure, Random()))  # noqa: S311 - jitter, not a secret
    raise AssertionError("the last attempt returns or raises")


class _Delivery:
    """Hold the state of one delivery in progress."""

    def __init__(
        self,
        mirror: ThreadMirror,
        thread_id: str,
        journal: Sequence[ThreadItem],
        doubts: Sequence[Doubt],
        note: Note,
    ) -> None:
        self._mirror = mirror
        self._thread_id = thread_id
        self._journal = journal
        self._lacked: int | None = None
        self._note = note
        self.doubts: Sequence[Doubt] = doubts
        self.deleted: list[str] = []

    @property
    def sent(self) -> int:
        return self._lacked or 0

    def compared(self, held: Sequence[ThreadItem] | None) -> Effects[Sequence[ThreadItem]]:
        """Return the items that are missing from the thread, after deleting our late copies."""
        thread = held if held is not None else (yield from read_thread(self._mirror, self._thread_id, self._journal))
        if self.doubts:
            late = surplus(self._journal, thread, self.doubts)
            if late:
                still_open = open_doubts(self._journal, thread, self.doubts)
                yield from taken_out(self._mirror, self._thread_id, late, self.doubts, still_open, self._keep)
                gone = {item.item_id for item in late}
                self.deleted += [item.item_id for item in late]
                thread = [item for item in thread if item.item_id not in gone]
        missing = lacking(self._journal, thread)
        lacked = {digest([item]) for item in missing}
        # A write that is in the thread has arrived. It can appear twice only if it is sent again.
        self._keep(
            [
                doubt
                for doubt in self.doubts
                if doubt.asked or doubt.again or any(i.digest in lacked for i in doubt.items)
            ]
        )
        self._lacked = len(missing) if self._lacked is None else self._lacked
        return missing

    def send(self, missing: Sequence[ThreadItem]) -> Effects[None]:
        for start in range(0, len(missing), self._mirror.batch):
            batch = missing[start : start + self._mirror.batch]
            self._keep(sent_again(self.doubts, batch))
            try:
                yield from self._mirror.add(self._thread_id, batch)
            except BaseException as broken:
                if not isinstance(broken, ProviderRefused) or is_uncertain(broken.failure):
                    self.doubt(Doubt.of(batch, to_iso(now()), whole=True))
                raise

    def doubt(self, doubt: Doubt) -> None:
        """Record one more unconfirmed write."""
        self._keep([*self.doubts, doubt])

    def _keep(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = doubts
        self._note(doubts)


def taken_out(
    mirror: ThreadMirror,
    thread_id: str,
    late: Sequence[ThreadItem],
    doubts: Sequence[Doubt],
    still_open: Sequence[Doubt],
    note: Note,
) -> Effects[None]:
    """Delete late copies, the last entry first.

    After an interruption, the remaining copies are the beginning of a write and can still be recognized as ours.
    `still_open` are the writes that remain unconfirmed after all copies are deleted.
    """
    note([doubt if doubt in still_open else replace(doubt, whole=False) for doubt in doubts])
    yield from mirror.delete(thread_id, late[::-1])
    note(still_open)


def sent_again(doubts: Sequence[Doubt], items: Sequence[ThreadItem]) -> tuple[Doubt, ...]:
    """Return the unconfirmed writes after these items are sent: a write with any of them may now appear twice."""
    sent = {digest([item]) for item in items}
    return tuple(
        replace(doubt, again=True) if any(item.digest in sent for item in doubt.items) else doubt for doubt in doubts
    )


def lacking(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> list[ThreadItem]:
    """Return the items of the journal that are missing from the thread, in order.

    Each copy in the thread matches one item in the journal. Order is ignored: an item in another place of the thread is
    not sent again (`compare` reports that drift).
    """
    held = Counter(thread)
    missing = []
    for item in journal:
        if held[item] > 0:
            held[item] -= 1
        else:
            missing.append(item)
    return missing


def read_thread(mirror: ThreadMirror, thread_id: str, journal: Sequence[ThreadItem]) -> Effects[Sequence[ThreadItem]]:
    """Return all items of a thread, oldest first; `journal` is what it should contain."""
    return in_order_of(journal, (yield from mirror.read(thread_id)))


def is_uncertain(failure: Failure) -> bool:
    """Return whether a failed request may have been carried out, or may still be.

    Its response was lost, or came from a gateway in front of the provider.
    """
    if failure.status in {"timed_out", "interrupted", "cancelled"} or failure.details.get(LEFT_IN_THREAD):
        return True
    if failure.status != "error" or failure.code in NEVER_SENT:
        return False
    status = failure.http_status
    return status is None or status < 400 or status >= 500 or status in {408, 409}
