"""Turn errors into the provider's refusals, with secrets redacted: a table, applied from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from threadledger.domain.errors import (
    CallNotWaiting,
    Conflict,
    ConversationBusy,
    DatabaseMissing,
    IdempotencyConflict,
    InvalidInput,
    InvalidSettings,
    NotFound,
    RunNotOpen,
    StoreUnavailable,
    ThreadledgerError,
)
from threadledger.domain.failures import redact

from ..wire import ApiError
from ..wire.errors import INVALID_REQUEST
from .limits import RETRY_AFTER_SECONDS

if TYPE_CHECKING:
    from threadledger.domain.exchange import StartedOver

SERVER_ERROR = "server_error"
AGAIN: Mapping[str, str] = {"retry-after": str(RETRY_AFTER_SECONDS)}


KEY_REUSED = "The Idempotency-Key was used for a request with another path or body: use a new key for each request."

STORE_UNAVAILABLE = "store_unavailable"


@dataclass(frozen=True)
class RefusalRule:
    """Define how one kind of error is refused; without `shown`, its text stays in the log."""

    error: type[Exception]
    status: int
    code: str | None = None
    shown: bool = True
    headers: Mapping[str, str] | None = None


REFUSALS = (
    RefusalRule(
        StoreUnavailable, 503, STORE_UNAVAILABLE, shown=False, headers=AGAIN
    ),  # its text has the database's address
    RefusalRule(DatabaseMissing, 503, STORE_UNAVAILABLE, shown=False, headers=AGAIN),
    RefusalRule(NotFound, 404),
    RefusalRule(
        ConversationBusy, 400
    ),  # the provider's status for a thread with an active run; the SDK does not retry it
    RefusalRule(IdempotencyConflict, 400, "idempotency_key_reused"),
    RefusalRule(CallNotWaiting, 400),
    RefusalRule(RunNotOpen, 400),
    RefusalRule(Conflict, 409),  # the SDK tries it again
    RefusalRule(InvalidSettings, 500, SERVER_ERROR, shown=False),  # of the server, not of the request
    RefusalRule(InvalidInput, 400),
    RefusalRule(ThreadledgerError, 500, SERVER_ERROR),
    RefusalRule(Exception, 500, SERVER_ERROR, shown=False),
)


def refusal_of(error: Exception, request_id: str) -> ApiError:
    """Return the refusal for an error that a handler raised; an `ApiError` is one already, and may repeat what was sent."""
    if isinstance(error, ApiError):
        error.message = redact(error.message)
        return error
    rule = next(rule for rule in REFUSALS if isinstance(error, rule.error))
    what = "cannot use its database at the moment" if rule.code == STORE_UNAVAILABLE else "had an unexpected error"
    unknown = f"The server {what}, while it processed your request; its log has it under {request_id}."
    kind = INVALID_REQUEST if rule.status < 500 else SERVER_ERROR
    message = redact(str(error)) if rule.shown else unknown
    return ApiError(rule.status, message, kind=kind, code=rule.code, headers=rule.headers)


class HiddenError(Exception):
    """Raised by no code: it takes the place of an error in a traceback, because its text may hold a part of a request."""


def without_text(error: BaseException) -> BaseException:
    """Return an error for the log that has the place and the type of another one; only our own errors keep their text."""
    name = type(error).__name__
    text = f"{name}: {error}" if isinstance(error, ThreadledgerError) else name
    return HiddenError(text).with_traceback(error.__traceback__)


def too_many(what: str, most: int) -> ApiError:
    """Return the 429 for a key that has `most` of something in progress already."""
    return ApiError(
        429,
        f"Rate limit reached for {what} in progress: limit {most}. Please try again in {RETRY_AFTER_SECONDS}s.",
        kind="requests",
        code="rate_limit_exceeded",
        headers={"retry-after": str(RETRY_AFTER_SECONDS)},
    )


def stream_broken(part: StartedOver) -> ApiError:
    """Return the 502 for a stream whose attempt failed after its text was sent, and is not continued by the next one."""
    return ApiError(
        502,
        f"The answer broke off, and no other attempt can continue it (cause {redact(part.reason)}, run "
        f"{part.failed_run_id}): send the request again.",
        kind=SERVER_ERROR,
        code="stream_broken",
    )
