"""Find the threads that a conversation had at its providers, also those that others have replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..conversation import events as e
from .rows import refuse_changed, restore

if TYPE_CHECKING:
    from .ports import EventLog

LINKING = (e.ConversationStarted.__name__, e.ThreadLinked.__name__, e.ThreadRebuilt.__name__)
"""Names of the events with which a thread becomes the linked one, and of the one with which there is none."""


def threads_ever_linked(log: EventLog, stream: str, upto: int | None) -> dict[str, list[str]]:
    """Return the ids of the threads of the conversation as of a version; see `Journal`."""
    found: dict[str, dict[str, None]] = {}
    for row in log.stream_rows(stream, upto=upto, topics=LINKING, changed=refuse_changed):
        event = restore(row)
        if isinstance(event, e.ConversationStarted):
            found = {}
        elif isinstance(event, e.ThreadLinked | e.ThreadRebuilt):
            found.setdefault(event.backend, {})[event.thread_id] = None
    return {backend: list(ids) for backend, ids in found.items()}
