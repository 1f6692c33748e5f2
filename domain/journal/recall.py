"""Read memory from the log, all of it from the beginning; `newest.py` reads from the end.

Rows become messages when they are used: a memory of plain texts is sent without building one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import asdict

from ..canonical import EMPTY_PATH
from ..conversation import STATE_SCHEMA
from ..conversation import events as e
from ..conversation.messages import JournaledMessage, Source
from ..faces import on_first_use
from ..ids import as_utc, to_iso
from ..memory import INSTRUCTING, Memory
from .rows import refuse_changed

if TYPE_CHECKING:
    from .ports import EventLog, StreamHead

MESSAGE, COMPLETED = e.MessageJournaled.__name__, e.RunCompleted.__name__

BRANCHED = '"fork_version":'
"""Text in the state of a conversation that has branches or pinned messages."""

_newest_window: Callable[[], Callable[..., Memory]] = on_first_use(__name__, "newest", "newest_window")
_along_path: Callable[[], Callable[..., Memory]] = on_first_use(__name__, "path_memory", "along_path")


def recall(
    log: EventLog,
    stream: str,
    at: int | datetime | None = None,
    last: int | None = None,
    tokens: int | None = None,
    leaf: int | None = None,
    full: bool = False,
) -> Memory:
    """Return the memory of a stream as of a version or time: all of it, or the newest messages.

    A window holds at most the newest `last` messages, within about `tokens`. `leaf` is the version of the message with
    which the path ends; None is the selected end. With `full`, no summary stands in place of messages.

    Raises:
        InvalidInput: a bound below 1.
    """
    if at is None and leaf is None and not full and (last is not None or tokens is not None):
        return _newest_window()(log, stream, last, tokens)
    upto = log.version_at(stream, to_iso(as_utc(at)), refuse_changed) if isinstance(at, datetime) else at
    head = log.select_head(stream, refuse_changed)
    version = head.version if head is not None else 0
    version = version if upto is None else max(min(version, upto), 0)
    if head is not None and (leaf is not None or BRANCHED in head.state):
        return _along_path()(log, head, version, leaf, last, tokens, full)
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
    source: Source = Source.APP
    idempotency_key: str | None = None
    written_at: str | None = None
    origin: msgspec.Raw = msgspec.Raw()
    blobs: msgspec.Raw = msgspec.Raw()
    native: msgspec.Raw = msgspec.Raw()
    metadata: msgspec.Raw = msgspec.Raw()


class _Ended(msgspec.Struct):
    """Describe the end of a run that memory does not need: it took place in no thread."""

    thread_id: None = None


class Texts:
    """Hold the messages of a memory that consists of plain texts, oldest first."""

    def __init__(self) -> None:
        self._said: list[Said] = []
        self._times: list[bytes] = []
        self._versions: list[Sequence[int]] = []
        """Versions of the messages, page by page."""

    def take(self, after: int, rows: Sequence[Sequence[Any]]) -> None:
        """Add the messages of rows, which are those after a version.

        Raises:
            MsgspecError: another kind of message, or of an end of a run.
        """
        if STARTED <= rows[0][0] < _ENDED:  # usually the only one that is no message
            after, rows = after + 1, rows[1:]
        versions: Sequence[int] = range(after + 1, after + 1 + len(rows))
        if max([row[0] for row in rows], default=0) >= STARTED:
            for row in rows:
                if row[0] >= _ENDED:
                    _decode_ended(row[1])
            versions = [version for version, row in zip(versions, rows, strict=True) if row[0] < STARTED]
            rows = [row for row in rows if row[0] < STARTED]
        self._said += map(decode_said, [row[1] for row in rows])
        self._times += [row[2] for row in rows]
        self._versions += [versions] if versions else ()

    def __len__(self) -> int:
        return len(self._said)

    def newest_version(self) -> int:
        return self._versions[-1][-1] if self._versions else 0

    def opening_version(self) -> int:
        """Return the version of the last system message before any other message."""
        version = 0
        for version_of_next, said in zip(chain.from_iterable(self._versions), self._said, strict=True):
            if said.role not in INSTRUCTING:
                break
            version = version_of_next
        return version

    def messages(self) -> tuple[JournaledMessage, ...]:
        places = zip(self._said, chain.from_iterable(self._versions), self._times, strict=True)
        return tuple(JournaledMessage.stored(asdict(said), version, at.decode()) for said, version, at in places)

    def plain(self, blank: bool) -> list[dict[str, Any]] | None:
        return as_plain(self._said, blank)


STARTED, _ENDED = 10, 30
_USUAL = (
    *((MESSAGE, 0), (e.ConversationStarted.__name__, STARTED), (e.RunStarted.__name__, 20), (COMPLETED, _ENDED)),
    *((e.ConversationDescribed.__name__, 25), (e.ExchangeRequested.__name__, 15), (e.MessageDescribed.__name__, 17)),
)
"""Events of a conversation of plain texts, whose runs took place in no thread, with the number of their rows."""


def as_plain(said: Sequence[Said], blank: bool) -> list[dict[str, Any]] | None:
    """Return messages in the form of Chat Completions, newly created; with `blank`, None if these are not all that is said."""
    if blank:
        if any(each.native for each in said):
            return None
        return [{"role": each.role, "content": each.content} for each in said]
    # `isspace`, as it looks at the beginning of a text only, and in the same pass: long texts are no longer in the cache
    return [{"role": each.role, "content": text} for each in said if (text := each.content) and not text.isspace()]


def _whole(log: EventLog, stream: str, version: int, path: str | None) -> Memory:
    texts = Texts()
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a page has something else, or is damaged
        if log.read_usual(stream, version, _USUAL, texts.take):
            return Memory.of_source(texts, version, path, opening_version=texts.opening_version())
    from .message_rows import whole

    return whole(log, stream, version, path)


_decode_head = msgspec.json.Decoder(_Head).decode
decode_said = msgspec.json.Decoder(Said).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode
