"""Compare a thread with the journal: find missing items, entries written by runs, and writes whose result is unknown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from threadledger.domain import limits
from threadledger.domain.alignment import common_prefix
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.effects import Effect, Effects, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest
from threadledger.domain.failures import Cause, diagnose, is_worth_a_retry
from threadledger.domain.ids import now, to_iso
from threadledger.domain.journal import Journal
from threadledger.domain.memory import Memory, fold_memory
from threadledger.domain.threads import (
    Doubt,
    MirrorHead,
    ThreadItem,
    ThreadMirror,
    digest,
    is_uncertain,
    open_doubts,
    surplus,
)


@dataclass(frozen=True)
class Look:
    """Hold the entries read back from a thread, and the journal as rendered at that moment."""

    journal: Sequence[ThreadItem]
    thread: Sequence[ThreadItem]
    version: int
    """Version of the journal that was rendered."""
    doubts: Sequence[Doubt]
    found: Sequence[ThreadItem] = ()
    deleted: Sequence[str] = ()
    """Provider ids of entries deleted while reading: late copies of our messages, and output left by earlier runs."""


class Noted:
    """Hold the latest known list of writes to a thread that may still arrive."""

    def __init__(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = tuple(doubts)

    def __call__(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = tuple(doubts)


class Renewing:
    """Renew the claim on a thread during a long write."""

    def __init__(self, claim: Callable[[], Any], seconds: float) -> None:
        self._claim = claim
        self._seconds = seconds
        self._at = time.monotonic()

    def __call__(self, effect: Effect) -> Effects[None]:
        if time.monotonic() - self._at > self._seconds / 10:
            self._at = time.monotonic()
            yield from work(self._claim)


class Overheard:
    """Journal a run's tool calls and results, and keep the latest results: they are the input of its next request."""

    def __init__(self, journal: Callable[[Sequence[Message]], None]) -> None:
        self._journal = journal
        self.results: Sequence[Message] = ()

    def __call__(self, messages: Sequence[Message]) -> None:
        self._journal(messages)
        self.results = [message for message in messages if message.role is Role.TOOL]


def asked_last(request: BackendRequest) -> Sequence[ThreadItem]:
    """Return the input items of a run's latest request, if the request itself carried them.

    After tool calls these are the tool results; before, the journal items that the thread was missing.
    """
    results = request.journal.results if isinstance(request.journal, Overheard) else ()
    if results and (request.unsent or request.found):
        return [ThreadItem("tool_result", "", each.text, each.tool_call_id or "") for each in results]
    return request.unsent


def sent_before(journal: Sequence[ThreadItem], head: MirrorHead) -> Sequence[ThreadItem]:
    """Return the journal items that our own writes may have put into the thread.

    These are the items up to the thread's head, or up to the newest item of a write in doubt. Entries with the same
    text as a newer item were not written by this ledger.
    """
    if head.left_by is not None:
        return journal  # the previous writer stopped without noting what it sent last
    doubted = {item.message_id or item.digest for doubt in head.doubts for item in doubt.items}
    known = (item.version for item in journal if item.message_id in doubted or digest([item]) in doubted)
    newest = max(head.version, *known, 0)
    return [item for item in journal if item.version <= newest]


def send_all(mirror: ThreadMirror, thread_id: str, items: Sequence[ThreadItem], noted: Noted) -> Effects[bool]:
    """Send items to a thread that is known to hold all earlier ones, and return whether every item was acknowledged.

    If not, the thread must be read before the next write. A batch whose result is unknown is noted as a doubt.

    Raises:
        ProviderRefused: the provider rejected a batch in a way that a retry cannot fix, or the thread is missing.
    """
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


def newer_items(journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead) -> tuple[Sequence[ThreadItem], int]:
    """Return the items journaled since a thread's version, and the version that the thread holds once they are sent."""
    newer = fold_memory(journal.history(key, after=head.version))
    if any(each.message.role is Role.TOOL or each.message.calls() for each in newer.messages):
        newer = journal.memory(key)  # a tool call and its result must be rendered together
    newer = newer.settled()
    rendered = mirror.render(newer, head.thread_id).items
    return [item for item in rendered if item.version > head.version], max(version_of(newer), head.version)


def whole_items(journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> tuple[Sequence[ThreadItem], int]:
    memory = journal.memory(key).settled()
    return mirror.render(memory, thread_id).items, version_of(memory)


def late_copies(
    sent: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]
) -> tuple[Sequence[ThreadItem], Sequence[Doubt]]:
    """Return late copies of our messages in a thread, and the doubts that remain once those copies are deleted."""
    late = surplus(sent, thread, doubts) if doubts else []
    return late, open_doubts(sent, thread, doubts) if late else doubts


def left_behind(
    journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]
) -> Sequence[ThreadItem]:
    """Return model output after the question of an abandoned run, if the journal continues with something else.

    No later run will use such output as an answer, so it can be deleted.
    """
    same = common_prefix(journal, thread)
    asked = {doubt.items[-1].digest for doubt in doubts if doubt.asked and doubt.items}
    goes_on = 0 < same < len(journal) and digest([journal[same - 1]]) in asked
    return said_behind(journal[:same], thread) if goes_on else ()


def said_behind(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
    """Return the model output that follows the last journaled item.

    Return nothing if the thread does not hold the whole journal, or if other entries follow it.
    """
    if common_prefix(journal, thread) < len(journal):
        return ()
    said = thread[len(journal) :]
    models = all(item.kind == "tool_call" or (item.kind == "message" and item.name == "assistant") for item in said)
    return said if models else ()


def record_deleted(
    journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, version: int, deleted: Sequence[str]
) -> None:
    """Record which entries were deleted from a thread."""
    if deleted:
        reason = "late copies of messages sent before, or output of an abandoned run"
        ids = sorted(deleted)
        journal.commit(key, lambda it: it.reconcile_thread(mirror.name, thread_id, version, deleted=ids, reason=reason))


def young(doubts: Sequence[Doubt]) -> Sequence[Doubt]:
    """Return the newest doubts that are recent enough for their writes to arrive, at most `DOUBTS_KEPT_MAX`."""
    oldest = to_iso(now() - timedelta(seconds=limits.DOUBT_SECONDS))
    return [doubt for doubt in doubts if doubt.at > oldest][-limits.DOUBTS_KEPT_MAX :]


def version_with(journal: Journal, key: str, look: Look) -> int:
    """Return the version that a thread holds, including the entries found there.

    Tool calls among them may be journaled already while their results are missing.
    """
    ids = {item.call_id for item in look.found if item.call_id}
    messages = journal.memory(key).messages if ids else ()
    return max(
        [look.version, *(each.version for each in messages if ids.intersection(c.id for c in each.message.calls()))]
    )


def version_of(memory: Memory) -> int:
    return max((each.version for each in memory.messages), default=0)  # messages are not always in version order
