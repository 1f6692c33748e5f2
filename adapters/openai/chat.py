"""Implement the backend `chat`: Chat Completions. It is stateless, needs no thread, and sends the memory with each run."""

from __future__ import annotations

import time
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Completion,
    Delta,
    Effects,
    Failure,
    Message,
    ProviderRefused,
    Role,
    Tell,
    Usage,
    limits,
    whole_text,
)

from .calls import END, call, closing, next_event, opened, request_id_of
from .chat_messages import acceptable
from .chunks import CompletionSoFar
from .client import Client
from .failures import calling, present
from .preflight import preflight
from .spent import Spent
from .tools import answer_calls, offered_tools, too_many_rounds, tool_call

ENDPOINT = "POST /chat/completions"


class ChatBackend:
    """Answer an exchange by Chat Completions."""

    name = "chat"
    thread = None
    takes_unsent = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self.name, request)

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        spent = Spent()
        with spent.told():
            return (yield from self._answered(request, spent))

    def _answered(self, request: BackendRequest, spent: Spent) -> Effects[Completion]:
        deadline = time.monotonic() + request.timeout_seconds
        messages: list[Any] = [acceptable(message) for message in request.memory.as_chat_messages()]
        if request.profile.instructions:
            messages.insert(0, {"role": "system", "content": request.profile.instructions})
        for number in range(limits.TOOL_ROUNDS_MAX + 1):
            make = self._streamed if request.stream else self._created
            completion, request_id = yield from make(request, messages, deadline, number)
            if completion.usage is not None:
                spent.add(completion.usage.prompt_tokens, completion.usage.completion_tokens)
            choice = completion.choices[0]
            calls = [
                tool_call(each.id, each.function.name, each.function.arguments)
                for each in choice.message.tool_calls or ()
                if each.type == "function"
            ]
            if not calls:
                return _completed(completion, choice, spent.usage, request_id)
            if number == limits.TOOL_ROUNDS_MAX:
                break
            text = choice.message.content or ""
            results = yield from answer_calls(calls, request, text)
            messages.append(Message(Role.ASSISTANT, text or None, tuple(calls)).as_chat_message())
            messages += [result.as_chat_message() for result in results]
        raise too_many_rounds()

    def _created(
        self, request: BackendRequest, messages: list[Any], deadline: float, number: int
    ) -> Effects[tuple[Any, str | None]]:
        options = _options(request, messages, deadline)
        with calling(ENDPOINT):
            completion = yield call(self._client, lambda sdk: sdk.chat.completions.create(**options))
            present(completion.id, completion.choices[0].message.role)
            return completion, completion._request_id

    def _streamed(
        self, request: BackendRequest, messages: list[Any], deadline: float, number: int
    ) -> Effects[tuple[Any, str | None]]:
        """Stream a completion and pass on its text. A stream that ends without a `finish_reason` is a failure."""
        options = _options(request, messages, deadline)
        options |= {"stream": True, "stream_options": {"include_usage": True}}
        with calling(ENDPOINT):
            stream = yield opened(
                self._client, lambda sdk: sdk.chat.completions.create(**options), deadline - time.monotonic()
            )
            completion = CompletionSoFar()
            try:
                while (chunk := (yield next_event(stream))) is not END:
                    text = completion.take(chunk)
                    if text:
                        yield Tell(Delta(text, message=number))
                    if time.monotonic() > deadline:
                        raise _too_late(request)
            finally:
                yield closing(stream)
            if completion.finish_reason is None:
                raise _broken(request_id_of(stream))
            return completion, request_id_of(stream)


def _options(request: BackendRequest, messages: list[Any], deadline: float) -> dict[str, Any]:
    tools = offered_tools(request.profile, request.tools)
    options: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "timeout": max(deadline - time.monotonic(), 0.001),
    }
    return options | ({"tools": tools} if tools else {})


def _completed(completion: Any, choice: Any, usage: Usage, request_id: str | None) -> Completion:
    text = whole_text(choice.message.content or choice.message.refusal or "")
    if choice.finish_reason in {"length", "content_filter"} or not text:
        raise ProviderRefused(
            Failure(
                "incomplete",
                code=None if text else "empty_answer",
                message=f"the answer ended with {choice.finish_reason!r}",
                request_id=request_id,
                partial_text=text or None,
                remote_run_id=completion.id,
                details={"endpoint": ENDPOINT, "finish_reason": choice.finish_reason},
            )
        )
    return Completion(
        (Message(Role.ASSISTANT, text),),
        finish_reason=choice.finish_reason,
        remote_run_id=completion.id,
        request_id=request_id,
        model=completion.model,
        usage=usage,
    )


def _broken(request_id: str | None) -> ProviderRefused:
    message = "the stream ended before the answer did"
    return ProviderRefused(
        Failure("error", code="stream_broken", message=message, request_id=request_id, details={"endpoint": ENDPOINT})
    )


def _too_late(request: BackendRequest) -> ProviderRefused:
    message = f"the stream had not ended after {round(request.timeout_seconds, 1):g} seconds"
    return ProviderRefused(Failure("timed_out", message=message, details={"endpoint": ENDPOINT}))
