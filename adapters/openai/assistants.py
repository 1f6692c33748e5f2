"""Implement the backend `assistants`: create a run in an Assistants thread and follow it until it ends or times out.

A run is followed by its stream or by polling. The response to the create request may be lost while the run continues: the
run is then found by its metadata. If a stream breaks, the run is polled. Messages of a run that did not complete are deleted
from the thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.effects import Call, Effects, Emit, Pause
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, Delta
from threadledger.domain.failures import Cause, Failure, diagnose, may_succeed_when_retried, whole_text
from threadledger.domain.threads import is_uncertain

from .assistant_setup import Assistants, shut_down_or
from .client import END, Client, call, closing, every, next_event, opened, request_id_of
from .failures import Spent, calling, failure_of_event, present
from .limits import PAGE_ITEMS
from .threads import (
    ENDED,
    EXCHANGE_ID,
    RUN,
    RUN_ID,
    AssistantsThreads,
    ThreadRuns,
    found_answer,
    left_there,
    thread_text,
)
from .tools import answer_calls, preflight, too_many_rounds, tool_call

RUNS = "POST /threads/{thread_id}/runs"
OUTPUTS = "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"
POLL_SECONDS = 1.0
"""Pause between two polls of a run, in seconds, if the response has no header `openai-poll-after-ms`."""

LOOKS_MAX = 4
"""Maximum number of attempts for one poll of a run. If all fail, the result of the run is unknown."""


@dataclass
class Following:
    """Hold the last known state of a run in progress."""

    request: BackendRequest
    thread_id: str
    deadline: float
    """Deadline in seconds of the monotonic clock."""
    run: Any = None
    messages: int = 0
    """Number of messages that the stream has started."""
    emitted: list[str] = field(default_factory=list)
    """Parts of the last message that were passed to the listener."""
    request_id: str | None = None
    """The provider's id of the request that opened the last stream; the events of a stream do not contain it."""
    outputs: dict[tuple[str, ...], list[Any]] = field(default_factory=dict)
    """Tool outputs by the ids of their calls. If the response is lost, they are sent again; functions are not called twice."""


