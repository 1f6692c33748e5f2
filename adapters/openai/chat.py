"""Backend `chat`: Chat Completions, stateless, shown the memory at each run. The fallback that needs no thread."""

from __future__ import annotations

import time
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Completion,
    Failure,
    Message,
    ProviderRefused,
    Role,
    Usage,
    limits,
    whole_text,
)

from .client import Client
from .failures import calling, present
from .preflight import preflight
from .tools import answer_calls, offered_tools, too_many_rounds, tool_call

ENDPOINT = "POST /chat/completions"


class ChatBackend:
    """Answers by Chat Completions."""

    name = "chat"
    thread = None
    takes_unsent = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self.name, request)

    def answer(self, request: BackendRequest) -> Completion:
        deadline = time.monotonic() + request.timeout_seconds
        messages: list[Any] = request.memory.as_chat_messages()
        if request.profile.instructions:
            messages.insert(0, {"role": "system", "content": request.profile.instructions})
        usage = Usage()
        for _ in range(limits.TOOL_ROUNDS_MAX):
            completion = self._create(request, messages, deadline)
            usage = _add(usage, completion.usage)
            choice = completion.choices[0]
            calls = [
                tool_call(call.id, call.function.name, call.function.arguments)
                for call in choice.message.tool_calls or ()
                if call.type == "function"
            ]
            if not calls:
                return _completed(completion, choice, usage)
            text = choice.message.content or ""
            results = answer_calls(calls, request, text)
            messages.append(Message(Role.ASSISTANT, text or None, tuple(calls)).as_chat_message())
            messages += [result.as_chat_message() for result in results]
        raise too_many_rounds()

    def _create(self, request: BackendRequest, messages: list[Any], deadline: float) -> Any:
        tools: Any = offered_tools(request.profile, request.tools)
        with calling(ENDPOINT):
            completion = self._client.sdk.chat.completions.create(
                model=request.model,
                messages=messages,
                timeout=max(deadline - time.monotonic(), 0.001),
                **({"tools": tools} if tools else {}),
            )
            present(completion.id, completion.choices[0].message.role)
            return completion


def _completed(completion: Any, choice: Any, usage: Usage) -> Completion:
    text = whole_text(choice.message.content or choice.message.refusal or "")
    if choice.finish_reason in {"length", "content_filter"} or not text:
        raise ProviderRefused(
            Failure(
                "incomplete",
                code=None if text else "empty_answer",
                message=f"the answer ended with {choice.finish_reason!r}",
                request_id=completion._request_id,
                partial_text=text or None,
                remote_run_id=completion.id,
                details={"endpoint": ENDPOINT, "finish_reason": choice.finish_reason},
            )
        )
    return Completion(
        (Message(Role.ASSISTANT, text),),
        finish_reason=choice.finish_reason,
        remote_run_id=completion.id,
        request_id=completion._request_id,
        model=completion.model,
        usage=usage,
    )


def _add(usage: Usage, counted: Any) -> Usage:
    if counted is None:
        return usage
    return Usage(
        usage.input_tokens + (counted.prompt_tokens or 0), usage.output_tokens + (counted.completion_tokens or 0)
    )
