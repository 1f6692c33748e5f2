"""Implement the backend `responses`: the Responses API, in a Conversation if one is known, otherwise stateless.

The provider adds input and output to the Conversation only when the response completes. Items that are missing in the
Conversation are therefore sent as input, and a failed response leaves nothing there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Cause,
    Completion,
    Effects,
    Failure,
    Message,
    ProviderRefused,
    Role,
    ToolCall,
    Usage,
    diagnose,
    limits,
    response_items,
    whole_text,
)

from .client import Client
from .conversation import is_there
from .found import found_answer
from .making import ENDPOINT, Asked, Making, words_of
from .preflight import preflight
from .spent import Spent
from .tools import answer_calls, response_tools, too_many_rounds, tool_call


class ResponsesBackend:
    """Answer an exchange by the Responses API."""

    name = "responses"
    takes_unsent = True

    def __init__(self, client: Client, in_conversations: bool = True, background: bool = False) -> None:
        """Create the backend.

        Args:
            client: the connection to the provider.
            in_conversations: use the linked Conversation as the thread.
            background: create responses in the background; they are polled without an open connection and can be cancelled.
        """
        self._client = client
        self._making = Making(client, background)
        self.thread = "conversations" if in_conversations else None

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self.name, request)

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        known = yield from found_answer(request)
        if known is not None:
            return known
        spent = Spent()
        with spent.told():
            return (yield from self._answered(request, spent))

    def _answered(self, request: BackendRequest, spent: Spent) -> Effects[Completion]:
        deadline = time.monotonic() + request.timeout_seconds
        # A thread that is up to date already contains the question, and the API does not define a request there without
        # input. So the question is answered from memory, and the answer is mirrored.
        conversation = request.thread_id if request.unsent else None
        given: list[Any] = [dict(item.payload) for item in request.unsent] if conversation else []
        given = given or request.memory.as_response_items()
        waiting = _calls_found(request)
        if waiting:  # the thread has tool calls of an earlier run whose response was lost
            conversation = request.thread_id
            results = yield from answer_calls(waiting, request, found=True)
            given = [item for result in results for item in response_items(result)]
        asked = Asked(request, conversation, deadline, response_tools(request.profile, request.tools))
        for number in range(limits.TOOL_ROUNDS_MAX + 1):
            try:
                response, request_id = yield from self._making.response(asked, given, number)
            except ProviderRefused as refused:
                raise (yield from self._told_apart(refused, conversation)) from refused
            if response.usage is not None:
                spent.add(response.usage.input_tokens, response.usage.output_tokens)
            calls = [
                tool_call(item.call_id, item.name, item.arguments)
                for item in response.output
                if item.type == "function_call"
            ]
            if response.status != "completed" or not calls:
                return _completed(response, spent.usage, conversation, request_id)
            if number == limits.TOOL_ROUNDS_MAX:
                break
            results = yield from answer_calls(calls, request, words_of(response))
            outputs = [item for result in results for item in response_items(result)]
            made = response_items(Message(Role.ASSISTANT, None, tuple(calls)))
            given = outputs if conversation else [*given, *made, *outputs]
        raise too_many_rounds()

    def _told_apart(self, refused: ProviderRefused, conversation: str | None) -> Effects[ProviderRefused]:
        """Return the refusal; if a 404 does not say whether the Conversation or the API is missing, read the Conversation.
        If it still exists, remove its id from the failure."""
        failure = refused.failure
        if conversation is None or diagnose(failure) is not Cause.PROVIDER_GONE:
            return refused
        if not (yield from is_there(self._client, conversation)):
            return refused
        details = dict(failure.details) | {"endpoint": ENDPOINT}
        return ProviderRefused(replace(failure, thread_id=None, details=details))


def _calls_found(request: BackendRequest) -> list[ToolCall]:
    """Return the tool calls found in the thread that have no result yet."""
    answered = {item.call_id for item in request.found if item.kind == "tool_result"}
    return [
        tool_call(item.call_id, item.name, item.content)
        for item in request.found
        if item.kind == "tool_call" and item.call_id not in answered
    ]


def _completed(response: Any, usage: Usage, conversation: str | None, request_id: str | None) -> Completion:
    text = whole_text(words_of(response))
    if response.status != "completed" or not text:
        raise ProviderRefused(_failure(response, text, conversation, request_id))
    return Completion(
        (Message(Role.ASSISTANT, text),),
        finish_reason=response.status,
        remote_run_id=response.id,
        thread_id=conversation,
        request_id=request_id,
        model=response.model,
        usage=usage,
    )


def _failure(response: Any, text: str, conversation: str | None, request_id: str | None) -> Failure:
    reason = response.incomplete_details.reason if response.incomplete_details else None
    error = response.error
    ending = f"the response ended {response.status}" + (f": {reason}" if reason else "")
    failure = Failure(
        str(response.status),
        code=error.code if error else None,
        message=error.message if error else ending,
        request_id=request_id,
        partial_text=text or None,
        remote_run_id=response.id,
        thread_id=conversation,
        details={"endpoint": ENDPOINT, "incomplete_reason": reason},
    )
    if response.status == "completed":
        return replace(failure, status="incomplete", code="empty_answer", message="the response completed without text")
    return failure
