"""Implement the backend `chat`: Chat Completions. It is stateless, needs no thread, and sends the memory with each run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, Role, Usage
from threadledger.domain.effects import Effects, Emit
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, Delta
from threadledger.domain.failures import Failure, whole_text

from .client import END, Client, call, closing, next_event, opened, request_id_of
from .failures import Spent, calling, present
from .tools import answer_calls, offered_tools, preflight, too_many_rounds, tool_call

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
        with spent.reported():
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
                        yield Emit(Delta(text, message=number))
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
    text = choice.message.content or choice.message.refusal or ""
    text = text if text.isascii() else whole_text(text)
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


# A streamed completion is assembled here: the SDK's own helper does more than is needed and used 29 % of an
# exchange's CPU time (profiled with openai 3.54).
@dataclass
class ToolCallSoFar:
    """Hold one partly received tool call; `type`, `id` and `function` have the same names as in a complete response."""

    id: str = ""
    type: str = "function"
    name: str = ""
    arguments: str = ""

    @property
    def function(self) -> ToolCallSoFar:
        return self


@dataclass
class CompletionSoFar:
    """Hold the content received so far, with the field names of a complete response and its first choice."""

    id: str = ""
    model: str = ""
    content: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    usage: Any = None
    calls: dict[int, ToolCallSoFar] = field(default_factory=dict)

    def take(self, chunk: Any) -> str:
        """Add one chunk and return its text."""
        self.id, self.model = chunk.id or self.id, chunk.model or self.model
        self.usage = chunk.usage or self.usage
        emitted = ""
        for choice in chunk.choices:
            if choice.index:
                continue  # one choice is requested; if a server returns more, only the first is used
            self.finish_reason = choice.finish_reason or self.finish_reason
            delta = choice.delta
            self.content += delta.content or ""
            self.refusal += delta.refusal or ""
            emitted += delta.content or delta.refusal or ""
            for each in delta.tool_calls or ():
                self._take_call(each)
        return emitted

    def _take_call(self, delta: Any) -> None:
        so_far = self.calls.setdefault(delta.index, ToolCallSoFar())
        so_far.id = delta.id or so_far.id
        so_far.type = delta.type or so_far.type
        if delta.function is not None:
            so_far.name += delta.function.name or ""
            so_far.arguments += delta.function.arguments or ""

    @property
    def tool_calls(self) -> list[ToolCallSoFar]:
        return [self.calls[index] for index in sorted(self.calls)]

    @property
    def message(self) -> CompletionSoFar:
        return self

    @property
    def choices(self) -> list[CompletionSoFar]:
        return [self]


# An imported message may have fields that the API does not accept. They are kept in the journal and omitted from the
# request, because one unknown field would make the provider refuse the whole request.
FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call"})
"""Fields of a message. Source: OpenAI's OpenAPI description, `ChatCompletionRequestMessage` and its variants; November 2026."""

PARTS = {
    "user": frozenset({"text", "image_url", "input_audio", "file"}),
    "assistant": frozenset({"text", "refusal"}),
}
"""Content part types by role; the other roles accept only text. Source: the same description."""


def acceptable(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message without unknown fields; replace each unsupported part with a text that names its type."""
    content = message.get("content")
    if message.keys() <= FIELDS and not isinstance(content, list):
        return message
    kept = {name: value for name, value in message.items() if name in FIELDS}
    if isinstance(content, list):
        known = PARTS.get(message["role"], frozenset({"text"}))
        kept["content"] = [part if part.get("type") in known else _as_text(part) for part in content]
    return kept


def _as_text(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": f"[{part.get('type', 'content')} not shown]"}
