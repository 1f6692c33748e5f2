"""Rebuild a thread: write a new one from the journal, read it back, and link it only if it is equal.

This never calls a model: nothing here can reach a backend.

A rebuild to a file writes the memory of conversations, one line of JSON each, as `import` reads it. A plan records the
version of each conversation, and applying it checks for later changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import msgspec

from ..conversation import STATE_SCHEMA, Conversation, ThreadLink
from ..conversation import events as e
from ..conversation.attachments import inlined
from ..effects import Effects, Wait, work
from ..errors import ConversationChanged, ProviderRefused, StoreError, ThreadledgerError
from ..failures import Cause, diagnose
from ..ids import from_iso, to_iso
from ..journal import Journal, MemoryFile
from ..journal.outcomes import note_outcome
from ..threads import (
    Delivered,
    Doubt,
    ThreadItem,
    ThreadMirror,
    ThreadOutbox,
    ThreadState,
    ThreadView,
    Verifier,
    bring_up,
    compare,
    digest,
    retried,
)
from .jobs import Jobs, JobState
from .pinned import Pinned
from .plan import CHANGED, ApplyKeywords, ApplyOptions, Plan, Progress, has_changed

EQUAL = "the thread equals the journal"
"""Reason for skipping an item whose thread needs no repair."""

READ_BACK_ATTEMPTS_MAX = 3
"""Maximum reads of a new thread: it is read again while it differs from the journal and has unconfirmed writes."""


@dataclass(frozen=True, slots=True)
class RebuildItem:
    """Describe one conversation of a rebuild, as planned and with its outcome."""

    key: str
    backend: str
    version: int = 0
    old_thread_id: str | None = None
    thread_id: str | None = None
    messages: int = 0
    sent: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""
    verified: bool = False
    state: str = "planned"
    reason: str = ""
    requests: int = 0
    """Number of requests that a plan expects it to need."""
    kind: str = ""
    """Why the item is skipped: `changed` since the plan, or `empty`; empty text if there is another reason or none."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the item; docs/commands.md lists the keys under `replay rebuild`."""
        left_out = {"version", "requests", "kind"}
        found = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        return found | {"losses": dict(self.losses)}


@dataclass(frozen=True)
class _RebuildLook:
    """Hold the data that the rebuild of one conversation needs."""

    item: RebuildItem
    view: ThreadView
    link: ThreadLink | None = None
    unfinished: str | None = None
    """Thread that an earlier attempt at the same memory had started to write."""
    rebuilt: bool = False
    """Whether an earlier attempt at this item had already linked the new thread."""


@dataclass(frozen=True, slots=True)
class RebuildOutline:
    """Describe a rebuild by the stored counts of its conversations, without their messages.

    The number of conversations and of linked threads is exact. Messages that are no longer in memory are still counted;
    whether a conversation has nothing to write because of that is found out when it is rebuilt.
    """

    threads: int = 0
    """Number of conversations that have messages."""
    empty: int = 0
    """Number of conversations that never had a message: they are skipped."""
    messages: int = 0
    linked: int = 0
    """Number of threads that are linked already."""
    requests: int = 0


