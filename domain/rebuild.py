"""Rebuild: a thread written anew from the journal, read back, and linked only when it is equal. Never calls a model:
nothing here can reach a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from .delivery import bring_up
from .diagnosis import diagnose
from .driving import AsyncDriver, perform
from .effects import Effects, Work
from .errors import ProviderRefused, ThreadledgerError
from .failures import Cause
from .journal import Journal
from .outside import Outbox
from .ports import ThreadMirror
from .threads import ThreadState, compare, digest
from .verification import Verifier

Progress = Callable[[Any], None]


@dataclass(frozen=True)
class RebuildItem:
    """One conversation of a rebuild, as planned and as it went."""

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

    def as_json(self) -> dict[str, Any]:
        """The keys of CONTRACT.md."""
        return {name: value for name, value in vars(self).items() if name != "version"} | {"losses": dict(self.losses)}


class Threads:
    """The threads of a ledger, to be written anew."""

    def __init__(
        self,
        journal: Journal,
        mirrors: Mapping[str, ThreadMirror],
        outbox: Outbox | None,
        wait: Callable[[float], None],
    ) -> None:
        self._journal = journal
        self._verifier = Verifier(journal, mirrors)
        self._mirrors = mirrors
        self._outbox = outbox
        self._wait = wait

    def plan(self, key: str, to: str, at: int | datetime | None) -> RebuildItem:
        """What a rebuild of one conversation would write. Nothing is sent.

        Raises:
            ConversationNotFound, InvalidInput: no such conversation or kind of thread.
        """
        rendering, version = self._verifier.render(key, to, at)
        link = self._journal.require(key).state.links.get(to)
        return RebuildItem(
            key,
            to,
            version=version,
            old_thread_id=link["thread_id"] if link else None,
            messages=len(rendering.items),
            losses=rendering.losses,
            digest=digest(rendering.items),
            reason="" if rendering.items else "nothing to write",
        )

    def rebuild(self, item: RebuildItem, at: int | datetime | None, fresh: bool) -> RebuildItem:
        """Write one planned thread; never raises for a provider: the item says how it went."""
        return perform(self.rebuilding(item, at, fresh), self._wait)

    def rebuilding(self, item: RebuildItem, at: int | datetime | None, fresh: bool) -> Effects[RebuildItem]:
        """`rebuild`, as effects."""
        try:
            return (yield from self._rebuild(item, at, fresh))
        except ProviderRefused as refused:
            return replace(item, state="failed", reason=f"{diagnose(refused.failure).value}: {refused}")
        except ThreadledgerError as error:
            return replace(item, state="failed", reason=str(error))

    def _rebuild(self, item: RebuildItem, at: int | datetime | None, fresh: bool) -> Effects[RebuildItem]:
        mirror = self._mirrors[item.backend]
        rendering, version = yield Work(lambda: self._verifier.render(item.key, item.backend, at))
        if at is None and version != item.version:
            return replace(item, state="skipped", reason="changed since the plan: plan again")
        if not rendering.items:
            return replace(item, state="skipped")
        if not fresh and (yield from self._is_sound(item, mirror)):
            return replace(
                item,
                state="skipped",
                thread_id=item.old_thread_id,
                verified=True,
                reason="the thread equals the journal",
            )
        thread_id = yield from mirror.create(item.key)
        delivered = yield from bring_up(mirror, thread_id, rendering.items, held=())
        found = compare(rendering.items, (yield from mirror.read(thread_id)))
        written = replace(item, thread_id=thread_id, sent=delivered.sent, verified=found.state is ThreadState.SAME)
        if not written.verified:
            reason = f"read back: {found.missing} missing, {found.extra} extra, {found.different} different; not linked"
            return replace(written, state="failed", reason=reason)
        yield Work(lambda: self._record(written, mirror, version))
        return replace(written, state="done")

    def _is_sound(self, item: RebuildItem, mirror: ThreadMirror) -> Effects[bool]:
        link = (yield Work(lambda: self._journal.require(item.key))).state.links.get(item.backend)
        if link is None or link["lost"] or link["endpoint"] != mirror.endpoint:
            return False
        native, _ = yield Work(lambda: self._verifier.render(item.key, item.backend, None, link["thread_id"]))
        try:
            return compare(native.items, (yield from mirror.read(link["thread_id"]))).state is ThreadState.SAME
        except ProviderRefused as refused:
            if diagnose(refused.failure) is not Cause.THREAD_MISSING:
                raise
            return False

    def _record(self, item: RebuildItem, mirror: ThreadMirror, version: int) -> None:
        rebuilt = {
            "backend": item.backend,
            "thread_id": item.thread_id,
            "endpoint": mirror.endpoint,
            "memory_version": version,
            "message_count": item.messages,
            "digest": item.digest,
            "losses": dict(item.losses),
        }
        self._journal.commit(item.key, lambda conversation: conversation.rebuild_thread(rebuilt))
        if self._outbox is not None and item.thread_id is not None:
            self._outbox.written(item.key, item.backend, item.thread_id, version)


@dataclass
class RebuildPlan:
    """What would be written; `apply` writes it."""

    items: list[RebuildItem]
    threads: Threads
    at: int | datetime | None = None
    fresh: bool = False

    def apply(self, progress: Progress | None = None) -> list[RebuildItem]:
        """Write every planned thread; one that fails does not stop the others."""
        for item in self.each():
            if progress is not None:
                progress(item)
        return self.items

    async def apply_async(self, driver: AsyncDriver, progress: Progress | None = None) -> list[RebuildItem]:
        """`apply`, awaited."""
        for index, item in enumerate(self.items):
            self.items[index] = await driver.perform(self.threads.rebuilding(item, self.at, self.fresh))
            if progress is not None:
                progress(self.items[index])
        return self.items

    def each(self) -> Iterator[RebuildItem]:
        """Write one thread after the other, handing over each as it is done."""
        for index, item in enumerate(self.items):
            self.items[index] = self.threads.rebuild(item, self.at, self.fresh)
            yield self.items[index]
