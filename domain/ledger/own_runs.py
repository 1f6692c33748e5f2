"""Record an app's own model calls: `chat.run` records one run, `chat.exchange` groups the runs of one question."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ..arguments import short
from ..conversation import Place, RunPlan, check_idempotency_key
from ..conversation import events as e
from ..conversation.messages import Message, Role, Source, Usage
from ..effects import perform, work
from ..errors import (
    ConversationBusy,
    ConversationNotFound,
    ExchangeAnswered,
    IdempotencyConflict,
    InvalidInput,
    InvalidMessage,
    RunNotOpen,
)
from ..exchange import reason_of, recorded_answer
from ..failures import Failure, whole_text
from ..ids import new_id, now
from ..limits import OWN_RUN_SECONDS_MAX, PARTIAL_TEXT_CHARS_MAX
from .own_answers import completion_of

if TYPE_CHECKING:
    from ..conversation import Completion, Conversation, OpenExchange
    from ..conversation.messages import JournaledMessage
    from ..effects import AsyncDriver, Effects, Wait
    from ..exchange import Conversing
    from ..journal import Journal

    OwnAnswer = str | Message | Mapping[str, Any] | Sequence[Mapping[str, Any]] | object

GAVE_UP = "the app's own run failed"
"""Why the exchange of an app's own run is abandoned."""


class AnswerKeywords(TypedDict, total=False):
    """Describe what an app may know about its call besides the answer; the facts are the provider's."""

    tool_calls: Iterable[object] | None
    """The tools that the model calls. The exchange continues: journal the results with `chat.append`, and send them in
    another run."""
    model: str | None
    usage: Usage | Mapping[str, Any] | object | None
    """The token counts, as an SDK returns them."""
    finish_reason: str | None
    remote_run_id: str | None
    request_id: str | None


class OwnExchange:
    """Represent the exchange of `with chat.exchange()`: the runs in the block are attempts to answer one question."""

    def __init__(self, conversing: Conversing) -> None:
        self._conversing = conversing
        self.exchange_id = ""
        """Id of the exchange; empty before its first run."""
        self.run_ids: list[str] = []
        """Ids of its runs, in order."""
        self.answered = False
        """Whether a run has answered it."""
        self.last: _Started | None = None
        """The newest run, unless it called tools and its results are sent to any backend."""
        self.failure: Failure | None = None
        """Why the newest run failed."""

    def holds(self, conversing: Conversing) -> bool:
        """Return whether runs of this conversation belong to the exchange, whoever causes them."""
        ours, theirs = self._conversing, conversing
        return (ours.journal.recorder, ours.key) == (theirs.journal.recorder, theirs.key)

    @contextmanager
    def entered(self) -> Iterator[OwnExchange]:
        """Group the runs that are started in the block, and in tasks started in it."""
        outer = _EXCHANGES.get()
        _EXCHANGES.set((*outer, self))
        try:
            yield self
        finally:
            _EXCHANGES.set(outer)

    def end(self, interrupted: bool = False) -> Effects[None]:
        """Abandon the exchange if no run has answered it."""
        if self.answered or self.failure is None:
            return
        reason = f"{GAVE_UP}: {reason_of(self.failure)}"
        journal, key = self._conversing.journal, self._conversing.key
        with suppress(ConversationNotFound):  # it was deleted, and its exchanges ended with it
            yield from work(lambda: journal.commit(key, lambda it: it.abandon(self.exchange_id, reason)))
        if not interrupted:
            yield from self._conversing.mirror()


_EXCHANGES: ContextVar[tuple[OwnExchange, ...]] = ContextVar("threadledger_exchanges", default=())
"""Exchanges whose blocks the caller is in, the innermost one last."""


@dataclass(frozen=True)
class _Started:
    """Hold a run after its start was recorded."""

    exchange_id: str = ""
    run_id: str = ""
    backend: str = ""
    attempt: int = 1
    source: Source = Source.RUN


