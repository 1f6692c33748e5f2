"""Keep the session of an agent of the Agents SDK as a conversation.

The SDK (openai-agents 0.24) awaits a session, and the ledger blocks: its work is done in threads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, cast

from agents.memory.session import SessionABC
from agents.memory.session_settings import SessionSettings, coerce_session_settings, resolve_session_limit

from threadledger.domain import limits
from threadledger.domain.conversation import Conversation, stream_of
from threadledger.domain.conversation.decisions import keep_items
from threadledger.domain.conversation.items import CALLS
from threadledger.domain.conversation.messages import JournaledMessage, Message, Role
from threadledger.domain.conversation.session_items import (
    call_id_of,
    items_in_native,
    json_items,
    kind_of_item,
    messages_of,
    native_items,
    plain_items,
)
from threadledger.domain.errors import ConversationChanged, ConversationNotFound
from threadledger.domain.ids import now
from threadledger.domain.ledger import AsyncLedger, Ledger
from threadledger.domain.memory import Memory

from ..recording import RunAnswer, SessionTurn, begin_turn, forget_answers, left_answers, not_given, turn_of
from ..worker_threads import to_its_end

if TYPE_CHECKING:
    from agents import TResponseInputItem

    from threadledger.domain.journal import Journal

Item = dict[str, Any]

CALLS_LOOKED_BACK = 50
"""Number of newest messages in which the call is searched for that a result answers."""

POPPED = "an item was removed from the session"
CLEARED = "the session was cleared"
NOT_KEPT = "the agent did not keep this answer"
"""Reasons of what a session removes from memory; the log keeps it."""


class Session(SessionABC):
    """Keep the items of an agent's session as the memory of a conversation, whose key is the session's id.

    Items come back exactly as they were added. What else is in the memory, such as messages of `chat.append` or answers of
    `chat.ask`, is among them.
    """

    def __init__(
        self,
        session_id: str,
        ledger: Ledger | AsyncLedger | str | PathLike[str] | None = None,
        *,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        """Open the session.

        Args:
            session_id: the key of the conversation.
            ledger: an open ledger, or the database as a path or URL; by default the one of the settings. One that is
                opened here is closed by `close`.
            session_settings: the default limit of `get_items`.

        Raises:
            InvalidKey: the id is not a string of 1 to 200 storable characters.
            InvalidSettings, InvalidProfile, StoreError: the ledger cannot be opened.
        """
        stream_of(session_id)
        self.session_id = session_id
        given = SessionSettings() if session_settings is None else session_settings
        self.session_settings: SessionSettings | None = coerce_session_settings(given)
        self._is_own = not isinstance(ledger, Ledger | AsyncLedger)
        self.ledger = opened(ledger)
        """The ledger that has the conversation."""
        self._is_closed = False

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the newest items of the session, at most `limit` of them, oldest first.

        Raises:
            StoreError: the ledger cannot be read.
        """
        self._refuse_if_closed()
        most = resolve_session_limit(limit, self.session_settings)
        begin_turn(self._journal, self.session_id)
        items = await asyncio.to_thread(self._read, most)
        return cast("list[TResponseInputItem]", items)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end of the session, all of them or none.

        An item that a recorded run of the same agent has journaled is not journaled again.

        Raises:
            InvalidMessage: an item is no dict of JSON values; nothing was stored.
            StoreError: the ledger cannot be written.
        """
        self._refuse_if_closed()
        if not items:
            return
        given = json_items(items)
        turn, left = self._begun(), left_answers(self._journal, self.session_id)
        await to_its_end(lambda: self._add(turn, given, left))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item from the session, and return it; None if there is none. The log keeps it.

        Raises:
            ConversationChanged: other writers changed the conversation during every attempt.
            StoreError: the ledger cannot be written.
        """
        self._refuse_if_closed()
        return cast("TResponseInputItem | None", await to_its_end(self._pop))

    async def clear_session(self) -> None:
        """Remove all items from the session. The log keeps them.

        Raises:
            StoreError: the ledger cannot be written.
        """
        self._refuse_if_closed()
        await to_its_end(self._clear)

    def close(self) -> None:
        """Close the session, and the ledger if the session opened it."""
        if self._is_own and not self._is_closed:
            self.ledger.close()
        self._is_closed = True

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"the session {self.session_id!r} is closed: open another one")

    @property
    def _journal(self) -> Journal:
        return self.ledger.journal

    def _begun(self) -> SessionTurn:
        """Return the turn of the agent that the caller serves: one of its own task, or of the task that started it."""
        return turn_of(self._journal, self.session_id) or begin_turn(self._journal, self.session_id)

    # In a thread

    def _read(self, most: int | None) -> list[Item]:
        if most == 0:
            return []
        most = most if most is not None and most > 0 else None  # below 0, the SDK's own sessions return all
        hidden = not_given(self._journal, self.session_id)
        memory = self._journal.memory(self.session_id, last=most + len(hidden) if most is not None else None)
        items = self._items_of([each for each in memory.messages if each.message_id not in hidden])
        return items if most is None else items[-most:]

    def _items_of(self, messages: Sequence[JournaledMessage]) -> list[Item]:
        """Return the items of messages, as they were added or as runs gave them."""
        kept, items = self._kept_of(messages), list[Item]()
        for each in messages:
            items += self._exactly(each.message, kept.get(each.message_id, each.message.native_json))
        return items

    def _kept_of(self, messages: Sequence[JournaledMessage]) -> dict[str, str]:
        """Return the items that the session was given of answers of runs, by message id."""
        first = min((each.version for each in messages if each.run_id is not None), default=None)
        lookups = self._journal.lookups(self.session_id) if first is not None else None
        events = lookups.session_items(first or 0) if lookups is not None else {}
        return {message_id: json.dumps(each.native) for message_id, each in events.items()}

    def _unanswered_calls(self, given: Sequence[Item]) -> list[RunAnswer]:
        """Return the answers of runs whose calls are among these items and have no result: a process may have stopped there."""
        called = {call_id_of(each) for each in given if kind_of_item(each) in CALLS}
        if not called:
            return []
        newest = self._journal.memory(self.session_id, last=CALLS_LOOKED_BACK).messages
        answered = {each.message.tool_call_id for each in newest}
        calls = {each.message_id: {call.id for call in each.message.calls()} & called - answered for each in newest}
        found = [each for each in newest if each.run_id is not None and calls[each.message_id]]
        kept = self._kept_of(found)
        return [
            RunAnswer(
                each.message_id,
                each.version,
                each.message,
                is_final=False,
                has_text=bool(each.message.text.strip()) and each.message_id not in kept,
                calls=frozenset(calls[each.message_id]),
                items=tuple(self._exactly(each.message, kept[each.message_id])) if each.message_id in kept else (),
            )
            for each in found
        ]

    def _exactly(self, message: Message, native_json: str) -> list[Item]:
        found = items_in_native(message, native_json, self._journal.read_blob)
        if found is not None:
            return found
        if isinstance(message.content, tuple) and message.role is not Role.TOOL:
            shown = JournaledMessage(message, "", 0, now())
            return Memory((shown,), read_blob=self._journal.read_blob).as_response_items()
        return plain_items(message)

    def _add(self, turn: SessionTurn, given: Sequence[Item], left: Sequence[RunAnswer]) -> None:
        journal, key = self._journal, self.session_id
        taken, others = turn.given(given, self._unanswered_calls(given))
        new = [message for message, _ in messages_of(others)]
        placed = [(journal.keep(each), self._exchange_of(each, turn)) for each in new]
        noted = [(each, self._native_of(each)) for each in taken if self._shown_of(each) != [*each.items]]
        asks, kept = any(each.role is Role.USER for each in new), {each.message_id for each in taken}
        gone = [each for each in left if asks and each.message_id not in kept]

        def decide(conversation: Conversation) -> None:
            for answer in gone:
                conversation.retract(answer.message_id, NOT_KEPT, answer.version)
            for message, exchange_id in placed:
                conversation.journal(message, exchange_id=exchange_id)
            for answer, native_json in noted:
                keep_items(conversation, answer.message_id, answer.version, native_json)

        if placed or noted:
            journal.commit(key, decide, create=True)
        turn.add(new)
        turn.take(taken)
        forget_answers(journal, key, [each.message_id for each in gone])

    def _shown_of(self, answer: RunAnswer) -> list[Item]:
        """Return the items that an answer has without being told: those with which it was journaled."""
        return self._exactly(answer.message, answer.message.native_json)

    def _native_of(self, answer: RunAnswer) -> str:
        message = answer.message
        kept = self._journal.keep(message.replaced(native_json=native_items(message, answer.items)))
        return kept.native_json

    def _exchange_of(self, message: Message, turn: SessionTurn) -> str | None:
        """Return the exchange that the result of a call continues: that of the run that called."""
        call_id = message.tool_call_id
        if call_id is None:
            return None
        if call_id in turn.exchange_of_call:
            return turn.exchange_of_call[call_id]
        newest = self._journal.memory(self.session_id, last=CALLS_LOOKED_BACK).messages
        callers = (each for each in reversed(newest) if any(call.id == call_id for call in each.message.calls()))
        return next((each.exchange_id for each in callers), None)

    def _pop(self) -> Item | None:
        refused: ConversationChanged | None = None
        for _ in range(limits.DECIDE_ATTEMPTS_MAX):
            hidden = not_given(self._journal, self.session_id)
            memory = self._journal.memory(self.session_id, last=1 + len(hidden))
            newest = next((each for each in reversed(memory.messages) if each.message_id not in hidden), None)
            if newest is None:
                return None
            *left, item = self._items_of([newest])
            try:
                self._remove(newest, left, memory.version)
            except ConversationChanged as error:
                refused = error
                continue
            forget_answers(self._journal, self.session_id, [newest.message_id])
            return item
        raise refused or AssertionError("at least one attempt was made")

    def _remove(self, message: JournaledMessage, left: Sequence[Item], version: int) -> None:
        """Retract a message as of a version; what is left of its items becomes messages of their own."""
        journal = self._journal
        kept = [journal.keep(each) for each, _ in messages_of(left)]

        def decide(conversation: Conversation) -> None:
            if conversation.version != version:
                raise ConversationChanged(f"the conversation {self.session_id!r} has changed since its memory was read")
            conversation.retract(message.message_id, POPPED, message.version)
            for each in kept:
                conversation.journal(each, exchange_id=message.exchange_id)

        journal.commit(self.session_id, decide)

    def _clear(self) -> None:
        with suppress(ConversationNotFound):  # then there is nothing to clear
            self._journal.commit(self.session_id, lambda conversation: conversation.clear_memory(CLEARED))
        forget_answers(self._journal, self.session_id)


def opened(ledger: Ledger | AsyncLedger | str | PathLike[str] | None) -> Ledger:
    """Return a ledger as one whose calls block; a database, or that of the settings, is opened."""
    if isinstance(ledger, AsyncLedger):
        return ledger.ledger
    if isinstance(ledger, Ledger):
        return ledger
    from ..settings import load_settings
    from ..wiring import open_ledger

    return open_ledger(load_settings(db=fspath(ledger) if ledger is not None else None))
