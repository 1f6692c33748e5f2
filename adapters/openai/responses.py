"""Backend `responses`: the Responses API, in the thread (a Conversation) where one is known, stateless otherwise.

The provider adds input and output to the conversation only when the response completes: what the thread lacks goes along
as input, and a failed response leaves nothing there.
"""

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
    response_items,
    whole_text,
)

from .client import Client
from .failures import calling, present
from .preflight import preflight
from .tools import answer_calls, response_tools, too_many_rounds, tool_call

ENDPOINT = "POST /responses"


class ResponsesBackend:
    """Answers by the Responses API."""

    name = "responses"
    takes_unsent = True

    def __init__(self, client: Client, in_conversations: bool = True) -> None:
        self._client = client
        self.thread = "conversations" if in_conversations else None

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self.name, request)

    def answer(self, request: BackendRequest) -> Completion:
        deadline = time.monotonic() + request.timeout_seconds
        # A thread that lacks nothing has the question already: asked there without input, it would have to be guessed
        # whether the provider answers it. So the question is answered from memory, and the answer mirrored.
        conversation = request.thread_id if request.unsent else None
        given: list[Any] = [dict(item.payload) for item in request.unsent] if conversation else []
        given = given or request.memory.as_response_items()
        usage = Usage()
        for _ in range(limits.TOOL_ROUNDS_MAX):
            response = self._create(request, given, conversation, deadline)
            usage = _add(usage, response.usage)
            calls = [
                tool_call(item.call_id, item.name, item.arguments)
                for item in response.output
                if item.type == "function_call"
            ]
            if response.status != "completed" or not calls:
                return _completed(response, usage, conversation)
            results = answer_calls(calls, request, response.output_text)
            outputs = [item for result in results for item in response_items(result)]
            made = response_items(Message(Role.ASSISTANT, None, tuple(calls)))
            given = outputs if conversation else [*given, *made, *outputs]
        raise too_many_rounds()

    def _create(self, request: BackendRequest, given: list[Any], conversation: str | None, deadline: float) -> Any:
        tools: Any = response_tools(request.profile, request.tools)
        body: dict[str, Any] = {"conversation": conversation} if conversation else {"store": False}
        if request.profile.instructions:
            body["instructions"] = request.profile.instructions
        if tools:
            body["tools"] = tools
        create: Any = self._client.sdk.responses.create
        with calling(ENDPOINT if conversation is None else f"{ENDPOINT} {{conversation_id}}", conversation):
            response = create(
                model=request.model,
                input=given,
                metadata={"exchange_id": request.exchange_id, "run_id": request.run_id},
                timeout=max(deadline - time.monotonic(), 0.001),
                **body,
            )
            present(response.id, response.status, response.output_text)
            return response


def _completed(response: Any, usage: Usage, conversation: str | None) -> Completion:
    text = whole_text(response.output_text or "")
    if response.status != "completed" or not text:
        reason = response.incomplete_details.reason if response.incomplete_details else None
        error = response.error
        ending = f"the response ended {response.status}" + (f": {reason}" if reason else "")
        raise ProviderRefused(
            Failure(
                str(response.status) if response.status != "completed" else "incomplete",
                code=error.code if error else None if text else "empty_answer",
                message=error.message if error else ending,
                request_id=response._request_id,
                partial_text=text or None,
                remote_run_id=response.id,
                thread_id=conversation,
                details={"endpoint": ENDPOINT, "incomplete_reason": reason},
            )
        )
    return Completion(
        (Message(Role.ASSISTANT, text),),
        finish_reason=response.status,
        remote_run_id=response.id,
        thread_id=conversation,
        request_id=response._request_id,
        model=response.model,
        usage=usage,
    )


def _add(usage: Usage, counted: Any) -> Usage:
    if counted is None:
        return usage
    return Usage(usage.input_tokens + (counted.input_tokens or 0), usage.output_tokens + (counted.output_tokens or 0))