class OwnRunning:
    """Record the run as effects: `OwnRun` performs them, `AsyncOwnRun` awaits them."""

    def __init__(
        self,
        conversing: Conversing,
        backend: str,
        model: str,
        timeout_seconds: float,
        journal: bool = True,
        idempotency_key: str | None = None,
    ) -> None:
        if isinstance(timeout_seconds, bool) or not isinstance(timeout_seconds, int | float):
            raise InvalidInput(f"timeout_seconds is {type(timeout_seconds).__name__}: give a number of seconds")
        if not 0 < timeout_seconds <= OWN_RUN_SECONDS_MAX:
            raise InvalidInput(
                f"timeout_seconds={short(timeout_seconds)}: give more than 0 and at most {OWN_RUN_SECONDS_MAX:,.0f} seconds"
            )
        self._conversing = conversing
        if idempotency_key is not None:
            check_idempotency_key(idempotency_key)
        self._key = idempotency_key
        self._plan = RunPlan(backend, model, timeout_seconds=timeout_seconds)
        self._group = next((each for each in reversed(_EXCHANGES.get()) if each.holds(conversing)), None)
        self._journals = journal
        self._began = 0.0
        self._ended = False
        self.partial: list[str] = []
        self.started = _Started()

    def start(self) -> Effects[None]:
        """Record the start of the call."""
        group = self._group
        goes_on = group is not None and bool(group.exchange_id)
        read: _Read | None = None

        def decide(conversation: Conversation, interrupting: bool = False) -> _Started:
            if read is None and self._must_read(conversation):
                raise _Unread
            seen = read or _Read(conversation.version)
            path, version = conversation.state.path_hash, conversation.version
            if path is None:
                path, version = seen.path_hash, seen.version
            reason = self._reason() or seen.reason
            plan = self._plan.replaced(memory_version=version, memory_hash=path, path_hash=path, fallback_reason=reason)
            earlier = self._earlier(conversation) if self._key is not None else None
            if interrupting and not goes_on:
                conversation.interrupt()
            if earlier is not None:
                return _start(conversation, plan, earlier)
            if self._key is not None:
                plan = plan.replaced(idempotency_key=self._key)
            if group is not None and goes_on:
                return _start(conversation, plan, group.exchange_id, group.last, must_be_open=True)
            return _start(conversation, plan, unanswered_exchange(conversation, seen) or new_id())

        try:
            self.started = yield from self._conversing.when_free(decide)
        except _Unread:
            read = yield from work(self._read)
            self.started = yield from self._conversing.when_free(decide)
        self._began = time.monotonic()
        if group is not None:
            group.exchange_id, group.last, group.failure = self.started.exchange_id, self.started, None
            group.run_ids.append(self.started.run_id)

    def complete(self, completion: Completion) -> Effects[None]:
        """Journal the answer and end the run."""
        key, journal = self._conversing.key, self._conversing.journal
        run, elapsed = self.started, self._elapsed()
        if not all(isinstance(each.content, str) and not each.native_json for each in completion.messages):
            kept = yield from work(lambda: tuple(map(journal.keep, completion.messages)))
            completion = replace(completion, messages=kept)

        def decide(conversation: Conversation) -> None:
            if self._journals:
                left = conversation.left_exchange(run.exchange_id)
                place = Place(parent=journal.end_of_exchange(key, left)) if left is not None else Place()
                conversation.complete_run(
                    run.run_id, completion, source=run.source, duration_seconds=elapsed, place=place
                )
            else:
                conversation.complete_run_elsewhere(run.run_id, completion, elapsed)

        try:
            yield from work(lambda: journal.commit(key, decide))
        except ConversationNotFound as error:
            raise RunNotOpen(
                f"run {run.run_id} has ended, because {key!r} was deleted: see threadledger audit show {run.run_id}"
            ) from error
        self._ended = True
        if self._group is not None:
            self._group.answered = not completion.goes_on
            self._group.last = None
        yield from self._conversing.mirror()

    def fail(self, error: BaseException) -> Effects[None]:
        """Record an exception as the run's failure. Does nothing if the run has ended."""
        status = "error" if isinstance(error, Exception) else "interrupted"
        yield from self._fail(Failure.of_exception(error, status))

    def end(self) -> Effects[None]:
        """Record a failure if the run ended without an answer and without an error."""
        yield from self._fail(Failure("error", code="no_answer", message="the block ended without run.complete(text)"))

    def _fail(self, failure: Failure) -> Effects[None]:
        if self._ended:
            return
        self._ended = True
        elapsed = self._elapsed()
        if self.partial:
            failure = replace(failure, partial_text="".join(self.partial)[:PARTIAL_TEXT_CHARS_MAX])

        def decide(conversation: Conversation) -> None:
            conversation.fail_run(self.started.run_id, failure, elapsed)
            if self._group is None:
                conversation.abandon(self.started.exchange_id, GAVE_UP)

        # Another process closed it as interrupted, or the conversation was deleted: the app's own exception says more.
        with suppress(RunNotOpen, ConversationNotFound):
            yield from work(lambda: self._conversing.journal.commit(self._conversing.key, decide))
        if self._group is not None:
            self._group.failure = failure
        elif failure.status != "interrupted":  # an interrupted app is shutting down
            yield from self._conversing.mirror()

    def _earlier(self, conversation: Conversation) -> str | None:
        """Return the exchange that a run with the same idempotency key started and that has no answer; None if none did.

        Raises:
            IdempotencyConflict: the key belongs to a message.
            ExchangeAnswered: the exchange has an answer, which the error has.
            ConversationBusy: a run of it is open, or it continues after tool calls.
        """
        journal, key = self._conversing.journal, self._conversing.key
        event = journal.keyed(key, self._key or "")
        if event is None:
            return None
        if not isinstance(event, e.RunStarted):
            raise IdempotencyConflict(
                f"the idempotency key {self._key!r} belongs to a message of {key!r}: use a different key for the run"
            )
        exchange_id, begin = event.exchange_id, event.originator_version - 1
        exchange = journal.exchanges(key, begin).by_id[exchange_id]
        if exchange.answered_by is not None:
            answered = ExchangeAnswered(
                f"the run of {key!r} with the idempotency key {self._key!r} has already answered: use error.answer"
            )
            answered.answer = recorded_answer(journal, key, exchange_id, begin)
            raise answered
        conversation.close_overdue_runs()
        last, state = exchange.runs[-1], conversation.state
        in_progress = state.open_exchanges.get(exchange_id)
        waits = last.failure is None and in_progress is not None and in_progress.is_active(now())
        if waits or any(run.exchange_id == exchange_id for run in state.open_runs.values()):
            raise ConversationBusy(
                f"the run of {key!r} with the idempotency key {self._key!r} is in progress: wait until it ends, then try again"
            )
        return exchange_id

    def _reason(self) -> str:
        """Return why the run before failed, if it is known from the block in which both are."""
        return reason_of(self._group.failure) if self._group is not None and self._group.failure is not None else ""

    def _must_read(self, conversation: Conversation) -> bool:
        """Return whether the start needs more than the state; most runs need no more, however long the conversation is."""
        if conversation.state.path_hash is None:
            return True
        exchange = _continued(conversation)
        if exchange is None or (self._group is not None and self._group.exchange_id):
            return False
        falls_back = exchange.failed_run is not None and exchange.failed_backend != self._plan.backend
        return exchange.messages != conversation.state.messages or (falls_back and not self._reason())

    def _read(self) -> _Read:
        """Read what a start needs besides the state: the hash of the path, newer messages, and why a run failed."""
        journal, key = self._conversing.journal, self._conversing.key
        conversation = journal.load(key)
        if conversation is None:
            return _Read()
        state, version = conversation.state, conversation.version
        seen = _Read(version, state.path_hash or journal.path_hash(key, version))
        exchange = _continued(conversation)
        if exchange is not None and exchange.messages != state.messages:
            count = state.messages - (exchange.messages or 0)
            seen = replace(seen, newer=journal.memory(key, version, last=count).messages)
        exchange_id = unanswered_exchange(conversation, seen)
        earlier = exchange if exchange_id is not None else None
        if earlier is None or not earlier.failed_run or earlier.failed_backend == self._plan.backend:
            return seen
        return replace(seen, reason=why_failed(journal, key, earlier.failed_run))

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 6)


