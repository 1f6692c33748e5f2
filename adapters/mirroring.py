"""The outbox: the journal's messages to a thread, in order, at least once, reconciled after a write whose answer is lost.

How far a thread holds the journal is noted beside the log. The note says `settled=False` while a write is under way: a
crash, or an answer that never comes, leaves it so, and the thread is read before anything is sent again. Writes that may
still land are noted too (`Doubt`): as long as they may, the thread is read again, and surplus copies of ours are taken out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    Doubt,
    Effect,
    Effects,
    Failure,
    Health,
    Journal,
    Memory,
    Message,
    MirrorHead,
    MirrorHeads,
    Pause,
    ProviderRefused,
    Role,
    ThreadItem,
    ThreadMirror,
    Work,
    attended,
    bring_up,
    common_prefix,
    diagnose,
    digest,
    fold_memory,
    is_uncertain,
    is_worth_a_retry,
    lacking,
    limits,
    new_id,
    now,
    open_doubts,
    stream_of,
    surplus,
    taken_out,
    to_iso,
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
                yield from self._mirror_unless_unwell(journal, key, mirror, state.links.get(name))

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
        request = replace(request, thread_id=thread_id, doubts=head.doubts, journal=_Overheard(request.journal))
        noted = _Noted(head.doubts)
        try:
            return (yield from self._ready(journal, request, mirror, backend, head, noted))
        except BaseException:
            yield Work(lambda: self.release(replace(request, doubts=noted.doubts), mirror.name))
            raise

    def release(self, request: BackendRequest, mirror: str, uncertain: bool = False) -> None:
        """Give the thread back; what the failed run left there is read before the next write."""
        doubts = tuple(_young(request.doubts))
        if uncertain:
            asked = Doubt.of(_asked_last(request), to_iso(now()), asked=True)
            doubts += (replace(asked, exchange_id=request.exchange_id, run_id=request.run_id),)
        self._heads.release(stream_of(request.key), mirror, request.exchange_id, doubts)

    def settle(self, request: BackendRequest, mirror: str, version: int) -> None:
        """Note that the thread holds everything up to a version. What was found there has landed: it is in doubt no more."""
        found = request.exchange_id if request.found else None
        doubts = tuple(doubt for doubt in _young(request.doubts) if not (doubt.asked and doubt.exchange_id == found))
        if request.thread_id is not None:
            head = MirrorHead(request.thread_id, version, settled=True, doubts=doubts)
            self._heads.put(stream_of(request.key), mirror, head, request.exchange_id)

    def written(self, key: str, mirror: str, thread_id: str, version: int) -> None:
        """Note that a thread was written anew and holds everything up to a version."""
        self._heads.put(stream_of(key), mirror, MirrorHead(thread_id, version, settled=True))

    def _mirror_unless_unwell(
        self, journal: Journal, key: str, mirror: ThreadMirror, link: Mapping[str, Any] | None
    ) -> Effects[None]:
        """Bring one thread up to the journal. A provider that failed many times in a row is let be for a while, so that
        journaling does not wait for it."""
        name = f"{mirror.name} threads"
        if self._health.cooling(name, now()) is not None:
            return
        try:
            yield from self._mirror(journal, key, mirror, link)
        except ProviderRefused as refused:
            self._health.saw(name, refused.failure, now())
            yield Work(partial(self._not_reached, journal, key, mirror, refused))
        else:
            self._health.saw(name, None, now())

    def _mirror(
        self, journal: Journal, key: str, mirror: ThreadMirror, link: Mapping[str, Any] | None
    ) -> Effects[None]:
        if link is not None and link["endpoint"] != mirror.endpoint:
            return
        if link is None or link["lost"]:
            if link is not None and link["lost"] != Cause.THREAD_MISSING:
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
                self._heads.put(stream_of(key), mirror.name, MirrorHead(made, 0, settled=True))
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
            noted = _Noted(head.doubts)
            try:
                bringing = self._bring_up(journal, key, mirror, head, noted)
                doubts, version = yield from attended(bringing, _Renewing(claim))
            except BaseException:
                left = tuple(_young(noted.doubts))
                yield Work(partial(self._heads.release, stream_of(key), mirror.name, holder, left))
                raise
            done = MirrorHead(thread_id, version, settled=True, doubts=tuple(_young(doubts)))
            yield Work(partial(self._heads.put, stream_of(key), mirror.name, done, holder))
            if (yield Work(lambda: journal.require(key))).version == seen:
                return

    def _bring_up(
        self, journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead, noted: _Noted
    ) -> Effects[tuple[Sequence[Doubt], int]]:
        """Send what a thread lacks; the writes that may still land, and the version that the thread holds."""
        if head.settled and not head.doubts:
            items, version = yield Work(partial(_newer, journal, key, mirror, head))
            if (yield from _sent(mirror, head.thread_id, items, noted)):
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
        yield Work(partial(_record, journal, key, mirror, head.thread_id, look.version, delivered.deleted))
        return delivered.doubts, look.version

    def _ready(
        self,
        journal: Journal,
        request: BackendRequest,
        mirror: ThreadMirror,
        backend: Backend,
        head: MirrorHead,
        noted: _Noted,
    ) -> Effects[BackendRequest]:
        """The request, once its thread holds all that it lacked, or with that."""
        if not backend.takes_unsent and not any(doubt.asked for doubt in head.doubts):
            doubts, version = yield from self._bring_up(journal, request.key, mirror, head, noted)
            return replace(request, thread_version=version, doubts=doubts)
        if head.settled and not head.doubts:
            unsent, version = yield Work(partial(_newer, journal, request.key, mirror, head))
            return replace(request, thread_version=version, unsent=unsent)
        look = yield from self._looked(journal, request.key, mirror, head, noted, request.exchange_id)
        request = replace(request, thread_version=look.version, doubts=look.doubts, found=look.found)
        if look.found:
            version = yield Work(lambda: _version_with(journal, request.key, look))
            return replace(request, thread_version=version)
        if backend.takes_unsent:
            return replace(request, unsent=lacking(look.journal, look.thread))
        delivered = yield from bring_up(mirror, head.thread_id, look.journal, look.thread, look.doubts, note=noted)
        yield Work(partial(_record, journal, request.key, mirror, head.thread_id, look.version, delivered.deleted))
        return replace(request, doubts=delivered.doubts)

    def _looked(
        self,
        journal: Journal,
        key: str,
        mirror: ThreadMirror,
        head: MirrorHead,
        noted: _Noted,
        exchange_id: str | None = None,
    ) -> Effects[Look]:
        """Read a thread back, after what is provably a late copy of ours was taken out; with an exchange, what an earlier
        run of it left there is kept and told."""
        thread_id = head.thread_id
        ours = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id == exchange_id]
        others = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id != exchange_id]
        deleted = [*(yield from mirror.sweep(thread_id, ours, completed=False))]
        deleted += yield from mirror.sweep(thread_id, others, completed=True)
        items, version = yield Work(partial(_whole, journal, key, mirror, thread_id))
        thread = yield from mirror.read(thread_id)
        doubts: Sequence[Doubt] = head.doubts
        sent = _sent_before(items, head)
        late: Sequence[ThreadItem] = surplus(sent, thread, doubts) if doubts else []
        still_open = open_doubts(sent, thread, doubts) if late else doubts
        late = late or _left_behind(items, thread, [doubt for doubt in doubts if doubt.exchange_id != exchange_id])
        if late:
            yield from taken_out(mirror, thread_id, late, doubts, still_open, noted)
            doubts = still_open
            gone = {item.item_id for item in late}
            deleted += gone
            thread = [item for item in thread if item.item_id not in gone]
        yield Work(partial(_record, journal, key, mirror, thread_id, version, deleted))
        asked = any(doubt.asked and doubt.exchange_id == exchange_id for doubt in head.doubts)
        found = _found(items, thread) if asked else ()
        foreign = len(thread) - len(found) - len(items) + len(lacking(items, thread))
        if foreign:
            told = "%s thread of %r holds %d entries that are not the journal's: threadledger replay verify %s"
            logger.warning(told, mirror.name, key, foreign, key)
        return Look(items, thread, version, doubts, found)

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
        head = self._heads.claim(stream_of(key), mirror.name, thread_id, holder, now() + timedelta(seconds=seconds))
        left = journal.exchanges(key).by_id.get(head.left_by or "") if head is not None else None
        ended = [run for run in left.runs if run.state != "open"] if left is not None else []
        if head is None or left is None or not ended or ended[-1].completed:
            return head
        asked = {each.version for each in journal.memory(key).messages if each.exchange_id == left.exchange_id}
        items, _ = _whole(journal, key, mirror, thread_id)
        doubt = Doubt.of([item for item in items if item.version in asked], to_iso(now()), asked=True)
        doubt = replace(doubt, exchange_id=left.exchange_id, run_id=ended[-1].run_id)
        return replace(head, settled=False, doubts=(*head.doubts, doubt))

    def _not_reached(self, journal: Journal, key: str, mirror: ThreadMirror, refused: ProviderRefused) -> None:
        cause = diagnose(refused.failure)
        lost = refused.failure.thread_id
        if lost is not None and cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
            journal.commit(key, lambda it: it.lose_thread(mirror.name, lost, cause.value))
        logger.warning("%s thread of %r lags behind: %s (%s)", mirror.name, key, cause.value, refused)


@dataclass(frozen=True)
class Look:
    """A thread read back beside the journal."""

    journal: Sequence[ThreadItem]
    thread: Sequence[ThreadItem]
    version: int
    """The journal's, as it was rendered."""
    doubts: Sequence[Doubt]
    found: Sequence[ThreadItem] = ()


