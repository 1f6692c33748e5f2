"""Read memory from its end: a window, and the hash of the path.

The cost of a window depends only on its size, however long the conversation is. When reading backwards, an event that
removes or moves a message comes before the message itself.

The hash of the path is in the head of the stream, unless memory was cut since the last run: then it is computed here, from
the newest run that recorded it and that no later event concerns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from msgspec import MsgspecError

from ..canonical import EMPTY_PATH, path_of
from ..conversation import events as e
from ..conversation.events import EVENTS
from ..conversation.messages import JournaledMessage
from ..errors import InvalidInput
from ..memory import INSTRUCTING, MEMORY_TOPICS, RULE_2, Backwards, Memory, add_missing, text_tokens
from .message_rows import ACCEPTED, BRANCHING, folded, has_key, id_in, message_in_row, whole
from .recall import BRANCHED, MESSAGE, STARTED, Texts, decode_said, known_in
from .rows import Row, refuse_changed, restore

if TYPE_CHECKING:
    from .ports import EventLog

TOKENS_PER_MESSAGE_GUESSED = 200
"""Assumed tokens per message, used to choose how many rows to read at once for a token budget."""

PAGE_MAX = 500
"""Maximum number of rows to read at once."""

NEWEST_ROWS = 12
"""Number of rows that are read first for the hash of a path: two exchanges with their runs."""

OPENING_VERSION = 2
"""Version whose row is read from the beginning: a conversation starts, then usually the user speaks."""

RUN_STARTED = e.RunStarted.__name__
DELETED = e.ConversationDeleted.__name__
REMOVING = (e.MessageRetracted.__name__, e.MemoryCleared.__name__, ACCEPTED)
"""Events that remove messages from memory."""


def path_hash(log: EventLog, stream: str, version: int, leaf: int | None = None, most: int | None = None) -> str | None:
    """Return the hash of the path of a stream as of a version, reading from its end to the newest usable checkpoint.

    The path ends with the message of version `leaf`, by default with the selected one. A run is a checkpoint if it recorded
    the hash of an older version, and no event since names a message of that version or an older one. Without one, all
    messages are read; on a path of branches, the newest `most`, and None is returned.
    """
    head = log.select_head(stream, refuse_changed)
    if head is not None and (leaf is not None or BRANCHED in head.state):
        from .path_memory import path_hash_along

        return path_hash_along(log, head, version, leaf, most)
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
        elif row[3] == RUN_STARTED and not checkpoint[1] and has_key(row, "path_hash"):
            started = restore(row)
            if isinstance(started, e.RunStarted) and started.path_hash:
                checkpoint = (started.memory_version, started.path_hash)
        elif row[3] in BRANCHING or row[3] == DELETED:  # and the head does not say so: it is damaged
            return whole(log, stream, version, None).digest()
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


def newest_window(log: EventLog, stream: str, last: int | None, tokens: int | None) -> Memory:
    """Return the newest messages of a memory: at most `last`, within about `tokens`; usually by one query.

    Raises:
        InvalidInput: a bound below 1.
    """
    page = _page_of(last, tokens)
    ends = log.read_ends(stream, OPENING_VERSION, page, _TOPICS, BRANCHED)
    head, rows = ends or (log.select_head(stream, refuse_changed), ())
    version = head.version if head is not None else 0
    if head is not None and not rows and BRANCHED in head.state:
        from .path_memory import along_path

        return along_path(log, head, version, None, last, tokens)
    known = known_in(head, version)
    if last is not None and tokens is None and (texts := _usual_window(rows, version, last)) is not None:
        rule, first = f"{RULE_2}last={last}", version - last + 1
        return Memory.of_source(texts, version, known.path_hash, rule=rule, first_version=first).knowing(
            known.has_parts
        )
    newest = [_opened(row, stream, version - age) for age, row in enumerate(reversed(rows[1:]))]
    return window(log, stream, version, known.path_hash, last, tokens, newest).knowing(known.has_parts)


def _usual_window(rows: Sequence[Sequence[Any]], version: int, last: int) -> Texts | None:
    """Return the newest messages of rows that `read_ends` returned with a version; None if they need more care.

    They are usual if each of the newest rows is a text that was said, one more than is shown, and the conversation began
    with a text that is no instruction. An event that removes or moves a message is newer than the message.
    """
    if len(rows) < last + 2 or rows[0][0] >= STARTED or rows[-last - 1][0] >= STARTED:
        return None
    texts = Texts()
    try:
        if decode_said(rows[0][1]).role in INSTRUCTING:
            return None
        texts.take(version - last, rows[-last:])
    except MsgspecError:
        return None
    return texts if len(texts) == last else None


def _opened(row: Sequence[Any], stream: str, version: int) -> Row:
    number, state, at, position, event_id, _ = row
    topic, first = _TOPICS[number // STARTED]
    return position, stream, version, topic, state, event_id, at.decode(), number - first


_TOPICS = tuple((topic, STARTED * place) for place, topic in enumerate(sorted(EVENTS, key=MESSAGE.__ne__)))
"""All events with the number of their rows, messages first."""


def _page_of(last: int | None, tokens: int | None) -> int:
    """Return how many rows to read at once for a window.

    Raises:
        InvalidInput: a bound below 1.
    """
    if (last is not None and last < 1) or (tokens is not None and tokens < 1):
        name, bound = ("tokens", tokens) if last is None or last > 0 else ("last", last)
        raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
    page = PAGE_MAX if last is None else min(last, PAGE_MAX)
    return (page if tokens is None else max(min(page, tokens // TOKENS_PER_MESSAGE_GUESSED), 1)) + 1


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
    try:
        kept, may_be_cut = newest_kept(newest, last, tokens)
    except HasBranches:  # and the head does not say so: it is damaged
        return whole(log, stream, version, path).window(last, tokens)
    opening = _opening(log, stream, version) if may_be_cut else ()
    ids = {each.message_id for each in kept}
    messages = (*(each for each in opening if each.message_id not in ids), *reversed(kept))
    upto = opening[-1].version if opening else 0
    view = Memory(
        messages, version, run_threads=run_threads, opening_version=upto, missing_files=missing, path_hash=path
    )
    return view.window(last, tokens)


def newest_kept(
    newest: Iterator[JournaledMessage], last: int | None, tokens: int | None, opening: Collection[str] = ()
) -> tuple[list[JournaledMessage], bool]:
    """Return the messages that a window may show, newest first, and whether older ones may be left out.

    `opening` are ids of messages that are shown in addition to the window.
    """
    kept: list[JournaledMessage] = []
    spent, count, is_cut = 0, 0, False
    for each in newest:
        spent += text_tokens(each.message) if tokens is not None else 0
        full = (last is not None and count >= last) or (tokens is not None and count and spent > tokens)
        is_cut = bool(full) and each.message_id not in opening and any(not one.is_tool_result for one in kept)
        kept.append(each)  # tool results alone are no view: continue to the message that made the calls
        count += not opening or each.message_id not in opening
        if is_cut:
            break  # the last one is not in view: `window` cuts there
    return kept, is_cut or tokens is not None or (last is not None and count > last)


class HasBranches(Exception):
    """Raised when a conversation that is read as a line turns out to have branches."""


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
        message = message_in_row(row) if row[3] == MESSAGE and row[7] <= e.MessageJournaled.SCHEMA else None
        if row[3] in BRANCHING or row[3] == DELETED or (message is not None and message.parent_version is not None):
            raise HasBranches
        if message is not None:
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
                _note_end(event, run_threads, missing)
            case _:
                pass
    yield from backwards.rest()


def _note_end(
    event: e.RunCompleted | e.RunFailed, run_threads: dict[str, str], missing: dict[str, frozenset[str]]
) -> None:
    """Note the thread of a run, and the files that it could not read."""
    if event.thread_id is not None:
        run_threads.setdefault(event.run_id, event.thread_id)
    if isinstance(event, e.RunFailed) and event.details:
        add_missing(event.details, missing)
