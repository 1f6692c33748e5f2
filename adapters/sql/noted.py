"""Read the notebook of threads for `doctor`: the journal version that each thread is known to contain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from threadledger.domain import NotedThread, now, to_iso

from .engine import Database

STREAMS_AT_ONCE = 200
"""Number of conversations per query. SQLite accepts at least 999 values, but a longer statement is not faster."""

_HEADS = "SELECT stream, mirror, thread_id, version, settled, holder, held_until, doubts FROM mirror_heads"


def noted_threads(database: Database, streams: Sequence[str]) -> list[NotedThread]:
    """Return the notebook entries for the threads of these conversations."""
    found: list[NotedThread] = []
    for start in range(0, len(streams), STREAMS_AT_ONCE):
        some = streams[start : start + STREAMS_AT_ONCE]
        places = ", ".join("?" * len(some))
        found += _read(database.query(f"{_HEADS} WHERE stream IN ({places})", tuple(some)))
    return found


def unsettled_threads(database: Database, limit: int) -> list[NotedThread]:
    """Return up to `limit` threads that must be read before anything is written to them."""
    return list(_read(database.query(f"{_HEADS} WHERE settled = 0 OR doubts <> '[]' LIMIT ?", (limit,))))


def _read(rows: Sequence[Any]) -> Iterator[NotedThread]:
    moment = to_iso(now())
    for stream, mirror, thread_id, version, settled, holder, held_until, doubts in rows:
        held = holder is not None and (held_until or "") > moment
        yield NotedThread(stream, mirror, thread_id, version, bool(settled), len(json.loads(doubts)), held)
