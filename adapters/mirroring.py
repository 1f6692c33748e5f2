"""Send the journal's messages to threads (the outbox): in order, at least once, reconciled after a lost response.

A note outside the event log stores up to which version a thread holds the journal. The note has `settled=False` while a
write is in progress. After a crash or a lost response it keeps that value, so the thread is read before anything is
sent again. Writes that may still arrive are noted as well (`Doubt`): until they are too old to arrive, the thread is
read before each write, and surplus copies of our messages are deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Conversation, ConversationState, stream_of
from threadledger.domain.effects import Effects, Pause, attended, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import Backend, BackendRequest, Mend
from threadledger.domain.failures import Cause, Failure, Health, diagnose
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import Journal
from threadledger.domain.threads import (
    CATCH_UP_ATTEMPTS_MAX,
    Delivered,
    Doubt,
    MirrorHead,
    MirrorHeads,
    ThreadMirror,
    bring_up,
    lacking,
    sent_again,
    taken_out,
)

from .beside import (
    Look,
    Noted,
    Overheard,
    Renewing,
    asked_last,
    late_copies,
    left_behind,
    newer_items,
    record_deleted,
    said_behind,
    send_all,
    sent_before,
    version_with,
    whole_items,
    young,
)

logger = logging.getLogger("threadledger.threads")

CLAIM_SECONDS = 600.0
"""Maximum time to hold a thread for sending, in seconds; after that the holder counts as crashed."""

CLAIM_ATTEMPTS_MAX = 25
CLAIM_WAIT_SECONDS = 0.2
"""Pause between the `CLAIM_ATTEMPTS_MAX` attempts to claim a thread that another process is writing to, in seconds."""


class ThreadOutbox:
    """Implement `Outbox` for the configured mirrors; every conversation gets a thread in each mirror named by `always`."""

    def __init__(self, mirrors: Mapping[str, ThreadMirror], heads: MirrorHeads, always: Sequence[str] = ()) -> None:
        self._mirrors = mirrors
        self._heads = heads
        self._always = always
        self._health = Health()

    def mirror(self, journal: Journal, key: str) -> Effects[None]:
        """Send missing messages to the threads of a conversation; recreate deleted threads, and log provider failures."""
        if not self._mirrors:
            return
        state = yield from work(lambda: _state(journal, key))
        if state.open_runs:
            return  # a run may be writing to the thread; mirroring follows when it ends or is closed as overdue
        for name in dict.fromkeys((*self._always, *state.links)):
            mirror = self._mirrors.get(name)
            if mirror is not None:
                yield from self._mirror_unless_unwell(journal, key, mirror, state)

    def prepare(self, journal: Journal, request: BackendRequest, backend: Backend) -> Effects[BackendRequest]:
        """Claim a thread for the request; a lost thread, or one of another endpoint, is rewritten from the journal."""
        mirror = self._mirrors.get(backend.thread or "")
        if mirror is None:
            return request
        key = request.key
        state = (yield from work(lambda: journal.require(key))).state
        link = state.links.get(mirror.name)
        usable = link is not None and self._is_usable(link, mirror, state.cut_version)
        thread_id = link["thread_id"] if link is not None and usable else (yield from self._link(journal, key, mirror))
        seconds = request.timeout_seconds + limits.RUN_GRACE_SECONDS
        head = yield from self._claimed(journal, key, mirror, thread_id, request.exchange_id, seconds)
        request = replace(request, thread_id=thread_id, doubts=head.doubts, journal=Overheard(request.journal))
        noted = Noted(head.doubts)
        claim = partial(self._claim, journal, key, mirror, thread_id, request.exchange_id, seconds)
        try:
            readying = self._ready(journal, request, mirror, backend, head, noted)
            return (yield from attended(readying, Renewing(claim, seconds)))
        except BaseException:
            yield from work(lambda: self.release(replace(request, doubts=noted.doubts), mirror.name))
            raise

    def catch_up(self, journal: Journal, key: str, mirror: str, mend: Mend) -> Effects[Delivered]:
        """Bring one thread up to date with the journal, regardless of what is noted about it."""
        reached = self._mirrors[mirror]
        thread_id = (yield from work(lambda: journal.require(key))).state.links[mirror]["thread_id"]
        holder, seen = new_id(), (yield from work(lambda: journal.require(key))).version
        head = yield from self._claimed(journal, key, reached, thread_id, holder, CLAIM_SECONDS)
        claim = partial(self._claim, journal, key, reached, thread_id, holder, CLAIM_SECONDS)
        noted = Noted(head.doubts)
        try:
            catching_up = self._catch_up(journal, key, reached, head, noted, mend)
            delivered, version = yield from attended(catching_up, Renewing(claim, CLAIM_SECONDS))
        except BaseException:
            left = tuple(young(noted.doubts))
            yield from work(partial(self._heads.release, stream_of(key), mirror, holder, left))
            raise
        done = replace(head, version=version or head.version, settled=version is not None)
        done = replace(done, doubts=tuple(young(delivered.doubts)))
        yield from work(partial(self._heads.put, stream_of(key), mirror, done, holder))
        if done.settled and (yield from work(lambda: journal.require(key))).version != seen:
            yield from self._send_all(
                journal, key, reached, thread_id
            )  # other processes left the messages that they journaled meanwhile to this one
        return delivered

    def _catch_up(
        self, journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead, noted: Noted, mend: Mend
    ) -> Effects[tuple[Delivered, int | None]]:
        """Return the result, and the version that the thread holds, or None if nothing was to be sent."""
        thread_id = head.thread_id
        look = yield from self._looked(journal, key, mirror, head, noted, quiet=True)
        if not (yield from mend(look.thread)):
            return Delivered(0, tuple(look.deleted), tuple(look.doubts)), None
        items, version = yield from work(partial(whole_items, journal, key, mirror, thread_id))
        unclean = head.left_by is not None
        delivered = yield from bring_up(mirror, thread_id, items, look.thread, look.doubts, unclean=unclean, note=noted)
        yield from work(partial(record_deleted, journal, key, mirror, thread_id, version, delivered.deleted))
        return replace(delivered, deleted=(*look.deleted, *delivered.deleted)), version

    def release(self, request: BackendRequest, mirror: str, uncertain: bool = False) -> None:
        """Release the thread; the next writer reads what the failed run left there."""
        doubts = tuple(young(request.doubts))
        if uncertain:
            asked = Doubt.of(asked_last(request), to_iso(now()), asked=True)
            doubts += (replace(asked, exchange_id=request.exchange_id, run_id=request.run_id),)
        self._heads.release(stream_of(request.key), mirror, request.exchange_id, doubts)

    def settle(self, request: BackendRequest, mirror: str, version: int) -> None:
        """Note that the thread holds everything up to a version; doubts about what was found there are dropped."""
        found = request.exchange_id if request.found else None
        doubts = tuple(doubt for doubt in young(request.doubts) if not (doubt.asked and doubt.exchange_id == found))
        if request.thread_id is not None:
            head = MirrorHead(request.thread_id, version, settled=True, doubts=doubts)
            self._heads.put(stream_of(request.key), mirror, head, request.exchange_id)

    def written(self, key: str, mirror: str, thread_id: str, version: int, doubts: Sequence[Doubt] = ()) -> None:
        """Note that a rewritten thread holds everything up to a version, except for writes that may still arrive."""
        head = MirrorHead(thread_id, version, settled=True, doubts=tuple(doubts))
        self._heads.put(stream_of(key), mirror, head)

    def note_unfinished(self, key: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Note which new thread is being written with the memory of this digest; None clears the note."""
        self._heads.note_unfinished(stream_of(key), mirror, thread_id, digest)

    def unfinished(self, key: str, mirror: str, digest: str) -> str | None:
        """Return the partly written thread for the memory of this digest, or None."""
        return self._heads.unfinished(stream_of(key), mirror, digest)

    def _mirror_unless_unwell(
        self, journal: Journal, key: str, mirror: ThreadMirror, state: ConversationState
    ) -> Effects[None]:
        """Bring one thread up to date. After repeated failures a provider is skipped for a while, so that journaling does
        not wait for it."""
        name = f"{mirror.name} threads"
        if self._health.enter(name, now(), CLAIM_SECONDS) is not None:
            return
        try:
            yield from self._mirror(journal, key, mirror, state.links.get(mirror.name), state.cut_version)
        except ProviderRefused as refused:
            self._health.saw(name, refused.failure, now())
            yield from work(partial(self._not_reached, journal, key, mirror, refused))
        else:
            self._health.saw(name, None, now())

    def _mirror(
        self, journal: Journal, key: str, mirror: ThreadMirror, link: Mapping[str, Any] | None, cut_version: int
    ) -> Effects[None]:
        if link is not None and link["endpoint"] != mirror.endpoint:
            return
        if link is None or not self._is_usable(link, mirror, cut_version):
            if link is not None and link["lost"] and link["lost"] != Cause.THREAD_MISSING:
                return  # the provider is gone: only `replay rebuild` creates a new thread
            link = {"thread_id": (yield from self._link(journal, key, mirror))}
        yield from self._send_all(journal, key, mirror, link["thread_id"])

    def _link(self, journal: Journal, key: str, mirror: ThreadMirror) -> Effects[str]:
        """Create a thread and link it; if another process linked one first, return that one instead."""
        made = yield from mirror.create(key)

        def decide(conversation: Conversation) -> str:
            link = conversation.state.links.get(mirror.name)
            if link is not None and self._is_usable(link, mirror, conversation.state.cut_version):
                return str(link["thread_id"])
            conversation.link_thread(mirror.name, made, mirror.endpoint)
            return made

        def link() -> str:
            linked = journal.commit(key, decide)
            if linked == made:
                self._heads.begin(stream_of(key), mirror.name, made)
            return linked

        linked: str = yield from work(link)
        return linked

    @staticmethod
    def _is_usable(link: Mapping[str, Any], mirror: ThreadMirror, cut_version: int) -> bool:
        """Return whether a run may answer in the thread: it exists, and contains nothing cut from memory since."""
        return not link["lost"] and link["endpoint"] == mirror.endpoint and link["version"] > cut_version

    def _send_all(self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> Effects[None]:
        """Send until nothing is missing. A process that journals while another one holds the thread leaves the sending to
        the holder, which checks the journal again after releasing the thread."""
        while True:
            holder = new_id()
            seen = (yield from work(lambda: journal.require(key))).version
            claim = partial(self._claim, journal, key, mirror, thread_id, holder, CLAIM_SECONDS)
            head: MirrorHead | None = yield from work(claim)
            if head is None:
                return
            noted = Noted(head.doubts)
            try:
                bringing = self._bring_up(journal, key, mirror, head, noted)
                doubts, version = yield from attended(bringing, Renewing(claim, CLAIM_SECONDS))
            except BaseException:
                left = tuple(young(noted.doubts))
                yield from work(partial(self._heads.release, stream_of(key), mirror.name, holder, left))
                raise
            done = MirrorHead(thread_id, version, settled=True, doubts=tuple(young(doubts)))
            yield from work(partial(self._heads.put, stream_of(key), mirror.name, done, holder))
            if (yield from work(lambda: journal.require(key))).version == seen:
                return

    def _bring_up(
        self, journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead, noted: Noted
    ) -> Effects[tuple[Sequence[Doubt], int]]:
        """Send missing items; return the writes that may still arrive, and the version that the thread holds."""
        if head.settled and not head.doubts:
            items, version = yield from work(partial(newer_items, journal, key, mirror, head))
            if (yield from send_all(mirror, head.thread_id, items, noted)):
                return (), version
            head = replace(head, settled=False, doubts=tuple(noted.doubts))
        look = yield from self._looked(journal, key, mirror, head, noted)
        delivered = yield from bring_up(
            mirror,
            head.thread_id,
            look.journal,
            look.thread,
            look.doubts,
            unclean=head.left_by is not None,
            attempts_max=CATCH_UP_ATTEMPTS_MAX,
            note=noted,
        )
        yield from work(partial(record_deleted, journal, key, mirror, head.thread_id, look.version, delivered.deleted))
        return delivered.doubts, look.version

    def _ready(
        self,
        journal: Journal,
        request: BackendRequest,
        mirror: ThreadMirror,
        backend: Backend,
        head: MirrorHead,
        noted: Noted,
    ) -> Effects[BackendRequest]:
        """Return the request once its thread is complete, or with the missing items for the backend to send."""
        if not backend.takes_unsent and not any(doubt.asked for doubt in head.doubts):
            doubts, version = yield from self._bring_up(journal, request.key, mirror, head, noted)
            return replace(request, thread_version=version, doubts=doubts)
        if head.settled and not head.doubts:
            unsent, version = yield from work(partial(newer_items, journal, request.key, mirror, head))
            return replace(request, thread_version=version, unsent=unsent)
        look = yield from self._looked(journal, request.key, mirror, head, noted, request.exchange_id)
        request = replace(request, thread_version=look.version, doubts=look.doubts, found=look.found)
        if look.found:
            version = yield from work(lambda: version_with(journal, request.key, look))
            return replace(request, thread_version=version)
        if backend.takes_unsent:
            unsent = lacking(look.journal, look.thread)
            return replace(request, unsent=unsent, doubts=sent_again(look.doubts, unsent))
        delivered = yield from bring_up(mirror, head.thread_id, look.journal, look.thread, look.doubts, note=noted)
        yield from work(
            partial(record_deleted, journal, request.key, mirror, head.thread_id, look.version, delivered.deleted)
        )
        return replace(request, doubts=delivered.doubts)

    def _looked(
        self,
        journal: Journal,
        key: str,
        mirror: ThreadMirror,
        head: MirrorHead,
        noted: Noted,
        exchange_id: str | None = None,
        quiet: bool = False,
    ) -> Effects[Look]:
        """Read a thread back, and delete provably late copies of our messages. Output of an earlier run of `exchange_id`
        is kept and returned as `found`. With `quiet`, foreign entries are not logged; the caller reports them."""
        thread_id = head.thread_id
        ours = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id == exchange_id]
        others = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id != exchange_id]
        deleted = [*(yield from mirror.sweep(thread_id, ours, completed=False))]
        deleted += yield from mirror.sweep(thread_id, others, completed=True)
        items, version = yield from work(partial(whole_items, journal, key, mirror, thread_id))
        thread = yield from mirror.read(thread_id)
        doubts: Sequence[Doubt] = head.doubts
        late, still_open = yield from work(partial(late_copies, sent_before(items, head), thread, doubts))
        late = late or left_behind(items, thread, [doubt for doubt in doubts if doubt.exchange_id != exchange_id])
        if late:
            yield from taken_out(mirror, thread_id, late, doubts, still_open, noted)
            doubts = still_open
            gone = {item.item_id for item in late}
            deleted += gone
            thread = [item for item in thread if item.item_id not in gone]
        yield from work(partial(record_deleted, journal, key, mirror, thread_id, version, deleted))
        asked = any(doubt.asked and doubt.exchange_id == exchange_id for doubt in head.doubts)
        found = said_behind(items, thread) if asked else ()
        foreign = len(thread) - len(found) - len(items) + len(lacking(items, thread))
        if foreign and not quiet:
            told = "%s thread of %r contains %d entries that are not in the journal: run threadledger replay verify %s"
            logger.warning(told, mirror.name, key, foreign, key)
        return Look(items, thread, version, doubts, found, deleted)

    def _claimed(
        self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, holder: str, seconds: float
    ) -> Effects[MirrorHead]:
        claim = partial(self._claim, journal, key, mirror, thread_id, holder, seconds)
        for _ in range(CLAIM_ATTEMPTS_MAX):
            head: MirrorHead | None = yield from work(claim)
            if head is not None:
                return head
            yield Pause(CLAIM_WAIT_SECONDS)
        message = "another process is writing to the thread"
        raise ProviderRefused(Failure("error", code="conversation_locked", message=message, thread_id=thread_id))

    def _claim(
        self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, holder: str, seconds: float
    ) -> MirrorHead | None:
        """Claim the thread for writing; return its head, or None while another claim is valid. If the previous holder
        never released it, that process stopped in the middle of a run, so the run's writes are noted as a doubt."""
        until = now() + timedelta(seconds=seconds)
        given_up = journal.require(key).state.abandoned.keys()  # their holders lose the claim
        head = self._heads.claim(stream_of(key), mirror.name, thread_id, holder, until, given_up)
        if head is None or head.left_by is None:
            return head
        left = journal.exchanges(key).by_id.get(head.left_by)
        in_thread = [run for run in left.runs if not run.apart and not run.shadow] if left is not None else []
        ended = [run for run in in_thread if run.state != "open"]
        if left is None or not ended or ended[-1].completed:
            return head
        asked = {each.version for each in journal.memory(key).messages if each.exchange_id == left.exchange_id}
        items, _ = whole_items(journal, key, mirror, thread_id)
        doubt = Doubt.of([item for item in items if item.version in asked], to_iso(now()), asked=True)
        doubt = replace(doubt, exchange_id=left.exchange_id, run_id=ended[-1].run_id)
        return replace(head, settled=False, doubts=(*head.doubts, doubt))

    def _not_reached(self, journal: Journal, key: str, mirror: ThreadMirror, refused: ProviderRefused) -> None:
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
