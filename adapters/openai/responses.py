"""Implement the backend `responses`: the Responses API, in a Conversation if one is known, otherwise stateless.

The provider adds input and output to the Conversation only when the response completes. Items that are missing in the
Conversation are therefore sent as input, and a failed response leaves nothing there.

A response is streamed or not, with an open connection or in the background (`ResponseMaker`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, ToolCall
from threadledger.domain.conversation.native import at_place
from threadledger.domain.effects import Call, Effects, Pause, work
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendOptions, BackendRequest
from threadledger.domain.failures import Cause, Failure, diagnose, may_succeed_when_retried
from threadledger.domain.memory import response_items

from .bodies import Context, Seen, no_answer
from .client import Client, Spent, as_written, call, calling, context_of, extra_body, read_reply, with_attachments
from .folds import ResponseFold
from .objects import fetched
from .streams import closing, emit_rests, followed, opened
from .thread_runs import found_answer, left_there
from .threads import is_there
from .tool_calls import answer_calls, too_many_rounds, tool_call
from .tools import has_options, lacks, losses, preflight, response_tools


class ResponsesBackend:
    """Answer an exchange by the Responses API."""

    dialect = "responses"
    takes_unsent = True

    def __init__(
        self,
        client: Client,
        in_conversations: bool = True,
        background: bool = False,
        options: BackendOptions | None = None,
    ) -> None:
        """Create the backend.

        Args:
            client: the connection to the provider.
            in_conversations: use the linked Conversation as the thread.
            background: create responses in the background; they are polled without an open connection and can be cancelled.
            options: its name and settings of its own.
        """
        self._client = client
        self._set = options = options or BackendOptions(KIND)
        self._making = ResponseMaker(client, background, options)
        self.name, self.endpoint = options.name, options.endpoint
        self.thread = "conversations" if in_conversations else None

    def load(self) -> None:
        self._client.load("responses")

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(KIND, request, is_home=self._set.is_home)

    def lacks(self, request: BackendRequest) -> list[str]:
        return lacks(KIND, request, self._set.is_home, self._set.extra)

    def losses(self, request: BackendRequest) -> Mapping[str, int]:
        return losses(KIND, request, self._set.is_home)

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
        memory = request.memory
        given = given or memory.response_entries(self._client.files_place)
        waiting = _calls_found(request)
        if waiting:  # the thread has tool calls of an earlier run whose response was lost
            conversation = request.thread_id
            results = yield from answer_calls(waiting, request, found=True)
            given = [item for result in results for item in response_items(result)]
        asked = ResponseTask(request, conversation, deadline, response_tools(request))
        losses: Counter[str] = Counter()
        said = 0  # number of messages so far
        for number in range(limits.TOOL_ROUNDS_MAX + 1):
            try:
                seen = yield from with_attachments(
                    self._client, given, KIND, memory, asked.left, partial(self._making.response, asked, number=said)
                )
            except ProviderRefused as refused:
                raise (yield from self._explained(refused, conversation)) from refused
            spent.add(seen.usage)
            if not isinstance(seen.outcome, Completion):
                raise ProviderRefused(seen.outcome or no_answer(None, asked.context))
            *before, message = self._said(seen.outcome.messages, request.model)
            losses += Counter(seen.outcome.losses)
            if not message.tool_calls:
                messages = (*before, message)
                return replace(
                    seen.outcome, messages=messages, thread_id=conversation, usage=spent.usage, losses=losses
                )
            if number == limits.TOOL_ROUNDS_MAX:
                break
            if before:
                yield from work(partial(request.journal, before))
            results = yield from answer_calls(message.tool_calls, request, message)
            said += len(before) + 1
            memory = memory.with_messages([*before, message, *results])
            outputs = [item for result in results for item in response_items(result)]
            given = outputs if conversation else memory.response_entries(self._client.files_place)
        raise too_many_rounds()

    def _said(self, messages: Sequence[Message], model: str) -> list[Message]:
        """Return messages as they are journaled, noting whether the model reasons."""
        self._making.saw(messages, model)
        place = self._client.files_place
        return [each if not each.native_json else at_place(each, place) for each in messages]

    def _explained(self, refused: ProviderRefused, conversation: str | None) -> Effects[ProviderRefused]:
        """Return the refusal; if a 410 does not say whether the Conversation or the API is gone, read the Conversation.
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


