"""The outbox: the journal's messages to a thread, in order, at least once, reconciled after a write whose answer is lost.

How far a thread holds the journal is noted beside the log. The note says `settled=False` while a write is under way: a
crash, or an answer that never comes, leaves it so, and the thread is read before anything is sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from threadledger.domain import (
    Backend,
    BackendRequest,
    Cause,
    Conversation,
    Failure,
    Journal,
    Memory,
    MirrorHead,
    MirrorHeads,
    ProviderRefused,
    Role,
    ThreadItem,
    ThreadMirror,
    bring_up,
    diagnose,
    fold_memory,
    lacking,
    limits,
    new_id,
    now,
    stream_of,
)

logger = logging.getLogger("threadledger.threads")

CLAIM_SECONDS = 600.0
"""How long whoever sends to a thread may take; after that it counts as crashed, and the thread is read."""

CLAIM_ATTEMPTS_MAX = 25
CLAIM_WAIT_SECONDS = 0.2
"""How often, and how long apart, a run asks for a thread that somebody else is writing to."""


class ThreadOutbox:
    """`Outbox` over the mirrors that are set up; `always` names those that every conversation gets a thread of."""

    def __init__(
        self,
        mirrors: Mapping[str, ThreadMirror],
        heads: MirrorHeads,
        always: Sequence[str] = (),
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._mirrors = mirrors
        self._heads = heads
        self._always = always
        self._wait = wait

    def mirror(self, journal: Journal, key: str) -> None:
        """Send what the threads of a conversation lack. A thread that was lost is not made anew here: see `rebuild`."""
        if not self._mirrors:
            return
        state = journal.require(key).state
        if state.open_runs:
            return  # the run may be writing to the thread at this moment; its end mirrors, or its closing after a crash
        links = state.links
        for name in dict.fromkeys((*self._always, *links)):
            link = links.get(name)
            mirror = self._mirrors.get(name)
            if mirror is None or (link is not None and (link["lost"] or link["endpoint"] != mirror.endpoint)):
                continue
            try:
                thread_id = link["thread_id"] if link is not None else self._link(journal, key, mirror)
                self._send_all(journal, key, mirror, thread_id)
            except ProviderRefused as refused:
                self._not_reached(journal, key, mirror, refused)

    def prepare(self, journal: Journal, request: BackendRequest, backend: Backend) -> BackendRequest:
        """The request with its thread; a thread that was lost, or is at another endpoint, is made anew from the journal."""
        mirror = self._mirrors.get(backend.thread or "")
        if mirror is None:
            return request
        key = request.key
        state = journal.require(key).state
        link = state.links.get(mirror.name)
        usable = link is not None and self._is_usable(link, mirror, state.cut_version)
        thread_id = link["thread_id"] if link is not None and usable else self._link(journal, key, mirror)
        seconds = request.timeout_seconds + limits.RUN_GRACE_SECONDS
        head = self._claim_patiently(key, mirror, thread_id, request.exchange_id, seconds)
        unsent, version = self._unsent(journal, key, mirror, head)
        if not backend.takes_unsent:
            self._add(journal, key, mirror, thread_id, unsent, version)
            unsent = ()
        return replace(request, thread_id=thread_id, thread_version=version, unsent=unsent)

    def release(self, key: str, mirror: str, exchange_id: str) -> None:
        """Give the thread back; what the failed run left there is read before the next write."""
        self._heads.release(stream_of(key), mirror, exchange_id)

    def settle(self, key: str, mirror: str, thread_id: str, version: int, holder: str | None = None) -> None:
        """Note that the thread holds everything up to a version."""
        self._heads.put(stream_of(key), mirror, MirrorHead(thread_id, version, settled=True), holder)

    def _link(self, journal: Journal, key: str, mirror: ThreadMirror) -> str:
        """A thread for a conversation; of two processes that make one at once, the first one's counts."""
        made = mirror.create(key)

        def decide(conversation: Conversation) -> str:
            link = conversation.state.links.get(mirror.name)
            if link is not None and self._is_usable(link, mirror, conversation.state.cut_version):
                return str(link["thread_id"])
            conversation.link_thread(mirror.name, made, mirror.endpoint)
            return made

        linked = journal.commit(key, decide)
        if linked == made:
            self._heads.put(stream_of(key), mirror.name, MirrorHead(made, 0, settled=True))
        return linked

    @staticmethod
    def _is_usable(link: Mapping[str, Any], mirror: ThreadMirror, cut_version: int) -> bool:
        """Whether a run may answer in the thread: it is there, and shows nothing that memory has lost since."""
        return not link["lost"] and link["endpoint"] == mirror.endpoint and link["version"] > cut_version

    def _send_all(self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> None:
        """Send until nothing is lacking. Whoever journals while somebody else sends leaves it to them: they look again
        after they have given the thread back."""
        while True:
            seen, holder = journal.require(key).version, new_id()
            until = now() + timedelta(seconds=CLAIM_SECONDS)
            head = self._heads.claim(stream_of(key), mirror.name, thread_id, holder, until)
            if head is None:
                return
            try:
                items, version = self._unsent(journal, key, mirror, head)
                self._add(journal, key, mirror, thread_id, items, version)
            except BaseException:
                self._heads.release(stream_of(key), mirror.name, holder)
                raise
            self._heads.put(stream_of(key), mirror.name, MirrorHead(thread_id, version, settled=True), holder)
            if journal.require(key).version == seen:
                return

    def _claim_patiently(
        self, key: str, mirror: ThreadMirror, thread_id: str, exchange_id: str, seconds: float
    ) -> MirrorHead:
        for _ in range(CLAIM_ATTEMPTS_MAX):
            until = now() + timedelta(seconds=seconds)
            head = self._heads.claim(stream_of(key), mirror.name, thread_id, exchange_id, until)
            if head is not None:
                return head
            self._wait(CLAIM_WAIT_SECONDS)
        message = "another process is writing to the thread"
        raise ProviderRefused(Failure("error", code="conversation_locked", message=message, thread_id=thread_id))

    def _add(
        self,
        journal: Journal,
        key: str,
        mirror: ThreadMirror,
        thread_id: str,
        items: Sequence[ThreadItem],
        version: int,
    ) -> None:
        if not items:
            return
        try:
            mirror.add(thread_id, items)
        except ProviderRefused:
            rendered = mirror.render(journal.memory(key, at=version).settled(), thread_id)
            bring_up(mirror, thread_id, rendered.items, self._wait)

    def _unsent(
        self, journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead
    ) -> tuple[Sequence[ThreadItem], int]:
        """What the thread lacks, and the version it holds once it has that."""
        if not head.settled:
            memory = journal.memory(key).settled()
            rendered = mirror.render(memory, head.thread_id).items
            return lacking(rendered, mirror.read(head.thread_id)), _version(memory)
        newer = fold_memory(journal.history(key, after=head.version))
        if any(each.message.role is Role.TOOL or each.message.calls() for each in newer.messages):
            newer = journal.memory(key)  # calls and results have to be seen together
        newer = newer.settled()
        rendered = mirror.render(newer, head.thread_id).items
        return [item for item in rendered if item.version > head.version], max(_version(newer), head.version)

    def _not_reached(self, journal: Journal, key: str, mirror: ThreadMirror, refused: ProviderRefused) -> None:
        cause = diagnose(refused.failure)
        lost = refused.failure.thread_id
        if lost is not None and cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
            journal.commit(key, lambda it: it.lose_thread(mirror.name, lost, cause.value))
        logger.warning("%s thread of %r lags behind: %s (%s)", mirror.name, key, cause.value, refused)


def _version(memory: Memory) -> int:
    return memory.messages[-1].version if memory.messages else 0
