"""Record the runs of an exchange in its conversation: their start, what their tools did, and their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from ..conversation import TOO_LATE, Place, RunPlan
from ..conversation.events import BranchSelected, MessageJournaled
from ..conversation.messages import Role, Source
from ..errors import ConversationChanged, ConversationNotFound
from ..failures import Cause, Failure, diagnose
from ..ids import id_behind
from ..limits import PARTIAL_TEXT_CHARS_MAX

if TYPE_CHECKING:
    from ..conversation import Completion, Conversation, ExchangeRecord
    from ..conversation.messages import Message, Parent
    from ..journal import Also, Journal
    from ..memory import Memory
    from ..threads import PreparedThread
    from .approvals import CallTurn
    from .backend import BackendRequest, ToolFunction
    from .policy import Candidate

T = TypeVar("T")


@dataclass
class BranchPoint:
    """Name the message that an exchange answers aside, on a branch of its own."""

    parent: Parent
    """The question, or the newest message that the exchange has journaled since."""
    end_version: int | None
    """Version of the end when the exchange began: its answer is selected if the end is still there."""
    answered: bool = False
    """Whether the question had an answer before."""


@dataclass(frozen=True)
class Mode:
    """Describe how the runs of an exchange differ from those of a new question.

    A rerun uses a recorded memory and chooses the place of its answer; a fork does the same in a copy of the
    conversation; a shadow run is only recorded, and its answer changes nothing.
    """

    again: bool = False
    """Whether the exchange may have been abandoned before; otherwise a run is refused if it was."""
    rerun_of: str | None = None
    """Id of the run that is run again."""
    idempotency_key: str | None = None
    """Key that is stored with the first run."""
    memory: Memory | None = None
    """Memory that every run uses; None uses the conversation's current memory at each run."""
    tools: Callable[[], Mapping[str, ToolFunction]] | None = None
    """Function that returns the tools of a run, called for each run; None uses the app's functions."""
    supersedes: str | None = None
    """Id of the run whose answer is replaced."""
    place: Callable[[], Place] = Place
    """Function that returns the place of the answer in memory."""
    shadow: bool = False
    """Whether the runs are only recorded."""
    records: Callable[[Journal, str, str, Mode], RunRecords] | None = None
    """Function that creates what records the runs; None records them as this mode says."""
    ending: Sequence[Message] = ()
    """Messages that the backend is sent after the memory; they are part of no record."""
    is_heard: bool = False
    """Whether a client reads the text while it is written: after a part that no next run can continue, none starts."""
    turn: Callable[[], CallTurn] | None = None
    """Function that returns the tool calls that were decided, which each run uses before it calls the backend."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """What a served request asked for and is not given to any backend, by kind."""
    served: bool = False
    """Whether a served request is answered: its runs are shown all of memory, and their answers have ids from the start."""
    takes_incomplete: bool = False
    """Whether an answer that reached its limit of tokens, or was filtered, is an answer; otherwise its run has failed."""
    waits: Also | None = None
    """What is written in the transaction of an answer that waits for the results of tool calls."""
    branch: BranchPoint | None = None
    """Where the runs' messages are journaled aside; None journals them at the end."""
    admit: Callable[[], str] = lambda: ""
    """Function that counts one more run, or returns the limit that prevents it."""
    give_back: Callable[[], None] = lambda: None
    """Function that removes a counted run that was not started."""

    def beside(self, journal: Journal, recorded: ExchangeRecord) -> Mode:
        """Return this mode with the runs aside if those of the exchange were: behind its question and their tool results.

        The answer is selected if the end has not moved since the first of them started.
        """
        last = recorded.last()
        if last is None or last.memory_leaf_version is None:
            return self
        from .branching import branch_of

        return replace(self, branch=branch_of(journal, recorded))


NEW_QUESTION = Mode()
"""The mode of a question that has no run yet."""


