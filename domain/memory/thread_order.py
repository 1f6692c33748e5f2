"""Order the messages of a memory as a thread holds them, in which runs answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..conversation.messages import JournaledMessage

if TYPE_CHECKING:
    from .memory import Memory


def in_order_of_thread(memory: Memory, thread_id: str | None) -> Sequence[JournaledMessage]:
    """Return the messages in the order of this thread; for another one, or for None, in the order of the journal."""
    if thread_id is None:
        return memory.messages
    messages = _held_by(memory, thread_id) if memory.has_parts else memory.messages
    marks = {run: mark for run, mark in memory.run_marks.items() if memory.run_threads.get(run) == thread_id}
    if not marks:
        return messages
    placed: list[JournaledMessage] = []
    for each in messages:
        mark = marks.get(each.run_id or "")
        index = len(placed)
        while mark is not None and index and placed[index - 1].version > mark:
            if placed[index - 1].run_id == each.run_id:
                break
            index -= 1
        placed.insert(index, each)
    return placed


def _held_by(memory: Memory, thread_id: str) -> list[JournaledMessage]:
    from .rendering import without_generated

    return [without_generated(each) if memory.ran_in(each, thread_id) else each for each in memory.messages]
