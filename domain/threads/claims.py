"""Claim a thread for writing, and bring a claimed thread up to date with the journal.

Loaded when a thread is read or written: a conversation without threads needs none of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..conversation import stream_of
from ..conversation.messages import Message, Role
from ..effects import Effect, Effects, Pause, attended, work
from ..errors import ProviderRefused
from ..failures import Cause, Failure, diagnose, is_worth_a_retry
from ..ids import new_id, now, to_iso
from ..limits import CLAIM_STEP_SECONDS_MAX
from .delivery import CATCH_UP_ATTEMPTS_MAX, Delivered, bring_up, is_uncertain, lacking, sent_again
from .doubts import Doubt, recent_doubts
from .mirror import MirrorHead
from .thread import ThreadItem

if TYPE_CHECKING:
    from .linked_thread import LinkedThread
    from .mirror import MirrorHeads
    from .outbox import DecideRepair
    from .view import ThreadView

CLAIM_ATTEMPTS_MAX = 25
CLAIM_WAIT_SECONDS = 0.2
"""Pause between the `CLAIM_ATTEMPTS_MAX` attempts to claim a thread that another process is writing to, in seconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class PreparedThread:
    """Hold a thread that is claimed for a run: its version, its missing items, and the unconfirmed writes to it."""

    key: str
    mirror: str
    """Name of the mirror."""
    exchange_id: str
    """Exchange of the run; it is the holder of the claim."""
    run_id: str
    thread_id: str
    thread_version: int = 0
    """Journal version that the thread contains once the unsent items have been delivered."""
    unsent: Sequence[ThreadItem] = ()
    """Items that are missing from the thread, for a backend that sends them as input."""
    found: Sequence[ThreadItem] = ()
    """Output that an earlier run of the exchange left in the thread although its response was lost."""
    doubts: Sequence[Doubt] = ()
    """Unconfirmed writes to the thread, which may still arrive."""
    tool_results: Sequence[Message] = ()
    """Results of the tools that the run called last."""

    def after_tools(self, messages: Sequence[Message]) -> PreparedThread:
        """Return the thread after the run journaled tool calls and results: they are the input of its next request."""
        return replace(self, tool_results=[message for message in messages if message.role is Role.TOOL])

    def release(self, heads: MirrorHeads, uncertain: bool = False) -> None:
        """Release the thread; the next writer reads it and finds any output of the failed run.

        With `uncertain`, the run may still write to the thread: its input is recorded as an unconfirmed write.
        """
        doubts = recent_doubts(self.doubts)
        if uncertain:
            asked = Doubt.of(self.last_input(), to_iso(now()), asked=True)
            doubts += (replace(asked, exchange_id=self.exchange_id, run_id=self.run_id),)
        heads.release(stream_of(self.key), self.mirror, self.exchange_id, doubts)

    def settle(self, heads: MirrorHeads, version: int) -> None:
        """Record that the thread is complete up to a version; drop the unconfirmed writes that were found there."""
        found = self.exchange_id if self.found else None
        doubts = recent_doubts(self.doubts)
        doubts = tuple(doubt for doubt in doubts if not (doubt.asked and doubt.exchange_id == found))
        head = MirrorHead(self.thread_id, version, settled=True, doubts=doubts)
        heads.put(stream_of(self.key), self.mirror, head, self.exchange_id)

    def last_input(self) -> Sequence[ThreadItem]:
        """Return the input items of the run's latest request, if the request itself carried them.

        After tool calls these are the tool results; before, the journal items that the thread was missing.
        """
        if self.tool_results and (self.unsent or self.found):
            return [ThreadItem("tool_result", "", each.text, each.tool_call_id or "") for each in self.tool_results]
        return self.unsent


