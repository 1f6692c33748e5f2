"""The driver of an exchange: performs the policy's steps one after the other, as effects (`effects.py`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..conversation import (
    AT_THE_END,
    Completion,
    Conversation,
    ExchangeRecord,
    Place,
    RunPlan,
    recorded_failure,
    restore_message,
)
from ..conversation import events as e
from ..conversation.events import MessageJournaled
from ..conversation.messages import Message, Source, Usage
from ..effects import Answer, Delta, Effect, Effects, ListenerLeft, Pause, StartedOver, Tell, Work, attended
from ..errors import (
    AllBackendsFailed,
    Conflict,
    ConversationBusy,
    ExchangeAnswered,
    ProviderRefused,
    StoreUnavailable,
    ThreadledgerError,
)
from ..failures import Cause, Failure, RecordedFailure, diagnose, redact
from ..journal import Journal
from ..limits import INTERRUPT_LOOK_SECONDS, LATE_ANSWER_LOOKS_MAX, PARTIAL_TEXT_CHARS_MAX
from ..memory import Memory
from ..threads import is_uncertain
from .backend import BackendRequest, ToolFunction
from .policy import Abandon, CallBackend, Candidate, CompleteRun, FailRun, Policy, StartRun, Step, Wait, exchange
from .services import Outside

logger = logging.getLogger("threadledger")


class Asking:
    """One exchange under way. The question is journaled before it is made."""

    def __init__(
        self,
        journal: Journal,
        outside: Outside,
        key: str,
        exchange_id: str,
        *,
        rerun_of: str | None = None,
        again: bool = False,
        policy: Policy | None = None,
        after: int = 0,
        stream: bool = False,
        tools: Mapping[str, ToolFunction] | None = None,
    ) -> None:
        """`after` is a version before the exchange's first run: what came earlier need not be read. `again` says that the
        exchange was given up before; `stream`, that somebody listens; `tools` stand in for those of the app."""
        self._journal = journal
        self._outside = outside
        self._key = key
        self._exchange_id = exchange_id
        self._rerun_of = rerun_of
        self._policy = policy or outside.policy
        self._after = after
        self._stream = stream
        self._tools = outside.tools if tools is None else tools
        self._memory = Memory()
        self._plan = RunPlan("", "")
        self._began = 0.0
        self._request: BackendRequest | None = None
        self._going_on = not again
        self._failed: FailRun | None = None
        self._run: CallBackend | None = None
        self._overtaken = False
        self._partial: list[str] = []

    def run(self) -> Effects[Answer]:
        """Perform the exchange to its end; afterwards the threads get what they lack, unless the caller has gone: then they
        catch up with the next message.

        Raises:
            AllBackendsFailed: nobody answered.
            ConversationBusy: somebody else's run is open.
        """
        steps = exchange(self._policy, self._outside.random, health=self._outside.health)
        try:
            answer = yield from self._perform_all(steps)
        except ExchangeAnswered:  # by another caller under the same idempotency key, a moment ago
            answer = yield Work(lambda: recorded_answer(self._journal, self._key, self._exchange_id))
            if answer is None:
                raise
        except Exception as error:
            if self._run is not None:  # ours, and nobody is at it any more
                failure = Failure("error", type=type(error).__name__, message=redact(str(error)) or None)
                with suppress(ThreadledgerError):
                    yield Work(lambda: self._give_up(failure))
            yield from self._outside.mirrored(self._journal, self._key)
            raise
        except BaseException as stopped:
            failure = self._with_partial(failure_of_stop(stopped))
            yield Work(lambda: self._give_up(failure))
            raise
        try:
            if answer is not None:
                yield Tell(answer)  # it is journaled: nobody need wait for the threads
        finally:
            yield from self._outside.mirrored(self._journal, self._key)
        if answer is None:
            raise (yield Work(self._nobody))
        return answer

    def _perform_all(self, steps: Generator[Step, Any, Any]) -> Effects[Answer | None]:
        outcome: Any = None
        while not self._overtaken:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                answer: Answer | None = end.value
                return answer
            outcome = yield from self.perform(step)
        return None

    def perform(self, step: Step) -> Effects[Any]:
        """Perform one step; what comes of it is sent back to the policy."""
        match step:
            case StartRun():
                return (yield from self._start(step))
            case CallBackend():
                return (yield from self._call(step))
            case CompleteRun():
                return (yield from self._complete(step))
            case FailRun():
                return (yield from self._fail(step))
            case Wait():
                return (yield Pause(step.seconds))
            case Abandon():
                return (yield Work(lambda: self._abandon(step.reason)))

    def _abandon(self, reason: str) -> None:
        self._journal.commit(self._key, lambda it: it.abandon(self._exchange_id, reason))

    def _start(self, step: StartRun) -> Effects[str]:
        try:
            run_id: str = yield Work(lambda: self._begin(step))
        except ExchangeAnswered:
            raise
        except Conflict:
            if self._failed is None:
                raise
            self._overtaken = True  # between two runs a newer question took the place of this one
            return ""
        self._run, self._partial = CallBackend(run_id, step.candidate), []
        failed = self._failed
        if failed is not None:
            yield Tell(
                StartedOver(
                    failed_run_id=failed.run_id,
                    run_id=run_id,
                    backend=step.candidate.backend,
                    model=step.candidate.model,
                    reason=f"{diagnose(failed.failure).value}: {failed.failure.summary()}",
                    fallback=step.candidate.backend != failed.candidate.backend,
                    from_backend=failed.candidate.backend,
                )
            )
        return run_id

    def _begin(self, step: StartRun) -> str:
        self._memory = self._view(step.candidate)
        planned = RunPlan(
            backend=step.candidate.backend,
            model=step.candidate.model,
            attempt=step.attempt,
            timeout_seconds=step.timeout_seconds,
            profile_hash=self._journal.define_profile(self._outside.profile),
            memory_version=self._memory.version,
            memory_rule=self._memory.rule,
            memory_hash=self._memory.digest(),
            rerun_of=self._rerun_of,
            fallback_reason=step.fallback_reason,
        )
        plan = self._noted(planned)
        self._plan, self._request = plan, None
        run_id = self._journal.commit(self._key, lambda it: self._open(it, plan))
        self._going_on = True
        self._began = time.monotonic()
        return run_id

    def _noted(self, plan: RunPlan) -> RunPlan:
        """The plan of a run with what is special about it."""
        return plan

    def _open(self, conversation: Conversation, plan: RunPlan) -> str:
        return conversation.start_run(self._exchange_id, plan, going_on=self._going_on)

    def _view(self, candidate: Candidate) -> Memory:
        if self._outside.backends[candidate.backend].thread is not None:
            return self._journal.memory(self._key)
        return self._journal.memory(self._key, last=self._policy.memory_last, tokens=self._policy.memory_tokens)

    def _call(self, step: CallBackend) -> Effects[Completion | Failure]:
        try:
            return (yield from self._watched(step.run_id, self._asked(step)))
        except ProviderRefused as refused:
            return self._with_partial(refused.failure).redacted()
        except Superseded as superseded:
            self._overtaken = True
            yield Work(lambda: self._give_back(step, Failure("interrupted")))
            return Failure("interrupted", message=str(superseded))
        except Exception as error:
            logger.exception("backend %s raised", step.candidate.backend)
            return self._with_partial(Failure("error", type=type(error).__name__, message=redact(str(error)) or None))

    def _asked(self, step: CallBackend) -> Effects[Completion | Failure]:
        backend = self._outside.backends[step.candidate.backend]
        request = BackendRequest(
            key=self._key,
            exchange_id=self._exchange_id,
            run_id=step.run_id,
            model=step.candidate.model,
            profile=self._outside.profile,
            memory=self._memory,
            timeout_seconds=self._plan.timeout_seconds,
            tools=self._tools,
            journal=lambda messages: self._journal_tools(step.run_id, messages),
            stream=self._stream,
            apart=self._plan.apart,
        )
        refusal = backend.preflight(request)
        if refusal is not None:
            return refusal.redacted()
        if backend.thread is not None and self._outside.outbox is not None and not request.apart:
            request = yield from self._outside.outbox.prepare(self._journal, request, backend)
            left = self._began + self._plan.timeout_seconds - time.monotonic()
            self._request = request = replace(request, timeout_seconds=max(left, 0.001))
        return (yield from backend.answer(request))

    def _watched(self, run_id: str, effects: Effects[Completion | Failure]) -> Effects[Completion | Failure]:
        """The effects of a run, while its text is kept and it is seen to that nobody else has closed it."""
        looked = time.monotonic()

        def heard(effect: Effect) -> Effect:
            if not isinstance(effect, Tell) or not isinstance(effect.part, Delta):
                return effect
            self._partial.append(effect.part.text)
            return Tell(replace(effect.part, run_id=run_id))

        def look(effect: Effect) -> Effects[None]:
            nonlocal looked
            if isinstance(effect, Tell | Pause) and time.monotonic() - looked >= INTERRUPT_LOOK_SECONDS:
                looked = time.monotonic()
                try:
                    is_open = yield Work(lambda: self._journal.is_open(self._key, run_id))
                except StoreUnavailable:  # no reason to break the run off: its end needs the database, this does not
                    return
                if not is_open:
                    raise Superseded(SUPERSEDED)

        return attended(effects, look, heard)

    def _with_partial(self, failure: Failure) -> Failure:
        """The failure with the text that was told before it."""
        if failure.partial_text is not None or not self._partial:
            return failure
        return replace(failure, partial_text="".join(self._partial)[:PARTIAL_TEXT_CHARS_MAX])

    def _journal_tools(self, run_id: str, messages: Sequence[Message]) -> None:
        """Keep what a tool did, whatever became of the run; one that others have closed goes no further."""

        def decide(conversation: Conversation) -> bool:
            for message in messages:
                conversation.journal(message, source=Source.RUN, exchange_id=self._exchange_id, run_id=run_id)
            return run_id in conversation.state.open_runs

        if not self._journal.commit(self._key, decide):
            raise Superseded(SUPERSEDED)

    def _complete(self, step: CompleteRun) -> Effects[Answer | None]:
        refused: ThreadledgerError | None = None
        for _ in range(LATE_ANSWER_LOOKS_MAX):
            try:
                answer: Answer = yield Work(lambda: self._accept(step))
                return answer
            except (ConversationBusy, StoreUnavailable) as error:
                # Closed by others, and another run is open; or the database is away. An answer was paid for: it waits.
                refused = error
                yield Pause(INTERRUPT_LOOK_SECONDS)
            except Conflict:
                yield Work(lambda: self._give_back(step, Failure("interrupted")))
                raise
        if isinstance(refused, StoreUnavailable):
            raise refused
        self._overtaken = True
        yield Work(lambda: self._give_back(step, Failure("interrupted")))
        return None

    def _accept(self, step: CompleteRun) -> Answer:
        source = Source.RERUN if self._rerun_of else Source.FALLBACK if step.fallback else Source.RUN
        request = self._request
        completion = step.completion
        if completion.thread_id is not None and request is not None:
            completion = replace(completion, thread_version=request.thread_version)

        place = self._place()

        def decide(conversation: Conversation) -> tuple[str, str, int]:
            if step.run_id not in conversation.state.open_runs:  # closed as interrupted: its deadline had passed
                late = conversation.accept_late(step.run_id, self._exchange_id, self._plan, completion, place)
                return *late, conversation.version
            duration = round(time.monotonic() - self._began, 6)
            message_id = conversation.complete_run(
                step.run_id, completion, source=source, duration_seconds=duration, place=place
            )
            return step.run_id, message_id, conversation.version

        run_id, message_id, version = self._journal.commit(self._key, decide)
        self._settle(step, version)
        recorded = self._journal.exchanges(self._key, self._after).by_id[self._exchange_id]
        return answered(
            recorded,
            completion,
            step.candidate,
            key=self._key,
            run_id=run_id,
            message_id=message_id,
            fallback=step.fallback,
            version=version,
        )

    def _place(self) -> Place:
        """Where the answer goes in memory: at the end, but for reruns that were asked for all the same."""
        return AT_THE_END

    def _settle(self, step: CompleteRun, version: int) -> None:
        """Note that the backend wrote everything to the thread itself. Where it did not, or somebody else journaled
        meanwhile, the thread is given back, to be read before the next write."""
        thread_id, outbox, request = step.completion.thread_id, self._outside.outbox, self._request
        mirror = self._outside.backends[step.candidate.backend].thread
        if mirror is None or outbox is None or request is None:
            return
        since = self._journal.history(self._key, after=request.thread_version, upto=version)
        ours = all(event.run_id == step.run_id for event in since if isinstance(event, MessageJournaled))
        if thread_id is not None and ours:
            outbox.settle(request, mirror, version)
        else:
            outbox.release(request, mirror)

    def _fail(self, step: FailRun) -> Effects[None]:
        cause = diagnose(step.failure)

        def decide(conversation: Conversation) -> bool:
            if step.run_id not in conversation.state.open_runs:
                return False
            conversation.fail_run(step.run_id, step.failure, round(time.monotonic() - self._began, 6))
            if cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE} and step.failure.thread_id:
                for mirror in conversation.state.links:
                    conversation.lose_thread(mirror, step.failure.thread_id, cause.value)
            return True

        def record() -> bool:
            ours = self._journal.commit(self._key, decide)
            self._give_back(step, step.failure)
            return ours

        ours: bool = yield Work(record)
        self._overtaken = self._overtaken or not ours
        self._failed = step

    def _give_up(self, failure: Failure) -> None:
        """Close the run that is open, and the exchange: nobody is at it any more, and the next question need not wait."""
        run = self._run

        def decide(conversation: Conversation) -> None:
            if run is not None and run.run_id in conversation.state.open_runs:
                conversation.fail_run(run.run_id, failure, round(time.monotonic() - self._began, 6))
            conversation.abandon(self._exchange_id, failure.message or failure.status)

        self._journal.commit(self._key, decide)
        if run is not None:
            self._give_back(run, failure)

    def _give_back(self, step: FailRun | CallBackend | CompleteRun, failure: Failure) -> None:
        """The thread that was taken for a run; where nobody knows what the run may yet write there, that is noted."""
        mirror, request = self._outside.backends[step.candidate.backend].thread, self._request
        if mirror is not None and self._outside.outbox is not None and request is not None:
            self._outside.outbox.release(request, mirror, is_uncertain(failure))

    def _nobody(self) -> AllBackendsFailed:
        recorded = self._journal.exchanges(self._key, self._after).by_id.get(self._exchange_id)
        tried = [run for run in recorded.runs if run.failure and run.rerun_of == self._rerun_of] if recorded else []
        failures = [recorded_failure(run, recorded) for run in tried] if recorded else []
        return AllBackendsFailed(self._key, self._exchange_id, failures)


SUPERSEDED = "a newer question took the place of this one, or its time was over"


class Superseded(BaseException):
    """Somebody else closed the run while it was under way: a newer question took its place. No `Exception`, so that no
    backend takes it for a failure of the provider."""


def failure_of_stop(by: BaseException) -> Failure:
    """The failure of a run whose process, task or listener has gone."""
    if isinstance(by, ListenerLeft):
        return Failure("cancelled", code="listener_left", message="nobody listened to the answer any more")
    return Failure("interrupted", message="the process was told to stop while the run was under way")


def answered(
    exchange: ExchangeRecord,
    completion: Completion,
    candidate: Candidate,
    *,
    key: str,
    run_id: str,
    message_id: str,
    fallback: bool,
    version: int,
) -> Answer:
    """Return the answer that was just journaled."""
    return Answer(
        text=completion.messages[-1].text,
        key=key,
        exchange_id=exchange.exchange_id,
        run_id=run_id,
        message_id=message_id,
        backend=candidate.backend,
        model=completion.model or candidate.model,
        fallback=fallback,
        failures=failures_of(exchange),
        version=version,
        usage=completion.usage,
    )


def recorded_answer(journal: Journal, key: str, exchange_id: str) -> Answer | None:
    """Return the journaled answer of an exchange, or None if it has none."""
    exchange = journal.exchanges(key).by_id.get(exchange_id)
    if exchange is None or exchange.answered_by is None:
        return None
    run = next(run for run in exchange.runs if run.run_id == exchange.answered_by)
    answers = [
        event
        for event in journal.history(key, after=run.version)
        if isinstance(event, e.MessageJournaled) and event.run_id == run.run_id and event.role == "assistant"
    ]
    if not answers or run.completed is None:
        return None
    usage = run.completed.usage
    return Answer(
        text=restore_message(answers[-1]).text,
        key=key,
        exchange_id=exchange_id,
        run_id=run.run_id,
        message_id=answers[-1].message_id,
        backend=run.backend,
        model=run.completed.model or run.model,
        fallback=answers[-1].source == Source.FALLBACK,
        failures=failures_of(exchange),
        version=answers[-1].originator_version,
        usage=Usage(usage.get("input_tokens", 0), usage.get("output_tokens", 0)),
    )


def failures_of(exchange: ExchangeRecord) -> list[RecordedFailure]:
    """Return the failed runs of an exchange, except shadow runs."""
    return [recorded_failure(run, exchange) for run in exchange.runs if run.failure is not None and not run.shadow]


def why_not_rerun(journal: Journal, key: str, exchange_id: str) -> str:
    """Return why an unanswered exchange cannot be rerun, or an empty string if it can."""
    state = journal.require(key).state
    if state.last_exchange_id != exchange_id:
        known = exchange_id in state.open_exchanges or exchange_id in journal.exchanges(key).by_id
        return "overtaken by newer messages" if known else "there is no such exchange"
    newest = journal.memory(key, last=1).messages[-1:]
    if any(message.exchange_id != exchange_id for message in newest):
        return "overtaken by newer messages"
    return ""
