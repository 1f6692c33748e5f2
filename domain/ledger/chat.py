"""Provide one conversation to an app: append, ask, memory, and `run`, which records the app's own model call as a run."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ..conversation import Completion, RunPlan, text_message
from ..conversation.messages import Usage
from ..effects import perform, stream, work
from ..errors import InvalidMessage, RunNotOpen
from ..exchange import Conversing
from ..failures import Failure, redact
from ..ids import new_id

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..conversation import events as e
    from ..conversation.messages import JournaledMessage
    from ..effects import AsyncDriver, Effects, Wait
    from ..exchange import Answer, Policy, Services, StreamPart
    from ..failures import RecordedFailure
    from ..journal import Journal
    from ..memory import Memory

T = TypeVar("T")

OWN_RUN_TIMEOUT_SECONDS = 600.0
"""Default time after which an app's own call counts as crashed, in seconds."""


class Chat:
    """Represent a conversation by its key; it starts with its first message."""

    def __init__(self, journal: Journal, services: Services, key: str) -> None:
        self._conversing = Conversing(journal, services, key)
        self._journal = journal
        self._services = services
        self.key = key

    def append(
        self,
        role: str,
        content: str | Sequence[Mapping[str, Any]] | None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JournaledMessage:
        """Journal a message and bring linked threads up to date; no model is called.

        `content` is text or parts in the format of Chat Completions; `fields` are its other fields (`tool_calls`,
        `tool_call_id`). Repeating an idempotency key returns the message that was journaled first.

        Raises:
            InvalidMessage, InvalidInput: the message or the key is not valid; nothing was written.
            IdempotencyConflict: the key was used for another message.
        """
        return self._perform(self._conversing.append(role, content, idempotency_key, fields))

    def extend(self, messages: Iterable[Mapping[str, Any]]) -> list[JournaledMessage]:
        """Journal several messages, in the format of Chat Completions, in one commit: all of them or none.

        Raises:
            InvalidMessage: one of the messages is not valid; nothing was written.
        """
        return self._perform(self._conversing.extend(messages))

    def ask(self, text: str, *, idempotency_key: str | None = None) -> Answer:
        """Answer a question in one exchange: journal it, run, retry, fall back, and journal the answer.

        Repeating an idempotency key returns the first answer, or reruns the exchange if it is unanswered. The setting
        THREADLEDGER_WHILE_RUNNING determines what happens to a second question while a run is open.

        Raises:
            InvalidMessage, InvalidInput: the question or the key is not valid; nothing was written.
            ConversationBusy: a run is open.
            AllBackendsFailed: no backend answered; the question and every failure are journaled.
        """
        return self._perform(self._conversing.ask(text, idempotency_key))

    def stream(self, text: str, *, idempotency_key: str | None = None) -> Generator[StreamPart, None, Answer]:
        """Answer a question like `ask`, but yield the parts of the answer as they arrive.

        These are `Delta` and `ToolUse`, `StartedOver` when a run failed and another one starts, and at the end the
        `Answer`, after it was journaled. Closing the generator early cancels the run; the text received so far is
        stored in its failure.

        Raises:
            The errors of `ask`, at the first part or at a later one.
        """
        return stream(self._conversing.ask(text, idempotency_key, stream=True), self._services.wait)

    def rerun(self, exchange_id: str, policy: Policy | None = None, *, live: bool = False) -> Answer:
        """Rerun an unanswered exchange. If it already has an answer, return that instead.

        This costs as much as a run; `Ledger.replay` shows a plan first. A tool call with a recorded result gets that
        result, unless `live` is set.

        Raises:
            ConversationBusy: a run is open.
            AllBackendsFailed: again, no backend answered.
            ConversationChanged: there is no such exchange, or newer messages follow it.
        """
        return self._perform(self._conversing.rerun(exchange_id, policy, live=live))

    @contextmanager
    def run(self, backend: str, model: str, timeout_seconds: float = OWN_RUN_TIMEOUT_SECONDS) -> Iterator[OwnRun]:
        """Record an app's own model call as a run.

        `run.complete(text)` journals the answer. An exception is recorded as `RunFailed` and raised again.

        Raises:
            ConversationBusy: a run is open.
        """
        running = OwnRunning(self._conversing, backend, model, timeout_seconds)
        self._perform(running.start())
        try:
            yield OwnRun(running, self._services.wait)
        except BaseException as error:
            self._perform(running.fail(error))
            raise
        self._perform(running.end())

    def memory(self, *, last: int | None = None, tokens: int | None = None, at: int | datetime | None = None) -> Memory:
        """Return the memory (what a model sees) as of a version or time, limited to `last` messages and `tokens`."""
        return self._journal.memory(self.key, at, last, tokens)

    def events(self, after: int = 0) -> list[e.Event]:
        """Return the conversation's own events after a version."""
        return list(self._journal.history(self.key, after=after))

    def failures(self) -> list[RecordedFailure]:
        """Return every failed run of this conversation."""
        return list(self._journal.exchanges(self.key).failures())

    def retract(self, message_id: str, reason: str = "") -> None:
        """Remove a message from memory; it is kept in the log. Does nothing if it is not in memory."""
        if any(each.message_id == message_id for each in self.memory().messages):
            self._journal.commit(self.key, lambda conversation: conversation.retract(message_id, reason))

    def clear(self, reason: str = "") -> None:
        """Clear the memory; the log is kept."""
        self._journal.commit(self.key, lambda conversation: conversation.clear_memory(reason))

    def _perform(self, effects: Effects[T]) -> T:
        return perform(effects, self._services.wait)


class OwnRunning:
    """Record the run as effects: `OwnRun` performs them, `AsyncOwnRun` awaits them."""

    def __init__(self, conversing: Conversing, backend: str, model: str, timeout_seconds: float) -> None:
        self._conversing = conversing
        self._plan = RunPlan(backend, model, timeout_seconds=timeout_seconds)
        self._began = 0.0
        self._ended = False
        self.exchange_id = ""
        self.run_id = ""

    def start(self) -> Effects[None]:
        """Record the start of the call."""
        key, journal = self._conversing.key, self._conversing.journal
        memory = yield from work(lambda: journal.memory(key))
        plan = replace(self._plan, memory_version=memory.version, memory_hash=memory.digest())

        def decide(conversation: Conversation, interrupting: bool = False) -> tuple[str, str]:
            if interrupting:
                conversation.interrupt()
            return _start(conversation, plan)

        self.exchange_id, self.run_id = yield from self._conversing.when_free(decide)
        self._began = time.monotonic()

    def complete(self, completion: Completion) -> Effects[None]:
        """Journal the answer and end the run."""
        key, journal = self._conversing.key, self._conversing.journal
        elapsed = self._elapsed()
        yield from work(
            lambda: journal.commit(key, lambda it: it.complete_run(self.run_id, completion, duration_seconds=elapsed))
        )
        self._ended = True
        yield from self._conversing.mirror()

    def fail(self, error: BaseException) -> Effects[None]:
        """Record an exception as the run's failure. Does nothing if the run has ended."""
        interrupted = not isinstance(error, Exception)
        status = "interrupted" if interrupted else "error"
        yield from self._fail(Failure(status, type=type(error).__name__, message=redact(str(error)) or None))

    def end(self) -> Effects[None]:
        """Record a failure if the run ended without an answer and without an error."""
        yield from self._fail(Failure("error", code="no_answer", message="the block ended without run.complete(text)"))

    def _fail(self, failure: Failure) -> Effects[None]:
        if self._ended:
            return
        self._ended = True
        elapsed = self._elapsed()

        def decide(conversation: Conversation) -> None:
            conversation.fail_run(self.run_id, failure, elapsed)
            conversation.abandon(self.exchange_id, "the app's own run failed")

        with suppress(RunNotOpen):  # another process closed it as interrupted: the app's own exception says more
            yield from work(lambda: self._conversing.journal.commit(self._conversing.key, decide))
        if failure.status != "interrupted":  # an interrupted app is shutting down
            yield from self._conversing.mirror()

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 6)


