"""Send the journal's messages to threads (the outbox): in order, at least once, reconciled after a lost response.

The journal version that a thread contains is stored outside the event log (`MirrorHead`). While a write is in progress,
the stored state has `settled=False`. After a crash or a lost response it keeps that value, so the thread is read before
anything is sent again. Unconfirmed writes are stored as well (`Doubt`): until they are too old to arrive, the thread is
read before each write, and surplus copies of our messages are deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..conversation import stream_of
from ..conversation.messages import Message, Role
from ..effects import Effect, Effects, Pause, attended, work
from ..errors import ProviderRefused, ThreadledgerError
from ..failures import Cause, Failure, Health, diagnose, is_worth_a_retry
from ..ids import new_id, now, to_iso
from ..limits import CLAIM_STEP_SECONDS_MAX, RUN_GRACE_SECONDS
from .doubts import Doubt, recent_doubts
from .mirror import MirrorHead, ThreadCreation
from .thread import ThreadItem

if TYPE_CHECKING:
    from ..conversation import Conversation, ConversationState
    from ..journal import Also, Journal
    from .delivery import Delivered
    from .linked_thread import LinkedThread
    from .mirror import MirrorHeads, ThreadMirror


# Code that reads and writes threads is imported on first use: a conversation without threads does not need it.

logger = logging.getLogger("threadledger.threads")

REFUSED = "history_refused"
"""Why a thread is lost whose content the provider refuses; a new one is written from the journal."""

CLAIM_ATTEMPTS_MAX = 25
CLAIM_WAIT_SECONDS = 0.2
"""Pause between the `CLAIM_ATTEMPTS_MAX` attempts to claim a thread that another process is writing to, in seconds."""

T = TypeVar("T")

DecideRepair = Callable[[Sequence[ThreadItem]], Effects[bool]]
"""Function that receives the entries of a thread, may journal some, and returns whether to send missing items."""


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

    def last_input(self) -> Sequence[ThreadItem]:
        """Return the input items of the run's latest request, if the request itself carried them.

        After tool calls these are the tool results; before, the journal items that the thread was missing.
        """
        if self.tool_results and (self.unsent or self.found):
            return [ThreadItem("tool_result", "", each.text, each.tool_call_id or "") for each in self.tool_results]
        return self.unsent


class ThreadOutbox:
    """Bring threads up to date with the journal; every conversation gets a thread in each mirror named by `always`."""

    def __init__(self, mirrors: Mapping[str, ThreadMirror], heads: MirrorHeads, always: Sequence[str] = ()) -> None:
        self._mirrors = mirrors
        self._kinds = frozenset(mirrors)
        self._heads = heads
        self._always = always
        self._health = Health()

    def mirror(self, journal: Journal, key: str) -> Effects[None]:
        """Send missing messages to the threads of a conversation.

        A thread that was deleted at the provider is created again from the journal. The messages are journaled already,
        so errors are logged, not raised: the threads catch up later.
        """
        if not self._kinds:
            return
        try:
            yield from self.send_missing(journal, key)
        except ThreadledgerError as error:
            logger.warning("the threads of %r lag behind: %s", key, error)

    def send_missing(self, journal: Journal, key: str) -> Effects[None]:
        """Send missing messages like `mirror`; a provider's failures are logged.

        Raises:
            ThreadledgerError: the ledger could not be read or written.
        """
        state = yield from work(lambda: _state(journal, key))
        moment = now()
        if state.open_runs or any(each.is_active(moment) for each in state.open_exchanges.values()):
            return  # a run may be writing to the thread; mirroring follows when the exchange ends, or its time is over
        for name in dict.fromkeys((*self._always, *state.links)):
            mirror = self._mirrors.get(name)
            if mirror is not None:
                yield from self._mirror_unless_unwell(journal, key, mirror, state)

    def prepare(
        self,
        journal: Journal,
        key: str,
        mirror: str,
        *,
        exchange_id: str,
        run_id: str,
        timeout_seconds: float,
        takes_unsent: bool,
        asked_at: int = 0,
    ) -> Effects[PreparedThread | None]:
        """Claim the thread of a run and bring it up to date; return None if there are no threads of this kind.

        Messages that others journaled after the question at version `asked_at` are sent after the answer.

        A thread that is lost or belongs to another endpoint is replaced by a new one, written from the journal. If the
        backend `takes_unsent`, missing items are returned for it to send. Pass the result to `settle` or `release`.

        Raises:
            ProviderRefused: the thread cannot be created, read or written, or another process holds it for too long.
        """
        reached = self._mirrors.get(mirror)
        if reached is None:
            return None
        state = (yield from work(lambda: journal.require(key))).state
        linked = yield from self._find_or_link(journal, key, reached, state)
        thread = replace(linked, exchange_id=exchange_id, asked_at=asked_at)
        claim = ThreadClaim(self._heads, thread, exchange_id, timeout_seconds + RUN_GRACE_SECONDS)
        head = yield from claim.acquire()
        prepared = PreparedThread(key, mirror, exchange_id, run_id, thread.thread_id, doubts=head.doubts)
        return (yield from claim.keep(_complete(prepared, claim, head, takes_unsent)))

    def catch_up(self, journal: Journal, key: str, mirror: str, decide: DecideRepair) -> Effects[Delivered]:
        """Bring one thread up to date with the journal, regardless of its stored state.

        The callback receives the thread's entries and returns whether to send missing items.

        Raises:
            ProviderRefused: the thread is missing or unreachable, or another process holds it for too long.
        """
        from .linked_thread import LinkedThread

        thread_id = (yield from work(lambda: journal.require(key))).state.links[mirror].thread_id
        thread = LinkedThread(journal, key, self._mirrors[mirror], thread_id)
        claim = ThreadClaim(self._heads, thread)
        seen = (yield from work(lambda: journal.require(key))).version
        head = yield from claim.acquire()
        delivered, version = yield from claim.keep(_reconcile(claim, head, decide))
        done = replace(head, version=version or head.version, settled=version is not None)
        yield from work(partial(claim.settle, replace(done, doubts=recent_doubts(delivered.doubts))))
        if done.settled and (yield from work(lambda: journal.require(key))).version != seen:
            # other processes left the messages that they journaled meanwhile to this one
            yield from self._send_all(thread)
        return delivered

    def holds_answer(
        self, journal: Journal, key: str, mirror: str, exchange_id: str, asked_at: int = 0
    ) -> Effects[bool]:
        """Return whether a thread holds an answer to the exchange whose acknowledgement was lost; read it once.

        Raises:
            ProviderRefused: the thread cannot be read.
        """
        from .lost_answers import holds_answer

        reached = self._mirrors.get(mirror)
        if reached is None:
            return False
        return (yield from holds_answer(self._heads, reached, journal, key, exchange_id, asked_at))

    def release(self, prepared: PreparedThread, uncertain: bool = False) -> None:
        """Release the thread; the next writer reads it and finds any output of the failed run.

        With `uncertain`, the run may still write to the thread: its input is recorded as an unconfirmed write.
        """
        doubts = recent_doubts(prepared.doubts)
        if uncertain:
            asked = Doubt.of(prepared.last_input(), to_iso(now()), asked=True)
            doubts += (replace(asked, exchange_id=prepared.exchange_id, run_id=prepared.run_id),)
        self._heads.release(stream_of(prepared.key), prepared.mirror, prepared.exchange_id, doubts)

    def settle(self, prepared: PreparedThread, version: int) -> None:
        """Record that the thread is complete up to a version; drop the unconfirmed writes that were found there."""
        found = prepared.exchange_id if prepared.found else None
        doubts = recent_doubts(prepared.doubts)
        doubts = tuple(doubt for doubt in doubts if not (doubt.asked and doubt.exchange_id == found))
        head = MirrorHead(prepared.thread_id, version, settled=True, doubts=doubts)
        self._heads.put(stream_of(prepared.key), prepared.mirror, head, prepared.exchange_id)

    def written(self, key: str, mirror: str, thread_id: str, version: int, doubts: Sequence[Doubt] = ()) -> Also:
        """Return what records in a commit that a rewritten thread is complete up to a version, except for these doubts."""
        head = MirrorHead(thread_id, version, settled=True, doubts=tuple(doubts))
        return self._heads.written(stream_of(key), mirror, head)

    def create(self, key: str, mirror: ThreadMirror) -> Effects[ThreadCreation]:
        """Create a thread that is recorded until it is linked, so that one which a crash leaves is found.

        Raises:
            ProviderRefused: the provider did not create it, or did not say so.
        """
        creation = ThreadCreation(new_id(), stream_of(key), mirror.name, mirror.endpoint, None, now())
        yield from work(partial(self._heads.note_creation, creation))
        try:
            made = yield from mirror.create(key)
        except ProviderRefused as refused:
            from .delivery import is_uncertain

            if not is_uncertain(refused.failure):
                yield from work(partial(self._heads.forget_creation, creation.creation))
            raise
        creation = replace(creation, thread_id=made)
        yield from work(partial(self._heads.note_creation, creation))
        return creation

    def remove(self, creation: ThreadCreation, mirror: ThreadMirror) -> Effects[None]:
        """Delete a thread that was created and is not linked, and its record.

        Raises:
            ProviderRefused: the thread was not deleted; its record remains.
        """
        yield from mirror.remove(creation.thread_id or "")
        yield from work(partial(self._heads.forget_creation, creation.creation))

    @property
    def heads(self) -> MirrorHeads:
        """Return the stored states of threads, with the recorded creations."""
        return self._heads

    def note_unfinished(self, key: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Record the new thread to which the memory of this digest is being written; None removes the record."""
        self._heads.note_unfinished(stream_of(key), mirror, thread_id, digest)

    def unfinished(self, key: str, mirror: str, digest: str) -> str | None:
        """Return the partly written thread for the memory of this digest, or None."""
        return self._heads.unfinished(stream_of(key), mirror, digest)

    def _mirror_unless_unwell(
        self, journal: Journal, key: str, mirror: ThreadMirror, state: ConversationState
    ) -> Effects[None]:
        """Bring one thread up to date, but skip a provider for a while after repeated failures.

        Otherwise journaling would wait for a provider that is down.
        """
        name = f"{mirror.name} threads"
        if self._health.enter(name, now(), CLAIM_STEP_SECONDS_MAX) is not None:
            return
        try:
            yield from self._mirror(journal, key, mirror, state)
        except ProviderRefused as refused:
            self._health.saw(name, refused.failure, now())
            yield from work(partial(_record_unreached, journal, key, mirror, refused))
        else:
            self._health.saw(name, None, now())

    def _mirror(self, journal: Journal, key: str, mirror: ThreadMirror, state: ConversationState) -> Effects[None]:
        link = state.links.get(mirror.name)
        if link is not None and link.endpoint != mirror.endpoint:
            return
        if link is not None and link.lost and link.lost not in {Cause.THREAD_MISSING, REFUSED}:
            return  # the provider is gone, or it is too long: only `replay rebuild` creates a new thread
        yield from self._send_all((yield from self._find_or_link(journal, key, mirror, state)))

    def _find_or_link(
        self, journal: Journal, key: str, mirror: ThreadMirror, state: ConversationState
    ) -> Effects[LinkedThread]:
        """Return the thread that a run may answer in; link a new one if there is none."""
        from .linked_thread import LinkedThread

        thread_id = usable_id(state, mirror)
        if thread_id is None:
            thread_id = yield from self._link(journal, key, mirror)
        return LinkedThread(journal, key, mirror, thread_id)

    def _link(self, journal: Journal, key: str, mirror: ThreadMirror) -> Effects[str]:
        """Create a thread and link it; if another process linked one first, return that one instead."""
        creation = yield from self.create(key, mirror)
        made = creation.thread_id or ""
        linked = [""]

        def decide(conversation: Conversation) -> str:
            linked[0] = usable_id(conversation.state, mirror) or made
            if linked[0] == made:
                conversation.link_thread(mirror.name, made, mirror.endpoint)
            return linked[0]

        begun = self._heads.begun(stream_of(key), mirror.name, made)

        def note(cursor: Any) -> None:
            if linked[0] == made:
                begun(cursor)

        thread_id = yield from work(lambda: journal.commit(key, decide, also=note))
        if thread_id != made:
            with suppress(ProviderRefused):  # its record remains: `replay reconcile --orphans` removes it
                yield from self.remove(creation, mirror)
        return thread_id

    def _send_all(self, thread: LinkedThread) -> Effects[None]:
        """Send until nothing is missing.

        A process that journals while another one holds the thread leaves the sending to the holder, which checks the
        journal again after releasing the thread.
        """
        while True:
            claim = ThreadClaim(self._heads, thread)
            seen = (yield from work(lambda: thread.journal.require(thread.key))).version
            head = yield from work(claim.take)
            if head is None:
                return
            doubts, version = yield from claim.keep(_send_missing(claim, head))
            done = MirrorHead(thread.thread_id, version, settled=True, doubts=recent_doubts(doubts))
            yield from work(partial(claim.settle, done))
            if (yield from work(lambda: thread.journal.require(thread.key))).version == seen:
                return


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
        items, _ = thread.items()
        doubt = Doubt.of([item for item in items if item.version in asked], to_iso(now()), asked=True)
        doubt = replace(doubt, exchange_id=left.exchange_id, run_id=ended[-1].run_id)
        return replace(head, settled=False, doubts=(*head.doubts, doubt))


