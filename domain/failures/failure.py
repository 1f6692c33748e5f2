"""Represent failures: the provider's facts (`Failure`), the named cause (`Cause`) and the advice for it.

Only the facts are stored. The cause is derived when it is read, so that an improved table in `rules.py` also
explains old failures better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from ..errors import quoted
from ..ids import to_iso
from ..limits import PARTIAL_TEXT_CHARS_MAX
from .redaction import cleaned, redact, redact_details, text_of, whole_text


class Cause(StrEnum):
    """Name the cause of a failed run."""

    ASSISTANT_MISSING = "assistant_missing"
    ASSISTANT_MISCONFIGURED = "assistant_misconfigured"
    INSTRUCTIONS_TOO_LONG = "instructions_too_long"
    TOO_MANY_TOOLS = "too_many_tools"
    TOOL_NOT_SUPPORTED = "tool_not_supported"
    CONTENT_NOT_SUPPORTED = "content_not_supported"
    EMPTY_MEMORY = "empty_memory"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTERED = "content_filtered"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    MODEL_UNAVAILABLE = "model_unavailable"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_GONE = "provider_gone"
    THREAD_MISSING = "thread_missing"
    THREAD_BUSY = "thread_busy"
    TIMED_OUT = "timed_out"
    NETWORK = "network"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    INCOMPLETE = "incomplete"
    TOOL_FAILED = "tool_failed"
    HISTORY_REFUSED = "history_refused"
    FILE_MISSING = "file_missing"
    OVER_BUDGET = "over_budget"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Failure:
    """Hold the facts of one failed run, as reported by the provider, the network or our own preflight check.

    `status` says how the run ended: the provider's own word (`failed`, `expired`, `cancelled`, `incomplete`) or one of
    ours: `refused` (by preflight: nothing was sent), `error` (the call itself failed), `timed_out`, `interrupted`.
    `details` holds raw facts that help to distinguish causes (`endpoint`, `exception`, `incomplete_reason`, …).
    """

    status: str
    code: str | None = None
    type: str | None = None
    message: str | None = None
    http_status: int | None = None
    request_id: str | None = None
    retry_after_seconds: float | None = None
    param: str | None = None
    partial_text: str | None = None
    remote_run_id: str | None = None
    thread_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, event: object) -> Failure:
        """Return the facts in a stored `RunFailed`: its fields of the same names."""
        return cls(**{name: getattr(event, name) for name in cls.__dataclass_fields__})

    @classmethod
    def of_exception(cls, error: BaseException, status: str = "error") -> Failure:
        """Return the facts that an exception of any SDK has in its attributes. Never raises."""
        from .exceptions import facts_of_exception

        return cls(status, **facts_of_exception(error))

    def redacted(self) -> Failure:
        """Return a copy without secrets, storable and within the size limits. A second call changes nothing.

        A value of another type than its field has is stored as text, or among the details if the field is a number.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        details = given.pop("details", {})
        numbers = {name: cleaned(name, given.pop(name)) for name in _NUMBERS if name in given}
        odd = {name: value for name, value in numbers.items() if not isinstance(value, (int, float))}
        facts: dict[str, Any] = dict.fromkeys(_NUMBERS) | {name: _stored(name, value) for name, value in given.items()}
        facts |= {name: value for name, value in numbers.items() if name not in odd}
        details = {**(details if isinstance(details, Mapping) else {"details": details}), **odd}
        return replace(self, **facts, details=redact_details(details))

    def summary(self) -> str:
        """Return the HTTP status, the code and the message in one line."""
        kind = self.code or (self.type if self.status == "error" else None) or self.status
        facts = [f"HTTP {self.http_status}" if self.http_status else None, kind, self.message]
        return ": ".join(fact for fact in facts if fact)


_NUMBERS = ("http_status", "retry_after_seconds")


def _stored(name: str, value: object) -> str:
    text = value if isinstance(value, str) else text_of(value)
    if name in {"partial_text", "remote_run_id", "thread_id"}:  # an answer, and ids: no secret is searched in them
        return whole_text(text)[:PARTIAL_TEXT_CHARS_MAX]
    return redact(text)


@dataclass(frozen=True)
class RecordedFailure:
    """Represent one failed run in the ledger: its ids, facts, cause, advice and what followed."""

    run_id: str
    key: str
    exchange_id: str
    at: datetime
    backend: str
    model: str
    attempt: int
    facts: Failure
    cause: Cause
    advice: str
    duration_seconds: float | None = None
    next: str = "open"
    """What followed: `retried`, `fallback`, `abandoned`, or `open` if nothing has followed yet."""
    answered_by: str | None = None
    """Id of the run that answered the exchange in the end."""
    unanswered: bool = True
    """Whether a question still waits for the answer: not if the run wrote a summary or regenerated an answer."""
    endpoint: str | None = None
    """Where the backend was reached; None for runs of a ledger without named backends."""
    actor: str | None = None
    """Who caused the run; None if that is not known."""

    def summary(self) -> str:
        """Return the facts in one line; a code that is the cause itself is not repeated."""
        return self.facts.summary().removeprefix(f"{self.cause.value}: ")

    def advice_here(self) -> str:
        """Return the advice with RUN replaced by the end of this run's id, and KEY by the key, as a shell needs it."""
        here = {"RUN": self.run_id[-8:], "KEY": quoted(self.key)}
        return re.sub(r"\b(RUN|KEY)\b", lambda match: here[match[0]], self.advice)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a failure; docs/commands.md lists its keys."""
        return {
            "run_id": self.run_id,
            "key": self.key,
            "exchange_id": self.exchange_id,
            "at": to_iso(self.at),
            "backend": self.backend,
            "model": self.model,
            "attempt": self.attempt,
            "status": self.facts.status,
            "code": self.facts.code,
            "type": self.facts.type,
            "message": self.facts.message,
            "http_status": self.facts.http_status,
            "request_id": self.facts.request_id,
            "cause": self.cause.value,
            "advice": self.advice,
            "duration_seconds": self.duration_seconds,
            "next": self.next,
            "answered_by": self.answered_by,
            "remote_run_id": self.facts.remote_run_id,
            "thread_id": self.facts.thread_id,
            "details": dict(self.facts.details),
            "endpoint": self.endpoint,
            "actor": self.actor,
        }