class _Renewing:
    """Claims a thread again while it is written to for long."""

    def __init__(self, claim: Callable[[], Any]) -> None:
        self._claim = claim
        self._at = time.monotonic()

    def __call__(self, effect: Effect) -> Effects[None]:
        if time.monotonic() - self._at > CLAIM_SECONDS / 10:
            self._at = time.monotonic()
            yield Work(self._claim)


class _Noted:
    """The writes to a thread that may still land, as they are known at this moment."""

    def __init__(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = tuple(doubts)

    def __call__(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = tuple(doubts)


class _Overheard:
    """Writes a run's tool calls and results down, and remembers the results: they are the input of its next request."""

    def __init__(self, journal: Callable[[Sequence[Message]], None]) -> None:
        self._journal = journal
        self.results: Sequence[Message] = ()

    def __call__(self, messages: Sequence[Message]) -> None:
        self._journal(messages)
        self.results = [message for message in messages if message.role is Role.TOOL]


def _asked_last(request: BackendRequest) -> Sequence[ThreadItem]:
    """The input of a run's last request, where it took along what the thread lacked."""
    results = request.journal.results if isinstance(request.journal, _Overheard) else ()
    if results and (request.unsent or request.found):
        return [ThreadItem("tool_result", "", each.text, each.tool_call_id or "") for each in results]
    return request.unsent


def _sent_before(journal: Sequence[ThreadItem], head: MirrorHead) -> Sequence[ThreadItem]:
    """What of the journal the thread may hold by our own writes: up to its head, and what is in doubt. A copy of anything
    newer is not the journal's yet, however much it says the same."""
    if head.left_by is not None:
        return journal  # what was sent last was not written down
    doubted = {item.message_id or item.digest for doubt in head.doubts for item in doubt.items}
    return [
        item
        for item in journal
        if item.version <= head.version or item.message_id in doubted or digest([item]) in doubted
    ]


def _sent(mirror: ThreadMirror, thread_id: str, items: Sequence[ThreadItem], noted: _Noted) -> Effects[bool]:
    """Send to a thread that is known to hold all that came before. Whether all is there; otherwise it has to be read, and
    what is in doubt is noted."""
    for start in range(0, len(items), mirror.batch):
        batch = items[start : start + mirror.batch]
        try:
            yield from mirror.add(thread_id, batch)
        except ProviderRefused as refused:
            if is_uncertain(refused.failure):
                noted((Doubt.of(batch, to_iso(now()), whole=True),))
            elif not is_worth_a_retry(refused.failure) or diagnose(refused.failure) is Cause.THREAD_MISSING:
                raise
            return False
        except BaseException:
            noted((Doubt.of(batch, to_iso(now()), whole=True),))
            raise
    return True


def _newer(journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead) -> tuple[Sequence[ThreadItem], int]:
    """What was journaled since the version that a thread holds, and the version it holds with that."""
    newer = fold_memory(journal.history(key, after=head.version))
    if any(each.message.role is Role.TOOL or each.message.calls() for each in newer.messages):
        newer = journal.memory(key)  # calls and results have to be seen together
    newer = newer.settled()
    rendered = mirror.render(newer, head.thread_id).items
    return [item for item in rendered if item.version > head.version], max(_version(newer), head.version)


def _whole(journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> tuple[Sequence[ThreadItem], int]:
    memory = journal.memory(key).settled()
    return mirror.render(memory, thread_id).items, _version(memory)


def _left_behind(
    journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]
) -> Sequence[ThreadItem]:
    """What a model has said behind the question of a run that nobody followed to its end, where the journal goes on with
    something else: nobody will take it for an answer any more."""
    same = common_prefix(journal, thread)
    asked = {doubt.items[-1].digest for doubt in doubts if doubt.asked and doubt.items}
    goes_on = 0 < same < len(journal) and digest([journal[same - 1]]) in asked
    return _found(journal[:same], thread) if goes_on else ()


def _found(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
    """What a model has said behind all that is journaled; nothing where anything else stands there."""
    if common_prefix(journal, thread) < len(journal):
        return ()
    said = thread[len(journal) :]
    models = all(item.kind == "tool_call" or (item.kind == "message" and item.name == "assistant") for item in said)
    return said if models else ()


def _record(
    journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, version: int, deleted: Sequence[str]
) -> None:
    """Record what was taken out of a thread."""
    if deleted:
        reason = "what was sent once had landed again, or was left by a run that nobody followed any more"
        ids = sorted(deleted)
        journal.commit(key, lambda it: it.reconcile_thread(mirror.name, thread_id, version, deleted=ids, reason=reason))


def _young(doubts: Sequence[Doubt]) -> Iterator[Doubt]:
    """The doubts about writes that may still land."""
    oldest = to_iso(now() - timedelta(seconds=limits.DOUBT_SECONDS))
    return (doubt for doubt in doubts if doubt.at > oldest)


def _version_with(journal: Journal, key: str, look: Look) -> int:
    """The version that a thread holds with what was found there: calls may be journaled that still wait for their results."""
    ids = {item.call_id for item in look.found if item.call_id}
    messages = journal.memory(key).messages if ids else ()
    return max(
        [look.version, *(each.version for each in messages if ids.intersection(c.id for c in each.message.calls()))]
    )


def _state(journal: Journal, key: str) -> ConversationState:
    """The state of a conversation, once the runs are closed that a crash left open."""
    state = journal.require(key).state
    if state.next_deadline is None or state.next_deadline > to_iso(now()):
        return state
    journal.commit(key, lambda it: it.close_overdue_runs())
    return journal.require(key).state


def _version(memory: Memory) -> int:
    return memory.messages[-1].version if memory.messages else 0
