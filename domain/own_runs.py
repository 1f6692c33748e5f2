"""Record an app's own model call as a run."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from .conversation import Conversation
from .conversing import Conversing
from .driving import AsyncDriver, Wait, perform
from .effects import Effects, Work
from .errors import InvalidMessage, RunNotOpen
from .failures import Failure
from .ids import new_id
from .messages import Usage
from .parsing import text_message
from .redaction import redact
from .runs import Completion, RunPlan


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
        memory = yield Work(lambda: journal.memory(key))
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
        yield Work(
            lambda: journal.commit(key, lambda it: it.complete_run(self.run_id, completion, duration_seconds=elapsed))
        )
        self._ended = True
        yield from self._conversing.outside.mirrored(journal, key)

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
            yield Work(lambda: self._conversing.journal.commit(self._conversing.key, decide))
        if failure.status != "interrupted":  # an interrupted app is shutting down
            yield from self._conversing.outside.mirrored(self._conversing.journal, self._conversing.key)

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
            RunNotOpen: it has already ended.
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
    if last is None or state.last_exchange_id is None or last.get("messages") != state.messages:
        exchange_id = new_id()
        return exchange_id, conversation.start_run(exchange_id, plan)
    rerun_of = last["runs"][-1] if last["runs"] else None
    return state.last_exchange_id, conversation.start_run(state.last_exchange_id, replace(plan, rerun_of=rerun_of))
