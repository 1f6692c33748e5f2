"""Represent conversations read from a source (`Found`, with its entries), and journal them.

Each conversation is imported once, completely or not at all; later imports add only its new messages. A message's
idempotency key is derived from its place in the source. Messages imported earlier are not changed. A message that has
moved to another branch at the source is retracted, because the source no longer shows it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from threadledger.domain.conversation import IMPORTED, Conversation, events, stream_of
from threadledger.domain.conversation.messages import Message, Source, restore_message
from threadledger.domain.conversation.native import CHAT, native_of
from threadledger.domain.errors import (
    BlobMissing,
    ConversationChanged,
    IdempotencyConflict,
    InvalidInput,
    ThreadledgerError,
)
from threadledger.domain.failures import whole_text
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import fingerprint_of
from threadledger.domain.ledger import Ledger

from .attachments import ImportedAttachments
from .json_values import parsed
from .repairs import ITEMS, OpenCalls, can_be_stored, json_text, repaired, usual_fingerprint, usual_message, whole

BATCH_CONVERSATIONS = 500
"""Maximum number of conversations stored in one transaction."""

BATCH_MESSAGES = 2_000
"""Number of messages after which a batch is stored. Other writers wait for some hundredths of a second meanwhile."""

BATCH_CHARS = 8 * 1024**2
"""Number of characters after which a batch is stored, so that memory use does not grow with the file."""

BATCH_SECONDS = 1.0
"""Time in seconds after which a batch is stored, so that little is lost if a slow source is interrupted."""

EXTEND_ATTEMPTS_MAX = 3
"""Maximum number of attempts to extend a conversation while other imports change it at the same time."""

_UNSTORED = (BlobMissing, InvalidInput)
"""Errors about an attachment of one conversation, which stop no other."""

LEFT_BRANCH = "another branch took its place where it was imported from"


def import_found(ledger: Ledger, found: Iterable[Found | Imported], blobs: Path | None = None) -> Iterator[Imported]:
    """Import conversations batch by batch; a failed one stores nothing and does not stop the others.

    `blobs` is the folder with the attachments to which messages refer by their addresses.

    A conversation that could not be read (`Imported`) is passed through, and exceptions from the source propagate.
    What was read before is stored first.
    """
    batch, reading = _Batch(ledger), iter(found)
    attachments = ImportedAttachments(ledger, blobs)
    problem: Exception | None = None
    while problem is None:
        try:
            read = next(reading, None)
        except Exception as error:  # noqa: BLE001 - raised again, after what was read before it is stored
            problem, read = error, None
        if read is None:
            break
        if isinstance(read, Imported):
            yield read
            continue
        if batch.is_full or read.key in batch.keys:
            yield from batch.stored()
            batch = _Batch(ledger)
        try:
            _store_attachments(attachments, read)
            batch.add(_with_stored_metadata(read))
        except ThreadledgerError as error:
            yield _failed(read, error)
    yield from batch.stored()
    if problem is not None:
        raise problem


def _store_attachments(attachments: ImportedAttachments, found: Found) -> None:
    if not isinstance(found.entries, UsualEntries):  # which are texts
        for entry in found.entries:
            attachments.store(entry.message, entry.name)


class _Batch:
    """Hold conversations that are stored together, in one transaction as far as they are new."""

    def __init__(self, ledger: Ledger) -> None:
        self.keys: set[str] = set()
        self._ledger = ledger
        self._found: list[Found] = []
        self._messages = self._chars = 0
        self._began_at = time.monotonic()

    @property
    def is_full(self) -> bool:
        return bool(self.keys) and (
            len(self.keys) >= BATCH_CONVERSATIONS
            or self._messages >= BATCH_MESSAGES
            or self._chars >= BATCH_CHARS
            or time.monotonic() - self._began_at >= BATCH_SECONDS
        )

    def add(self, found: Found) -> None:
        """Add a conversation whose key the batch does not have yet."""
        self.keys.add(found.key)
        self._found.append(found)
        self._messages += len(found.entries)
        self._chars += found.chars

    def stored(self) -> Sequence[Imported]:
        """Store the batch and return the results in the order of the source."""
        versions = self._ledger.journal.versions_of(self.keys)
        ended = self._stored_new([each for each in self._found if each.key not in versions])
        known = self._ledger.journal.fingerprints(versions)
        for each in self._found:
            if each.key in versions:
                ended[each.key] = _extended(self._ledger, each, known.get(each.key, {}))
        return [ended[each.key] for each in self._found]

    def _stored_new(self, found: Sequence[Found]) -> dict[str, Imported]:
        try:
            self._ledger.journal.store(*(_new(self._ledger, each) for each in found))
        except (ConversationChanged, *_UNSTORED):  # of one of them: store each in its own transaction
            return {each.key: _store_one(self._ledger, each) for each in found}
        return {each.key: _imported(each) for each in found}


def _failed(found: Found, error: Exception) -> Imported:
    return Imported(found.line, found.key, "failed", reason=str(error))


def _with_stored_metadata(found: Found) -> Found:
    """Return the conversation without metadata that cannot be stored.

    Raises:
        InvalidKey: the key cannot be stored.
    """
    stream_of(found.key)
    if not found.metadata:
        return found
    with suppress(InvalidInput):
        Conversation.start(found.key, found.metadata)
        return found
    left_out = Counter(found.left_out)
    kept: dict[str, Any] = {}
    for name, value in found.metadata.items():
        try:
            field_of_it = whole({name: value}, left_out)
            Conversation.start(found.key, {**kept, **field_of_it})
            kept |= field_of_it
        except InvalidInput:
            left_out["metadata_fields"] += 1
    return replace(found, metadata=kept, left_out=left_out)


def _store_one(ledger: Ledger, found: Found) -> Imported:
    try:
        ledger.journal.store(_new(ledger, found))
        return _imported(found)
    except ConversationChanged:
        return _extended(ledger, found, {})
    except _UNSTORED as error:
        return _failed(found, error)


def _new(ledger: Ledger, found: Found) -> Conversation:
    conversation = Conversation.start(found.key, found.metadata, actor=ledger.journal.actor)
    _journal(conversation, _kept(ledger, found.entries))
    return conversation


def _kept(ledger: Ledger, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Store the data inside messages, and return the messages with the addresses of their attachments."""
    if isinstance(entries, UsualEntries):
        return entries
    return [each._replace(message=ledger.journal.keep(each.message)) for each in entries]


