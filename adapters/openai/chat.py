"""Implement the backend `chat`: Chat Completions. It is stateless, needs no thread, and sends the memory with each run.

A backend for another stateless API derives from it and replaces what is sent and how the answer is read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from threadledger.domain import limits
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message
from threadledger.domain.effects import ApprovalNeeded, Effects
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendOptions, BackendRequest
from threadledger.domain.failures import Failure

from .bodies import Context, Seen, answer_text, no_answer
from .client import Client, Spent, as_written, call, calling, context_of, extra_body, read_reply, with_attachments
from .tools import has_options, lacks, losses, preflight, sent_tools

if TYPE_CHECKING:
    from threadledger.domain.memory import Memory

ENDPOINT = "POST /chat/completions"


class ChatBackend:
    """Answer an exchange by Chat Completions."""

    thread = None
    takes_unsent = False
    _resource = "chat.completions"
    dialect = "chat"
    _context = Context("chat", ENDPOINT)
    _streaming: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

    def __init__(self, client: Client, options: BackendOptions | None = None) -> None:
        self._client = client
        self._set = options = options or BackendOptions(self._context.backend)
        self.name, self.endpoint = options.name, options.endpoint

    def load(self) -> None:
        self._client.load(self._resource)

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self._context.backend, request, is_home=self._set.is_home)

    def lacks(self, request: BackendRequest) -> list[str]:
        return lacks(self._context.backend, request, self._set.is_home, self._set.extra)

    def losses(self, request: BackendRequest) -> Mapping[str, int]:
        return losses(self._context.backend, request, self._set.is_home)

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        spent = Spent()
        with spent.reported():
            return (yield from self._answered(request, spent))

    def _answered(self, request: BackendRequest, spent: Spent) -> Effects[Completion]:
        deadline = time.monotonic() + request.timeout_seconds
        memory, instructions = request.memory, request.profile.instructions
        losses: Counter[str] = Counter()
        system: list[Any] = [{"role": "system", "content": instructions}] if instructions else []
        make = self._streamed if request.stream else self._created
        for number in range(limits.TOOL_ROUNDS_MAX + 1):
            given = [*system, *self._entries(memory)]
            left = deadline - time.monotonic()
            seen = yield from with_attachments(
                self._client, given, self._context.backend, memory, left, partial(make, request, deadline, number)
            )
            spent.add(seen.usage)
            if not isinstance(seen.outcome, Completion):
                raise ProviderRefused(seen.outcome or no_answer(None, self._context))
            [message] = seen.outcome.messages
            calls = message.tool_calls
            said = self._said(message)
            losses += Counter(seen.outcome.losses)
            if not calls and not seen.outcome.goes_on:
                return replace(seen.outcome, messages=(said,), usage=spent.usage, losses=losses)
            from .tool_calls import answer_calls, too_many_rounds, unknown_calls

            if not calls:
                raise ApprovalNeeded(said, ()) if request.hands_over else unknown_calls(message)
            if number == limits.TOOL_ROUNDS_MAX:
                raise too_many_rounds()
            results = yield from answer_calls(calls, request, said)
            memory = memory.with_messages([said, *results])
        raise AssertionError("the last round returns or raises")

    def _entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Return the messages that are sent."""
        return memory.chat_entries()

    def _said(self, message: Message) -> Message:
        """Return an answer as it is journaled: a refusal is text too."""
        if not message.content and not message.tool_calls:
            message = message.replaced(content=answer_text(message))
        if not message.native_json:
            return message
        from threadledger.domain.conversation.native import at_place

        return at_place(message, self._client.files_place)

    def _created(self, request: BackendRequest, deadline: float, number: int, messages: list[Any]) -> Effects[Seen]:
        options, resource = self._options(request, messages, deadline, number), attrgetter(self._resource)
        with calling(self._context.endpoint):
            raw = yield call(self._client, lambda sdk: resource(sdk).with_raw_response.create(**options))
        return read_reply(raw, self._context)

    def _streamed(self, request: BackendRequest, deadline: float, number: int, messages: list[Any]) -> Effects[Seen]:
        """Stream a completion and pass on its text. A stream that ends without a `finish_reason` is a failure."""
        options, resource = self._options(request, messages, deadline, number), attrgetter(self._resource)
        from .folds import fold_of
        from .streams import closing, emit_rests, followed, opened

        options |= self._streaming
        emitted: list[tuple[int, str]] = []
        with calling(self._context.endpoint):
            seconds = deadline - time.monotonic()
            stream = yield opened(self._client, lambda sdk: resource(sdk).create(**options), seconds)
            fold = fold_of(context_of(stream.response, self._context), events=True)
            try:
                yield from followed(stream, fold, number, deadline, lambda: self._too_late(request), emitted)
            finally:
                yield closing(stream)
        seen = fold.end("stream_broken", "the stream ended before the answer did")
        if isinstance(seen.outcome, Completion):
            yield from emit_rests([answer_text(seen.outcome.messages[-1])], emitted, number)
        return seen

    def _options(self, request: BackendRequest, messages: list[Any], deadline: float, number: int) -> dict[str, Any]:
        tools, extra = self._extra(request, number)
        body = {"messages": messages} | ({"tools": tools} if tools else {})
        options: dict[str, Any] = {
            "model": request.model,
            "messages": (),
            "timeout": max(deadline - time.monotonic(), 0.001),
        }
        return options | as_written(extra, body)

    def _extra(self, request: BackendRequest, number: int) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the offered tools, and the argument of the SDK call that adds what else is sent."""
        tools = sent_tools(request)
        if not has_options(request):
            return tools, extra_body(self._set)
        from .options import body_with_options

        return tools, body_with_options(self._context.backend, request, self._set.extra, number, tools)

    def _too_late(self, request: BackendRequest) -> Failure:
        message = f"the stream had not ended after {round(request.timeout_seconds, 1):g} seconds"
        return Failure("timed_out", message=message, details={"endpoint": self._context.endpoint})
