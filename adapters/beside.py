"""A thread beside the journal: what it lacks, what was found there, and which writes to it are in doubt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Cause,
    Doubt,
    Effect,
    Effects,
    Journal,
    Memory,
    Message,
    MirrorHead,
    ProviderRefused,
    Role,
    ThreadItem,
    ThreadMirror,
    Work,
    common_prefix,
    diagnose,
    digest,
    fold_memory,
    is_uncertain,
    is_worth_a_retry,
    limits,
    now,
    open_doubts,
    surplus,
    to_iso,
)


@dataclass(frozen=True)
class Look:
    """A thread read back beside the journal."""

    journal: Sequence[ThreadItem]
    thread: Sequence[ThreadItem]
    version: int
    """The journal's, as it was rendered."""
    doubts: Sequence[Doubt]
    found: Sequence[ThreadItem] = ()
    deleted: Sequence[str] = ()
    """The provider's ids of late copies of ours, and of what runs had left, that were taken out before."""


class Noted:
    """The writes to a thread that may still land, as they are known at this moment."""

    def __init__(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = tuple(doubts)

    def __call__(self, doubts: Sequence[Doubt]) -> None:
        self.doubts = tuple(doubts)


class Renewing:
    """Claims a thread again while it is written to for long."""

    def __init__(self, claim: Callable[[], Any], seconds: float) -> None:
        self._claim = claim
        self._seconds = seconds
        self._at = time.monotonic()

    def __call__(self, effect: Effect) -> Effects[None]:
        if time.monotonic() - self._at > self._seconds / 10:
            self._at = time.monotonic()
            yield Work(self._claim)


class Overheard:
    """Writes a run's tool calls and results down, and remembers the results: they are the input of its next request."""

    def __init__(self, journal: Callable[[Sequence[Message]], None]) -> None:
        self._journal = journal
        self.results: Sequence[Message] = ()

    def __call__(self, messages: Sequence[Message]) -> None:
        self._journal(messages)
        self.results = [message for message in messages if message.role is Role.TOOL]


def asked_last(request: BackendRequest) -> Sequence[ThreadItem]:
    """The input of a run's last request, where it took along what the thread lacked."""
    results = request.journal.results if isinstance(request.journal, Overheard) else ()
    if results and (request.unsent or request.found):
        return [ThreadItem("tool_result", "", each.text, each.tool_call_id or "") for each in results]
    return request.unsent


def sent_before(journal: Sequence[ThreadItem], head: MirrorHead) -> Sequence[ThreadItem]:
    """What of the journal the thread may hold by our own writes: up to its head, or to the last one that is in doubt.
    A copy of anything newer is not the journal's yet, however much it says the same."""
    if head.left_by is not None:
        return journal  # what was sent last was not written down
    doubted = {item.message_id or item.digest for doubt in head.doubts for item in doubt.items}
    known = (item.version for item in journal if item.message_id in doubted or digest([item]) in doubted)
    newest = max(head.version, *known, 0)
    return [item for item in journal if item.version <= newest]


def send_all(mirror: ThreadMirror, thread_id: str, items: Sequence[ThreadItem], noted: Noted) -> Effects[bool]:
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


def newer_items(journal: Journal, key: str, mirror: ThreadMirror, head: MirrorHead) -> tuple[Sequence[ThreadItem], int]:
    """What was journaled since the version that a thread holds, and the version it holds with that."""
    newer = fold_memory(journal.history(key, after=head.version))
    if any(each.message.role is Role.TOOL or each.message.calls() for each in newer.messages):
        newer = journal.memory(key)  # calls and results have to be seen together
    newer = newer.settled()
    rendered = mirror.render(newer, head.thread_id).items
    return [item for item in rendered if item.version > head.version], max(version_of(newer), head.version)


def whole_items(journal: Journal, key: str, mirror: ThreadMirror, thread_id: str) -> tuple[Sequence[ThreadItem], int]:
    memory = journal.memory(key).settled()
    return mirror.render(memory, thread_id).items, version_of(memory)


def late_copies(
    sent: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]
) -> tuple[Sequence[ThreadItem], Sequence[Doubt]]:
    """The late copies of ours in a thread, and the doubts that are left once those are deleted."""
    late = surplus(sent, thread, doubts) if doubts else []
    return late, open_doubts(sent, thread, doubts) if late else doubts


def left_behind(
    journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]
) -> Sequence[ThreadItem]:
    """What a model has said behind the question of a run that nobody followed to its end, where the journal goes on with
    something else: nobody will take it for an answer any more."""
    same = common_prefix(journal, thread)
    asked = {doubt.items[-1].digest for doubt in doubts if doubt.asked and doubt.items}
    goes_on = 0 < same < len(journal) and digest([journal[same - 1]]) in asked
    return said_behind(journal[:same], thread) if goes_on else ()


def said_behind(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
    """What a model has said behind all that is journaled; nothing where anything else stands there."""
    if common_prefix(journal, thread) < len(journal):
        return ()
    said = thread[len(journal) :]
    models = all(item.kind == "tool_call" or (item.kind == "message" and item.name == "assistant") for item in said)
    return said if models else ()


def record_deleted(
    journal: Journal, key: str, mirror: ThreadMirror, thread_id: str, version: int, deleted: Sequence[str]
) -> None:
    """Record what was taken out of a thread."""
    if deleted:
        reason = "what was sent once had landed again, or was left by a run that nobody followed any more"
        ids = sorted(deleted)
        journal.commit(key, lambda it: it.reconcile_thread(mirror.name, thread_id, version, deleted=ids, reason=reason))


def young(doubts: Sequence[Doubt]) -> Sequence[Doubt]:
    """The doubts about writes that may still land, the last of them."""
    oldest = to_iso(now() - timedelta(seconds=limits.DOUBT_SECONDS))
    return [doubt for doubt in doubts if doubt.at > oldest][-limits.DOUBTS_KEPT_MAX :]


def version_with(journal: Journal, key: str, look: Look) -> int:
    """The version that a thread holds with what was found there: calls may be journaled that still wait for their results."""
    ids = {item.call_id for item in look.found if item.call_id}
    messages = journal.memory(key).messages if ids else ()
    return max(
        [look.version, *(each.version for each in messages if ids.intersection(c.id for c in each.message.calls()))]
    )


def version_of(memory: Memory) -> int:
    return max((each.version for each in memory.messages), default=0)  # the last one need not be the newest
