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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from threadledger.domain import limits
from threadledger.domain.conversation import (
    Completion,
    Conversation,
    ConversationState,
    Place,
    RunPlan,
    events,
    stream_of,
)
from threadledger.domain.conversation.messages import JournaledMessage, Message, Parent, Role, Source, ToolCall
from threadledger.domain.conversation.parts import Part, Text, blob_of
from threadledger.domain.errors import ConversationChanged, CorruptEvent, InvalidInput, RunNotOpen
from threadledger.domain.failures import Failure, keep_secret, whole_text
from threadledger.domain.ids import new_id, now
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger, why_failed
from threadledger.domain.memory import ALL, RULE_2, Memory

from ..openai import Context, Seen
from .branches import BranchSearch, BranchStart, journal_new, path_hash_at
from .histories import NOT_SENT, after_the_model, first_new
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

logger = logging.getLogger("threadledger")

WINDOW = f"{RULE_2}app"
"""Memory rule for a window that the app selected itself."""

RETRIED_BY_SDK = frozenset({408, 409, 429})
"""HTTP statuses that the SDK retries, in addition to 500 and above (openai 3.54, `_base_client.py`, `_should_retry`)."""

UNANSWERED_MESSAGES_READ = 100
"""Number of messages that are read of memory besides as many as a request has: tool calls and results of failed runs."""

ANSWERS_MAX = 10
"""Maximum number of answers of a conversation that are remembered for the message that adds them to a thread."""


