"""Read a thread for an answer whose acknowledgement was lost: it is there although no run could report it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..conversation import stream_of
from ..effects import work
from ..limits import RUN_GRACE_SECONDS
from .claims import ThreadClaim
from .doubts import recent_doubts
from .linked_thread import LinkedThread
from .outbox import usable_id

if TYPE_CHECKING:
    from ..effects import Effects
    from ..journal import Journal
    from .mirror import MirrorHeads, ThreadMirror


def holds_answer(
    heads: MirrorHeads, mirror: ThreadMirror, journal: Journal, key: str, exchange_id: str, asked_at: int
) -> Effects[bool]:
    """Return whether the linked thread holds an answer that an earlier run of this exchange left there.

    The thread is read once, and only if a run of the exchange may have written to it without an acknowledgement.

    Raises:
        ProviderRefused: the thread cannot be read.
    """
    thread_id = usable_id((yield from work(lambda: journal.require(key))).state, mirror)
    if thread_id is None:
        return False
    thread = LinkedThread(journal, key, mirror, thread_id, exchange_id, asked_at)
    claim = ThreadClaim(heads, thread, exchange_id, RUN_GRACE_SECONDS)
    head = yield from work(claim.take)
    if head is None:
        return False  # another process writes to the thread: what it finds there, it handles
    doubts, found = head.doubts, False
    if any(doubt.asked and doubt.exchange_id == exchange_id for doubt in doubts):
        read = yield from claim.keep(thread.read_back(head, claim.note, exchange_id))
        doubts = tuple(read.doubts)
        found = bool(read.found) and all(item.kind == "message" for item in read.found)
    left = recent_doubts(doubts)
    yield from work(partial(heads.release, stream_of(key), mirror.name, exchange_id, left))
    return found