def _imported(found: Found) -> Imported:
    return Imported(found.line, found.key, "imported", len(found.entries), found.note, found.left_out)


def _journal(conversation: Conversation, entries: Iterable[Entry]) -> None:
    for entry in entries:
        conversation.journal(
            entry.message,
            source=Source.IMPORT,
            idempotency_key=IMPORTED + entry.place,
            message_id=entry.message_id,
            written_at=entry.written_at,
            origin=entry.origin,
        )


Known = Mapping[str, bytes | None]
"""Fingerprints of the messages of a conversation, by idempotency key."""


def _extended(ledger: Ledger, found: Found, known: Known) -> Imported:
    """Add what an existing conversation lacks."""
    if isinstance(found.entries, UsualEntries) and found.entries.are_in(known):
        return Imported(found.line, found.key, "unchanged", 0, found.note, found.left_out)
    try:
        missing = _known_to_be_missing(ledger, found, known)
        if missing is None:
            return _extend(ledger, found)
        if not missing:
            return Imported(found.line, found.key, "unchanged", 0, found.note, found.left_out)
        kept = _kept(ledger, missing)
        try:
            ledger.journal.commit(found.key, lambda conversation: _journal(conversation, kept))
        except ConversationChanged:  # another process imports the same
            return _extend(ledger, found)
        return Imported(found.line, found.key, "extended", len(missing), found.note, found.left_out)
    except ThreadledgerError as error:
        return _failed(found, error)


def _known_to_be_missing(ledger: Ledger, found: Found, known: Known) -> Sequence[Entry] | None:
    """Return the messages to append, if the fingerprints show that all others are imported as they are, else None."""
    count = next(
        (place for place, entry in enumerate(found.entries) if IMPORTED + entry.place not in known), len(found.entries)
    )
    missing = found.entries[count:]
    if found.other_branches or (missing and not known):
        return None
    if not all(_is_known_as(ledger, entry, known[IMPORTED + entry.place]) for entry in found.entries[:count]):
        return None
    if any(each.message_id or each.piece_of or each.whole or IMPORTED + each.place in known for each in missing):
        return None
    if found.thread_id is not None and ledger.journal.require(found.key).state.links:
        return None  # it may be this ledger's own thread
    return missing


def _is_known_as(ledger: Ledger, entry: Entry, fingerprint: bytes | None) -> bool:
    """Return whether a message has this fingerprint: with its data inside, as earlier versions stored it, or without."""
    if fingerprint == fingerprint_of(entry.message):
        return True
    kept = ledger.journal.keep(entry.message)
    return kept is not entry.message and fingerprint == fingerprint_of(kept)


def _extend(ledger: Ledger, found: Found) -> Imported:
    for attempt in range(1, EXTEND_ATTEMPTS_MAX + 1):
        try:
            return _ExistingConversation(ledger, found).extended()
        except ConversationChanged:
            if attempt == EXTEND_ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


class _ExistingConversation:
    """Compare an existing conversation with the one read from the source."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        self._ledger = ledger
        self._found = found
        self._known: dict[str, events.MessageJournaled] = {}
        self._message_ids: set[str] = set()
        self._retracted: set[str] = set()
        self._threads: set[str] = set()
        for event in ledger.journal.history(found.key):
            self._take(event)

    def _take(self, event: events.Event) -> None:
        match event:
            case events.MessageJournaled():
                self._message_ids.add(event.message_id)
                if event.source == Source.IMPORT and event.idempotency_key is not None:
                    self._known[event.idempotency_key] = event
            case events.MessageRetracted():
                self._retracted.add(event.message_id)
            case events.ThreadLinked():
                self._threads.add(event.thread_id)
            case events.ThreadRebuilt():
                self._threads.update((event.thread_id, event.old_thread_id or ""))
            case _:
                pass

    def extended(self) -> Imported:
        """Add the messages that the conversation does not have yet, and retract those that left its branch.

        Raises:
            IdempotencyConflict: a message differs from the one imported earlier, or would have to precede one.
            ConversationChanged: another writer changed the conversation first.
        """
        found = self._found
        if found.thread_id in self._threads:
            reason = (
                "the thread is this ledger's copy of the conversation: "
                f"to adopt messages that others added to it, run threadledger replay reconcile {found.key} --adopt"
            )
            return Imported(found.line, found.key, "unchanged", reason=reason, left_out=found.left_out)
        missing = self._missing()
        gone = [
            event.message_id
            for place in found.other_branches
            if (event := self._known.get(IMPORTED + place)) is not None and event.message_id not in self._retracted
        ]
        if not missing and not gone:
            return Imported(found.line, found.key, "unchanged", 0, found.note, found.left_out)

        kept = _kept(self._ledger, missing)

        def decide(conversation: Conversation) -> None:
            for message_id in gone:
                conversation.retract(message_id, LEFT_BRANCH)
            _journal(conversation, kept)

        self._ledger.journal.commit(found.key, decide)
        left_out = dict(found.left_out) | ({"retracted": len(gone)} if gone else {})
        return Imported(found.line, found.key, "extended", len(missing), found.note, left_out)

    def _missing(self) -> list[Entry]:
        missing: list[Entry] = []
        for entry in self._found.entries:
            earlier = self._known.get(IMPORTED + entry.place)
            if earlier is None:
                is_known = entry.whole is not None and IMPORTED + entry.whole in self._known
                if not is_known and (entry.message_id or entry.piece_of) not in self._message_ids:
                    missing.append(entry)
                continue
            self._compare(earlier, entry)
            if missing:
                raise IdempotencyConflict(
                    f"{missing[0].name} of {self._found.key!r} precedes a message that was imported earlier, and "
                    "messages can only be appended: nothing of this conversation was imported; give it another key"
                )
        return missing

    def _compare(self, earlier: events.MessageJournaled, entry: Entry) -> None:
        before = restore_message(earlier)
        kept = self._ledger.journal.keep(entry.message) if earlier.blobs else entry.message
        is_equal = self._is_equal(before, entry.message) or self._is_equal(before, kept)
        if not is_equal and not self._was_repaired(before, entry):
            raise IdempotencyConflict(
                f"{entry.name} of {self._found.key!r} differs from the one imported earlier: nothing of this "
                "conversation was imported; give the changed conversation another id"
            )

    def _was_repaired(self, before: Message, entry: Entry) -> bool:
        """Return whether an earlier version stored as it was given, or as text, what is repaired now."""
        if isinstance(before.content, str) and before.content.startswith("[tool call ") and entry.message.calls():
            return True
        with suppress(InvalidInput):
            again = repaired(before.as_chat_message(), entry.place, OpenCalls(), Counter(), {})
            return any(self._is_equal(each, entry.message) for each in islice(again, 1))
        return False

    def _is_equal(self, before: Message, after: Message) -> bool:
        # With ids of the source, extra fields are not compared: they vary, e.g. a dump has file sizes and a live thread has none.
        # What the provider's items hold besides is never compared: earlier versions left it out (import rule 1).
        before, after = before.replaced(native_json=""), after.replaced(native_json="")
        return (_said(before) == _said(after)) if self._found.has_ids else (before == after)


def _said(message: Message) -> Message:
    return message.replaced(extra_json="{}")


SOURCE_ID_CHARS_MAX = 300
"""Maximum length of an id from a source, in characters. Provider ids have 30 to 40."""


class Entry(NamedTuple):
    """Represent a message and its place in the source.

    The place identifies the message: two equal texts at different places are two messages.
    """

    message: Message
    place: str
    """Index in the conversation (jsonl), or the id that the source assigned. Never derived from the content."""
    name: str
    """Name of the entry in messages to users: `message 3`, `row 17`."""
    written_at: str | None = None
    """Timestamp of the original message (ISO 8601), if the source has one."""
    message_id: str | None = None
    """The ledger's message id, if a ledger wrote this message into the thread."""
    piece_of: str | None = None
    """The ledger's message id, if this is a further piece of a message that a ledger wrote in several pieces."""
    whole: str | None = None
    """Place of the source's message, if this is a further piece of it. It is imported with the first piece or not at all."""
    origin: Mapping[str, Any] = MappingProxyType({})
    """Ids, times and metadata of the message at its source."""


