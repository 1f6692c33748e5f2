"""Import and export conversations as JSON lines: `{"id": KEY, "messages": [Chat Completions messages]}`.

Other keys of a line are kept as metadata. Import is idempotent by place, never by content: the n-th message of a line
has its own idempotency key. Importing the same file twice changes nothing; if messages were appended to a line, only
those are added.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from threadledger.domain.conversation import events
from threadledger.domain.conversation.native import ANTHROPIC, stored_native
from threadledger.domain.errors import InvalidInput, ThreadledgerError
from threadledger.domain.ids import from_iso
from threadledger.domain.ledger import Ledger

from .attachments import NATIVE, Attach, inside
from .importing import import_found
from .json_values import Value, lines_of
from .reading import (
    NEWEST_RULE,
    Entry,
    Found,
    Imported,
    MessageReader,
    SourcePlace,
    UsualEntries,
    conversation_key,
    json_of,
    made_keys,
    name_of,
    with_repeated,
)
from .repairs import is_usual, usual_message

PLACE_FIELDS = ("message_id", "at", "source", "exchange_id", "run_id")
"""Fields that an export adds to each message: its id, timestamp, source, exchange and run."""

PLACE = "threadledger_place"
"""Field that holds the place fields if the message itself already has fields with these names."""

OWN = "own"
"""Field inside `PLACE` that holds the message's own value of the field named `PLACE`."""

SOURCE_ID = "source_id"
"""Metadata field in which a line's own `id` is kept if it is not the key."""

METADATA = "metadata"
"""Field that holds the conversation's metadata if that has fields named `id` or `messages`."""


def import_lines(
    ledger: Ledger, lines: Iterable[bytes], key_from: str = "id", file: str = "lines"
) -> Iterator[Imported]:
    """Import conversations line by line; an invalid line is reported with its number and skipped, valid lines are stored.

    For `key_from` and `file`, see `found_in_values`.
    """
    return import_found(ledger, found_in_values(lines_of(lines), key_from, file))


LINE = "line"
"""Value of `key_from` that makes the key of each conversation from the file's name and the line."""


def found_in_values(values: Iterable[Value], key_from: str = "id", file: str = "lines") -> Iterator[Found | Imported]:
    """Yield the conversation of each value.

    `key_from` names the field, of the line or of its `metadata`, that holds the key; a line without it has the key `id`.
    A conversation without a usable key gets the key FILE:LINE, and so does every conversation if `key_from` is `line`.
    """
    key_of = made_keys(file)
    for number, text in values:
        made = key_of(number)
        key = ""
        repeated: list[str] = []
        try:
            given = json_of(text, "line", repeated)
            if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
                raise InvalidInput('the line has no list "messages": write {"id": KEY, "messages": [...]}')
            left_out: Counter[str] = Counter()
            key = made if key_from == LINE else conversation_key(_field(given, key_from), made, left_out)
            yield with_repeated(
                _found(number, key, given, left_out), repeated, len(text) if isinstance(text, bytes) else 0
            )
        except ThreadledgerError as error:
            yield Imported(number, key, "failed", reason=str(error))


def _found(
    number: int, key: str, given: Mapping[str, Any], left_out: Mapping[str, int], rule: int = NEWEST_RULE
) -> Found | Imported:
    """Return the conversation of a line, with what is already known to be left out."""
    try:
        reader = MessageReader(ANTHROPIC, rule)  # whose blocks have items besides; other parts are stored as they are
        reader.left_out.update(left_out)
        entries = _entries(given["messages"], reader)
    except ThreadledgerError as error:
        return Imported(number, key, "failed", reason=str(error))
    metadata = {name: value for name, value in given.items() if name not in {"id", "messages"}}
    if given.get("id") is not None and given["id"] != key and str(given["id"]) != key:
        metadata.setdefault(SOURCE_ID, given["id"])
    is_same = rule == 1 or isinstance(entries, UsualEntries)
    again = None if is_same else partial(_found, number, key, given, left_out, rule=1)
    return Found(number, key, metadata, entries, reader.left_out, has_ids=False, rule=rule, by_rule_1=again)


def _entries(messages: Sequence[object], reader: MessageReader) -> Sequence[Entry]:
    """Return the entries of the messages of a line.

    Raises:
        InvalidInput: none of them can be read.
    """
    if all(isinstance(message, dict) and is_usual(message) for message in messages):
        return UsualEntries(cast("Sequence[dict[str, Any]]", messages))
    for index, message in enumerate(messages):
        _read(message, index, reader)
    reader.check()
    return reader.entries


