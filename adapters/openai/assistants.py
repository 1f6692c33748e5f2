"""Backend `assistants`: a run in an Assistants thread, followed by polling until it ends or its time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from threadledger.domain import (
    BackendRequest,
    Cause,
    Completion,
    Failure,
    Message,
    ProviderRefused,
    Role,
    Usage,
    diagnose,
    limits,
    may_succeed_when_retried,
    whole_text,
)

from .assistant import Assistants, shut_down_or
from .client import Client
from .failures import calling, present
from .limits import PAGE_ITEMS
from .preflight import preflight
from .tools import answer_calls, too_many_rounds, tool_call

RUNS = "POST /threads/{thread_id}/runs"
RUN = "GET /threads/{thread_id}/runs/{run_id}"
POLL_SECONDS = 1.0
"""Between two looks at a run, where the provider does not say (header `openai-poll-after-ms`)."""

LOOKS_MAX = 4
"""How often a look at a run is tried before the run counts as lost from sight."""

CANCEL_LOOKS_MAX = 10
CANCEL_POLL_SECONDS = 0.2
"""How long a cancelled run is watched until it has ended."""

ENDED = frozenset({"completed", "failed", "incomplete", "expired", "cancelled"})
"""The ends of a run, as the SDK's own types name them; any other status, known or not, is one to wait in."""


