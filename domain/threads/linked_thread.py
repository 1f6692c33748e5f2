"""Read a linked thread back and compare it with the journal: missing items, output of runs, late copies of our writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ..alignment import common_prefix
from ..conversation import ThreadLink
from ..conversation.messages import Role
from ..effects import Effects, work
from ..memory import Memory, ending_with_question, fold_memory
from .delivery import lacking, taken_out
from .doubts import Doubt
from .late_copies import open_doubts, surplus
from .thread import ThreadItem, ThreadState, compare, digest
from .view import ThreadView, may_get_results, view_of

if TYPE_CHECKING:
    from ..journal import Journal
    from .delivery import Delivered, Note
    from .mirror import MirrorHead, ThreadMirror

logger = logging.getLogger("threadledger.threads")


@dataclass(frozen=True)
class ReadBack:
    """Hold the entries read back from a thread, and the journal as rendered at that moment."""

    journal: Sequence[ThreadItem]
    thread: Sequence[ThreadItem]
    view: ThreadView
    """What the thread should hold of the journal."""
    doubts: Sequence[Doubt]
    found: Sequence[ThreadItem] = ()
    """Output that an earlier run of the same exchange left in the thread."""
    deleted: Sequence[str] = ()
    """Provider ids of entries deleted while reading: late copies of our messages, and output left by earlier runs."""


@dataclass(frozen=True)
class LinkedThread:
    """Compare the linked thread of one kind with the journal of its conversation."""

    journal: Journal
    key: str
    mirror: ThreadMirror
    thread_id: str
    exchange_id: str | None = None
    asked_at: int = 0
    """The exchange of a run that answers in the thread, and the version of its question: later messages of others are
    sent after the answer. 0 if no run answers."""

    def items(self) -> ThreadView:
        """Return all that the thread should contain."""
        memory = self.journal.memory(self.key)
        self.journal.wait_until_durable()
        return self._view(memory)

    def newer_items(self, head: MirrorHead) -> ThreadView:
        """Return what was journaled since the thread's version, with the thread's version once it is sent."""
        newer = fold_memory(self.journal.history(self.key, after=head.version))
        if any(each.message.role is Role.TOOL or each.message.calls() for each in newer.messages):
            newer = self.journal.memory(self.key)  # a tool call and its result must be rendered together
        self.journal.wait_until_durable()
        view = self._view(newer)
        items = [item for item in view.items if item.version > head.version]
        return replace(view, items=items, version=max(view.version, head.version))

    def _view(self, memory: Memory) -> ThreadView:
        if self.asked_at:
            memory = ending_with_question(memory, self.asked_at, self.exchange_id)
        # The exchange of a run is in progress itself: its question must be sent, whatever is before it.
        waits = may_get_results(self.journal, self.key, memory) if self.exchange_id is None else None
        return view_of(self.mirror, memory, self.thread_id, waits)

    def read_back(
        self, head: MirrorHead, note: Note, exchange_id: str | None = None, quiet: bool = False
    ) -> Effects[ReadBack]:
        """Read the thread, and delete entries that are provably late copies of our messages.

        With `exchange_id`, output that an earlier run of this exchange left in the thread is kept and returned as
        `found`. With `quiet`, foreign entries are not logged, because the caller reports them.
        """
        mirror, thread_id = self.mirror, self.thread_id
        ours = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id == exchange_id]
        others = [doubt.run_id for doubt in head.doubts if doubt.run_id and doubt.exchange_id != exchange_id]
        deleted = [*(yield from mirror.sweep(thread_id, ours, completed=False))]
        deleted += yield from mirror.sweep(thread_id, others, completed=True)
        view = yield from work(self.items)
        items = view.items
        thread = yield from view.read(mirror, thread_id)
        doubts: Sequence[Doubt] = head.doubts
        late, still_open = yield from work(partial(late_copies, sent_before(items, head), thread, doubts))
        late = late or left_behind(items, thread, [doubt for doubt in doubts if doubt.exchange_id != exchange_id])
        if late:
            yield from taken_out(mirror, thread_id, late, doubts, still_open, note)
            doubts = still_open
            gone = {item.item_id for item in late}
            deleted += gone
            thread = [item for item in thread if item.item_id not in gone]
        yield from work(partial(self.record_deleted, view.version, deleted))
        asked = any(doubt.asked and doubt.exchange_id == exchange_id for doubt in head.doubts)
        found = said_behind(items, thread) if asked else ()
        journal = items if found else view.held_by(thread)
        foreign = len(thread) - len(found) - len(journal) + len(lacking(journal, thread))
        if foreign and not quiet:
            text = "%s thread of %r contains %d entries that are not in the journal: run threadledger replay verify %s"
            logger.warning(text, mirror.name, self.key, foreign, self.key)
        return ReadBack(journal, thread, view, doubts, found, deleted)

    def version_with_found(self, read: ReadBack) -> int:
        """Return the journal version that the thread contains, including the output found there.

        Tool calls among it may be journaled already while their results are missing.
        """
        ids = {item.call_id for item in read.found if item.call_id}
        messages = self.journal.memory(self.key).messages if ids else ()
        called = (each.version for each in messages if ids.intersection(call.id for call in each.message.calls()))
        return max([read.view.version, *called])

    def record_deleted(self, version: int, deleted: Sequence[str]) -> None:
        """Record which entries were deleted from the thread."""
        if deleted:
            ids = sorted(deleted)
            reason = "late copies of messages sent before, or output of an abandoned run"
            name, thread_id = self.mirror.name, self.thread_id
            self.journal.commit(
                self.key, lambda it: it.reconcile_thread(name, thread_id, version, deleted=ids, reason=reason)
            )

    def note_compared(self, read: ReadBack, delivered: Delivered) -> None:
        """Note how the thread compares with the journal after the missing items were sent, for lists of threads.

        Nothing is noted about a thread that has drifted and of which late copies were deleted meanwhile.
        """
        from ..journal.outcomes import note_outcome

        found = compare(read.journal, read.thread).state
        if found is ThreadState.DRIFTED and delivered.deleted:
            return
        state = ThreadState.SAME if found is ThreadState.BEHIND else found
        link = ThreadLink(thread_id=self.thread_id, endpoint=self.mirror.endpoint)
        note_outcome(self.journal, self.key, self.mirror.name, link, state.value, read.view.memory_version)


def sent_before(journal: Sequence[ThreadItem], head: MirrorHead) -> Sequence[ThreadItem]:
    """Return the journal items that our own writes may have put into the thread.

    These are the items up to the thread's head, or up to the newest item of an unconfirmed write. Entries with the same
    text as a newer item were not written by this ledger.
    """
    if head.left_by is not None:
        return journal  # the previous writer stopped without recording what it sent last
    doubted = {item.message_id or item.digest for doubt in head.doubts for item in doubt.items}
    known = (item.version for item in journal if item.message_id in doubted or digest([item]) in doubted)
    newest = max(head.version, *known, 0)
    return [item for item in journal if item.version <= newest]


def late_copies(
    sent: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]
) -> tuple[Sequence[ThreadItem], Sequence[Doubt]]:
    """Return late copies of our messages in a thread, and the writes that remain unconfirmed after their deletion."""
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
    continues = 0 < same < len(journal) and digest([journal[same - 1]]) in asked
    return said_behind(journal[:same], thread) if continues else ()


def said_behind(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
    """Return the model output that follows the last journaled item.

    Return nothing if the thread does not hold the whole journal, or if other entries follow it.
    """
    if common_prefix(journal, thread) < len(journal):
        return ()
    said = thread[len(journal) :]
    models = all(item.kind == "tool_call" or (item.kind == "message" and item.name == "assistant") for item in said)
    return said if models else ()
