"""Every exception of a call to the SDK as the facts of a `Failure`.

Read in openai 3.54: the text of an exception holds only the message, so its attributes are read; an answer that is no
JSON, or not of the provider at all, comes up as `AttributeError` or `JSONDecodeError`, not as an OpenAI error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from threadledger.domain import Failure, ProviderRefused, redact, redact_details

if TYPE_CHECKING:
    import openai


@contextmanager
def calling(endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None) -> Iterator[None]:
    """Around one call: `endpoint` is its method and path template, so that failures can be told apart.

    Raises:
        ProviderRefused: whatever went wrong, with the facts.
    """
    try:
        yield
    except ProviderRefused:
        raise
    except Exception as error:
        raise ProviderRefused(failure_of(error, endpoint, thread_id, remote_run_id)) from error


def present(*texts: Any) -> None:
    """Look at the texts that an answer must have. The SDK makes objects of anything with HTTP 200; what is no answer
    fails here, inside `calling`, as a failure of the call."""
    for text in texts:
        text.strip()


def failure_of(
    error: Exception, endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None
) -> Failure:
    """The facts of an exception."""
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
        retry_after_seconds=retry_after(headers),
        param=_text(error.param),
        remote_run_id=remote_run_id,
        thread_id=thread_id,
        details=redact_details(details),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait; None where it does not say, or gives a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _kind(error: Exception) -> str:
    """The most general SDK class that says something: a timeout is a connection error too, but says more."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return "APITimeoutError"
    if isinstance(error, openai.APIConnectionError):
        return "APIConnectionError"
    return type(error).__name__


def _words(error: openai.APIError) -> str:
    """What the provider said, without the SDK's words around it."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return said if isinstance(said, str) else error.message


def _text(value: object) -> str | None:
    return str(value) if value is not None else None
