"""Identifiers and the domain's clock, in one place so that tests can hold the time still."""

import secrets
import time
import uuid
from datetime import UTC, datetime

_IDEMPOTENCY_NAMESPACE = uuid.UUID("6f2f9f0e-5a0e-4b55-9d3e-0c8f3c2a7b11")


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits, so that ids sort by age.

    Written here because `uuid.uuid7` needs Python 3.14; the clock is ours, so frozen time gives frozen ids.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (
        (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    )
    return str(uuid.UUID(int=value))


def idempotent_id(stream: str, idempotency_key: str) -> str:
    """The event id that an idempotency key stands for: the same key on the same stream is always the same event."""
    return str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, f"{len(stream)}:{stream}{idempotency_key}"))


def to_iso(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds and a `Z`, the form in which times are stored and shown."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_utc(moment: datetime) -> datetime:
    """The moment in UTC; one without an offset is read as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def from_iso(text: str) -> datetime:
    """The inverse of `to_iso`; takes any ISO 8601 text, and reads one without an offset as UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    return as_utc(datetime.fromisoformat(text))
