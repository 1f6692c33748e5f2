"""Provide one conversation to an app: append, ask, memory, and `run`, which records the app's own model call as a run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ..effects import perform, stream
from ..errors import InvalidInput
from ..exchange import Conversing
from ..faces import lazy_face
from ..signatures import checked

# `own_runs` is imported on first use: an app that calls no model itself does not need it.

if TYPE_CHECKING:
    from ..conversation import Profile
    from ..conversation import events as e
    from ..conversation.description import Description
    from ..conversation.messages import JournaledMessage
    from ..effects import Effects
    from ..exchange import Answer, AskKeywords, Policy, Services, StreamPart
    from ..failures import RecordedFailure
    from ..journal import Journal
    from ..memory import Memory
    from ..memory.tree import Branch, Variant
    from .own_runs import OwnExchange, OwnRun

T = TypeVar("T")

if not TYPE_CHECKING:  # names that were here before they had a module of their own
    __getattr__ = lazy_face(__package__, {"own_runs": "AsyncOwnRun OwnRun OwnRunning"})

OWN_RUN_TIMEOUT_SECONDS = 600.0
"""Default time after which an app's own call counts as crashed, in seconds."""

PARSED = ("append", "extend", "ask", "stream")
"""Methods that parse all that they are given, so that nothing has to be checked before; apps call them most often."""


