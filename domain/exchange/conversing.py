"""Implement the operations on one conversation as effects: `Chat` performs them, `AsyncChat` awaits them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..conversation import (
    ActiveRuns,
    check_idempotency_key,
    parse_message,
    stream_of,
)
from ..conversation import events as e
from ..conversation.messages import JournaledMessage, is_attached, plain_message, restore_message
from ..effects import Pause, work
from ..errors import ConversationBusy, IdempotencyConflict, InvalidMessage
from ..limits import QUEUE_LOOK_FIRST_SECONDS, QUEUE_LOOK_MAX_SECONDS
from .exchange import Exchange

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..conversation.messages import Message
    from ..effects import Effects
    from ..journal import Journal
    from .answer import Answer
    from .options import AskKeywords, ExchangeOptions
    from .policy import Policy
    from .services import Services

T = TypeVar("T")


class UnreadThread(Exception):
    """Raised before an exchange is abandoned that a stopped process left: its answer may be in a thread."""

    def __init__(self, exchange_id: str) -> None:
        super().__init__(exchange_id)
        self.exchange_id = exchange_id


class Conversing:
    """Operate on one conversation, with the backends and tools that may be called for it."""

    def __init__(self, journal: Journal, services: Services, key: str) -> None:
        self.stream = stream_of(key)
        self.key = key
        self.journal = journal
        self.services = self.base = services
        self.own: Mapping[str, Any] = {}
        """Options of all exchanges of the conversation."""
        self.given: Mapping[str, Any] = {}
        """Options of one exchange, which made `services` of the `base`."""
        self.options: ExchangeOptions | None = None

    def using(self, options: AskKeywords, own: bool = False) -> Conversing:
        """Return the operations with the options of one exchange, or with its `own` options for all of them.

        Raises:
            InvalidInput: an option is not valid.
        """
        if not options:
            return self
        from .options import using

        return using(self, options, own)

    def acting(self, actor: str | None) -> Conversing:
        """Return the operations with an actor for what they store."""
        if actor is None:
            return self
        acting = copy(self)
        acting.journal = self.journal.as_actor(actor)
        return acting

    def append(
        self,
        role: str,
        content: str | Sequence[Mapping[str, Any]] | None,
        idempotency_key: str | None,
        fields: Mapping[str, Any],
        expected_version: int | None = None,
    ) -> JournaledMessage:
        """Journal a message without mirroring it; see `Chat.append`."""
        given = self._message(role, content, fields)
        message = self.journal.keep(given)

        def decide(conversation: Conversation) -> e.MessageJournaled:
            earlier = self._earlier(idempotency_key, message, given)
            if earlier is None and expected_version is not None:
                from .batches import expect

                expect(conversation, expected_version)
            return earlier or conversation.journal(message, idempotency_key=idempotency_key)

        journaled = self.journal.commit(self.key, decide, create=True)
        return JournaledMessage(message, journaled.message_id, journaled.originator_version, journaled.timestamp)

    def extend(
        self, messages: Iterable[Mapping[str, Any]], idempotency_key: str | None, expected_version: int | None
    ) -> list[JournaledMessage]:
        """Journal several messages in one commit without mirroring them; see `Chat.extend`."""
        from .batches import extended

        return extended(self, messages, idempotency_key, expected_version)

    def mirrored(self, append: Callable[[], T]) -> Effects[T]:
        """Journal messages, then send what is missing to the conversation's threads."""
        journaled = yield from work(append)
        if journaled:
            yield from self.mirror()
        return journaled

    def ask(
        self, content: str | Sequence[Mapping[str, Any]], idempotency_key: str | None = None, stream: bool = False
    ) -> Effects[Answer]:
        """Answer a question in one exchange; see `Chat.ask`. With `stream`, its parts are reported as they arrive."""
        given = self._message("user", content)
        self.refuse_empty(given)
        if self.services.profile.tools_json != "[]":
            self.services.profile.check()
        question = yield from self._kept(given)
        if self.services.policy.compact_at_tokens is not None:
            yield from self.compact_if_due()
        if self.services.load is not None:
            self.services.load()

        searched: set[str] = set()
        sent: Mapping[str, Any] = {}
        if self.options is not None:
            from .requests import sent as sent_with

            sent = yield from work(partial(sent_with, self.journal, self.options, self.services))

        def decide(conversation: Conversation, interrupting: bool = False) -> tuple[str, int, bool]:
            def search_first(exchange_id: str) -> None:
                if conversation.state.links and exchange_id not in searched:
                    raise UnreadThread(exchange_id)

            earlier = self._earlier(idempotency_key, question, given)
            if earlier is None:
                if interrupting:
                    conversation.interrupt()
                if conversation.state.open_exchanges:
                    from .served import end_left_to_clients

                    end_left_to_clients(self.journal, self.key, conversation)
                exchange_id, asked_at = conversation.ask(question, idempotency_key, search_first), conversation.version
                if sent:
                    conversation.request(exchange_id, sent)
                return exchange_id, asked_at, True
            if earlier.exchange_id is None:
                raise IdempotencyConflict(
                    f"the idempotency key {idempotency_key!r} belongs to a message that was only journaled in {self.key!r}: "
                    "use a different key for the question"
                )
            return earlier.exchange_id, earlier.originator_version - 1, False

        exchange_id, asked_at, is_new = yield from self._committed(decide, searched)
        if not is_new:
            return (yield from self.rerun(exchange_id, stream=stream, after=asked_at))
        exchange = Exchange(self.journal, self.services, self.key, exchange_id, after=asked_at, stream=stream)
        return (yield from exchange.run())

    def rerun(
        self,
        exchange_id: str,
        policy: Policy | None = None,
        *,
        stream: bool = False,
        live: bool = False,
        after: int | None = None,
        idempotency_key: str | None = None,
    ) -> Effects[Answer]:
        """Rerun an exchange; see `Chat.rerun`. `after` is a version before its question, if that is known."""
        from .repeat import rerun

        return rerun(self, exchange_id, policy, stream=stream, live=live, after=after, idempotency_key=idempotency_key)

    def edit(
        self, message_id: str, content: str | Sequence[Mapping[str, Any]], idempotency_key: str | None = None
    ) -> Effects[JournaledMessage]:
        """Journal another message in the place of one; see `Chat.edit`."""
        from .branching import edit

        return edit(self, message_id, content, idempotency_key)

    def regenerate(
        self, message_id: str | None = None, idempotency_key: str | None = None, stream: bool = False
    ) -> Effects[Answer]:
        """Run a question again; see `Chat.regenerate`."""
        from .branching import regenerate

        return regenerate(self, message_id, idempotency_key, stream)

    def select(self, message_id: str, reason: str = "", *, here: bool = False) -> Effects[JournaledMessage]:
        """Select the branch of a message; see `Chat.select_branch`."""
        from .branching import select

        return select(self, message_id, reason, here=here)

    def decide_call(self, call_id: str, reason: str = "", *, approved: bool, stream: bool = False) -> Effects[Answer]:
        """Decide on a tool call; see `Chat.approve`."""
        from .approvals import decide

        return decide(self, call_id, reason, approved=approved, stream=stream)

    def compact(self, keep_last: int | None = None) -> Effects[JournaledMessage | None]:
        """Cover the older messages by a summary; see `Chat.compact`."""
        from .compacting import compact

        return compact(self, keep_last)

    def compact_if_due(self) -> Effects[None]:
        """Cover the older messages by a summary if memory has more tokens than the policy allows; failures are logged."""
        from .compacting import compact_if_due

        return compact_if_due(self)

    def delete(self, reason: str = "") -> Effects[Mapping[str, Sequence[str]]]:
        """End the conversation; see `Chat.delete`."""
        from .deleting import delete

        return delete(self, reason)

    @property
    def has_mirrors(self) -> bool:
        """Return whether messages may have to be sent to a thread."""
        return self.services.outbox is not None and self.services.outbox.has_mirrors

    def mirror(self) -> Effects[None]:
        """Send missing messages to the conversation's threads, if there is an outbox."""
        if self.services.outbox is not None:
            yield from self.services.outbox.mirror(self.journal, self.key)

    def when_free(self, decide: Callable[..., T]) -> Effects[T]:
        """Commit a decision. While a run is open, the policy decides: refuse, wait, or replace the run.

        `decide` is called with `interrupting=True` if it must close what is open.
        """
        if self.services.policy.while_running == ActiveRuns.QUEUE:
            return (yield from self._in_turn(decide))
        interrupting = self.services.policy.while_running == ActiveRuns.INTERRUPT
        chosen = partial(decide, interrupting=True) if interrupting else decide
        return (yield from work(partial(self.journal.commit, self.key, chosen, create=True)))

    def _committed(self, decide: Callable[..., T], searched: set[str]) -> Effects[T]:
        """Commit a question; before an exchange is abandoned for it, read the thread for a lost answer."""
        while True:
            try:
                return (yield from self.when_free(decide))
            except UnreadThread as unread:
                searched.add(unread.exchange_id)
                if self.services.outbox is not None:
                    yield from self.services.outbox.recover_answer(self.journal, self.key, unread.exchange_id)

    def _in_turn(self, decide: Callable[..., T]) -> Effects[T]:
        """Commit a decision when the conversation is free and no earlier caller is still waiting."""
        ticket = self.services.turns.take(self.key)
        try:
            for seconds in self.looks():
                if self.services.turns.has_come(self.key, ticket):
                    with suppress(ConversationBusy):  # it is tried again until the time is over
                        return (yield from work(partial(self.journal.commit, self.key, decide, create=True)))
                yield Pause(seconds)
            return (yield from work(partial(self.journal.commit, self.key, decide, create=True)))
        finally:
            self.services.turns.give_back(self.key, ticket)

    def looks(self) -> Iterator[float]:
        """Yield the seconds to wait before each check, until the time limit of an exchange has passed."""
        until = time.monotonic() + self.services.policy.deadline_seconds
        seconds = QUEUE_LOOK_FIRST_SECONDS
        while time.monotonic() < until:
            yield seconds
            seconds = min(seconds * 2, QUEUE_LOOK_MAX_SECONDS)

    def _message(
        self, role: str, content: str | Sequence[Mapping[str, Any]] | None, fields: Mapping[str, Any] | None = None
    ) -> Message:
        """Return a message from outside, checked.

        Raises:
            InvalidMessage: it cannot be stored.
        """
        plain = plain_message(role, content) if isinstance(content, str) and not fields else None
        return plain or parse_message({"role": role, "content": content, **(fields or {})})

    def refuse_empty(self, question: Message) -> None:
        """Check that a question says something.

        Raises:
            InvalidMessage: it does not.
        """
        if not (question.text.strip() or is_attached(question)):
            raise InvalidMessage("the question is empty: nothing was stored or sent; pass a non-empty text")

    def _kept(self, message: Message) -> Effects[Message]:
        """Store the data inside a message; a message of text needs no work."""
        if isinstance(message.content, str):
            return message
        return (yield from work(lambda: self.journal.keep(message)))

    def _earlier(
        self, idempotency_key: str | None, message: Message, given: Message | None = None
    ) -> e.MessageJournaled | None:
        """Return the message that was stored with a key; versions without blobs stored it as it was given."""
        if idempotency_key is None:
            return None
        check_idempotency_key(idempotency_key)
        event = self.journal.keyed(self.key, idempotency_key)
        said = (message, given)
        if isinstance(event, e.MessageJournaled) and event.batch == 1 and restore_message(event) in said:
            return event
        if event is not None:
            raise IdempotencyConflict(
                f"the idempotency key {idempotency_key!r} belongs to another message of {self.key!r}: "
                "use a different key for each message"
            )
        return None
