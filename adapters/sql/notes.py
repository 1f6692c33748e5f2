"""Note what the database indexes about events: idempotency keys, ids of imported messages, and references to blobs.

Most messages have none of these, so a program that appends plain text does not load this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from threadledger.domain.journal import StoredRow
from threadledger.domain.journal.blobs import missing, referred

from .connections import Cursor

_INSERT_KEY = "INSERT INTO idempotency_keys (stream, generation, key, version, fingerprint) VALUES (?, ?, ?, ?, ?)"
_INSERT_ADDRESS = "INSERT INTO addresses (address, stream, version) VALUES (?, ?, ?)"
_INSERT_REFERENCE = (
    "INSERT INTO blob_refs (blob, stream, version) SELECT address, ?, ? FROM blobs WHERE address = ? AND complete = 1"
)


def noted(rows: Iterable[StoredRow], numbers: Mapping[str, int]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Yield the statements, each with its values, that note the keys and addresses of rows; `numbers` are their streams'."""
    keys: list[tuple[Any, ...]] = []
    addresses: list[tuple[Any, ...]] = []
    for row in rows:
        if row.idempotency_key is None and not row.addresses:
            continue
        number, version = numbers[str(row.originator_id)], row.originator_version
        if row.idempotency_key is not None:
            keys.append((number, row.generation, row.idempotency_key, version, row.fingerprint))
        addresses += [(address, number, version) for address in row.addresses]
    if keys:
        yield _INSERT_KEY, keys
    if addresses:
        yield _INSERT_ADDRESS, addresses


def note(cursor: Cursor, rows: Sequence[StoredRow], numbers: Mapping[str, int]) -> None:
    """Note the keys, addresses and references of rows in the transaction of an append to SQLite.

    Raises:
        BlobMissing, InvalidInput: a blob that a row refers to is not stored, or cannot be.
    """
    for statement, values in noted(rows, numbers):
        cursor.executemany(statement, values)
    references = [
        (numbers[str(row.originator_id)], row.originator_version, address) for row in rows for address in row.blobs
    ]
    if references:
        needed = referred(rows)
        cursor.executemany(_INSERT_REFERENCE, references)
        if cursor.rowcount != len(references):
            query = "SELECT 1 FROM blobs WHERE address = ? AND complete = 1"
            raise missing([each for each in needed if cursor.execute(query, (each,)).fetchone() is None])
