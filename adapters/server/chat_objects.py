"""Show answers as chat completions, whole and in chunks, and failed runs as the provider's refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, restore_message
from threadledger.domain.conversation.native import with_texts_in_place
from threadledger.domain.conversation.parts import Text
from threadledger.domain.failures import Cause, redact

from ..wire import ApiError, Json, events, objects
from .contents import seconds, texts_in
from .refusals import AGAIN, SERVER_ERROR, stream_broken
from .run_objects import MESSAGE_CHARS_MAX

if TYPE_CHECKING:
    from threadledger.domain.errors import AllBackendsFailed
    from threadledger.domain.failures import RecordedFailure

ReadBlob = Callable[[str], Iterator[bytes]]

CUT_OFF = frozenset({"length", "content_filter"})
"""Reasons for which an answer ended that are shown as they are."""

UPSTREAM_KEY = frozenset({401, 403})
"""Statuses that are about the server's own key at the provider, not about the caller's."""

STATUSES: Mapping[Cause, int] = {
    Cause.TIMED_OUT: 504,
    Cause.EXPIRED: 504,
    Cause.NETWORK: 502,
    Cause.OVER_BUDGET: 429,
    Cause.INTERRUPTED: 503,
    Cause.CANCELLED: 503,
    Cause.PROVIDER_GONE: 502,
    Cause.AUTHENTICATION: 502,
    Cause.PERMISSION: 502,
}
"""Statuses of failures that have none of the provider, or another one there; those that our own checks refuse are a 400."""


@dataclass(frozen=True)
class FoundAnswer:
    """Hold the events with which a run answered a request: its end, and what it said."""

    model: str
    completed: e.RunCompleted
    said: Sequence[e.MessageJournaled]


def completion_object(
    completion_id: str, created: datetime, metadata: Mapping[str, Any], found: FoundAnswer, read_blob: ReadBlob
) -> Json:
    """Return the API's object of a chat completion."""
    made = objects.completion(completion_id, seconds(created), found.model, texts_in(metadata))
    usage = found.completed.usage
    names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    message = answer_message([restore_message(each) for each in found.said], read_blob)
    reason = found.completed.finish_reason if found.completed.finish_reason in CUT_OFF else "stop"
    if found.completed.goes_on:
        reason = "function_call" if "function_call" in message else "tool_calls"
    made["choices"] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}]
    made["usage"] = objects.completion_usage(*(int(usage.get(name) or 0) for name in names))
    return made


def answer_message(said: Sequence[Message], read_blob: ReadBlob) -> Json:
    """Return what a run said as one message of Chat Completions."""
    text, notes, own = "", list[Json](), dict[str, Any]()
    for each in said:
        parts = each.content if isinstance(each.content, tuple) else (Text(each.content or ""),)
        for part in parts:
            if isinstance(part, Text):
                noted = part.as_json().get("annotations", [])
                notes += [_shifted(note, len(text)) for note in noted]
                text += part.text
        own |= {name: value for name, value in each.extra().items() if name in ("refusal", "function_call")}
        own |= _sound(each, read_blob)
    calls = [objects.tool_call(call.id, call.name, call.arguments) for each in said for call in each.calls()]
    refusal = own.get("refusal") or None
    says_otherwise = refusal is not None or "audio" in own or ((calls or "function_call" in own) and not text)
    message: Json = {"role": "assistant", "content": None if says_otherwise else text, "refusal": refusal}
    message |= {"annotations": notes} | ({"tool_calls": calls} if calls else {})
    return message | {name: own[name] for name in ("function_call", "audio") if name in own}


def _shifted(note: Json, offset: int) -> Json:
    inner = note.get(str(note.get("type")))
    if not offset or not isinstance(inner, dict):
        return note
    places = {name: inner[name] + offset for name in ("start_index", "end_index") if type(inner.get(name)) is int}
    return {**note, str(note["type"]): {**inner, **places}}


