"""Parse the durations in a provider's response headers: how long to wait before the next request."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .ids import now

TOO_MANY_REQUESTS = 429
RATE_LIMITS = ("requests", "tokens")
"""Quantities that the provider limits per minute, as in its header names (`x-ratelimit-remaining-requests`)."""

ANTHROPIC_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")
"""The same for Anthropic's headers (`anthropic-ratelimit-requests-remaining`), which give the time of the reset."""

UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "": 1.0}
DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd]|$)")


def retry_after(headers: Mapping[str, str], http_status: int | None = None) -> float | None:
    """Return the seconds to wait before a retry, as given by the provider; None if it gives none.

    `Retry-After` contains seconds or a date (RFC 9110, 10.2.3). A 429 without it may have rate-limit headers, which give the
    time until an exhausted limit is reset: the longest one is returned.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        seconds = _seconds_or_date(headers.get(name, ""))
        if seconds is not None:
            return seconds / unit
    return _until_reset(headers) if http_status == TOO_MANY_REQUESTS else None


def duration_seconds(text: str) -> float | None:
    """Parse a duration of the rate-limit headers ("20ms", "6m0s", "1h2m"; plain numbers are seconds) to seconds."""
    parts = DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return float(sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts))


def _seconds_or_date(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_until(date: str, parse: Callable[[str], datetime] = parsedate_to_datetime) -> float | None:
    """Return the seconds from now to a date, by default an HTTP date; 0 if the date is in the past."""
    try:
        at = parse(date.strip())
        return max(((at if at.tzinfo else at.replace(tzinfo=UTC)) - now()).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        return None


def _until_reset(headers: Mapping[str, str]) -> float | None:
    waits = []
    for limit in ANTHROPIC_LIMITS:
        if headers.get(f"anthropic-ratelimit-{limit}-remaining", "").strip() == "0":
            wait = _seconds_until(headers.get(f"anthropic-ratelimit-{limit}-reset", ""), datetime.fromisoformat)
            waits += [] if wait is None else [wait]
    for limit in RATE_LIMITS:
        try:
            remaining = float(headers[f"x-ratelimit-remaining-{limit}"])
        except (KeyError, ValueError):
            continue
        wait = duration_seconds(headers.get(f"x-ratelimit-reset-{limit}", ""))
        if remaining <= 0 and wait is not None and math.isfinite(wait):
            waits.append(wait)
    return max(waits, default=None)
