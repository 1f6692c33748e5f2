"""Find the idempotency keys and ids of rows from before schema 6, when they had no tables; used by upgrades and copies."""

from __future__ import annotations

from dataclasses import replace

from ..conversation.events import payload_in
from ..conversation.messages import Source
from ..ids import from_iso
from .fingerprints import fingerprint_in
from .imported_rows import addresses_of, ids_of_message
from .rows import Row, StoredRow, indexed


def noted_row(row: Row) -> StoredRow:
    """Return a row of an earlier schema with its idempotency key and addresses; without them if it cannot be read."""
    _, stream, version, topic, state, event_id, at, schema = row
    stored = StoredRow(stream, version, topic, state, event_id, at, schema)
    try:
        payload = payload_in(state)
        key = payload.get("idempotency_key")
        if not isinstance(key, str):
            return stored
        ids = (payload.get("message_id"), *ids_of_message(payload.get("origin") or {}))
        return replace(
            stored,
            idempotency_key=indexed(key),
            fingerprint=fingerprint_in(payload),
            addresses=addresses_of(ids, from_iso(at)) if payload.get("source") == Source.IMPORT else (),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return stored