@dataclass
class UsualEntries(Sequence[Entry]):
    """Hold the messages of a conversation that are all stored exactly as they are given, of a source without ids.

    Their entries are made when one of them is needed: in a file that was imported before, none is.
    """

    given: Sequence[Mapping[str, Any]]
    """Messages of which each `is_usual`."""
    _made: list[Entry] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def chars(self) -> int:
        """Return about how many characters the messages have."""
        return sum(
            len(each["content"] or "") + (len(str(calls)) if (calls := each.get("tool_calls")) else 0)
            for each in self.given
        )

    def are_in(self, known: Known) -> bool:
        """Return whether each message is known by its place, with its fingerprint."""
        return len(known) >= len(self.given) and all(
            known.get(f"{IMPORTED}{place}") == usual_fingerprint(each) for place, each in enumerate(self.given)
        )

    def __len__(self) -> int:
        return len(self.given)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        if not self._made:
            self._made = [
                Entry(usual_message(each), str(place), name_of(place)) for place, each in enumerate(self.given)
            ]
        return self._made[index]


def name_of(index: int) -> str:
    """Return the name of a message in a list, as messages to users call it."""
    return f"message {index + 1}"


def _chars(message: Message) -> int:
    content = message.content
    if isinstance(content, tuple):
        return len(repr(message))
    others = len(message.extra_json) + len(message.native_json)
    return len(content or "") + others + sum(len(call.arguments) for call in message.tool_calls)


