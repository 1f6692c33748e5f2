"""Record the calls of an agent's model as runs of a conversation, for the Agents SDK (openai-agents 0.24)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agents.exceptions import ModelBehaviorError
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage

from threadledger.domain.conversation import Completion, stream_of
from threadledger.domain.conversation.session_items import kind_of_item, messages_of
from threadledger.domain.conversation.tool_secrets import unnamed_values
from threadledger.domain.errors import InvalidInput
from threadledger.domain.failures import Failure, keep_secret, redact
from threadledger.domain.ledger import AsyncLedger, Ledger

from ..openai import Context, EventFold, failure_of, failure_of_event, fold_of, read_body, response_messages, whole
from ..recording import CallRecorder, ModelRequest, RunRecording
from ..worker_threads import to_its_end
from .agent_session import Item, Session, opened

if TYPE_CHECKING:
    from agents import (
        AgentOutputSchemaBase,
        Handoff,
        ModelSettings,
        ModelTracing,
        Tool,
        TResponseInputItem,
        TResponseStreamEvent,
    )


def recorded_model(
    model: Model,
    session: Session | None = None,
    *,
    ledger: Ledger | AsyncLedger | None = None,
    key: str | None = None,
    backend: str | None = None,
) -> RecordedModel:
    """Return a model whose calls are recorded as runs; the given one is called, and not changed.

    Args:
        model: any model of the SDK.
        session: the session whose conversation has the runs.
        ledger: without a session, the ledger that records the calls.
        key: without a session, the conversation, unless a `threadledger.recording` block names one.
        backend: the name of the backend in the audit; by default `responses`, `chat`, or the name of the model's class.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
        InvalidInput: neither a session nor a ledger is given, or both.
    """
    if (session is None) == (ledger is None):
        raise InvalidInput("a model is recorded in one place: give the session of the agent, or a ledger and a key")
    if session is not None:
        return RecordedModel(model, session.ledger, session.session_id, backend)
    if key is not None:
        stream_of(key)
    return RecordedModel(model, opened(ledger), key, backend)


class RecordedModel(Model):
    """Call a model and record each call as a run: its start before, its end before the SDK sees the answer."""

    def __init__(self, model: Model, ledger: Ledger, key: str | None, backend: str | None = None) -> None:
        """Wrap a model; `recorded_model` explains the arguments."""
        self.wrapped = model
        """The model that is called."""
        self._recorder = CallRecorder(ledger, key)
        kind = type(model).__name__
        inner = model._backend if isinstance(model, RecordedModel) else None
        self._backend: str = backend or inner or _BACKENDS.get(kind, kind)
        self._endpoint = _ENDPOINTS.get(self._backend, self._backend)
        keep_secret(str(getattr(getattr(model, "_client", None), "api_key", "")))

    def __getattr__(self, name: str) -> Any:
        """Return what only the wrapped model has, such as its name."""
        return getattr(self.__dict__["wrapped"], name)

    async def close(self) -> None:
        """Close the wrapped model; the ledger stays open."""
        await self.wrapped.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self.wrapped._cleanup_on_run_end(owner)

    def get_retry_advice(self, request: Any) -> Any:
        """Return what the wrapped model says about a retry."""
        return self.wrapped.get_retry_advice(request)

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: Any,
    ) -> ModelResponse:
        """Call the model, and record the call as a run.

        Raises:
            StoreError: the ledger cannot be written; the model was not called.
        """
        call = partial(
            self.wrapped.get_response,
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        if self._recorder.is_called_within_a_run():
            return await call()
        asked = _Asked(input, model_settings, tools, previous_response_id, conversation_id)
        run = self._run_of(asked)
        try:
            await to_its_end(run.begin)
            with run.covering():
                response = await call()
        except BaseException as error:
            await self._failed(run, error)
            raise
        await to_its_end(lambda: run.end(self._outcome(response)))
        return response

    def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: Any,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Call the model, and record the call as a run; its end is recorded before the last event is passed on.

        Raises:
            StoreError: the ledger cannot be written; the model was not called.
        """
        call = partial(
            self.wrapped.stream_response,
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        if self._recorder.is_called_within_a_run():
            return call()
        return self._streamed(call, _Asked(input, model_settings, tools, previous_response_id, conversation_id))

    async def _streamed(
        self, call: Callable[[], AsyncIterator[TResponseStreamEvent]], asked: _Asked
    ) -> AsyncIterator[TResponseStreamEvent]:
        run = self._run_of(asked)
        seen = _SeenStream(self._context())
        events: AsyncIterator[TResponseStreamEvent] | None = None
        try:
            await to_its_end(run.begin)
            with run.covering():
                events = call()
            while (event := await _next(events, run)) is not None:
                seen.take(event)
                if seen.is_over:
                    await to_its_end(lambda: run.end(seen.ended()))
                yield event
        except BaseException as error:
            await self._failed(run, error, seen)
            raise
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
        await to_its_end(lambda: run.end(seen.ended()))

    def _run_of(self, asked: _Asked) -> RunRecording:
        held = asked.previous_response_id or asked.conversation_id
        messages = response_messages(whole(asked.given))
        for secret in asked.secrets():
            keep_secret(secret, recent=True)
        request = ModelRequest(
            self._backend,
            self._endpoint,
            str(getattr(self.wrapped, "model", "") or ""),
            messages,
            digest="",
            held=bool(held),
            place=held,
            timeout_seconds=asked.timeout_seconds,
        )
        return RunRecording(self._recorder, request, self._recorder.key_for(held))

    def _context(self, request_id: str | None = None) -> Context:
        """Return what is known of a response; it is read in the form of Responses, whatever the model speaks."""
        return Context("responses", self._endpoint, request_id)

    async def _failed(self, run: RunRecording, error: BaseException, seen: _SeenStream | None = None) -> None:
        if isinstance(error, GeneratorExit):
            failure = self._context().failure(
                "cancelled", code=CLOSED, message="the app closed the stream before its end"
            )
        elif isinstance(error, asyncio.CancelledError):
            failure = self._context().failure("cancelled", type="CancelledError", message="the app cancelled the call")
        elif isinstance(error, Exception):
            failure = _failure_of(error, self._context())
        else:
            failure = self._context().failure("interrupted", type=type(error).__name__)
        outcome = failure if seen is None else seen.stopped(failure)
        await to_its_end(lambda: run.end(outcome))

    def _outcome(self, response: ModelResponse) -> Completion | Failure:
        """Return what a response is for its run: an answer, or the failure to give one."""
        usage = response.usage
        counts: dict[str, Any] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        for name, part in (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens")):
            counts[name] = {part: getattr(getattr(usage, name, None), part, 0)}
        items = _items_in(response)
        body = {"id": response.response_id or "", "status": "completed", "output": items, "usage": counts}
        read = read_body(json.dumps(body, default=str).encode(), self._context(response.request_id)).outcome
        return _exact(read, items)


async def _next(events: AsyncIterator[TResponseStreamEvent], run: RunRecording) -> TResponseStreamEvent | None:
    """Return the next event of a run's stream; None at its end. What the app does between two events is not of the run."""
    with run.covering():
        return await anext(events, None)


@dataclass(frozen=True)
class _Asked:
    """Hold what a call says about its run."""

    given: str | list[TResponseInputItem]
    settings: ModelSettings
    tools: Sequence[Tool]
    previous_response_id: str | None
    conversation_id: str | None

    @property
    def timeout_seconds(self) -> float:
        """Return the time after which the call counts as crashed."""
        return float(getattr(self.settings, "timeout", None) or RUN_SECONDS_DEFAULT)

    def secrets(self) -> list[str]:
        """Return the secrets in hosted tools, which the provider may repeat."""
        configs = [getattr(tool, "tool_config", None) for tool in self.tools]
        return list(unnamed_values([dict(each) for each in configs if isinstance(each, Mapping)]))


class _SeenStream:
    """Follow the events of a stream, which are those of Responses for every model."""

    def __init__(self, context: Context) -> None:
        fold = fold_of(context, events=True)
        assert isinstance(fold, EventFold)  # noqa: S101 - it is one for this backend
        self._fold = fold
        self._items: list[Any] = []
        self._outcome: Completion | Failure | None = None

    @property
    def is_over(self) -> bool:
        """Return whether the last event has arrived."""
        return self._outcome is not None

    def take(self, event: Any) -> None:
        """Read an event."""
        kind = str(getattr(event, "type", ""))
        if kind in _DELTAS:
            self._fold.event("", {"type": kind, "delta": event.delta})
        elif kind == "response.output_item.done":
            self._items.append(event.item)
        elif kind in _ENDS:
            self._end(kind, event.response)
        elif kind in {"error", "response.error"}:
            self._outcome = self._fold.stopped(failure_of_event(_plain(event), self._fold.context.endpoint)).outcome

    def ended(self) -> Completion | Failure:
        """Return the outcome; without a last event, the failure that it is missing."""
        found = self._outcome or self._fold.end().outcome
        assert found is not None  # noqa: S101 - the end of a stream has an outcome
        return found

    def stopped(self, failure: Failure) -> Completion | Failure:
        """Return the outcome that was seen before the stream stopped, or the failure with the text so far."""
        return self._outcome or self._fold.stopped(failure).outcome or failure

    def _end(self, kind: str, response: Any) -> None:
        output = response.output or self._items
        items = _items_in(ModelResponse(output=output, usage=Usage(), response_id=None))
        body = _plain(response) | {"output": items}
        body["status"] = body.get("status") or kind.removeprefix("response.")
        self._fold.context = replace(self._fold.context, request_id=getattr(response, "_request_id", None))
        self._fold.event("", {"type": kind, "response": body})
        self._outcome = _exact(self._fold.seen.outcome or self._fold.end().outcome, items)


def _items_in(response: ModelResponse) -> list[Item]:
    """Return the items that the SDK adds to a session for a response."""
    items = json.loads(json.dumps(response.to_input_items(), default=str))
    return [
        {name: value for name, value in each.items() if name != "status" or value is not None}
        for each in items
        if isinstance(each, dict)
    ]


def _exact(outcome: Completion | Failure | None, items: Sequence[Item]) -> Completion | Failure:
    """Return an answer whose messages hold the items exactly; an answer of calls alone is one, whoever makes them."""
    assert outcome is not None  # noqa: S101 - a response that has ended has an outcome
    said = tuple(message for message, _ in messages_of(items))
    calls = any(kind_of_item(each) in APP_CALLS or each.get("call_id") for each in items)
    if isinstance(outcome, Completion):
        return replace(outcome, messages=said or outcome.messages, goes_on=outcome.goes_on or calls)
    if not (calls and outcome.code == "empty_answer"):
        return outcome
    return Completion(said, remote_run_id=outcome.remote_run_id, request_id=outcome.request_id, goes_on=True)


def _failure_of(error: Exception, context: Context) -> Failure:
    """Return the facts of an exception; what the SDK says in words of a response that did not complete is read from them."""
    said = str(error) if isinstance(error, ModelBehaviorError) else ""
    ended, reason = _ENDED.search(said), _REASON.search(said)
    if ended is not None and reason is not None:
        body = {"status": ended[1], "incomplete_details": {"reason": reason[1]}}
        if ended[1] == "failed":
            words = _WORDS.search(said)
            body = {
                "status": ended[1],
                "error": {"code": reason[1], "message": words[2] if words is not None else None},
            }
        read = read_body(json.dumps(body | {"output": []}).encode(), context).outcome
        if isinstance(read, Failure):
            return read
    finished = _FINISHED.search(said)
    if finished is not None:
        details = {"finish_reason": finished[1]}
        return context.failure("incomplete", code="empty_answer", message=redact(said), details=details)
    return failure_of(error, context.endpoint)


# What the SDK says of a response that ended without an answer (openai-agents 0.24, `models/_response_terminal.py` and
# `models/openai_chatcompletions.py`).
_ENDED = re.compile(r"status=(incomplete|failed|cancelled)\b")
_REASON = re.compile(r"(?:reason|code)='(\w+)'")
_WORDS = re.compile(r"message=(['\"])(.*?)\1")
_FINISHED = re.compile(r"finish_reason='(length|content_filter)'")


def _plain(value: Any) -> dict[str, Any]:
    """Return an object of the SDK as JSON types."""
    plain: dict[str, Any] = value.model_dump(mode="json", exclude_unset=True, warnings=False)
    return plain


APP_CALLS = frozenset(
    {"function_call", "custom_tool_call", "computer_call", "local_shell_call", "mcp_approval_request"}
)
"""Types of items that wait for the app; besides, all that have a call id."""

CLOSED = "stream_closed"
"""Failure code for a stream that the app closed before its last event."""

RUN_SECONDS_DEFAULT = 600.0
"""Time after which a call counts as crashed, in seconds, if its settings have no timeout: that of the openai SDK."""

_BACKENDS = {"OpenAIResponsesModel": "responses", "OpenAIChatCompletionsModel": "chat"}
_ENDPOINTS = {"responses": "POST /responses", "chat": "POST /chat/completions"}
"""Names of the backends of the SDK's own models, and what they call, as for a recorded client."""

_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
