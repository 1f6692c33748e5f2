"""Read from a provider's response body whether a run answered, failed, or continues.

The same rules as for our backends apply: an answer that was truncated, filtered or is empty is a failure.

A failed HTTP request becomes the `Failure` of the exception that the SDK raises for it (`refusal`, `trouble`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, Role, ToolCall, Usage
from threadledger.domain.failures import Failure

from ..openai import failure_of
from .requests import kept, response_messages, thread_messages

RUN_ENDED = frozenset({"completed", "failed", "incomplete", "expired", "cancelled"})
RESPONSE_ENDED = frozenset({"completed", "failed", "incomplete", "cancelled"})
"""Final statuses of a response. With any other status, known or not, a response or run is still active."""

NOT_FINISHED = frozenset({"length", "content_filter"})
"""Finish reasons of an incomplete answer."""


@dataclass(frozen=True)
class Context:
    """Hold the facts of a response that are known without its body."""

    backend: str
    endpoint: str
    request_id: str | None = None
    http_status: int | None = None
    thread_id: str | None = None

    def failure(self, status: str, **facts: Any) -> Failure:
        """Create a failure with the facts of this context."""
        details = {"endpoint": self.endpoint} | facts.pop("details", {})
        known: dict[str, Any] = {"request_id": self.request_id, "thread_id": self.thread_id} | facts
        return Failure(status, details=details, **known)


@dataclass(frozen=True)
class Seen:
    """Hold the known state of a run. Without an outcome, the run continues.

    `unread` is true if the run completed and its messages must be read from the thread. `calls` are the tool calls that
    the run waits for.
    """

    outcome: Completion | Failure | None = None
    remote_id: str | None = None
    thread_id: str | None = None
    calls: tuple[ToolCall, ...] = ()
    unread: bool = False
    usage: Usage = field(default_factory=Usage)
    model: str | None = None


def seen_in(body: Any, context: Context) -> Seen:
    """Read the state of a run from a complete response body."""
    if not isinstance(body, dict):
        return Seen(no_answer(context))
    return _READERS[context.backend](body, context)


def no_answer(context: Context) -> Failure:
    """Return the failure for a response that is not from the provider; the SDK cannot parse it either."""
    return context.failure(
        "error",
        type="JSONDecodeError",
        message="the response body is not a response of the provider's API",
        http_status=context.http_status,
        details={"exception": "JSONDecodeError"},
    )


def answered(
    message: Message, context: Context, *, finish_reason: str | None, remote_id: str | None, **facts: Any
) -> Completion | Failure:
    """Return the completion for a message, or the failure if the answer is incomplete or empty."""
    calls = bool(message.calls())
    if finish_reason in NOT_FINISHED or not (message.text or calls):
        return context.failure(
            "incomplete",
            code=None if message.text else "empty_answer",
            message=f"the answer ended with {finish_reason!r}",
            partial_text=message.text or None,
            remote_run_id=remote_id,
            details={"finish_reason": finish_reason},
        )
    return Completion(
        (message,),
        finish_reason=finish_reason,
        remote_run_id=remote_id,
        thread_id=context.thread_id,
        request_id=context.request_id,
        goes_on=calls,
        **facts,
    )


def with_messages(seen: Seen, page: Any, context: Context) -> Seen:
    """Return a completed run with its messages, read from a page of the thread's messages."""
    data = page.get("data") if isinstance(page, dict) else None
    answers = [each for each in thread_messages(data) if each.role is Role.ASSISTANT and each.text]
    if not answers:
        return replace(seen, outcome=_unread(seen, context), unread=False)
    completion = Completion(
        tuple(answers),
        finish_reason="completed",
        remote_run_id=seen.remote_id,
        thread_id=seen.thread_id,
        request_id=context.request_id,
        model=seen.model,
        usage=seen.usage,
    )
    return replace(seen, outcome=completion, unread=False)


def usage_of(given: Any) -> Usage:
    """Read the token counts, in the field names of either API."""
    if not isinstance(given, Mapping):
        return Usage()
    counts = [given.get(new, given.get(old)) for new, old in _TOKENS]
    return Usage(*(count if isinstance(count, int) else 0 for count in counts))


_TOKENS = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))


def text_of(value: Any) -> str | None:
    """Return the value if it is a string, otherwise None."""
    return value if isinstance(value, str) else None


def _chat(body: dict[str, Any], context: Context) -> Seen:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        return Seen(no_answer(context))
    return Seen(
        answered(
            answer_message(message),
            context,
            finish_reason=text_of(first.get("finish_reason")),
            remote_id=text_of(body.get("id")),
            model=text_of(body.get("model")),
            usage=usage_of(body.get("usage")),
        )
    )


