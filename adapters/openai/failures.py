"""Convert the exceptions of SDK calls to `Failure` objects.

Verified with openai 3.54: the text of an exception contains only the message, so the response itself is read (`bodies.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from threadledger.domain.durations import retry_after
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Failure, redact, whole_text
from threadledger.domain.provider_errors import ERROR_EVENT

from .bodies import Context, json_value
from .client import RedirectRefused, request_id_in

TIMEOUT, CONNECTION = "APITimeoutError", "APIConnectionError"
"""Names of the SDK's exceptions for requests without a response. The HTTP client's own exceptions are stored as these."""

REDIRECT_REFUSED = "redirect_refused"
"""Code of the failure of a request that a server redirected to another origin."""


def failure_of(
    error: Exception, endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None
) -> Failure:
    """Return the facts of an exception of the SDK or of its HTTP client."""
    context = Context("", endpoint, thread_id=thread_id, remote_id=remote_run_id)
    causes = (error, error.__cause__)
    if any("DecodingError" in _classes(each) for each in causes if isinstance(each, Exception)):
        message = "the body cannot be decoded as its content-encoding says"
        return context.failure("error", type="DecodingError", message=message, details={"exception": "DecodingError"})
    refused = next((each for each in causes if isinstance(each, RedirectRefused)), None)
    if refused is not None:
        return context.failure("error", code=REDIRECT_REFUSED, message=redact(str(refused)))
    own = next((each for each in causes if isinstance(each, ProviderRefused)), None)
    if own is not None:  # before anything was sent: the limits that all processes share have no room
        return replace(own.failure, thread_id=thread_id, details=dict(own.failure.details) | {"endpoint": endpoint})
    name = _kind(error)
    details = {"exception": name}
    response = getattr(error, "response", None)
    if response is not None:
        return failure_of_response(response, context, details, getattr(error, "body", None))
    if "APIError" not in _classes(error):
        return context.failure("error", type=type(error).__name__, message=redact(str(error)) or None, details=details)
    facts: dict[str, Any] = {each: _text(getattr(error, each, None)) for each in ("code", "type", "param")}
    body = getattr(error, "body", None)
    if isinstance(body, (dict, list)):
        return context.failure_of_body(body, **facts, details=details)
    return context.failure("error", **facts, message=redact(str(error)) or None, details=details)


def failure_of_response(response: Any, context: Context, details: Mapping[str, Any], parsed: Any = None) -> Failure:
    """Return the facts of a response with an HTTP status of 400 or above; its body was read if possible.

    `parsed` is what the SDK took from the body; it is used if the body itself is no longer there.
    """
    status: int = response.status_code
    context = replace(
        context,
        http_status=status,
        request_id=request_id_in(response.headers),
        content_type=response.headers.get("content-type", ""),
    )
    content = _content_of(response)
    try:
        body = json_value(content) if content.strip() else parsed
    except (ValueError, RecursionError):
        body = whole_text(content.decode("utf-8", "replace"))
    failure = context.failure_of_body(body, details=dict(details))
    message = failure.message or f"the provider answered HTTP {status} without an explanation"
    return replace(failure, message=message, retry_after_seconds=retry_after(response.headers, status))


def _content_of(response: Any) -> bytes:
    try:
        return bytes(response.content)
    except Exception:  # noqa: BLE001 - a body that was not read, or not whole, says nothing; the status does
        return b""


def failure_of_event(
    event: Mapping[str, Any], endpoint: str, thread_id: str | None = None, remote_run_id: str | None = None
) -> Failure:
    """Return the facts of an error event in a stream; the SDK returns such an event as data and does not raise it.

    The Responses API sends `{"type": "error", code, message, param}`, where `type` is the event's name. The Assistants
    API sends the object of its error envelope, and the SDK returns it as `{"event": "error", "data": {…}}`. Compatible
    servers also put the object under `error`, as in the response to a refused request.
    """
    context = Context("", endpoint, thread_id=thread_id, remote_id=remote_run_id)
    return context.failure_of_body(event, details={"event": ERROR_EVENT})


def _kind(error: Exception) -> str:
    """Return the name of the exception's SDK class. A timeout is checked first because it is also a connection error.

    The classes are recognized by their names: the SDKs of OpenAI and Anthropic have the same ones, on one HTTP client.
    """
    classes = _classes(error)
    if classes & {TIMEOUT, "TimeoutException"}:
        return TIMEOUT
    return CONNECTION if classes & {CONNECTION, "TransportError"} else type(error).__name__


def _classes(error: Exception) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}


def _text(value: object) -> str | None:
    return str(value) if value is not None else None
