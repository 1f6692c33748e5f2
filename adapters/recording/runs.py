"""Record one HTTP request that calls a model as a run: its exchange, its new messages, and its end.

The app decides how many runs it has open at the same time: a run is recorded alongside other runs of its conversation, in
cases where `ask` would be refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from threadledger.domain import (
    Completion,
    Conversation,
    ConversationChanged,
    Failure,
    JournaledMessage,
    Memory,
    Message,
    Role,
    RunNotOpen,
    RunPlan,
    Source,
    ToolCall,
    from_iso,
    limits,
    new_id,
    now,
)

from .alignment import first_new
from .items import INSTRUCTIONS
from .outcomes import Context, Seen
from .requests import Asked

if TYPE_CHECKING:
    from .recorder import Recorder

logger = logging.getLogger("threadledger")

WINDOW = "app"
"""Memory rule for a window that the app selected itself."""

RETRIED_BY_SDK = frozenset({408, 409, 429})
"""HTTP statuses that the SDK retries, in addition to 500 and above (openai 3.54, `_base_client.py`, `_should_retry`)."""

_NOT_SENT = frozenset({*(Role(each) for each in INSTRUCTIONS), Role.UNKNOWN})
"""Roles that are not compared, because instructions are not recorded."""


@dataclass(frozen=True)
class _Begin:
    """Hold the exchange and new messages of a run, derived from one version of its conversation."""

    exchange_id: str
    new: Sequence[Message]
    rule: str


@dataclass(frozen=True)
class _Begun:
    """Hold the ids and plan of a run after its start was recorded."""

    exchange_id: str = ""
    run_id: str = ""
    plan: RunPlan | None = None


class RecordedRun:
    """Record one model call, from before the request is sent to the end of its response."""

    def __init__(self, recorder: Recorder, asked: Asked, key: str, again: RecordedRun | None = None) -> None:
        self.key = key
        self.asked = asked
        self._begun = _Begun()
        self._recorder = recorder
        self._journal = recorder.ledger.journal
        self._again = again
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = False
        self._called: set[str] = set()

    @property
    def exchange_id(self) -> str:
        """Return the id of the run's exchange; empty before `begin`."""
        return self._begun.exchange_id

    @property
    def run_id(self) -> str:
        """Return the id of the run; empty before `begin`."""
        return self._begun.run_id

    def context(self, request_id: str | None = None, http_status: int | None = None) -> Context:
        """Return the facts of the response that are known before its body is read."""
        return Context(self.asked.backend, self.asked.endpoint, request_id, http_status, self.asked.thread_id)

    def is_same(self, recorder: Recorder, asked: Asked) -> bool:
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
            memory = self._journal.memory(self.key, last=len(self.asked.messages) + 1)
            decide = partial(self._decide, memory)
            try:
                self._begun = self._journal.commit(self.key, decide, create=True)
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

        def decide(conversation: Conversation) -> None:
            for message in messages:
                conversation.journal(message, source=source, exchange_id=self.exchange_id, run_id=run_id)

        self._journal.commit(self.key, decide)

    def _decide(self, memory: Memory, conversation: Conversation) -> _Begun:
        if not conversation.pending and conversation.version != memory.version:
            raise ConversationChanged(f"the conversation {self.key!r} has changed since its memory was read")
        conversation.close_overdue_runs()
        begin = self._begin(conversation, memory)
        after = max((place for place, each in enumerate(begin.new) if each.role is Role.ASSISTANT), default=-1)
        for place, message in enumerate(begin.new):
            conversation.journal(message, exchange_id=begin.exchange_id if place > after else None)
        state = conversation.state
        given_up = state.abandoned.get(begin.exchange_id)
        open_one = state.open_exchanges.get(begin.exchange_id, {})
        plan = RunPlan(
            self.asked.backend,
            self.asked.model,
            attempt=len(open_one.get("runs", ())) + 1,
            timeout_seconds=self.asked.timeout_seconds,
            memory_version=conversation.version,
            memory_rule=begin.rule,
            rerun_of=given_up["runs"][-1] if given_up and given_up["runs"] else open_one.get("rerun_of"),
            fallback_reason="the app asked another API",
        )
        return _Begun(begin.exchange_id, conversation.start_run(begin.exchange_id, plan, alongside=True), plan)

    def _begin(self, conversation: Conversation, memory: Memory) -> _Begin:
        sent, again = self.asked.messages, self._again
        known = [each for each in memory.messages if each.message.role not in _NOT_SENT]
        shown = [each.message for each in known]
        place = len(sent)
        if again is None:
            place = first_new(sent, shown, held=self.asked.held, all_read=len(memory.messages) <= len(sent))
        rule = "all" if self.asked.held or again is not None or place == len(shown) else WINDOW
        new = sent[place:]
        earlier = again.exchange_id if again is not None else _exchange_of(new, known)
        state = conversation.state
        if (
            earlier
            and earlier not in state.answered
            and (earlier in state.open_exchanges or earlier in state.abandoned)
        ):
            return _Begin(earlier, new, rule)
        give_up_idle(conversation)
        return _Begin(new_id(), new, rule)

    def _call(self, calls: Sequence[ToolCall]) -> None:
        new = tuple(each for each in calls if each.id not in self._called)
        if new:
            self._called.update(each.id for each in new)
            self.journal([Message(Role.ASSISTANT, None, new)], from_run=True)

    def _complete(self, completion: Completion) -> None:
        def decide(conversation: Conversation) -> None:
            conversation.complete_run(self.run_id, completion, duration_seconds=self._elapsed())

        def decide_late(conversation: Conversation) -> None:
            if self._begun.plan is None:
                return
            plan = replace(self._begun.plan, rerun_of=self.run_id)
            late = conversation.start_run(self.exchange_id, plan, alongside=True)
            conversation.complete_run(late, completion, source=Source.RERUN, duration_seconds=self._elapsed())

        try:
            self._journal.commit(self.key, decide)
        except RunNotOpen:  # it was closed as interrupted at its deadline: record the answer as a rerun
            self._journal.commit(self.key, decide_late)

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


def _exchange_of(new: Sequence[Message], known: Sequence[JournaledMessage]) -> str | None:
    """Return the exchange that continues: the one whose tool results are sent, or whose question is sent again."""
    if not new:
        return known[-1].exchange_id if known else None
    results = {each.tool_call_id for each in new if each.role is Role.TOOL}
    for each in reversed(known):
        if any(call.id in results for call in each.message.calls()):
            return each.exchange_id
    return None


def give_up_idle(conversation: Conversation) -> None:
    """Abandon open exchanges without recent activity, because the app has a newer question."""
    idle = now() - timedelta(seconds=limits.BETWEEN_RUNS_SECONDS)
    for exchange_id, exchange in list(conversation.state.open_exchanges.items()):
        active_at = exchange.get("active_at")
        if not active_at or from_iso(active_at) < idle:
            conversation.abandon(exchange_id, "the app went on without an answer")