class AssistantsBackend:
    """Answer an exchange by a run in an Assistants thread."""

    name = "assistants"
    thread = "assistants"
    takes_unsent = False

    def __init__(self, client: Client, assistants: Assistants) -> None:
        self._client = client
        self._assistants = assistants
        self._runs = ThreadRuns(client)
        self._threads = AssistantsThreads(client)

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(self.name, request, pinned=bool(self._assistants.pinned))

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        deadline = time.monotonic() + request.timeout_seconds
        thread_id = request.thread_id if not request.apart else (yield from self._own_thread(request))
        if thread_id is None:
            raise ProviderRefused(Failure("error", message="there is no thread to run in"))
        known = yield from found_answer(request)
        if known is not None:
            return known
        at = Following(request, thread_id, deadline)
        try:
            assistant_id = yield from self._assistants.for_profile(request.profile, request.model)
            yield from self._start(at, assistant_id)
            yield from self._follow(at)
            return (yield from self._completed(at))
        except ProviderRefused as refused:
            if diagnose(refused.failure) is Cause.ASSISTANT_MISSING:
                yield from self._assistants.forget(request.profile, request.model)
            raise (yield from shut_down_or(refused, self._client)) from refused
        except BaseException:  # the caller no longer waits for the run
            if at.run is not None and at.run.status not in ENDED:
                yield from self._runs.cancelled(at.run, at.thread_id)
            raise

    def _own_thread(self, request: BackendRequest) -> Effects[str]:
        """Create a thread that contains only the request's memory. It is used for this run only."""
        thread_id: str = yield from self._threads.create(request.key)
        yield from self._threads.add(thread_id, self._threads.render(request.memory).items)
        return thread_id

    def _start(self, at: Following, assistant_id: str) -> Effects[None]:
        for attempt in (1, 2):
            try:
                return (yield from self._create(at, assistant_id))
            except ProviderRefused as refused:
                if at.run is None and is_uncertain(refused.failure):
                    try:
                        made = yield from self._runs.ours(at.thread_id, {at.request.run_id})
                    except ProviderRefused:
                        raise refused from None  # the run may exist, so the uncertain failure is kept
                    if not made:
                        raise
                    at.run = made[0]
                    return None
                busy = diagnose(refused.failure) is Cause.THREAD_BUSY and attempt == 1
                if not busy or not (yield from self._runs.freed(at.thread_id, at.deadline)):
                    raise
        return None

    def _create(self, at: Following, assistant_id: str) -> Effects[None]:
        request = at.request
        options: dict[str, Any] = {
            "assistant_id": assistant_id,
            "metadata": {EXCHANGE_ID: request.exchange_id, RUN_ID: request.run_id},
        }
        if request.stream:
            return (
                yield from self._listen(
                    at,
                    opened(
                        self._client,
                        lambda sdk: sdk.beta.threads.runs.create(
                            at.thread_id, stream=True, timeout=_left(at), **options
                        ),
                        _left(at),
                    ),
                )
            )
        with calling(RUNS, at.thread_id):
            run = yield call(self._client, lambda sdk: sdk.beta.threads.runs.create(at.thread_id, **options))
            present(run.id, run.status)
            at.run = run
        return None

    def _follow(self, at: Following) -> Effects[None]:
        rounds, pause = 0, 0.0
        while at.run.status not in ENDED:
            if at.run.status == "requires_action" and at.run.required_action is not None:
                rounds += 1
                yield from self._answer_tools(at, rounds)
                if at.run.status != "requires_action":
                    continue
            if time.monotonic() + pause > at.deadline:
                yield from self._runs.cancelled(at.run, at.thread_id)
                message = f"the run was still {at.run.status!r} after {round(at.request.timeout_seconds, 1):g} seconds"
                late = Failure("timed_out", message=message, remote_run_id=at.run.id, thread_id=at.thread_id)
                raise ProviderRefused((yield from self._cleaned(at, late)))
            yield Pause(pause)
            pause = yield from self._look(at)

    def _look(self, at: Following) -> Effects[float]:
        """Poll the run and return the pause before the next poll, in seconds. A failed poll is retried."""
        thread_id, run_id = at.thread_id, at.run.id
        for attempt in range(1, LOOKS_MAX + 1):
            try:
                with calling(RUN, thread_id, run_id):
                    raw = yield call(
                        self._client,
                        lambda sdk: sdk.beta.threads.runs.with_raw_response.retrieve(run_id, thread_id=thread_id),
                    )
                    found = raw.parse()
                    present(found.id, found.status)
                    at.run = found
                    return _pause(raw.headers.get("openai-poll-after-ms"))
            except ProviderRefused as refused:
                if attempt == LOOKS_MAX or not may_succeed_when_retried(diagnose(refused.failure)):
                    yield from self._runs.cancelled(at.run, thread_id)
                    raise ProviderRefused(left_there(refused.failure)) from refused  # the run may have completed
                yield Pause(POLL_SECONDS)
        raise AssertionError("a poll returns the run or raises")

    def _listen(self, at: Following, opening: Call) -> Effects[None]:
        """Follow a stream and pass on its text. If it breaks, `at.run` keeps the last known state and is polled.

        Raises:
            ProviderRefused: the stream broke before the run was known.
        """
        try:
            with calling(RUNS, at.thread_id):
                stream = yield opening
                at.request_id = request_id_of(stream)
        except ProviderRefused:
            if at.run is None:
                raise
            return
        try:
            while time.monotonic() < at.deadline:
                with calling(RUNS, at.thread_id, at.run.id if at.run else None):
                    event = yield next_event(stream)
                    if event is END:
                        break
                    texts = self._apply_event(at, event)
                for text in texts:
                    yield Emit(Delta(text, message=at.messages - 1))
        except ProviderRefused:
            if at.run is None:
                raise
        finally:
            yield closing(stream)
        if at.run is None:
            message = "the stream ended before a run began"
            raise ProviderRefused(Failure("error", code="stream_broken", message=message, thread_id=at.thread_id))

    def _apply_event(self, at: Following, event: Any) -> list[str]:
        """Apply one event of the stream and return the texts that it contains."""
        name = str(event.event)
        if name == "error":
            raise ProviderRefused(failure_of_event(event.to_dict(), RUNS, at.thread_id))
        if name.startswith("thread.run.") and not name.startswith("thread.run.step."):
            present(event.data.id, event.data.status)
            at.run = event.data
        elif name == "thread.message.created":
            at.messages, at.emitted = at.messages + 1, []
        elif name == "thread.message.delta":
            texts = [part.text.value for part in event.data.delta.content or () if part.type == "text" and part.text]
            at.emitted += [text for text in texts if text]
            return [text for text in texts if text]
        return []

    def _answer_tools(self, at: Following, rounds: int) -> Effects[None]:
        calls = [
            tool_call(each.id, each.function.name, each.function.arguments)
            for each in at.run.required_action.submit_tool_outputs.tool_calls
        ]
        ids = tuple(sorted(each.id for each in calls))
        thread_id, run_id = at.thread_id, at.run.id
        if ids not in at.outputs:
            try:
                if rounds > limits.TOOL_ROUNDS_MAX:
                    raise too_many_rounds()
                results = yield from answer_calls(calls, at.request)
            except ProviderRefused:  # a thread accepts no messages while a run waits for outputs
                yield from self._runs.cancelled(at.run, thread_id)
                raise
            at.outputs[ids] = [{"tool_call_id": each.tool_call_id, "output": each.text} for each in results]
        outputs = at.outputs[ids]
        if at.request.stream:
            yield from self._listen(
                at,
                opened(
                    self._client,
                    lambda sdk: sdk.beta.threads.runs.submit_tool_outputs(
                        run_id, thread_id=thread_id, tool_outputs=outputs, stream=True, timeout=_left(at)
                    ),
                    _left(at),
                ),
            )
            return
        try:
            with calling(OUTPUTS, thread_id, run_id):
                run = yield call(
                    self._client,
                    lambda sdk: sdk.beta.threads.runs.submit_tool_outputs(
                        run_id, thread_id=thread_id, tool_outputs=outputs
                    ),
                )
                present(run.id, run.status)
                at.run = run
        except ProviderRefused as refused:
            if not may_succeed_when_retried(diagnose(refused.failure)):
                yield from self._runs.cancelled(at.run, thread_id)
                raise
            # The next poll shows whether the outputs arrived; if the run still waits for them, they are sent again.

    def _completed(self, at: Following) -> Effects[Completion]:
        run, thread_id = at.run, at.thread_id
        spent = Spent()
        if run.usage is not None:
            spent.add(run.usage.prompt_tokens, run.usage.completion_tokens)
        with spent.reported():
            if run.status != "completed":
                raise ProviderRefused((yield from self._cleaned(at, _failure(at))))
            texts = yield from self._said(at)
        if not texts:
            message = "the run completed without a message"
            raise ProviderRefused(
                Failure("incomplete", code="empty_answer", message=message, remote_run_id=run.id, thread_id=thread_id)
            )
        yield from _emit_rest(at, texts)
        return Completion(
            tuple(Message(Role.ASSISTANT, text) for text in texts),
            finish_reason=run.status,
            remote_run_id=run.id,
            thread_id=thread_id,
            request_id=getattr(run, "_request_id", None) or at.request_id,
            model=run.model,
            usage=spent.usage,
        )

    def _said(self, at: Following) -> Effects[list[str]]:
        """Return the texts that the run wrote. If they cannot be read, the next run of the exchange may find them in the
        thread."""
        run_id, thread_id = at.run.id, at.thread_id
        try:
            with calling("GET /threads/{thread_id}/messages", thread_id, run_id):
                messages = yield from every(
                    self._client,
                    lambda sdk: sdk.beta.threads.messages.list(thread_id, run_id=run_id, order="asc", limit=PAGE_ITEMS),
                )
                texts = [thread_text(message) for message in messages if message.role == "assistant"]
        except ProviderRefused as refused:
            raise ProviderRefused(left_there(refused.failure)) from refused
        return [whole_text(text) for text in texts if text]

    def _cleaned(self, at: Following, failure: Failure) -> Effects[Failure]:
        """Delete the messages that the run left in the thread and return the failure with their text and ids."""
        try:
            left = yield from self._runs.removed(at.thread_id, at.run.id)
        except ProviderRefused:
            return left_there(failure)  # the next use of the thread deletes them
        if not left:
            return failure
        details = dict(failure.details) | {"deleted_messages": [message.id for message in left]}
        text = "\n\n".join(thread_text(message) for message in left)
        return replace(failure, partial_text=text or None, details=details)