def _field(given: Mapping[str, Any], name: str) -> Any:
    metadata = given.get(METADATA)
    found = given.get(name, metadata.get(name) if isinstance(metadata, Mapping) else None)
    return given.get("id") if found is None else found


def export_lines(
    ledger: Ledger, keys: Iterable[str] | None = None, *, plain: bool = False, attach: Attach | None = None
) -> Iterator[str]:
    """Yield one line per conversation, ordered by creation; `plain` omits ids, timestamps and sources.

    `attach` returns each message as it is written; by default, the bytes of attachments are put into the messages.

    Raises:
        ConversationNotFound: there is no conversation with one of the keys.
        BlobMissing, ChangedBlob: an attachment is missing or was changed.
    """
    for key in keys if keys is not None else keys_in_order(ledger):
        ledger.state(key)
        yield conversation_as_line(ledger, key, plain=plain, attach=attach)


def conversation_as_line(ledger: Ledger, key: str, *, plain: bool = False, attach: Attach | None = None) -> str:
    """Return one conversation as a line: its key, metadata and messages; for `attach`, see `export_lines`.

    Messages have their ids, timestamps and sources unless `plain` is set.
    """
    messages = []
    attach = attach or inside(ledger)
    for each in ledger.memory(key).messages:
        given = each.message.as_chat_message()
        if each.message.native_json:
            given[NATIVE] = each.message.native()
        message = attach(each.message, given)
        place = each.as_json() | {"at": each.written_at}
        messages.append(message if plain else _placed(message, {name: place[name] for name in PLACE_FIELDS}))
    metadata = metadata_of(ledger, key)
    ledger.journal.wait_until_durable()
    if metadata.keys() & {"id", "messages"}:
        metadata = {METADATA: metadata}
    return json.dumps({"id": key, **metadata, "messages": messages}, ensure_ascii=False)


def metadata_of(ledger: Ledger, key: str) -> dict[str, Any]:
    """Return the metadata that a conversation was created with."""
    start = ledger.journal.start_of(key)
    return start.metadata if start is not None else {}


def keys_in_order(ledger: Ledger) -> Iterator[str]:
    """Return the keys of all conversations, ordered by their first use; those whose first event is damaged come last.

    The log is read for it: a conversation that was removed with its events is noticed there alone.
    """
    journal = ledger.journal
    known = dict.fromkeys(journal.keys_in_order())
    for logged in ledger.events(types=["ConversationStarted"], checked=True):
        is_first = isinstance(logged.event, events.ConversationStarted) and logged.event.generation == 0
        if logged.key in known or (is_first and journal.deleted_state(logged.key) is None):
            known.pop(logged.key, None)
            yield logged.key
    yield from known


def _placed(message: dict[str, Any], place: Mapping[str, Any]) -> dict[str, Any]:
    """Add the place fields to a message without overwriting its own fields of the same names."""
    if not message.keys() & {*PLACE_FIELDS, PLACE}:
        return {**message, **place}
    own = {OWN: message[PLACE]} if PLACE in message else {}
    return message | {PLACE: {**place, **own}}


def _read(given: object, index: int, reader: MessageReader) -> None:
    """Read one message of a line. SourcePlace fields added by an export are removed from the message."""
    if isinstance(given, dict) and is_usual(given):
        reader.add_plain(usual_message(given), str(index), name_of(index))
        return
    place: Any = None
    native: Any = None
    if isinstance(given, dict) and NATIVE in given:
        native = stored_native(given[NATIVE])
        reader.left_out.update([] if native is not None else ["odd_fields"])
        given = {field: value for field, value in given.items() if field != NATIVE}
    message: Any = given
    if isinstance(given, dict):
        place = given.get(PLACE)
        if _is_place(place):
            message = {field: value for field, value in given.items() if field != PLACE}
            message |= {PLACE: place[OWN]} if OWN in place else {}
        elif _is_place(given):
            place = given
            message = {field: value for field, value in given.items() if field not in PLACE_FIELDS}
        else:
            place = None
    origin = {name: place[name] for name in PLACE_FIELDS} if place else None
    written_at = place["at"] if place else None
    is_ours = bool(place) or native is not None
    at = SourcePlace(str(index), name_of(index), written_at, origin or {})
    reader.add(message, at, is_ours=is_ours, native=native)


def _is_place(given: object) -> bool:
    if not isinstance(given, dict) or not all(name in given for name in PLACE_FIELDS):
        return False
    try:
        from_iso(given["at"])
    except (TypeError, ValueError):
        return False
    return True
