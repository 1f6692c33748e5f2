"""Define the tables of the list of conversations, and read a page of it.

Whether a conversation is unanswered, archived or pending is its class, a number. Every index begins with what a list is
filtered by and the class, and ends with the sort key. So a page is read from one index, or from one for each class that it
may hold, and reads as many rows as it has items, or that often, however many conversations there are. With several filters,
the owner decides, then the first tag or pair: the others are compared row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec

from threadledger.domain.conversation import CONVERSATION, ConversationState, key_of
from threadledger.domain.conversation.description import NOT_DESCRIBED, Description
from threadledger.domain.conversation.listing import (
    ConversationFilter,
    label_of_pair,
    label_of_tag,
    label_of_tenant,
)
from threadledger.domain.conversation.tenants import TENANT
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

UNANSWERED, ARCHIVED, PENDING = 1, 2, 4
"""Parts of the number of a class."""

CLASSES = range(UNANSWERED + ARCHIVED + PENDING + 1)

DELETED = -1
"""Class of a deleted conversation, which no list holds; its row shows that it is known."""

PAIRS_MAX = 100
"""Maximum number of pairs of a conversation's metadata that a list is filtered by, the first ones."""

_LABEL_BYTES = 16

_TENANTS = CONVERSATION + TENANT
"""Beginning of the streams of all tenants' conversations."""

IS_TENANTS = f"substr({{}}, 1, {len(_TENANTS)}) = '{_TENANTS}'"
"""Condition that a stream is the conversation of a tenant."""

POSITION_MAX = 2**63 - 1

_BEFORE = (
    "WITH RECURSIVE halved (low, high) AS ("
    "SELECT CAST(0 AS BIGINT), coalesce(max(position), 0) FROM events UNION ALL "
    "SELECT CASE WHEN n.at >= ? THEN h.low ELSE n.position END, "
    "CASE WHEN n.at >= ? THEN (h.low + h.high) / 2 ELSE h.high END FROM halved h JOIN events n "
    "ON n.position = (SELECT min(e.position) FROM events e WHERE e.position > (h.low + h.high) / 2) WHERE h.low < h.high"
    ") SELECT max(low) FROM halved"
)
"""Query for the position of the last event before a time."""

Place = tuple[int, int]
"""Sort key of the last item of a page, and the position after which the conversations of the list changed (`since`)."""


class _Stored(msgspec.Struct):
    title: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


_stored_in = msgspec.json.Decoder(_Stored).decode


def class_of(state: ConversationState) -> int:
    """Return the class of a conversation."""
    if state.deleted:
        return DELETED
    archived = (state.described or {}).get("archived") is True
    waits = PENDING if state.pending else 0
    return (UNANSWERED if state.unanswered > 0 else 0) + (ARCHIVED if archived else 0) + waits


def described_values(description: Description) -> tuple[str | None, str | None]:
    """Return the values of the columns `owner` and `description`."""
    owner = description.owner if "\0" not in description.owner and _is_text(description.owner) else ""
    stored = {
        name: value for name, value in description.as_json().items() if name in {"title", "tags", "metadata"} and value
    }
    return owner or None, json.dumps(stored, separators=(",", ":")) if stored else None