@checked(*PARSED)
class Chat:
    """Represent a conversation by its key; it starts with its first message."""

    def __init__(self, journal: Journal, services: Services, key: str, profile: Profile | None = None) -> None:
        self._conversing = Conversing(journal, services, key)
        if profile is not None:
            self._conversing = self._conversing.using({"profile": profile}, own=True)
        self._journal = journal
        self._services = services
        self.key = key

    def append(
        self,
        role: str,
        content: str | Sequence[Mapping[str, Any]] | None,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
        **fields: Any,
    ) -> JournaledMessage:
        """Journal a message and bring linked threads up to date; no model is called.

        `content` is text or parts in the format of Chat Completions; `fields` are its other fields (`tool_calls`,
        `tool_call_id`). Repeating an idempotency key returns the message that was journaled first. `expected_version` is
        that of the conversation when it was read, 0 if there was none. `actor` is who caused it.

        Raises:
            InvalidMessage, InvalidInput: the message, the key or the actor is not valid; nothing was written.
            IdempotencyConflict: the key was used for another message.
            ConversationChanged: the conversation has another version; nothing was written.
        """
        chat = self._conversing.acting(actor)
        return self._appended(chat, partial(chat.append, role, content, idempotency_key, fields, expected_version))

    def extend(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> list[JournaledMessage]:
        """Journal several messages, in the format of Chat Completions, in one commit: all of them or none.

        The options are those of `append`; the key stands for the whole list.

        Raises:
            The errors of `append`; nothing was written.
        """
        chat = self._conversing.acting(actor)
        return self._appended(chat, partial(chat.extend, messages, idempotency_key, expected_version))

    def ask(
        self,
        text: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[AskKeywords],
    ) -> Answer:
        """Answer a question in one exchange: journal it, run, retry, fall back, and journal the answer.

        `text` may also be a list of parts in the format of Chat Completions: `Ledger.attach` makes one of a file or an image.

        Repeating an idempotency key returns the first answer, or reruns the exchange if it is unanswered. The setting
        THREADLEDGER_WHILE_RUNNING determines what happens to a second question while a run is open.

        `options` apply to this exchange, see `ExchangeOptions`: `model` (of every backend), `instructions`, `profile`,
        `backend` (only this one is called), tools, sampling, the format of the answer, and more. They are recorded, and a
        rerun sends them again. A recorded answer is returned whatever the options.

        Raises:
            InvalidMessage, InvalidInput: the question, the key or an option is not valid; nothing was written.
            ConversationBusy: a run is open.
            AllBackendsFailed: no backend answered; the question and every failure are journaled.
        """
        return self._perform(self._conversing.using(options).ask(text, idempotency_key))

    def stream(
        self,
        text: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[AskKeywords],
    ) -> Generator[StreamPart, None, Answer]:
        """Answer a question like `ask`, but yield the parts of the answer as they arrive.

        These are `Delta` and `ToolUse`, `StartedOver` when a run failed and another one starts, and at the end the
        `Answer`, after it was journaled. Closing the generator early cancels the run; the text received so far is
        stored in its failure.

        Raises:
            The errors of `ask`, at the first part or at a later one; an invalid option is reported at once.
        """
        return stream(self._conversing.using(options).ask(text, idempotency_key, stream=True), self._services.wait)

    def rerun(
        self,
        exchange_id: str,
        policy: Policy | None = None,
        *,
        live: bool = False,
        idempotency_key: str | None = None,
        **options: Unpack[AskKeywords],
    ) -> Answer:
        """Rerun an unanswered exchange. If it already has an answer, return that instead.

        This costs as much as a run; `Ledger.replay` shows a plan first. A tool call with a recorded result gets that
        result, unless `live` is set. The recorded options of its question are sent again, except those in `options`.
        However often it is called, with a key or without, the exchange is answered once; a key is of one exchange.

        Raises:
            InvalidInput: an option is not valid.
            IdempotencyConflict: the key belongs to something else.
            ConversationBusy: a run is open.
            AllBackendsFailed: again, no backend answered.
            ConversationChanged: there is no such exchange, or newer messages follow it.
        """
        return self._perform(
            self._conversing.using(options).rerun(exchange_id, policy, live=live, idempotency_key=idempotency_key)
        )

    @contextmanager
    def run(
        self,
        backend: str,
        model: str,
        timeout_seconds: float = OWN_RUN_TIMEOUT_SECONDS,
        *,
        journal: bool = True,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> Iterator[OwnRun]:
        """Record an app's own model call as a run.

        `run.complete(text)` journals the answer; with `journal=False` it only ends the run, because the app journals the
        answer by other means. An exception is recorded as `RunFailed` and raised again. A run after a failed one
        continues its exchange: on another backend, as a fallback. So does a run with the same idempotency key.

        Raises:
            ConversationBusy: a run is open.
            ExchangeAnswered: a run with this idempotency key has answered; the error has the `answer`.
            InvalidInput: the backend or model is no text, or the timeout no number of seconds up to a day.
        """
        from .own_runs import OwnRun, OwnRunning

        running = OwnRunning(self._conversing.acting(actor), backend, model, timeout_seconds, journal, idempotency_key)
        self._perform(running.start())
        try:
            yield OwnRun(running, self._services.wait)
        except BaseException as error:
            self._perform(running.fail(error))
            raise
        self._perform(running.end())

    @contextmanager
    def exchange(self) -> Iterator[OwnExchange]:
        """Group the app's own runs of one question; if none of them answers, the exchange is abandoned at the end.

        A run in the block raises `ExchangeAnswered` after one that answered, and `ConversationChanged` if a newer
        question has replaced this one.
        """
        from .own_runs import OwnExchange

        with OwnExchange(self._conversing).entered() as exchange:
            try:
                yield exchange
            except BaseException as error:
                self._perform(exchange.end(interrupted=not isinstance(error, Exception)))
                raise
            self._perform(exchange.end())

    def describe(
        self,
        *,
        title: str | None = None,
        owner: str | None = None,
        tags: Iterable[str] | None = None,
        archived: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Description:
        """Describe the conversation for lists, and return its description; without arguments, only return it.

        None leaves a field as it is; an empty value clears it. `metadata` replaces all metadata. An owner is a filter of
        lists, not a boundary. A conversation that does not exist starts with it; equal values write nothing.

        Raises:
            InvalidInput: a value cannot be stored, or is too long or too large; nothing was written.
        """
        from ..conversation.description import checked_changes
        from ..journal.descriptions import describe

        changes = checked_changes(title, owner, tags, archived, metadata)
        return describe(self._conversing.acting(actor).journal, self.key, changes)

    def memory(
        self,
        *,
        last: int | None = None,
        tokens: int | None = None,
        at: int | datetime | None = None,
        full: bool = False,
    ) -> Memory:
        """Return the memory (what a model sees) as of a version or time, limited to `last` messages and `tokens`.

        With `full`, the originals are shown instead of a summary.
        """
        return self._journal.memory(self.key, at, last, tokens, full=full)

    def compact(self, keep_last: int | None = None, **options: Unpack[AskKeywords]) -> JournaledMessage | None:
        """Put a summary in place of all but the newest messages; return it, or None if there is nothing to sum up.

        A recorded run writes it, with the `model` or `backend` of the `options`. The originals stay in the log and in search;
        system messages and pinned ones stay in memory. What belongs to an open exchange, such as a tool call without a
        result, is never covered. `keep_last` is the number of newest messages to keep, by default
        THREADLEDGER_COMPACT_KEEP_LAST.

        Raises:
            InvalidInput: `keep_last` is below 1, or an option is not valid.
            ConversationNotFound: there is no such conversation.
            ConversationChanged: a message that is covered was removed meanwhile; nothing was compacted.
            AllBackendsFailed: no backend wrote a summary.
        """
        return self._perform(self._conversing.using(options).compact(keep_last))

    def events(self, after: int = 0) -> list[e.Event]:
        """Return the conversation's own events after a version.

        Raises:
            InvalidInput: the version is below 0.
        """
        return list(self._journal.history(self.key, after=after))

    def failures(self) -> list[RecordedFailure]:
        """Return every failed run of this conversation."""
        from ..conversation import FailureFilter

        found = self._journal.views.failures(FailureFilter(key=self.key))
        if not found or not self._journal.used_keys([self.key]).get(self.key):
            return found
        runs = self._journal.exchanges(self.key).runs  # without those of deleted conversations with this key
        return [each for each in found if each.run_id in runs]

    def edit(
        self,
        message_id: str,
        content: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> JournaledMessage:
        """Journal a new branch that begins with other content in the place of a message; no model is called.

        Memory then ends with the returned message: `regenerate` answers it. The original and what follows it remain a
        branch that `select_branch` brings back. Repeating an idempotency key returns the message of the first call.

        Raises:
            MessageNotFound: there is no such message.
            InvalidMessage, InvalidInput: the content is not valid, or the message cannot be edited; nothing was written.
            ConversationBusy: a run is open.
        """
        return self._perform(self._conversing.acting(actor).edit(message_id, content, idempotency_key))

    def regenerate(
        self, message_id: str | None = None, *, idempotency_key: str | None = None, **options: Unpack[AskKeywords]
    ) -> Answer:
        """Run the question of a message again, by default the last one; the new answer takes the place of the old one.

        The old answer remains a variant. A question without an answer is answered. If the end of memory moves before the
        answer arrives, `answer.selected` is false: the answer is a variant of its own question. `options` are those of `ask`.

        Raises:
            MessageNotFound, InvalidInput: there is no such message, or no question before it; nothing was written.
            ConversationBusy: a run is open.
            AllBackendsFailed: no backend answered; the old answer stays.
        """
        return self._perform(self._conversing.using(options).regenerate(message_id, idempotency_key))

    def stream_regenerate(
        self, message_id: str | None = None, *, idempotency_key: str | None = None, **options: Unpack[AskKeywords]
    ) -> Generator[StreamPart, None, Answer]:
        """Run a question again like `regenerate`, but yield the parts of the answer as they arrive; see `stream`."""
        again = self._conversing.using(options).regenerate(message_id, idempotency_key, stream=True)
        return stream(again, self._services.wait)

    def approve(self, call_id: str, reason: str = "", *, actor: str | None = None) -> Answer:
        """Approve a tool call for which the conversation waits, and continue: the tool is used, and the model answers.

        A tool waits if its definition in the profile says `approval = true`. While other calls of the same turn wait, the
        returned answer has them as `pending`, and nothing is used yet. An approved tool is used at most once: if a process stops
        while it uses it, the model is shown that the result is unknown. The same decision again continues what was
        interrupted, or returns the answer.

        Raises:
            CallNotWaiting: no exchange waits for the call, or it was decided otherwise.
            ConversationBusy: the next run is open.
            AllBackendsFailed: no backend answered; the results are kept.
        """
        return self._perform(self._conversing.acting(actor).decide_call(call_id, reason, approved=True))

    def reject(self, call_id: str, reason: str = "", *, actor: str | None = None) -> Answer:
        """Reject a tool call for which the conversation waits: the model is shown the `reason`, and answers; see `approve`."""
        return self._perform(self._conversing.acting(actor).decide_call(call_id, reason, approved=False))

    def variants(self, message_id: str) -> list[Variant]:
        """Return the messages that follow the same message as this one, itself included, oldest first.

        Raises:
            MessageNotFound: there is no such message.
        """
        return self._journal.places(self.key).variants(message_id)

    def branches(self) -> list[Branch]:
        """Return every end of the conversation that can be selected, oldest first; all messages are read."""
        return self._journal.places(self.key).tree().branches()

    def select_branch(
        self, message_id: str, reason: str = "", *, here: bool = False, actor: str | None = None
    ) -> JournaledMessage:
        """Select the branch of a message, and return the message with which memory ends from now on.

        That is the newest message that continues the given one; with `here`, it is the given one itself.

        Raises:
            MessageNotFound: there is no such message.
            InvalidInput: it was retracted or cleared.
            ConversationBusy: a run is open.
        """
        return self._perform(self._conversing.acting(actor).select(message_id, reason, here=here))

    def pin(self, message_id: str, pinned: bool = True, *, actor: str | None = None) -> None:
        """Show a message in every window of memory, or no longer.

        Raises:
            MessageNotFound: there is no such message.
            InvalidInput: it was retracted or cleared, it holds tool calls or the result of one, or too many are pinned.
        """
        from ..conversation import decisions

        journal = self._conversing.acting(actor).journal
        message = journal.places(self.key).visible(message_id, "pinned")
        if pinned and message.is_part_of_call:
            raise InvalidInput(
                f"message {message_id} holds a tool call or its result, of which a window would show one without the other: "
                "pin the question before it or the answer after it instead"
            )
        name, version = message.message_id, message.version
        journal.commit(self.key, lambda conversation: decisions.pin(conversation, name, version, pinned))

    def rate(self, message_id: str, score: float, comment: str = "", *, actor: str | None = None) -> None:
        """Record what a person thinks of a message; `score` is a number on the app's own scale, such as 1 and -1.

        Raises:
            MessageNotFound: there is no such message.
            InvalidInput: the score is no finite number, or the comment is no storable text.
        """
        from ..conversation import decisions

        journal = self._conversing.acting(actor).journal
        found = journal.places(self.key).find(message_id)
        journal.commit(
            self.key, lambda conversation: decisions.rate(conversation, found.message_id, found.version, score, comment)
        )

    def retract(self, message_id: str, reason: str = "", *, actor: str | None = None) -> None:
        """Remove a message from memory, on every branch; it is kept in the log. Does nothing if it is not in memory."""
        journal = self._conversing.acting(actor).journal
        version = journal.version_to_retract(self.key, message_id)
        if version is not None:
            journal.commit(self.key, lambda conversation: conversation.retract(message_id, reason, version))

    def clear(self, reason: str = "", *, actor: str | None = None) -> None:
        """Clear the memory; the log is kept."""
        journal = self._conversing.acting(actor).journal
        journal.commit(self.key, lambda conversation: conversation.clear_memory(reason))

    def delete(self, reason: str = "", *, actor: str | None = None) -> Mapping[str, Sequence[str]]:
        """Delete the conversation, and return the ids of all threads that it ever had, by kind, which remain at the provider.

        It is not listed, shown, searched or exported any more; only an audit and the whole log show its events. The next message
        starts another conversation with the same key and nothing of this one.

        Raises:
            ConversationNotFound: there is no such conversation.
            ConversationBusy: a run is open. THREADLEDGER_WHILE_RUNNING may wait for its end, or close it.
        """
        return self._perform(self._conversing.acting(actor).delete(reason))

    def _appended(self, chat: Conversing, append: Callable[[], T]) -> T:
        return self._perform(chat.mirrored(append)) if chat.has_mirrors else append()

    def _perform(self, effects: Effects[T]) -> T:
        return perform(effects, self._services.wait)
