"""Record an app's requests in a conversation: model calls as runs, and requests about these runs and their threads.

`CallRecorder` decides which calls of a client are recorded, and in which conversation (`in_conversation` names it).
`RunRecording` records one run: its exchange, its new messages, and its end. `RecordedLook` and `RecordedMessages`
record polling, tool results and messages added to a thread.

The app decides how many runs it has open at the same time: a run is recorded alongside other runs of its conversation,
even if `ask` would be refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from threadledger.domain.conversation import (
    Completion,
    Conversation,
    Place,
    RunPlan,
    events,
    stream_of,
)
from threadledger.domain.conversation.messages import Message, Parent, Role, Source, ToolCall
from threadledger.domain.errors import RunNotOpen
from threadledger.domain.failures import Failure, keep_secret
from threadledger.domain.ids import new_id
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger, why_failed

from ..openai import Context, Seen
from .alignment import Aligned, Alignment, RetriedRun, committed, give_up_idle, kept_messages
from .branches import path_hash_at
from .requests import (
    PLACES_MAX,
    REMOTE_RUNS_MAX,
    ModelRequest,
    RunQuery,
    Sent,
    ThreadWrite,
    read_request,
    secrets_in,
)
from .session_turns import TurnPart, is_same_database, turn_of

logger = logging.getLogger("threadledger")

RETRIED_BY_SDK = frozenset({408, 409, 429})
"""HTTP statuses that the SDK retries, in addition to 500 and above (openai 3.54, `_base_client.py`, `_should_retry`)."""

ANSWERS_MAX = 10
"""Maximum number of answers of a conversation that are remembered for the message that adds them to a thread."""


@dataclass(frozen=True)
class StartedRun:
    """Hold the ids and plan of a run after its start was recorded."""

    exchange_id: str = ""
    run_id: str = ""
    plan: RunPlan | None = None
    source: Source = Source.RUN
    leaf: Parent | None = None
    """The last message of its branch, if it is aside."""


@dataclass(frozen=True)
class GivenAnswer:
    """Describe the answer of a recorded run, which the app may add to a thread of its own."""

    exchange_id: str
    newest_exchange_id: str | None
    """The conversation's newest exchange when the run completed; after a newer one, a message is not this answer."""
    texts: frozenset[str]
    """Its last message, and all of them as one text."""
    thread_id: str | None
    """The thread that has the answer already."""


