"""Conversations as JSON lines: `{"id": KEY, "messages": [Chat Completions messages]}`, other keys kept as metadata.

Import is idempotent by place, never by content: the n-th message of a conversation's line has an idempotency key of its
own. The same file twice changes nothing; a line that has grown at its end adds what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from threadledger.domain import (
    IMPORTED,
    Conversation,
    ConversationChanged,
    IdempotencyConflict,
    InvalidInput,
    Ledger,
    Message,
    Source,
    ThreadledgerError,
    events,
    parse_message,
    restore_message,
)

BATCH_CONVERSATIONS = 50
"""New conversations stored in one transaction."""


@dataclass(frozen=True)
class Imported:
    """What became of one line: `imported`, `unchanged`, `extended` or `failed`."""

    line: int
    key: str
    state: str
    messages: int = 0
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class _New:
    """A conversation that waits to be stored with others."""

    line: int
    key: str
    metadata: dict[str, Any]
    messages: list[_Dated]

    def conversation(self) -> Conversation:
        conversation = Conversation.start(self.key, self.metadata)
        for index, (message, written_at) in enumerate(self.messages):
            conversation.journal(message, source=Source.IMPORT, idempotency_key=_place(index), written_at=written_at)
        return conversation

    def imported(self) -> Imported:
        return Imported(self.line, self.key, "imported", len(self.messages))


def import_lines(ledger: Ledger, lines: Iterable[bytes]) -> Iterator[Imported]:
    """Import line by line; a bad line is reported with its number and keeps nothing, the good ones are kept."""
    waiting: list[_New] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key = ""
        try:
            key, metadata, messages = _parse(line)
            Conversation.start(key, metadata)  # refuses a key or metadata that cannot be kept
            if ledger.journal.load(key) is None and all(new.key != key for new in waiting):
                waiting.append(_New(number, key, metadata, messages))
            else:
                yield from _store(ledger, waiting)
                waiting = []
                yield _extend(ledger, number, key, messages)
        except ThreadledgerError as error:
            yield Imported(number, key, "failed", reason=str(error))
        if len(waiting) >= BATCH_CONVERSATIONS:
            yield from _store(ledger, waiting)
            waiting = []
    yield from _store(ledger, waiting)


def export_lines(ledger: Ledger, keys: Sequence[str] | None = None, *, plain: bool = False) -> Iterator[str]:
    """One line a conversation, in the order in which the conversations began; `plain` as it was imported.

    Raises:
        ConversationNotFound: no such conversation.
    """
    chosen = keys if keys is not None else _in_order(ledger)
    for key in chosen:
        ledger.state(key)
        yield conversation_as_line(ledger, key, plain=plain)


def conversation_as_line(ledger: Ledger, key: str, *, plain: bool = False) -> str:
    """One conversation: its key, its metadata, its messages; with their ids, times and sources unless `plain`."""
    metadata: dict[str, Any] = {}
    for event in ledger.journal.history(key, upto=1):
        if isinstance(event, events.ConversationStarted):
            metadata = event.metadata
    messages = []
    for each in ledger.memory(key).messages:
        message = each.message.as_chat_message()
        place = each.as_json()
        messages.append(message if plain else message | {name: place[name] for name in _PLACE_FIELDS})
    return json.dumps({"id": key, **metadata, "messages": messages}, ensure_ascii=False)


_Dated = tuple[Message, str | None]
"""A message, and when the original was written where the line says so."""

_PLACE_FIELDS = ("message_id", "at", "source", "exchange_id", "run_id")


def _dated(given: dict[str, Any]) -> _Dated:
    """A message of a line; of one that was exported from a ledger, its place there is not part of what was said."""
    if not all(name in given for name in _PLACE_FIELDS):
        return parse_message(given), None
    plain = {name: value for name, value in given.items() if name not in _PLACE_FIELDS}
    return parse_message(plain), str(given["at"])


def _parse(line: bytes) -> tuple[str, dict[str, Any], list[_Dated]]:
    try:
        given = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the line is not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the line is not JSON ({error}): give one JSON object a line") from None
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        raise InvalidInput('the line has no list "messages": give {"id": KEY, "messages": [...]}')
    if not isinstance(given.get("id"), str):
        raise InvalidInput('the line has no text "id": give {"id": KEY, "messages": [...]}')
    messages: list[_Dated] = []
    for index, message in enumerate(given["messages"]):
        if not isinstance(message, dict):
            raise InvalidInput(f"message {index + 1} is not an object: give role and content")
        try:
            messages.append(_dated(message))
        except InvalidInput as error:
            raise InvalidInput(f"message {index + 1}: {error}") from None
    metadata = {name: value for name, value in given.items() if name not in {"id", "messages"}}
    return given["id"], metadata, messages


def _store(ledger: Ledger, waiting: Sequence[_New]) -> Iterator[Imported]:
    try:
        ledger.journal.store(*(new.conversation() for new in waiting))
    except ConversationChanged:  # somebody else began one of them meanwhile: one by one, each in its own transaction
        yield from (_store_one(ledger, new) for new in waiting)
        return
    yield from (new.imported() for new in waiting)


def _store_one(ledger: Ledger, new: _New) -> Imported:
    try:
        ledger.journal.store(new.conversation())
        return new.imported()
    except ConversationChanged:
        try:
            return _extend(ledger, new.line, new.key, new.messages)
        except IdempotencyConflict as error:
            return Imported(new.line, new.key, "failed", reason=str(error))


def _extend(ledger: Ledger, number: int, key: str, messages: Sequence[_Dated]) -> Imported:
    """Add what a conversation that has begun does not have yet."""
    known = {
        event.idempotency_key: event
        for event in ledger.journal.history(key)
        if isinstance(event, events.MessageJournaled) and event.source == Source.IMPORT
    }
    missing: list[tuple[int, _Dated]] = []
    for index, (message, written_at) in enumerate(messages):
        earlier = known.get(_place(index))
        if earlier is None:
            missing.append((index, (message, written_at)))
        elif restore_message(earlier) != message:
            raise IdempotencyConflict(
                f"message {index + 1} of {key!r} differs from the one imported before: nothing of this line was imported; "
                "give the changed conversation another id"
            )
    if not missing:
        return Imported(number, key, "unchanged")

    def decide(conversation: Conversation) -> None:
        for index, (message, written_at) in missing:
            conversation.journal(message, source=Source.IMPORT, idempotency_key=_place(index), written_at=written_at)

    ledger.journal.commit(key, decide)
    return Imported(number, key, "extended", len(missing))


def _place(index: int) -> str:
    return f"{IMPORTED}{index}"


def _in_order(ledger: Ledger) -> list[str]:
    return [logged.key for logged in ledger.events(types=["ConversationStarted"])]