def labels_of(description: Description, tenant: str = "") -> list[str]:
    """Return the hashes of the tags and of the first pairs of metadata, and of the tenant if there is one."""
    pairs = (label_of_pair(name, value) for name, value in description.metadata.items())
    labels = (*map(label_of_tag, description.tags), *islice(filter(None, pairs), PAIRS_MAX))
    of_tenant = (label_of_tenant(tenant),) if tenant else ()
    return list(dict.fromkeys(map(_hashed, (*labels, *of_tenant))))


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
    if owner or described or archived:
        known = _stored_in(described) if described else _Stored()
        state.description = Description(known.title, owner or "", known.tags, archived, known.metadata)
    else:
        state.description = NOT_DESCRIBED
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
        """Return a page, and the place after which the next one begins; None if there is none.

        A page has conversations with their descriptions, or rows of the given columns.
        `among` is a query for the numbers of the conversations to return, with its values.
        """
        floor = place[1] if place is not None else self._position_before(wanted)
        query, values = self._query(wanted, limit, (place[0] if place is not None else None, floor), among)
        direction = _direction(wanted)
        rows = self._transaction.rows(
            f"SELECT p.sort_key, {columns or STATE} FROM ({query}) AS p {self._join} {self._begin}states v "
            f"{self._on('v.number = p.number')} ORDER BY p.sort_key {direction}",
            values,
        )
        there_is_more = limit is not None and len(rows) > limit
        found = [row[1:] if columns is not None else state_of(*row[1:]) for row in rows[:limit]]
        return found, (rows[len(found) - 1][0], floor) if there_is_more else None

    def states(self, numbers: Iterable[int], source: str, value: object) -> list[ConversationState]:
        """Return the conversations with these numbers, in this order; `source` has them as a table."""
        query = f"SELECT v.number, {STATE} FROM {source} JOIN {self._begin}states v ON v.number = wanted.value"
        found = {row[0]: state_of(*row[1:]) for row in self._transaction.rows(query, (value,))}
        return [found[number] for number in numbers if number in found]

    @property
    def _join(self) -> str:
        """Return the join that keeps the order of the tables on SQLite, which chooses a worse one without statistics."""
        return "CROSS JOIN" if self._transaction.kind == "sqlite" else "JOIN"

    def _on(self, condition: str) -> str:
        return f"{'WHERE' if self._transaction.kind == 'sqlite' else 'ON'} {condition}"

    def _query(
        self,
        wanted: ConversationFilter,
        limit: int | None,
        place: tuple[int | None, int],
        among: tuple[str, Sequence[Any]] | None,
    ) -> tuple[str, list[Any]]:
        """Return the query for sort key and number of the conversations of a page and one more, and its values.

        The classes are merged: each is read in the order of its index until there are enough (on PostgreSQL, enough of each).
        """
        classes = _classes(wanted)
        if among is not None:  # the matches are few, or all have to be read in any case
            legs = [self._found(wanted, classes, place, among)]
        else:
            legs = [self._of_class(wanted, number, place) for number in classes]
        order = f"ORDER BY sort_key {_direction(wanted)}"
        if limit is not None and self._transaction.kind != "sqlite":  # PostgreSQL would sort them all
            legs = [
                (f"SELECT * FROM ({leg} {order} LIMIT ?) AS of_class_{number}", [*own, limit + 1])
                for number, (leg, own) in enumerate(legs)
            ]
        query = f"{' UNION ALL '.join(leg for leg, _ in legs)} {order}"
        values = [value for _, own in legs for value in own]
        return (query, values) if limit is None else (f"{query} LIMIT ?", [*values, limit + 1])

    def _of_class(
        self, wanted: ConversationFilter, number: int, place: tuple[int | None, int]
    ) -> tuple[str, list[Any]]:
        """Return the query for the conversations of one class, and its values; by the owner or the first label, if any."""
        labels = _labels(wanted)
        table, conditions = "states", ["v.class = ?"]
        values: list[Any] = [number]
        if wanted.owner is not None:
            conditions, values = ["v.owner = ?", *conditions], [wanted.owner, *values]
        elif labels:
            table = "labels"
            conditions, values = ["v.label = ?", *conditions], [labels.pop(0), *values]
        return self._leg(wanted, f"{self._begin}{table} v", (conditions, values), labels, place)

    def _found(
        self,
        wanted: ConversationFilter,
        classes: Sequence[int],
        place: tuple[int | None, int],
        among: tuple[str, Sequence[Any]],
    ) -> tuple[str, list[Any]]:
        """Return the query for conversations that a search found, and its values."""
        source = f"(SELECT DISTINCT stream FROM ({among[0]}) AS matches) AS found {self._join} {self._begin}states v "
        source += "" if self._transaction.kind == "sqlite" else "ON true"
        conditions = ["v.number = found.stream", f"v.class IN ({', '.join(map(str, classes))})"]
        values = [*among[1]]
        if wanted.owner is not None:
            conditions.append("v.owner = ?")
            values.append(wanted.owner)
        return self._leg(wanted, source, (conditions, values), _labels(wanted), place)

    def _leg(
        self,
        wanted: ConversationFilter,
        source: str,
        by: tuple[list[str], list[Any]],
        labels: Sequence[str],
        place: tuple[int | None, int],
    ) -> tuple[str, list[Any]]:
        conditions, values = by
        key = "v.number" if wanted.order.by_start else "v.position"
        after, floor = place
        if wanted.tenant == "":
            conditions.append(f"NOT {IS_TENANTS.format('v.stream')}")
        if after is not None:
            conditions.append(f"{key} {'>' if wanted.order.ascends else '<'} ?")
            values.append(after)
        if floor:
            conditions.append("v.position > ?")
            values.append(floor)
        for label in labels:
            conditions.append(
                f"EXISTS (SELECT 1 FROM {self._begin}labels o WHERE o.label = ? AND o.class = v.class AND o.number = v.number)"
            )
            values.append(label)
        return f"SELECT {key} AS sort_key, v.number AS number FROM {source} WHERE {' AND '.join(conditions)}", values

    def _position_before(self, wanted: ConversationFilter) -> int:
        """Return the position of the last event before the time since which conversations have changed, by halving.

        Times ascend in the log, except by what the clocks of several writers differ.
        """
        since = wanted.since_moment()
        if since is None:
            return 0
        at = to_iso(since)
        return int(self._transaction.rows(_BEFORE, (at, at))[0][0])


def _labels(wanted: ConversationFilter) -> list[str]:
    tenant = [_hashed(label_of_tenant(wanted.tenant))] if wanted.tenant else []
    tags = [_hashed(label_of_tag(tag)) for tag in wanted.tags]
    return tenant + tags + [_hashed(label_of_pair(*pair) or ()) for pair in wanted.metadata]


def _direction(wanted: ConversationFilter) -> str:
    return "ASC" if wanted.order.ascends else "DESC"


def _classes(wanted: ConversationFilter) -> list[int]:
    """Return the classes that a list may hold."""
    flags = ((wanted.unanswered, UNANSWERED), (wanted.archived, ARCHIVED), (wanted.pending, PENDING))
    return [number for number in CLASSES if all(flag in {None, bool(number & part)} for flag, part in flags)]


def differing(kind: str) -> Mapping[str, str]:
    """Return what differs between the databases in `TABLES`. On SQLite, only INTEGER makes a primary key the row's number."""
    return {"number": "INTEGER" if kind == "sqlite" else "BIGINT"}