class RunRecording:
    """Record one model call, from before the request is sent to the end of its response."""

    def __init__(
        self, recorder: CallRecorder, asked: ModelRequest, key: str, again: RunRecording | None = None
    ) -> None:
        self.key = key
        self.asked = asked
        self._begun = StartedRun()
        self._recorder = recorder
        self._journal = recorder.ledger.journal
        self._again = again
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = False
        self._called: set[str] = set()
        self._leaf: Parent | None = None
        """The last message of the run's branch, if it is aside."""
        self._turn = turn_of(recorder.ledger.journal, key)
        """The turn of an SDK's session that the call is made in."""
        self._part: TurnPart | None = None
        """What the call is for that turn."""

    @property
    def exchange_id(self) -> str:
        """Return the id of the run's exchange; empty before `begin`."""
        return self._begun.exchange_id

    @property
    def run_id(self) -> str:
        """Return the id of the run; empty before `begin`."""
        return self._begun.run_id

    @property
    def attempt(self) -> int:
        """Return the number of the attempt; 0 before `begin`."""
        return self._begun.plan.attempt if self._begun.plan is not None else 0

    @property
    def source(self) -> Source:
        """Return the source of the run's answer."""
        return self._begun.source

    def covers(self, journal: Journal, key: str | None) -> bool:
        """Return whether it is in progress in this conversation; with None, in any one of the same database."""
        return not self._ended and key in {None, self.key} and is_same_database(self._journal, journal)

    @contextmanager
    def covering(self) -> Iterator[None]:
        """Mark what is called in this block as part of this run: no other recorder records it in the same conversation."""
        token = _OPEN.set((*_OPEN.get(), self))
        try:
            yield
        finally:
            _OPEN.reset(token)

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Return the facts of the response that are known before its body is read."""
        return Context(self.asked.backend, self.asked.endpoint, request_id, http_status, self.asked.thread_id)

    def is_same(self, recorder: CallRecorder, asked: ModelRequest) -> bool:
        """Return whether a request of this recorder has the same body, so that it may be a retry by the SDK."""
        return recorder is self._recorder and asked.digest == self.asked.digest

    def begin(self) -> None:
        """Journal the new messages and the start of the run, before the request is sent.

        Raises:
            StoreError: the events cannot be written.
            ConversationChanged: other writers changed the conversation during every attempt.
        """
        again = RetriedRun(self._again.exchange_id, self._again._leaf) if self._again is not None else None
        held, messages = self.asked.held, self.asked.messages
        part = self._part = self._turn.part_of(messages) if self._turn is not None else None
        if part is not None:  # the session has the messages, or they do not belong to it
            held, messages = True, ()
            again = again or (RetriedRun(part.exchange_id, part.leaf) if part.exchange_id is not None else None)
        reasons: list[str] = []

        def read() -> Alignment:
            found = Alignment(self._journal, self.key, messages, held=held, again=again)
            reasons[:] = [self._why_failed(found)]
            return found

        kept = kept_messages(self._journal, part.sent) if part is not None and self._again is None else ()

        def decide(found: Alignment, conversation: Conversation) -> StartedRun:
            aligned = (
                found.beside(conversation, kept, part.is_aside) if part is not None else found.journaled(conversation)
            )
            return self._started(aligned, reasons[0], conversation)

        self._begun = committed(self._journal, self.key, read, decide)
        self._leaf = self._begun.leaf
        if part is not None:
            part.turn.began(part, self.exchange_id)

    def refuse(self, failure: Failure) -> None:
        """Record that the request failed."""
        self.end(failure)

    def see(self, seen: Seen) -> None:
        """Record the state of the provider's run. Never raises: the app gets its answer, recorded or not."""
        self._recorder.follows(self.key, seen.remote_id, seen.thread_id)
        if seen.outcome is not None:
            self.end(seen.outcome)
        elif seen.remote_id is not None:
            self._recorder.watch(seen.remote_id, self)
            self._quietly(lambda: self._call(seen.calls))

    def broke(self, seen: Seen) -> None:
        """Record that the stream broke. A background response continues after its stream has ended."""
        if self.asked.background and seen.remote_id is not None:
            seen = replace(seen, outcome=None)
        self.see(seen)

    def end(self, outcome: Completion | Failure) -> None:
        """Record the end of the run; later calls are ignored. Never raises."""
        with self._lock:
            if self._ended or not self.run_id:
                return
            self._ended = True
        if outcome.remote_run_id is not None:
            self._recorder.watch(outcome.remote_run_id, None)
        if isinstance(outcome, Completion):
            self._quietly(lambda: self._complete(outcome))
        else:
            self._quietly(lambda: self._fail(outcome))

    def journal(self, messages: Sequence[Message], from_run: bool) -> None:
        """Journal tool calls of the model, or results of the app, while the run is in progress."""
        source, run_id = (Source.RUN, self.run_id) if from_run else (Source.APP, None)

        kept = kept_messages(self._journal, messages)

        def decide(conversation: Conversation) -> Parent | None:
            conversation.require_current(self._begun.plan.memory_version if self._begun.plan is not None else 0)
            place: dict[str, Any] = {"source": source, "exchange_id": self.exchange_id, "run_id": run_id}
            leaf = self._leaf
            for message in kept:
                said = conversation.journal(message, parent=leaf, **place)
                leaf = (said.message_id, said.originator_version) if leaf is not None else None
            return leaf

        self._leaf = self._journal.commit(self.key, decide)

    def _why_failed(self, found: Alignment) -> str:
        """Return why the run before failed, if this one continues its exchange on another backend."""
        if found.conversation is None or not found.unanswered:
            return ""
        state, earlier = found.conversation.state, found.continuation(found.conversation).exchange_id or ""
        exchange = state.open_exchanges.get(earlier) or state.abandoned.get(earlier)
        if exchange is None or not exchange.failed_run or exchange.failed_backend == self.asked.backend:
            return ""
        return why_failed(self._journal, self.key, exchange.failed_run)

    def _started(self, aligned: Aligned, reason: str, conversation: Conversation) -> StartedRun:
        exchange_id, leaf, earlier = aligned.exchange_id, aligned.leaf, aligned.earlier
        if aligned.question is not None:
            asked = aligned.question
            conversation.request(
                exchange_id, {"question_message_id": asked.message_id, "question_version": asked.version}
            )
        is_retry = earlier is not None and earlier.failed_backend == self.asked.backend
        attempt = len(earlier.runs) + 1 if earlier is not None and is_retry else 1
        plan = RunPlan(
            self.asked.backend,
            self.asked.model,
            attempt=self._again.attempt + 1 if self._again is not None else attempt,
            timeout_seconds=self.asked.timeout_seconds,
            memory_version=conversation.version,
            memory_rule=aligned.rule,
            memory_leaf_version=leaf[1] if leaf is not None else None,
            path_hash=path_hash_at(conversation, leaf),
            rerun_of=earlier.rerun_of if earlier is not None else None,
            fallback_reason=reason or "the app called another API",
        )
        run_id = conversation.start_run(exchange_id, plan, alongside=True)
        fell_back = any(isinstance(each, events.FallbackUsed) for each in conversation.pending)
        source = Source.FALLBACK if fell_back else self._again.source if self._again is not None else Source.RUN
        return StartedRun(exchange_id, run_id, plan, source, leaf)

    def _call(self, calls: Sequence[ToolCall]) -> None:
        new = tuple(each for each in calls if each.id not in self._called)
        if new:
            self._called.update(each.id for each in new)
            self.journal([Message(Role.ASSISTANT, None, new)], from_run=True)

    def _complete(self, completion: Completion) -> None:
        completion = replace(completion, messages=kept_messages(self._journal, completion.messages))
        place = Place(parent=self._leaf)

        def decide(conversation: Conversation) -> list[events.MessageJournaled]:
            source = self._begun.source
            conversation.complete_run(
                self.run_id, completion, source=source, duration_seconds=self._elapsed(), place=place
            )
            return [each for each in conversation.pending if isinstance(each, events.MessageJournaled)]

        def decide_late(conversation: Conversation) -> list[events.MessageJournaled]:
            if self._begun.plan is None:
                return []
            plan = self._begun.plan.replaced(rerun_of=self.run_id)
            late = conversation.start_run(self.exchange_id, plan, alongside=True)
            conversation.complete_run(
                late, completion, source=Source.RERUN, duration_seconds=self._elapsed(), place=place
            )
            return [each for each in conversation.pending if isinstance(each, events.MessageJournaled)]

        try:
            said = self._journal.commit(self.key, decide)
            if not completion.goes_on:
                self._recorder.answered(self.key, self._answer_of(completion))
        except RunNotOpen:  # it was closed as interrupted at its deadline: record the answer as a rerun
            said = self._journal.commit(self.key, decide_late)
        if self._part is not None:
            self._part.turn.answered(self._part, said, completion.goes_on)

    def _answer_of(self, completion: Completion) -> GivenAnswer:
        newest = self._journal.require(self.key).state.last_exchange_id
        said = [each.text for each in completion.messages]
        texts = frozenset({said[-1].strip(), "".join(said).strip()})
        return GivenAnswer(self.exchange_id, newest, texts, completion.thread_id)

    def _fail(self, failure: Failure) -> None:
        def decide(conversation: Conversation) -> None:
            conversation.fail_run(self.run_id, failure, self._elapsed())
            if not self._comes_again(failure):
                conversation.abandon(self.exchange_id, "the app's call failed")

        self._journal.commit(self.key, decide)
        if self._part is not None:
            self._part.turn.failed(self._part, self.exchange_id, self._leaf)

    def _comes_again(self, failure: Failure) -> bool:
        """Return whether the SDK may retry the request."""
        if self.asked.retries >= self._recorder.max_retries or failure.status != "error" or failure.partial_text:
            return False
        status = failure.http_status
        never_arrived = failure.details.get("exception") in {"APIConnectionError", "APITimeoutError"}
        return never_arrived if status is None else status in RETRIED_BY_SDK or status >= 500

    def _quietly(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - an error in recording must not cost the app its answer
            logger.warning("run %s of %r could not be recorded; the call continues: %s", self.run_id, self.key, error)

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 6)


