"""Read memory from its end: a window, and the hash of the path.

The cost of a window depends only on its size, however long the conversation is. When reading backwards, an event that
removes or moves a message comes before the message itself.

The hash of the path is in the head of the stream, unless memory was cut since the last run: then it is computed here, from
the newest run that recorded it and that no later event concerns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from msgspec import MsgspecError

from ..canonical import EMPTY_PATH, path_of
from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from ..errors import InvalidInput
from ..memory import INSTRUCTING, MEMORY_TOPICS, RULE_2, Backwards, Memory, MemoryFold, add_missing, text_tokens
from .recall import ACCEPTED, MESSAGE, Texts, decode_said, has_key, id_in, known_in, message_in_row
from .rows import Row, refuse_changed, restore

if TYPE_CHECKING:
    from .ports import EventLog

TOKENS_PER_MESSAGE_GUESSED = 200
"""Assumed tokens per message, used to choose how many rows to read at once for a token budget."""

PAGE_MAX = 500
"""Maximum number of rows to read at once."""

NEWEST_ROWS = 12
"""Number of rows that are read first for the hash of a path: two exchanges with their runs."""

OPENING_ROWS = 2
"""Number of rows that are read from the beginning: a conversation starts, then usually the user speaks."""

STARTED = e.RunStarted.__name__
REMOVING = (e.MessageRetracted.__name__, e.MemoryCleared.__name__, ACCEPTED)
"""Events that remove messages from memory."""


def path_hash(log: EventLog, stream: str, version: int) -> str:
    """Return the hash of the path of a stream as of a version, reading from its end to the newest usable checkpoint.

    A run is a checkpoint if it recorded the hash of an older version, and no event since names a message of that version
    or an older one. Without one, all messages are read.
    """
    newest: list[Row] = []
    base, checkpoint = EMPTY_PATH, (version, "")
    cleared = 0
    named, met = set[str](), set[str]()
    for row in _backwards(log, stream, version):
        if row[2] <= cleared:
            break
        if checkpoint[1] and row[2] <= checkpoint[0]:
            if not cleared and named <= met:
                base = checkpoint[1]
                break
            checkpoint = (version, "")
        if row[3] == MESSAGE and row[7] <= e.MessageJournaled.SCHEMA:
            newest.append(row)
            met.add(id_in(row))
        elif row[3] in REMOVING:
            newest.append(row)
            event = restore(row)
            cleared = max(cleared, event.up_to_version) if isinstance(event, e.MemoryCleared) else cleared
            named.update(_named_by(event))
        elif row[3] == STARTED and not checkpoint[1] and has_key(row, "path_hash"):
            started = restore(row)
            if isinstance(started, e.RunStarted) and started.path_hash:
                checkpoint = (started.memory_version, started.path_hash)
    return path_of((each.neutral() for each in folded(reversed(newest)).memory(version).messages), base)


def _backwards(log: EventLog, stream: str, version: int) -> Iterator[Row]:
    """Yield the rows of a stream up to a version, newest first: a few, then page by page."""
    few = max(version - NEWEST_ROWS, 0)
    yield from log.stream_rows(stream, few, version, newest_first=True, page=NEWEST_ROWS, changed=refuse_changed)
    yield from log.stream_rows(stream, 0, few, newest_first=True, page=PAGE_MAX, changed=refuse_changed)


def _named_by(event: e.Event) -> Iterator[str]:
    """Yield the ids of the messages whose place an event changes, or depends on."""
    match event:
        case e.MessageRetracted():
            yield event.message_id
        case e.RerunAccepted():
            yield from filter(None, (event.superseded_message_id, event.behind_message_id))
        case _:
            pass


def folded(rows: Iterable[Row]) -> MemoryFold:
    """Return the fold of rows of messages and of events that remove or move them, oldest first."""
    fold = MemoryFold()
    for row in rows:
        if row[3] == MESSAGE:
            fold.say(message_in_row(row))
        else:
            fold.take(restore(row))
    return fold


def newest_window(log: EventLog, stream: str, last: int | None, tokens: int | None) -> Memory:
    """Return the newest messages of a memory: at most `last`, within about `tokens`; usually by one query.

    Raises:
        InvalidInput: a bound below 1.
    """
    page = _page_of(last, tokens)
    head, rows = log.read_ends(stream, OPENING_ROWS, page) or (log.select_head(stream, refuse_changed), ())
    version = head.version if head is not None else 0
    known = known_in(head, version)
    usual = _usual_window(rows, last) if last is not None and tokens is None else None
    if usual is not None:
        texts, first = usual
        rule = f"{RULE_2}last={last}"
        return Memory.of_source(texts, version, known.path_hash, rule=rule, first_version=first).knowing(
            known.has_parts
        )
    newest = [_opened(row, stream) for row in reversed(rows[-page:])]
    return window(log, stream, version, known.path_hash, last, tokens, newest).knowing(known.has_parts)


def _usual_window(rows: Sequence[Sequence[Any]], last: int) -> tuple[Texts, int] | None:
    """Return the newest messages among the rows of both ends, and the version of the first; None if they need more care.

    They are usual if each of the newest rows is a text that was said, one more than is shown, and the conversation began
    with a text that is no instruction. An event that removes or moves a message is newer than the message.
    """
    newest, spoken = rows[-last - 1 :], e.MessageJournaled.SCHEMA
    if len(newest) <= last or any(row[1] != MESSAGE or row[2] > spoken for row in (*newest, *rows[1:OPENING_ROWS])):
        return None
    try:
        if decode_said(rows[1][3]).role in INSTRUCTING:
            return None
        texts = Texts(
            [decode_said(row[3]) for row in newest[1:]], [row[0] for row in newest[1:]], [row[4] for row in newest[1:]]
        )
    except MsgspecError:
        return None
    return texts, newest[1][0]


def _opened(row: Sequence[Any], stream: str) -> Row:
    version, topic, schema, state, at, position, event_id, _ = row
    return position, stream, version, topic, state, event_id, at.decode(), schema


def _page_of(last: int | None, tokens: int | None) -> int:
    """Return how many rows to read at once for a window.

    Raises:
        InvalidInput: a bound below 1.
    """
    for name, bound in (("last", last), ("tokens", tokens)):
        if bound is not None and bound < 1:
            raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
    page = min(last or PAGE_MAX, (tokens or PAGE_MAX * TOKENS_PER_MESSAGE_GUESSED) // TOKENS_PER_MESSAGE_GUESSED)
    return max(min(page, PAGE_MAX), 1) + 1


def window(
    log: EventLog,
    stream: str,
    version: int,
    path: str | None,
    last: int | None,
    tokens: int | None,
    newest_rows: Sequence[Row] = (),
) -> Memory:
    """Return the newest messages of a memory as of a version: at most `last`, within about `tokens`.

    `newest_rows` are its newest rows, newest first, if they were read already.

    Raises:
        InvalidInput: a bound below 1.
    """
    upto = version - len(newest_rows)
    page = _page_of(last, tokens)
    older = log.stream_rows(stream, upto=upto, newest_first=True, page=page, changed=refuse_changed)
    rows = chain(newest_rows, older)
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
    view = Memory(
        messages, version, run_threads=run_threads, opening_version=upto, missing_files=missing, path_hash=path
    )
    return view.window(last, tokens)


def remembers(log: EventLog, stream: str, message_id: str) -> bool:
    """Return whether a message is in memory; only the rows from the end of the stream to the message are read."""
    head = log.select_head(stream, refuse_changed)
    rows = _backwards(log, stream, head.version) if head is not None else iter(())
    return any(each.message_id == message_id for each in _newest_first(rows, {}, {}))


def _opening(log: EventLog, stream: str, version: int) -> tuple[JournaledMessage, ...]:
    """Return the system messages in memory that the conversation began with; it costs little if it began otherwise."""
    opening: list[JournaledMessage] = []
    for row in log.stream_rows(stream, 0, version, (MESSAGE,), page=2, changed=refuse_changed):
        message = message_in_row(row)
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
            message = message_in_row(row)
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
