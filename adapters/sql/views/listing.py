"""Define the tables of the list of conversations, and read a page of it.

Whether a conversation is unanswered or archived is its class, a number. Every index begins with what a list is filtered by
and the class, and ends with the sort key. So a page is read from one index, or from one for each class that it may hold,
and reads as many rows as it has items, or that often, however many conversations there are. With several filters, the owner
decides, then the first tag or pair: the others are compared row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec

from threadledger.domain.conversation import ConversationState, key_of
from threadledger.domain.conversation.description import Description
from threadledger.domain.conversation.listing import ConversationFilter, ListOrder, label_of_pair, label_of_tag
from threadledger.domain.ids import to_iso

from .transaction import ViewTransaction

COLUMNS = {
    "number": "bigint",
    "stream": "text",
    "position": "bigint",
    "class": "smallint",
    "state": "text",
    "written_at": "text",
    "owner": "text",
    "description": "text",
}
"""Columns of a row, in the order of its values, with their types in PostgreSQL."""

LABEL_COLUMNS = {"label": "text", "class": "smallint", "position": "bigint", "number": "bigint"}

TABLES = (
    "CREATE TABLE {begin}states (number {number} NOT NULL PRIMARY KEY, stream TEXT NOT NULL, position BIGINT NOT NULL, "
    "class SMALLINT NOT NULL, state TEXT NOT NULL, written_at TEXT, owner TEXT, description TEXT)",
    "CREATE INDEX {begin}by_position ON {begin}states (class, position)",
    "CREATE INDEX {begin}by_number ON {begin}states (class, number)",
    "CREATE INDEX {begin}by_owner ON {begin}states (owner, class, position) WHERE owner IS NOT NULL",
    "CREATE INDEX {begin}by_owner_number ON {begin}states (owner, class, number) WHERE owner IS NOT NULL",
    # Tags and pairs of metadata, by their hash: a text of any length is compared as a whole.
    "CREATE TABLE {begin}labels (label TEXT NOT NULL, class SMALLINT NOT NULL, position BIGINT NOT NULL, "
    "number BIGINT NOT NULL, PRIMARY KEY (label, class, number))",
    "CREATE INDEX {begin}labels_by_position ON {begin}labels (label, class, position)",
    "CREATE INDEX {begin}labels_by_number ON {begin}labels (number)",
)

UNANSWERED, ARCHIVED = 1, 2
"""Parts of the number of a class."""

PAIRS_MAX = 100
"""Maximum number of pairs of a conversation's metadata that a list is filtered by, the first ones."""

_LABEL_BYTES = 16

POSITION_MAX = 2**63 - 1

Place = tuple[int, int]
"""Sort key of the last item of a page, and the position after which the conversations of the list changed (`since`)."""


class _Stored(msgspec.Struct):
    title: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


_stored_in = msgspec.json.Decoder(_Stored).decode


def class_of(state: ConversationState) -> int:
    """Return the class of a conversation."""
    archived = (state.described or {}).get("archived") is True
    return (UNANSWERED if state.unanswered > 0 else 0) + (ARCHIVED if archived else 0)


def described_values(description: Description) -> tuple[str | None, str | None]:
    """Return the values of the columns `owner` and `description`."""
    owner = description.owner if "\0" not in description.owner and _is_text(description.owner) else ""
    stored = {
        name: value for name, value in description.as_json().items() if name in {"title", "tags", "metadata"} and value
    }
    return owner or None, json.dumps(stored, separators=(",", ":")) if stored else None


def labels_of(description: Description) -> list[str]:
    """Return the hashes of the tags and of the first pairs of metadata."""
    pairs = (label_of_pair(name, value) for name, value in description.metadata.items())
    return list(
        dict.fromkeys(map(_hashed, (*map(label_of_tag, description.tags), *islice(filter(None, pairs), PAIRS_MAX))))
    )


def _hashed(label: Sequence[Any]) -> str:
    return blake2b(json.dumps(label).encode(), digest_size=_LABEL_BYTES).hexdigest()


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text)


def state_of(
    stream: str, stored: str, written_at: str | None, owner: str | None, described: str | None
) -> ConversationState:
    """Return the state of a row, with its description."""
    state = ConversationState.from_json(stored)
    state.written_at = written_at
    state.key = state.key or key_of(stream)  # its first event may be one that could not be processed
    archived = (state.described or {}).get("archived") is True
    known = _stored_in(described) if described else _Stored()
    state.description = Description(known.title, owner or "", known.tags, archived, known.metadata)
    return state


STATE = "v.stream, v.state, v.written_at, v.owner, v.description"
"""Columns of a row for `state_of`."""


