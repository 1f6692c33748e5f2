"""Read both ends of a stream by one query, so that a window of a long conversation costs little else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Any

from threadledger.domain.journal import StreamHead

from .connections import Connections, leaf_prefix


def read_ends(
    database: Connections, stream: str, first: int, newest: int
) -> tuple[StreamHead, Sequence[Sequence[Any]]] | None:
    """Return the head of a stream with its first and its newest rows; see `EventLog.read_ends`."""
    query = _query(database.kind.usual_columns, database.kind.head_columns)
    found = database.query(query, (stream, stream, first, stream, newest))
    if not found or found[0][7] is not None:
        return None
    version, _, schema, state, due_at, *_ = found.pop(0)
    try:
        if [row[0] for row in found] != [*range(1, first + 1), *range(version - newest + 1, version + 1)]:
            found = sorted({row[0]: row for row in found}.values())  # the ends overlap, or the order is another
            if len(found) != min(version, first + newest) or found[0][0] != 1 or found[-1][0] != version:
                return None
        if not _match(found, stream):
            return None
    except (TypeError, IndexError):  # a column has a value of another type, an id is no UUID, or no event is left
        return None
    return StreamHead(stream, version, schema, state.decode(), due_at.decode() if due_at else None), found


@cache
def _query(usual_columns: str, head_columns: str) -> str:
    """Return the query for the head of a stream, which has no leaf, and for its first and its newest rows."""
    events = (
        f"SELECT e.version, e.topic, e.schema, {usual_columns} FROM streams s JOIN events e ON e.stream = s.stream "
        "WHERE s.name = ? AND e.version"
    )
    head = f"SELECT s.version, s.name, s.state_schema, {head_columns}, NULL, NULL, NULL FROM streams s WHERE s.name = ?"
    return f"{head} UNION ALL {events} <= ? UNION ALL {events} > s.version - ?"


def _match(rows: Sequence[Sequence[Any]], stream: str) -> bool:
    """Return whether rows match their leaf hashes."""
    prefixes: dict[tuple[str, int], bytes] = {}
    for version, topic, schema, state, at, position, event_id, leaf in rows:
        prefix = prefixes.get((topic, schema))
        if prefix is None:
            prefix = prefixes[topic, schema] = leaf_prefix(stream, topic, schema, b"")
        if sha256(b"%b%d\n%d\n%b\n%b%b" % (prefix, position, version, at, event_id, state)).digest() != leaf:
            return False
    return True
