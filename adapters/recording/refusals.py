"""Convert a failed HTTP request to the `Failure` of the exception that the SDK raises for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from threadledger.domain import Failure

from ..openai.failures import failure_of
from .outcomes import Context


def refusal(response: Any, context: Context) -> Failure:
    """Return the facts of a response with an HTTP status of 400 or above; its body was read if possible."""
    import openai

    try:
        body = json.loads(response.content)
    except Exception:  # noqa: BLE001 - if the body cannot be read or is not JSON, the status is used
        body = None
    told = body.get("error", body) if isinstance(body, dict) else body
    message = f"HTTP {response.status_code}"
    error = openai.APIStatusError(message, response=response, body=told)
    return failure_of(error, context.endpoint, context.thread_id)


def trouble(error: BaseException, request: Any, context: Context) -> Failure:
    """Return the facts of an exception raised by the HTTP client."""
    import httpx2
    import openai

    if isinstance(error, httpx2.TimeoutException):
        error = openai.APITimeoutError(request=request)
    elif isinstance(error, httpx2.RequestError):
        words = f"Connection error. {type(error).__name__}: {error}"
        error = openai.APIConnectionError(message=words, request=request)
    if isinstance(error, Exception):
        return failure_of(error, context.endpoint, context.thread_id)
    stopped = isinstance(error, asyncio.CancelledError)
    status = "cancelled" if stopped else "interrupted"
    message = "the app cancelled the call" if stopped else None
    return replace(context.failure(status, message=message), type=type(error).__name__)