@dataclass
class Run:
    """Hold one attempt of one backend in progress."""

    run_id: str
    candidate: Candidate
    plan: RunPlan
    memory: Memory
    """The recorded view of the memory, whatever of it the backend is shown."""
    asked: BackendRequest
    """What the backend is to answer, without its thread."""
    began: float
    """Monotonic time at which the run was recorded."""
    called: float | None = None
    """Monotonic time at which the backend was called; None while its thread is prepared."""
    request: BackendRequest | None = None
    """What the backend was sent, once its thread was prepared; None if the run uses no thread."""
    thread: PreparedThread | None = None
    """The thread that is claimed for the run; None if it uses none, or if no mirror is configured for its backend."""
    failure: Failure | None = None
    """Why the run failed, once this is recorded."""
    refusal: Failure | None = None
    """Why its backend is not called: it does not fit a budget."""
    partial: list[str] = field(default_factory=list)
    """Text that was streamed so far."""
    said: str = ""
    """Text of failed runs that this run continues; empty once it is journaled with the run's first tool calls."""
    has_called_tools: bool = False
    kept_pieces: int = 0
    """Number of pieces of the streamed text that were journaled with tool calls."""
    message_id: str | None = None
    """Id of the first message that the model will say in the run; None if that is not decided yet."""
    said_messages: int = 0
    """Number of messages that the model has said so far."""
    versions: list[int] = field(default_factory=list)
    """Versions of the messages that were journaled of it so far."""

    @property
    def duration_seconds(self) -> float:
        """Return the seconds since the backend was called; if it was not, since the run was recorded."""
        return round(time.monotonic() - (self.called or self.began), 6)

    def ids_of(self, messages: Sequence[Message]) -> list[str | None]:
        """Return the ids of messages that are about to be journaled, which the run has said; None for those of others."""
        numbers = count(self.said_messages)
        return [
            id_behind(self.message_id, next(numbers)) if self.message_id and each.role is Role.ASSISTANT else None
            for each in messages
        ]

    def with_partial_text(self, failure: Failure) -> Failure:
        """Return the failure with the text that was streamed before it."""
        if failure.partial_text is not None or not self.partial:
            return failure
        return replace(failure, partial_text="".join(self.partial)[:PARTIAL_TEXT_CHARS_MAX])


@dataclass(frozen=True)
class Accepted:
    """Describe an answer that was recorded."""

    completion: Completion
    run_id: str
    message_id: str
    version: int
    """Version of the conversation with the answer."""
    selected: bool = True
    """Whether memory ends with the answer, or continues after it."""


def _is_selected(conversation: Conversation, place: Place) -> bool:
    """Return whether an answer that was just recorded at a place is in memory."""
    return place.parent is None or any(isinstance(each, BranchSelected) for each in conversation.pending)


