"""Provide one conversation to an app: append, ask, run, memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from . import events as e
from .conversing import Conversing
from .driving import heard, perform
from .effects import Effects
from .exchange import Policy
from .failures import RecordedFailure
from .journal import Journal
from .journaled import JournaledMessage
from .memory import Memory
from .outside import Outside
from .own_runs import OwnRun, OwnRunning
from .stream import Answer, StreamPart

T = TypeVar("T")

OWN_RUN_TIMEOUT_SECONDS = 600.0
"""Default time after which an app's own call counts as crashed, in seconds."""


class Chat:
    """Represent a conversation by its key; it starts with its first message."""

    def __init__(self, journal: Journal, outside: Outside, key: str) -> None:
        self._conversing = Conversing(journal, outside, key)
        self._journal = journal
        self._outside = outside
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
            InvalidMessage: one of them is not valid; nothing was written.
        """
        return self._perform(self._conversing.extend(messages))

    def ask(self, text: str, *, idempotency_key: str | None = None) -> Answer:
        """Answer a question in one exchange: journal it, run, retry, fall back, and journal the answer.

        Repeating an idempotency key returns the first answer, or reruns the exchange if it is unanswered. The setting
        THREADLEDGER_WHILE_RUNNING determines what a second question does while a run is open.

        Raises:
            InvalidMessage, InvalidInput: the question or the key is not valid; nothing was written.
            ConversationBusy: a run is open.
            AllBackendsFailed: no backend answered; the question and every failure are journaled.
        """
        return self._perform(self._conversing.ask(text, idempotency_key))

    def stream(self, text: str, *, idempotency_key: str | None = None) -> Generator[StreamPart, None, Answer]:
        """Answer a question like `ask`, but yield the parts of the answer as they arrive.

        These are `Delta` and `ToolUse`, `StartedOver` when a run failed and another one starts, and at the end the
        `Answer`, after it was journaled. Closing the generator early cancels the run; what it had produced is kept in
        its failure.

        Raises:
            The errors of `ask`, at the first part or at a later one.
        """
        return heard(self._conversing.ask(text, idempotency_key, stream=True), self._outside.wait)

    def rerun(self, exchange_id: str, policy: Policy | None = None, *, live: bool = False) -> Answer:
        """Rerun an unanswered exchange. If it already has an answer, return that instead.

        This costs what a run costs; `Ledger.replay` plans it first. A tool call that was answered before is answered
        from the record, unless `live`.

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
            yield OwnRun(running, self._outside.wait)
        except BaseException as error:
            self._perform(running.fail(error))
            raise
        self._perform(running.end())

    def memory(self, *, last: int | None = None, tokens: int | None = None, at: int | datetime | None = None) -> Memory:
        """Return what a model is shown: as of a version or time, the newest `last` messages, within about `tokens`."""
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
        return perform(effects, self._outside.wait)