class ThreadClaim:
    """Hold a thread for writing, so that no other process of this ledger writes to it meanwhile."""

    def __init__(
        self, heads: MirrorHeads, thread: LinkedThread, holder: str | None = None, seconds: float | None = None
    ) -> None:
        """Create a claim that is not taken yet.

        Args:
            holder: id of the exchange that a run answers; None for a new id.
            seconds: time that one step of the holder may take; None: `CLAIM_STEP_SECONDS_MAX`. If the holder's process
                ends, the claim is over much sooner.
        """
        self.thread = thread
        """The thread, with the journal of its conversation."""
        self._heads = heads
        self._holder = holder or new_id()
        self._seconds = CLAIM_STEP_SECONDS_MAX if seconds is None else seconds
        self._stream = stream_of(thread.key)
        self._name = thread.mirror.name
        self.doubts: Sequence[Doubt] = ()
        """Latest known list of unconfirmed writes to the thread."""

    def acquire(self) -> Effects[MirrorHead]:
        """Take the claim, waiting while another process writes to the thread; return the thread's head.

        Raises:
            ProviderRefused: another process holds the thread for too long.
        """
        for _ in range(CLAIM_ATTEMPTS_MAX):
            head = yield from work(self.take)
            if head is not None:
                return head
            yield Pause(CLAIM_WAIT_SECONDS)
        by = yield from work(lambda: self._heads.holder(self._stream, self._name))
        message = "another process is writing to the thread" + (f": {by}" if by else "")
        thread_id = self.thread.thread_id
        raise ProviderRefused(Failure("error", code="conversation_locked", message=message, thread_id=thread_id))

    def take(self) -> MirrorHead | None:
        """Take the claim and return the thread's head, or None while another claim is valid."""
        head = self._taken()
        if head is not None:
            self.doubts = head.doubts
        return head

    def keep(self, effects: Effects[T]) -> Effects[T]:
        """Run effects that write to the thread, renewing the claim meanwhile; release it if they raise."""
        renewed_at = time.monotonic()

        def renew(effect: Effect) -> Effects[None]:
            nonlocal renewed_at
            if time.monotonic() - renewed_at > self._seconds / 10:
                renewed_at = time.monotonic()
                yield from work(self._taken)

        try:
            return (yield from attended(effects, renew))
        except BaseException:
            left = recent_doubts(self.doubts)
            yield from work(partial(self._heads.release, self._stream, self._name, self._holder, left))
            raise

    def note(self, doubts: Sequence[Doubt]) -> None:
        """Keep the latest list of unconfirmed writes, for a release."""
        self.doubts = tuple(doubts)

    def settle(self, head: MirrorHead) -> None:
        """Store the thread's new head and release the thread."""
        self._heads.put(self._stream, self._name, head, self._holder)

    def _taken(self) -> MirrorHead | None:
        """Take or renew the claim.

        If the previous holder never released the thread and its last run there failed, the input of that run is
        recorded as an unconfirmed write.
        """
        thread, journal, key = self.thread, self.thread.journal, self.thread.key
        until = now() + timedelta(seconds=self._seconds)
        given_up = journal.require(key).state.abandoned.keys()  # their holders lose the claim
        head = self._heads.claim(self._stream, self._name, thread.thread_id, self._holder, until, given_up)
        if head is None or head.left_by is None:
            return head
        left = journal.exchanges(key).by_id.get(head.left_by)
        in_thread = [run for run in left.runs if not run.apart and not run.shadow] if left is not None else []
        ended = [run for run in in_thread if run.state != "open"]
        if left is None or not ended or ended[-1].completed:
            return head
        asked = {each.version for each in journal.memory(key).messages if each.exchange_id == left.exchange_id}
        doubt = Doubt.of([item for item in thread.items().items if item.version in asked], to_iso(now()), asked=True)
        doubt = replace(doubt, exchange_id=left.exchange_id, run_id=ended[-1].run_id)
        return replace(head, settled=False, doubts=(*head.doubts, doubt))