def _emit_rest(at: Following, texts: list[str]) -> Effects[None]:
    """Pass on the part of the messages that the stream did not deliver because it broke."""
    if not at.request.stream:
        return
    for index, text in enumerate(texts):
        emitted = "".join(at.emitted) if index == at.messages - 1 else ""
        if index >= at.messages - 1 and text != emitted and text.startswith(emitted):
            yield Emit(Delta(text[len(emitted) :], message=index))


def _failure(at: Following) -> Failure:
    run = at.run
    error, incomplete = run.last_error, run.incomplete_details
    reason = incomplete.reason if incomplete else None
    return Failure(
        str(run.status),
        code=error.code if error else None,
        message=error.message if error else f"the run ended {run.status}" + (f": {reason}" if reason else ""),
        request_id=getattr(run, "_request_id", None) or at.request_id,
        remote_run_id=run.id,
        thread_id=at.thread_id,
        details={
            "endpoint": RUN,
            "incomplete_reason": reason,
            "prompt_tokens": run.usage.prompt_tokens if run.usage else None,
        },
    )


def _left(at: Following) -> float:
    return max(at.deadline - time.monotonic(), 0.001)


def _pause(header: str | None) -> float:
    try:
        return max(float(header or ""), 0.0) / 1000
    except ValueError:
        return POLL_SECONDS
