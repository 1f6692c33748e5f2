"""Read memory from the log, all of it from the beginning; `newest.py` reads from the end.

Rows become messages when they are used: a memory of plain texts is sent without building one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import asdict

from ..canonical import EMPTY_PATH
from ..conversation import STATE_SCHEMA
from ..conversation import events as e
from ..conversation.messages import JournaledMessage, Source
from ..ids import as_utc, to_iso
from ..memory import INSTRUCTING, MEMORY_TOPICS, Memory
from .rows import Row, corrupt, refuse_changed, restore

if TYPE_CHECKING:
    from .ports import EventLog, StreamHead

MESSAGE, ACCEPTED = e.MessageJournaled.__name__, e.RerunAccepted.__name__
COMPLETED, FAILED = e.RunCompleted.__name__, e.RunFailed.__name__

_MESSAGE_FIELDS = {"message_id", "role"}


def recall(
    log: EventLog, stream: str, at: int | datetime | None = None, last: int | None = None, tokens: int | None = None
) -> Memory:
    """Return the memory of a stream as of a version or time: all of it, or the newest messages.

    A window holds at most the newest `last` messages, within about `tokens`.

    Raises:
        InvalidInput: a bound below 1.
    """
    if at is None and (last is not None or tokens is not None):
        from .newest import newest_window

        return newest_window(log, stream, last, tokens)
    upto = log.version_at(stream, to_iso(as_utc(at)), refuse_changed) if isinstance(at, datetime) else at
    head = log.select_head(stream, refuse_changed)
    version = head.version if head is not None else 0
    version = version if upto is None else max(min(version, upto), 0)
    known = known_in(head, version)
    if last is None and tokens is None:
        return _whole(log, stream, version, known.path_hash).knowing(known.has_parts)
    from .newest import window

    return window(log, stream, version, known.path_hash, last, tokens).knowing(known.has_parts)


class _Head(msgspec.Struct):
    """Hold what a memory takes from the state of its conversation."""

    path_hash: str | None = None
    has_parts: bool | None = None


def known_in(head: StreamHead | None, version: int) -> _Head:
    """Return what a head knows of the memory as of a version: nothing, unless it is the head of this version."""
    if head is None:
        return _Head(EMPTY_PATH, False)
    if head.version != version or head.state_schema != STATE_SCHEMA:
        return _Head()
    try:
        return _decode_head(head.state)
    except msgspec.MsgspecError:  # damaged: it follows from the events
        return _Head()


# The whole memory


class Said(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Hold a message of plain text, as most are; a payload with tool calls or fields of newer versions does not fit."""

    message_id: str
    role: Literal["system", "developer", "user", "assistant"]
    content: str
    exchange_id: str | None = None
    run_id: str | None = None
    source: str = Source.APP.value
    idempotency_key: str | None = None
    written_at: str | None = None
    origin: msgspec.Raw = msgspec.Raw()


class _Ended(msgspec.Struct):
    """Describe the end of a run that memory does not need: it took place in no thread."""

    thread_id: None = None


class _Id(msgspec.Struct):
    """Hold the id of a message, by which events name it."""

    message_id: str


