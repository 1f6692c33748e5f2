"""Represent conversations read from a source: `Found`, with its entries, which `MessageReader` makes of its messages.

A conversation is read by a numbered rule. What an earlier rule imported is compared and continued by that rule for ever; it is
found by the idempotency keys of its messages. New conversations are read by the newest rule; those of sources that have
branches, by the rule that reads all of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Self, overload

from threadledger.domain.conversation import IMPORTED, parse_message, stream_of
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.conversation.native import CHAT, native_of
from threadledger.domain.conversation.parts import Part, Text
from threadledger.domain.conversation.tenants import key_in_tenant, tenant_key
from threadledger.domain.errors import InvalidInput
from threadledger.domain.failures import whole_text
from threadledger.domain.ids import from_iso, to_iso

from .json_values import parsed
from .repairs import ITEMS, OpenCalls, can_be_stored, json_text, repaired, usual_fingerprint, usual_message, whole

SOURCE_ID_CHARS_MAX = 300
"""Maximum length of an id from a source, in characters. Provider ids have 30 to 40."""

Known = Mapping[str, bytes | None]
"""Fingerprints of the messages of a conversation, by idempotency key."""

RULES = {1: IMPORTED, 2: f"{IMPORTED}2:", 3: f"{IMPORTED}3:"}
"""What the idempotency keys of imported messages begin with, by the rule that read them; the place follows."""

NEWEST_RULE = 2

TREE_RULE = 3
"""The rule of sources that have branches: it reads messages as the second one does, and those of all branches."""


def rule_of(keys: Collection[str]) -> int | None:
    """Return the rule that imported messages with these idempotency keys; None if no message was imported."""
    imported = [key for key in keys if key.startswith(IMPORTED)]
    if not imported:
        return None  # an id at the source may begin as the keys of the second rule go on: all of them have to
    named = (rule for rule in (TREE_RULE, NEWEST_RULE) if all(key.startswith(RULES[rule]) for key in imported))
    return next(named, 1)


class SourcePlace(NamedTuple):
    """Represent where in a source a message stands, with its name and what the source says besides; see `Entry`."""

    place: str
    name: str
    written_at: str | None = None
    origin: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class MadeOf:
    """Describe what a message was made of, if the source has several items for it: the model's thoughts, calls and words."""

    places: Sequence[str]
    """Places of all items but the last."""
    without: Callable[[int], Message] = field(compare=False)
    """Function that returns the message without so many items at its beginning."""


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
    made_of: MadeOf | None = None
    """What of it may have been imported before on its own, when the source ended there."""
    after: str | None = None
    """Place of the entry that it follows, "" for none, if the source has branches."""
    is_aside: bool = False
    """Whether it is on another branch than the one that the source shows."""


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

    def are_in(self, known: Known, begin: str) -> bool:
        """Return whether each message is known by its place, with its fingerprint; `begin` is what the keys begin with."""
        return len(known) >= len(self.given) and all(
            known.get(f"{begin}{place}") == usual_fingerprint(each) for place, each in enumerate(self.given)
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
    written_at: str | None = None
    """Time at which the thread was created (ISO 8601), if the source has one."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What the source says about the thread; see `ConversationStarted.origin`."""
    has_ids: bool = True
    """Whether the places are ids that the source assigned."""
    note: str = ""
    """What to do about a conversation that the file holds only in part."""
    source_chars: int = 0
    """About how many characters of the source are kept, to read it by the first rule."""
    rule: int = NEWEST_RULE
    """The rule by which it was read."""
    by_rule_1: Callable[[], Found | Imported] | None = field(default=None, repr=False, compare=False)
    """Function that reads it by the first rule; None if its messages are the same."""
    by_rule_2: Callable[[], Found | Imported] | None = field(default=None, repr=False, compare=False)
    """Function that reads the branch that is shown alone, by the second rule; None if there is no other one."""

    def by_rule(self, rule: int) -> Found | Imported:
        """Return the conversation as this rule reads it."""
        again = {1: self.by_rule_1, 2: self.by_rule_2}.get(rule) if rule < self.rule else None
        return again() if again is not None else replace(self, rule=rule) if rule != self.rule else self

    def within(self, tenant: str) -> Found:
        """Return the conversation as one of a tenant: its key begins with the tenant's prefix."""
        if key_in_tenant(tenant, self.key) is not None:
            return self  # a ledger wrote the thread for this tenant
        again, line = self.by_rule_1, self.by_rule_2
        return replace(
            self,
            key=tenant_key(tenant, self.key),
            by_rule_1=None if again is None else lambda: _within(tenant, again()),
            by_rule_2=None if line is None else lambda: _within(tenant, line()),
        )

    def key_at(self, place: str) -> str:
        """Return the idempotency key of the message at a place."""
        return RULES[self.rule] + place

    @property
    def chars(self) -> int:
        """Return about how many characters the messages have."""
        if isinstance(self.entries, UsualEntries):
            return self.entries.chars
        return sum(_chars(entry.message) for entry in self.entries)


@dataclass(frozen=True)
class Imported:
    """Represent the result of importing one conversation: `imported`, `unchanged`, `extended`, `skipped` or `failed`."""

    line: int
    key: str
    state: str
    messages: int = 0
    reason: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"left_out": dict(self.left_out)}


