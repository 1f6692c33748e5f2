"""Read both ends of a stream by one query, so that a window of a long conversation costs little else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from threadledger.domain.journal import StreamHead

from .connections import Connections, Kind, Prefixes, Topics, match_leaves, number_in


def read_ends(
    database: Connections, stream: str, first: int, newest: int, topics: Topics, unless: str
) -> tuple[StreamHead, Sequence[Sequence[Any]]] | None:
    """Return the head of a stream with a row near its beginning and its newest rows; see `EventLog.read_ends`."""
    query = _ends_query(database.kind, topics)
    rows = database.query(query, (stream, stream, unless, first, stream, unless, newest))
    if not rows or rows[0][5] is not None:
        return None
    version, state, due_at, schema, *_ = rows.pop(0)
    if not rows and unless.encode() in state:
        return StreamHead(stream, version, schema, state.decode(), due_at.decode() if due_at else None), ()
    if not isinstance(version, int) or len(rows) != min(version, newest) + 1:
        return None
    if not match_leaves(rows, (first, *range(version - len(rows) + 2, version + 1)), Prefixes(stream, topics)):
        return None  # or the database returned them in another order
    return StreamHead(stream, version, schema, state.decode(), due_at.decode() if due_at else None), rows


@cache
def _ends_query(kind: Kind, topics: Topics) -> str:
    """Return the query for the head of a stream, which has no leaf, the row of a version, and the newest rows."""
    events = (
        f"SELECT {number_in(topics)}, {kind.usual_columns} FROM streams s JOIN events e ON e.stream = s.stream "
        f"WHERE s.name = ? AND {kind.place_in}(s.snapshot, ?) = 0 AND e.version"
    )
    head = f"SELECT s.version, {kind.head_columns}, s.state_schema, NULL, NULL FROM streams s WHERE s.name = ?"
    return f"{head} UNION ALL {events} = ? UNION ALL {events} > s.version - ?"
