"""Implement the backend `responses`: the Responses API, in a Conversation if one is known, otherwise stateless.

The provider adds input and output to the Conversation only when the response completes. Items that are missing in the
Conversation are therefore sent as input, and a failed response leaves nothing there.

A response is streamed or not, with an open connection or in the background (`ResponseMaker`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, Role, ToolCall, Usage
from threadledger.domain.effects import Call, Effects, Emit, Pause
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, Delta
from threadledger.domain.failures import Cause, Failure, diagnose, may_succeed_when_retried, whole_text
from threadledger.domain.memory import response_items

from .client import END, Client, call, closing, next_event, opened, request_id_of
from .failures import Spent, calling, failure_of_event, present
from .threads import found_answer, is_there, left_there
from .tools import answer_calls, preflight, response_tools, too_many_rounds, tool_call


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
        self._making = ResponseMaker(client, background)
        self.thread = "conversations" if in_conversations else None

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self.name, request)

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        known = yield from found_answer(request)
        if known is not None:
            return known
        spent = Spent()
        with spent.reported():
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
        asked = ResponseTask(request, conversation, deadline, response_tools(request.profile, request.tools))
        for number in range(limits.TOOL_ROUNDS_MAX + 1):
            try:
                response, request_id = yield from self._making.response(asked, given, number)
            except ProviderRefused as refused:
                raise (yield from self._explained(refused, conversation)) from refused
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

    def _explained(self, refused: ProviderRefused, conversation: str | None) -> Effects[ProviderRefused]:
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


ENDPOINT = "POST /responses"
RESPONSE = "GET /responses/{response_id}"
POLL_SECONDS = 1.0
"""Pause between two polls of a background response, and between two attempts in a locked Conversation, in seconds."""

LOCKED_ATTEMPTS_MAX = 20
"""Maximum number of attempts to create a response in a Conversation that another request has locked.

A refused attempt had no effect, so retrying it does not create a second response.
"""

LOOKS_MAX = 4
"""Maximum number of consecutive failed polls. After that, the result of the response is unknown."""

UNDER_WAY = frozenset({"queued", "in_progress"})
"""Statuses of a response that has not ended, as defined by the SDK's types."""


@dataclass(frozen=True)
class ResponseTask:
    """Hold the values that all responses of one run share."""

    request: BackendRequest
    conversation: str | None
    deadline: float
    """Deadline in seconds of the monotonic clock."""
    tools: list[dict[str, Any]]
    emitted: dict[int, str] = field(default_factory=dict)
    """Text of each response that was passed to the listener, by the response's number in the run."""

    @property
    def left(self) -> float:
        """Return the seconds until the deadline, at least 0.001."""
        return max(self.deadline - time.monotonic(), 0.001)

    @property
    def endpoint(self) -> str:
        return ENDPOINT if self.conversation is None else f"{ENDPOINT} {{conversation_id}}"