class RecordedLook:
    """Record the result of a request about a run in progress; if the request fails, the run may still continue."""

    def __init__(self, run: RunRecording, look: RunQuery) -> None:
        self._run = run
        self._look = look

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Return the facts of the response that are known before its body is read."""
        return Context(self._look.backend, self._look.endpoint, request_id, http_status, self._look.thread_id)

    def begin(self) -> None:
        """Journal the tool results of the request before it is sent."""
        if self._look.results:
            self._run.journal(self._look.results, from_run=False)

    def refuse(self, failure: Failure) -> None:
        """Ignore the failed request, because the run may continue."""

    def see(self, seen: Seen) -> None:
        """Record the state of the run. A run that the app cancels has ended for the app: it may never look again."""
        if seen.remote_id != self._look.remote_id:
            return
        if self._look.endpoint.endswith("/cancel") and seen.outcome is None and not seen.unread:
            message = "the app cancelled the run"
            seen = replace(
                seen, outcome=self.context().failure("cancelled", message=message, remote_run_id=seen.remote_id)
            )
        self._run.see(seen)

    def broke(self, seen: Seen) -> None:
        """Ignore the broken stream, because the run may continue."""


class RecordedMessages:
    """Journal messages that the app adds to a thread, after the thread has accepted them."""

    def __init__(self, recorder: CallRecorder, written: ThreadWrite) -> None:
        self._recorder = recorder
        self._written = written
        self._key = recorder.key_for(written.thread_id)

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Return the facts of the response that are known before its body is read."""
        return Context("threads", "POST /threads", request_id, http_status, self._written.thread_id)

    def begin(self) -> None:
        """Do nothing, because the messages are journaled after the thread has accepted them."""

    def refuse(self, failure: Failure) -> None:
        """Do nothing, because neither the thread nor the journal has the messages."""

    def see(self, seen: Seen) -> None:
        """Journal the messages that the thread has accepted. Never raises."""
        if seen.thread_id is None:
            return
        self._recorder.follows(self._key, seen.thread_id)
        try:
            kept = kept_messages(self._recorder.ledger.journal, self._written.messages)
            self._written = replace(self._written, messages=kept)
            posted = self._recorder.ledger.journal.commit(self._key, self._decide, create=True)
            self._recorder.posted(self._key, posted)
        except Exception as error:  # noqa: BLE001 - an error in recording must not cost the app its answer
            logger.warning("messages of %r are in their thread, but could not be recorded: %s", self._key, error)

    def broke(self, seen: Seen) -> None:
        """Do nothing, because it is unknown whether the thread has accepted the messages."""

    def _decide(self, conversation: Conversation) -> list[GivenAnswer]:
        """Journal the messages; return those that are the answer of a run of this client, which is journaled already."""
        state = conversation.state
        last = state.last_exchange_id
        exchange = state.open_exchanges.get(last) if last is not None else None
        exchange_id = last if exchange is not None and not exchange.runs else None
        posted: list[GivenAnswer] = []
        for message in self._written.messages:
            given = self._recorder.answer(self._key, message, self._written.thread_id, state.last_exchange_id)
            if given is not None and given not in posted:
                posted.append(given)
                continue
            if message.role is Role.USER and exchange_id is None:
                give_up_idle(conversation)
                exchange_id = new_id()
            conversation.journal(message, exchange_id=exchange_id if message.role is Role.USER else None)
        return posted