class AssistantsBackend:
    """Answers by a run in an Assistants thread."""

    name = "assistants"
    thread = "assistants"
    takes_unsent = False

    def __init__(self, client: Client, assistants: Assistants, wait: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._assistants = assistants
        self._wait = wait

    def preflight(self, request: BackendRequest) -> Failure | None:
        return None if self._assistants.pinned else preflight(self.name, request)

    def answer(self, request: BackendRequest) -> Completion:
        deadline = time.monotonic() + request.timeout_seconds
        thread_id = request.thread_id
        if thread_id is None:
            raise ProviderRefused(Failure("error", message="there is no thread to run in"))
        try:
            assistant_id = self._assistants.for_profile(request.profile, request.model)
            run = self._start(thread_id, assistant_id, request)
            run = self._follow(run, thread_id, request, deadline)
            return self._completed(run, thread_id)
        except ProviderRefused as refused:
            if diagnose(refused.failure) is Cause.ASSISTANT_MISSING:
                self._assistants.forget(request.profile, request.model)
            raise shut_down_or(refused, self._client) from refused

    def _start(self, thread_id: str, assistant_id: str, request: BackendRequest) -> Any:
        with calling(RUNS, thread_id):
            run = self._client.sdk.beta.threads.runs.create(
                thread_id,
                assistant_id=assistant_id,
                metadata={"exchange_id": request.exchange_id, "run_id": request.run_id},
            )
            present(run.id, run.status)
            return run

    def _follow(self, run: Any, thread_id: str, request: BackendRequest, deadline: float) -> Any:
        rounds = 0
        pause = 0.0
        while run.status not in ENDED:
            if run.status == "requires_action" and run.required_action is not None:
                rounds += 1
                run = self._answer_tools(run, thread_id, request, rounds)
                continue
            if time.monotonic() + pause > deadline:
                self._cancel(run, thread_id)
                message = f"the run was still {run.status!r} after {request.timeout_seconds:g} seconds"
                raise ProviderRefused(Failure("timed_out", message=message, remote_run_id=run.id, thread_id=thread_id))
            self._wait(pause)
            run, pause = self._look(run, thread_id)
        return run

    def _look(self, run: Any, thread_id: str) -> tuple[Any, float]:
        """The run as it is now, and how long to wait before the next look. A look that fails is not yet a run that failed."""
        for looked in range(1, LOOKS_MAX + 1):
            try:
                with calling(RUN, thread_id, run.id):
                    raw = self._client.sdk.beta.threads.runs.with_raw_response.retrieve(run.id, thread_id=thread_id)
                    found = raw.parse()
                    present(found.id, found.status)
                    return found, _pause(raw.headers.get("openai-poll-after-ms"))
            except ProviderRefused as refused:
                if looked == LOOKS_MAX or not may_succeed_when_retried(diagnose(refused.failure)):
                    self._cancel(run, thread_id)
                    raise
                self._wait(POLL_SECONDS)
        raise AssertionError("a look either finds the run or raises")

    def _answer_tools(self, run: Any, thread_id: str, request: BackendRequest, rounds: int) -> Any:
        calls = [
            tool_call(call.id, call.function.name, call.function.arguments)
            for call in run.required_action.submit_tool_outputs.tool_calls
        ]
        try:
            if rounds > limits.TOOL_ROUNDS_MAX:
                raise too_many_rounds()
            results = answer_calls(calls, request)
        except ProviderRefused:
            self._cancel(run, thread_id)  # a run that waits for outputs keeps the thread from taking messages
            raise
        outputs: list[Any] = [{"tool_call_id": each.tool_call_id, "output": each.text} for each in results]
        with calling("POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs", thread_id, run.id):
            return self._client.sdk.beta.threads.runs.submit_tool_outputs(
                run.id, thread_id=thread_id, tool_outputs=outputs
            )

    def _cancel(self, run: Any, thread_id: str) -> None:
        """Cancel, and see it through: a run that is still going keeps the thread from taking messages."""
        with suppress(ProviderRefused):
            runs, run_id = self._client.sdk.beta.threads.runs, run.id
            with calling("POST /threads/{thread_id}/runs/{run_id}/cancel", thread_id, run_id):
                runs.cancel(run_id, thread_id=thread_id)
            for _ in range(CANCEL_LOOKS_MAX):
                with calling(RUN, thread_id, run_id):
                    if runs.retrieve(run_id, thread_id=thread_id).status in ENDED:
                        return
                self._wait(CANCEL_POLL_SECONDS)

    def _completed(self, run: Any, thread_id: str) -> Completion:
        usage = run.usage
        if run.status != "completed":
            raise ProviderRefused(_failure(run, thread_id))
        with calling("GET /threads/{thread_id}/messages", thread_id, run.id):
            page = self._client.sdk.beta.threads.messages.list(thread_id, run_id=run.id, order="asc", limit=PAGE_ITEMS)
            len(page.data)  # an answer without a list is no answer: it fails here, as a failure of the call
            texts = [thread_text(message) for message in page if message.role == "assistant"]
        if not any(texts):
            message = "the run completed without a message"
            raise ProviderRefused(
                Failure("incomplete", code="empty_answer", message=message, remote_run_id=run.id, thread_id=thread_id)
            )
        return Completion(
            tuple(Message(Role.ASSISTANT, whole_text(text)) for text in texts if text),
            finish_reason=run.status,
            remote_run_id=run.id,
            thread_id=thread_id,
            request_id=run._request_id,
            model=run.model,
            usage=Usage(usage.prompt_tokens, usage.completion_tokens) if usage else Usage(),
        )


def thread_text(message: Any) -> str:
    """The words of a thread's message; images and files by their reference, as the mirror writes them."""
    parts = []
    for part in message.content or ():
        if part.type == "text":
            parts.append(part.text.value)
        elif part.type == "image_url":
            parts.append(f"[image {part.image_url.url}]")
        elif part.type == "image_file":
            parts.append(f"[file {part.image_file.file_id}]")
        elif part.type == "refusal":
            parts.append(part.refusal)
    return "\n\n".join(parts)


def _failure(run: Any, thread_id: str) -> Failure:
    error, incomplete = run.last_error, run.incomplete_details
    reason = incomplete.reason if incomplete else None
    return Failure(
        str(run.status),
        code=error.code if error else None,
        message=error.message if error else f"the run ended {run.status}" + (f": {reason}" if reason else ""),
        request_id=run._request_id,
        remote_run_id=run.id,
        thread_id=thread_id,
        details={
            "endpoint": RUN,
            "incomplete_reason": reason,
            "prompt_tokens": run.usage.prompt_tokens if run.usage else None,
        },
    )


def _pause(header: str | None) -> float:
    try:
        return max(float(header or ""), 0.0) / 1000
    except ValueError:
        return POLL_SECONDS
