"""Send the journal's messages to threads (the outbox): in order, at least once, reconciled after a lost response.

The journal version that a thread contains is stored outside the event log (`MirrorHead`). While a write is in progress,
the stored state has `settled=False`. After a crash or a lost response it keeps that value, so the thread is read before
anything is sent again. Unconfirmed writes are stored as well (`Doubt`): until they are too old to arrive, the thread is
read before each write, and surplus copies of our messages are deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..conversation import stream_of
from ..effects import Effects, work
from ..errors import ConversationNotFound, ProviderRefused, ThreadledgerError
from ..failures import Cause, Health, diagnose
from ..ids import new_id, now, to_iso
from ..limits import BETWEEN_RUNS_SECONDS, CLAIM_STEP_SECONDS_MAX, RUN_GRACE_SECONDS

if TYPE_CHECKING:
    from ..conversation import Conversation, ConversationState
    from ..journal import Also, Journal
    from .claims import PreparedThread
    from .delivery import Delivered
    from .doubts import Doubt
    from .linked_thread import LinkedThread
    from .mirror import MirrorHeads, ThreadCreation, ThreadMirror
    from .thread import ThreadItem
    from .view import ThreadView

# Code that reads and writes threads is imported on first use: a conversation without threads does not need it.

logger = logging.getLogger("threadledger.threads")

REFUSED = "history_refused"
"""Why a thread is lost whose content the provider refuses; a new one is written from the journal."""

T = TypeVar("T")

DecideRepair = Callable[["Sequence[ThreadItem]"], Effects[bool]]
"""Function that receives the entries of a thread, may journal some, and returns whether to send missing items."""


class Unsent(NamedTuple):
    """Explain why a thread was not brought up to date."""

    reason: str
    until: datetime | None = None
    """When it may be tried again, because an exchange is in progress, or the provider is skipped or has a limit; None if it
    failed."""


class ThreadOutbox:
    """Bring threads up to date with the journal; every conversation gets a thread in each mirror named by `always`."""

    def __init__(
        self,
        mirrors: Mapping[str, ThreadMirror],
        heads: Callable[[], MirrorHeads],
        always: Sequence[str] = (),
        *,
        by_worker: bool = False,
        health: Health | None = None,
    ) -> None:
        """Create an outbox; `heads` returns the stored states of threads, and is called when one is needed.

        With `by_worker`, `mirror` does nothing: a worker sends what is missing. `health` is that of the providers; by default, as
        this outbox sees it.
        """
        self._mirrors = mirrors
        self._kinds = frozenset(mirrors)
        self._open_heads = heads
        self._always = always
        self._health = health or Health()
        self.by_worker = by_worker

    @property
    def has_mirrors(self) -> bool:
        """Return whether there is any mirror that could send messages to a thread."""
        return bool(self._kinds)

    def mirror(self, journal: Journal, key: str) -> Effects[None]:
        """Send missing messages to the threads of a conversation.

        A thread that was deleted at the provider is created again from the journal. The messages are journaled already,
        so errors are logged, not raised: the threads catch up later.
        """
        if not self._kinds or self.by_worker:
            return
        try:
            yield from self.send_missing(journal, key)
        except ConversationNotFound:  # it was deleted
            return
        except ThreadledgerError as error:
            logger.warning("the threads of %r lag behind: %s", key, error)

    def send_missing(self, journal: Journal, key: str) -> Effects[Sequence[Unsent]]:
        """Send missing messages like `mirror`; a provider's failures are logged. Return why threads are not up to date.

        Raises:
            ThreadledgerError: the ledger could not be read or written.
        """
        state = yield from work(lambda: _state(journal, key))
        moment = now()
        at_work = (each for each in state.open_exchanges.values() if each.undecided is None and each.is_active(moment))
        if state.open_runs or any(at_work):
            # A run may be writing to the thread; mirroring follows when the exchange ends, or its time is over.
            return [Unsent("an exchange is in progress", moment + timedelta(seconds=BETWEEN_RUNS_SECONDS))]
        # Left by a process that stopped, maybe with its answer in a thread.
        left = [name for name, each in state.open_exchanges.items() if not each.waits] if state.links else ()
        for exchange_id in left:
            if (yield from self.recover_answer(journal, key, exchange_id)):
                state = yield from work(lambda: _state(journal, key))
        unsent = []
        for name in dict.fromkeys((*self._always, *state.links)):
            mirror = self._mirrors.get(name)
            if mirror is not None:
                unsent.append((yield from self._mirror_unless_unwell(journal, key, mirror, state)))
        return [each for each in unsent if each is not None]

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
        from .claims import PreparedThread, ThreadClaim, complete

        state = (yield from work(lambda: journal.require(key))).state
        linked = yield from self._find_or_link(journal, key, reached, state)
        thread = replace(linked, exchange_id=exchange_id, asked_at=asked_at)
        claim = ThreadClaim(self.heads, thread, exchange_id, timeout_seconds + RUN_GRACE_SECONDS)
        head = yield from claim.acquire()
        prepared = PreparedThread(key, mirror, exchange_id, run_id, thread.thread_id, doubts=head.doubts)
        return (yield from claim.keep(complete(prepared, claim, head, takes_unsent)))

    def catch_up(self, journal: Journal, key: str, mirror: str, decide: DecideRepair) -> Effects[Delivered]:
        """Bring one thread up to date with the journal, regardless of its stored state.

        The callback receives the thread's entries and returns whether to send missing items.

        Raises:
            ProviderRefused: the thread is missing or unreachable, or another process holds it for too long.
        """
        from .claims import ThreadClaim, reconcile
        from .doubts import recent_doubts
        from .linked_thread import LinkedThread

        thread_id = (yield from work(lambda: journal.require(key))).state.links[mirror].thread_id
        thread = LinkedThread(journal, key, self._mirrors[mirror], thread_id)
        claim = ThreadClaim(self.heads, thread)
        seen = (yield from work(lambda: journal.require(key))).version
        head = yield from claim.acquire()
        delivered, written = yield from claim.keep(reconcile(claim, head, decide))
        stopped = replace(head, settled=False, doubts=recent_doubts(delivered.doubts))
        yield from work(partial(claim.settle, written or stopped))
        if written is not None and (yield from work(lambda: journal.require(key))).version != seen:
            # other processes left the messages that they journaled meanwhile to this one
            yield from self._send_all(thread)
        return delivered

    def recover_answer(self, journal: Journal, key: str, exchange_id: str) -> Effects[bool]:
        """Journal the answer that a thread holds to an unanswered exchange; see `lost_answers.recover_answer`."""
        from .lost_answers import recover_answer

        return recover_answer(self.heads, self._mirrors, journal, key, exchange_id)

    def release(self, prepared: PreparedThread, uncertain: bool = False) -> None:
        """Release the thread; see `PreparedThread.release`."""
        prepared.release(self.heads, uncertain)

    def settle(self, prepared: PreparedThread, version: int) -> None:
        """Record that the thread is complete up to a version; see `PreparedThread.settle`."""
        prepared.settle(self.heads, version)

    def written(self, key: str, mirror: str, thread_id: str, view: ThreadView, doubts: Sequence[Doubt] = ()) -> Also:
        """Return what records in a commit that a rewritten thread holds a view, except for these doubts."""
        from .mirror import MirrorHead

        version = view.memory_version if view.held_back is None else view.version
        head = MirrorHead(thread_id, version, settled=view.is_exact(), doubts=tuple(doubts))
        return self.heads.written(stream_of(key), mirror, head)

    def create(self, key: str, mirror: ThreadMirror) -> Effects[ThreadCreation]:
        """Create a thread that is recorded until it is linked, so that one which a crash leaves is found.

        Raises:
            ProviderRefused: the provider did not create it, or did not say so.
        """
        from .mirror import ThreadCreation

        creation = ThreadCreation(new_id(), stream_of(key), mirror.name, mirror.endpoint, None, now())
        yield from work(partial(self.heads.note_creation, creation))
        try:
            made = yield from mirror.create(key)
        except ProviderRefused as refused:
            from .delivery import is_uncertain

            if not is_uncertain(refused.failure):
                yield from work(partial(self.heads.forget_creation, creation.creation))
            raise
        creation = replace(creation, thread_id=made)
        yield from work(partial(self.heads.note_creation, creation))
        return creation

    def remove(self, creation: ThreadCreation, mirror: ThreadMirror) -> Effects[None]:
        """Delete a thread that was created and is not linked, and its record.

        Raises:
            ProviderRefused: the thread was not deleted; its record remains.
        """
        yield from mirror.remove(creation.thread_id or "")
        yield from work(partial(self.heads.forget_creation, creation.creation))

    @cached_property
    def heads(self) -> MirrorHeads:
        """Return the stored states of threads, with the recorded creations."""
        return self._open_heads()

    def note_unfinished(self, key: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Record the new thread to which the memory of this digest is being written; None removes the record."""
        self.heads.note_unfinished(stream_of(key), mirror, thread_id, digest)

    def unfinished(self, key: str, mirror: str, digest: str) -> str | None:
        """Return the partly written thread for the memory of this digest, or None."""
        return self.heads.unfinished(stream_of(key), mirror, digest)

    def _mirror_unless_unwell(
        self, journal: Journal, key: str, mirror: ThreadMirror, state: ConversationState
    ) -> Effects[Unsent | None]:
        """Bring one thread up to date, but skip a provider for a while after repeated failures.

        Otherwise journaling would wait for a provider that is down.
        """
        name = f"{mirror.name} threads"
        cooling = self._health.enter(name, now(), CLAIM_STEP_SECONDS_MAX)
        if cooling is not None:
            return Unsent(f"{name}: {cooling.refusal().message}", cooling.until)
        try:
            yield from self._mirror(journal, key, mirror, state)
        except ProviderRefused as refused:
            self._health.saw(name, refused.failure, now())
            from .unreached import end_of_limit, record_unreached

            yield from work(partial(record_unreached, journal, key, mirror, refused))
            return Unsent(f"{name}: {diagnose(refused.failure).value}: {refused}", end_of_limit(refused.failure))
        self._health.saw(name, None, now())
        return None

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

        begun = self.heads.begun(stream_of(key), mirror.name, made)

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
        from .claims import ThreadClaim, send_missing

        while True:
            claim = ThreadClaim(self.heads, thread)
            seen = (yield from work(lambda: thread.journal.require(thread.key))).version
            head = yield from work(claim.take)
            if head is None:
                return
            written = yield from claim.keep(send_missing(claim, head))
            yield from work(partial(claim.settle, written))
            if (yield from work(lambda: thread.journal.require(thread.key))).version == seen:
                return


def usable_id(state: ConversationState, mirror: ThreadMirror) -> str | None:
    """Return the id of the linked thread if it exists and contains nothing cut from memory since, else None."""
    link = state.links.get(mirror.name)
    usable = link is not None and link.is_usable(mirror.endpoint, state.cut_version)
    return link.thread_id if link is not None and usable else None


def _state(journal: Journal, key: str) -> ConversationState:
    """Return the state of a conversation after closing overdue runs that a crash left open."""
    state = journal.require(key).state
    if state.next_deadline is None or state.next_deadline > to_iso(now()):
        return state
    journal.commit(key, lambda it: it.close_overdue_runs())
    return journal.require(key).state