def _within(tenant: str, found: Found | Imported) -> Found | Imported:
    return found.within(tenant) if isinstance(found, Found) else replace(found, key=tenant_key(tenant, found.key))


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


def with_repeated(found: Found | Imported, repeated: Sequence[str], source_chars: int = 0) -> Found | Imported:
    """Add the keys that an object of the source has more than once to what is reported of a conversation."""
    if source_chars and isinstance(found, Found) and found.by_rule_1 is not None:
        found = replace(found, source_chars=source_chars)
    if not repeated:
        return found
    left_out = {**found.left_out, "repeated_keys": len(repeated)}
    said = f"the key {repeated[0][:SOURCE_ID_CHARS_MAX]!a} is given more than once in an object: its last value counts"
    if isinstance(found, Imported):
        return replace(found, left_out=left_out, reason="; ".join(filter(None, (found.reason, said))))
    note, again = "; ".join(filter(None, (found.note, said))), found.by_rule_1
    by_rule_1 = None if again is None else lambda: with_repeated(again(), repeated)
    line = found.by_rule_2
    by_rule_2 = None if line is None else lambda: with_repeated(line(), repeated)
    return replace(found, left_out=left_out, note=note, by_rule_1=by_rule_1, by_rule_2=by_rule_2)


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


class _KeptItem(NamedTuple):
    """Represent an item that is no message of its own, and the parts that say what it was."""

    item: Mapping[str, Any]
    parts: Sequence[Part] = ()
    at: SourcePlace | None = None


def _entry(message: Message, at: SourcePlace, origin: Mapping[str, Any], made_of: MadeOf | None) -> Entry:
    return Entry(message, at.place, at.name, at.written_at, origin=origin, made_of=made_of)