@dataclass(frozen=True)
class Found:
    """Represent a conversation read from a source. `left_out` counts, by kind, what could not be imported."""

    line: int
    """Line number, or index in the file, counted from 1."""
    key: str
    metadata: Mapping[str, Any]
    entries: Sequence[Entry]
    left_out: Mapping[str, int] = field(default_factory=dict)
    other_branches: Collection[str] = frozenset()
    """Places of messages on branches that are not current, if the source has branches."""
    thread_id: str | None = None
    """Id of the provider's thread that the conversation was read from."""
    has_ids: bool = True
    """Whether the places are ids that the source assigned."""
    note: str = ""
    """What to do about a conversation that the file holds only in part."""

    @property
    def chars(self) -> int:
        """Return about how many characters the messages have."""
        if isinstance(self.entries, UsualEntries):
            return self.entries.chars
        return sum(_chars(entry.message) for entry in self.entries)


@dataclass(frozen=True)
class Imported:
    """Represent the result of importing one conversation: `imported`, `unchanged`, `extended` or `failed`."""

    line: int
    key: str
    state: str
    messages: int = 0
    reason: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"left_out": dict(self.left_out)}


def json_of(text: bytes | InvalidInput, what: str, repeated: list[str] | None = None) -> Any:
    """Parse the JSON text of a line, a conversation or a row; for `repeated`, see `parsed`.

    Raises:
        InvalidInput: the text is not UTF-8 or not JSON, or `text` is itself such an error.
    """
    if isinstance(text, InvalidInput):
        raise text
    try:
        return parsed(text.decode("utf-8"), repeated)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the {what} is not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    except ValueError as error:
        raise InvalidInput(f"the {what} is not JSON ({error}): write one JSON object per {what}") from None


def with_repeated(found: Found | Imported, repeated: Sequence[str]) -> Found | Imported:
    """Add the keys that an object of the source has more than once to what is reported of a conversation."""
    if not repeated:
        return found
    left_out = {**found.left_out, "repeated_keys": len(repeated)}
    said = f"the key {repeated[0][:SOURCE_ID_CHARS_MAX]!a} is given more than once in an object: its last value counts"
    if isinstance(found, Imported):
        return replace(found, left_out=left_out, reason="; ".join(filter(None, (found.reason, said))))
    return replace(found, left_out=left_out, note="; ".join(filter(None, (found.note, said))))


