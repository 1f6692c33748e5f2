"""Journal an answer that is in a thread although its acknowledgement was lost, before its exchange is given up.

The thread is read once, and only if a run of the exchange may have written to it without an acknowledgement. No model is
called: what the thread holds behind the question is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..conversation import Completion, Place, RunPlan, stream_of, text_message
from ..conversation.messages import FOUND_IN_THREAD, Role
from ..effects import work
from ..errors import Conflict, ThreadledgerError
from ..failures import whole_text
from ..ids import now
from ..limits import RUN_GRACE_SECONDS
from .claims import ThreadClaim
from .doubts import recent_doubts
from .linked_thread import LinkedThread
from .outbox import usable_id

if TYPE_CHECKING:
    from ..conversation import Conversation, RunRecord
    from ..effects import Effects
    from ..journal import Journal
    from ..memory import Memory
    from .linked_thread import ReadBack
    from .mirror import MirrorHeads, ThreadMirror


def recover_answer(
    heads: MirrorHeads, mirrors: Mapping[str, ThreadMirror], journal: Journal, key: str, exchange_id: str
) -> Effects[bool]:
    """Journal the answer that a linked thread holds to an unanswered exchange; return whether there was one.

    A thread that cannot be read, or that another process writes to, counts as one without an answer.
    """
    yield from work(lambda: journal.commit(key, lambda it: it.close_overdue_runs()))
    state = (yield from work(lambda: journal.require(key))).state
    if any(run.exchange_id == exchange_id for run in state.open_runs.values()):
        return False
    for name in state.links:
        mirror = mirrors.get(name)
        thread_id = usable_id(state, mirror) if mirror is not None else None
        if mirror is None or thread_id is None:
            continue
        thread = LinkedThread(journal, key, mirror, thread_id, exchange_id)
        try:
            if (yield from _recovered(heads, thread, exchange_id)):
                return True
        except ThreadledgerError:  # the exchange is given up, as if the thread had not been read
            return False
    return False


def _recovered(heads: MirrorHeads, thread: LinkedThread, exchange_id: str) -> Effects[bool]:
    claim = ThreadClaim(heads, thread, exchange_id, RUN_GRACE_SECONDS)
    head = yield from work(claim.take)
    if head is None:
        return False
    doubts, is_recovered = tuple(head.doubts), False
    if any(doubt.asked and doubt.exchange_id == exchange_id for doubt in doubts):
        memory = yield from work(lambda: thread.journal.memory(thread.key))
        asked_at = _asked_at(memory, exchange_id)
        if asked_at:
            asked = replace(thread, asked_at=asked_at)
            read = yield from claim.keep(asked.read_back(head, claim.note, exchange_id))
            doubts = tuple(read.doubts)
            is_recovered = yield from work(partial(_journaled, asked, memory, read))
            if is_recovered:  # what was found is no late output any longer, which a reader would delete
                doubts = tuple(each for each in doubts if not (each.asked and each.exchange_id == exchange_id))
    left = recent_doubts(doubts)
    yield from work(partial(heads.release, stream_of(thread.key), thread.mirror.name, exchange_id, left))
    return is_recovered


def _asked_at(memory: Memory, exchange_id: str) -> int:
    """Return the version of the exchange's question; 0 if it is no longer in memory."""
    own = (each for each in memory.messages if each.exchange_id == exchange_id and each.message.role is Role.USER)
    return max((each.version for each in own), default=0)


def _journaled(thread: LinkedThread, memory: Memory, read: ReadBack) -> bool:
    """Journal what was found as the answer of a new run; return False if it is no answer, or comes too late."""
    texts = [whole_text(item.content) for item in read.found if item.content]
    wrote = {doubt.run_id for doubt in read.doubts if doubt.asked and doubt.exchange_id == thread.exchange_id}
    runs = thread.journal.exchanges(thread.key).runs
    last = next((run for run in reversed(runs.values()) if run.run_id in wrote), None)
    if not texts or any(item.kind != "message" for item in read.found) or last is None:
        return False
    completion = Completion(
        tuple(text_message("assistant", text) for text in texts),
        finish_reason=FOUND_IN_THREAD,
        thread_id=thread.thread_id,
        thread_version=read.view.version,
    )
    place = _place(memory, thread.asked_at, last.exchange_id)

    def decide(conversation: Conversation) -> None:
        exchange, plan = conversation.state.open_exchanges.get(last.exchange_id), _plan(last)
        if exchange is not None and exchange.is_active(now()):  # its own process reads, after its last attempt
            run_id = conversation.start_run(last.exchange_id, plan.replaced(rerun_of=exchange.rerun_of))
            conversation.complete_run(run_id, completion, place=place)
        else:
            conversation.accept_late(last.run_id, last.exchange_id, plan, completion, place)

    try:
        thread.journal.commit(thread.key, decide)
    except Conflict:  # another process answered it, or a newer question is being answered
        return False
    return True


def _place(memory: Memory, asked_at: int, exchange_id: str) -> Place:
    """Return the place of the answer: behind the messages of its exchange, if others wrote after the question."""
    later = [each for each in memory.messages if each.version > asked_at]
    if all(each.exchange_id == exchange_id for each in later):
        return Place()
    last = [each for each in memory.messages if each.exchange_id == exchange_id][-1]
    return Place(behind=last.message_id, versions={last.message_id: last.version})


def _plan(run: RunRecord) -> RunPlan:
    return RunPlan(
        backend=run.backend,
        model=run.model,
        endpoint=run.endpoint,
        attempt=run.attempt + 1,
        profile_hash=run.profile_hash,
        memory_version=run.memory_version,
        memory_rule=run.memory_rule,
        memory_hash=run.memory_hash,
        dropped=tuple(run.dropped),
        fallback_reason="its thread holds an answer whose acknowledgement was lost",
    )