KIND = "responses"
ENDPOINT = "POST /responses"
RESPONSE = "GET /responses/{response_id}"
ENCRYPTED_REASONING = "reasoning.encrypted_content"
"""What a response contains only if it is asked for: reasoning that can be sent again to a provider that stored none of it."""
POLL_SECONDS = 1.0
"""Pause between two polls of a background response, and between two attempts in a locked Conversation, in seconds."""

LOCKED_ATTEMPTS_MAX = 20
"""Maximum number of attempts to create a response in a Conversation that another request has locked.

A refused attempt had no effect, so retrying it does not create a second response.
"""

LOOKS_MAX = 4
"""Maximum number of consecutive failed polls. After that, the result of the response is unknown."""


@dataclass(frozen=True)
class ResponseTask:
    """Hold the values that all responses of one run share."""

    request: BackendRequest
    conversation: str | None
    deadline: float
    """Deadline in seconds of the monotonic clock."""
    tools: list[dict[str, Any]] = field(repr=False)
    """Tools as they are sent, with the values of their secrets."""

    @property
    def left(self) -> float:
        """Return the seconds until the deadline, at least 0.001."""
        return max(self.deadline - time.monotonic(), 0.001)

    @property
    def endpoint(self) -> str:
        return ENDPOINT if self.conversation is None else f"{ENDPOINT} {{conversation_id}}"

    @property
    def context(self) -> Context:
        """Return the facts of each response that are known without its body."""
        return Context(KIND, self.endpoint, thread_id=self.conversation)


