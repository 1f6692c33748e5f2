"""A conversation as it was found elsewhere, before anything of it is journaled; and what became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from threadledger.domain import InvalidInput, InvalidMessage, Message, parse_message, to_iso

SOURCE_ID_CHARS_MAX = 300
"""Characters in an id of a source: providers' have 30 to 40."""


@dataclass(frozen=True)
class Entry:
    """A message with its place in the source, which is what tells it from others: two equal texts are two messages."""

    message: Message
    place: str
    """Where it stands (jsonl), or the source's own id: never made from the content."""
    name: str
    """What a sentence calls it: `message 3`, `row 17`."""
    written_at: str | None = None
    """When the original was written (ISO 8601), where the source says so."""
    message_id: str | None = None
    """Our own id, of a message that a ledger had written into a thread."""
    piece_of: str | None = None
    """The same, of a further piece of it."""


@dataclass(frozen=True)
class Found:
    """A conversation of a source. `left_out` counts by kind what could not be carried."""

    line: int
    """Its line, or its place in the file: the first is 1."""
    key: str
    metadata: Mapping[str, Any]
    entries: Sequence[Entry]
    left_out: Mapping[str, int] = field(default_factory=dict)
    other_branches: Collection[str] = frozenset()
    """Places that are on other branches now, where the source has branches."""
    thread_id: str | None = None
    """The provider's thread that it was read from."""
    has_ids: bool = True
    """Whether the places are the source's own ids."""


@dataclass(frozen=True)
class Imported:
    """What became of one conversation: `imported`, `unchanged`, `extended` or `failed`."""

    line: int
    key: str
    state: str
    messages: int = 0
    reason: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"left_out": dict(self.left_out)}


def json_of(text: bytes | InvalidInput, what: str) -> Any:
    """The JSON value of a line, of a conversation in a file, or of a row.

    Raises:
        InvalidInput: it is not UTF-8, or not JSON; or what is given in its place.
    """
    if isinstance(text, InvalidInput):
        raise text
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the {what} is not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the {what} is not JSON ({error}): give one JSON object a {what}") from None


def source_id(value: object, what: str) -> str:
    """An id of the source, as a place.

    Raises:
        InvalidInput: it is not text that can be stored.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= SOURCE_ID_CHARS_MAX:
        found = f"{len(value)} characters" if isinstance(value, str) else f"type {type(value).__name__}"
        raise InvalidInput(f"the id of {what} has {found}: a text of 1 to {SOURCE_ID_CHARS_MAX} characters is expected")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInput(f"the id of {what}, {value!a}, holds a NUL or half a character: give whole UTF-8 text")
    return value


def message_of(given: Mapping[str, Any], what: str) -> Message:
    """A message in the Chat Completions form.

    Raises:
        InvalidInput: saying which message it is, and what is wrong with it.
    """
    try:
        return parse_message(given)
    except InvalidMessage as error:
        raise InvalidInput(f"{what}: {error}") from None


def moment(seconds: object) -> str | None:
    """A Unix time as ISO 8601; None for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return to_iso(datetime.fromtimestamp(seconds, UTC)) if math.isfinite(seconds) else None
    except (OverflowError, OSError, ValueError):
        return None