class Rebuilder:
    """Rewrite the threads of a ledger."""

    def __init__(self, journal: Journal, outbox: ThreadOutbox | None, verifier: Verifier) -> None:
        self._journal = journal
        self._outbox = outbox
        self._verifier = verifier

    def plan(self, key: str, to: str, at: int | datetime | None = None) -> RebuildItem:
        """Return the planned item of one conversation. Nothing is sent.

        Raises:
            ConversationNotFound, InvalidInput: no such conversation or kind of thread.
        """
        return self._rendered(key, to, at).item

    def outline(self, keys: Iterable[str], to: str) -> RebuildOutline:
        """Return the sums of a rebuild of these conversations; they are read page by page, and no message is read."""
        threads = empty = messages = linked = requests = 0
        mirror = self._verifier.reach(to)
        for counts in _counted(self._journal, keys):
            if not counts.messages:
                empty += 1
                continue
            link = counts.links.get(to)
            threads += 1
            messages += counts.messages
            linked += link is not None
            requests += _requests(mirror, counts.messages, linked=link is not None and not link.lost)
        return RebuildOutline(threads, empty, messages, linked, requests)

    def rebuilding(
        self, key: str, to: str, version: int, at: int | datetime | None = None, fresh: bool = False
    ) -> Effects[RebuildItem]:
        """Rewrite the thread of a conversation that was planned at a version.

        Provider failures are reported in the item, never raised.
        """
        planned = RebuildItem(key, to, version)
        try:
            look = yield from work(partial(self._look, planned, at))
            return (yield from self._rebuild(look, at, fresh))
        except ProviderRefused as refused:
            return replace(planned, state="failed", reason=f"{diagnose(refused.failure).value}: {refused}")
        except ThreadledgerError as error:
            return replace(planned, state="failed", reason=str(error))

    def _look(self, planned: RebuildItem, at: int | datetime | None) -> _RebuildLook:
        key, to = planned.key, planned.backend
        if at is None and has_changed(self._journal, key, planned.version):
            return _RebuildLook(replace(planned, state="skipped", reason=CHANGED, kind="changed"), ThreadView())
        look = self._rendered(key, to, at)
        unfinished = self._outbox.unfinished(key, to, look.item.digest) if self._outbox is not None else None
        since = self._journal.history(key, after=planned.version) if look.item.version > planned.version else ()
        digest_now = look.item.digest
        rebuilt = any(
            isinstance(event, e.ThreadRebuilt) and (event.backend, event.digest) == (to, digest_now) for event in since
        )
        return replace(look, unfinished=unfinished, rebuilt=rebuilt)

    def _rendered(self, key: str, to: str, at: int | datetime | None) -> _RebuildLook:
        link = self._journal.require(key).state.links.get(to)
        view = self._verifier.render(key, to, at)
        count = len(view.items)
        item = RebuildItem(
            key,
            to,
            version=view.memory_version,
            old_thread_id=link.thread_id if link else None,
            messages=count,
            losses=view.losses,
            digest=digest(view.items),
            state="planned" if count else "skipped",
            reason="" if count else "nothing to write",
            kind="" if count else "empty",
            requests=_requests(self._verifier.reach(to), count, linked=link is not None and not link.lost),
        )
        return _RebuildLook(item, view, link)

    def _rebuild(self, look: _RebuildLook, at: int | datetime | None, fresh: bool) -> Effects[RebuildItem]:
        item = look.item
        if item.state == "skipped":
            return item
        yield from work(self._journal.wait_until_durable)
        mirror = self._verifier.reach(item.backend)
        if (look.rebuilt or not fresh) and (yield from self._is_sound(look, mirror)):
            found = replace(item, thread_id=item.old_thread_id, verified=True)
            if look.rebuilt:
                return replace(found, state="done", reason="written and linked by an earlier attempt")
            return replace(found, state="skipped", reason=EQUAL)
        thread_id, delivered = yield from self._written(look, mirror)
        thread, delivered = yield from self._read_back(mirror, thread_id, look, delivered)
        written = replace(item, thread_id=thread_id, sent=delivered.sent, verified=digest(thread) == item.digest)
        if not written.verified:
            yield from work(partial(self._note_unfinished, item, None))
            found_there = compare(look.view.items, thread)
            differs = f"{found_there.missing} missing, {found_there.extra} extra, {found_there.different} different"
            return replace(written, state="failed", reason=f"read back: {differs}; not linked")
        try:
            yield from work(partial(self._record, written, mirror, look, delivered.doubts))
        except ConversationChanged as error:
            return replace(written, state="skipped", verified=False, reason=str(error))
        return replace(written, state="done")

    def _written(self, look: _RebuildLook, mirror: ThreadMirror) -> Effects[tuple[str, Delivered]]:
        """Create the thread and write every item, or resume a partly written one."""
        items = look.view.items
        if look.unfinished is not None:
            try:
                return look.unfinished, (yield from bring_up(mirror, look.unfinished, items, unclean=True))
            except ProviderRefused as refused:
                if diagnose(refused.failure) is not Cause.THREAD_MISSING:
                    raise
        thread_id: str = yield from retried(lambda: self._created(look.item.key, mirror))
        yield from work(partial(self._note_unfinished, look.item, thread_id))
        return thread_id, (yield from bring_up(mirror, thread_id, items, held=()))

    def _created(self, key: str, mirror: ThreadMirror) -> Effects[str]:
        if self._outbox is None:
            return (yield from mirror.create(key))
        return (yield from self._outbox.create(key, mirror)).thread_id or ""

    def _read_back(
        self, mirror: ThreadMirror, thread_id: str, look: _RebuildLook, delivered: Delivered
    ) -> Effects[tuple[Sequence[ThreadItem], Delivered]]:
        """Return all entries of the thread, after deleting late copies of our messages."""
        sent, view = delivered.sent, look.view
        thread = yield from retried(lambda: view.read(mirror, thread_id))
        for _ in range(READ_BACK_ATTEMPTS_MAX - 1):
            if not delivered.doubts or digest(thread) == look.item.digest:
                break
            delivered = yield from bring_up(mirror, thread_id, view.items, doubts=delivered.doubts)
            thread = yield from retried(lambda: view.read(mirror, thread_id))
        return thread, replace(delivered, sent=sent)

    def _is_sound(self, look: _RebuildLook, mirror: ThreadMirror) -> Effects[bool]:
        link = look.link
        if link is None or link.lost or link.endpoint != mirror.endpoint:
            return False
        key, thread_id = look.item.key, link.thread_id
        native = yield from work(partial(self._verifier.render, key, look.item.backend, None, thread_id))
        try:
            thread = yield from retried(lambda: native.read(mirror, thread_id))
            found, version = compare(native.held_by(thread), thread).state, native.memory_version
            yield from work(lambda: note_outcome(self._journal, key, mirror.name, link, found.value, version))
            return found is ThreadState.SAME
        except ProviderRefused as refused:
            if diagnose(refused.failure) is not Cause.THREAD_MISSING:
                raise
            return False

    def _note_unfinished(self, item: RebuildItem, thread_id: str | None) -> None:
        if self._outbox is not None:
            self._outbox.note_unfinished(item.key, item.backend, thread_id, item.digest)

    def _record(self, item: RebuildItem, mirror: ThreadMirror, look: _RebuildLook, doubts: Sequence[Doubt]) -> None:
        """Link the new thread. If another process has linked a different thread in the meantime, that one is kept.

        Raises:
            ConversationChanged: a different thread was linked.
        """
        rebuilt = {
            "backend": item.backend,
            "thread_id": item.thread_id,
            "endpoint": mirror.endpoint,
            "memory_version": item.version,
            "message_count": item.messages,
            "digest": item.digest,
            "losses": dict(item.losses),
        }

        link = look.link

        def decide(conversation: Conversation) -> None:
            now_linked = conversation.state.links.get(item.backend)
            if (now_linked and now_linked.thread_id) != (link and link.thread_id):
                raise ConversationChanged("another thread was linked in the meantime: plan again")
            conversation.rebuild_thread(rebuilt)

        noted = None
        if self._outbox is not None and item.thread_id is not None:
            noted = self._outbox.written(item.key, item.backend, item.thread_id, look.view, doubts)
        self._journal.commit(item.key, decide, also=noted)
        new = ThreadLink(thread_id=item.thread_id or "", endpoint=mirror.endpoint)
        note_outcome(self._journal, item.key, item.backend, new, ThreadState.SAME.value, item.version)