class RunRecords:
    """Record the runs of an exchange in its conversation."""

    alongside = False
    """Whether other exchanges may have open runs at the same time."""

    def __init__(self, journal: Journal, key: str, exchange_id: str, mode: Mode, after: int = 0) -> None:
        self._journal = journal
        self._key = key
        self._exchange_id = exchange_id
        self.mode = mode
        has_question = not (mode.again or mode.served or mode.memory is not None or mode.branch is not None)
        self.asked_at = after if has_question else 0
        """Version of the question, with which the memory of its runs ends; 0 in a rerun."""
        self.has_threads = True
        """Whether the conversation had linked threads when the newest run started; True before the first run."""

    def plan(self, plan: RunPlan, in_thread: bool) -> RunPlan:
        """Return the plan as this mode records it; `in_thread` says that the backend answers in a thread.

        A rerun uses the linked thread only if the thread shows the memory that the failed run saw.
        """
        if self.mode.branch is not None:
            branch = self.mode.branch
            leaf, answered = branch.parent[1], branch.answered
            return plan.replaced(apart=in_thread, memory_leaf_version=leaf, question_answered=answered)
        if self.mode.turn is not None:  # the thread has the calls, and no results
            plan = plan.replaced(apart=in_thread)
            return plan
        apart = in_thread and self.mode.memory is not None
        if apart:
            present = self._journal.memory_later(self._journal.require(self._key))
            apart = present.digest(plan.memory_rule) != plan.memory_hash
        return plan.replaced(apart=apart, supersedes_run_id=self.mode.supersedes)

    def start(self, plan: RunPlan, failed: Run | None, must_be_open: bool) -> str:
        """Record that a backend is about to be called; return the run's id.

        Raises:
            Conflict: see `Conversation.start_run`.
        """

        def decide(conversation: Conversation) -> str:
            self.has_threads = bool(conversation.state.links)
            return conversation.start_run(self._exchange_id, plan, must_be_open=must_be_open, alongside=self.alongside)

        return self._commit(decide)

    def _commit(self, decide: Callable[[Conversation], T], also: Also | None = None) -> T:
        """Commit a decision about a run, and what is written with it.

        Raises:
            ConversationChanged: the conversation was deleted.
        """
        try:
            return self._journal.commit(self._key, decide, also=also)
        except ConversationNotFound as error:
            raise ConversationChanged(
                f"the conversation {self._key!r} was deleted meanwhile: nothing more of its run was recorded"
            ) from error

    def keep_tools(self, run: Run, messages: Sequence[Message]) -> bool:
        """Journal tool calls and their results; return whether the run is still open."""

        said: list[MessageJournaled] = []
        ids = run.ids_of(messages)

        def decide(conversation: Conversation) -> bool:
            is_open = self._is_open(conversation, run)
            parent = self._parent(conversation)
            said.clear()
            for message, message_id in zip(messages, ids, strict=True):
                each = conversation.journal(
                    message,
                    source=Source.RUN,
                    exchange_id=self._exchange_id,
                    run_id=run.run_id,
                    message_id=message_id,
                    parent=parent,
                )
                parent = (each.message_id, each.originator_version) if parent is not None else None
                said.append(each)
            return is_open

        is_open = self._commit(decide)
        run.versions += [each.originator_version for each in said]
        run.said_messages += sum(each is not None for each in ids)
        if self.mode.branch is not None and said:
            self.mode.branch.parent = said[-1].message_id, said[-1].originator_version
        return is_open

    def complete(self, run: Run, completion: Completion, fallback: bool) -> Accepted:
        """Record the answer; if another process closed the run as interrupted, record it as a new run.

        Raises:
            ConversationBusy: another run is open.
            Conflict: the answer can no longer be placed.
            LogRewound: the log no longer has the run.
        """
        source = Source.RERUN if self.mode.rerun_of else Source.FALLBACK if fallback else Source.RUN
        chosen, branch = self.mode.place(), self.mode.branch
        ids = run.ids_of(completion.messages)

        def decide(conversation: Conversation) -> tuple[str, str, int, bool]:
            parent = self._parent(conversation)
            place = chosen
            if parent is not None:
                place = Place(parent=parent, end_version=branch.end_version if branch is not None else None)
            if not self._is_open(conversation, run):
                at = place if place != Place() else self._late_place(run)
                late = conversation.accept_late(
                    run.run_id, self._exchange_id, run.plan, completion, at, alongside=self.alongside
                )
                self.answered(conversation, run)
                return *late, conversation.version, _is_selected(conversation, at)
            if place == Place():
                place = self._place_behind_question(conversation, run)
            message_id = conversation.complete_run(
                run.run_id,
                completion,
                source=source,
                duration_seconds=run.duration_seconds,
                place=replace(place, run_versions=tuple(run.versions)) if run.versions else place,
                message_ids=ids,
            )
            self.answered(conversation, run)
            return run.run_id, message_id, conversation.version, _is_selected(conversation, place)

        return Accepted(completion, *self._commit(decide, self.mode.waits if completion.waits_for else None))

    def fail(self, run: Run, failure: Failure) -> bool:
        """Record the failure; return False if another process has closed the run."""
        from .left_threads import leave_threads

        cause = diagnose(failure)

        def decide(conversation: Conversation) -> bool:
            if not self._is_open(conversation, run):
                return False
            conversation.fail_run(run.run_id, failure, run.duration_seconds)
            if cause in {Cause.THREAD_MISSING, Cause.PROVIDER_GONE} and failure.thread_id:
                for mirror in conversation.state.links:
                    conversation.lose_thread(mirror, failure.thread_id, cause.value)
            leave_threads(conversation, failure, run.memory, run.plan.apart)
            return True

        is_ours = self._commit(decide)
        if self.mode.place() != Place():
            self._retract_tools(run)
        return is_ours

    def abandon(self, reason: str) -> None:
        """Record that the exchange has no answer."""

        def decide(conversation: Conversation) -> None:
            self.left(conversation)
            conversation.abandon(self._exchange_id, reason)

        with suppress(ConversationNotFound):  # it was deleted, and its exchanges ended with it
            self._journal.commit(self._key, decide)

    def give_up(self, run: Run | None, failure: Failure) -> None:
        """Close the open run and the exchange, so that the next question need not wait."""

        def decide(conversation: Conversation) -> None:
            if run is not None and run.run_id in conversation.state.open_runs:
                conversation.fail_run(run.run_id, failure, run.duration_seconds)
            if not self.is_continued(failure):
                self.left(conversation)
                conversation.abandon(self._exchange_id, failure.message or failure.status)

        with suppress(ConversationNotFound):  # it was deleted, and its exchanges ended with it
            self._journal.commit(self._key, decide)

    def answered(self, conversation: Conversation, run: Run) -> None:
        """Record what else an answer means, in its commit."""

    def left(self, conversation: Conversation) -> None:
        """Record what else it means that there is no answer, in the commit that says so."""

    def is_continued(self, failure: Failure) -> bool:
        """Return whether another process continues the exchange of a run that has stopped."""
        return self.mode.served and failure.status == "interrupted"

    def _parent(self, conversation: Conversation) -> Parent | None:
        """Return the message that the run's next message follows aside; None if it is journaled at the end.

        A run whose exchange another branch has left continues after its own question.
        """
        if self.mode.branch is not None:
            return self.mode.branch.parent
        left = conversation.left_exchange(self._exchange_id)
        return self._journal.end_of_exchange(self._key, left) if left is not None else None

    def _is_open(self, conversation: Conversation, run: Run) -> bool:
        """Return whether a run is open; if another process closed it, the log must still have its start."""
        if run.run_id in conversation.state.open_runs:
            return True
        conversation.require_current(run.plan.memory_version)
        from .later_messages import require_start

        require_start(self._journal, self._key, run.run_id, run.plan.memory_version)
        return False

    def _place_behind_question(self, conversation: Conversation, run: Run) -> Place:
        """Return the place of an answer: after its question, before what others wrote since then."""
        exchange = conversation.state.open_exchanges.get(self._exchange_id)
        if not self.asked_at or exchange is None or exchange.messages == conversation.state.messages:
            return Place()  # nothing was journaled since the question
        from .later_messages import place_behind_question

        sent = run.request.thread_version if run.request is not None else 0
        return place_behind_question(self._journal, self._key, self._exchange_id, run.run_id, self.asked_at, sent)

    def _late_place(self, run: Run) -> Place:
        """Return the place of an answer that comes after newer messages: behind the question and what followed it."""
        shown = run.memory.messages[-1:]
        behind, version = (shown[0].message_id, shown[0].version) if shown else (None, 0)
        for event in self._journal.history(self._key, after=run.plan.memory_version):
            if isinstance(event, MessageJournaled):
                if event.exchange_id != self._exchange_id:
                    return Place(behind=behind, versions={behind: version} if behind is not None else {})
                behind, version = event.message_id, event.originator_version
        return Place()

    def _retract_tools(self, run: Run) -> None:
        """Retract a failed rerun's tool messages: at the end of a memory that has continued they would be out of place."""
        used = [each for each in self._journal.memory(self._key).messages if each.run_id == run.run_id]

        def decide(conversation: Conversation) -> None:
            for each in used:
                conversation.retract(each.message_id, TOO_LATE, each.version)

        self._journal.commit(self._key, decide)
