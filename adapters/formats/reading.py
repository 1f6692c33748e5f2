"""Represent conversations read from a source: `Found`, with its entries, which `MessageReader` makes of its messages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from threadledger.domain.conversation import IMPORTED, stream_of
from threadledger.domain.conversation.messages import Message
from threadledger.domain.conversation.native import CHAT, native_of
from threadledger.domain.errors import InvalidInput
from threadledger.domain.failures import whole_text
from threadledger.domain.ids import from_iso, to_iso

from .json_values import parsed
from .repairs import ITEMS, OpenCalls, can_be_stored, json_text, repaired, usual_fingerprint, usual_message, whole

SOURCE_ID_CHARS_MAX = 300
"""Maximum length of an id from a source, in characters. Provider ids have 30 to 40."""

Known = Mapping[str, bytes | None]
"""Fingerprints of the messages of a conversation, by idempotency key."""


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