class _Link(msgspec.Struct):
    lost: str | None = None


class _Counts(msgspec.Struct):
    """Hold what an outline needs of a state, which is decoded in a fraction of the time of the whole."""

    messages: int
    links: dict[str, _Link]


_counts_in = msgspec.json.Decoder(_Counts).decode


def _counted(journal: Journal, keys: Iterable[str]) -> Iterator[_Counts]:
    for head in journal.heads_of(keys):
        try:
            if head.state_schema == STATE_SCHEMA:
                yield _counts_in(head.state)
                continue
        except ValueError:  # damaged, or written by another version
            pass
        yield _counts_in(journal.state_of(head).as_json())


def _requests(mirror: ThreadMirror, items: int, *, linked: bool) -> int:
    """Estimate the number of requests: read the linked thread, create a new one, write it and read it back."""
    if not items:
        return 0
    pages = -(-items // mirror.page)
    return 1 + -(-items // mirror.batch) + pages * (2 if linked else 1)


class RebuildPlan(Plan[RebuildItem]):
    """Plan to rewrite threads.

    `planned` yields the items one at a time: a plan for a whole ledger keeps only keys and versions.
    """

    kind = "rebuild"

    def __init__(
        self,
        jobs: Jobs,
        wait: Wait,
        rebuilder: Rebuilder,
        pinned: Pinned,
        to: str,
        at: int | datetime | None = None,
        fresh: bool = False,
    ) -> None:
        """Create a plan. `pinned` holds keys, each with the version of the conversation when the plan was made."""
        super().__init__(jobs, wait)
        self.to = to
        self.at = at
        self.fresh = fresh
        self._rebuilder = rebuilder
        self._pinned = pinned

    def __len__(self) -> int:
        return len(self._pinned)

    def planned(self) -> Iterator[RebuildItem]:
        """Yield what is planned, one conversation at a time."""
        return (self._rebuilder.plan(key, self.to, self.at) for key, _ in self._pinned)

    def outline(self) -> RebuildOutline:
        """Return the sums of the plan without reading messages, for a plan of many conversations."""
        return self._rebuilder.outline((key for key, _ in self._pinned), self.to)

    def options(self) -> dict[str, Any]:
        at = to_iso(self.at) if isinstance(self.at, datetime) else self.at
        return {"to": self.to, "at": at, "fresh": self.fresh}

    def pins(self) -> Iterator[Mapping[str, Any]]:
        return ({"key": key, "version": version} for key, version in self._pinned)

    def step(self, pin: Mapping[str, Any]) -> Effects[RebuildItem]:
        return self._rebuilder.rebuilding(pin["key"], self.to, pin["version"], self.at, self.fresh)


def at_in(options: Mapping[str, Any]) -> int | datetime | None:
    """Return the version or time in a rebuild's options."""
    at = options.get("at")
    return from_iso(at) if isinstance(at, str) else at


BACKEND = "file"
"""Value of an item's `backend` in a rebuild to a file, instead of a kind of thread."""


# This is not a job: no file appears before it is complete, and the same input gives the same file.
class FileRebuildPlan:
    """Plan to write the memory of conversations to one file. It has the same methods as `RebuildPlan`."""

    kind = "rebuild"
    job: JobState | None = None
    stopped_by_limit = False

    def __init__(
        self,
        journal: Journal,
        file: MemoryFile,
        path: Path,
        pinned: Pinned,
        at: int | datetime | None = None,
    ) -> None:
        self._journal = journal
        self._file = file
        self._path = path
        self._pinned = pinned
        self._at = at

    def __len__(self) -> int:
        return len(self._pinned)

    @property
    def items(self) -> list[RebuildItem]:
        """Return the planned item of each conversation."""
        return list(self.planned())

    def planned(self) -> Iterator[RebuildItem]:
        """Yield what is planned, one conversation at a time."""
        return (self._planned(key) for key, _ in self._pinned)

    def outline(self) -> RebuildOutline:
        """Return the sums of the plan without reading messages; every conversation is written, also an empty one."""
        counts = _counted(self._journal, (key for key, _ in self._pinned))
        return RebuildOutline(len(self._pinned), messages=sum(each.messages for each in counts))

    def apply(self, progress: Progress | None = None, **how: Unpack[ApplyKeywords]) -> list[RebuildItem]:
        """Write the file; it replaces an existing one only after everything was read back and is equal.

        A file is written by one worker and without requests: of the options, only `stop` matters.

        Raises:
            FileMissing: the file cannot be written.
            StoreError: what was read back differs from what was written; an existing file is kept.
        """
        items = []
        for item in self.each(**how):
            if progress is not None:
                progress(item)
            items.append(item)
        return items

    def each(self, **how: Unpack[ApplyKeywords]) -> Iterator[RebuildItem]:
        """Write the file like `apply`, but yield each conversation after reading it back.

        If `stop` returns true, no file is left.
        """
        return self._written(ApplyOptions(**how).stop)

    def _written(self, stop: Callable[[], bool]) -> Iterator[RebuildItem]:
        written: dict[str, str] = {}
        left_out: list[RebuildItem] = []

        def memories() -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
            for key, version in self._pinned:
                if stop():
                    return
                if self._at is None and has_changed(self._journal, key, version):
                    left_out.append(RebuildItem(key, BACKEND, version, state="skipped", reason=CHANGED, kind="changed"))
                    continue
                messages = self._messages(key)
                written[key] = self._file.digest(messages)
                yield key, messages

        with self._file.writing(self._path, memories()) as (read_back, accept):
            yield from left_out
            for key, messages in read_back:
                if stop():
                    return
                item = replace(self._planned(key), sent=len(messages), digest=self._file.digest(messages))
                if item.digest != written.pop(key, None):
                    raise StoreError(
                        f"{self._path} differs from what was written when it is read back: nothing was replaced; try again"
                    )
                yield replace(item, state="done", verified=True)
            if stop():
                return
            if written:
                raise StoreError(f"{self._path} is missing {len(written)} conversations: nothing was replaced; retry")
            accept()

    def _planned(self, key: str) -> RebuildItem:
        messages = self._messages(key)
        version = self._journal.require(key).version
        return RebuildItem(key, BACKEND, version, messages=len(messages), digest=self._file.digest(messages))

    def _messages(self, key: str) -> list[dict[str, Any]]:
        read = self._journal.read_blob  # the file stands alone: attachments are inside
        messages = [
            inlined(each.message.as_chat_message(), read) for each in self._journal.memory(key, self._at).messages
        ]
        self._journal.wait_until_durable()
        return messages