def complete(
    prepared: PreparedThread, claim: ThreadClaim, head: MirrorHead, takes_unsent: bool
) -> Effects[PreparedThread]:
    """Return the thread once it is complete, or with the missing items for the backend to send."""
    thread = claim.thread
    if not takes_unsent and not any(doubt.asked for doubt in head.doubts):
        sent = yield from send_missing(claim, head)
        return replace(prepared, thread_version=sent.version, doubts=sent.doubts)
    if head.settled and not head.doubts:
        newer = yield from work(partial(thread.newer_items, head))
        return replace(prepared, thread_version=newer.version, unsent=newer.items)
    read = yield from thread.read_back(head, claim.note, prepared.exchange_id)
    prepared = replace(prepared, thread_version=read.view.version, doubts=read.doubts, found=read.found)
    if read.found:
        return replace(prepared, thread_version=(yield from work(partial(thread.version_with_found, read))))
    if takes_unsent:
        unsent = lacking(read.journal, read.thread)
        return replace(prepared, unsent=unsent, doubts=sent_again(read.doubts, unsent))
    delivered = yield from bring_up(
        thread.mirror, thread.thread_id, read.journal, read.thread, read.doubts, note=claim.note
    )
    yield from work(partial(thread.record_deleted, read.view.version, delivered.deleted))
    return replace(prepared, doubts=delivered.doubts)


def send_missing(claim: ThreadClaim, head: MirrorHead) -> Effects[MirrorHead]:
    """Send missing items, and return the thread's new head."""
    thread = claim.thread
    if head.settled and not head.doubts:
        newer = yield from work(partial(thread.newer_items, head))
        if (yield from _send(claim, newer.items)):
            return replace(head, version=newer.version, settled=newer.is_exact(), left_by=None)
        head = replace(head, settled=False, doubts=tuple(claim.doubts))
    read = yield from thread.read_back(head, claim.note)
    delivered = yield from bring_up(
        thread.mirror,
        thread.thread_id,
        read.journal,
        read.thread,
        read.doubts,
        unclean=head.left_by is not None,
        attempts_max=CATCH_UP_ATTEMPTS_MAX,
        note=claim.note,
    )
    yield from work(partial(thread.record_deleted, read.view.version, delivered.deleted))
    yield from work(partial(thread.note_compared, read, delivered))
    return _written(thread, read.view, read.thread, delivered.doubts)


def _written(thread: LinkedThread, view: ThreadView, held: Sequence[ThreadItem], doubts: Sequence[Doubt]) -> MirrorHead:
    """Return the head of a thread with these entries, after the missing items were sent."""
    return MirrorHead(thread.thread_id, view.version, settled=view.is_exact(held), doubts=recent_doubts(doubts))


def _send(claim: ThreadClaim, items: Sequence[ThreadItem]) -> Effects[bool]:
    """Send items to a thread that is known to hold all earlier ones, and return whether every item was acknowledged.

    If not, the thread must be read before the next write. A batch whose result is unknown becomes an unconfirmed write.

    Raises:
        ProviderRefused: the provider rejected a batch in a way that a retry cannot fix, or the thread is missing.
    """
    mirror, thread_id = claim.thread.mirror, claim.thread.thread_id
    for start in range(0, len(items), mirror.batch):
        batch = items[start : start + mirror.batch]
        try:
            yield from mirror.add(thread_id, batch)
        except ProviderRefused as refused:
            if is_uncertain(refused.failure):
                claim.note((Doubt.of(batch, to_iso(now()), whole=True),))
            elif not is_worth_a_retry(refused.failure) or diagnose(refused.failure) is Cause.THREAD_MISSING:
                raise
            return False
        except BaseException:
            claim.note((Doubt.of(batch, to_iso(now()), whole=True),))
            raise
    return True


def reconcile(
    claim: ThreadClaim, head: MirrorHead, decide: DecideRepair
) -> Effects[tuple[Delivered, MirrorHead | None]]:
    """Return the delivery and the thread's new head, which is None if the callback stops the delivery."""
    thread = claim.thread
    read = yield from thread.read_back(head, claim.note, quiet=True)
    if not (yield from decide(read.thread)):
        return Delivered(0, tuple(read.deleted), tuple(read.doubts)), None
    view = yield from work(thread.items)
    unclean = head.left_by is not None
    delivered = yield from bring_up(
        thread.mirror, thread.thread_id, view.items, read.thread, read.doubts, unclean=unclean, note=claim.note
    )
    yield from work(partial(thread.record_deleted, view.version, delivered.deleted))
    written = _written(thread, view, read.thread, delivered.doubts)
    return replace(delivered, deleted=(*read.deleted, *delivered.deleted)), written
