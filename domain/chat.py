"""One conversation in an app's hands: append, ask, run, memory."""

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
"""How long an app's own call may take before it counts as crashed, where the app does not say."""


class Chat:
    """A conversation by its key; it begins at its first message."""

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
        """Journal a message; no model is called, linked threads are brought up to the journal.

        `content` is text or parts in the form of Chat Completions; `fields` are its other fields (`tool_calls`,
        `tool_call_id`). The same idempotency key again returns the message journaled first.

        Raises:
            InvalidMessage, InvalidInput: nothing was written.
            IdempotencyConflict: the key was used for another message.
        """
        return self._perform(self._conversing.append(role, content, idempotency_key, fields))

    def extend(self, messages: Iterable[Mapping[str, Any]]) -> list[JournaledMessage]:
        """Journal several messages, in the form of Chat Completions, in one commit: all of them or none.

        Raises:
            InvalidMessage: one of them cannot be kept; nothing was written.
        """
        return self._perform(self._conversing.extend(messages))

    def ask(self, text: str, *, idempotency_key: str | None = None) -> Answer:
        """One exchange: journal the question, run, retry, fall back, journal the answer.

        The same idempotency key again returns the first answer; where nobody answered, the exchange is rerun. What a
        second question does while a run is open, the setting THREADLEDGER_WHILE_RUNNING says.

        Raises:
            InvalidMessage, InvalidInput: nothing was written.
            ConversationBusy: a run is open.
            AllBackendsFailed: nobody answered; the question and every failure are journaled.
        """
        return self._perform(self._conversing.ask(text, idempotency_key))

    def stream(self, text: str, *, idempotency_key: str | None = None) -> Generator[StreamPart, None, Answer]:
        """Like `ask`, handing over what comes as it comes: `Delta` and `ToolUse`, `StartedOver` where a run failed and
        another one begins, and at the end the `Answer`, when it is journaled.

        Whoever stops listening before the end cancels the run; what came of it is kept in its failure.

        Raises:
            As `ask`, at the first part or at a later one.
        """
        return heard(self._conversing.ask(text, idempotency_key, stream=True), self._outside.wait)

    def rerun(self, exchange_id: str, policy: Policy | None = None, *, live: bool = False) -> Answer:
        """Run an exchange again that nobody answered; one that has its answer is not run, and its answer returned.

        Costs what a run costs; `Ledger.replay` plans it first. A tool call that was answered before is answered from the
        record, unless `live`.

        Raises:
            ConversationBusy: a run is open.
            AllBackendsFailed: again nobody answered.
            ConversationChanged: there is no such exchange, or newer messages overtook it.
        """
        return self._perform(self._conversing.rerun(exchange_id, policy, live=live))

    @contextmanager
    def run(self, backend: str, model: str, timeout_seconds: float = OWN_RUN_TIMEOUT_SECONDS) -> Iterator[OwnRun]:
        """Record an app's own model call as a run: `run.complete(text)` journals the answer; an exception becomes
        `RunFailed` and goes on up.

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
        """What a model is shown: as of a version or a time, the newest `last` messages, within about `tokens`."""
        return self._journal.memory(self.key, at, last, tokens)

    def events(self, after: int = 0) -> list[e.Event]:
        """The conversation's own events, those after a version."""
        return list(self._journal.history(self.key, after=after))

    def failures(self) -> list[RecordedFailure]:
        """Every failed run of this conversation."""
        return list(self._journal.exchanges(self.key).failures())

    def retract(self, message_id: str, reason: str = "") -> None:
        """Take a message out of memory; it stays in the log. Quiet where it is not in memory."""
        if any(each.message_id == message_id for each in self.memory().messages):
            self._journal.commit(self.key, lambda conversation: conversation.retract(message_id, reason))

    def clear(self, reason: str = "") -> None:
        """Empty the memory; the log stays."""
        self._journal.commit(self.key, lambda conversation: conversation.clear_memory(reason))

    def _perform(self, effects: Effects[T]) -> T:
        return perform(effects, self._outside.wait)
