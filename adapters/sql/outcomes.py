"""Store how threads compared with the journal, and list the conversations that have threads.

The table is created with the first note. It is no part of the schema, of copies or of the log: without it, every thread is
listed as one that was never verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from threadledger.domain.conversation import CONVERSATION, STATE_SCHEMA
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import NotedThread, StreamHead
from threadledger.domain.journal.outcomes import NotedStream, ThreadOutcome

from .connections import Transaction
from .database import Database
from .kind_upkeep import upkeep_of
from .notebooks import STREAMS_AT_ONCE, noted_threads

TABLE = "thread_outcomes"

_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (stream BIGINT NOT NULL, mirror TEXT NOT NULL, thread_id TEXT NOT NULL, "
    "endpoint TEXT NOT NULL, state TEXT NOT NULL, version BIGINT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (stream, mirror))",
    f"CREATE INDEX IF NOT EXISTS {TABLE}_by_state ON {TABLE} (state, stream)",
)

# The number is looked up here, so that nothing is noted about a conversation that is not stored.
_NOTE = (
    f"INSERT INTO {TABLE} (stream, mirror, thread_id, endpoint, state, version, at) "
    "SELECT stream, ?, ?, ?, ?, ?, ? FROM streams WHERE name = ? ON CONFLICT (stream, mirror) DO UPDATE SET "
    "thread_id = excluded.thread_id, endpoint = excluded.endpoint, state = excluded.state, "
    "version = excluded.version, at = excluded.at"
)

# `substr` keeps SQLite from reading an index of names, after which all conversations would be sorted.
_LINKED = (
    "SELECT s.stream FROM streams s WHERE s.stream <= ? AND substr(s.name, 1, ?) = ? "
    "AND (s.state_schema <> ? OR s.snapshot LIKE ?) ORDER BY s.stream DESC LIMIT ?"
)
_IN_STATE = (
    f"SELECT DISTINCT o.stream FROM {TABLE} o JOIN streams s ON s.stream = o.stream WHERE o.state = ? AND o.stream <= ? AND {{}} "
    "ORDER BY o.stream DESC LIMIT ?"
)
_NAME = re.compile("[A-Za-z0-9.-]+")
"""A mirror's name in which LIKE finds no signs of its own; other names are compared when the head is read."""

_HEADS = "SELECT stream, name, version, state_schema, snapshot, due_at FROM streams WHERE stream IN ({})"
_OUTCOMES = f"SELECT stream, mirror, thread_id, endpoint, state, version, at FROM {TABLE} WHERE stream IN ({{}})"

CANDIDATES = {
    "same": (("same", "1 = 1", ()),),
    "behind": (("behind", "1 = 1", ()), ("same", "s.version > o.version", ())),
    "drifted": (("drifted", "1 = 1", ()),),
    "gone": (
        ("gone", "1 = 1", ()),
        *((state, "s.snapshot LIKE ?", ('%"lost":"%',)) for state in ("same", "behind", "drifted")),
    ),
    "unlinked": (("unlinked", "1 = 1", ()),),
}
"""Of each state of a thread, the noted states of which it may be by now, with a condition and its values."""


def note_outcome(database: Database, stream: str, mirror: str, outcome: ThreadOutcome) -> None:
    """Store how a thread of a conversation compared with the journal; do nothing if the database is read-only."""
    if database.read_only or upkeep_of(database).why_read_only() is not None:
        return
    compared = (outcome.thread_id, outcome.endpoint, outcome.state, outcome.version, to_iso(outcome.at))

    def note(transaction: Transaction) -> None:
        if TABLE not in transaction.tables():
            database.kind.lock_schema(transaction)
            for statement in _TABLE:
                transaction.execute(statement)
        transaction.execute(_NOTE, (mirror, *compared, stream))

    database.write(note)


def noted_streams(
    database: Database, number_max: int, limit: int, *, wanted: str | None, mirror: str | None, stream: str | None
) -> list[NotedStream]:
    """Return conversations up to a number that may have threads, newest first; see `Upkeep.noted_streams`."""

    def read(transaction: Transaction) -> list[tuple[StreamHead, int, dict[str, ThreadOutcome]]]:
        is_noted = TABLE in transaction.tables()
        if stream is not None:
            query, values = "SELECT stream FROM streams WHERE name = ? AND stream <= ?", (stream, number_max)
            numbers = [number for (number,) in transaction.execute(query, values)]
        elif wanted is None:
            numbers = _linked(transaction, number_max, limit, mirror)
        else:
            numbers = _in_state(transaction, number_max, limit, wanted, mirror) if is_noted else []
        heads = {row[0]: StreamHead(*row[1:]) for row in _of_each(transaction, _HEADS, numbers)}
        outcomes: dict[int, dict[str, ThreadOutcome]] = {}
        for row in _of_each(transaction, _OUTCOMES, numbers) if is_noted else ():
            outcome = ThreadOutcome(row[2], row[3], row[4], row[5], from_iso(row[6]))
            outcomes.setdefault(row[0], {})[row[1]] = outcome
        return [(heads[number], number, outcomes.get(number, {})) for number in numbers if number in heads]

    found = database.read(read)
    noted: dict[str, dict[str, NotedThread]] = {}
    for each in noted_threads(database, [head.stream for head, _, _ in found]):
        noted.setdefault(each.stream, {})[each.mirror] = each
    return [NotedStream(number, head, outcomes, noted.get(head.stream, {})) for head, number, outcomes in found]


def _linked(transaction: Transaction, number_max: int, limit: int, mirror: str | None) -> list[int]:
    """Return the numbers of the newest conversations whose head names a thread, and the mirror if it is given."""
    named = f'"{mirror}":' if mirror is not None and _NAME.fullmatch(mirror) else ""
    values = (number_max, len(CONVERSATION), CONVERSATION, STATE_SCHEMA, f'%{named}%"thread_id"%', limit)
    return [number for (number,) in transaction.execute(_LINKED, values)]


def _in_state(transaction: Transaction, number_max: int, limit: int, wanted: str, mirror: str | None) -> list[int]:
    """Return the numbers of the newest conversations that may have a thread in a state."""
    found: set[int] = set()
    for noted, condition, given in CANDIDATES[wanted]:
        conditions = condition if mirror is None else f"{condition} AND o.mirror = ?"
        values = (noted, number_max, *given, *([] if mirror is None else [mirror]), limit)
        found.update(number for (number,) in transaction.execute(_IN_STATE.format(conditions), values))
    return sorted(found, reverse=True)[:limit]


def _of_each(transaction: Transaction, query: str, numbers: Sequence[int]) -> list[Any]:
    """Return the rows of a query for these conversations."""
    rows: list[Any] = []
    for start in range(0, len(numbers), STREAMS_AT_ONCE):
        some = numbers[start : start + STREAMS_AT_ONCE]
        rows += transaction.execute(query.format(", ".join("?" * len(some))), tuple(some)).fetchall()
    return rows
