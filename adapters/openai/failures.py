"""Convert the exceptions of SDK calls to `Failure` objects.

Verified with openai 3.54: the text of an exception contains only the message, so its attributes are read too. A response
that is not JSON, or not from the provider, raises `AttributeError` or `JSONDecodeError`, not an OpenAI error.

A run that fails is also charged: `Spent` counts the tokens that the provider reported for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation.messages import Usage
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Failure, redact, redact_details
from threadledger.domain.ids import now

if TYPE_CHECKING:
    import openai

ERROR_EVENT = "error"
TOO_MANY_REQUESTS = 429
RATE_LIMITS = ("requests", "tokens")
"""Quantities that the provider limits per minute, as in its header names (`x-ratelimit-remaining-requests`)."""

UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "": 1.0}
DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd]|$)")


@contextmanager
def calling(endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None) -> Iterator[None]:
    """Convert exceptions of one call to `ProviderRefused`; `endpoint` is its method and path template.

    Raises:
        ProviderRefused: the call failed; `failure` has the facts.
    """
    try:
        yield
    except ProviderRefused:
        raise
    except Exception as error:
        raise ProviderRefused(failure_of(error, endpoint, thread_id, remote_run_id)) from error


def present(*texts: Any) -> None:
    """Check the texts that a response must contain.

    The SDK creates an object from any response with HTTP 200. An invalid one raises `AttributeError` here, and `calling`
    reports it as a failure of the call.
    """
    for text in texts:
        text.strip()


def failure_of(
    error: Exception, endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None
) -> Failure:
    """Return the facts of an exception."""
    import openai

    name = _kind(error)
    details: dict[str, Any] = {"endpoint": endpoint, "exception": name}
    if not isinstance(error, openai.APIError):
        return Failure(
            "error",
            type=type(error).__name__,
            message=redact(str(error)) or None,
            remote_run_id=remote_run_id,
            thread_id=thread_id,
            details=details,
        )
    response = getattr(error, "response", None)
    headers: Mapping[str, str] = response.headers if response is not None else {}
    if error.body is not None and not isinstance(error.body, dict):
        details["body"] = str(error.body)[:500]
    return Failure(
        "error",
        code=_text(error.code),
        type=_text(error.type),
        message=redact(_words(error)) or None,
        http_status=getattr(error, "status_code", None),
        request_id=getattr(error, "request_id", None),
        retry_after_seconds=retry_after(headers, getattr(error, "status_code", None)),
        param=_text(error.param),
        remote_run_id=remote_run_id,
        thread_id=thread_id,
        details=redact_details(details),
    )


def failure_of_event(
    event: Mapping[str, Any], endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None
) -> Failure:
    """Return the facts of an error event in a stream; the SDK returns such an event as data and does not raise it.

    The Responses API sends `{"type": "error", code, message, param}`, where `type` is the event's name. The Assistants
    API sends the object of its error envelope, and the SDK returns it as `{"event": "error", "data": {…}}`. Compatible
    servers also put the object under `error`, as in the response to a refused request.
    """
    error: Any = event
    for name in ("data", "error"):
        if error.get(name):
            error = error[name]
        if not isinstance(error, Mapping):
            error = {"message": error if isinstance(error, str) else None}
    kind = error.get("type")
    return Failure(
        "error",
        code=_text(error.get("code")),
        type=None if kind == ERROR_EVENT else _text(kind),
        message=redact(_text(error.get("message")) or "") or None,
        param=_text(error.get("param")),
        remote_run_id=remote_run_id,
        thread_id=thread_id,
        details={"endpoint": endpoint, "event": ERROR_EVENT},
    )


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


def _seconds_until(date: str) -> float | None:
    """Return the seconds from now to an HTTP date; 0 if the date is in the past."""
    try:
        at = parsedate_to_datetime(date)
        return max(((at if at.tzinfo else at.replace(tzinfo=UTC)) - now()).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        return None


def _until_reset(headers: Mapping[str, str]) -> float | None:
    waits = []
    for limit in RATE_LIMITS:
        try:
            remaining = float(headers[f"x-ratelimit-remaining-{limit}"])
        except (KeyError, ValueError):
            continue
        wait = duration_seconds(headers.get(f"x-ratelimit-reset-{limit}", ""))
        if remaining <= 0 and wait is not None and math.isfinite(wait):
            waits.append(wait)
    return max(waits, default=None)


def _kind(error: Exception) -> str:
    """Return the name of the exception's SDK class. A timeout is checked first because it is also a connection error."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return "APITimeoutError"
    if isinstance(error, openai.APIConnectionError):
        return "APIConnectionError"
    return type(error).__name__


def _words(error: openai.APIError) -> str:
    """Return the provider's message without the text that the SDK adds."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return said if isinstance(said, str) else error.message


def _text(value: object) -> str | None:
    return str(value) if value is not None else None


USAGE = "usage"
"""Key in a failure's details for the tokens of its run, if the provider reported them."""


class Spent:
    """Count the tokens of one run."""

    def __init__(self) -> None:
        self.usage = Usage()

    def add(self, input_tokens: Any, output_tokens: Any) -> None:
        """Add the tokens of one response; None counts as 0."""
        self.usage = Usage(
            self.usage.input_tokens + (input_tokens or 0), self.usage.output_tokens + (output_tokens or 0)
        )

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Add the tokens used so far to a failure raised in this block."""
        try:
            yield
        except ProviderRefused as refused:
            if self.usage == Usage():
                raise
            raise ProviderRefused(self._with_usage(refused.failure)) from refused

    def _with_usage(self, failure: Failure) -> Failure:
        counts = {"input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens}
        return replace(failure, details=dict(failure.details) | {USAGE: counts})
