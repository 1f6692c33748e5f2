"""Read a provider's response body: whether a run answered, failed or continues.

This is the only reader of answers: our backends and recorded clients use it. It reads the JSON on the wire, because
compatible servers send bodies that differ from the SDK's types. An error is found first, wherever the body has it. An answer
that was truncated, filtered or is empty is a failure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, ToolCall, Usage, plain_message
from threadledger.domain.failures import Failure, redact, redact_details, whole_text
from threadledger.domain.limits import BODY_CHARS_MAX

RUN_ENDED = frozenset({"completed", "failed", "incomplete", "expired", "cancelled"})
"""Final statuses of a run, as defined by the SDK's types. A run with any other status, known or not, is still active."""

RESPONSE_ENDED = frozenset({"completed", "failed", "incomplete", "cancelled"})
"""Final statuses of a response. With any other status, known or not, a response is still active."""

RESPONSE_ACTIVE = frozenset({"queued", "in_progress"})
"""Statuses of a response that is still active."""

NOT_FINISHED = frozenset({"length", "content_filter", "max_tokens", "model_context_window_exceeded", "pause_turn"})
"""Finish reasons of an incomplete answer, in the words of OpenAI and of Anthropic."""

EVENT_STREAM = "text/event-stream"
"""Content type of a stream."""
_EVENT_STARTS = (b"data:", b"event:")
"""Beginnings of a stream, whatever its content type says."""

FAILED = "error"
"""Finish reason of an answer that the provider broke off, as OpenRouter sends it."""


@dataclass(frozen=True)
class Context:
    """Hold the facts of a response that are known without its body."""

    backend: str
    endpoint: str
    request_id: str | None = None
    http_status: int | None = None
    thread_id: str | None = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    remote_id: str | None = None
    reader: Callable[[dict[str, Any], Context], Seen] | None = None
    fold: Callable[[Context], Any] | None = None
    """Functions that read the body and the stream of an API that this room does not know."""

    def failure(self, status: str, **facts: Any) -> Failure:
        """Create a failure with the facts of this context."""
        details = {"endpoint": self.endpoint} | facts.pop("details", {})
        known: dict[str, Any] = {
            "request_id": self.request_id,
            "thread_id": self.thread_id,
            "remote_run_id": self.remote_id,
        }
        return Failure(status, details=redact_details(details), **(known | facts))

    def failure_of_body(self, body: Any, status: str = "error", **facts: Any) -> Failure:
        """Create the failure that a body reports, with the provider's words and the body itself.

        Args:
            body: the JSON value, or the text of a body that is not JSON.
            status: how the run ended.
            facts: other fields of the failure; `details` are added to the endpoint and the body.
        """
        from threadledger.domain.durations import retry_after
        from threadledger.domain.provider_errors import ProviderError, error_in

        error = error_in(body) or ProviderError()
        details = facts.pop("details", {}) | {"body": body_text(body)}
        if isinstance(body, str) and self.content_type:
            details["content_type"] = self.content_type
        said: dict[str, Any] = {
            "code": error.code,
            "type": error.type,
            "message": redact(error.message) if error.message else None,
            "param": error.param,
            "http_status": self.http_status,
        }
        given = {name: value for name, value in facts.items() if value is not None}
        wait = {"retry_after_seconds": retry_after(self.headers, self.http_status)} if self.headers else {}
        return self.failure(status, details=details, **(said | wait | given))


@dataclass(frozen=True)
class Seen:
    """Hold the known state of a run. Without an outcome, the run continues.

    `unread` is true if the run completed and its messages must be read from the thread. `calls` are the tool calls that
    the run waits for. `status` is the provider's word, if it has one.
    """

    outcome: Completion | Failure | None = None
    remote_id: str | None = None
    thread_id: str | None = None
    calls: tuple[ToolCall, ...] = ()
    unread: bool = False
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    status: str | None = None


