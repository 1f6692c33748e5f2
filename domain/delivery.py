"""Bring a thread up to the journal: what it lacks is sent in order; after a write whose answer never came, the thread is
read before anything is sent again, and once more afterwards: such a write may still land.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from .diagnosis import diagnose
from .effects import Effects, Pause
from .errors import ProviderRefused
from .exchange import is_worth_a_retry, pause_before_retry
from .failures import Cause, Failure
from .ids import now, to_iso
from .late_copies import Doubt, open_doubts, surplus
from .ports import ThreadMirror
from .threads import ThreadItem, digest

DELIVERY_ATTEMPTS_MAX = 6
"""How often one delivery is tried without getting any further, where somebody waits for the whole thread (rebuild)."""

CATCH_UP_ATTEMPTS_MAX = 2
"""The same where a message was journaled and nobody waits for the thread: what is lacking goes with the next one."""

LEFT_IN_THREAD = "left_in_thread"
"""The key of a failure's details under which a backend says that its run wrote to the thread, and that it stands there."""

T = TypeVar("T")

Note = Callable[[Sequence[Doubt]], None]

NOT_SHOWN = "the thread does not show what was written to it"

NEVER_SENT = frozenset({"tool_failed", "missing_credentials", "conversation_locked"})
"""Codes of failures that came up here, with no request under way."""


@dataclass(frozen=True)
class Delivered:
    """What came of a delivery."""

    sent: int = 0
    """Items that were sent and acknowledged, or found on reading back."""
    deleted: tuple[str, ...] = ()
    """The provider's ids of surplus copies of ours that were taken out."""
    doubts: tuple[Doubt, ...] = ()
    """Writes that may still land."""


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
    """Send what the thread lacks of the journal; `held` is what it is known to hold, else it is read first. `doubts` are
    earlier writes whose answer never came: surplus copies that are provably theirs are taken out. `unclean` says that
    somebody stopped in the middle of writing: all that is lacking may have been sent before. `note` is told the writes that
    may still land whenever they change: it knows them even where the delivery is broken off.

    Raises:
        ProviderRefused: the provider refuses for good, or gives no way forward after `attempts_max` attempts.
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
                continue  # read once more: an earlier write may have landed meanwhile
            return Delivered(delivery.sent, tuple(delivery.deleted), tuple(delivery.doubts))
        except ProviderRefused as refused:
            attempt += 1
            lost = diagnose(refused.failure) is Cause.THREAD_MISSING
            if lost or attempt >= attempts_max or not is_worth_a_retry(refused.failure):
                raise
            yield Pause(pause_before_retry(attempt, refused.failure, Random()))  # noqa: S311 - jitter, not a secret


def retried(ask: Callable[[], Effects[T]], attempts_max: int = DELIVERY_ATTEMPTS_MAX) -> Effects[T]:
    """What may be asked again without harm, asked again where the provider could not answer: a thread read, an empty one
    made.

    Raises:
        ProviderRefused: the last refusal, once it is for good or after `attempts_max` attempts.
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
    """One delivery under way."""

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
        """What the thread lacks, after late copies of ours were taken out."""
        thread = held if held is not None else (yield from self._mirror.read(self._thread_id))
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
        # A write that is there has landed. Only one that is sent again can come twice.
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
        """One more write may still land."""
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
    """Delete late copies, the last entry first: where that is broken off, what is left is the beginning of a write, and can
    be told for ours again. `still_open` are the doubts that are left when all is deleted."""
    note([doubt if doubt in still_open else replace(doubt, whole=False) for doubt in doubts])
    yield from mirror.delete(thread_id, late[::-1])
    note(still_open)


def sent_again(doubts: Sequence[Doubt], items: Sequence[ThreadItem]) -> tuple[Doubt, ...]:
    """The doubts once these items are sent: one about any of them may come twice from now on."""
    sent = {digest([item]) for item in items}
    return tuple(
        replace(doubt, again=True) if any(item.digest in sent for item in doubt.items) else doubt for doubt in doubts
    )


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


def is_uncertain(failure: Failure) -> bool:
    """Whether a request that failed so may have been carried out all the same, or be carried out yet: its answer was lost,
    or came from something that stands before the provider."""
    if failure.status in {"timed_out", "interrupted", "cancelled"} or failure.details.get(LEFT_IN_THREAD):
        return True
    if failure.status != "error" or failure.code in NEVER_SENT:
        return False
    return failure.http_status is None or failure.http_status >= 500 or failure.http_status in {408, 409}