@dataclass(frozen=True)
class _Begin:
    """Hold the exchange and new messages of a run, derived from one version of its conversation."""

    exchange_id: str | None
    """None for a new exchange."""
    new: Sequence[Message]
    rule: str


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
        self._read_max = 0
        """Maximum number of messages that were read of memory."""
        self._leaf: Parent | None = None
        """The last message of the run's branch, if it is aside."""

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
        refused: ConversationChanged | None = None
        for _ in range(limits.DECIDE_ATTEMPTS_MAX):
            earlier = self._journal.load(self.key)
            newest = earlier.state.last_exchange_id if earlier is not None else None
            unanswered = earlier is not None and newest not in earlier.state.answered
            self._read_max = len(self.asked.messages) + (UNANSWERED_MESSAGES_READ if unanswered else 1)
            memory = self._journal.memory(self.key, last=self._read_max)
            self.asked = replace(self.asked, messages=kept_messages(self._journal, self.asked.messages, memory))
            branch = self._branch(earlier.state, memory) if earlier is not None else None
            reason = self._why_failed(earlier, memory, branch) if earlier is not None and unanswered else ""
            path = memory.path_hash or self._journal.path_hash(self.key, memory.version)
            decide = partial(self._decide, memory, reason, path, branch)
            try:
                self._begun = self._journal.commit(self.key, decide, create=True)
                self._leaf = self._begun.leaf
                return
            except ConversationChanged as error:
                refused = error
        raise refused or AssertionError("at least one attempt was made")

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

    def _branch(self, state: ConversationState, memory: Memory) -> BranchStart | None:
        """Return the branch that the request continues or begins; None if it continues the end of memory."""
        if self._again is not None:
            leaf, sent = self._again._leaf, len(self.asked.messages)
            return BranchStart(leaf, sent, exchange_id=self._again.exchange_id) if leaf is not None else None
        if self.asked.held:
            return None
        all_read = len(memory.messages) < self._read_max
        search = BranchSearch(self._journal, self.key, state, memory, all_read)
        with suppress(CorruptEvent):  # of a message that is not in memory: the call is made, and recorded as a window
            return search.start(self.asked.messages, partial(_is_of_a_failed_run, state=state))
        return None

    def _why_failed(self, conversation: Conversation, memory: Memory, branch: BranchStart | None) -> str:
        """Return why the run before failed, if this one continues its exchange on another backend."""
        state, earlier = conversation.state, self._begin(conversation, memory, branch).exchange_id or ""
        exchange = state.open_exchanges.get(earlier) or state.abandoned.get(earlier)
        if exchange is None or not exchange.failed_run or exchange.failed_backend == self.asked.backend:
            return ""
        return why_failed(self._journal, self.key, exchange.failed_run)

    def _decide(
        self, memory: Memory, reason: str, path: str, branch: BranchStart | None, conversation: Conversation
    ) -> StartedRun:
        if not conversation.pending and conversation.version != memory.version:
            raise ConversationChanged(f"the conversation {self.key!r} has changed since its memory was read")
        conversation.know_path(path)
        conversation.close_overdue_runs()
        begin = self._begin(conversation, memory, branch)
        exchange_id = begin.exchange_id
        if exchange_id is None:
            give_up_idle(conversation)
            exchange_id = new_id()
        leaf = journal_new(conversation, branch, begin.new, exchange_id)
        state = conversation.state
        earlier = state.open_exchanges.get(exchange_id) or state.abandoned.get(exchange_id)
        is_retry = earlier is not None and earlier.failed_backend == self.asked.backend
        attempt = len(earlier.runs) + 1 if earlier is not None and is_retry else 1
        plan = RunPlan(
            self.asked.backend,
            self.asked.model,
            attempt=self._again.attempt + 1 if self._again is not None else attempt,
            timeout_seconds=self.asked.timeout_seconds,
            memory_version=conversation.version,
            memory_rule=begin.rule,
            memory_leaf_version=leaf[1] if leaf is not None else None,
            path_hash=path_hash_at(conversation, leaf),
            rerun_of=earlier.rerun_of if earlier is not None else None,
            fallback_reason=reason or "the app called another API",
        )
        run_id = conversation.start_run(exchange_id, plan, alongside=True)
        fell_back = any(isinstance(each, events.FallbackUsed) for each in conversation.pending)
        source = Source.FALLBACK if fell_back else self._again.source if self._again is not None else Source.RUN
        return StartedRun(exchange_id, run_id, plan, source, leaf)

    def _begin(self, conversation: Conversation, memory: Memory, branch: BranchStart | None) -> _Begin:
        if branch is not None:
            return _Begin(branch.exchange_id, self.asked.messages[branch.known :], ALL)
        earlier, place, shown = self._continued(conversation, memory)
        rule = ALL if self.asked.held or self._again is not None or place == shown else WINDOW
        return _Begin(earlier, self.asked.messages[place:], rule)

    def _continued(self, conversation: Conversation, memory: Memory) -> tuple[str | None, int, int]:
        """Return the unanswered exchange that the request continues, the place of its first new message, and the number
        of messages in memory that are compared with it."""
        sent, again, state = self.asked.messages, self._again, conversation.state
        known = [each for each in memory.messages if each.message.role not in NOT_SENT]
        shown = [each.message for each in known]
        place = len(sent)
        read = {"held": self.asked.held, "all_read": len(memory.messages) < self._read_max}
        if again is None:
            place = first_new(sent, shown, **read)
            asked = [each.message for each in known if not _is_of_a_failed_run(each, state)]
            if len(asked) < len(shown):  # without what a failed run did on the way, which another API is not sent
                place = max(place, first_new(sent, asked, **read))
        earlier, caller = (again.exchange_id, None) if again is not None else _exchange_of(sent[place:], known)
        if again is None and _has_open_run(state, earlier, caller):  # the same question again, at the same time
            earlier, place = None, first_new(sent, _without_waiting_for_runs(known, state), **read)
        if earlier in state.answered or (earlier not in state.open_exchanges and earlier not in state.abandoned):
            earlier = None
        return earlier, place, len(shown)

    def _call(self, calls: Sequence[ToolCall]) -> None:
        new = tuple(each for each in calls if each.id not in self._called)
        if new:
            self._called.update(each.id for each in new)
            self.journal([Message(Role.ASSISTANT, None, new)], from_run=True)

    def _complete(self, completion: Completion) -> None:
        completion = replace(completion, messages=kept_messages(self._journal, completion.messages))
        place = Place(parent=self._leaf)

        def decide(conversation: Conversation) -> None:
            source = self._begun.source
            conversation.complete_run(
                self.run_id, completion, source=source, duration_seconds=self._elapsed(), place=place
            )

        def decide_late(conversation: Conversation) -> None:
            if self._begun.plan is None:
                return
            plan = self._begun.plan.replaced(rerun_of=self.run_id)
            late = conversation.start_run(self.exchange_id, plan, alongside=True)
            conversation.complete_run(
                late, completion, source=Source.RERUN, duration_seconds=self._elapsed(), place=place
            )

        try:
            self._journal.commit(self.key, decide)
            if not completion.goes_on:
                self._recorder.answered(self.key, self._answer_of(completion))
        except RunNotOpen:  # it was closed as interrupted at its deadline: record the answer as a rerun
            self._journal.commit(self.key, decide_late)

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