def _sound(message: Message, read_blob: ReadBlob) -> Json:
    """Return the sound of an answer as the provider sent it, if it has one."""
    if not message.native_json or '"audio"' not in message.native_json:
        return {}
    items = with_texts_in_place(message.native(), read_blob).get("items")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(item.get("audio"), dict):
            return {"audio": item["audio"]}
    return {}


# Streams


@dataclass
class ChunkWriter:
    """Turn the parts of an answer into chunks; what was sent is never taken back."""

    completion_id: str
    created: int
    has_usage: bool
    model: str = ""
    said: list[str] = field(default_factory=list)
    begun: bool = False

    def of_part(self, part: Any) -> Iterator[Json]:
        """Yield the chunks for a part of the answer.

        Raises:
            ApiError: the attempt failed after its text was sent, and the next one does not continue it.
        """
        match part.type:
            case "began":
                self.model = self.model if self.begun else part.model
            case "delta":
                yield from self._begin()
                self.said.append(part.text)
                yield self._chunk({"content": part.text})
            case "started_over" if not part.continues and self.said:
                raise stream_broken(part)
            case _:
                pass

    def end(self, completion: Json) -> Iterator[Json]:
        """Yield what is left of a whole answer, which is stored now: the rest of its text, its calls, and its end."""
        self.model = self.model if self.begun else completion["model"]
        yield from self._begin()
        [choice] = completion["choices"]
        message, sent = choice["message"], "".join(self.said)
        if message["refusal"] and message["refusal"] in sent:
            message = {**message, "refusal": None}
        text = message["content"] or ""
        rest = text.removeprefix(sent) if text.startswith(sent) else ""
        for delta in islice(events.message_deltas({**message, "content": rest}), 1, None):
            yield self._chunk(delta)
        yield self._chunk({}, choice["finish_reason"])
        if self.has_usage:
            yield events.usage_chunk({**self._base(), "usage": completion["usage"]})

    def _begin(self) -> Iterator[Json]:
        if not self.begun:
            self.begun = True
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    def _chunk(self, delta: Json, reason: str | None = None) -> Json:
        made = events.chunk(self._base(), delta, reason)
        return made | {"usage": None} if self.has_usage else made

    def _base(self) -> Json:
        return {"id": self.completion_id, "created": self.created, "model": self.model}


# Refusals


def refusal_of_failure(error: AllBackendsFailed) -> ApiError:
    """Return the refusal of a request that no backend answered: the last provider's, with our cause and the id of the run."""
    failed = error.failures[-1] if error.failures else None
    if failed is None:
        return ApiError(503, redact(str(error)), kind=SERVER_ERROR, code="no_backend", headers=AGAIN)
    facts = failed.facts
    status, is_own = _status_of(failed), facts.http_status is None or facts.http_status < 400  # no words of a refusal
    headers: dict[str, str] = {}
    if status == 429 and facts.retry_after_seconds is not None:
        headers["retry-after"] = str(max(math.ceil(facts.retry_after_seconds), 1))
    code, kind = facts.code, facts.type
    if facts.http_status in UPSTREAM_KEY:
        code, kind = f"upstream_{failed.cause.value}", SERVER_ERROR
        headers["x-should-retry"] = "false"
    if kind is None or is_own:
        kind = SERVER_ERROR if status >= 500 else "invalid_request_error"
    code = code or failed.cause.value
    return ApiError(status, _message_of(failed), kind=kind, code=code, param=facts.param, headers=headers)


def _status_of(failed: RecordedFailure) -> int:
    given = failed.facts.http_status
    if given is not None and given not in UPSTREAM_KEY and 400 <= given < 600:
        return given
    if failed.cause in STATUSES:
        return STATUSES[failed.cause]
    return 400 if failed.facts.status == "refused" else 502


def _message_of(failed: RecordedFailure) -> str:
    facts = failed.facts
    http = f"HTTP {facts.http_status}" if facts.http_status else ""
    code = f"code {facts.code}" if facts.code else ""
    known = ", ".join(filter(None, [http, code, f"cause {failed.cause.value}", f"run {failed.run_id}"]))
    return f"{redact(facts.message or facts.status, limit=MESSAGE_CHARS_MAX)} ({known})"
