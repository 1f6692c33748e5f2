"""Conversations as JSON lines: `{"id": KEY, "messages": [Chat Completions messages]}`, other keys kept as metadata.

Import is idempotent by place, never by content: the n-th message of a conversation's line has an idempotency key of its
own. The same file twice changes nothing; a line that has grown at its end adds what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from threadledger.domain import InvalidInput, Ledger, ThreadledgerError, events, from_iso

from .found import Entry, Found, Imported, json_of, message_of
from .storing import import_found

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

PLACE_FIELDS = ("message_id", "at", "source", "exchange_id", "run_id")
"""What an export says of a message beside what was said."""

PLACE = "threadledger_place"
"""Where an export says it of a message that has fields of these names itself."""

OWN = "own"
"""Where it is kept in there what the message itself has under that name."""

METADATA = "metadata"
"""Where an export puts the metadata of a conversation that has fields named like ours."""


def import_lines(ledger: Ledger, lines: Iterable[bytes]) -> Iterator[Imported]:
    """Import line by line; a bad line is reported with its number and keeps nothing, the good ones are kept."""
    return import_found(ledger, found_in_lines(lines))


def found_in_lines(lines: Iterable[bytes]) -> Iterator[Found | Imported]:
    """The conversation of each line."""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if not text.strip():
            continue
        key = ""
        try:
            given = json_of(text, "line")
            if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
                raise InvalidInput('the line has no list "messages": give {"id": KEY, "messages": [...]}')
            if not isinstance(given.get("id"), str):
                raise InvalidInput('the line has no text "id": give {"id": KEY, "messages": [...]}')
            entries = [_entry(message, index) for index, message in enumerate(given["messages"])]
            key = given["id"]
            metadata = {name: value for name, value in given.items() if name not in {"id", "messages"}}
            yield Found(number, key, metadata, entries, has_ids=False)
        except ThreadledgerError as error:
            yield Imported(number, key, "failed", reason=str(error))


def export_lines(ledger: Ledger, keys: Sequence[str] | None = None, *, plain: bool = False) -> Iterator[str]:
    """One line a conversation, in the order in which the conversations began; `plain` as it was imported.

    Raises:
        ConversationNotFound: no such conversation.
    """
    for key in keys if keys is not None else keys_in_order(ledger):
        ledger.state(key)
        yield conversation_as_line(ledger, key, plain=plain)


def conversation_as_line(ledger: Ledger, key: str, *, plain: bool = False) -> str:
    """One conversation: its key, its metadata, its messages; with their ids, times and sources unless `plain`."""
    messages = []
    for each in ledger.memory(key).messages:
        message = each.message.as_chat_message()
        place = each.as_json() | {"at": each.written_at}
        messages.append(message if plain else _placed(message, {name: place[name] for name in PLACE_FIELDS}))
    metadata = metadata_of(ledger, key)
    if metadata.keys() & {"id", "messages"}:
        metadata = {METADATA: metadata}
    return json.dumps({"id": key, **metadata, "messages": messages}, ensure_ascii=False)


def metadata_of(ledger: Ledger, key: str) -> dict[str, Any]:
    """What a conversation began with."""
    for event in ledger.journal.history(key, upto=1):
        if isinstance(event, events.ConversationStarted):
            return event.metadata
    return {}


def keys_in_order(ledger: Ledger) -> Iterator[str]:
    """The keys of all conversations, in the order in which they began."""
    return (logged.key for logged in ledger.events(types=["ConversationStarted"]))


def _placed(message: dict[str, Any], place: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its place in the ledger; a field of its own that is named like one of these stays its own."""
    if not message.keys() & {*PLACE_FIELDS, PLACE}:
        return {**message, **place}
    own = {OWN: message[PLACE]} if PLACE in message else {}
    return message | {PLACE: {**place, **own}}


def _entry(given: object, index: int) -> Entry:
    """A message of a line; of one that was exported from a ledger, its place there is not part of what was said."""
    name = f"message {index + 1}"
    if not isinstance(given, dict):
        raise InvalidInput(f"{name} is not an object: give role and content")
    message: dict[str, Any] = given
    place: Any = given.get(PLACE)
    if _is_place(place):
        message = {field: value for field, value in given.items() if field != PLACE}
        message |= {PLACE: place[OWN]} if OWN in place else {}
    elif _is_place(given):
        place = given
        message = {field: value for field, value in given.items() if field not in PLACE_FIELDS}
    else:
        place = {"at": None}
    return Entry(message_of(message, name), str(index), name, place["at"])


def _is_place(given: object) -> bool:
    if not isinstance(given, dict) or not all(name in given for name in PLACE_FIELDS):
        return False
    try:
        from_iso(given["at"])
    except (TypeError, ValueError):
        return False
    return True