def body_text(body: Any) -> str:
    """Return a body as text without secrets, of at most `BODY_CHARS_MAX` characters."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return redact(text, BODY_CHARS_MAX)


def read_body(body: bytes, context: Context) -> Seen:
    """Read the state of a run from a complete body: JSON, or a stream of events that was not requested."""
    if EVENT_STREAM in context.content_type.lower() or body[:16].lstrip().startswith(_EVENT_STARTS):
        from .folds import fold_of

        fold = fold_of(context, events=True)
        fold.take(body)
        return fold.end()
    return read_document(body, context)


def read_document(body: bytes, context: Context) -> Seen:
    """Read the state of a run from a complete body that is JSON, or should be."""
    try:
        return seen_in(json_value(body), context)
    except (ValueError, RecursionError):
        return Seen(not_json(body, context))


def json_value(body: bytes) -> Any:
    """Return the JSON value of a body, with storable text: what is no UTF-8, and half characters, become U+FFFD.

    Raises:
        ValueError, RecursionError: the body is not JSON.
    """
    try:
        value = json.loads(body)
    except UnicodeDecodeError:
        value = json.loads(body.decode("utf-8", "replace"))
    if body.isascii() and b"\\u" not in body:
        return value
    from .messages import whole

    return whole(value)


def seen_in(body: Any, context: Context) -> Seen:
    """Read the state of a run from the JSON value of a complete body."""
    if isinstance(body, dict) and isinstance(body.get("response"), dict):
        body = body["response"]  # an event of the Responses API
    if isinstance(body, dict) and not _is_error(body):
        return (context.reader or _reader(context.backend))(body, context)
    failure = context.failure_of_body(body)
    says_nothing = not isinstance(body, (dict, list)) or (failure.code, failure.message) == (None, None)
    return Seen(no_answer(body, context) if says_nothing else failure)


def _reader(backend: str) -> Callable[[dict[str, Any], Context], Seen]:
    if backend == "chat":
        return _chat
    from .run_bodies import READERS

    return READERS[backend]


def _is_error(body: Mapping[str, Any]) -> bool:
    """Return whether a body is an error; a response or a run that failed has its own error, and is read as such."""
    given = body.get("error")
    if not given and any(body.get(name) is not None for name in ("choices", "output", "id")):
        return False
    from threadledger.domain.provider_errors import error_in

    if given and says_error(given):
        return not (body.get("id") and body.get("status"))
    answers = any(body.get(name) is not None for name in ("choices", "output", "id"))
    return not answers and error_in(body) is not None


def no_answer(body: Any, context: Context) -> Failure:
    """Return the failure for a body that is not a response of the provider's API."""
    return context.failure_of_body(
        body,
        type="JSONDecodeError",
        message="the response body is not a response of the provider's API",
        details={"exception": "JSONDecodeError"},
    )


def not_json(body: bytes, context: Context) -> Failure:
    """Return the failure for a body that is not JSON, such as the HTML page of a gateway or a login."""
    from threadledger.domain.provider_errors import plain_text

    text = whole_text(body[: 8 * BODY_CHARS_MAX].decode("utf-8", "replace"))
    if not text.strip():
        return no_answer("", context)
    kind = context.content_type.partition(";")[0].strip() or "a text"
    return context.failure_of_body(
        text,
        type="JSONDecodeError",
        message=redact(f"the provider sent {kind} instead of JSON: {plain_text(text)}"),
        details={"exception": "JSONDecodeError"},
    )


