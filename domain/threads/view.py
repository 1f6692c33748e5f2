"""Choose what a thread should hold of a memory: all of it, except tool calls that wait for results and what follows them.

A call is sent together with its result, because a provider refuses one without the other. A run that answered in the thread
may have left its calls there: `ThreadView.held_by` knows them, so that they are neither drift nor sent again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..alignment import common_prefix
from ..conversation.events import MessageJournaled
from ..conversation.messages import JournaledMessage
from ..ids import now
from .delivery import read_thread
from .thread import ThreadItem

if TYPE_CHECKING:
    from ..effects import Effects
    from ..journal import Journal
    from ..memory import Memory
    from .mirror import ThreadMirror


@dataclass(frozen=True)
class ThreadView:
    """Hold what a thread should contain of a memory."""

    items: Sequence[ThreadItem] = ()
    version: int = 0
    """Version of the newest message that it contains; 0 if there is none."""
    memory_version: int = 0
    """Journal version of the memory."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """Number of items that a thread of this kind cannot represent, by kind."""
    waiting: Sequence[ThreadItem] = ()
    """The calls that wait for results, with the text that was said with them."""
    held_back: int | None = None
    """Lowest version of the messages that are not sent yet; None if everything is sent."""

    def held_by(self, thread: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
        """Return the items that belong into a thread with these entries: with the waiting calls that it ends with."""
        end = len(self.items)
        if not self.waiting or common_prefix(self.items, thread) < end:
            return self.items
        return [*self.items, *self.waiting[: common_prefix(self.waiting, thread[end:])]]

    def read(self, mirror: ThreadMirror, thread_id: str) -> Effects[Sequence[ThreadItem]]:
        """Return all entries of a thread that should hold this view, oldest first."""
        return read_thread(mirror, thread_id, self.items)

    def is_exact(self, thread: Sequence[ThreadItem] = ()) -> bool:
        """Return whether a thread with these entries, once it has all items, needs only what is newer than `version`.

        It does not if it already holds waiting calls, or if a message that is not sent yet is older. It must then be read
        before the next write.
        """
        if self.held_back is None:
            return True
        return self.held_back > self.version and set(self.waiting).isdisjoint(thread)


def view_of(
    mirror: ThreadMirror, memory: Memory, thread_id: str | None, waits: Callable[[JournaledMessage], bool] | None = None
) -> ThreadView:
    """Return what a thread should contain of a memory; `waits` says of a message with calls whether results may follow."""
    shown = _without_waiting_calls(memory, waits)
    rendering = mirror.render(shown, thread_id)
    version = _newest(shown.messages)
    view = ThreadView(rendering.items, version, memory.version, rendering.losses)
    held_back = memory.messages[len(shown.messages) :]
    if not held_back:
        return view
    calls = mirror.render(replace(memory, messages=held_back[:1]), thread_id).items
    waiting = [item for item in calls if item.kind != "tool_result"]  # a result that was made up
    return replace(view, waiting=waiting, held_back=min(each.version for each in held_back))


def may_get_results(journal: Journal, key: str, memory: Memory) -> Callable[[JournaledMessage], bool] | None:
    """Return what says of a message with calls whether their results may follow; None if the memory has no calls.

    They may while a run of its exchange is open, or a person has not decided on a call, or the tools were not used yet. In
    an earlier memory, they may if they are in the journal now.
    """
    if not any(each.message.calls() for each in memory.messages):
        return None
    state, moment = journal.require(key).state, now()
    open_ids = {run.exchange_id for run in state.open_runs.values() if not run.is_overdue(moment)}
    open_ids |= {name for name, each in state.open_exchanges.items() if each.waits_for or each.is_active(moment)}
    since = journal.history(key, after=memory.version) if state.version > memory.version else ()
    answered = {each.tool_call_id for each in since if isinstance(each, MessageJournaled)} - {None}

    def waits(each: JournaledMessage) -> bool:
        return each.exchange_id in open_ids or any(call.id in answered for call in each.message.calls())

    return waits


def _without_waiting_calls(memory: Memory, waits: Callable[[JournaledMessage], bool] | None) -> Memory:
    """Return the memory that ends before the first calls without results that wait for them, or that are its end."""
    settled = memory.settled()
    if waits is None:
        return settled
    end, answered = len(settled.messages), Counter[str]()
    for index in range(end - 1, -1, -1):
        each = settled.messages[index]
        if each.message.tool_call_id is not None:
            answered[each.message.tool_call_id] += 1
        elif called := Counter(call.id for call in each.message.calls()):
            if called - answered and waits(each):
                end = index
            answered -= called
    return settled if end == len(settled.messages) else replace(settled, messages=settled.messages[:end])


def _newest(messages: Sequence[JournaledMessage]) -> int:
    return max((each.version for each in messages), default=0)  # messages are not always in version order
