"""Remove threads that a process created and that a crash kept from being linked: nothing in the log names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ..conversation import key_of, stream_of
from ..conversation.events import ThreadLinked, ThreadRebuilt
from ..effects import perform, work
from ..errors import ProviderRefused
from ..failures import diagnose
from ..ids import now, to_iso
from ..limits import ORPHAN_SECONDS_MIN, UNFINISHED_SECONDS_MIN
from ..threads import ThreadCreation

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..effects import Effects
    from ..exchange import Services
    from ..journal import Journal

NOT_LINKED = "created by a process that stopped before it was linked"
NEVER_NAMED = "its creation was not acknowledged: if it exists, its metadata at the provider names the conversation"


@dataclass(frozen=True)
class OrphanItem:
    """Describe a thread that was created and is not linked."""

    key: str
    backend: str
    thread_id: str | None
    """None if the provider's response with the id never arrived."""
    endpoint: str
    created_at: str
    state: str = "planned"
    """`planned`, `done`, `failed` or `skipped`."""
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields in their order."""
        return dict(vars(self))


class OrphanPlan:
    """Plan to delete the threads that are not linked. It has the same methods as the plans of jobs, but is no job.

    Each deletion removes the thread's record, so a plan that was stopped is continued by making it again.
    """

    job = None
    stopped_by_limit = False

    def __init__(self, journal: Journal, services: Services, creations: Sequence[ThreadCreation]) -> None:
        self._journal = journal
        self._services = services
        self._creations = creations

    def __len__(self) -> int:
        return len(self._creations)

    @property
    def items(self) -> list[OrphanItem]:
        """Return what is planned for each thread."""
        return [self._planned(each) for each in self._creations]

    def each(self, **how: Any) -> Iterator[OrphanItem]:
        """Delete one thread after the other and yield it; `stop` may end this before the next one."""
        stop = how.get("stop", lambda: False)
        for creation in self._creations:
            if stop():
                return
            yield perform(self._removing(creation), self._services.wait)

    def apply(self) -> list[OrphanItem]:
        """Delete the threads and return the result of each."""
        return list(self.each())

    def _planned(self, creation: ThreadCreation) -> OrphanItem:
        item = OrphanItem(
            key_of(creation.stream), creation.mirror, creation.thread_id, creation.endpoint, to_iso(creation.at)
        )
        if creation.thread_id is None:
            return replace(item, reason=NEVER_NAMED)
        mirror = self._services.mirrors.get(creation.mirror)
        if mirror is None or mirror.endpoint != creation.endpoint:
            return replace(
                item, state="skipped", reason=f"it belongs to {creation.endpoint}, which the settings do not name"
            )
        return item

    def _removing(self, creation: ThreadCreation) -> Effects[OrphanItem]:
        item, outbox = self._planned(creation), self._services.outbox
        if item.state != "planned" or outbox is None:
            return item
        if creation.thread_id is None or (yield from work(partial(self._was_linked, item))):
            yield from work(partial(outbox.heads.forget_creation, creation.creation))
            return replace(item, state="done", reason=item.reason or "it is linked: only its record was removed")
        try:
            yield from outbox.remove(creation, self._services.mirrors[creation.mirror])
        except ProviderRefused as refused:
            return replace(item, state="failed", reason=f"{diagnose(refused.failure).value}: {refused}")
        yield from work(partial(self._record, item))
        return replace(item, state="done")

    def _was_linked(self, item: OrphanItem) -> bool:
        """Return whether the log names the thread: then it is no orphan, whatever its record says."""
        every = self._journal.stream(stream_of(item.key))  # also of a deleted conversation
        linking = (event for event in every if isinstance(event, ThreadLinked | ThreadRebuilt))
        return any(event.thread_id == item.thread_id for event in linking)

    def _record(self, item: OrphanItem) -> None:
        if self._journal.load(item.key) is None:
            return

        def decide(conversation: Conversation) -> None:
            conversation.discard_thread(item.backend, item.thread_id or "", item.endpoint, NOT_LINKED)

        self._journal.commit(item.key, decide)


def plan_orphans(journal: Journal, services: Services) -> OrphanPlan:
    """Plan to delete threads that are not linked; those that a process may still be about to link are left out."""
    if services.outbox is None:
        return OrphanPlan(journal, services, ())
    before, unfinished_before = (
        now() - timedelta(seconds=each) for each in (ORPHAN_SECONDS_MIN, UNFINISHED_SECONDS_MIN)
    )
    return OrphanPlan(journal, services, services.outbox.heads.creations(before, unfinished_before))