def _complete(
    prepared: PreparedThread, claim: ThreadClaim, head: MirrorHead, takes_unsent: bool
) -> Effects[PreparedThread]:
    """Return the thread once it is complete, or with the missing items for the backend to send."""
    from .delivery import bring_up, lacking, sent_again

    thread = claim.thread
    if not takes_unsent and not any(doubt.asked for doubt in head.doubts):
        doubts, version = yield from _send_missing(claim, head)
        return replace(prepared, thread_version=version, doubts=doubts)
    if head.settled and not head.doubts:
        unsent, version = yield from work(partial(thread.newer_items, head))
        return replace(prepared, thread_version=version, unsent=unsent)
    read = yield from thread.read_back(head, claim.note, prepared.exchange_id)
    prepared = replace(prepared, thread_version=read.version, doubts=read.doubts, found=read.found)
    if read.found:
        return replace(prepared, thread_version=(yield from work(partial(thread.version_with_found, read))))
    if takes_unsent:
        unsent = lacking(read.journal, read.thread)
        return replace(prepared, unsent=unsent, doubts=sent_again(read.doubts, unsent))
    delivered = yield from bring_up(
        thread.mirror, thread.thread_id, read.journal, read.thread, read.doubts, note=claim.note
    )
    yield from work(partial(thread.record_deleted, read.version, delivered.deleted))
    return replace(prepared, doubts=delivered.doubts)


