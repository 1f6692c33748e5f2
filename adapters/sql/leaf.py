"""The leaf hash of an event: what makes an edited, exchanged or moved row show.

It proves nothing against somebody who can compute hashes and write to the database: only a checkpoint kept elsewhere would.
"""

import hashlib
import json

from threadledger.domain import StoredRow


def leaf_hash(row: StoredRow, position: int) -> bytes:
    """SHA-256 of a text that anybody can write down: the position, then `leaf_text`."""
    return hashlib.sha256(f"{position}\n{leaf_text(row)}".encode()).digest()


def leaf_text(row: StoredRow) -> str:
    """A row's own fields, one a line, the payload by its hash; the stream comes last, for its name may hold a line break."""
    payload = hashlib.sha256(row.state).hexdigest()
    return (
        f"{row.originator_version}\n{row.event_id}\n{row.topic}\n{row.schema}\n{row.at}\n{payload}\n{row.originator_id}"
    )


def leaf_hash_of_schema_1(row: StoredRow) -> bytes:
    """What databases of schema 1 stored, where the position had no part in it."""
    payload = hashlib.sha256(row.state).hexdigest()
    fields = [str(row.originator_id), row.originator_version, row.event_id, row.topic, row.schema, row.at, payload]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).digest()
