"""Implement the backend `assistants`: create a run in an Assistants thread and follow it until it ends or times out.

A run is followed by its stream or by polling. The response to the create request may be lost while the run continues: the
run is then found by its metadata. If a stream breaks, the run is polled. Messages of a run that did not complete are deleted
from the thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from threadledger.domain import limits
from threadledger.domain.conversation import Completion
from threadledger.domain.conversation.items import thread_message
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.effects import Call, Effects, Emit, Pause
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendOptions, BackendRequest, Delta
from threadledger.domain.failures import Cause, Failure, diagnose, may_succeed_when_retried
from threadledger.domain.threads import is_uncertain

from .assistant_setup import Assistants, shut_down_or
from .bodies import RUN_ENDED, Context, Seen, answer_text, no_answer, seen_in
from .client import Client, Spent, call, calling, context_of, extra_body, read_reply
from .folds import RunFold
from .messages import kept
from .streams import END, Stream, closing, emit_rest, next_bytes, opened
from .thread_runs import EXCHANGE_ID, RUN, RUN_ID, ThreadRuns, found_answer, left_there
from .threads import AssistantsThreads, stored_images, thread_text
from .tool_calls import answer_calls, too_many_rounds
from .tools import has_options, lacks, losses, preflight

KIND = "assistants"
RUNS = "POST /threads/{thread_id}/runs"
OUTPUTS = "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"
POLL_SECONDS = 1.0
"""Pause between two polls of a run, in seconds, if the response has no header `openai-poll-after-ms`."""

IMAGES = "part:image_url"
"""Name of the loss of images."""

LOOKS_MAX = 4
"""Maximum number of attempts for one poll of a run. If all fail, the result of the run is unknown."""


@dataclass
class Following:
    """Hold the last known state of a run in progress."""

    request: BackendRequest
    thread_id: str
    deadline: float
    """Deadline in seconds of the monotonic clock."""
    run: Seen | None = None
    messages: int = 0
    """Number of messages that the streams have started."""
    emitted: list[str] = field(default_factory=list)
    """Parts of the last message that were passed to the listener."""
    request_id: str | None = None
    """The provider's id of the request that opened the last stream; the events of a stream do not contain it."""
    outputs: dict[tuple[str, ...], list[Any]] = field(default_factory=dict)
    """Tool outputs by the ids of their calls. If the response is lost, they are sent again; functions are not called twice."""

    @property
    def remote_id(self) -> str:
        """Return the provider's id of the run; empty before it is known."""
        return (self.run and self.run.remote_id) or ""

    @property
    def has_ended(self) -> bool:
        """Return whether the run has ended, completed or not."""
        return self.run is not None and self.run.status in RUN_ENDED

    def context(self, endpoint: str) -> Context:
        """Return the facts of a response about the run that are known without its body."""
        return Context(KIND, endpoint, thread_id=self.thread_id, remote_id=self.remote_id or None)


