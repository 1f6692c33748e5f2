"""Compute the leaf hash of an event, which reveals an edited, swapped or moved row.

It does not protect against an attacker who can compute hashes and write to the database; that requires a checkpoint
stored elsewhere.
"""

import hashlib
import json

from threadledger.domain import StoredRow


def leaf_hash(row: StoredRow, position: int) -> bytes:
    """Return the SHA-256 hash of the position followed by `leaf_text`."""
    return hashlib.sha256(f"{position}\n{leaf_text(row)}".encode()).digest()


def leaf_text(row: StoredRow) -> str:
    """Return the fields of a row, one per line, with the payload's hash; the stream is last, as it may contain line breaks."""
    payload = hashlib.sha256(row.state).hexdigest()
    return (
        f"{row.originator_version}\n{row.event_id}\n{row.topic}\n{row.schema}\n{row.at}\n{payload}\n{row.originator_id}"
    )


def leaf_hash_of_schema_1(row: StoredRow) -> bytes:
    """Return the leaf hash that databases of schema 1 stored, which does not include the position."""
    payload = hashlib.sha256(row.state).hexdigest()
    fields = [str(row.originator_id), row.originator_version, row.event_id, row.topic, row.schema, row.at, payload]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).digest()