class ResponseMaker:
    """Create responses and wait for their end."""

    def __init__(self, client: Client, background: bool, options: BackendOptions) -> None:
        self._client = client
        self._background = background
        self._set = options
        self._reasoning: set[str] = set()
        """Models that were seen to reason: others refuse to be asked for their reasoning."""
        self._without_reasoning: set[str] = set()
        """Models that refused it although they reason, as some compatible servers do."""

    def saw(self, messages: Sequence[Message], model: str) -> None:
        """Note whether a model reasons, from its answer."""
        if any(each.native_json and '"type":"reasoning"' in each.native_json for each in messages):
            self._reasoning.add(model)

    def _refuses_reasoning(self, asked: ResponseTask, failure: Failure) -> bool:
        """Return whether a request was refused because it asked for reasoning; then it is not asked for again."""
        model = asked.request.model
        if failure.http_status != 400 or model not in self._reasoning - self._without_reasoning:
            return False
        said = f"{failure.param} {failure.message}".lower()
        if asked.conversation is not None or not ("include" in said or "encrypted" in said):
            return False
        self._without_reasoning.add(model)
        return True

    def response(self, asked: ResponseTask, given: list[Any], number: int) -> Effects[Seen]:
        """Create a response and wait until it has ended, completed or not.

        Args:
            asked: the values shared by all responses of the run.
            given: the input items.
            number: the index of its first message in the run, from 0.

        Returns:
            The response, with its outcome.

        Raises:
            ProviderRefused: the response was not created, or its result is unknown.
        """
        for _ in range(LOCKED_ATTEMPTS_MAX - 1):
            try:
                return (yield from self._made(asked, given, number))
            except ProviderRefused as refused:
                if self._refuses_reasoning(asked, refused.failure):
                    continue
                left = asked.deadline - time.monotonic()
                made = refused.failure.remote_run_id is not None  # it exists: another attempt would create a second one
                if made or diagnose(refused.failure) is not Cause.THREAD_BUSY or left < POLL_SECONDS:
                    raise
            yield Pause(POLL_SECONDS)  # another request has locked the Conversation; this one had no effect
        return (yield from self._made(asked, given, number))

    def _made(self, asked: ResponseTask, given: list[Any], number: int) -> Effects[Seen]:
        options = self._options(asked, given, number)
        emitted: Sequence[tuple[int, str]] = ()
        if asked.request.stream:
            stream = opened(self._client, lambda sdk: sdk.responses.create(stream=True, **options), asked.left)
            seen, emitted = yield from self._listen(asked, stream, number)
        else:
            with calling(asked.endpoint, asked.conversation):
                raw = yield call(self._client, lambda sdk: sdk.responses.with_raw_response.create(**options))
            seen = read_reply(raw, asked.context)
        if seen.outcome is None and seen.remote_id is not None:
            seen = yield from self._awaited(asked, seen)
        if isinstance(seen.outcome, Failure) and seen.remote_id is None:
            raise ProviderRefused(seen.outcome)  # no response was created
        if isinstance(seen.outcome, Completion) and asked.request.stream:
            yield from emit_rests([each.text for each in seen.outcome.messages], emitted, number)
        return seen

    def _options(self, asked: ResponseTask, given: list[Any], number: int) -> dict[str, Any]:
        request = asked.request
        own = {"exchange_id": request.exchange_id, "run_id": request.run_id}
        options: dict[str, Any] = {"model": request.model, "metadata": own, "timeout": asked.left}
        if asked.conversation is not None:
            options["conversation"] = asked.conversation
        elif not self._background:
            options["store"] = False
            if request.model in self._reasoning - self._without_reasoning:
                options["include"] = [ENCRYPTED_REASONING]
        if self._background:
            options["background"] = True
        if request.profile.instructions:
            options["instructions"] = request.profile.instructions
        body = {"input": given} | ({"tools": asked.tools} if asked.tools else {})
        if not has_options(request):
            return options | as_written(extra_body(self._set), body)
        from .options import body_with_options

        extra = body_with_options(KIND, request, self._set.extra, number, asked.tools, own)
        return options | as_written(extra, body)

    def _listen(
        self, asked: ResponseTask, opening: Call, number: int
    ) -> Effects[tuple[Seen, Sequence[tuple[int, str]]]]:
        """Follow a stream and pass on its text.

        Returns:
            The last known state of the response, and the text that was passed on. A background response whose stream broke
            has no outcome yet.

        Raises:
            ProviderRefused: the stream broke, and the response cannot be polled.
        """
        fold = ResponseFold(asked.context)
        emitted: list[tuple[int, str]] = []
        try:
            with calling(asked.endpoint, asked.conversation):
                stream = yield opening
                fold.context = context_of(stream.response, asked.context)
                try:
                    yield from followed(
                        stream, fold, number, asked.deadline, lambda: self._too_late(asked, fold.seen), emitted
                    )
                finally:
                    yield closing(stream)
        except ProviderRefused:
            if not self._background or fold.seen.remote_id is None:
                raise
            return replace(fold.seen, outcome=None), emitted
        except BaseException:
            if self._background and fold.seen.remote_id is not None:
                yield from self._cancelled(fold.seen.remote_id)
            raise
        if self._background and fold.seen.outcome is None and fold.seen.remote_id is not None:
            return fold.seen, emitted
        return fold.end("stream_broken", "the stream ended before the response did"), emitted

    def _awaited(self, asked: ResponseTask, seen: Seen) -> Effects[Seen]:
        """Poll a response until it has ended; cancel it after an error, or when the deadline has passed."""
        response_id = seen.remote_id or ""
        context = replace(asked.context, endpoint=RESPONSE, remote_id=response_id)
        try:
            looks = 0
            while seen.outcome is None:
                if time.monotonic() > asked.deadline:
                    raise ProviderRefused(self._too_late(asked, seen))
                yield Pause(min(POLL_SECONDS, asked.left))
                try:
                    with calling(RESPONSE, asked.conversation, response_id):
                        raw = yield call(
                            self._client, lambda sdk: sdk.responses.with_raw_response.retrieve(response_id)
                        )
                    found = read_reply(raw, context)
                    if found.remote_id != response_id:
                        raise ProviderRefused(
                            found.outcome if isinstance(found.outcome, Failure) else no_answer(None, context)
                        )
                    seen, looks = found, 0
                except ProviderRefused as refused:
                    looks += 1
                    if looks == LOOKS_MAX or not may_succeed_when_retried(diagnose(refused.failure)):
                        if asked.conversation is None:
                            raise
                        raise ProviderRefused(left_there(refused.failure)) from refused  # it may still complete
            return seen
        except BaseException:
            yield from self._cancelled(response_id)
            raise

    def _cancelled(self, response_id: str) -> Effects[None]:
        with suppress(ProviderRefused):  # the response ends by itself; the next use of the thread finds what it wrote
            yield from fetched(
                self._client,
                "POST /responses/{response_id}/cancel",
                lambda sdk: sdk.responses.with_raw_response.cancel(response_id),
                None,
                response_id,
            )

    @staticmethod
    def _too_late(asked: ResponseTask, seen: Seen) -> Failure:
        message = f"the response had not ended after {round(asked.request.timeout_seconds, 1):g} seconds"
        return Failure("timed_out", message=message, remote_run_id=seen.remote_id, thread_id=asked.conversation)
