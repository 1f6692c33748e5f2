"""Compare rows that do not match their leaf hash with its earlier forms, and find missing rows.

A read loads this module only if something does not match.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from threadledger.domain.errors import StoreError
from threadledger.domain.ids import id_text
from threadledger.domain.journal import OnChange, StoredRow

from .connections import Connections, leaf_hash

Form = Callable[[Sequence[Any]], bytes]
"""Function that returns the leaf hash of a row whose columns are in the order of `Row`."""


def leaf_of_form_4(row: Sequence[Any]) -> bytes:
    """Return the leaf hash that is stored now; see `leaf_hash`."""
    position, name, version, topic, state, event_id, at, schema = row[:8]
    return leaf_hash(StoredRow(name, version, topic, state, event_id, at, schema), position)


def leaf_of_form_3(row: Sequence[Any]) -> bytes:
    """Return the leaf hash that schema 5 stored at last: text, with the event's id as text."""
    position, name, version, topic, state, event_id, at, schema = row[:8]
    text = f"leaf 3\n{position}\n{version}\n{_text(event_id)}\n{topic}\n{schema}\n{at}\n{len(name)}\n{name}"
    return sha256(text.encode() + state).digest()


def leaf_of_form_2(row: Sequence[Any]) -> bytes:
    """Return the leaf hash that was stored until November 2026: eight lines, with the payload by its own hash."""
    position, name, version, topic, state, event_id, at, schema = row[:8]
    payload = sha256(state).hexdigest()
    text = f"{position}\n{version}\n{_text(event_id)}\n{topic}\n{schema}\n{at}\n{payload}\n{name}"
    return sha256(text.encode()).digest()


def leaf_of_form_1(row: Sequence[Any]) -> bytes:
    """Return the leaf hash that schema 1 stored: a JSON array, which does not include the position."""
    _, name, version, topic, state, event_id, at, schema = row[:8]
    fields = [name, version, _text(event_id), topic, schema, at, sha256(state).hexdigest()]
    return sha256(json.dumps(fields, separators=(",", ":")).encode()).digest()


def _text(event_id: bytes | str) -> str:
    return event_id if isinstance(event_id, str) else id_text(event_id)


def matches(row: Sequence[Any], form: Form) -> bool:
    """Return whether the ninth column of a row is its leaf hash in this form."""
    try:
        return bool(form(row) == row[8])
    except (TypeError, ValueError, AttributeError):  # a column has another type
        return False


FORMS: Sequence[Form] = (leaf_of_form_4, leaf_of_form_3, leaf_of_form_2, leaf_of_form_1)
"""The forms of leaf hashes, the newest first."""


def form_of(row: Sequence[Any]) -> Form | None:
    """Return the form of leaf hash that a row matches; None if it was changed."""
    return next((form for form in FORMS if matches(row, form)), None)


def checked_closely(rows: Iterable[Sequence[Any]], changed: OnChange, topics: Sequence[str]) -> Iterator[Any]:
    """Do the same as `checked`, for rows whose leaf hashes may have an earlier form."""
    form: Form | None = None
    for row in rows:
        if form is None or not matches(row, form):  # neighbours usually have the same form
            form = form_of(row)
        if form is None:
            changed(row[1], row[2], row[0], "was changed after it was stored")
        if not topics or row[3] in topics:
            yield row[:8]


def read_leniently(database: Connections, query: str, values: Sequence[Any], error: StoreError) -> Sequence[Any]:
    """Run a query again with undecodable characters replaced, so that the row with such a text is found by its leaf hash.

    Raises:
        StoreError: the error of the first attempt, if it had another cause.
    """
    if not is_undecodable(error):
        raise error
    with database.cursor() as cursor, replacing_characters(cursor.connection):
        cursor.execute(query, values)
        rows: Sequence[Any] = cursor.fetchall()
        return rows


def is_undecodable(error: BaseException) -> bool:
    """Return whether SQLite could not decode a stored text; PostgreSQL stores only valid text."""
    return "Could not decode" in str(error)


@contextmanager
def replacing_characters(connection: Any) -> Iterator[None]:
    """Replace undecodable characters in texts that a connection of SQLite's driver reads in the block."""
    before = connection.text_factory
    connection.text_factory = lambda text: text.decode(errors="replace")
    try:
        yield
    finally:
        connection.text_factory = before


def report_missing(database: Connections, stream: str | None, begin: int, end: int, changed: OnChange) -> None:
    """Call `changed` for the first missing version of a stream, or position of the log, after `begin` and up to `end`."""
    if stream is not None:
        query = (
            "SELECT s.version, e.version FROM streams s LEFT JOIN events e ON e.stream = s.stream AND e.version > ? "
            "AND e.version <= ? WHERE s.name = ?"
        )
        found = database.query(query, (begin, end, stream))
        end = min(end, found[0][0]) if found else begin  # a caller may ask for more than there is
    else:
        found = database.query("SELECT 0, position FROM events WHERE position > ? AND position <= ?", (begin, end))
        end = min(end, database.query("SELECT coalesce(max(position), 0) FROM events")[0][0])  # it may be rewound
    present = {number for _, number in found}
    missing = next((number for number in range(begin + 1, end + 1) if number not in present), None)
    if missing is not None:
        changed(stream, missing if stream is not None else None, None if stream is not None else missing, "is missing")
