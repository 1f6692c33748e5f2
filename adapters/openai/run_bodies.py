"""Read the responses of the Responses API, the runs of Assistants threads, and the messages of these threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.items import function_calls, output_messages, text_in
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.failures import Failure, redact
from threadledger.domain.provider_errors import ProviderError, error_in

from .bodies import (
    RESPONSE_ACTIVE,
    RESPONSE_ENDED,
    RUN_ENDED,
    Context,
    Seen,
    answered,
    body_text,
    no_answer,
    says_error,
    text_of,
    usage_of,
)
from .messages import thread_messages


def with_messages(seen: Seen, page: Any, context: Context) -> Seen:
    """Return a completed run with its messages, read from a page of the thread's messages."""
    data = page.get("data") if isinstance(page, dict) else None
    said = thread_messages(written_by(seen.remote_id, seen.thread_id, data if isinstance(data, list) else []))
    answers = [each for each in said if each.text.strip()]
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


def written_by(run_id: str | None, thread_id: str | None, messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a run's own messages among the messages of a thread, oldest first.

    A server may ignore the filter and the order of a list request. So run, thread and role decide. If no message names a
    run, the run's messages are those of the assistant after the newest message of the user.
    """
    found = oldest_first([each for each in messages if isinstance(each, dict)])
    found = [each for each in found if each.get("thread_id") in (None, thread_id)]
    if not any(each.get("run_id") for each in found):
        asked = max((place + 1 for place, each in enumerate(found) if each.get("role") == "user"), default=0)
        return [each for each in found[asked:] if each.get("role") == "assistant"]
    return [each for each in found if each.get("run_id") == run_id and each.get("role") == "assistant"]


def oldest_first(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects of a list in the order of their creation, whichever order the server chose.

    Within one second, and for objects without a time, the order is the server's.
    """
    return list(reversed(objects)) if rises(objects[::-1]) else list(objects)


def rises(objects: list[dict[str, Any]]) -> bool:
    """Return whether the first object of a list is older than the last one, by the provider's time."""
    first, last = (objects[0].get("created_at"), objects[-1].get("created_at")) if objects else (None, None)
    return isinstance(first, (int, float)) and isinstance(last, (int, float)) and first < last


def _response(body: dict[str, Any], context: Context) -> Seen:
    remote_id, status = text_of(body.get("id")), (text_of(body.get("status")) or "").lower() or None
    lost: Counter[str] = Counter()
    *before, output = output_messages(body.get("output"), lost)
    if not before and output == Message(Role.ASSISTANT, ""):
        output = Message(Role.ASSISTANT, text_in(body.get("output_text")))
    says_nothing = not before and output == Message(Role.ASSISTANT, "")
    if not says_nothing and status not in RESPONSE_ENDED | RESPONSE_ACTIVE:
        status = "completed"  # the answer is there: a missing or unknown status does not cost it
    if status is None or (status == "completed" and says_nothing and not isinstance(body.get("output"), list)):
        return Seen(no_answer(body, context))
    conversation = body.get("conversation")
    thread_id = text_of(conversation.get("id")) if isinstance(conversation, dict) else text_of(conversation)
    context = replace(context, thread_id=thread_id or context.thread_id)
    seen = Seen(None, remote_id, context.thread_id, usage=usage_of(body.get("usage")), status=status)
    if status not in RESPONSE_ENDED:
        return seen if remote_id else Seen(no_answer(body, context))
    if status != "completed" or (body.get("error") and says_error(body["error"])):
        text = "\n\n".join(each.text for each in (*before, output) if each.text)
        return replace(seen, outcome=_not_completed(body | {"status": status}, text, context))
    outcome = answered(
        output,
        context,
        _ending(body),
        finish_reason=status,
        remote_id=remote_id,
        model=text_of(body.get("model")),
        usage=seen.usage,
        before=tuple(before),
        losses=lost,
    )
    if isinstance(outcome, Failure):
        outcome = replace(outcome, message="the response completed without text")
    return replace(seen, outcome=outcome)


def _run(body: dict[str, Any], context: Context) -> Seen:
    remote_id, status = text_of(body.get("id")), text_of(body.get("status"))
    if not remote_id or status is None:
        return Seen(no_answer(body, context))
    context = replace(context, thread_id=text_of(body.get("thread_id")) or context.thread_id)
    seen = Seen(
        remote_id=remote_id,
        thread_id=context.thread_id,
        usage=usage_of(body.get("usage")),
        model=text_of(body.get("model")),
        status=status,
    )
    if status == "requires_action":
        return replace(seen, calls=_required(body.get("required_action")))
    if status not in RUN_ENDED:
        return seen
    if status == "completed":
        return replace(seen, unread=True)
    return replace(seen, outcome=_not_completed(body, "", context))


def _not_completed(body: dict[str, Any], text: str, context: Context) -> Failure:
    """Return the failure for a response or run that ended without completing."""
    status = str(body["status"])
    error, incomplete = body.get("error") or body.get("last_error"), body.get("incomplete_details")
    said = error_in(error) or ProviderError()
    reason = text_of(incomplete.get("reason")) if isinstance(incomplete, dict) else None
    what = "run" if "last_error" in body or context.backend == "assistants" else "response"
    usage = body.get("usage")
    prompt_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    counts = {"prompt_tokens": prompt_tokens} if prompt_tokens is not None or what == "run" else {}
    return context.failure(
        "failed" if status == "completed" else status,
        code=said.code,
        message=redact(said.message or f"the {what} ended {status}" + (f": {reason}" if reason else "")),
        partial_text=text or None,
        remote_run_id=text_of(body.get("id")),
        details={"incomplete_reason": reason} | counts | {"body": body_text(_ending(body))},
    )


def _ending(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a response or run that say how it ended, without its content and its configuration."""
    return {name: body[name] for name in _ENDING if body.get(name) is not None}


_ENDING = ("id", "object", "status", "model", "error", "last_error", "incomplete_details", "usage")


def _thread(body: dict[str, Any], context: Context) -> Seen:
    """Read the thread's id from the response to new messages, which is the message or the thread."""
    return Seen(thread_id=text_of(body.get("thread_id")) or text_of(body.get("id")))


def _required(action: Any) -> tuple[ToolCall, ...]:
    outputs = action.get("submit_tool_outputs") if isinstance(action, dict) else None
    return function_calls(outputs.get("tool_calls")) if isinstance(outputs, dict) else ()


def _unread(seen: Seen, context: Context) -> Failure:
    return context.failure(
        "incomplete",
        code="empty_answer",
        message="the run completed, but its answer was not found in its thread",
        remote_run_id=seen.remote_id,
        thread_id=seen.thread_id,
    )


READERS = {"responses": _response, "assistants": _run, "threads": _thread}
"""Readers of the bodies of each API."""