def answer_message(given: Mapping[str, Any]) -> Message:
    """Read a model's message of Chat Completions; without any content it becomes an empty message."""
    said = any(given.get(name) for name in ("content", "tool_calls", "refusal", "audio", "function_call"))
    return kept({**given, "role": Role.ASSISTANT.value}) if said else Message(Role.ASSISTANT, "")


def _response(body: dict[str, Any], context: Context) -> Seen:
    remote_id, status = text_of(body.get("id")), text_of(body.get("status"))
    if remote_id is None or status is None:
        return Seen(no_answer(context))
    conversation = body.get("conversation")
    thread_id = text_of(conversation.get("id")) if isinstance(conversation, dict) else text_of(conversation)
    context = replace(context, thread_id=thread_id or context.thread_id)
    if status not in RESPONSE_ENDED:
        return Seen(remote_id=remote_id, thread_id=context.thread_id)
    messages = [each for each in response_messages(body.get("output")) if each.role is Role.ASSISTANT]
    answer = messages[-1] if messages else Message(Role.ASSISTANT, "")
    if status != "completed":
        return Seen(_not_completed(body, status, answer.text, remote_id, context), remote_id, context.thread_id)
    outcome = answered(
        answer,
        context,
        finish_reason=status,
        remote_id=remote_id,
        model=text_of(body.get("model")),
        usage=usage_of(body.get("usage")),
    )
    return Seen(outcome, remote_id, context.thread_id)


def _run(body: dict[str, Any], context: Context) -> Seen:
    remote_id, status = text_of(body.get("id")), text_of(body.get("status"))
    if remote_id is None or status is None:
        return Seen(no_answer(context))
    context = replace(context, thread_id=text_of(body.get("thread_id")) or context.thread_id)
    seen = Seen(
        remote_id=remote_id,
        thread_id=context.thread_id,
        usage=usage_of(body.get("usage")),
        model=text_of(body.get("model")),
    )
    if status == "requires_action":
        return replace(seen, calls=_required(body.get("required_action")))
    if status not in RUN_ENDED:
        return seen
    if status == "completed":
        return replace(seen, unread=True)
    return replace(seen, outcome=_not_completed(body, status, "", remote_id, context))


def _not_completed(body: dict[str, Any], status: str, text: str, remote_id: str, context: Context) -> Failure:
    """Return the failure for a response or run that ended without completing."""
    error, incomplete = body.get("error") or body.get("last_error"), body.get("incomplete_details")
    error = error if isinstance(error, dict) else {}
    reason = text_of(incomplete.get("reason")) if isinstance(incomplete, dict) else None
    usage = body.get("usage")
    prompt_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return context.failure(
        status,
        code=text_of(error.get("code")),
        message=text_of(error.get("message")) or f"it ended {status}" + (f": {reason}" if reason else ""),
        partial_text=text or None,
        remote_run_id=remote_id,
        details={"incomplete_reason": reason} | ({"prompt_tokens": prompt_tokens} if prompt_tokens is not None else {}),
    )


def _thread(body: dict[str, Any], context: Context) -> Seen:
    """Read the thread's id from the response to new messages, which is the message or the thread."""
    return Seen(thread_id=text_of(body.get("thread_id")) or text_of(body.get("id")))


def _required(action: Any) -> tuple[ToolCall, ...]:
    try:
        calls = action["submit_tool_outputs"]["tool_calls"]
        return tuple(
            ToolCall(str(each["id"]), str(each["function"]["name"]), str(each["function"]["arguments"]))
            for each in calls
        )
    except (KeyError, TypeError):
        return ()


def _unread(seen: Seen, context: Context) -> Failure:
    return context.failure(
        "incomplete",
        code="empty_answer",
        message="the run completed, but its answer was not found in its thread",
        remote_run_id=seen.remote_id,
        thread_id=seen.thread_id,
    )


_READERS = {"chat": _chat, "responses": _response, "assistants": _run, "threads": _thread}


def refusal(response: Any, context: Context) -> Failure:
    """Return the facts of a response with an HTTP status of 400 or above; its body was read if possible."""
    import openai

    try:
        body = json.loads(response.content)
    except Exception:  # noqa: BLE001 - if the body cannot be read or is not JSON, the status is used
        body = None
    error_body = body.get("error", body) if isinstance(body, dict) else body
    message = f"HTTP {response.status_code}"
    error = openai.APIStatusError(message, response=response, body=error_body)
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