class _Unread(Exception):
    """Raised in a decision that needs more than the state of its conversation."""


@dataclass(frozen=True)
class _Read:
    """Hold what a start may need besides the state of its conversation, read at one version."""

    version: int = 0
    path_hash: str | None = None
    newer: Sequence[JournaledMessage] = ()
    """At least the messages that were journaled since the exchange opened that the run may continue."""
    reason: str = ""
    """Why the run before failed, if the run continues its exchange on another backend."""


def unanswered_exchange(conversation: Conversation, seen: _Read) -> str | None:
    """Return the exchange that a run of the app continues: the newest one, if it has no answer and no newer message.

    Tool calls and their results are part of it. None if an exchange is being answered, or has an answer.
    """
    state, exchange = conversation.state, _continued(conversation)
    if exchange is None or exchange.messages is None:
        return None
    count = state.messages - exchange.messages
    since = seen.newer[-count:] if count else ()
    is_read = not count or (conversation.version == seen.version and count <= len(seen.newer))
    uses_tools = all(each.message.role is Role.TOOL or each.message.calls() for each in since)
    return state.last_exchange_id if is_read and uses_tools else None


def _continued(conversation: Conversation) -> OpenExchange | None:
    """Return the newest exchange if it has no answer, and is not being answered."""
    state = conversation.state
    exchange_id = state.last_exchange_id or ""
    in_progress = state.open_exchanges.get(exchange_id)
    if in_progress is not None and in_progress.runs and in_progress.is_active(now()):
        return None
    exchange = in_progress or state.abandoned.get(exchange_id)
    return exchange if exchange is not None and exchange.messages is not None else None


