"""Read the items of the Responses API, in the order of a list that grows: sessions of the Agents SDK, and Conversations.

A message of the model holds what the model did before it, as in an answer of `ask`. Each call is a message, since a list may end
after it. What is still without a message at the end is one of its own; if the list grows, the next message leaves it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.items import (
    CALLS,
    REASONING,
    RESULTS,
    app_message,
    is_of_the_model,
    output_messages,
)
from threadledger.domain.conversation.messages import Message
from threadledger.domain.errors import InvalidInput, InvalidMessage

from . import rule_1
from .reading import MadeOf, MessageReader, SourcePlace
from .repairs import COMPACTION_TYPES, is_empty, made_call_id, whole_fields

JSON = dict[str, Any]

ENCRYPTED = "__enc__"
"""Field of the envelope in which an `EncryptedSession` stores each item."""

ENCRYPTED_SESSION = (
    "the session is encrypted (EncryptedSession), and only the app has its key: read it in the app with "
    "session.get_items() and import these items"
)


_NEEDED = frozenset({"type", "role", "content", "output", "name", "arguments", "input"})
"""Fields without which an item is not what it was."""


_NO_MESSAGES = frozenset(CALLS) | RESULTS | REASONING | COMPACTION_TYPES
"""Types of items that are no messages, even with a role."""


class ItemReader:
    """Read items into the entries of a `MessageReader`."""

    def __init__(self, reader: MessageReader) -> None:
        self._reader = reader
        self._before: list[tuple[JSON, SourcePlace]] = []
        """What the model did since its last message."""

    def branched(self, reader: MessageReader) -> ItemReader:
        """Return a reader for a branch that leaves this one here, into the entries of its own reader."""
        branch = ItemReader(reader)
        branch._before = list(self._before)
        return branch

    def read(self, item: object, at: SourcePlace) -> None:
        """Read the next item, or count it if it cannot be read."""
        if isinstance(item, Mapping) and ENCRYPTED in item:
            self._reader.leave_out(ENCRYPTED_SESSION, "encrypted_messages")
            return
        try:
            if not isinstance(item, Mapping):
                raise InvalidInput(
                    f"it is {type(item).__name__}, not an object: an item of the Responses API is expected"
                )
            if self._reader.rule == 1:
                self._read_by_rule_1(item, at)
            else:
                self._read(whole_fields(item, _NEEDED, self._reader.left_out), at)
        except InvalidInput as error:
            self._reader.leave_out(f"{at.name}: {error}")

    def end(self) -> None:
        """Read what is left; called after the last item."""
        self._close()

    def _read_by_rule_1(self, item: Mapping[str, Any], at: SourcePlace) -> None:
        given = rule_1.item_message(item, self._reader.left_out)
        if rule_1.is_kept_whole(item):
            self._reader.keep(item)
        if given is not None:
            self._reader.add(given, at)

    def _read(self, item: JSON, at: SourcePlace) -> None:
        kind = item.get("type")
        if "role" in item and not (isinstance(kind, str) and kind in _NO_MESSAGES):
            kind = "message"  # whatever its type is
        if not isinstance(kind, str):
            raise InvalidInput("it has neither a role nor a type: an item of the Responses API is expected")
        said = app_message(item, kind) if not is_of_the_model(item, kind) else None
        if said is None:
            self._read_of_the_model(item, kind, at)
            return
        self._close()
        if kind == "message" and isinstance(said["content"], list) and is_empty(said["content"]):
            self._reader.left_out["empty_messages"] += 1
        else:
            self._reader.add(said, at)

    def _read_of_the_model(self, item: JSON, kind: str, at: SourcePlace) -> None:
        if kind in CALLS:
            if not isinstance(item.get("name"), str) or not item["name"]:
                raise InvalidInput("a call names no tool: an item with a name is expected")
            item["call_id"] = self._call_id(item, at)
        elif kind != "message":
            self._reader.left_out[
                "reasoning" if kind in REASONING else "compaction_items" if kind in COMPACTION_TYPES else "hosted_calls"
            ] += 1
        self._before.append((item, at))
        if kind == "message" or kind in CALLS:
            self._close()

    def _call_id(self, item: JSON, at: SourcePlace) -> str:
        """Return the id of a call, always the same for the same item."""
        for given in (item.get("call_id"), item.get("id")):
            if isinstance(given, str) and given:
                return given
            if isinstance(given, int) and not isinstance(given, bool):
                return str(given)
        self._reader.left_out["made_call_ids"] += 1
        return made_call_id(at.place, 1)

    def _close(self) -> None:
        """Add what the model did since its last message, as a message if it shows anything."""
        if not self._before:
            return
        items, places = [each for each, _ in self._before], [at.place for _, at in self._before]
        at, self._before = self._before[-1][1], []
        try:
            message = _message(items, self._reader.left_out)
        except InvalidMessage as error:
            self._reader.leave_out(f"{at.name}: {error}")
            for each in items[:-1]:
                self._reader.keep(each)
            return
        if message.content or message.tool_calls:
            made_of = (
                MadeOf(places[:-1], lambda number: _message(items[number:], Counter())) if len(items) > 1 else None
            )
            self._reader.add_read(message, at, made_of)
        elif message.native_json:
            for each in items:
                self._reader.keep(each)
        else:
            self._reader.left_out["empty_messages"] += 1


def _message(items: Sequence[JSON], lost: Counter[str]) -> Message:
    """Return the message of these items; those that cannot be kept are counted in `lost`.

    Raises:
        InvalidMessage: it cannot be stored.
    """
    (read,) = output_messages(items, lost)
    return parse_message(read.as_chat_message()).replaced(native_json=read.native_json)