class AssistantsBackend:
    """Answer an exchange by a run in an Assistants thread."""

    dialect = "assistants"
    takes_unsent = False

    def __init__(
        self,
        client: Client,
        assistants: Assistants,
        options: BackendOptions | None = None,
        *,
        in_threads: bool = True,
    ) -> None:
        self._client = client
        self._set = options = options or BackendOptions(KIND)
        self.name, self.endpoint = options.name, options.endpoint
        self.thread = "assistants" if in_threads else None
        self._assistants = assistants
        self._runs = ThreadRuns(client)
        self._threads = AssistantsThreads(client)
        self._counts_images = False
        """Whether images whose bytes are in the ledger were known to be lost before the last run: there is no Files API."""

    def load(self) -> None:
        self._client.load("beta.threads.runs")

    @property
    def pinned_assistant(self) -> str | None:
        """Return the id of the assistant that is used whatever the profile says; None if it is made from the profile."""
        return self._assistants.pinned

    def preflight(self, request: BackendRequest) -> Failure | None:
        return preflight(KIND, request, pinned=bool(self._assistants.pinned), is_home=self._set.is_home)

    def lacks(self, request: BackendRequest) -> list[str]:
        found = lacks(KIND, request, self._set.is_home)
        return [name for name in found if not (self._assistants.pinned and name.startswith("tool:"))]

    def losses(self, request: BackendRequest) -> Mapping[str, int]:
        found = losses(KIND, request, self._set.is_home)
        self._counts_images = self._client.has_no_files
        return _with_images(found, request) if self._counts_images else found

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        deadline = time.monotonic() + request.timeout_seconds
        is_apart = request.apart or self.thread is None
        thread_id = request.thread_id if not is_apart else (yield from self._own_thread(request))
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
            completion = yield from self._completed(at)
            if self._client.has_no_files and not self._counts_images:  # found out when the thread was written
                completion = replace(completion, losses=_with_images(completion.losses, request))
            return completion
        except ProviderRefused as refused:
            if diagnose(refused.failure) is Cause.ASSISTANT_MISSING:
                yield from self._assistants.forget(request.profile, request.model)
            if request.memory.has_parts:
                from .uploads import without_gone_uploads

                refused = yield from without_gone_uploads(self._client, refused, {}, request.memory, KIND)
            raise (yield from shut_down_or(refused, self._client)) from refused
        except BaseException:  # the caller no longer waits for the run
            if at.run is not None and not at.has_ended:
                yield from self._runs.cancelled(at.remote_id, at.thread_id)
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
                    at.run = seen_in(made[0], at.context(RUNS))
                    return None
                busy = diagnose(refused.failure) is Cause.THREAD_BUSY and attempt == 1
                if not busy or not (yield from self._runs.freed(at.thread_id, at.deadline)):
                    raise
        return None

    def _create(self, at: Following, assistant_id: str) -> Effects[None]:
        request = at.request
        own = {EXCHANGE_ID: request.exchange_id, RUN_ID: request.run_id}
        extra = extra_body(self._set)
        if has_options(request):
            from .options import body_with_options

            tools = request.profile.tools
            extra = body_with_options(KIND, request, self._set.extra, 0, tools, own)
        options: dict[str, Any] = {"assistant_id": assistant_id, "metadata": own} | extra
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
            raw = yield call(
                self._client,
                lambda sdk: sdk.beta.threads.runs.with_raw_response.create(at.thread_id, timeout=_left(at), **options),
            )
        at.run = self._known(at, raw, RUNS)
        return None

    def _known(self, at: Following, raw: Any, endpoint: str) -> Seen:
        """Return the state of the run in a response.

        Raises:
            ProviderRefused: the response is not this run.
        """
        seen = read_reply(raw, at.context(endpoint))
        at.request_id = raw.request_id or at.request_id
        if seen.remote_id is None or (at.remote_id and seen.remote_id != at.remote_id):
            failure = seen.outcome if isinstance(seen.outcome, Failure) else no_answer(None, at.context(endpoint))
            raise ProviderRefused(failure)
        return seen

    def _follow(self, at: Following) -> Effects[None]:
        rounds, pause = 0, 0.0
        while at.run is not None and not at.has_ended:
            if at.run.calls:
                rounds += 1
                yield from self._answer_tools(at, at.run.calls, rounds)
                if at.run.status != "requires_action":
                    continue
            elif at.run.status == "requires_action":
                yield from self._runs.cancelled(at.remote_id, at.thread_id)
                message = "the run waits for the results of tool calls that cannot be read"
                unreadable = Failure(
                    "error", code="tool_failed", message=message, remote_run_id=at.remote_id, thread_id=at.thread_id
                )
                raise ProviderRefused((yield from self._cleaned(at, unreadable)))
            if time.monotonic() + pause > at.deadline:
                yield from self._runs.cancelled(at.remote_id, at.thread_id)
                message = f"the run was still {at.run.status!r} after {round(at.request.timeout_seconds, 1):g} seconds"
                late = Failure("timed_out", message=message, remote_run_id=at.remote_id, thread_id=at.thread_id)
                raise ProviderRefused((yield from self._cleaned(at, late)))
            yield Pause(pause)
            pause = yield from self._look(at)

    def _look(self, at: Following) -> Effects[float]:
        """Poll the run and return the pause before the next poll, in seconds. A failed poll is retried."""
        thread_id, run_id = at.thread_id, at.remote_id
        for attempt in range(1, LOOKS_MAX + 1):
            try:
                with calling(RUN, thread_id, run_id):
                    raw = yield call(
                        self._client,
                        lambda sdk: sdk.beta.threads.runs.with_raw_response.retrieve(run_id, thread_id=thread_id),
                    )
                at.run = self._known(at, raw, RUN)
                return _pause(raw.headers.get("openai-poll-after-ms"))
            except ProviderRefused as refused:
                if attempt == LOOKS_MAX or not may_succeed_when_retried(diagnose(refused.failure)):
                    yield from self._runs.cancelled(run_id, thread_id)
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
        except ProviderRefused:
            if at.run is None:
                raise
            return
        fold = RunFold(context_of(stream.response, at.context(RUNS)))
        fold.seen = at.run or fold.seen
        at.request_id = fold.context.request_id or at.request_id
        try:
            with calling(RUNS, at.thread_id, at.remote_id or None):
                yield from self._read_events(at, stream, fold)
        except ProviderRefused:
            if at.run is None:
                raise
        finally:
            yield closing(stream)
        if at.run is None:
            seen = fold.end("stream_broken", "the stream ended before a run began")
            if seen.remote_id is None and isinstance(seen.outcome, Failure):
                raise ProviderRefused(seen.outcome)
            at.run = seen

    def _read_events(self, at: Following, stream: Stream, fold: RunFold) -> Effects[None]:
        """Pass on the text of a stream, and keep the last state of the run that it shows in `at.run`.

        Raises:
            ProviderRefused: the stream reports an error before the run is known.
        """
        before = at.messages
        while time.monotonic() < at.deadline and (chunk := (yield next_bytes(stream))) is not END:
            for message, text in fold.texts(chunk):
                if before + message != at.messages:
                    at.messages, at.emitted = before + message, []
                at.emitted.append(text)
                yield Emit(Delta(text, message=at.messages - 1))
            if isinstance(fold.seen.outcome, Failure) and fold.seen.status not in RUN_ENDED:
                raise ProviderRefused(fold.seen.outcome)
            if fold.seen.remote_id is not None:
                at.run = fold.seen
            stream.is_over = fold.is_over
            if fold.is_over:
                return

    def _answer_tools(self, at: Following, calls: Sequence[ToolCall], rounds: int) -> Effects[None]:
        ids = tuple(sorted(each.id for each in calls))
        thread_id, run_id = at.thread_id, at.remote_id
        if ids not in at.outputs:
            try:
                if rounds > limits.TOOL_ROUNDS_MAX:
                    raise too_many_rounds()
                results = yield from answer_calls(calls, at.request)
            except ProviderRefused:  # a thread accepts no messages while a run waits for outputs
                yield from self._runs.cancelled(run_id, thread_id)
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
                raw = yield call(
                    self._client,
                    lambda sdk: sdk.beta.threads.runs.with_raw_response.submit_tool_outputs(
                        run_id, thread_id=thread_id, tool_outputs=outputs, timeout=_left(at)
                    ),
                )
            at.run = self._known(at, raw, OUTPUTS)
        except ProviderRefused as refused:
            if not may_succeed_when_retried(diagnose(refused.failure)):
                yield from self._runs.cancelled(run_id, thread_id)
                raise
            # The next poll shows whether the outputs arrived; if the run still waits for them, they are sent again.

    def _completed(self, at: Following) -> Effects[Completion]:
        run, thread_id = at.run or Seen(), at.thread_id
        spent = Spent()
        spent.add(run.usage)
        with spent.reported():
            if isinstance(run.outcome, Failure):
                failure = replace(run.outcome, request_id=run.outcome.request_id or at.request_id)
                raise ProviderRefused((yield from self._cleaned(at, failure)))
            said = yield from self._said(at)
        if not any(answer_text(each).strip() for each in said):
            message = "the run completed without a message"
            raise ProviderRefused(
                Failure(
                    "incomplete", code="empty_answer", message=message, remote_run_id=at.remote_id, thread_id=thread_id
                )
            )
        yield from _emit_rest(at, [each.text for each in said])
        return Completion(
            tuple(said),
            finish_reason=run.status,
            remote_run_id=at.remote_id,
            thread_id=thread_id,
            request_id=at.request_id,
            model=run.model,
            usage=spent.usage,
        )

    def _said(self, at: Following) -> Effects[list[Message]]:
        """Return the messages that the run wrote. If they cannot be read, the next run of the exchange may find them in the
        thread."""
        try:
            messages = yield from self._runs.written(at.thread_id, at.remote_id)
        except ProviderRefused as refused:
            raise ProviderRefused(left_there(refused.failure)) from refused
        return [_message_of(each, text) for each in messages if (text := thread_text(each))]

    def _cleaned(self, at: Following, failure: Failure) -> Effects[Failure]:
        """Delete the messages that the run left in the thread and return the failure with their text and ids."""
        try:
            left = yield from self._runs.removed(at.thread_id, at.remote_id)
        except ProviderRefused:
            return left_there(failure)  # the next use of the thread deletes them
        if not left:
            return failure
        details = dict(failure.details) | {"deleted_messages": [message["id"] for message in left]}
        text = "\n\n".join(thread_text(message) for message in left)
        return replace(failure, partial_text=text or None, details=details)


def _message_of(given: Mapping[str, Any], text: str) -> Message:
    """Return a message of a thread; its words if it has no other text."""
    said = thread_message(given) | {"role": Role.ASSISTANT.value}
    parts = said["content"]
    if isinstance(parts, str) or not any(part.get("type") == "text" and part["text"].strip() for part in parts):
        said["content"] = text
    return kept(said)


def _emit_rest(at: Following, texts: list[str]) -> Effects[None]:
    """Pass on the part of the messages that the stream did not deliver because it broke."""
    for index, text in enumerate(texts if at.request.stream else ()):
        if index >= at.messages - 1:
            yield from emit_rest(text, "".join(at.emitted) if index == at.messages - 1 else "", index)


def _left(at: Following) -> float:
    return max(at.deadline - time.monotonic(), 0.001)


def _pause(header: str | None) -> float:
    try:
        return max(float(header or ""), 0.0) / 1000
    except ValueError:
        return POLL_SECONDS


def _with_images(lost: Mapping[str, int], request: BackendRequest) -> dict[str, int]:
    """Return the losses with the images that a thread takes only as files, of a provider without a Files API."""
    images = stored_images(request.memory)
    return dict(lost) | ({IMAGES: lost.get(IMAGES, 0) + images} if images else {})