def _start(
    conversation: Conversation,
    plan: RunPlan,
    exchange_id: str,
    last: _Started | None = None,
    must_be_open: bool = False,
) -> _Started:
    state = conversation.state
    earlier = state.open_exchanges.get(exchange_id) or state.abandoned.get(exchange_id)
    again = earlier is not None and earlier.failed_backend == plan.backend
    attempt = len(earlier.runs) + 1 if earlier is not None and again else 1
    if last is not None:
        attempt = last.attempt + 1 if last.backend == plan.backend else 1
    rerun_of = earlier.rerun_of if earlier is not None else None
    if (attempt, rerun_of) != (plan.attempt, plan.rerun_of):
        plan = plan.replaced(attempt=attempt, rerun_of=rerun_of)
    run_id = conversation.start_run(exchange_id, plan, must_be_open=must_be_open)
    fell_back = any(isinstance(each, e.FallbackUsed) for each in conversation.pending)
    earlier_source = last.source if last is not None and again else Source.RUN
    source = Source.FALLBACK if fell_back else earlier_source
    return _Started(exchange_id, run_id, plan.backend, attempt, source)


def why_failed(journal: Journal, key: str, run_id: str) -> str:
    """Return why a run failed, as the reason of a fallback: cause and facts; empty if it did not fail."""
    about = (each for each in journal.newest(key) if isinstance(each, (e.RunStarted, e.RunFailed)))
    event = next((each for each in about if each.run_id == run_id), None)
    return reason_of(Failure.of(event)) if isinstance(event, e.RunFailed) else ""


class _Open:
    """Represent a run that an app controls."""

    def __init__(self, running: OwnRunning) -> None:
        self._running = running

    @property
    def run_id(self) -> str:
        """Return the run's id, as used in events and in the audit."""
        return self._running.started.run_id

    @property
    def exchange_id(self) -> str:
        """Return the id of the exchange that it answers."""
        return self._running.started.exchange_id

    def partial(self, text: str | None) -> None:
        """Keep a piece of the answer as it arrives: if the run fails, its failure stores the text so far.

        None is ignored, because the first and the last chunk of a stream often have no text.

        Raises:
            InvalidMessage: the piece is not text; it is left out.
        """
        if text is not None and not isinstance(text, str):
            raise InvalidMessage(
                f"a piece of the answer is {type(text).__name__}: pass the text of each chunk, or None"
            )
        if text:
            self._running.partial.append(text)

    def _completion(self, text: OwnAnswer | None, known: AnswerKeywords) -> Completion:
        calls, usage = known.get("tool_calls"), known.get("usage")
        if text is None and calls is None and self._running.partial:
            text = whole_text("".join(self._running.partial))
        facts = {
            "model": known.get("model"),
            "finish_reason": known.get("finish_reason"),
            "remote_run_id": known.get("remote_run_id"),
            "request_id": known.get("request_id"),
        }
        return completion_of(text, calls, usage, **facts)


class OwnRun(_Open):
    """Represent the open run of `with chat.run(...)`; `complete` journals the answer."""

    def __init__(self, running: OwnRunning, wait: Wait) -> None:
        super().__init__(running)
        self._wait = wait

    def complete(self, text: OwnAnswer | None = None, **known: Unpack[AnswerKeywords]) -> None:
        """Journal the answer and end the run.

        Args:
            text: the answer: its text, its parts, or a message as a dict or as an object of an SDK; by default the text
                that `partial` has collected.
            known: what the app knows about its call; see `AnswerKeywords`.

        Raises:
            RunNotOpen: the run has already ended.
            InvalidMessage: the answer is empty or cannot be stored; the run is still open.
        """
        perform(self._running.complete(self._completion(text, known)), self._wait)


class AsyncOwnRun(_Open):
    """Represent the open run of `async with chat.run(...)`; `complete` journals the answer."""

    def __init__(self, running: OwnRunning, driver: AsyncDriver) -> None:
        super().__init__(running)
        self._driver = driver

    async def complete(self, text: OwnAnswer | None = None, **known: Unpack[AnswerKeywords]) -> None:
        """See `OwnRun.complete`."""
        await self._driver.perform(self._running.complete(self._completion(text, known)))
