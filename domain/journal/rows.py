"""Map events to rows and back: plain JSON, class names as topics, a closed registry. A row cannot cause an import."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

import msgspec
from eventsourcing.persistence import Mapper, Notification, StoredEvent, Transcoder

from ..conversation.events import (
    EVENTS,
    AssistantDefined,
    CompletionDeleted,
    CompletionStored,
    ConversationStarted,
    Event,
    ExchangeDescribed,
    ExchangeRequested,
    FileStored,
    MessageDescribed,
    MessageJournaled,
    ResponseDeleted,
    RunStarted,
    ToolResourcesDescribed,
    VectorStoreDefined,
    VectorStoreFilesAdded,
    encoded,
    payload_in,
    payload_of,
    restore_event,
    topic_of,
)
from ..conversation.messages import Source
from ..errors import CorruptEvent, InvalidInput
from ..ids import are_beside, from_iso, id_bytes, id_text, to_iso
from .fingerprints import fingerprint_of_event


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """Represent a stored event with threadledger's additional columns."""

    event_id: bytes | str = ""
    """The 16 bytes of a UUID, or any other id as text."""
    at: str = ""
    schema: int = 1
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    """Hash of what an event with an idempotency key says, so that another message with the same key is refused."""
    addresses: tuple[str, ...] = ()
    """Ids under which others know the event."""
    blobs: tuple[str, ...] = ()
    """Addresses of the attachments that the event refers to; the row is refused unless they are stored."""
    generation: int = 0
    """Generation of the conversation, which its idempotency key belongs to."""


Row = tuple[int, str, int, str, bytes, bytes | str, str, int]
"""Event as it is read: position, stream, version, topic, payload (JSON in UTF-8), event id (as in `StoredRow`), time (ISO
8601), schema number."""


Place = tuple[str, object]
"""Id of a ledger and a leaf hash as it is stored: with a position, what the text of a cursor is made of."""


@dataclass(frozen=True)
class LoggedRow(Notification):
    """Represent a stored event with its position (`id`) in the whole log."""

    event_id: bytes | str = ""
    at: str = ""
    schema: int = 1
    cursor: str = ""
    """Cursor of the event; see `LogCursor`. It is empty unless the log is read by cursor."""


class PlainJSON(Transcoder):
    """Encode payloads as JSON without spaces, in UTF-8.

    No keys are reserved, unlike in eventsourcing's own transcoder, which gives some dicts a special meaning.
    """

    def encode(self, obj: Any) -> bytes:
        return payload_text(obj)

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


