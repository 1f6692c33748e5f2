"""Read memory from rows of any kind: `recall.py` reads those that consist of plain texts.

Rows become messages when they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..conversation import events as e
from ..conversation.messages import JournaledMessage
from ..memory import INSTRUCTING, MEMORY_TOPICS, Memory, MemoryFold
from .recall import COMPLETED, MESSAGE, as_plain, decode_said
from .rows import Row, corrupt, refuse_changed, restore

if TYPE_CHECKING:
    from .ports import EventLog

ACCEPTED, FAILED = e.RerunAccepted.__name__, e.RunFailed.__name__

BRANCHING = frozenset(each.__name__ for each in (e.BranchSelected, e.MemoryCompacted, e.MessagePinned))

_MESSAGE_FIELDS = {"message_id", "role"}


class Recalled:
    """Build the messages of a memory from their rows, oldest first, when they are used."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def newest_version(self) -> int:
        return self._rows[-1][2] if self._rows else 0

    def messages(self) -> tuple[JournaledMessage, ...]:
        return tuple(map(message_in_row, self._rows))

    def plain(self, blank: bool) -> list[dict[str, Any]] | None:
        try:
            return as_plain([decode_said(row[4]) for row in self._rows], blank)
        except msgspec.MsgspecError:
            return None


def whole(
    log: EventLog, stream: str, version: int, path: str | None, leaf: int | None = None, full: bool = False
) -> Memory:
    """Return the whole memory of a stream as of a version, whatever it consists of; `leaf` and `full` as in `recall`."""
    rows = list(log.stream_rows(stream, 0, version, changed=refuse_changed))  # also of other topics
    said = [row for row in rows if row[3] == MESSAGE and row[7] <= e.MessageJournaled.SCHEMA]
    others: list[Row] = []
    if len(said) < len(rows):
        others = [row for row in rows if row[3] in _OTHERS and _is_needed(row)]
    del rows
    has_branches = leaf is not None or (path is None and any(has_key(row, "parent_version") for row in said))
    if not others and not has_branches:
        return Memory.of_source(Recalled(said), version, path, opening_version=_opening_version(said))
    if has_branches or any(row[3] in _MOVING for row in others):
        return folded(sorted([*said, *others], key=_version_in)).memory(version, path, leaf, full)
    fold = folded(others)
    known = {name: getattr(fold, name) for name in ("run_threads", "run_marks", "missing_files")}
    left = Recalled(_left(said, [restore(row) for row in others]))
    return Memory.of_source(left, version, path, opening_version=_opening_version(said), **known)


def folded(rows: Iterable[Row]) -> MemoryFold:
    """Return the fold of rows of messages and of events that remove or move them, oldest first."""
    fold = MemoryFold()
    for row in rows:
        if row[3] == MESSAGE:
            fold.say(message_in_row(row))
        else:
            fold.take(restore(row))
    return fold


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

_MOVING = frozenset({ACCEPTED, *BRANCHING, e.ConversationDeleted.__name__})
"""Events after which messages may be in another order than in the journal, or nothing before them is left."""


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
        payload = _payload_with_native(state) if b'"native":' in state else e.payload_in(state)
        if not payload.keys() >= _MESSAGE_FIELDS:
            raise TypeError(f"missing fields: {', '.join(sorted(_MESSAGE_FIELDS - payload.keys()))}")
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error
    return JournaledMessage.stored(payload, version, at)


def _payload_with_native(text: bytes) -> dict[str, Any]:
    """Return the payload of a message whose `native`, which may be large, is not parsed until it is used."""
    try:
        return {name: raw if name == "native" else _decode_value(raw) for name, raw in _decode_fields(text).items()}
    except msgspec.MsgspecError:
        return e.payload_in(text)


def id_in(row: Row) -> str:
    """Return the id of a row's message.

    Raises:
        CorruptEvent: the row cannot be read.
    """
    try:
        return _decode_id(row[4]).message_id
    except msgspec.MsgspecError:  # half a character, or damaged
        return message_in_row(row).message_id


class _Id(msgspec.Struct):
    """Hold the id of a message, by which events name it."""

    message_id: str


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder().decode
_decode_id = msgspec.json.Decoder(_Id).decode
