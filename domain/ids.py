"""Create identifiers and read the domain's clock, in one place so that tests can freeze the time."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import msgspec

ID_AGE_SECONDS_MAX = 60
"""Maximum time between the creation of a message's id and of its event, in seconds: a commit may be decided again."""

BESIDE_CHARS = 24
"""Number of characters with which ids that were made together begin: the millisecond, and 26 random bits."""


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits, so that ids sort by age.

    It is implemented here because `uuid.uuid7` needs Python 3.14, and so that a frozen clock applies to ids too.
    """
    milliseconds = time.time_ns() // 1_000_000
    known, begin = _LAST_BEGIN[0]
    if milliseconds != known:
        digits = f"{milliseconds & (2**48 - 1):012x}"
        begin = f"{digits[:8]}-{digits[8:]}-7"
        _LAST_BEGIN[0] = milliseconds, begin
    try:
        return begin + _ENDS.pop()
    except IndexError:
        _ENDS.extend(_random_ends(IDS_AT_ONCE))
        return begin + _random_ends(1)[0]


def id_beside(text: str) -> str:
    """Return the id of the event that makes an object with this id, which `are_beside` recognises."""
    return text[:BESIDE_CHARS] + new_id()[BESIDE_CHARS:]


def are_beside(text: str, event_id: str) -> bool:
    """Return whether an object's id was made with its event's; moments do not tell, as a clock may tick between them."""
    return text[:BESIDE_CHARS] == event_id[:BESIDE_CHARS]


def id_behind(text: str, number: int) -> str:
    """Return the id that is so many behind another one, as any process computes it: the first announces those of several."""
    end = (int(text[24:], 16) + number) % 16**12
    return f"{text[:24]}{end:012x}"


IDS_AT_ONCE = 64
"""Number of ids whose random ends are made at once, which takes less time than making each when it is needed."""

_ENDS: list[str] = []
"""Random ends of ids, each of which is used once, and never by a process that was forked."""
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_ENDS.clear)


def _random_ends(count: int) -> list[str]:
    variant = "89ab"[os.urandom(1)[0] & 3]  # two of the random bits, the same for all
    random = os.urandom(9 * count).hex()
    places = range(0, len(random), 18)
    return [f"{random[at : at + 3]}-{variant}{random[at + 3 : at + 6]}-{random[at + 6 : at + 18]}" for at in places]


_LAST_BEGIN = [(0, "")]
"""The last millisecond and the beginning of its ids, cached because an append makes several."""


def id_bytes(text: str) -> bytes | None:
    """Return the 16 bytes of a UUID in its canonical form; None for any other text."""
    digits = text.replace("-", "")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        return None
    is_canonical = len(text) == 36 and text[8:24:5] == "----" and value.hex() == digits
    return value if is_canonical and len(value) == 16 else None


def moment_of_id(text: str) -> datetime | None:
    """Return the end of the millisecond in which an id was made; None if it is no UUIDv7."""
    value = id_bytes(text)
    if value is None or value[6] >> 4 != 7:
        return None
    try:
        return datetime.fromtimestamp((int.from_bytes(value[:6]) + 1) / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # an import may bring any number
        return None


def is_id_of(text: str, moment: datetime) -> bool:
    """Return whether an id was made at about this moment, so that its event can be found by time.

    An import may bring the ids of another ledger or of a provider.
    """
    value = id_bytes(text)
    if value is None or value[6] >> 4 != 7:
        return False
    return abs(int.from_bytes(value[:6]) / 1000 - moment.timestamp()) <= ID_AGE_SECONDS_MAX


def id_text(stored: bytes) -> str:
    """Return the text of an id that is stored as the 16 bytes of a UUID."""
    pairs = stored.hex("-", 2)  # has three hyphens too many
    return f"{pairs[:4]}{pairs[5:29]}{pairs[30:34]}{pairs[35:]}"


ISO_CHARS = 27
"""Length of a time as it is stored and shown, in characters."""

_LAST_FORMATTED: list[tuple[datetime | None, str]] = [(None, "")]
"""The last moment and its text, cached because an append formats the same moment many times."""


def to_iso(moment: datetime) -> str:
    """Return ISO 8601 text in UTC with microseconds and a `Z`, the format in which times are stored and shown."""
    last, text = _LAST_FORMATTED[0]
    if last is not moment:
        utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        text = msgspec.to_builtins(utc, enc_hook=str)  # a tenth of the time of `isoformat`
        if len(text) != ISO_CHARS:  # a whole second has no fraction there; a class derived from `datetime` is not known
            text = utc.isoformat("T", "microseconds")[:26] + "Z"  # without `+00:00`
        _LAST_FORMATTED[0] = (moment, text)
    return text


def as_utc(moment: datetime) -> datetime:
    """Return the moment in UTC; a moment without an offset is treated as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def moment_of(given: datetime | timedelta | None) -> datetime | None:
    """Return the moment that a user gave; a time span counts back from now."""
    return now() - given if isinstance(given, timedelta) else as_utc(given) if given is not None else None


def from_iso(text: str) -> datetime:
    """Parse any ISO 8601 text, including the output of `to_iso`; a text without an offset is treated as UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is UTC else as_utc(moment)
