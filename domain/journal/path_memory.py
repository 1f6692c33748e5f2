"""Build the memory of a conversation with branches, or a window of it, from what `path.py` reads along its path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from ..canonical import EMPTY_PATH, path_of
from ..conversation import STATE_SCHEMA
from ..errors import InvalidInput
from ..ids import moment_of_id, to_iso
from ..memory import Memory
from .generations import check_version, is_deleted, of_generation
from .message_rows import id_in, whole
from .newest import newest_kept
from .path import ROWS_MAX, Known, PathReader, VersionsMissing
from .recall import MESSAGE, known_in
from .rows import refuse_changed

if TYPE_CHECKING:
    from ..conversation.messages import JournaledMessage
    from .ports import EventLog, StreamHead

ROWS_GUESSED = 64
"""Number of rows that are read at once for a window by tokens."""

ROWS_NEARBY = 8
"""Number of rows on each side of the place of an id that are searched first."""


class _Branches(msgspec.Struct):
    """Hold what the state of a conversation says about its branches."""

    end_version: int | None = None
    mark_version: int | None = None
    fork_version: int | None = None
    pins: dict[str, int] | None = None


def known_branches(head: StreamHead, version: int) -> Known:
    """Return what a head knows of the branches as of a version; of an older version only where they begin."""
    if head.state_schema != STATE_SCHEMA:
        return Known()
    try:
        found = _decode(head.state)
    except msgspec.MsgspecError:  # damaged: all of it follows from the events
        return Known()
    fork = (found.end_version or 0) if found.fork_version is None else found.fork_version
    if head.version != version:
        return Known(fork=min(fork, version))
    return Known(found.end_version, found.mark_version, found.pins or {}, fork)


def path_reader(
    log: EventLog,
    head: StreamHead,
    version: int,
    leaf: int | None = None,
    rows: int | None = None,
    full: bool = False,
) -> PathReader:
    """Return a reader of the path as of a version that ends with the message of version `leaf`, or at the selected end."""
    known = known_branches(head, version)
    if leaf is not None:
        known = Known(leaf, known.newest_mark, known.pins, min(known.fork, leaf))
    return PathReader(of_generation(log, head), head.stream, version, known, rows, full)


def along_path(
    log: EventLog,
    head: StreamHead,
    version: int,
    leaf: int | None,
    last: int | None,
    tokens: int | None,
    full: bool = False,
) -> Memory:
    """Return the memory as of a version along a path, all of it or a window; see `recall`.

    Raises:
        InvalidInput: a bound below 1.
    """
    for name, bound in (("last", last), ("tokens", tokens)):
        if bound is not None and bound < 1:
            raise InvalidInput(f"a memory with {name}={bound} would show nothing: give a number of 1 or more")
    is_whole = last is None and tokens is None
    check_version(head, version)
    if version == 0 or is_deleted(head):
        memory = Memory(path_hash=EMPTY_PATH)
        return memory if is_whole else memory.window(last, tokens)
    log = of_generation(log, head)
    path = path_reader(log, head, version, leaf, None if is_whole else (last or ROWS_GUESSED) + 1, full)
    try:
        memory = _whole(path, version) if is_whole else _window(path, version, last, tokens)
    except VersionsMissing:
        memory = whole(log, head.stream, version, None, leaf, full)
        memory = memory if is_whole else memory.window(last, tokens)
    if leaf is not None or full:
        return memory
    known = known_in(head, version)
    return memory.with_hash(known.path_hash).knowing(known.has_parts)


def _whole(path: PathReader, version: int) -> Memory:
    messages = [*path.messages()]
    return _memory(path, version, messages[::-1], path.opening())


def _window(path: PathReader, version: int, last: int | None, tokens: int | None) -> Memory:
    opening = path.opening()
    kept, may_be_cut = newest_kept(path.messages(), last, tokens, {each.message_id for each in opening})
    ids = {each.message_id for each in kept}
    left_out = [each for each in opening if each.message_id not in ids]
    begin = [each for each in left_out if not path.hides(each.message_id, each.version)]
    ids.update(each.message_id for each in opening)
    pins = sorted(path.pins().items(), key=lambda pin: pin[1]) if may_be_cut else []
    for message_id, pinned in pins:
        if message_id not in ids and path.shows(message_id, pinned):
            begin.append(path.message(pinned))
    return _memory(path, version, [*begin, *reversed(kept)], opening).window(last, tokens)


def _memory(
    path: PathReader, version: int, messages: Sequence[JournaledMessage], opening: Sequence[JournaledMessage]
) -> Memory:
    return Memory(
        tuple(messages),
        version,
        run_threads=path.run_threads,
        run_marks=path.run_marks,
        missing_files=path.missing_files,
        opening_version=opening[-1].version if opening else 0,
        pinned=frozenset(path.pins()),
        summary_id=path.summary.message_id if path.summary is not None else None,
        covered_version=path.summary.covers_version if path.summary is not None else None,
    )


def path_hash_along(
    log: EventLog, head: StreamHead, version: int, leaf: int | None, most: int | None = None
) -> str | None:
    """Return the hash of a path as of a version, reading from its end to the newest usable checkpoint.

    None if there is none among the newest `most` messages.
    """
    if is_deleted(head):
        return EMPTY_PATH
    log = of_generation(log, head)
    path = path_reader(log, head, version, leaf)
    if leaf:
        path.seek_checkpoint_after(leaf)
    try:
        messages = [*islice(path.messages(to_checkpoint=True), most)]
        if most is not None and len(messages) == most and path.checkpoint is None:
            return None
    except VersionsMissing:
        return whole(log, head.stream, version, None, leaf).digest()
    return path_of((each.neutral() for each in reversed(messages)), path.checkpoint or EMPTY_PATH)


def locate(log: EventLog, stream: str, version: int, message_id: str) -> int | None:
    """Return the version of a message of a stream by its id; None if it is not there.

    It is looked for at the time of its id, then in growing steps around that place.
    """
    moment = moment_of_id(message_id)
    place = log.version_at(stream, to_iso(moment)) if moment is not None else version
    low = high = min(place, version)
    step = ROWS_NEARBY
    while low > 0 or high < version:
        before, after = max(low - step, 0), min(high + step, version)
        for begin, end in ((before, low), (high, after)):
            for row in log.stream_rows(
                stream, begin, end, (MESSAGE,), page=max(end - begin, 1), changed=refuse_changed
            ):
                if row[3] == MESSAGE and id_in(row) == message_id:
                    return row[2]
        low, high, step = before, after, min(step * 2, ROWS_MAX)
    return None


_decode = msgspec.json.Decoder(_Branches).decode
