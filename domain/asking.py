"""The driver of an exchange: performs the policy's steps one after the other, each in its own transaction or call."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from typing import Any

from .answers import Answer, recorded_answer
from .audit import recorded_failure
from .conversation import Conversation
from .diagnosis import diagnose
from .errors import AllBackendsFailed, ExchangeAnswered, ProviderRefused
from .events import MessageJournaled
from .exchange import Abandon, CallBackend, CompleteRun, FailRun, Policy, StartRun, Step, Wait, exchange
from .failures import Cause, Failure
from .journal import Journal
from .memory import Memory
from .messages import Message, Source
from .outside import Outside
from .ports import BackendRequest
from .redaction import redact
from .runs import Completion, RunPlan

logger = logging.getLogger("threadledger")


class Asking:
    """One exchange under way. The question is journaled before it is made."""

    def __init__(
        self,
        journal: Journal,
        outside: Outside,
        key: str,
        exchange_id: str,
        rerun_of: str | None = None,
        policy: Policy | None = None,
        after: int = 0,
    ) -> None:
        """`after` is a version before the exchange's first run: what came earlier need not be read."""
        self._journal = journal
        self._outside = outside
        self._key = key
        self._exchange_id = exchange_id
        self._rerun_of = rerun_of
        self._policy = policy or outside.policy
        self._after = after
        self._memory = Memory()
        self._plan = RunPlan("", "")
        self._began = 0.0
        self._thread_version = 0

    def run(self) -> Answer:
        """Perform the exchange to its end; afterwards, in any case, the threads get what they lack.

        Raises:
            AllBackendsFailed: nobody answered.
            ConversationBusy: somebody else's run is open.
        """
        steps = exchange(self._policy, self._outside.random)
        try:
            answer = self._perform_all(steps)
        except ExchangeAnswered:  # by another caller under the same idempotency key, a moment ago
            answer = recorded_answer(self._journal, self._key, self._exchange_id)
            if answer is None:
                raise
        finally:
            self._outside.mirror(self._journal, self._key)
        if answer is None:
            recorded = self._journal.exchanges(self._key, self._after).by_id.get(self._exchange_id)
            runs = recorded.runs if recorded else []
            tried = [run for run in runs if run.failure is not None and (run.rerun_of == self._rerun_of)]
            raise AllBackendsFailed(
                self._key, self._exchange_id, [recorded_failure(run, recorded) for run in tried] if recorded else []
            )
        return answer

    def _perform_all(self, steps: Generator[Step, Any, Any]) -> Answer | None:
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                answer: Answer | None = end.value
                return answer
            outcome = self.perform(step)

    def perform(self, step: Step) -> Any:
        """Perform one step; what comes of it is sent back to the policy."""
        match step:
            case StartRun():
                return self._start(step)
            case CallBackend():
                return self._call(step)
            case CompleteRun():
                return self._complete(step)
            case FailRun():
                return self._fail(step)
            case Wait():
                return self._outside.wait(step.seconds)
            case Abandon():
                return self._journal.commit(self._key, lambda it: it.abandon(self._exchange_id, step.reason))

    def _start(self, step: StartRun) -> str:
        backend = self._outside.backends[step.candidate.backend]
        self._memory = self._view(backend.thread)
        plan = RunPlan(
            backend=step.candidate.backend,
            model=step.candidate.model,
            attempt=step.attempt,
            timeout_seconds=self._policy.timeout_seconds,
            profile_hash=self._journal.define_profile(self._outside.profile),
            memory_version=self._memory.version,
            memory_rule=self._memory.rule,
            memory_hash=self._memory.digest(),
            rerun_of=self._rerun_of,
            fallback_reason=step.fallback_reason,
        )
        self._plan = plan
        run_id = self._journal.commit(self._key, lambda it: it.start_run(self._exchange_id, plan))
        self._began = time.monotonic()
        return run_id

    def _view(self, thread: str | None) -> Memory:
        if thread is not None:
            return self._journal.memory(self._key)
        return self._journal.memory(self._key, last=self._policy.memory_last, tokens=self._policy.memory_tokens)

    def _call(self, step: CallBackend) -> Completion | Failure:
        try:
            return self._ask_backend(step)
        except ProviderRefused as refused:
            return refused.failure.redacted()
        except Exception as error:
            logger.exception("backend %s raised", step.candidate.backend)
            return Failure("error", type=type(error).__name__, message=redact(str(error)) or None)
        except BaseException:
            stopped = Failure("interrupted", message="the process was told to stop while the run was under way")
            self._fail(FailRun(step.run_id, stopped, step.candidate))
            raise

    def _ask_backend(self, step: CallBackend) -> Completion | Failure:
        backend = self._outside.backends[step.candidate.backend]
        request = BackendRequest(
            key=self._key,
            exchange_id=self._exchange_id,
            run_id=step.run_id,
            model=step.candidate.model,
            profile=self._outside.profile,
            memory=self._memory,
            timeout_seconds=self._policy.timeout_seconds,
            tools=self._outside.tools,
            journal=lambda messages: self._journal_tools(step.run_id, messages),
        )
        refusal = backend.preflight(request)
        if refusal is not None:
            return refusal.redacted()
        if backend.thread is not None and self._outside.outbox is not None:
            request = self._outside.outbox.prepare(self._journal, request, backend)
            self._thread_version = request.thread_version
        return backend.answer(request)

    def _journal_tools(self, run_id: str, messages: Sequence[Message]) -> None:
        def decide(conversation: Conversation) -> None:
            for message in messages:
                conversation.journal(message, source=Source.RUN, exchange_id=self._exchange_id, run_id=run_id)

        self._journal.commit(self._key, decide)

    def _complete(self, step: CompleteRun) -> Answer:
        source = Source.RERUN if self._rerun_of else Source.FALLBACK if step.fallback else Source.RUN

        def decide(conversation: Conversation) -> tuple[str, int]:
            if step.run_id not in conversation.state.open_runs:  # closed as interrupted: its deadline had passed
                late = conversation.accept_late(step.run_id, self._exchange_id, self._plan, step.completion)
                return late, conversation.version
            message_id = conversation.complete_run(
                step.run_id, step.completion, source=source, duration_seconds=self._elapsed()
            )
            return message_id, conversation.version

        message_id, version = self._journal.commit(self._key, decide)
        self._settle(step, version)
        exchange_record = self._journal.exchanges(self._key, self._after).by_id[self._exchange_id]
        failed = [run for run in exchange_record.runs if run.failure is not None]
        return Answer(
            text=step.completion.messages[-1].text,
            key=self._key,
            exchange_id=self._exchange_id,
            run_id=step.run_id,
            message_id=message_id,
            backend=step.candidate.backend,
            model=step.completion.model or step.candidate.model,
            fallback=step.fallback,
            failures=[recorded_failure(run, exchange_record) for run in failed],
            version=version,
            usage=step.completion.usage,
        )

    def _settle(self, step: CompleteRun, version: int) -> None:
        """Note that the backend wrote everything to the thread itself. Where it did not, or somebody else journaled
        meanwhile, the thread is given back, to be read before the next write."""
        thread_id, outbox = step.completion.thread_id, self._outside.outbox
        mirror = self._outside.backends[step.candidate.backend].thread
        if mirror is None or outbox is None:
            return
        since = self._journal.history(self._key, after=self._thread_version, upto=version)
        ours = all(event.run_id == step.run_id for event in since if isinstance(event, MessageJournaled))
        if thread_id is not None and ours:
            outbox.settle(self._key, mirror, thread_id, version, self._exchange_id)
        else:
            outbox.release(self._key, mirror, self._exchange_id)

    def _fail(self, step: FailRun) -> None:
        cause = diagnose(step.failure)
        logger.warning("run %s failed: %s (%s)", step.run_id, cause.value, step.failure.summary())

        def decide(conversation: Conversation) -> None:
            conversation.fail_run(step.run_id, step.failure, self._elapsed())
            if cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE} and step.failure.thread_id:
                for mirror in conversation.state.links:
                    conversation.lose_thread(mirror, step.failure.thread_id, cause.value)

        self._journal.commit(self._key, decide)
        mirror = self._outside.backends[step.candidate.backend].thread
        if mirror is not None and self._outside.outbox is not None:
            self._outside.outbox.release(self._key, mirror, self._exchange_id)

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 6)