class _Open:
    """Represent a run that an app controls."""

    def __init__(self, running: OwnRunning) -> None:
        self._running = running

    @property
    def run_id(self) -> str:
        """Return the run's id, as used in events and in the audit."""
        return self._running.run_id

    @property
    def exchange_id(self) -> str:
        """Return the id of the exchange that it answers."""
        return self._running.exchange_id


class OwnRun(_Open):
    """Represent the open run of `with chat.run(...)`; `complete` journals the answer."""

    def __init__(self, running: OwnRunning, wait: Wait) -> None:
        super().__init__(running)
        self._wait = wait

    def complete(
        self,
        text: str,
        *,
        model: str | None = None,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        remote_run_id: str | None = None,
    ) -> None:
        """Journal the answer and end the run. The other arguments are what the app knows about its call.

        Raises:
            RunNotOpen: the run has already ended.
            InvalidMessage: the text cannot be stored; the run is still open.
        """
        perform(self._running.complete(_completion(text, model, usage, finish_reason, remote_run_id)), self._wait)


class AsyncOwnRun(_Open):
    """Represent the open run of `async with chat.run(...)`; `complete` journals the answer."""

    def __init__(self, running: OwnRunning, driver: AsyncDriver) -> None:
        super().__init__(running)
        self._driver = driver

    async def complete(
        self,
        text: str,
        *,
        model: str | None = None,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        remote_run_id: str | None = None,
    ) -> None:
        """See `OwnRun.complete`."""
        completion = _completion(text, model, usage, finish_reason, remote_run_id)
        await self._driver.perform(self._running.complete(completion))


def _completion(
    text: str, model: str | None, usage: Usage | None, finish_reason: str | None, remote_run_id: str | None
) -> Completion:
    if not text.strip():
        raise InvalidMessage("the answer is empty: complete the run with a non-empty text, or let it fail")
    return Completion(
        (text_message("assistant", text),),
        finish_reason=finish_reason,
        remote_run_id=remote_run_id,
        model=model,
        usage=usage or Usage(),
    )


def _start(conversation: Conversation, plan: RunPlan) -> tuple[str, str]:
    """Start an exchange, or resume the last one if it is unanswered and nothing was journaled since."""
    state = conversation.state
    last = state.abandoned.get(state.last_exchange_id or "")
    if last is None or state.last_exchange_id is None or last.messages != state.messages:
        exchange_id = new_id()
        return exchange_id, conversation.start_run(exchange_id, plan)
    rerun_of = last.runs[-1] if last.runs else None
    return state.last_exchange_id, conversation.start_run(state.last_exchange_id, replace(plan, rerun_of=rerun_of))