def source_id(value: object, what: str) -> str:
    """Check an id from the source and return it as a place.

    Raises:
        InvalidInput: the id is not text, has a wrong length, or cannot be stored.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= SOURCE_ID_CHARS_MAX:
        found = f"{len(value)} characters" if isinstance(value, str) else f"type {type(value).__name__}"
        raise InvalidInput(f"the id of {what} has {found}: a text of 1 to {SOURCE_ID_CHARS_MAX} characters is expected")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInput(f"the id of {what}, {value!a}, contains a NUL or a lone surrogate: use valid UTF-8 text")
    return value


class MessageReader:
    """Read the messages of one conversation into entries; count what is changed, and what cannot be read."""

    def __init__(self, dialect: str = CHAT) -> None:
        """Create a reader; `dialect` names the form of the source's items."""
        self.entries: list[Entry] = []
        self.left_out: Counter[str] = Counter()
        self._dialect = dialect
        self._items: list[Mapping[str, Any]] = []
        """Items that are no message of their own, kept with the next message."""
        self._waiting = OpenCalls()
        self._problem = ""

    def add_plain(self, message: Message, place: str, name: str) -> None:
        """Add a message that needs no repair (`usual_message`), of a source that has no ids."""
        self._waiting.note(message)
        self.entries.append(Entry(message, place, name))

    def add(
        self,
        given: object,
        place: str,
        name: str,
        written_at: str | None = None,
        origin: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        piece_of: str | None = None,
        is_ours: bool = False,
        native: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the message at a place of the source, or count it.

        One that a ledger exported is not converted; `native` is what its items held besides.
        """
        counts: Counter[str] = Counter()
        kept: dict[str, Any] = {}
        try:
            messages = list(repaired(given, place, self._waiting, counts, kept, is_ours))
        except (InvalidInput, RecursionError) as error:
            self.leave_out(f"{name}: {error}")
            return
        self.left_out.update(counts)
        self._items += kept.pop(ITEMS, ())
        if messages and native is not None:
            messages[0] = messages[0].replaced(native_json=json_text(native))
        elif messages and self._items:
            messages[0] = self._with_items(messages[0])
        source = _origin({**(origin or {}), **kept}, self.left_out) if origin or kept else {}
        for number, message in enumerate(messages):
            entry = Entry(message, place, name, written_at, message_id, piece_of, origin=source)
            if number:
                ours = message_id or piece_of
                entry = entry._replace(place=f"{place}/{number}", message_id=None, piece_of=ours, whole=place)
            self.entries.append(entry)

    def keep(self, item: Mapping[str, Any]) -> None:
        """Keep an item that is no message, or only words in one, as it is: with the next message."""
        self._items.append(item)

    def _with_items(self, message: Message) -> Message:
        items, self._items = self._items, []
        lost: Counter[str] = Counter()
        native = native_of(self._dialect, [_storable(item) for item in items], lost)
        self.left_out.update(lost)
        return message.replaced(native_json=message.native_json or native)

    def leave_out(self, problem: str, kind: str = "unreadable_messages") -> None:
        """Count a message that cannot be read."""
        self.left_out[kind] += 1
        self._problem = self._problem or problem

    def check(self) -> None:
        """Check that the conversation is not made of unreadable messages alone; called after the last message.

        Raises:
            InvalidInput: none of its messages can be read; the text names the first and its problem.
        """
        if self._items and self.entries:
            last = self.entries[-1]
            self.entries[-1] = last._replace(message=self._with_items(last.message))
        if self._problem and not self.entries:
            raise InvalidInput(f"none of its messages can be read: {self._problem}")


def _storable(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item with storable text; one that is nested too deep, or has odd numbers, is a stub of its type."""
    with suppress(InvalidInput):
        found: dict[str, Any] = whole(dict(item), Counter())
        return found
    return {"type": "unknown", "was": str(item.get("type"))[:64]}


def _origin(given: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """Return the fields of the origin that are set and can be stored; count the others."""
    origin = {}
    for name, value in given.items():
        if value is None or value in ("", {}, []):
            continue
        with suppress(InvalidInput):
            whole_value = whole(value, left_out)
            if can_be_stored(whole_value):
                origin[name] = whole_value
                continue
        left_out["odd_fields"] += 1
    return origin


def conversation_key(given: object, made: str, left_out: Counter[str]) -> str:
    """Return the key of a conversation, or `made` (FILE:LINE) if the source has none that can be stored."""
    key = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
    if isinstance(key, str):
        try:
            stream_of(key)
        except InvalidInput:
            pass
        else:
            return key
    left_out["made_keys"] += 1
    return made


FILE_NAME_CHARS_MAX = 150
"""Maximum length of a file's name in a key that is made of it, in characters: its end is kept."""


def made_key(file: str, number: int) -> str:
    """Return the key of a conversation that has none: the name of the file and its line."""
    return f"{whole_text(file[-FILE_NAME_CHARS_MAX:])}:{number}"


def made_keys(file: str) -> Callable[[int], str]:
    """Return a function that makes the keys of one file; further conversations of a line are numbered: FILE:LINE.2."""
    made: Counter[int] = Counter()

    def key_of(line: int) -> str:
        made[line] += 1
        return made_key(file, line) + (f".{made[line]}" if made[line] > 1 else "")

    return key_of


def seconds_of(value: object) -> float | None:
    """Return a Unix time, or None if the value is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def moment(value: object) -> str | None:
    """Return a Unix time or a time in ISO 8601 as ISO 8601 in UTC, or None if the value is not a valid time."""
    seconds = seconds_of(value)
    try:
        if seconds is not None:
            return to_iso(datetime.fromtimestamp(seconds, UTC))
        return to_iso(from_iso(value)) if isinstance(value, str) else None
    except (OverflowError, OSError, ValueError):
        return None