class Recalled:
    """Build the messages of a memory from their rows, oldest first, when they are used."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def newest_version(self) -> int:
        return self._rows[-1][2] if self._rows else 0

    def messages(self) -> tuple[JournaledMessage, ...]:
        return tuple(map(message_in_row, self._rows))

    def plain(self) -> list[dict[str, Any]] | None:
        try:
            return as_plain([decode_said(row[4]) for row in self._rows])
        except msgspec.MsgspecError:
            return None


class Texts:
    """Hold the messages of a memory that consists of plain texts, oldest first."""

    def __init__(self, said: Iterable[Said] = (), versions: Iterable[int] = (), times: Iterable[bytes] = ()) -> None:
        self._said, self._versions, self._times = list(said), list(versions), list(times)

    def take(self, after: int, rows: Sequence[Sequence[Any]]) -> None:
        """Add the messages of rows, which are those after a version.

        Raises:
            MsgspecError: another kind of message, or of an end of a run.
        """
        self._said += [decode_said(row[1]) for row in rows if row[0] < _STARTED]
        self._times += [row[2] for row in rows if row[0] < _STARTED]
        self._versions += [version for version, row in enumerate(rows, after + 1) if row[0] < _STARTED]
        for row in rows if len(self._said) < after + len(rows) else ():
            if row[0] >= _ENDED:
                _decode_ended(row[1])

    def newest_version(self) -> int:
        return self._versions[-1] if self._versions else 0

    def opening_version(self) -> int:
        """Return the version of the last system message before any other message."""
        version = 0
        for version_of_next, said in zip(self._versions, self._said, strict=True):
            if said.role not in INSTRUCTING:
                break
            version = version_of_next
        return version

    def messages(self) -> tuple[JournaledMessage, ...]:
        places = zip(self._said, self._versions, self._times, strict=True)
        return tuple(JournaledMessage.stored(asdict(said), version, at.decode()) for said, version, at in places)

    def plain(self) -> list[dict[str, Any]] | None:
        return as_plain(self._said)


_STARTED, _ENDED = 10, 20
_USUAL = {MESSAGE: 0, e.ConversationStarted.__name__: _STARTED, e.RunStarted.__name__: _STARTED + 5, COMPLETED: _ENDED}
"""Events of a conversation of plain texts, whose runs took place in no thread, by the number of their rows."""


def as_plain(said: Sequence[Said]) -> list[dict[str, Any]]:
    """Return messages in the form of Chat Completions, newly created."""
    return [{"role": each.role, "content": each.content} for each in said]


def _whole(log: EventLog, stream: str, version: int, path: str | None) -> Memory:
    texts = Texts()
    with suppress(msgspec.MsgspecError):  # a page has something else
        if log.read_usual(stream, version, _USUAL, texts.take):
            return Memory.of_source(texts, version, path, opening_version=texts.opening_version())
    rows = list(log.stream_rows(stream, 0, version, changed=refuse_changed))  # also of other topics
    said = [row for row in rows if row[3] == MESSAGE and row[7] <= e.MessageJournaled.SCHEMA]
    others: list[Row] = []
    if len(said) < len(rows):
        others = [row for row in rows if row[3] in _OTHERS and _is_needed(row)]
    del rows
    if not others:
        return Memory.of_source(Recalled(said), version, path, opening_version=_opening_version(said))
    from .newest import folded

    if any(row[3] == ACCEPTED for row in others):  # messages may have moved
        return folded(sorted([*said, *others], key=_version_in)).memory(version, path)
    fold = folded(others)
    known = {name: getattr(fold, name) for name in ("run_threads", "run_marks", "missing_files")}
    left = Recalled(_left(said, [restore(row) for row in others]))
    return Memory.of_source(left, version, path, opening_version=_opening_version(said), **known)


def _left(said: Sequence[Row], events: Sequence[e.Event]) -> Sequence[Row]:
    """Return the rows of the messages that are still in memory after these events."""
    clears = [event for event in events if isinstance(event, e.MemoryCleared)]
    cleared = max((min(event.up_to_version, event.originator_version) for event in clears), default=0)
    if cleared:
        said = [row for row in said if row[2] > cleared]
    gone = {event.message_id for event in events if isinstance(event, e.MessageRetracted)}
    return [row for row in said if id_in(row) not in gone] if gone else said


def _opening_version(said: Sequence[Row]) -> int:
    version = 0
    for row in said:
        if message_in_row(row).role_name not in INSTRUCTING:
            break
        version = row[2]
    return version


_OTHERS = frozenset(MEMORY_TOPICS) - {MESSAGE}


def _is_needed(row: Row) -> bool:
    """Return whether memory needs an event; of the end of a run only its thread, and files that were missing."""
    if row[3] not in {COMPLETED, FAILED}:
        return True
    return has_key(row, "thread_id") or (row[3] == FAILED and has_key(row, "missing_files"))


def has_key(row: Row, name: str) -> bool:
    """Return whether a payload may have a key, without parsing it."""
    return f'"{name}"'.encode() in row[4]


def _version_in(row: Row) -> int:
    return row[2]


def message_in_row(row: Row) -> JournaledMessage:
    """Return the message of a row without parsing its content.

    Raises:
        CorruptEvent: the row cannot be read.
    """
    version, state, at = row[2], row[4], row[6]
    try:
        payload = e.payload_in(state)
        if not payload.keys() >= _MESSAGE_FIELDS:
            raise TypeError(f"missing fields: {', '.join(sorted(_MESSAGE_FIELDS - payload.keys()))}")
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error
    return JournaledMessage.stored(payload, version, at)


def id_in(row: Row) -> str:
    """Return the id of a row's message.

    Raises:
        CorruptEvent: the row cannot be read.
    """
    try:
        return _decode_id(row[4]).message_id
    except msgspec.MsgspecError:  # half a character, or damaged
        return message_in_row(row).message_id


_decode_head = msgspec.json.Decoder(_Head).decode
decode_said = msgspec.json.Decoder(Said).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode
_decode_id = msgspec.json.Decoder(_Id).decode