class MessageReader:
    """Read the messages of one conversation into entries; count what is changed, and what cannot be read."""

    def __init__(self, dialect: str = CHAT, rule: int = NEWEST_RULE) -> None:
        """Create a reader; `dialect` names the form of the source's items."""
        self.entries: list[Entry] = []
        self.left_out: Counter[str] = Counter()
        self.rule = rule
        self._dialect = dialect
        self._kept: list[_KeptItem] = []
        """Items that are no message of their own, kept with the next message."""
        self._waiting = OpenCalls()
        self._problems: list[str] = []
        self._last = ""
        """Place of the last entry of this branch."""
        self._last_at: int | None = None
        """Its index; None if this branch has none of its own."""
        self._is_aside = False

    def branched(self) -> Self:
        """Return a reader for a branch that leaves this one here; its entries are added to the same list."""
        branch = copy(self)
        branch._kept, branch._waiting = list(self._kept), self._waiting.copy()
        branch._last_at, branch._is_aside = None, True
        return branch

    def add_plain(self, message: Message, place: str, name: str) -> None:
        """Add a message that needs no repair (`usual_message`), of a source that has no ids."""
        self._waiting.note(message)
        self._append(Entry(message, place, name))

    def add_read(self, message: Message, at: SourcePlace, made_of: MadeOf | None = None) -> None:
        """Add a message that was made of the source's items."""
        self._waiting.note(message)
        message = self._with(self._taken(), message, self.left_out)
        self._append(_entry(message, at, storable_fields(at.origin, self.left_out), made_of))

    def add(
        self,
        given: object,
        at: SourcePlace,
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
            messages = list(repaired(given, at.place, self._waiting, counts, kept, is_ours, self.rule))
        except (InvalidInput, RecursionError) as error:
            self.leave_out(f"{at.name}: {error}")
            return
        self.left_out.update(counts)
        own, made_of = [_KeptItem(item) for item in kept.pop(ITEMS, ())], None
        if native is not None and messages:
            messages[0] = messages[0].replaced(native_json=json_text(native))
        elif self._kept or own:
            made_of = self._add_kept(messages, own)
        source = storable_fields({**at.origin, **kept}, self.left_out) if at.origin or kept else {}
        for number, message in enumerate(messages):
            if number == 0:
                entry = Entry(message, at.place, at.name, at.written_at, message_id, piece_of, None, source, made_of)
            else:
                ours, place = message_id or piece_of, f"{at.place}/{number}"
                entry = Entry(message, place, at.name, at.written_at, None, ours, at.place, source)
            self._append(entry)

    def _add_kept(self, messages: list[Message], own: list[_KeptItem]) -> MadeOf | None:
        """Add to the first of these messages what was kept for it, and its own items."""
        if not messages:
            self._kept += own
            return None
        if any(each.parts for each in self._kept) and messages[0].role is not Role.ASSISTANT:
            self._close()
        before, message = self._taken(), messages[0]
        messages[0] = self._with([*before, *own], message, self.left_out)
        return self._made_of(before, own, message)

    def keep(self, item: Mapping[str, Any], parts: Iterable[Part] = (), at: SourcePlace | None = None) -> None:
        """Keep an item that is no message as it is: with the next message of the model, whose content begins with `parts`."""
        self._kept.append(_KeptItem(item, tuple(parts) if self.rule > 1 else (), at))

    def _taken(self) -> list[_KeptItem]:
        kept, self._kept = self._kept, []
        return kept

    def _made_of(self, before: Sequence[_KeptItem], own: Sequence[_KeptItem], message: Message) -> MadeOf | None:
        places = [each.at.place for each in before if each.at is not None]
        if not any(each.parts for each in before) or len(places) < len(before):
            return None
        return MadeOf(places, lambda number: self._with([*before[number:], *own], message, Counter()))

    def _with(self, kept: Sequence[_KeptItem], message: Message, lost: Counter[str]) -> Message:
        """Return a message with the items that were kept for it; those that cannot be kept are counted in `lost`."""
        if not kept:
            return message
        held = json.loads(message.native_json)["items"] if message.native_json else []
        native = native_of(self._dialect, [*held, *(_storable(each.item) for each in kept)], lost)
        message = message.replaced(native_json=native)
        parts = [part for each in kept for part in each.parts]
        if not parts:
            return message
        said = (
            message.content
            if isinstance(message.content, tuple)
            else (Text(message.content),)
            if message.content
            else ()
        )
        whole_message = message.replaced(content=(*parts, *said))
        try:
            parse_message(whole_message.as_chat_message())
        except InvalidInput:  # too long together: the items have the rest
            return message
        return whole_message

    def _close(self) -> None:
        """Add what was kept as a message of its own, if it shows anything."""
        at = self._kept[-1].at if self._kept else None
        if at is not None and any(each.parts for each in self._kept):
            kept, empty = self._taken(), Message(Role.ASSISTANT, None)
            made_of = self._made_of(kept, (), empty)
            made_of = made_of and MadeOf(made_of.places[:-1], made_of.without)
            self._append(
                _entry(self._with(kept, empty, self.left_out), at, storable_fields(at.origin, self.left_out), made_of)
            )

    def _append(self, entry: Entry) -> None:
        if self.rule >= TREE_RULE:
            entry = entry._replace(after=self._last, is_aside=self._is_aside)
        self._last, self._last_at = entry.place, len(self.entries)
        self.entries.append(entry)

    def leave_out(self, problem: str, kind: str = "unreadable_messages") -> None:
        """Count a message that cannot be read."""
        self.left_out[kind] += 1
        if not self._problems:
            self._problems.append(problem)

    def check(self) -> None:
        """Check that the conversation is not made of unreadable messages alone; called after the last message.

        Raises:
            InvalidInput: none of its messages can be read; the text names the first and its problem.
        """
        self.end()
        if self._problems and not self.entries:
            raise InvalidInput(f"none of its messages can be read: {self._problems[0]}")

    def end(self) -> None:
        """Add what was kept for a message that does not come; called after the last message of a branch."""
        self._close()
        if self._kept and self._last_at is not None:
            last = self.entries[self._last_at]
            self.entries[self._last_at] = last._replace(message=self._with(self._taken(), last.message, self.left_out))


def _storable(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item with storable text; one that is nested too deep, or has odd numbers, is a stub of its type."""
    with suppress(InvalidInput):  # a stub takes its place
        found: dict[str, Any] = whole(dict(item), Counter())
        return found
    return {"type": "unknown", "was": str(item.get("type"))[:64]}


def storable_fields(given: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """Return the fields that are set and can be stored; count the others."""
    origin = {}
    for name, value in given.items():
        if value is None or value in ("", {}, []):
            continue
        with suppress(InvalidInput):  # it is counted below
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