def _send_missing(claim: ThreadClaim, head: MirrorHead) -> Effects[tuple[Sequence[Doubt], int]]:
    """Send missing items; return the unconfirmed writes, and the journal version that the thread contains."""
    from .delivery import CATCH_UP_ATTEMPTS_MAX, bring_up

    thread = claim.thread
    if head.settled and not head.doubts:
        items, version = yield from work(partial(thread.newer_items, head))
        if (yield from _send(claim, items)):
            return (), version
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
    yield from work(partial(thread.record_deleted, read.version, delivered.deleted))
    return delivered.doubts, read.version


def _send(claim: ThreadClaim, items: Sequence[ThreadItem]) -> Effects[bool]:
    """Send items to a thread that is known to hold all earlier ones, and return whether every item was acknowledged.

    If not, the thread must be read before the next write. A batch whose result is unknown becomes an unconfirmed write.

    Raises:
        ProviderRefused: the provider rejected a batch in a way that a retry cannot fix, or the thread is missing.
    """
    from .delivery import is_uncertain

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


def _reconcile(claim: ThreadClaim, head: MirrorHead, decide: DecideRepair) -> Effects[tuple[Delivered, int | None]]:
    """Return the delivery and the thread's journal version, which is None if the callback stops the delivery."""
    from .delivery import Delivered, bring_up

    thread = claim.thread
    read = yield from thread.read_back(head, claim.note, quiet=True)
    if not (yield from decide(read.thread)):
        return Delivered(0, tuple(read.deleted), tuple(read.doubts)), None
    items, version = yield from work(thread.items)
    unclean = head.left_by is not None
    delivered = yield from bring_up(
        thread.mirror, thread.thread_id, items, read.thread, read.doubts, unclean=unclean, note=claim.note
    )
    yield from work(partial(thread.record_deleted, version, delivered.deleted))
    return replace(delivered, deleted=(*read.deleted, *delivered.deleted)), version


def usable_id(state: ConversationState, mirror: ThreadMirror) -> str | None:
    """Return the id of the linked thread if it exists and contains nothing cut from memory since, else None."""
    link = state.links.get(mirror.name)
    usable = link is not None and link.is_usable(mirror.endpoint, state.cut_version)
    return link.thread_id if link is not None and usable else None


def _record_unreached(journal: Journal, key: str, mirror: ThreadMirror, refused: ProviderRefused) -> None:
    """Log that a thread is not up to date, and record it as lost if the provider no longer has it."""
    cause = diagnose(refused.failure)
    lost = refused.failure.thread_id
    if lost is not None and cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
        journal.commit(key, lambda it: it.lose_thread(mirror.name, lost, cause.value))
    logger.warning("%s thread of %r is not up to date: %s (%s)", mirror.name, key, cause.value, refused)


def _state(journal: Journal, key: str) -> ConversationState:
    """Return the state of a conversation after closing overdue runs that a crash left open."""
    state = journal.require(key).state
    if state.next_deadline is None or state.next_deadline > to_iso(now()):
        return state
    journal.commit(key, lambda it: it.close_overdue_runs())
    return journal.require(key).state
