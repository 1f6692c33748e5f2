"""Edit messages, run questions again and select branches: `conversing.py` calls these functions when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..conversation import check_idempotency_key, parse_message
from ..conversation import events as e
from ..conversation.messages import JournaledMessage, Role, restore_message
from ..effects import work
from ..errors import IdempotencyConflict, InvalidInput
from ..ids import new_id
from .exchange import Exchange
from .records import BranchPoint, Mode
from .served import end_left_to_clients

if TYPE_CHECKING:
    from ..conversation import Conversation, ExchangeRecord
    from ..effects import Effects
    from ..journal import Journal
    from ..journal.places import Places
    from .answer import Answer
    from .conversing import Conversing

QUESTION_LOOKED_BACK = 8
"""Number of messages before an answer that are read first to find its question."""

EDITABLE = frozenset({Role.USER, Role.SYSTEM, Role.DEVELOPER, Role.ASSISTANT})
"""Roles of messages that can be edited; tool calls and their results belong to each other."""


def edit(
    chat: Conversing,
    message_id: str,
    content: str | Sequence[Mapping[str, Any]],
    idempotency_key: str | None,
    reason: str = "",
) -> Effects[JournaledMessage]:
    """Journal another message in the place of one, and select it; see `Chat.edit`."""
    places = yield from work(partial(places_of, chat))
    original = yield from work(partial(places.find, message_id))
    if original.message.role not in EDITABLE or original.message.calls():
        raise InvalidInput(f"message {message_id} holds a tool call or its result: edit the question before it instead")
    fields: dict[str, Any] = {"role": original.role_name, "content": content}
    if isinstance(name := original.message.extra().get("name"), str):
        fields["name"] = name
    given = parse_message(fields)
    if original.message.role is Role.USER:
        chat.refuse_empty(given)
    message = yield from work(lambda: chat.journal.keep(given))
    parent = yield from work(partial(places.before, original))

    def decide(conversation: Conversation, interrupting: bool = False) -> e.MessageJournaled:
        conversation.require_current(original.version)
        earlier = _earlier(chat, idempotency_key)
        if earlier is not None:
            if earlier.parent_version != parent[1] or restore_message(earlier) not in {given, message}:
                raise IdempotencyConflict(
                    f"the idempotency key {idempotency_key!r} belongs to something else in {chat.key!r}: use a different key"
                )
            return earlier
        places.checked(original, "edited")
        _make_room(chat, conversation, interrupting)
        said = conversation.journal(message, idempotency_key=idempotency_key, parent=parent)
        conversation.select(said.message_id, said.originator_version, reason)
        return said

    said = yield from chat.when_free(decide)
    yield from chat.mirror()
    return JournaledMessage(message, said.message_id, said.originator_version, said.timestamp)


def select(chat: Conversing, message_id: str, reason: str, *, here: bool = False) -> Effects[JournaledMessage]:
    """Select the branch of a message; see `Chat.select_branch`."""
    places = yield from work(partial(places_of, chat))
    chosen = yield from work(partial(places.visible, message_id, "selected"))
    end = chosen if here else (yield from work(partial(_end_of, places, chosen)))

    def decide(conversation: Conversation, interrupting: bool = False) -> None:
        if end.version != conversation.state.end_version:
            _make_room(chat, conversation, interrupting)
            conversation.select(end.message_id, end.version, reason)

    yield from chat.when_free(decide)
    yield from chat.mirror()
    return end


def regenerate(
    chat: Conversing, message_id: str | None, idempotency_key: str | None, stream: bool = False
) -> Effects[Answer]:
    """Run a question again, and select its new answer; see `Chat.regenerate`."""
    if idempotency_key is not None:
        check_idempotency_key(idempotency_key)
    places = yield from work(partial(places_of, chat))
    begun = yield from work(partial(_begun, chat, places, idempotency_key, message_id))
    if begun is not None:
        return (yield from chat.rerun(begun.exchange_id, stream=stream, after=begun.originator_version - 1))
    question = yield from work(partial(_question_of, chat, places, message_id))
    unanswered = yield from work(partial(_unanswered, chat, question))
    if unanswered is not None:
        return (yield from chat.rerun(unanswered, stream=stream, idempotency_key=idempotency_key))
    sent: Mapping[str, Any] = {}
    if chat.options is not None:
        from .requests import sent as sent_with

        sent = yield from work(partial(sent_with, chat.journal, chat.options, chat.services))
    exchange_id = new_id()

    def decide(conversation: Conversation, interrupting: bool = False) -> tuple[int, int | None]:
        conversation.require_current(question.version)
        _make_room(chat, conversation, interrupting)
        place = {"question_message_id": question.message_id, "question_version": question.version}
        end = conversation.state.end_version
        conversation.request(exchange_id, {**sent, **place})
        return conversation.version, end

    version, end = yield from chat.when_free(decide)
    if end is None:
        end = (yield from work(places.end))[1]
    branch = BranchPoint((question.message_id, question.version), end, answered=question.version != end)
    mode = Mode(branch=branch, idempotency_key=idempotency_key)
    exchange = Exchange(chat.journal, chat.services, chat.key, exchange_id, mode=mode, after=version - 1, stream=stream)
    return (yield from exchange.run())


def branch_of(journal: Journal, recorded: ExchangeRecord) -> BranchPoint:
    """Return where an exchange continues whose runs were aside: behind its question and the results of their tools."""
    first, last, key = recorded.runs[0], recorded.last() or recorded.runs[-1], recorded.key
    places, state = journal.places(key), journal.require(key).state
    exchange = state.open_exchanges.get(first.exchange_id) or state.abandoned.get(first.exchange_id)
    if exchange is not None:
        parent = journal.end_of_exchange(key, exchange)
    else:
        leaf = last.memory_leaf_version or 0
        parent = places.at(leaf).message_id, leaf
    return BranchPoint(parent, places.end(first.version - 1)[1], last.question_answered)


def places_of(chat: Conversing) -> Places:
    """Return where the messages of a conversation are.

    Raises:
        ConversationNotFound: no conversation has this key.
    """
    return chat.journal.places(chat.key)


def _end_of(places: Places, chosen: JournaledMessage) -> JournaledMessage:
    end = places.end()
    if places.is_on_path(chosen):
        return places.at(end[1])
    return places.tree().end_of(chosen.message_id)


def _make_room(chat: Conversing, conversation: Conversation, interrupting: bool) -> None:
    if interrupting:
        conversation.interrupt()
    end_left_to_clients(chat.journal, chat.key, conversation)
    conversation.be_free()


def _earlier(chat: Conversing, idempotency_key: str | None) -> e.MessageJournaled | None:
    """Return the message that was stored with a key.

    Raises:
        InvalidInput: it is no key.
        IdempotencyConflict: the key belongs to something else.
    """
    if idempotency_key is None:
        return None
    check_idempotency_key(idempotency_key)
    event = chat.journal.keyed(chat.key, idempotency_key)
    if event is None or isinstance(event, e.MessageJournaled):
        return event
    raise IdempotencyConflict(
        f"the idempotency key {idempotency_key!r} belongs to something else in {chat.key!r}: use a different key"
    )


def _begun(
    chat: Conversing, places: Places, idempotency_key: str | None, message_id: str | None
) -> e.RunStarted | None:
    """Return the first run of the exchange that was begun with a key.

    Raises:
        IdempotencyConflict: it belongs to something else, or answers another question than that of the message.
    """
    event = chat.journal.keyed(chat.key, idempotency_key) if idempotency_key is not None else None
    if event is None:
        return None
    if isinstance(event, e.RunStarted):
        asked = event.memory_leaf_version
        if message_id is None or asked is None or _is_about(chat, places, message_id, asked):
            return event
        raise IdempotencyConflict(
            f"the idempotency key {idempotency_key!r} belongs to another question of {chat.key!r}: use a different key"
        )
    raise IdempotencyConflict(
        f"the idempotency key {idempotency_key!r} belongs to a message of {chat.key!r}: use a different key"
    )


def _is_about(chat: Conversing, places: Places, message_id: str, leaf: int) -> bool:
    """Return whether a message has the question of a run whose memory ended with a version; True if that is no longer known."""
    with suppress(InvalidInput):  # a message is no longer known
        last = places.at(leaf).message_id  # the question, or the result of a tool that an earlier run used
        return _question_of(chat, places, message_id).version == _question_of(chat, places, last).version
    return True


def _question_of(chat: Conversing, places: Places, message_id: str | None) -> JournaledMessage:
    """Return the question that a message answers: the newest message of the user at or before it, on its own path.

    Raises:
        InvalidInput: there is none.
        MessageNotFound: there is no such message.
    """
    leaf = None if message_id is None else places.visible(message_id, "run again").version
    last = QUESTION_LOOKED_BACK
    while True:
        memory = chat.journal.memory(chat.key, last=last, leaf=leaf, full=True)
        shown = [each for each in memory.messages if each.version > memory.opening_version]
        for each in reversed(shown):
            if each.message.role is Role.USER and not each.is_summary:
                return _uncovered(chat, each)
        if memory.first_version is None:
            what = "the conversation" if message_id is None else f"the path to message {message_id}"
            raise InvalidInput(f"{what} of {chat.key!r} has no question, so nothing can be run again: ask one first")
        last *= 4


def _uncovered(chat: Conversing, question: JournaledMessage) -> JournaledMessage:
    """Return a question if the memory that ends with it shows it: a summary may end there, and stand for it."""
    if chat.journal.require(chat.key).state.compacted_version is not None:
        shown = chat.journal.memory(chat.key, last=1, leaf=question.version).messages
        if not shown or shown[-1].version != question.version:
            raise InvalidInput(
                f"a summary of {chat.key!r} ends with the question {question.message_id}, so it cannot be run again: edit it and "
                "regenerate, or ask once more"
            )
    return question


def _unanswered(chat: Conversing, question: JournaledMessage) -> str | None:
    """Return the exchange that failed to answer a question at the end of memory; None if there is none."""
    state = chat.journal.require(chat.key).state
    newest = chat.journal.memory(chat.key, last=1).messages[-1:]
    for exchange_id, exchange in reversed(state.abandoned.items()):
        is_last = any(each.version == question.version or each.exchange_id == exchange_id for each in newest)
        if exchange.question == question.message_id and exchange.runs and is_last:
            return exchange_id
    return None
