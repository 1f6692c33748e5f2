"""Define the aggregate: commands decide and raise errors, `evolve` (in `state.py`) applies events.

A command adds one or more events to `pending`; nothing is stored until the ledger saves them. After an error, discard
the object: load it again and decide again.

The values of a run are defined here too: its plan (`RunPlan`) and what a backend answered (`Completion`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import zip_longest
from typing import Any, Self, TypeVar

import msgspec

from ..errors import (
    ConversationBusy,
    ConversationChanged,
    ExchangeAnswered,
    InvalidInput,
    InvalidMessage,
    RunNotOpen,
)
from ..failures import Failure
from ..ids import from_iso, id_beside, new_id, now, to_iso
from ..limits import METADATA_BYTES_MAX, RUN_GRACE_SECONDS
from . import events as e
from .keys import check_idempotency_key, check_texts, stream_of
from .messages import Message, Parent, Source, Usage
from .parsing import plain_json
from .state import ConversationState, OpenExchange, OpenRun, evolve

E = TypeVar("E", bound=e.Event)

_NOT_STORED_OF_PLAN = ("timeout_seconds", "fallback_reason", "dropped")


@dataclass(frozen=True)
class Place:
    """Describe where an answer goes in memory, by the ids of messages; by default at the end."""

    superseded: tuple[str, ...] = ()
    """The messages that it replaces: those that the earlier run journaled, its answer last."""
    behind: str | None = None
    """The message that it follows directly; None at the end of memory."""
    versions: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Versions of these messages, by id."""
    run_versions: tuple[int, ...] = field(default=(), compare=False)
    """Versions of the messages that the run journaled before its answer."""
    parent: Parent | None = None
    """The message that it follows aside, on a branch of its own."""
    end_version: int | None = None
    """Version that the end must still have for an answer aside to be selected; None does not select it."""


_AT_THE_END = Place()


