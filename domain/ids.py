"""Identifiers and the domain's clock, in one place so that tests can hold the time still."""

import os
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
    milliseconds = f"{time.time_ns() // 1_000_000 & (2**48 - 1):012x}"
    random = os.urandom(10).hex()  # 74 of its 80 bits are used: the variant takes two of a digit's four
    variant = "89ab"[int(random[3], 16) & 3]
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[8:]}"


def idempotent_id(stream: str, idempotency_key: str) -> str:
    """The event id that an idempotency key stands for: the same key on the same stream is always the same event."""
    return str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, f"{len(stream)}:{stream}{idempotency_key}"))


_LAST_TOLD: list[tuple[datetime | None, str]] = [(None, "")]
"""The last moment and its text: an append tells the same one many times."""


def to_iso(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds and a `Z`, the form in which times are stored and shown."""
    told, text = _LAST_TOLD[0]
    if told is not moment:
        utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        text = utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        _LAST_TOLD[0] = (moment, text)
    return text


def as_utc(moment: datetime) -> datetime:
    """The moment in UTC; one without an offset is read as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def from_iso(text: str) -> datetime:
    """The inverse of `to_iso`; takes any ISO 8601 text, and reads one without an offset as UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    return as_utc(datetime.fromisoformat(text))
