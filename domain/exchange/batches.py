"""Journal several messages in one commit, once for each idempotency key, and expect a version of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..arguments import short
from ..conversation import check_idempotency_key, parse_message
from ..conversation import events as e
from ..conversation.messages import JournaledMessage, restore_message
from ..errors import ConversationChanged, IdempotencyConflict, InvalidInput, InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..conversation import Conversation
    from ..conversation.messages import Message
    from .conversing import Conversing


def expect(conversation: Conversation, version: int) -> None:
    """Check that nothing was stored in a conversation since a version; 0 is that of one that does not exist yet.

    Raises:
        ConversationChanged: it has another version.
        InvalidInput: the version is no whole number, or below 0.
    """
    given: object = version
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InvalidInput(
            f"expected_version={short(version)} is no version: give a whole number, 0 if there is nothing yet"
        )
    stored = 0 if conversation.pending else conversation.version  # what is pending is its start
    if stored != version:
        raise ConversationChanged(
            f"{conversation.state.key!r} has version {stored}, not {short(version)}: nothing was written; read what is new, then "
            "try again"
        )


def extended(
    chat: Conversing, messages: Iterable[Mapping[str, Any]], idempotency_key: str | None, expected_version: int | None
) -> list[JournaledMessage]:
    """Journal several messages in one commit without mirroring them; see `Chat.extend`."""
    if not isinstance(messages, Iterable):
        raise InvalidMessage(f"messages has type {type(messages).__name__}: nothing was written; give a list of dicts")
    parsed = [parse_message(message) for message in messages]
    if not all(type(message.content) is str for message in parsed):  # texts have no data
        parsed = [chat.journal.keep(message) for message in parsed]
    if not parsed:
        return []

    def decide(conversation: Conversation) -> Sequence[e.MessageJournaled]:
        earlier = _earlier(chat, idempotency_key, parsed) if idempotency_key is not None else []
        if earlier:
            return earlier
        if expected_version is not None:
            expect(conversation, expected_version)
        if idempotency_key is None:
            return [conversation.journal(message) for message in parsed]
        first = conversation.journal(parsed[0], idempotency_key=idempotency_key, batch=len(parsed))
        return [first, *map(conversation.journal, parsed[1:])]

    events = chat.journal.commit(chat.key, decide, create=True)
    return [
        JournaledMessage(message, event.message_id, event.originator_version, event.timestamp)
        for message, event in zip(parsed, events, strict=True)
    ]


def _earlier(chat: Conversing, idempotency_key: str, messages: Sequence[Message]) -> list[e.MessageJournaled]:
    """Return the messages that were journaled under a key; an empty list if there are none.

    Raises:
        IdempotencyConflict: the key belongs to other messages.
    """
    check_idempotency_key(idempotency_key)
    first = chat.journal.keyed(chat.key, idempotency_key)
    if first is None:
        return []
    if isinstance(first, e.MessageJournaled) and first.batch == len(messages):
        begin = first.originator_version
        stored = chat.journal.history(chat.key, after=begin - 1, upto=begin + first.batch - 1)
        found = [each for each in stored if isinstance(each, e.MessageJournaled)]
        if [restore_message(each) for each in found] == list(messages):
            return found
    raise IdempotencyConflict(
        f"the idempotency key {idempotency_key!r} belongs to other messages of {chat.key!r}: nothing was written; use a "
        "different key for each list"
    )