class Conversation:
    """Represent one conversation by the state that its decisions need: see `ConversationState`."""

    def __init__(self, stream: str, state: ConversationState, actor: str | None = None) -> None:
        self.id = stream
        self.state = state
        self.actor = actor
        self.pending: list[e.Event] = []
        self.far_end: str | None = None
        """Id of the message at the end, if so many events came after it that a reader has to be led to it."""

    @classmethod
    def start(
        cls,
        key: str,
        metadata: Mapping[str, Any] | None = None,
        parent_key: str | None = None,
        parent_version: int | None = None,
        actor: str | None = None,
        deleted: ConversationState | None = None,
        written_at: str | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Self:
        """Create a conversation. `actor` is who causes its events from now on; `deleted` is the state of a deleted key.

        `written_at` and `origin` are what the source says about an imported one.

        Raises:
            InvalidKey: see `stream_of`.
            InvalidInput: the metadata is not JSON, or too large.
        """
        state = ConversationState() if deleted is None else deleted
        conversation = cls(stream_of(key), state, actor)
        metadata_json = plain_json(metadata or {}, "the metadata")
        if len(metadata_json.encode()) > METADATA_BYTES_MAX:
            raise InvalidInput(f"the metadata of {key!r} exceeds {METADATA_BYTES_MAX:,} bytes: store it elsewhere")
        conversation.record(
            e.ConversationStarted,
            key=key,
            metadata=json.loads(metadata_json),  # a copy, because the caller may change the original
            parent_key=parent_key,
            parent_version=parent_version,
            generation=state.generation or 0,
            written_at=written_at,
            origin=dict(origin or {}),
        )
        return conversation

    @property
    def version(self) -> int:
        return self.state.version

    def collect_events(self) -> Sequence[e.Event]:
        """Return the events that wait to be stored, and clear the list."""
        collected, self.pending = self.pending, []
        return collected

    def know_path(self, path_hash: str) -> None:
        """Accept the hash of the memory as of the current version, which was computed outside, if it is not known.

        The start of a run has to follow in the same commit: it stores the hash.
        """
        state = self.state
        if state.path_hash is None:
            state.path_hash = path_hash
            state.path_version = state.version if state.path_version is None else state.path_version

    def journal(
        self,
        message: Message,
        *,
        source: Source = Source.APP,
        exchange_id: str | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        batch: int = 1,
        message_id: str | None = None,
        written_at: str | None = None,
        origin: Mapping[str, Any] | None = None,
        parent: Parent | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> e.MessageJournaled:
        """Record a message at the end, or aside after its `parent`; `metadata` was checked.

        The store keeps one event for each idempotency key, which may stand for a `batch` of messages.
        """
        if idempotency_key is not None and source is not Source.IMPORT:
            check_idempotency_key(idempotency_key)
        if self.far_end is not None and parent is None:
            end, self.far_end = self.far_end, None
            self._select(end, self.state.end_version or 0, "")
        content = message.content
        own = message_id or new_id()
        event = e.MessageJournaled(  # not by `_record`, which is slower: most events are messages
            originator_id=self.id,
            originator_version=self.state.version + 1,
            timestamp=self._moment(),
            event_id=id_beside(own) if message_id is None else new_id(),
            actor=self.actor,
            message_id=own,
            role=str(message.role),  # faster than `value`
            content=content if isinstance(content, str) else [] if content == () else message.content_as_json(),
            tool_call_id=message.tool_call_id,
            exchange_id=exchange_id,
            run_id=run_id,
            source=str(source),
            idempotency_key=idempotency_key,
            batch=batch,
            written_at=written_at,
        )
        # Few have the others, and they make an event slower.
        if message.tool_calls or message.extra_json != "{}" or origin or message.native_json or metadata:
            event = msgspec.structs.replace(
                event,
                metadata=dict(metadata or {}),
                tool_calls=[call.as_json() for call in message.tool_calls],
                extra=message.extra(),
                origin=dict(origin or {}),
                native=message.native(),
            )
        if (content and isinstance(content, tuple)) or message.native_json:
            event = msgspec.structs.replace(event, blobs=_attached(message))
        if parent is not None:
            self.require_current(parent[1])
            event = msgspec.structs.replace(event, parent_message_id=parent[0], parent_version=parent[1])
        evolve(self.state, event)
        self.pending.append(event)
        return event

    def ask(
        self,
        question: Message,
        idempotency_key: str | None = None,
        before_abandoning: Callable[[str], None] = lambda exchange_id: None,
    ) -> str:
        """Journal a question, open its exchange, and return the exchange's id.

        Runs left open by a crash are closed as interrupted, and exchanges left without a run are abandoned;
        `before_abandoning` receives the id of each, and may raise to prevent the command.

        Raises:
            ConversationBusy: a run is open and not overdue, or an exchange is between two runs.
        """
        self.be_free(before_abandoning)
        exchange_id = new_id()
        self.journal(question, exchange_id=exchange_id, idempotency_key=idempotency_key)
        return exchange_id

    def be_free(
        self, before_abandoning: Callable[[str], None] = lambda exchange_id: None, apart: Collection[str] = ()
    ) -> None:
        """Close what a stopped process left open, so that nothing is being answered; see `ask`.

        Exchanges that are `apart` are left as they are, with their runs.

        Raises:
            ConversationBusy: a run is open and not overdue, or an exchange is between two runs.
        """
        self.close_overdue_runs()
        self._refuse_while_running(apart)
        for exchange_id in [each for each in self.state.open_exchanges if each not in apart]:
            self._refuse_while_active(exchange_id)
            before_abandoning(exchange_id)
            self.abandon(exchange_id, "left unfinished by a process that stopped")

    def require_current(self, version: int) -> None:
        """Check that what was read at a version is not of a conversation that was deleted since; 0 is of none.

        Raises:
            ConversationChanged: it is.
        """
        if version and version <= (self.state.deleted_version or 0):
            raise ConversationChanged(
                f"the conversation {self.state.key!r} was deleted meanwhile: nothing was recorded in the one that has its key now"
            )

    def left_exchange(self, exchange_id: str) -> OpenExchange | None:
        """Return an exchange without an answer if another branch was selected since its question, else None."""
        state = self.state
        exchange = state.open_exchanges.get(exchange_id) or state.abandoned.get(exchange_id)
        return exchange if exchange is not None and exchange.left else None

    def select(self, message_id: str, version: int, reason: str = "") -> None:
        """Make a message of this version the end of memory; do nothing if it is."""
        self.require_current(version)
        if version != self.state.end_version:
            self._select(message_id, version, reason)

    def _select(self, message_id: str, version: int, reason: str) -> None:
        mark = self.state.mark_version
        place = {"message_id": message_id, "message_version": version, "mark_version": mark}
        self.record(e.BranchSelected, reason=reason, **place)

    def describe(self, changed: Mapping[str, Any]) -> None:
        """Record what changes of the description: fields of `ConversationDescribed`, checked by `description.py`."""
        self.record(e.ConversationDescribed, **changed)

    def request(self, exchange_id: str, sent: Mapping[str, Any]) -> e.ExchangeRequested:
        """Record what is sent with a question that this commit journals: fields of `ExchangeRequested`."""
        return self.record(e.ExchangeRequested, exchange_id=exchange_id, **sent)

    def start_run(self, exchange_id: str, plan: RunPlan, must_be_open: bool = False, alongside: bool = False) -> str:
        """Record that a backend is about to be called; return the run's id.

        If another backend failed before in this exchange, `FallbackUsed` is part of the same commit, also if the exchange
        was abandoned since and is taken up again. `must_be_open` requires the exchange to be open still. `alongside` is
        for runs that an app makes and we only record: the app decides how many are open at once. Shadow runs are not
        limited either: they are independent of the exchange's runs.

        Raises:
            ConversationBusy: another run is open and not overdue, and this one does not run alongside.
            ConversationChanged: the exchange in progress was abandoned for a newer question.
            ExchangeAnswered: the exchange has an answer, and this run does not replace it.
        """
        self.require_current(plan.memory_version)
        self.close_overdue_runs()
        if plan.shadow:
            return self._started(exchange_id, plan)
        if not alongside:
            self._refuse_while_running()
            for other in self.state.open_exchanges:
                self._refuse_while_waiting(other)
        if exchange_id in self.state.answered and plan.supersedes_run_id is None:
            raise ExchangeAnswered(
                f"the exchange {exchange_id} of {self.state.key!r} already has an answer: ask a new question"
            )
        if must_be_open and exchange_id not in self.state.open_exchanges:
            raise ConversationChanged(
                f"a newer question replaced the exchange {exchange_id} of {self.state.key!r}: ask again"
            )
        exchange = self.state.open_exchanges.get(exchange_id)
        if exchange is not None and exchange.runs and exchange.rerun_of != plan.rerun_of:
            self._refuse_while_active(exchange_id)
        exchange = exchange or self.state.abandoned.get(exchange_id)
        same_attempt = exchange is not None and exchange.rerun_of == plan.rerun_of
        if exchange is not None and same_attempt and exchange.failed_run and exchange.failed_backend:
            self.fall_back(exchange_id, exchange.failed_run, exchange.failed_backend, plan)
        return self._started(exchange_id, plan)

    def start_expired(self, exchange_id: str, plan: RunPlan) -> str:
        """Record a run of an exchange whose time has passed, which is failed in the same commit; return its id."""
        return self._started(exchange_id, plan)

    def fall_back(self, exchange_id: str, failed_run_id: str, from_backend: str, plan: RunPlan) -> None:
        """Record that the next backend takes over; do nothing if it is the same backend."""
        if from_backend != plan.backend:
            self.record(
                e.FallbackUsed,
                exchange_id=exchange_id,
                failed_run_id=failed_run_id,
                from_backend=from_backend,
                to_backend=plan.backend,
                reason=plan.fallback_reason,
                dropped=list(plan.dropped),
            )

    def complete_run(
        self,
        run_id: str,
        completion: Completion,
        *,
        source: Source = Source.RUN,
        duration_seconds: float | None = None,
        place: Place = _AT_THE_END,
        message_ids: Sequence[str | None] = (),
    ) -> str:
        """Record a run's answer in one commit, `RunCompleted` and its messages; return the answer's message id.

        `place` is where the answer goes, if not to the end: that of a rerun, or one with newer messages of others.
        `message_ids` are the ids of the messages, as far as they have some already.

        Raises:
            RunNotOpen: the run has already ended.
            InvalidMessage: the completion has no message.
        """
        run = self._require_open(run_id)
        if not completion.messages:
            raise InvalidMessage("a run was completed without an answer: complete it with a message, or fail it")
        self._completed(run_id, completion, duration_seconds)
        exchange_id = run.exchange_id
        journaled: list[e.MessageJournaled] = []
        parent = place.parent
        for message, own in zip_longest(completion.messages, message_ids):
            said = self.journal(
                message, source=source, exchange_id=exchange_id, run_id=run_id, parent=parent, message_id=own
            )
            parent = (said.message_id, said.originator_version) if parent is not None else None
            journaled.append(said)
        answer = journaled[-1]
        if (run.rerun_of is not None or place.behind is not None) and not completion.goes_on:
            self._accepted(run_id, run, answer.message_id, place, [each.originator_version for each in journaled])
        is_last = not completion.goes_on and place.end_version is not None
        if place.parent is not None and is_last and place.end_version == self.state.end_version:
            self.select(answer.message_id, answer.originator_version)
        return answer.message_id

    def _accepted(self, run_id: str, run: OpenRun, answer: str, place: Place, own: Sequence[int]) -> None:
        versions, superseded = place.versions, place.superseded[-1] if place.superseded else None
        for message_id in place.superseded[:-1]:
            self.retract(message_id, SUPERSEDED_TOO, versions.get(message_id))
        self.record(
            e.RerunAccepted,
            exchange_id=run.exchange_id,
            run_id=run_id,
            message_id=answer,
            superseded_message_id=superseded,
            superseded_run_id=run.supersedes or run.rerun_of,
            behind_message_id=place.behind,
            superseded_version=versions.get(superseded or ""),
            behind_version=versions.get(place.behind or ""),
            message_versions=[*place.run_versions, *own] if place.behind in versions else None,
        )

    def complete_shadow_run(self, run_id: str, completion: Completion, duration_seconds: float | None = None) -> None:
        """Record a shadow run's answer, in its own event only.

        Raises:
            RunNotOpen: the run has already ended.
        """
        self._require_open(run_id)
        said = [message.as_chat_message() for message in completion.messages]
        shown = [each.replaced(native_json="") for each in completion.messages if isinstance(each.content, tuple)]
        blobs = list(dict.fromkeys(blob for each in shown for blob in _attached(each)))
        self._completed(run_id, completion, duration_seconds, shadow_messages=said, blobs=blobs)

    def complete_run_elsewhere(
        self, run_id: str, completion: Completion, duration_seconds: float | None = None
    ) -> None:
        """Record that a run answered its exchange with a message that is journaled by other means.

        Raises:
            RunNotOpen: the run has already ended.
        """
        self._require_open(run_id)
        self._completed(run_id, completion, duration_seconds)

    def accept_late(
        self,
        run_id: str,
        exchange_id: str,
        plan: RunPlan,
        completion: Completion,
        place: Place = _AT_THE_END,
        *,
        alongside: bool = False,
    ) -> tuple[str, str]:
        """Record the answer of a run that another process closed as interrupted, as a new run, so that nothing is lost.

        Return the new run's id and the answer's message id.

        Raises:
            ConversationBusy, ExchangeAnswered: the answer can no longer be placed.
        """
        again = self.start_run(exchange_id, plan.replaced(rerun_of=run_id), alongside=alongside)
        return again, self.complete_run(again, completion, source=Source.RERUN, place=place)

    def fail_run(self, run_id: str, failure: Failure, duration_seconds: float | None = None) -> None:
        """Record why a run ended without an answer, without secrets and within the size limits.

        Raises:
            RunNotOpen: the run has already ended.
        """
        self._require_open(run_id)
        self.record(e.RunFailed, run_id=run_id, duration_seconds=duration_seconds, **vars(failure.redacted()))

    def close_overdue_runs(self) -> list[str]:
        """Close the runs that a crash left open and whose deadline has passed; return their ids."""
        moment = now()
        overdue = [
            run_id for run_id, run in (self.state.open_runs | self.state.shadow_runs).items() if run.is_overdue(moment)
        ]
        self.close_runs(overdue)
        return overdue

    def close_runs(self, run_ids: Sequence[str]) -> None:
        """Close those of these runs that are open, because their process has stopped."""
        for run_id in run_ids:
            if run_id in self.state.open_runs or run_id in self.state.shadow_runs:
                message = "the process that ran it stopped before the run ended"
                self.fail_run(run_id, Failure(status="interrupted", message=message))

    def interrupt(self, code: str = "superseded", reason: str = "a newer question took its place") -> None:
        """Close the open runs and abandon their exchanges, by default in favour of a newer question."""
        self._wait_no_longer(reason, told=True)
        for run_id in list(self.state.open_runs):
            self.fail_run(run_id, Failure("interrupted", code=code, message=reason))
        for exchange_id in list(self.state.open_exchanges):
            self.abandon(exchange_id, reason)

    def abandon(self, exchange_id: str, reason: str) -> None:
        """Record that an exchange has no answer; do nothing if it is not open, or if one of its runs is open."""
        exchange = self.state.open_exchanges.get(exchange_id)
        running = any(run.exchange_id == exchange_id for run in self.state.open_runs.values())
        if exchange is not None and not running:
            self.record(e.ExchangeAbandoned, exchange_id=exchange_id, run_ids=list(exchange.runs), reason=reason)

    def link_thread(self, backend: str, thread_id: str, endpoint: str) -> None:
        """Record which thread holds a copy of this memory; do nothing if it is already linked."""
        link = self.state.links.get(backend)
        if link is None or link.lost or (link.thread_id, link.endpoint) != (thread_id, endpoint):
            self.record(e.ThreadLinked, backend=backend, thread_id=thread_id, endpoint=endpoint)

    def lose_thread(self, backend: str, thread_id: str, reason: str, window_tokens: int | None = None) -> None:
        """Record that the linked thread is gone, or too long.

        Do nothing if it is not the linked one, or already lost, unless another `window_tokens` is given.
        """
        link = self.state.links.get(backend)
        if link is None or link.thread_id != thread_id or (link.lost and window_tokens in {None, link.window_tokens}):
            return
        window: dict[str, Any] = {} if window_tokens is None else {"window_tokens": window_tokens}
        lost: dict[str, Any] = {"backend": backend, "thread_id": thread_id, "reason": reason, "endpoint": link.endpoint}
        self.record(e.ThreadLost, **lost, **window)

    def discard_thread(self, backend: str, thread_id: str, endpoint: str, reason: str) -> None:
        """Record that a thread which was never linked is gone."""
        self.record(e.ThreadLost, backend=backend, thread_id=thread_id, reason=reason, endpoint=endpoint)

    def rebuild_thread(self, rebuilt: Mapping[str, Any]) -> None:
        """Record that a thread was rewritten; the arguments are the fields of `ThreadRebuilt`."""
        old = self.state.links.get(rebuilt["backend"])
        self.record(e.ThreadRebuilt, old_thread_id=old.thread_id if old else None, **rebuilt)

    def reconcile_thread(
        self,
        backend: str,
        thread_id: str,
        version: int,
        *,
        sent: int = 0,
        deleted: Sequence[str] = (),
        adopted: int = 0,
        reason: str = "",
    ) -> None:
        """Record what was repaired in a thread, which now contains the memory as of `version`.

        `deleted` are the provider's ids. Without any repair, nothing is recorded.
        """
        if sent or deleted or adopted:
            self.record(
                e.ThreadReconciled,
                backend=backend,
                thread_id=thread_id,
                memory_version=version,
                sent=sent,
                deleted=list(deleted),
                adopted=adopted,
                reason=reason,
            )

    def retract(self, message_id: str, reason: str = "", version: int | None = None) -> None:
        """Remove a message, of this version if it is known, from memory; it remains in the log."""
        check_texts(message_id=message_id, reason=reason)
        self.require_current(version or 0)
        self._wait_no_longer("its message was retracted", message_id)
        self.record(e.MessageRetracted, message_id=message_id, reason=reason, message_version=version)

    def compact(self, summary: e.MessageJournaled, covers: Parent, upto: int, system_versions: Sequence[int]) -> None:
        """Show a summary, which this commit journals aside, in place of the path up to a message."""
        self.record(
            e.MemoryCompacted,
            message_id=summary.message_id,
            message_version=summary.originator_version,
            covers_message_id=covers[0],
            covers_version=covers[1],
            upto_version=upto,
            system_versions=list(system_versions),
            run_id=summary.run_id,
        )

    def delete(self, reason: str = "", interrupting: bool = False) -> None:
        """End the conversation, which is free, or whose runs are closed because of `interrupting`.

        Raises:
            ConversationBusy: see `be_free`.
        """
        check_texts(reason=reason)
        code, message = "deleted", "the conversation was deleted"
        if interrupting:
            self.interrupt(code, message)
        self.be_free()
        for run_id in list(self.state.shadow_runs):
            self.fail_run(run_id, Failure("interrupted", code=code, message=message))
        self.record(e.ConversationDeleted, reason=reason)

    def clear_memory(self, reason: str = "") -> None:
        """Empty the memory as of now; the log is unchanged."""
        check_texts(reason=reason)
        self._wait_no_longer("memory was cleared")
        self.record(e.MemoryCleared, up_to_version=self.version, reason=reason)

    def _wait_no_longer(self, reason: str, message_id: str | None = None, told: bool = False) -> None:
        """Reject the tool calls that wait for a person: all, or those of an exchange with this question or these calls."""
        for exchange_id, exchange in list(self.state.open_exchanges.items()):
            if exchange.waits and (message_id is None or message_id in {exchange.question, exchange.tail}):
                from .decisions import wait_no_longer

                wait_no_longer(self, exchange_id, reason, told)

    def _completed(self, run_id: str, completion: Completion, duration_seconds: float | None, **more: Any) -> None:
        facts: dict[str, Any] = vars(completion) | {
            "usage": completion.usage.as_json(),
            "losses": dict(completion.losses),
            "waits_for": list(completion.waits_for),
        }
        del facts["messages"]
        self.record(e.RunCompleted, run_id=run_id, duration_seconds=duration_seconds, **facts, **more)

    def _started(self, exchange_id: str, plan: RunPlan) -> str:
        check_texts(backend=plan.backend, model=plan.model)
        carried = msgspec.structs.asdict(plan)
        for name in _NOT_STORED_OF_PLAN:
            del carried[name]
        state = self.state
        is_at_end = plan.memory_leaf_version in {None, state.end_version}
        if (
            plan.path_hash is None
            and is_at_end
            and state.path_version is not None
            and plan.memory_version >= state.path_version
        ):
            carried["path_hash"] = state.path_hash
        exchange = state.open_exchanges.get(exchange_id)
        if exchange is not None and exchange.answered and not plan.shadow:
            carried["question_answered"] = True
        deadline = to_iso(now() + timedelta(seconds=plan.timeout_seconds + RUN_GRACE_SECONDS))
        started = self.record(e.RunStarted, run_id=new_id(), exchange_id=exchange_id, deadline=deadline, **carried)
        return started.run_id

    def _refuse_while_running(self, apart: Collection[str] = ()) -> None:
        for run_id, run in self.state.open_runs.items():
            if run.exchange_id in apart:
                continue
            raise ConversationBusy(
                f"{self.state.key!r} is being answered: run {run_id} on {run.backend} is open until {run.deadline}; "
                "wait until it ends, then ask again"
            )

    def _refuse_while_waiting(self, exchange_id: str) -> None:
        exchange = self.state.open_exchanges[exchange_id]
        if exchange.undecided is not None and not exchange.is_overdue(now()):
            raise ConversationBusy(
                f"{self.state.key!r} waits for a decision on the tool call {exchange.undecided}: approve or reject it first"
            )

    def _refuse_while_active(self, exchange_id: str) -> None:
        self._refuse_while_waiting(exchange_id)
        exchange = self.state.open_exchanges[exchange_id]
        if exchange.waits and exchange.deadline is None:
            call_id, decision = next(iter((exchange.waits_for or {}).items()))
            raise ConversationBusy(
                f"the tool call {call_id} of {self.state.key!r} was {decision}, and no run has continued it yet: wait, or repeat "
                "the decision if its process has stopped"
            )
        if exchange.is_active(now()):
            raise ConversationBusy(
                f"{self.state.key!r} is being answered: exchange {exchange_id} is between two runs; "
                "wait until it ends, then ask again"
            )

    def _require_open(self, run_id: str) -> OpenRun:
        run = self.state.open_runs.get(run_id) or self.state.shadow_runs.get(run_id)
        if run is None:
            raise RunNotOpen(
                f"run {run_id} has already ended, or a rewound log lost it: see threadledger audit show {run_id}"
            )
        return run

    def record(self, event_class: type[E], **carried: Any) -> E:
        """Add an event to the pending ones, and apply it to the state; the commands of the room decide which."""
        event = event_class(
            originator_id=self.id,
            originator_version=self.state.version + 1,
            timestamp=self._moment(),
            event_id=new_id(),
            actor=self.actor,
            **carried,
        )
        evolve(self.state, event)
        self.pending.append(event)
        return event

    def _moment(self) -> datetime:
        """Return the time of a commit, the same for all its events.

        It is never before the last event, so that a clock that was set back does not reorder the log.
        """
        if self.pending:
            return self.pending[-1].timestamp
        moment = now()
        return from_iso(self.state.last_at) if to_iso(moment) < self.state.last_at else moment


class ActiveRuns(StrEnum):
    """Name what happens to a question that arrives while a run is open."""

    REJECT = "reject"
    """The question is rejected (`ConversationBusy`); nothing is written."""
    QUEUE = "queue"
    """The question waits until the conversation is free, and is journaled then."""
    INTERRUPT = "interrupt"
    """The question replaces the run: the run is closed as interrupted, and its exchange is abandoned."""


class RunPlan(msgspec.Struct, frozen=True):
    """Describe one attempt of one backend before it starts.

    With `memory_hash`, a rerun can verify that it uses the same memory.
    """

    backend: str
    model: str
    attempt: int = 1
    timeout_seconds: float = 60.0
    profile_hash: str | None = None
    memory_version: int = 0
    memory_rule: str = "2;all"
    memory_hash: str | None = None
    path_hash: str | None = None
    """Hash of the whole memory as of `memory_version`; None: `start_run` stores it if the state knows it."""
    memory_first_version: int | None = None
    memory_leaf_version: int | None = None
    losses: dict[str, int] = {}
    """Number of parts in view that the backend cannot be shown, by kind."""
    rendering: str | None = None
    rerun_of: str | None = None
    supersedes_run_id: str | None = None
    """Id of the run whose answer this run's answer replaces; without it, an answered exchange is left unchanged."""
    apart: bool = False
    """Whether the run bypasses the linked thread, although the backend uses threads."""
    shadow: bool = False
    """Whether the run is for inspection only: see `RunStarted.shadow`."""
    fallback_reason: str = ""
    """Why the previous backend was given up; stored in `FallbackUsed` if there was one."""
    dropped: tuple[str, ...] = ()
    """What the backend is not given because it does not have it; stored in `FallbackUsed` too."""
    endpoint: str | None = None
    continues_run_id: str | None = None
    continued_chars: int = 0
    """The run whose streamed text this run continues, and how long it is: see `RunStarted`."""
    idempotency_key: str | None = None
    """Key of the app's own run that starts the exchange."""
    cost_reserved: int | None = None
    question_answered: bool = False

    def replaced(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields."""
        return msgspec.structs.replace(self, **fields)


def _attached(message: Message) -> list[str]:
    from .attachments import blobs_of

    return blobs_of(message)


SUPERSEDED_TOO = "its run's answer was superseded by a rerun's"
TOO_LATE = "used by a rerun that got no answer, where the conversation has gone on"
"""`SUPERSEDED_TOO` and `TOO_LATE`: reasons for retracting messages that a run journaled in addition to its answer."""


@dataclass(frozen=True)
class Completion:
    """Hold what a backend answered: the messages to journal in order, the answer last, and the facts of the run.

    `thread_id` names the thread that holds question and answer now, if the backend wrote them there itself.
    """

    messages: tuple[Message, ...]
    finish_reason: str | None = None
    remote_run_id: str | None = None
    thread_id: str | None = None
    request_id: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    thread_version: int | None = None
    """Journal version that the thread contained when the run answered in it."""
    goes_on: bool = False
    """Whether the model called tools; their results are sent to it in another run of the exchange."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """Number of parts of the answer that could not be kept, by kind."""
    waits_for: tuple[str, ...] = ()
    """Ids of the tool calls on which a person has to decide."""
