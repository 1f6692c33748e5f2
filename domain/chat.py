"""One conversation in an app's hands: append, ask, run, memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from . import events as e
from .answers import Answer, recorded_answer, why_not_rerun
from .asking import Asking
from .conversation import Conversation
from .errors import ConversationChanged, IdempotencyConflict
from .exchange import Policy
from .failures import RecordedFailure
from .ids import idempotent_id
from .journal import Journal
from .journaled import JournaledMessage
from .memory import Memory
from .messages import Message
from .naming import check_idempotency_key, stream_of
from .outside import Outside
from .own_runs import OwnRun
from .parsing import parse_message, restore_message, text_message
from .runs import RunPlan


class Chat:
    """A conversation by its key; it begins at its first message."""

    def __init__(self, journal: Journal, outside: Outside, key: str) -> None:
        self.stream = stream_of(key)
        self.key = key
        self._journal = journal
        self._outside = outside

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
        message = parse_message({"role": role, "content": content, **fields})

        def decide(conversation: Conversation) -> e.MessageJournaled:
            earlier = self._earlier(idempotency_key, message)
            return earlier or conversation.journal(message, idempotency_key=idempotency_key)

        journaled = self._journal.commit(self.key, decide, create=True)
        self._outside.mirror(self._journal, self.key)
        return JournaledMessage(
            restore_message(journaled), journaled.message_id, journaled.originator_version, journaled.timestamp
        )

    def extend(self, messages: Iterable[Mapping[str, Any]]) -> list[JournaledMessage]:
        """Journal several messages, in the form of Chat Completions, in one commit: all of them or none.

        Raises:
            InvalidMessage: one of them cannot be kept; nothing was written.
        """
        parsed = [parse_message(message) for message in messages]
        if not parsed:
            return []
        events = self._journal.commit(
            self.key, lambda conversation: [conversation.journal(message) for message in parsed], create=True
        )
        self._outside.mirror(self._journal, self.key)
        return [
            JournaledMessage(message, event.message_id, event.originator_version, event.timestamp)
            for message, event in zip(parsed, events, strict=True)
        ]

    def ask(self, text: str, *, idempotency_key: str | None = None) -> Answer:
        """One exchange: journal the question, run, retry, fall back, journal the answer.

        The same idempotency key again returns the first answer; where nobody answered, the exchange is rerun.

        Raises:
            InvalidMessage, InvalidInput: nothing was written.
            ConversationBusy: a run is open.
            AllBackendsFailed: nobody answered; the question and every failure are journaled.
        """
        question = text_message("user", text)

        def decide(conversation: Conversation) -> tuple[str, int | None]:
            earlier = self._earlier(idempotency_key, question)
            if earlier is None:
                return conversation.ask(question, idempotency_key), conversation.version
            if earlier.exchange_id is None:
                raise IdempotencyConflict(
                    f"the idempotency key {idempotency_key!r} stands for a message that {self.key!r} only journaled: "
                    "ask with a key of its own"
                )
            return earlier.exchange_id, None

        exchange_id, asked_at = self._journal.commit(self.key, decide, create=True)
        if asked_at is None:
            return self.rerun(exchange_id)
        return Asking(self._journal, self._outside, self.key, exchange_id, after=asked_at).run()

    def rerun(self, exchange_id: str, policy: Policy | None = None) -> Answer:
        """Run an exchange again that nobody answered; one that has its answer is not run, and its answer returned.

        Costs what a run costs; `Ledger.replay` plans it first.

        Raises:
            ConversationBusy: a run is open.
            AllBackendsFailed: again nobody answered.
            ConversationChanged: there is no such exchange, or newer messages overtook it.
        """
        answer = recorded_answer(self._journal, self.key, exchange_id)
        if answer is not None:
            return answer
        exchange = self._journal.exchanges(self.key).by_id.get(exchange_id)
        refusal = why_not_rerun(self._journal, self.key, exchange_id)
        if refusal:
            raise ConversationChanged(f"the exchange {exchange_id} of {self.key!r} is not run again: {refusal}")
        rerun_of = exchange.runs[-1].run_id if exchange is not None and exchange.runs else None
        return Asking(self._journal, self._outside, self.key, exchange_id, rerun_of, policy).run()

    @contextmanager
    def run(self, backend: str, model: str, timeout_seconds: float = 600.0) -> Iterator[OwnRun]:
        """Record an app's own model call as a run: `run.complete(text)` journals the answer; an exception becomes
        `RunFailed` and goes on up.

        Raises:
            ConversationBusy: a run is open.
        """
        memory = self.memory()
        plan = RunPlan(
            backend, model, timeout_seconds=timeout_seconds, memory_version=memory.version, memory_hash=memory.digest()
        )
        run = OwnRun(self._journal, self._outside, self.key, plan)
        try:
            yield run
        except BaseException as error:
            run.fail(error)
            raise
        run.end()

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

    def _earlier(self, idempotency_key: str | None, message: Message) -> e.MessageJournaled | None:
        if idempotency_key is None:
            return None
        check_idempotency_key(idempotency_key)
        event = self._journal.event(idempotent_id(self.stream, idempotency_key))
        if isinstance(event, e.MessageJournaled) and restore_message(event) == message:
            return event
        if event is not None:
            raise IdempotencyConflict(
                f"the idempotency key {idempotency_key!r} stands for another message of {self.key!r}: "
                "give each message a key of its own"
            )
        return None
