"""Read memory from the log: all of it from the beginning, or a window from the end.

The cost of a window depends only on its size, however long the conversation is. When reading backwards, an event that
removes or moves a message comes before the message itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from ..errors import InvalidInput
from ..ids import as_utc, to_iso
from ..memory import INSTRUCTING, MEMORY_TOPICS, Backwards, Memory, MemoryFold, add_missing, text_tokens
from .ports import EventLog
from .rows import Row, corrupt, refuse_changed, restore

TOKENS_PER_MESSAGE_GUESSED = 200
"""Assumed tokens per message, used to choose how many rows to read at once for a token budget."""

PAGE_MAX = 500
"""Maximum number of rows to read at once."""

MESSAGE = e.MessageJournaled.__name__
REMOVING = (e.MessageRetracted.__name__, e.MemoryCleared.__name__, e.RerunAccepted.__name__)
"""Events that remove messages from memory."""

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
                fold.say(_message(row))
            else:
                fold.take(restore(row))
        return fold.memory(version)
    return _window(log, stream, version, last, tokens)


def _window(log: EventLog, stream: str, version: int, last: int | None, tokens: int | None) -> Memory:
    """Return the newest messages of a memory as of a version: at most `last`, within about `tokens`.

    Raises:
        InvalidInput: a bound below 1.
    """
    for name, bound in (("last", last), ("tokens", tokens)):
        if bound is not None and bound < 1:
            raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
    page = min(last or PAGE_MAX, (tokens or PAGE_MAX * TOKENS_PER_MESSAGE_GUESSED) // TOKENS_PER_MESSAGE_GUESSED)
    page = max(min(page, PAGE_MAX), 1) + 1
    rows = log.stream_rows(stream, upto=version, newest_first=True, page=page, changed=refuse_changed)
    run_threads: dict[str, str] = {}
    missing: dict[str, frozenset[str]] = {}
    newest = _newest_first(rows, run_threads, missing)
    kept: list[JournaledMessage] = []
    spent, is_cut = 0, False
    for each in newest:
        spent += text_tokens(each.message) if tokens is not None else 0
        full = (last is not None and len(kept) >= last) or (tokens is not None and kept and spent > tokens)
        is_cut = bool(full) and any(not one.is_tool_result for one in kept)
        kept.append(each)  # tool results alone are no view: continue to the message that made the calls
        if is_cut:
            break  # the last one is not in view: `window` cuts there
    may_be_cut = is_cut or tokens is not None or (last is not None and len(kept) > last)
    opening = _opening(log, stream, version) if may_be_cut else ()
    ids = {each.message_id for each in kept}
    messages = (*(each for each in opening if each.message_id not in ids), *reversed(kept))
    upto = opening[-1].version if opening else 0
    view = Memory(messages, version, run_threads=run_threads, opening_version=upto, missing_files=missing)
    return view.window(last, tokens)


def _opening(log: EventLog, stream: str, version: int) -> tuple[JournaledMessage, ...]:
    """Return the system messages in memory that the conversation began with; it costs little if it began otherwise."""
    opening: list[JournaledMessage] = []
    for row in log.stream_rows(stream, 0, version, (MESSAGE,), page=2, changed=refuse_changed):
        message = _message(row)
        if message.role_name not in INSTRUCTING:
            break
        opening.append(message)
    if not opening:
        return ()
    cleared, gone = 0, set[str | None]()
    for row in log.stream_rows(stream, opening[0].version, version, REMOVING, changed=refuse_changed):
        match event := restore(row):
            case e.MessageRetracted():
                gone.add(event.message_id)
            case e.MemoryCleared():
                cleared = max(cleared, event.up_to_version)
            case e.RerunAccepted():
                gone.add(event.superseded_message_id)
            case _:
                pass
    return tuple(each for each in opening if each.version > cleared and each.message_id not in gone)


def _newest_first(
    rows: Iterator[Row], run_threads: dict[str, str], missing: dict[str, frozenset[str]]
) -> Iterator[JournaledMessage]:
    """Yield the messages in memory, newest first, and fill `run_threads` and `missing` (files) on the way."""
    gone: set[str] = set()
    behind: dict[str, str] = {}
    backwards = Backwards(gone)
    cleared = 0
    for row in rows:
        if row[2] <= cleared:
            break
        if row[3] not in MEMORY_TOPICS:
            continue
        if row[3] == MESSAGE and row[7] <= e.MessageJournaled.SCHEMA:
            message = _message(row)
            yield from backwards.meet(message, behind.get(message.run_id or ""))
            continue
        match event := restore(row):
            case e.MessageRetracted(message_id=str(message_id)):
                gone.add(message_id)
            case e.RerunAccepted():
                gone.add(event.superseded_message_id or "")
                if event.behind_message_id is not None:
                    behind.setdefault(event.run_id, event.behind_message_id)
            case e.MemoryCleared(up_to_version=int(version)):
                cleared = max(cleared, version)
            case e.RunCompleted() | e.RunFailed():
                if event.thread_id is not None:
                    run_threads.setdefault(event.run_id, event.thread_id)
                if isinstance(event, e.RunFailed) and event.details:
                    add_missing(event.details, missing)
            case _:
                pass
    yield from backwards.rest()


def _message(row: Row) -> JournaledMessage:
    """Return the message of a row without parsing its content.

    Raises:
        CorruptEvent: the row cannot be read.
    """
    _, _, version, _, state, _, at, _ = row
    try:
        payload = e.payload_in(state)
        if not payload.keys() >= _MESSAGE_FIELDS:
            raise TypeError(f"missing fields: {', '.join(sorted(_MESSAGE_FIELDS - payload.keys()))}")
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error
    return JournaledMessage.stored(payload, version, at)
