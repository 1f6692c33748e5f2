"""Define the ports to the provider's threads: the mirror that reads and writes them, and the record of how far each one is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from ..effects import Effects
from ..memory import Memory
from .doubts import Doubt
from .thread import Rendering, ThreadItem

if TYPE_CHECKING:
    from ..journal import Also


class ThreadMirror(Protocol):
    """Read and write the provider's threads of one kind.

    The calls are effects. Each raises `ProviderRefused` with the facts of the failure.
    """

    @property
    def name(self) -> str:
        """Return the name: `assistants` or `conversations`."""
        ...

    @property
    def endpoint(self) -> str:
        """Return the base URL, without secrets; a thread of another endpoint is another thread."""
        ...

    @property
    def batch(self) -> int:
        """Return the maximum number of items in one request of `add`."""
        ...

    @property
    def page(self) -> int:
        """Return the maximum number of items that one request of `read` returns."""
        ...

    def render(self, memory: Memory, thread_id: str | None = None) -> Rendering:
        """Convert a memory to the items that a thread can represent.

        `thread_id` names the thread that runs may have written to themselves.
        """
        ...

    def create(self, key: str) -> Effects[str]:
        """Create an empty thread and return its id."""
        ...

    def remove(self, thread_id: str) -> Effects[None]:
        """Delete a whole thread; one that is already gone is ignored."""
        ...

    def add(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        """Append items to the thread in order, at most `batch` of them."""
        ...

    def read(self, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        """Return all items of the thread, in order."""
        ...

    def delete(self, thread_id: str, items: Sequence[ThreadItem]) -> Effects[None]:
        """Delete items that were read back from the thread; items that are already gone are ignored."""
        ...

    def sweep(self, thread_id: str, run_ids: Sequence[str], completed: bool) -> Effects[Sequence[str]]:
        """Cancel these runs of this ledger if they are active in the thread, and delete the items that they added.

        Only items of incomplete runs are deleted, or items of all these runs if `completed` is set. Returns the ids of
        the deleted items. Does nothing if threads of this kind have no runs.
        """
        ...


@dataclass(frozen=True)
class MirrorHead:
    """Describe the journal version that a thread is known to contain; if it is unknown, the thread is read."""

    thread_id: str
    version: int
    settled: bool
    """False while a write is in progress, or after one without a response: the thread is read before the next write."""
    doubts: tuple[Doubt, ...] = ()
    """Unconfirmed writes to this thread, which may still arrive, oldest first."""
    left_by: str | None = None
    """Set by `claim`: the previous holder, if it stopped without releasing the thread."""


@dataclass(frozen=True)
class ThreadCreation:
    """Describe a thread that a process began to create and did not link."""

    creation: str
    """Id of this record."""
    stream: str
    mirror: str
    endpoint: str
    thread_id: str | None
    """None if the provider's response with the id never arrived."""
    at: datetime


class MirrorHeads(Protocol):
    """Store the state of threads, outside the event log.

    Losing this state costs one read of each thread, and the proof that a late copy is ours.
    """

    def claim(
        self, stream: str, mirror: str, thread_id: str, holder: str, until: datetime, given_up: Collection[str] = ()
    ) -> MirrorHead | None:
        """Claim a thread for writing and return its previous head; from now on it is unsettled.

        This process extends the claim by itself, until `until` at the latest. If the process ends, the claim is over:
        at once on this machine, soon for others. `holder` names the claim within this process.

        Returns None while another holder's claim lasts, unless that holder is one of `given_up`. A thread without a
        stored state, or whose stored state has another id, is returned at version 0, unsettled and without unconfirmed
        writes. If the holder already has the claim, it is renewed.
        """
        ...

    def holder(self, stream: str, mirror: str) -> str:
        """Describe for users which process has claimed a thread and until when; empty if none has."""
        ...

    def release(self, stream: str, mirror: str, holder: str, doubts: Sequence[Doubt] | None = None) -> None:
        """Release a thread and keep it unsettled; `doubts`, if given, replaces its unconfirmed writes.

        Does nothing if another holder has the claim.
        """
        ...

    def put(self, stream: str, mirror: str, head: MirrorHead, holder: str) -> None:
        """Store a head and release the thread; do nothing if the holder's claim has expired and another's lasts."""
        ...

    def begun(self, stream: str, mirror: str, thread_id: str) -> Also:
        """Return what stores, in the commit that links it, the state of a thread that was just created and is empty.

        It does nothing if the state is already stored, or if a holder has the claim.
        """
        ...

    def written(self, stream: str, mirror: str, head: MirrorHead) -> Also:
        """Return what stores, in the commit that links it, the state of a rewritten thread; none is unfinished then."""
        ...

    def note_creation(self, creation: ThreadCreation) -> None:
        """Record that a thread is about to be created, or which id it got. A linked thread leaves the record."""
        ...

    def forget_creation(self, creation: str) -> None:
        """Remove the record of a creation that created nothing, or whose thread was removed."""
        ...

    def creations(self, before: datetime, unfinished_before: datetime) -> Sequence[ThreadCreation]:
        """Return the recorded creations up to a time, oldest first; `unfinished_before` counts for partly written threads."""
        ...

    def note_unfinished(self, stream: str, mirror: str, thread_id: str | None, digest: str) -> None:
        """Record the new thread to which the memory of this digest is being written; None removes the record.

        The linked thread is not affected.
        """
        ...

    def unfinished(self, stream: str, mirror: str, digest: str) -> str | None:
        """Return the new thread that was recorded for the memory of this digest, or None."""
        ...