T = TypeVar("T")

_LAST: ContextVar[RunRecording | None] = ContextVar("threadledger_last_run", default=None)
"""The last recorded run of this thread or task; the SDK retries a request in the same thread or task."""


_OPEN: ContextVar[tuple[RunRecording, ...]] = ContextVar("threadledger_open_runs", default=())
"""Runs whose calls the caller serves: a model that is recorded may use a client or a model that is recorded, too."""


class CallRecorder:
    """Record the calls of one client in a ledger."""

    def __init__(
        self, ledger: Ledger, key: str | None = None, max_retries: int = 0, close: Callable[[], None] = lambda: None
    ) -> None:
        self.ledger = ledger
        self.key = key
        self.max_retries = max_retries
        self.close = close
        self._lock = threading.Lock()
        self._remote: OrderedDict[str, RunRecording] = OrderedDict()
        self._places: OrderedDict[str, str] = OrderedDict()
        self._answers: OrderedDict[str, tuple[GivenAnswer, ...]] = OrderedDict()

    def recorded(self, sent: Sent) -> RunRecording | RecordedLook | RecordedMessages | None:
        """Return the record for a request; None if the request is not recorded. Call it in the thread or task of the caller."""
        request = read_request(sent)
        if request is not None:
            of_tools = request.secrets if isinstance(request, ModelRequest) else ()
            for secret in (*secrets_in(sent.headers), *of_tools):
                keep_secret(secret, recent=True)
        if isinstance(request, RunQuery):
            run = self._remote.get(request.remote_id)
            return RecordedLook(run, request) if run is not None else None
        if request is None or self.is_called_within_a_run():
            return None
        if isinstance(request, ThreadWrite):
            return RecordedMessages(self, request) if request.messages else None
        last = _LAST.get()
        again = last if last is not None and request.retries and last.is_same(self, request) else None
        run = RunRecording(self, request, again.key if again else self.key_for(request.place), again)
        _LAST.set(run)
        return run

    def key_for(self, place: str | None) -> str:
        """Return the conversation's key: from the block, the client, or the thread or response in the request, else a new one."""
        return named_key() or self.key or (self._places.get(place, place) if place else None) or f"run-{new_id()}"

    def is_called_within_a_run(self) -> bool:
        """Return whether the caller serves a call that is recorded already, in the same conversation.

        A recorder that names no conversation records in that of the call.
        """
        key = named_key() or self.key
        return any(run.covers(self.ledger.journal, key) for run in _OPEN.get())

    def follows(self, key: str, *ids: str | None) -> None:
        """Record later requests that refer to one of these provider ids in the conversation `key`."""
        with self._lock:
            _remember(self._places, {each: key for each in ids if each}, PLACES_MAX)

    def answered(self, key: str, answer: GivenAnswer) -> None:
        """Keep the answer of a run, because the app may add it to its thread next."""
        with self._lock:
            since = [
                each for each in self._answers.get(key, ()) if each.newest_exchange_id == answer.newest_exchange_id
            ]
            _remember(self._answers, {key: (*since[1 - ANSWERS_MAX :], answer)}, PLACES_MAX)

    def answer(self, key: str, message: Message, thread_id: str | None, newest: str | None) -> GivenAnswer | None:
        """Return the answer that a message for a thread is: of a run of this client, of the newest exchange, added once."""
        if message.role is not Role.ASSISTANT or message.calls():
            return None
        for each in self._answers.get(key, ()):
            is_elsewhere = each.thread_id is None or each.thread_id != thread_id
            if is_elsewhere and each.newest_exchange_id == newest and message.text.strip() in each.texts:
                return each
        return None

    def posted(self, key: str, answers: Sequence[GivenAnswer]) -> None:
        """Remove answers that the app has added to its thread: the same text once more is another message."""
        if answers:
            with self._lock:
                self._answers[key] = tuple(each for each in self._answers.get(key, ()) if each not in answers)

    def watch(self, remote_id: str, run: RunRecording | None) -> None:
        """Record the end of a provider's run when the app polls it; with None, stop doing so."""
        with self._lock:
            if run is None:
                self._remote.pop(remote_id, None)
            else:
                _remember(self._remote, {remote_id: run}, REMOTE_RUNS_MAX)


def _remember(kept: OrderedDict[str, T], new: dict[str, T], most: int) -> None:
    for name, value in new.items():
        kept[name] = value
        kept.move_to_end(name)
    while len(kept) > most:
        kept.popitem(last=False)


_KEY: ContextVar[str | None] = ContextVar("threadledger_recording", default=None)


@contextmanager
def in_conversation(key: str) -> Iterator[None]:
    """Record calls of recorded clients in this block, and in tasks started in it, in the conversation of this key.

    Raises:
        InvalidKey: the key is not a string of 1 to 200 storable characters.
    """
    stream_of(key)
    token = _KEY.set(key)
    try:
        yield
    finally:
        _KEY.reset(token)


def named_key() -> str | None:
    """Return the key of the caller's block; None outside a block."""
    return _KEY.get()