class EventMapper(Mapper[str]):
    """Map events to rows and back."""

    def to_stored_event(self, domain_event: Any) -> StoredRow:
        """Return an event as a row, with the lowest schema number that reads it.

        Raises:
            InvalidInput: it contains a number that JSON does not have.
        """
        event: Event = domain_event
        state = event_text(event)
        row = object.__new__(StoredRow)
        values = row.__dict__
        values.update(  # a frozen dataclass is slow to create, it sets its fields one by one
            originator_id=event.originator_id,
            originator_version=event.originator_version,
            topic=topic_of(event),
            state=state,
            event_id=id_bytes(event.event_id) or event.event_id,
            at=to_iso(event.timestamp),
            schema=ASCII_SCHEMA if state.isascii() else UTF8_SCHEMA,
            idempotency_key=None,
            fingerprint=None,
            addresses=(),
            blobs=(),
            generation=0,
        )
        if blobs := getattr(event, "blobs", None):
            values["blobs"] = tuple(dict.fromkeys(map(str, blobs)))
            values["schema"] = UTF8_SCHEMA
        if type(event) is MessageJournaled:
            if event.idempotency_key is not None or event.source == Source.IMPORT:
                values.update(_places_of(event))
            elif not are_beside(event.message_id, event.event_id):
                # It was made before, for a client, who may name it without its conversation.
                values["addresses"] = (indexed(event.message_id),)
        elif type(event) is ConversationStarted and event.origin:
            from .imported_rows import addresses_of_thread

            values["addresses"] = addresses_of_thread(event)
        else:
            if isinstance(event, KEYED) and event.idempotency_key is not None:
                values["idempotency_key"] = indexed(event.idempotency_key)
            name_of = _ADDRESSED.get(type(event))
            if name_of is not None and (name := name_of(event)):
                values["addresses"] = (name,)
        return row

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Return a stored event as a domain event; see `restore`."""
        stored: Any = stored_event
        at, schema = getattr(stored, "at", ""), getattr(stored, "schema", ASCII_SCHEMA)
        place = getattr(stored, "id", 0), str(stored.originator_id), stored.originator_version
        return restore((*place, stored.topic, stored.state, getattr(stored, "event_id", ""), at, schema))


KEYED = (RunStarted, ExchangeRequested, AssistantDefined, FileStored, VectorStoreDefined, VectorStoreFilesAdded)
"""Events besides messages that can have an idempotency key."""

ASCII_SCHEMA, UTF8_SCHEMA = 1, 2
"""Schema numbers of rows: payloads of the first are ASCII and refer to no blobs, so that programs from before the second still
read them."""


def _places_of(event: MessageJournaled) -> dict[str, Any]:
    """Return the idempotency key of a message with its fingerprint, and its addresses, for a `StoredRow`."""
    key = event.idempotency_key
    fingerprint = fingerprint_of_event(event) if key is not None else None
    addresses: tuple[str, ...] = ()
    # Most ids of imported messages are made for the import, with the event.
    if event.source == Source.IMPORT and (event.origin or not are_beside(event.message_id, event.event_id)):
        from .imported_rows import addresses_of_message

        addresses = addresses_of_message(event)
    return {
        "idempotency_key": indexed(key) if key is not None else None,
        "fingerprint": fingerprint,
        "addresses": addresses,
    }


IMPORTED_RUNS = "imported runs"
"""Address of every event that holds imported runs: the index lists them in the order of a conversation, page by page."""


def described_address(name: str) -> str:
    """Return the address of the events that say something about a message or an exchange, by its id."""
    return indexed(f"described:{name}")


def resources_address(stream: str) -> str:
    """Return the address of the events that say which vector stores the runs of a conversation search."""
    return indexed(f"resources:{stream}")


INDEXED_CHARS_MAX = 600
"""Maximum length of a text in an index, in characters: PostgreSQL allows 2,704 bytes for a whole entry."""


def indexed(text: str) -> str:
    """Return a key or an id as every database can index it: the text itself, or its hash if it is long or has odd characters.

    The event holds the text as it is. Older versions and imports accepted NUL, half characters, and ids of any length.
    """
    is_odd = "\0" in text or (not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text))
    if len(text) <= INDEXED_CHARS_MAX and not is_odd:
        return text
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def restore(row: Sequence[Any]) -> Event:
    """Return a `Row`, which may have more columns, as an event; one of a newer version becomes an `UnknownEvent`.

    This runs for each event of a fold, so only what usual rows need comes first, without calls that can be left out.

    Raises:
        CorruptEvent: the row's payload or time cannot be read.
    """
    stream, version, topic, state, event_id, at, schema = row[1:8]
    try:
        event = _DECODERS[topic](state)
        moment = _moment_of(at)
        if schema > _NEWEST_SCHEMA or moment.tzinfo is not UTC:
            event, moment = _restore_unusual(row)
    except (ValueError, TypeError, LookupError, RecursionError):
        event, moment = _restore_unusual(row)
    # The columns also replace fields of these names that a payload may have.
    _set(event, "originator_id", stream)
    _set(event, "originator_version", version)
    _set(event, "timestamp", moment)
    _set(event, "event_id", id_text(event_id) if type(event_id) is bytes else event_id)
    return event


def _restore_unusual(row: Sequence[Any]) -> tuple[Event, datetime]:
    """Return the event of any row, without the fields that have columns, and its time.

    Raises:
        CorruptEvent: the row's payload or time cannot be read.
    """
    topic, state, _, at, schema = row[3:8]
    try:
        if schema > Event.SCHEMA and topic in EVENTS:
            event = restore_event(f"{topic} of a newer schema", payload_in(state))
        else:
            try:
                event = (_DECODERS.get(topic) or _decoder(topic))(state)
            except ValueError:  # a newer version's types, or text that only the standard library reads
                event = restore_event(topic, payload_in(state))
        return event, from_iso(at)
    except (ValueError, TypeError, RecursionError) as error:
        raise corrupt(row, error) from error


def _decoder(topic: str) -> Callable[[bytes | str], Event]:
    """Return the function that decodes the payloads of a topic; that of a known topic is created once."""
    event_class = EVENTS.get(topic)
    if event_class is None:
        return lambda state: restore_event(topic, payload_in(state))
    decode: Callable[[bytes | str], Event] = msgspec.json.Decoder(event_class).decode
    _DECODERS[topic] = decode
    return decode


_DECODERS: dict[str, Callable[[bytes | str], Event]] = {}
_NEWEST_SCHEMA, _moment_of = Event.SCHEMA, datetime.fromisoformat
_set = msgspec.structs.force_setattr  # a decoded event is not in use anywhere yet


def event_text(event: Event) -> bytes:
    """Return the payload of an event as JSON; see `payload_text`."""
    try:
        text = encoded(event)
        if text is not None and b"null" not in text:  # msgspec writes NaN and Infinity as null
            return text
    except (TypeError, UnicodeEncodeError):
        pass
    return payload_text(payload_of(event))


def payload_text(payload: Any) -> bytes:
    """Return a payload as JSON in UTF-8; one with lone surrogates, which UTF-8 does not have, is escaped to ASCII.

    Raises:
        InvalidInput: it contains a number that JSON does not have.
        TypeError: it contains a value that JSON does not have.
    """
    try:
        text = _encode(payload)
        if b"null" not in text:  # msgspec writes NaN and Infinity as null
            return text
    except (TypeError, UnicodeEncodeError):
        text = b""
    from ..json_text import ascii_text, is_finite

    with suppress(ValueError):  # a number that JSON does not have, refused below
        if not text:
            return ascii_text(payload).encode("ascii")
        if is_finite(payload):
            return text
    raise InvalidInput(
        "a number that is NaN or infinite cannot be stored as JSON: nothing was written; pass a finite number or null"
    )


def corrupt(row: Sequence[Any], error: Exception) -> CorruptEvent:
    """Create the error for a row that cannot be read, with its location and what to do."""
    return CorruptEvent(
        f"event {row[2]} of {row[1]!r} ({row[3]}) cannot be read ({error}): "
        "restore it from a backup; the other conversations are not affected"
    )


class OnChange(Protocol):
    """Handle an event that differs from what was stored: raise an error, or return to read it anyway."""

    def __call__(self, stream: str | None, version: int | None, position: int | None, problem: str) -> None: ...


def refuse_changed(stream: str | None, version: int | None, position: int | None, problem: str) -> None:
    """Raise a `ChangedEvent` that names the event and says what to do.

    Raises:
        ChangedEvent: always.
    """
    from .forensics import changed_event

    raise changed_event(stream, version, position, problem)


_encode = msgspec.json.Encoder().encode


def _name_of_response(event: ExchangeRequested) -> str:
    """Return the address of the response to a request; empty if it cannot be read."""
    name = event.request.get("response_id") if event.request.get("store") is not False else None
    return indexed(name) if isinstance(name, str) else ""


_ADDRESSED: Mapping[type[Event], Callable[[Any], str]] = {
    ExchangeRequested: _name_of_response,
    ResponseDeleted: lambda event: indexed(event.response_id),
    MessageDescribed: lambda event: described_address(event.message_id),
    ExchangeDescribed: lambda event: described_address(event.exchange_id),
    ToolResourcesDescribed: lambda event: resources_address(event.originator_id),
    CompletionStored: lambda event: indexed(event.completion_id),
    CompletionDeleted: lambda event: indexed(event.completion_id),
}
"""Functions that return the address of an event in the index, by the class of the event."""