class ResponseMaker:
    """Create responses and wait for their end."""

    def __init__(self, client: Client, background: bool) -> None:
        self._client = client
        self._background = background

    def response(self, asked: ResponseTask, given: list[Any], number: int) -> Effects[tuple[Any, str | None]]:
        """Create a response and wait until it has ended, completed or not.

        Args:
            asked: the values shared by all responses of the run.
            given: the input items.
            number: the index of this response in the run, from 0.

        Returns:
            The response and the provider's id of the request.

        Raises:
            ProviderRefused: the response was not created, or its result is unknown.
        """
        for _ in range(LOCKED_ATTEMPTS_MAX - 1):
            try:
                return (yield from self._made(asked, given, number))
            except ProviderRefused as refused:
                left = asked.deadline - time.monotonic()
                made = refused.failure.remote_run_id is not None  # it exists: another attempt would create a second one
                if made or diagnose(refused.failure) is not Cause.THREAD_BUSY or left < POLL_SECONDS:
                    raise
            yield Pause(POLL_SECONDS)  # another request has locked the Conversation; this one had no effect
        return (yield from self._made(asked, given, number))

    def _made(self, asked: ResponseTask, given: list[Any], number: int) -> Effects[tuple[Any, str | None]]:
        options = self._options(asked, given)
        if asked.request.stream:
            stream = opened(self._client, lambda sdk: sdk.responses.create(stream=True, **options), asked.left)
            response, request_id = yield from self._listen(asked, stream, number)
        else:
            with calling(asked.endpoint, asked.conversation):
                response = yield call(self._client, lambda sdk: sdk.responses.create(**options))
                present(response.id, response.status)
                len(response.output)
            request_id = response._request_id
        if response.status in UNDER_WAY:
            response = yield from self._awaited(asked, response)
            yield from _emit_rest(asked, words_of(response), number)
        return response, request_id

    def _options(self, asked: ResponseTask, given: list[Any]) -> dict[str, Any]:
        request = asked.request
        options: dict[str, Any] = {
            "model": request.model,
            "input": given,
            "metadata": {"exchange_id": request.exchange_id, "run_id": request.run_id},
            "timeout": asked.left,
        }
        if asked.conversation is not None:
            options["conversation"] = asked.conversation
        elif not self._background:
            options["store"] = False
        if self._background:
            options["background"] = True
        if request.profile.instructions:
            options["instructions"] = request.profile.instructions
        if asked.tools:
            options["tools"] = asked.tools
        return options

    def _listen(self, asked: ResponseTask, opening: Call, number: int) -> Effects[tuple[Any, str | None]]:
        """Follow a stream, pass on its text, and return the last known state of the response with the request id.

        Raises:
            ProviderRefused: the stream broke, and the response cannot be polled.
        """
        response: Any = None
        request_id: str | None = None
        try:
            with calling(asked.endpoint, asked.conversation):
                stream = yield opening
                request_id = request_id_of(stream)
                try:
                    while (event := (yield next_event(stream))) is not END:
                        kind = str(event.type)
                        if kind == "error":
                            raise ProviderRefused(failure_of_event(event.to_dict(), asked.endpoint, asked.conversation))
                        if kind in {"response.output_text.delta", "response.refusal.delta"} and event.delta:
                            asked.emitted[number] = asked.emitted.get(number, "") + event.delta
                            yield Emit(Delta(event.delta, message=number))
                        elif getattr(event, "response", None) is not None:
                            response = event.response
                            present(response.id, response.status)
                        if time.monotonic() > asked.deadline and (response is None or response.status in UNDER_WAY):
                            raise self._too_late(asked, response)
                finally:
                    yield closing(stream)
        except ProviderRefused:
            if not self._background or response is None:
                raise
        except BaseException:
            if self._background and response is not None:
                yield from self._cancelled(response)
            raise
        if response is None or (response.status in UNDER_WAY and not self._background):
            raise ProviderRefused(_broken(asked, response, request_id))
        return response, request_id

    def _awaited(self, asked: ResponseTask, response: Any) -> Effects[Any]:
        """Poll a background response until it has ended; cancel it after an error, or when the deadline has passed."""
        response_id = response.id
        try:
            looks = 0
            while response.status in UNDER_WAY:
                if time.monotonic() > asked.deadline:
                    raise self._too_late(asked, response)
                yield Pause(min(POLL_SECONDS, asked.left))
                try:
                    with calling(RESPONSE, asked.conversation, response_id):
                        seen = yield call(self._client, lambda sdk: sdk.responses.retrieve(response_id))
                        present(seen.id, seen.status)
                    response, looks = seen, 0
                except ProviderRefused as refused:
                    looks += 1
                    if looks == LOOKS_MAX or not may_succeed_when_retried(diagnose(refused.failure)):
                        if asked.conversation is None:
                            raise
                        raise ProviderRefused(left_there(refused.failure)) from refused  # it may still complete
            return response
        except BaseException:
            yield from self._cancelled(response)
            raise

    def _cancelled(self, response: Any) -> Effects[None]:
        try:
            with calling("POST /responses/{response_id}/cancel", None, response.id):
                yield call(self._client, lambda sdk: sdk.responses.cancel(response.id))
        except ProviderRefused:
            pass  # the response ends by itself; the next use of the thread finds what it wrote

    @staticmethod
    def _too_late(asked: ResponseTask, response: Any) -> ProviderRefused:
        message = f"the response had not ended after {round(asked.request.timeout_seconds, 1):g} seconds"
        remote = response.id if response is not None else None
        return ProviderRefused(
            Failure("timed_out", message=message, remote_run_id=remote, thread_id=asked.conversation)
        )


def words_of(response: Any) -> str:
    """Return the text of a response, including the text of a refusal."""
    words = []
    for item in response.output:
        for part in (item.content or ()) if item.type == "message" else ():
            words.append(part.refusal if part.type == "refusal" else part.text if part.type == "output_text" else "")
    return "".join(words)


def _emit_rest(asked: ResponseTask, text: str, number: int) -> Effects[None]:
    """Pass on the part of the text that the stream did not deliver because it broke."""
    emitted = asked.emitted.get(number, "")
    if asked.request.stream and text != emitted and text.startswith(emitted):
        yield Emit(Delta(text[len(emitted) :], message=number))


def _broken(asked: ResponseTask, response: Any, request_id: str | None) -> Failure:
    return Failure(
        "error",
        code="stream_broken",
        message="the stream ended before the response did",
        request_id=request_id,
        remote_run_id=response.id if response is not None else None,
        thread_id=asked.conversation,
        details={"endpoint": asked.endpoint},
    )
