"""The outbox: the journal's messages to a thread, in order, at least once, reconciled after a write whose answer is lost.

How far a thread holds the journal is noted beside the log. The note says `settled=False` while a write is under way: a
crash, or an answer that never comes, leaves it so, and the thread is read before anything is sent again. Writes that may
still land are noted too (`Doubt`): as long as they may, the thread is read again, and surplus copies of ours are taken out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from threadledger.domain import (
    CATCH_UP_ATTEMPTS_MAX,
    Backend,
    BackendRequest,
    Cause,
    Conversation,
    ConversationState,
    Delivered,
    Doubt,
    Effects,
    Failure,
    Health,
    Journal,
    Mend,
    MirrorHead,
    MirrorHeads,
    Pause,
    ProviderRefused,
    ThreadMirror,
    Work,
    attended,
    bring_up,
    diagnose,
    lacking,
    limits,
    new_id,
    now,
    sent_again,
    stream_of,
    taken_out,
    to_iso,
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
"""How long whoever sends to a thread may take; after that it counts as crashed, and the thread is read."""

CLAIM_ATTEMPTS_MAX = 25
CLAIM_WAIT_SECONDS = 0.2
"""How often, and how long apart, a run asks for a thread that somebody else is writing to."""


class ThreadOutbox:
    """`Outbox` over the mirrors that are set up; `always` names those that every conversation gets a thread of."""

    def __init__(self, mirrors: Mapping[str, ThreadMirror], heads: MirrorHeads, always: Sequence[str] = ()) -> None:
        self._mirrors = mirrors
        self._heads = heads
        self._always = always
        self._health = Health()

    def mirror(self, journal: Journal, key: str) -> Effects[None]:
        """Send what the threads of a conversation lack. A thread that somebody deleted is made anew from the journal."""
        if not self._mirrors:
            return
        state = yield Work(lambda: _state(journal, key))
        if state.open_runs:
            return  # the run may be writing to the thread at this moment; its end mirrors, or whoever finds it overdue
        for name in dict.fromkeys((*self._always, *state.links)):
            mirror = self._mirrors.get(name)
            if mirror is not None:
                yield from self._mirror_unless_unwell(journal, key, mirror, state)

    def prepare(self, journal: Journal, request: BackendRequest, backend: Backend) -> Effects[BackendRequest]:
        """The request with its thread; a thread that was lost, or is at another endpoint, is made anew from the journal."""
        mirror = self._mirrors.get(backend.thread or "")
        if mirror is None:
            return request
        key = request.key
        state = (yield Work(lambda: journal.require(key))).state
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
            yield Work(lambda: self.release(replace(request, doubts=noted.doubts), mirror.name))
            raise

    def catch_up(self, journal: Journal, key: str, mirror: str, mend: Mend) -> Effects[Delivered]:
        """Bring one thread up to the journal whatever the notebook says of it."""
        reached = self._mirrors[mirror]
        thread_id = (yield Work(lambda: journal.require(key))).state.links[mirror]["thread_id"]
        holder, seen = new_id(), (yield Work(lambda: journal.require(key))).version
        head = yield from self._claimed(journal, key, reached, thread_id, holder, CLAIM_SECONDS)
        claim = partial(self._claim, journal, key, reached, thread_id, holder, CLAIM_SECONDS)
        noted = Noted(head.doubts)
        try:
            catching_up = self._catch_up(journal, key, reached, head, noted, mend)
            delivered, version = yield from attended(catching_up, Renewing(claim, CLAIM_SECONDS))
        except BaseException:
            left = tuple(young(noted.doubts))
            yield Work(partial(self._heads.release, stream_of(key), mirror, holder, left))
            raise
        done = replace(head, version=version or head.version, settled=version is not None)
        done = replace(done, doubts=tuple(young(delivered.doubts)))
        yield Work(partial(self._heads.put, stream_of(key), mirror, done, holder))
        if done.settled and (yield Work(lambda: journal.require(key))).version != seen:
            yield from self._send_all(
                journal, key, reached, thread_id
            )  # others left to us what they journaled meanwhile
        return delivered

    def _catch_up(
        self, journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead, noted: Noted, mend: Mend
    ) -> Effects[tuple[Delivered, int | None]]:
        """What came of it, and the version that the thread holds; None where it is not known to hold all of any."""
        thread_id = head.thread_id
        look = yield from self._looked(journal, key, mirror, head, noted, quiet=True)
        if not (yield from mend(look.thread)):
            return Delivered(0, tuple(look.deleted), tuple(look.doubts)), None
        items, version = yield Work(partial(whole_items, journal, key, mirror, thread_id))
        unclean = head.left_by is not None
        delivered = yield from bring_up(mirror, thread_id, items, look.thread, look.doubts, unclean=unclean, note=noted)
        yield Work(partial(record_deleted, journal, key, mirror, thread_id, version, delivered.deleted))
        return replace(delivered, deleted=(*look.deleted, *delivered.deleted)), version

    def release(self, request: BackendRequest, mirror: str, uncertain: bool = False) -> None:
        """Give the thread back; what the failed run left there is read before the next write."""
        doubts = tuple(young(request.doubts))
        if uncertain:
            asked = Doubt.of(asked_last(request), to_iso(now()), asked=True)
            doubts += (replace(asked, exchange_id=request.exchange_id, run_id=request.run_id),)
        self._heads.release(stream_of(request.key), mirror, request.exchange_id, doubts)

    def settle(self, request: BackendRequest, mirror: str, version: int) -> None:
        """Note that the thread holds everything up to a version. What was found there has landed: it is in doubt no more."""
        found = request.exchange_id if request.found else None
        doubts = tuple(doubt for doubt in young(request.doubts) if not (doubt.asked and doubt.exchange_id == found))
        if request.thread_id is not None:
            head = MirrorHead(request.thread_id, version, settled=True, doubts=doubts)
            self._heads.put(stream_of(request.key), mirror, head, request.exchange_id)

    def written(self, key: str, mirror: str, thread_id: str, version: int, doubts: Sequence[Doubt] = ()) -> None:
        """Note that a thread was written anew and holds everything up to a version, but for writes that may still land."""
        head = MirrorHead(thread_id, version, settled=True, doubts=tuple(doubts))
        self._heads.put(stream_of(key), mirror, head)

    def note_unfinished(self, key: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Note which new thread is being written with the memory of this digest."""
        self._heads.note_unfinished(stream_of(key), mirror, thread_id, digest)

    def unfinished(self, key: str, mirror: str, digest: str) -> str | None:
        """The thread that somebody had begun to write with the memory of this digest."""
        return self._heads.unfinished(stream_of(key), mirror, digest)

    def _mirror_unless_unwell(
        self, journal: Journal, key: str, mirror: ThreadMirror, state: ConversationState
    ) -> Effects[None]:
        """Bring one thread up to the journal. A provider that failed many times in a row is let be for a while, so that
        journaling does not wait for it."""
        name = f"{mirror.name} threads"
        if self._health.enter(name, now(), CLAIM_SECONDS) is not None:
            return
        try:
            yield from self._mirror(journal, key, mirror, state.links.get(mirror.name), state.cut_version)
        except ProviderRefused as refused:
            self._health.saw(name, refused.failure, now())
            yield Work(partial(self._not_reached, journal, key, mirror, refused))
        else:
            self._health.saw(name, None, now())

    def _mirror(
        self, journal: Journal, key: str, mirror: ThreadMirror, link: Mapping[str, Any] | None, cut_version: int
    ) -> Effects[None]:
        if link is not None and link["endpoint"] != mirror.endpoint:
            return
        if link is None or not self._is_usable(link, mirror, cut_version):
            if link is not None and link["lost"] and link["lost"] != Cause.THREAD_MISSING:
                return  # the provider is gone: a new thread is a matter of `replay rebuild`
            link = {"thread_id": (yield from self._link(journal, key, mirror))}
        yield from self._send_all(journal, key, mirror, link["thread_id"])

    def _link(self, journal: Journal, key: str, mirror: ThreadMirror) -> Effects[str]:
        """A thread for a conversation; of two processes that make one at once, the first one's counts."""
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

        linked: str = yield Work(link)
        return linked

    @staticmethod
    def _is_usable(link: Mapping[str, Any], mirror: ThreadMirror, cut_version: int) -> bool:
        """Whether a run may answer in the thread: it is there, and shows nothing that memory has lost since."""
        return not link["lost"] and link["endpoint"] == mirror.endpoint and link["version"] > cut_version

    def _send_all(self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> Effects[None]:
        """Send until nothing is lacking. Whoever journals while somebody else sends leaves it to them: they look again
        after they have given the thread back."""
        while True:
            holder = new_id()
            seen = (yield Work(lambda: journal.require(key))).version
            claim = partial(self._claim, journal, key, mirror, thread_id, holder, CLAIM_SECONDS)
            head: MirrorHead | None = yield Work(claim)
            if head is None:
                return
            noted = Noted(head.doubts)
            try:
                bringing = self._bring_up(journal, key, mirror, head, noted)
                doubts, version = yield from attended(bringing, Renewing(claim, CLAIM_SECONDS))
            except BaseException:
                left = tuple(young(noted.doubts))
                yield Work(partial(self._heads.release, stream_of(key), mirror.name, holder, left))
                raise
            done = MirrorHead(thread_id, version, settled=True, doubts=tuple(young(doubts)))
            yield Work(partial(self._heads.put, stream_of(key), mirror.name, done, holder))
            if (yield Work(lambda: journal.require(key))).version == seen:
                return

    def _bring_up(
        self, journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead, noted: Noted
    ) -> Effects[tuple[Sequence[Doubt], int]]:
        """Send what a thread lacks; the writes that may still land, and the version that the thread holds."""
        if head.settled and not head.doubts:
            items, version = yield Work(partial(newer_items, journal, key, mirror, head))
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
        yield Work(partial(record_deleted, journal, key, mirror, head.thread_id, look.version, delivered.deleted))
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
        """The request, once its thread holds all that it lacked, or with that."""
        if not backend.takes_unsent and not any(doubt.asked for doubt in head.doubts):
            doubts, version = yield from self._bring_up(journal, request.key, mirror, head, noted)
            return replace(request, thread_version=version, doubts=doubts)
        if head.settled and not head.doubts:
            unsent, version = yield Work(partial(newer_items, journal, request.key, mirror, head))
            return replace(request, thread_version=version, unsent=unsent)
        look = yield from self._looked(journal, request.key, mirror, head, noted, request.exchange_id)
        request = replace(request, thread_version=look.version, doubts=look.doubts, found=look.found)
        if look.found:
            version = yield Work(lambda: version_with(journal, request.key, look))
            return replace(request, thread_version=version)
        if backend.takes_unsent:
            unsent = lacking(look.journal, look.thread)
            return replace(request, unsent=unsent, doubts=sent_again(look.doubts, unsent))
        delivered = yield from bring_up(mirror, head.thread_id, look.journal, look.thread, look.doubts, note=noted)
        yield Work(
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
        """Read a thread back, after what is provably a late copy of ours was taken out; with an exchange, what an earlier
        run of it left there is kept and told. `quiet` where somebody else tells what is foreign."""
        thread_id = head.thread_id
        ours = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id == exchange_id]
        others = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id != exchange_id]
        deleted = [*(yield from mirror.sweep(thread_id, ours, completed=False))]
        deleted += yield from mirror.sweep(thread_id, others, completed=True)
        items, version = yield Work(partial(whole_items, journal, key, mirror, thread_id))
        thread = yield from mirror.read(thread_id)
        doubts: Sequence[Doubt] = head.doubts
        late, still_open = yield Work(partial(late_copies, sent_before(items, head), thread, doubts))
        late = late or left_behind(items, thread, [doubt for doubt in doubts if doubt.exchange_id != exchange_id])
        if late:
            yield from taken_out(mirror, thread_id, late, doubts, still_open, noted)
            doubts = still_open
            gone = {item.item_id for item in late}
            deleted += gone
            thread = [item for item in thread if item.item_id not in gone]
        yield Work(partial(record_deleted, journal, key, mirror, thread_id, version, deleted))
        asked = any(doubt.asked and doubt.exchange_id == exchange_id for doubt in head.doubts)
        found = said_behind(items, thread) if asked else ()
        foreign = len(thread) - len(found) - len(items) + len(lacking(items, thread))
        if foreign and not quiet:
            told = "%s thread of %r holds %d entries that are not the journal's: threadledger replay verify %s"
            logger.warning(told, mirror.name, key, foreign, key)
        return Look(items, thread, version, doubts, found, deleted)

    def _claimed(
        self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, holder: str, seconds: float
    ) -> Effects[MirrorHead]:
        claim = partial(self._claim, journal, key, mirror, thread_id, holder, seconds)
        for _ in range(CLAIM_ATTEMPTS_MAX):
            head: MirrorHead | None = yield Work(claim)
            if head is not None:
                return head
            yield Pause(CLAIM_WAIT_SECONDS)
        message = "another process is writing to the thread"
        raise ProviderRefused(Failure("error", code="conversation_locked", message=message, thread_id=thread_id))

    def _claim(
        self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, holder: str, seconds: float
    ) -> MirrorHead | None:
        """The thread, taken for writing. Where whoever held it never gave it back, it stopped in the middle of a run: what
        that run wrote is in doubt."""
        until = now() + timedelta(seconds=seconds)
        given_up = journal.require(key).state.abandoned.keys()  # whoever is still at one of these has lost its place
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
        logger.warning("%s thread of %r lags behind: %s (%s)", mirror.name, key, cause.value, refused)


def _state(journal: Journal, key: str) -> ConversationState:
    """The state of a conversation, once the runs are closed that a crash left open."""
    state = journal.require(key).state
    if state.next_deadline is None or state.next_deadline > to_iso(now()):
        return state
    journal.commit(key, lambda it: it.close_overdue_runs())
    return journal.require(key).state
