"""Track what a provider allows in a minute: a bucket that is refilled steadily, as the provider's own.

A caller takes its permission from the bucket before it calls. If there is none, the bucket owes it one: what is left
becomes negative, and the caller waits until its turn has come. So callers go one after the other, in the order in which they
asked, and none asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..durations import RATE_LIMITS, TOO_MANY_REQUESTS, duration_seconds, retry_after

MINUTE_SECONDS = 60.0
SHARE_OF_NOMINAL = 2.0
"""How far the rate that a reset shows may be from one per minute before it counts instead; some limits are per day."""


@dataclass(frozen=True)
class LimitBucket:
    """Hold what is left of a limit at a time, in Unix seconds."""

    per_minute: float
    """What is refilled in a minute, and the most that there can be; 0 if it is not known."""
    available: float
    """What is left; negative if callers wait."""
    at: float
    closed_until: float = 0.0
    """Until when the provider refuses everything."""

    def refilled(self, now: float) -> LimitBucket:
        """Return the bucket with what has come back until now."""
        more = max(now - self.at, 0.0) * self.per_minute / MINUTE_SECONDS
        return replace(self, available=min(self.available + more, self.per_minute), at=max(now, self.at))

    def seconds_until(self, amount: float, now: float) -> float:
        """Return in how many seconds this amount may go; one that is larger than the bucket when it is full."""
        closed, left = max(self.closed_until - now, 0.0), self.refilled(now).available
        lacking = min(amount, self.per_minute) - left
        return (
            closed if not self.per_minute or lacking <= 0 else max(closed, lacking * MINUTE_SECONDS / self.per_minute)
        )

    def taken(self, amount: float, now: float) -> LimitBucket:
        """Return the bucket without this amount, which may be owed."""
        full = self.refilled(now)
        return replace(full, available=full.available - min(amount, self.per_minute))


@dataclass(frozen=True)
class SaidLimit:
    """Hold what the headers of an answer say about one limit."""

    per_minute: float
    available: float

    def applied(self, known: LimitBucket | None, now: float) -> LimitBucket:
        """Return the bucket after this was heard: never more is left than the provider says, or than is owed already."""
        if known is None or known.per_minute != self.per_minute:
            return LimitBucket(self.per_minute, self.available, now, known.closed_until if known is not None else 0.0)
        full = known.refilled(now)
        return replace(full, available=min(full.available, self.available))


def limits_said(headers: Mapping[str, str]) -> dict[str, SaidLimit]:
    """Return the limits that the headers of an answer name, by quantity: `requests`, `tokens`.

    Source: `x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests`, and the same for tokens, as in OpenAI's
    guide on rate limits; `reset` is the time until the limit is full again.
    """
    found = {}
    for quantity in RATE_LIMITS:
        try:
            limit = float(headers[f"x-ratelimit-limit-{quantity}"])
            left = float(headers[f"x-ratelimit-remaining-{quantity}"])
        except (KeyError, ValueError):
            continue
        if not 0 < limit < float("inf") or not 0 <= left <= limit:
            continue
        reset = duration_seconds(headers.get(f"x-ratelimit-reset-{quantity}", ""))
        rate = (limit - left) * MINUTE_SECONDS / reset if reset and limit - left >= 1 else limit
        is_per_minute = limit / SHARE_OF_NOMINAL <= rate <= limit * SHARE_OF_NOMINAL
        found[quantity] = SaidLimit(limit if is_per_minute else min(rate, limit), left)
    return found


def closed_seconds(headers: Mapping[str, str], http_status: int) -> float:
    """Return for how long the provider refuses further calls, in seconds; 0 if it does not."""
    return (retry_after(headers, http_status) or 0.0) if http_status == TOO_MANY_REQUESTS else 0.0
