"""Limit requests and tokens per minute.

The limits are refilled steadily and shown in the provider's headers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..wire import ApiError, Json
from .answers import token_count

ORGANIZATION = "org-simulator"
HELP = "Visit https://platform.openai.com/account/rate-limits to learn more."
SECONDS_PER_MINUTE = 60.0


# Fields of any API that contain the model's input, and fields that limit the answer's length.
SHOWN_FIELDS = ("messages", "input", "instructions", "additional_instructions", "additional_messages", "thread")
ANSWER_FIELDS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
SLACK = 1e-6  # tolerance for rounding errors in sums of fractions


@dataclass(frozen=True)
class RateAllowance:
    """Define the requests and tokens allowed per minute; None means no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


UNLIMITED = RateAllowance()


@dataclass
class Bucket:
    """Hold the remaining amount of one limit, as of `at` (Unix seconds)."""

    limit: int
    left: float
    at: float

    def refill(self, now: float) -> None:
        """Add the amount regained since `at`, up to the limit."""
        back = max(0.0, now - self.at) * self.limit / SECONDS_PER_MINUTE
        self.left, self.at = min(float(self.limit), self.left + back), now

    def seconds_until(self, wanted: float) -> float:
        """Return the seconds until `wanted` is available; 0 if it is available now."""
        lacking = wanted - self.left
        return 0.0 if lacking <= SLACK else lacking * SECONDS_PER_MINUTE / self.limit


class RateLimits:
    """Hold the active limits by kind, `requests` and `tokens`; there are no limits at first.

    `clock` returns Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.buckets: dict[str, Bucket] = {}

    def set(self, allowance: RateAllowance) -> None:
        """Replace the limits; the new ones start full."""
        wanted = {"requests": allowance.requests_per_minute, "tokens": allowance.tokens_per_minute}
        now = self._clock()
        self.buckets = {kind: Bucket(limit, limit, now) for kind, limit in wanted.items() if limit is not None}

    def charge(self, tokens: int, model: str) -> None:
        """Count one request, or raise a 429; a refused request does not count."""
        amounts = {"requests": 1, "tokens": tokens}
        for kind, bucket in self.buckets.items():
            bucket.refill(self._clock())
            seconds = bucket.seconds_until(amounts[kind])
            if seconds > 0:
                raise _exceeded(kind, bucket, amounts[kind], model, seconds)
        for kind, bucket in self.buckets.items():
            bucket.left -= amounts[kind]

    def headers(self) -> dict[str, str]:
        """Return the headers of the active limits: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`."""
        values: dict[str, str] = {}
        for kind, bucket in self.buckets.items():
            bucket.refill(self._clock())
            values[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            values[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.left + SLACK)))
            values[f"x-ratelimit-reset-{kind}"] = duration(bucket.seconds_until(bucket.limit))
        return values


def requested_tokens(body: Json) -> int:
    """Return the tokens that a request requires: the words of its input, and the maximum length of its answer."""
    most = next((body[name] for name in ANSWER_FIELDS if isinstance(body.get(name), int)), 0)
    return sum(_words(body.get(name)) for name in SHOWN_FIELDS) + int(most)


def duration(seconds: float) -> str:
    """Return a duration in the form of the headers: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000 - SLACK)}ms"
    minutes, rest = divmod(round(seconds, 3), SECONDS_PER_MINUTE)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _words(value: Any) -> int:
    if isinstance(value, str):
        return token_count(value)
    if isinstance(value, list):
        return sum(_words(part) for part in value)
    if isinstance(value, dict):
        return sum(_words(part) for name, part in value.items() if name not in ("type", "role", "id"))
    return 0


def _exceeded(kind: str, bucket: Bucket, wanted: int, model: str, seconds: float) -> ApiError:
    short = "RPM" if kind == "requests" else "TPM"
    where = f"for {model} in organization {ORGANIZATION} on {kind} per min ({short}): Limit {bucket.limit}"
    if wanted > bucket.limit:
        reduce = "The input or output tokens must be reduced in order to run successfully."
        message = f"Request too large {where}, Requested {wanted}. {reduce} {HELP}"
        # No retry-after: the request can never fit.
        return ApiError(429, message, kind=kind, code="rate_limit_exceeded")
    used = math.ceil(bucket.limit - bucket.left - SLACK)
    message = f"Rate limit reached {where}, Used {used}, Requested {wanted}. Please try again in {duration(seconds)}."
    wait = {"retry-after": str(max(1, math.ceil(seconds - SLACK))), "retry-after-ms": str(math.ceil(seconds * 1000))}
    return ApiError(429, f"{message} {HELP}", kind=kind, code="rate_limit_exceeded", headers=wait)
