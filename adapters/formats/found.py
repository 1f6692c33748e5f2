"""Represent conversations read from a source before they are journaled, and the result of importing each."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from threadledger.domain import InvalidInput, InvalidMessage, Message, parse_message, to_iso

SOURCE_ID_CHARS_MAX = 300
"""Maximum length of an id from a source, in characters. Provider ids have 30 to 40."""


@dataclass(frozen=True)
class Entry:
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


def json_of(text: bytes | InvalidInput, what: str) -> Any:
    """Parse the JSON text of a line, a conversation or a row.

    Raises:
        InvalidInput: the text is not UTF-8 or not JSON, or `text` is itself such an error.
    """
    if isinstance(text, InvalidInput):
        raise text
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the {what} is not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the {what} is not JSON ({error}): write one JSON object per {what}") from None


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


def message_of(given: Mapping[str, Any], what: str) -> Message:
    """Parse a message in the Chat Completions form.

    Raises:
        InvalidInput: the message is invalid; the text names the message and the problem.
    """
    try:
        return parse_message(given)
    except InvalidMessage as error:
        raise InvalidInput(f"{what}: {error}") from None


def moment(seconds: object) -> str | None:
    """Return a Unix time as ISO 8601, or None if the value is not a valid time."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return to_iso(datetime.fromtimestamp(seconds, UTC)) if math.isfinite(seconds) else None
    except (OverflowError, OSError, ValueError):
        return None
