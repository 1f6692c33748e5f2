"""The notebook of threads as it is read for `doctor`: how far each is known to hold the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from threadledger.domain import NotedThread, now, to_iso

from .engine import Database

STREAMS_AT_ONCE = 200
"""Conversations that one query asks for: SQLite takes 999 values and more, and a longer statement is no faster."""

_HEADS = "SELECT stream, mirror, thread_id, version, settled, holder, held_until, doubts FROM mirror_heads"


def noted_threads(database: Database, streams: Sequence[str]) -> list[NotedThread]:
    """What the notebook says of the threads of these conversations."""
    found: list[NotedThread] = []
    for start in range(0, len(streams), STREAMS_AT_ONCE):
        some = streams[start : start + STREAMS_AT_ONCE]
        places = ", ".join("?" * len(some))
        found += _read(database.query(f"{_HEADS} WHERE stream IN ({places})", tuple(some)))
    return found


def unsettled_threads(database: Database, limit: int) -> list[NotedThread]:
    """Threads that have to be read before anything is written to them."""
    return list(_read(database.query(f"{_HEADS} WHERE settled = 0 OR doubts <> '[]' LIMIT ?", (limit,))))


def _read(rows: Sequence[Any]) -> Iterator[NotedThread]:
    moment = to_iso(now())
    for stream, mirror, thread_id, version, settled, holder, held_until, doubts in rows:
        held = holder is not None and (held_until or "") > moment
        yield NotedThread(stream, mirror, thread_id, version, bool(settled), len(json.loads(doubts)), held)
