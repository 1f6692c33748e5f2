"""What a provider said went wrong (`Failure`), which of our named causes it is, and what to do about it.

Only the facts are stored. The cause is derived from them when it is asked for, so a better table explains old failures
better. The table stands in `diagnosis.py`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from .ids import to_iso
from .limits import PARTIAL_TEXT_CHARS_MAX
from .redaction import redact, redact_details, whole_text


class Cause(StrEnum):
    """Why a run failed, in our words."""

    ASSISTANT_MISSING = "assistant_missing"
    ASSISTANT_MISCONFIGURED = "assistant_misconfigured"
    INSTRUCTIONS_TOO_LONG = "instructions_too_long"
    TOO_MANY_TOOLS = "too_many_tools"
    TOOL_NOT_SUPPORTED = "tool_not_supported"
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
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Failure:
    """The facts of one failed run, as the provider (or our own preflight, or the network) gave them.

    `status` is how it ended: a run's or response's own word (`failed`, `expired`, `cancelled`, `incomplete`), or one of
    ours: `refused` (preflight: nothing was sent), `error` (the call itself failed), `timed_out`, `interrupted`.
    `details` holds raw facts that help to tell causes apart (`endpoint`, `exception`, `incomplete_reason`, …).
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

    def redacted(self) -> "Failure":
        """The same facts without secrets, storable, and in bounds. Idempotent."""
        texts: dict[str, Any] = {
            name: redact(value)
            for name, value in vars(self).items()
            if isinstance(value, str) and name not in {"partial_text", "remote_run_id", "thread_id"}
        }
        retry_after = self.retry_after_seconds
        return replace(
            self,
            **texts,
            partial_text=self.partial_text and whole_text(self.partial_text)[:PARTIAL_TEXT_CHARS_MAX],
            retry_after_seconds=retry_after if retry_after is not None and math.isfinite(retry_after) else None,
            details=redact_details(self.details),
        )

    def summary(self) -> str:
        """The facts in one line: HTTP status, code, message."""
        kind = self.code or (self.type if self.status == "error" else None) or self.status
        facts = [f"HTTP {self.http_status}" if self.http_status else None, kind, self.message]
        return ": ".join(fact for fact in facts if fact)


@dataclass(frozen=True)
class RecordedFailure:
    """One failed run as it stands in the ledger: where, the facts, and what came of it."""

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
    """What followed: `retried`, `fallback`, `abandoned`, or `open` while nothing has yet."""
    answered_by: str | None = None
    """The run that answered the exchange in the end."""

    def summary(self) -> str:
        """The facts in one line."""
        return self.facts.summary()

    def advice_here(self) -> str:
        """The advice with this run and this conversation in place of RUN and KEY."""
        here = {"RUN": self.run_id[-8:], "KEY": self.key}
        return re.sub(r"\b(RUN|KEY)\b", lambda match: here[match[0]], self.advice)

    def as_json(self) -> dict[str, Any]:
        """The keys of CONTRACT.md."""
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
        }