class Listing:
    """Read the list of conversations from one generation of the view."""

    def __init__(self, transaction: ViewTransaction, begin: str) -> None:
        self._transaction = transaction
        self._begin = begin

    def page(
        self,
        wanted: ConversationFilter,
        limit: int | None,
        place: Place | None,
        *,
        columns: str | None = None,
        among: tuple[str, Sequence[Any]] | None = None,
    ) -> tuple[list[Any], Place | None]:
        """Return the rows of a page, and the place after which the next one begins; None if there is none.

        `among` is a query for the numbers of the conversations to return, with its values.
        """
        floor = place[1] if place is not None else self._position_before(wanted)
        query, values = self._query(
            wanted, limit, (place[0] if place is not None else None, floor), columns or STATE, among
        )
        rows = self._transaction.rows(query, values)
        if limit is None or len(rows) <= limit:
            return [row[1:] for row in rows], None
        return [row[1:] for row in rows[:limit]], (rows[limit - 1][0], floor)

    def states(self, numbers: Iterable[int], source: str, value: object) -> list[ConversationState]:
        """Return the conversations with these numbers, in this order; `source` has them as a table."""
        query = f"SELECT v.number, {STATE} FROM {source} JOIN {self._begin}states v ON v.number = wanted.value"
        found = {row[0]: state_of(*row[1:]) for row in self._transaction.rows(query, (value,))}
        return [found[number] for number in numbers if number in found]

    def _query(
        self,
        wanted: ConversationFilter,
        limit: int | None,
        place: tuple[int | None, int],
        columns: str,
        among: tuple[str, Sequence[Any]] | None,
    ) -> tuple[str, list[Any]]:
        key = "number" if wanted.order is ListOrder.STARTED else "position"
        direction = "ASC" if wanted.order is ListOrder.OLDEST else "DESC"
        order = f"ORDER BY sort_key {direction}"
        bounded = f" {order} LIMIT ?" if limit is not None else ""
        legs: list[str] = []
        values: list[Any] = []
        for number in _classes(wanted):
            leg, own = self._leg(wanted, number, key, place, columns, among)
            legs.append(f"SELECT * FROM ({leg}{bounded}) AS of_class_{number}" if bounded else leg)
            values += own if limit is None else [*own, limit + 1]
        query = f"{' UNION ALL '.join(legs)} {order}"
        return (query, values) if limit is None else (f"{query} LIMIT ?", [*values, limit + 1])

    def _leg(
        self,
        wanted: ConversationFilter,
        number: int,
        key: str,
        place: tuple[int | None, int],
        columns: str,
        among: tuple[str, Sequence[Any]] | None,
    ) -> tuple[str, list[Any]]:
        """Return the query for the conversations of one class, and its values."""
        after, floor = place
        labels = [_hashed(label_of_tag(tag)) for tag in wanted.tags]
        labels += [_hashed(label_of_pair(*pair) or ()) for pair in wanted.metadata]
        driver, conditions = "v", ["v.class = ?"]
        values: list[Any] = [number]
        source = f"{self._begin}states v"
        if wanted.owner is not None:
            conditions, values = ["v.owner = ?", *conditions], [wanted.owner, *values]
        elif labels:
            driver, conditions, values = "l", ["l.label = ?", "l.class = ?"], [labels.pop(0), number]
            # SQLite keeps the order of a CROSS JOIN; the other one would read every conversation.
            joined = "CROSS JOIN {0} v" if self._transaction.kind == "sqlite" else "JOIN {0} v ON true"
            source = f"{self._begin}labels l {joined.format(f'{self._begin}states')}"
            conditions.append("v.number = l.number")
        if after is not None:
            conditions.append(f"{driver}.{key} {'>' if wanted.order is ListOrder.OLDEST else '<'} ?")
            values.append(after)
        if floor:
            conditions.append(f"{driver}.position > ?")
            values.append(floor)
        for label in labels:
            conditions.append(
                f"EXISTS (SELECT 1 FROM {self._begin}labels o WHERE o.label = ? AND o.class = v.class AND o.number = v.number)"
            )
            values.append(label)
        if among is not None:
            conditions.append(f"v.number IN ({among[0]})")
            values += among[1]
        return f"SELECT {driver}.{key} AS sort_key, {columns} FROM {source} WHERE {' AND '.join(conditions)}", values

    def _position_before(self, wanted: ConversationFilter) -> int:
        """Return the position of the last event before the time since which conversations have changed, by halving.

        Times ascend in the log, except by what the clocks of several writers differ.
        """
        since = wanted.since_moment()
        if since is None:
            return 0
        first, at = 0, to_iso(since)
        last = self._transaction.rows("SELECT coalesce(max(position), 0) FROM events")[0][0]
        while first < last:
            middle = (first + last) // 2
            query = "SELECT e.position, e.at FROM events e WHERE e.position > ? ORDER BY e.position LIMIT 1"
            position, written = self._transaction.rows(query, (middle,))[0]
            first, last = (first, middle) if written >= at else (position, last)
        return first


def _classes(wanted: ConversationFilter) -> list[int]:
    """Return the classes that a list may hold."""
    return [
        number
        for number in range(UNANSWERED + ARCHIVED + 1)
        if wanted.unanswered in {None, bool(number & UNANSWERED)} and wanted.archived in {None, bool(number & ARCHIVED)}
    ]


def differing(kind: str) -> Mapping[str, str]:
    """Return what differs between the databases in `TABLES`. On SQLite, only INTEGER makes a primary key the row's number."""
    return {"number": "INTEGER" if kind == "sqlite" else "BIGINT"}