def _exchange_of(new: Sequence[Message], known: Sequence[JournaledMessage]) -> tuple[str | None, str | None]:
    """Return the exchange that continues: the one whose tool results are sent, or whose question is sent again.

    The second value is the run that called the tools.
    """
    if not new:
        return (known[-1].exchange_id, None) if known else (None, None)
    results = {each.tool_call_id for each in new if each.role is Role.TOOL}
    for each in reversed(known):
        if any(call.id in results for call in each.message.calls()):
            return each.exchange_id, each.run_id
    return None, None


def _has_open_run(state: ConversationState, exchange_id: str | None, caller: str | None = None) -> bool:
    """Return whether a run of the exchange is open, other than the one that called the tools."""
    return exchange_id is not None and any(
        run.exchange_id == exchange_id and run_id != caller for run_id, run in state.open_runs.items()
    )


def _without_waiting_for_runs(known: Sequence[JournaledMessage], state: ConversationState) -> list[Message]:
    """Return the messages of memory, except those after the model's last one that open runs are about to answer."""
    end = after_the_model([each.message for each in known])
    rest = (each for each in known[end:] if not _has_open_run(state, each.exchange_id))
    return [each.message for each in (*known[:end], *rest)]


def _is_of_a_failed_run(each: JournaledMessage, state: ConversationState) -> bool:
    """Return whether a message is a tool call, or the result of one, of an exchange whose run has failed."""
    exchange = state.open_exchanges.get(each.exchange_id or "") or state.abandoned.get(each.exchange_id or "")
    uses_tools = each.message.role is Role.TOOL or bool(each.message.calls())
    return uses_tools and exchange is not None and exchange.failed_run is not None


def give_up_idle(conversation: Conversation) -> None:
    """Abandon open exchanges without recent activity, because the app has a newer question; one may wait for a person."""
    moment = now()
    for exchange_id, exchange in list(conversation.state.open_exchanges.items()):
        if not exchange.is_active(moment) and not exchange.waits:
            conversation.abandon(exchange_id, "the app went on without an answer")


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


def kept_messages(journal: Journal, messages: Sequence[Message], memory: Memory | None = None) -> tuple[Message, ...]:
    """Store the data inside messages, and return them with the addresses of their attachments.

    What the memory refers to is not stored again: an app sends its whole history with each request. One that cannot be
    stored is replaced by a text, because the app's call must not fail for it.
    """
    if all(not isinstance(each.content, tuple) and not each.native_json for each in messages):
        return tuple(messages)
    known = (
        {blob_of(part) for each in memory.messages for part in _parts_of(each.message)} if memory is not None else set()
    )
    return tuple(_kept(journal, each, known) for each in messages)


def _parts_of(message: Message) -> tuple[Part, ...]:
    return message.content if isinstance(message.content, tuple) else ()


def _kept(journal: Journal, message: Message, known: Collection[str]) -> Message:
    try:
        return journal.keep(message, known)
    except InvalidInput:
        parts = _parts_of(message)
    try:
        kept = tuple(_kept_part(journal, part, known) for part in parts)
        return journal.keep(message.replaced(content=kept) if kept else message, known)
    except InvalidInput as refusal:
        return Message(message.role, f"[a message was not kept: {whole_text(str(refusal))}]")


def _kept_part(journal: Journal, part: Part, known: Collection[str]) -> Part:
    try:
        [kept] = _parts_of(journal.keep(Message(Role.USER, (part,)), known))
        return kept
    except InvalidInput as refusal:
        return Text(f"[an attachment was not kept: {whole_text(str(refusal))}]")


T = TypeVar("T")

_LAST: ContextVar[RunRecording | None] = ContextVar("threadledger_last_run", default=None)
"""The last recorded run of this thread or task; the SDK retries a request in the same thread or task."""


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
        if isinstance(request, ThreadWrite):
            return RecordedMessages(self, request) if request.messages else None
        if request is None:
            return None
        last = _LAST.get()
        again = last if last is not None and request.retries and last.is_same(self, request) else None
        run = RunRecording(self, request, again.key if again else self.key_for(request.place), again)
        _LAST.set(run)
        return run

    def key_for(self, place: str | None) -> str:
        """Return the conversation's key: from the block, the client, or the thread or response in the request, else a new one."""
        return named_key() or self.key or (self._places.get(place, place) if place else None) or f"run-{new_id()}"

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
