"""Read memory from the log: all of it from the beginning, or a window from the end."""

from __future__ import annotations

from datetime import datetime

from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from ..ids import as_utc, to_iso
from ..memory import MEMORY_TOPICS, Memory, MemoryFold
from .ports import EventLog
from .rows import Row, corrupt, payload_in, refuse_changed, restore

MESSAGE = e.MessageJournaled.__name__
_MESSAGE_FIELDS = {"message_id", "role"}


def recall(
    log: EventLog, stream: str, at: int | datetime | None = None, last: int | None = None, tokens: int | None = None
) -> Memory:
    """Return the memory of a stream as of a version or time: all of it, or the newest messages.

    A window holds at most the newest `last` messages, within about `tokens`.

    Raises:
        InvalidInput: a bound below 1.
    """
    upto = log.version_at(stream, to_iso(as_utc(at)), refuse_changed) if isinstance(at, datetime) else at
    head = log.select_head(stream, refuse_changed)
    version = head.version if head is not None else 0
    version = version if upto is None else max(min(version, upto), 0)
    if last is None and tokens is None:
        fold = MemoryFold()
        for row in log.stream_rows(stream, upto=version, changed=refuse_changed):
            if row[3] not in MEMORY_TOPICS:  # selected only here, so that every event before the version is checked
                continue
            if row[3] == MESSAGE and row[7] <= e.MessageJournaled.SCHEMA:
                fold.say(message_of(row))
            else:
                fold.take(restore(row))
        return fold.memory(version)
    from .windows import recall_window

    return recall_window(log, stream, version, last, tokens)


def message_of(row: Row) -> JournaledMessage:
    """Return the message of a row without parsing its content.

    Raises:
        CorruptEvent: the row cannot be read.
    """
    _, _, version, _, state, _, at, _ = row
    try:
        payload = payload_in(state)
        if not payload.keys() >= _MESSAGE_FIELDS:
            raise TypeError(f"missing fields: {', '.join(sorted(_MESSAGE_FIELDS - payload.keys()))}")
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error
    return JournaledMessage.stored(payload, version, at)