def answered(
    message: Message,
    context: Context,
    body: Any,
    *,
    finish_reason: str | None,
    remote_id: str | None,
    before: tuple[Message, ...] = (),
    **facts: Any,
) -> Completion | Failure:
    """Return the completion for a message, or the failure if the answer is incomplete or empty.

    `body` is kept in the failure. `before` are earlier messages of the answer, `facts` other fields of the completion.
    """
    calls, text = bool(message.calls()) or "function_call" in message.extra(), answer_text(message)
    is_empty = not (text.strip() or calls or before or has_image(message))
    if finish_reason in NOT_FINISHED or finish_reason == FAILED or is_empty:
        return context.failure(
            "error" if finish_reason == FAILED else "incomplete",
            code=None if text.strip() or finish_reason == FAILED else "empty_answer",
            message=f"the answer ended with {finish_reason!r}",
            partial_text=text or None,
            remote_run_id=remote_id,
            details={"finish_reason": finish_reason, "body": body_text(body)},
        )
    return Completion(
        (*before, message),
        finish_reason=finish_reason,
        remote_run_id=remote_id,
        thread_id=context.thread_id,
        request_id=context.request_id,
        goes_on=calls,
        **facts,
    )


def answer_text(message: Message) -> str:
    """Return the text of a model's answer: its parts joined without a separator, its refusal, or its transcript."""
    if isinstance(message.content, str):
        return message.content
    from .messages import text_of_parts

    return text_of_parts(message)


def has_image(message: Message) -> bool:
    """Return whether an answer has an image, which needs no text besides."""
    content = message.content
    return isinstance(content, tuple) and any(part.as_json()["type"] == "image_url" for part in content)


def usage_of(given: Any) -> Usage:
    """Read the token counts, in the field names of either API. If a count is not a number, the usage is unknown: all 0."""
    if not isinstance(given, Mapping):
        return Usage()
    counts = [given.get(new, given.get(old)) or 0 for new, old in _TOKENS]
    for (new, old), part in zip(_TOKENS, _PARTS_OF_TOKENS, strict=True):
        details = given.get(f"{new}_details") or given.get(f"{old}_details")
        counts.append(details.get(part) or 0 if isinstance(details, dict) else 0)
    return Usage(*counts) if all(type(count) is int and count >= 0 for count in counts) else Usage()


_TOKENS = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
_PARTS_OF_TOKENS = ("cached_tokens", "reasoning_tokens")
"""The part of the input tokens, and of the output tokens, that has a count of its own."""


def text_of(value: Any) -> str | None:
    """Return the value if it is a string with any text, otherwise None."""
    return value if isinstance(value, str) and value else None


def says_error(value: Any) -> bool:
    """Return whether the value of a field `error` reports an error; some servers send one without any content."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _chat(body: dict[str, Any], context: Context) -> Seen:
    choices = body.get("choices")
    first = next((each for each in choices if isinstance(each, dict)), None) if isinstance(choices, list) else None
    usage, remote_id = usage_of(body.get("usage")), text_of(body.get("id"))
    if first is None:
        failure = replace(no_answer(body, context), remote_run_id=remote_id)
        if isinstance(choices, list):
            failure = replace(failure, message="the provider answered without a choice")
        return Seen(failure, usage=usage)
    lost: Counter[str] = Counter()
    message = _message_in(first, lost)
    if first.get("error") and says_error(first["error"]):
        partial = answer_text(message) or None
        failure = context.failure_of_body(first, partial_text=partial, remote_run_id=remote_id)
        return Seen(failure, remote_id, usage=usage)
    outcome = answered(
        message,
        context,
        body,
        finish_reason=text_of(first.get("finish_reason")),
        remote_id=remote_id,
        model=text_of(body.get("model")),
        usage=usage,
        losses=lost,
    )
    return Seen(outcome, remote_id, usage=usage)


def _message_in(choice: Mapping[str, Any], lost: Counter[str]) -> Message:
    """Return the message of a choice; the completions API of old has a text instead."""
    given = choice.get("message")
    said = given if isinstance(given, dict) else {"content": choice.get("text")}
    content = said.get("content")
    others = (value for name, value in said.items() if name not in {"role", "content"})
    plain = plain_message("assistant", content) if isinstance(content, str) and not any(others) else None
    if plain is not None:
        return plain
    from threadledger.domain.conversation.items import chat_answer

    return chat_answer(said, lost)
