"""The outbox: the journal's messages to a thread, in order, at least once, reconciled after a write whose answer is lost.

How far a thread holds the journal is noted beside the log. The note says `settled=False` while a write is under way: a
crash, or an answer that never comes, leaves it so, and the thread is read before anything is sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from threadledger.domain import (
    Backend,
    BackendRequest,
    Cause,
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
    stream_of,
)

logger = logging.getLogger("threadledger")


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
                self._send(journal, key, mirror, thread_id)
            except ProviderRefused as refused:
                self._not_reached(journal, key, mirror, refused)

    def prepare(self, journal: Journal, request: BackendRequest, backend: Backend) -> BackendRequest:
        """The request with its thread; a thread that was lost, or is at another endpoint, is made anew from the journal."""
        mirror = self._mirrors.get(backend.thread or "")
        if mirror is None:
            return request
        key = request.key
        link = journal.require(key).state.links.get(mirror.name)
        usable = link is not None and not link["lost"] and link["endpoint"] == mirror.endpoint
        thread_id = link["thread_id"] if link is not None and usable else self._link(journal, key, mirror)
        if not backend.takes_unsent:
            version = self._send(journal, key, mirror, thread_id)
            unsent: Sequence[ThreadItem] = ()
        else:
            unsent, version = self._unsent(journal, key, mirror, thread_id)
        # The run writes to the thread itself: until its end is recorded, what the thread holds has to be read.
        self._note(key, mirror, thread_id, self._held_version(key, mirror, thread_id), settled=False)
        return replace(request, thread_id=thread_id, thread_version=version, unsent=unsent)

    def settle(self, key: str, mirror: str, thread_id: str, version: int) -> None:
        """Note that the thread holds everything up to a version."""
        self._heads.put(stream_of(key), mirror, MirrorHead(thread_id, version, settled=True))

    def _link(self, journal: Journal, key: str, mirror: ThreadMirror) -> str:
        thread_id = mirror.create(key)
        journal.commit(key, lambda it: it.link_thread(mirror.name, thread_id, mirror.endpoint))
        self._note(key, mirror, thread_id, 0, settled=True)
        return thread_id

    def _send(self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> int:
        """Send what the thread lacks; returns the version that it holds then."""
        items, version = self._unsent(journal, key, mirror, thread_id)
        if items:
            self._note(key, mirror, thread_id, self._held_version(key, mirror, thread_id), settled=False)
            try:
                mirror.add(thread_id, items)
            except ProviderRefused:
                rendered = mirror.render(fold_memory(journal.history(key)).settled(), thread_id)
                bring_up(mirror, thread_id, rendered.items, self._wait)
        self._note(key, mirror, thread_id, version, settled=True)
        return version

    def _unsent(
        self, journal: Journal, key: str, mirror: ThreadMirror, thread_id: str
    ) -> tuple[Sequence[ThreadItem], int]:
        """What the thread lacks, and the version it holds once it has that."""
        head = self._heads.get(stream_of(key), mirror.name)
        if head is None or head.thread_id != thread_id or not head.settled:
            memory = fold_memory(journal.history(key)).settled()
            rendered = mirror.render(memory, thread_id).items
            return lacking(rendered, mirror.read(thread_id)), _version(memory)
        newer = fold_memory(journal.history(key, after=head.version))
        if any(each.message.role is Role.TOOL or each.message.calls() for each in newer.messages):
            newer = fold_memory(journal.history(key))  # calls and results have to be seen together
        newer = newer.settled()
        rendered = mirror.render(newer, thread_id).items
        return [item for item in rendered if item.version > head.version], max(_version(newer), head.version)

    def _held_version(self, key: str, mirror: ThreadMirror, thread_id: str) -> int:
        head = self._heads.get(stream_of(key), mirror.name)
        return head.version if head is not None and head.thread_id == thread_id else 0

    def _note(self, key: str, mirror: ThreadMirror, thread_id: str, version: int, *, settled: bool) -> None:
        head = MirrorHead(thread_id, version, settled)
        if self._heads.get(stream_of(key), mirror.name) != head:
            self._heads.put(stream_of(key), mirror.name, head)

    def _not_reached(self, journal: Journal, key: str, mirror: ThreadMirror, refused: ProviderRefused) -> None:
        cause = diagnose(refused.failure)
        lost = refused.failure.thread_id
        if lost is not None and cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE}:
            journal.commit(key, lambda it: it.lose_thread(mirror.name, lost, cause.value))
        logger.warning("%s thread of %r lags behind: %s (%s)", mirror.name, key, cause.value, refused)


def _version(memory: Memory) -> Any:
    return memory.messages[-1].version if memory.messages else 0
