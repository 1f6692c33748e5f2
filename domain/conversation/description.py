"""Describe a conversation for the lists of an app: title, owner, tags, archived, metadata.

The description is what the `ConversationDescribed` events say together. The state of a conversation holds the owner and
whether it is archived, and for the other fields the version of the event with the newest value (`described`), so that a
reader needs at most three rows, however often a conversation was described. A plain question loads none of this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ..errors import InvalidInput
from ..limits import DESCRIPTION_METADATA_BYTES_MAX, OWNER_CHARS_MAX, TAG_CHARS_MAX, TAGS_MAX, TITLE_CHARS_MAX
from . import events as e
from .parsing import plain_json

JSON = dict[str, Any]


@dataclass(frozen=True)
class Description:
    """Hold what an app said about a conversation; a field that was never set, or was cleared, is empty."""

    title: str = ""
    owner: str = ""
    """Id of whom it belongs to: a filter of lists, not a boundary."""
    tags: tuple[str, ...] = ()
    archived: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> JSON:
        """Return the keys that `list` and `describe` print; title and owner are null if they are empty."""
        return {
            "title": self.title or None,
            "owner": self.owner or None,
            "tags": list(self.tags),
            "archived": self.archived,
            "metadata": dict(self.metadata),
        }

    def changed_by(self, wanted: Mapping[str, Any]) -> JSON:
        """Return those of the wanted values that differ, as fields of `ConversationDescribed`."""
        own = vars(self) | {"tags": list(self.tags), "metadata": dict(self.metadata)}
        return {name: value for name, value in wanted.items() if not _equal(own[name], value)}

    def changed(self, changes: Mapping[str, Any]) -> Description:
        """Return the description after an event with these fields."""
        return replace(self, **{**changes, "tags": tuple(changes.get("tags", self.tags))})


NOT_DESCRIBED = Description(metadata=MappingProxyType({}))
"""The description of every conversation of which nothing was said: one object, because a list may hold 100,000 of them."""


def _equal(first: Any, second: Any) -> bool:
    """Return whether two values are the same JSON: `1`, `1.0` and `true` are equal in Python."""
    return first == second and json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def versions_of(described: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the version of the event that has the newest value of each field which the state does not hold itself.

    A state that does not know it was written before there were descriptions: only its first event may have metadata.
    """
    known = {"metadata": 1} if described is None else described
    return {name: known[name] for name in ("title", "tags", "metadata") if type(known.get(name)) is int}


def described_by(described: Mapping[str, Any] | None, events: Iterable[e.Event]) -> Description:
    """Return the description from the state's `described` and the events at its versions; never raises.

    A value of another type than ours, which only another program writes, counts as not set.
    """
    at = {event.originator_version: event for event in events}
    found = {name: getattr(at.get(version), name, None) for name, version in versions_of(described).items()}
    title, tags, metadata = found.get("title"), found.get("tags"), found.get("metadata")
    owner, archived = (described or {}).get("owner"), (described or {}).get("archived")
    return Description(
        title if isinstance(title, str) else "",
        owner if isinstance(owner, str) else "",
        tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
        archived is True,
        metadata if isinstance(metadata, dict) else {},
    )


def checked_changes(
    title: str | None = None,
    owner: str | None = None,
    tags: Iterable[str] | None = None,
    archived: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    outcome: str = "nothing was written",
) -> JSON:
    """Return the given values as fields of `ConversationDescribed`; tags are kept once each, in their order.

    `outcome` is what an error says about the call, which may be a filter.

    Raises:
        InvalidInput: a value has another type, is too long or too large, or cannot be stored.
    """
    changes: JSON = {}
    for name, value, limit in (("title", title, TITLE_CHARS_MAX), ("owner", owner, OWNER_CHARS_MAX)):
        if value is not None:
            changes[name] = _text(value, f"the {name}", limit, outcome)
    if tags is not None:
        changes["tags"] = _tags(tags, outcome)
    if archived is not None:
        if not isinstance(archived, bool):
            raise InvalidInput(f"archived has type {type(archived).__name__}: {outcome}; pass True, False or None")
        changes["archived"] = archived
    if metadata is not None:
        if not isinstance(metadata, Mapping):
            raise InvalidInput(f"metadata has type {type(metadata).__name__}: {outcome}; pass a dict")
        stored = plain_json(metadata, "the metadata")
        if len(stored.encode()) > DESCRIPTION_METADATA_BYTES_MAX:
            raise InvalidInput(
                f"metadata of {len(stored.encode()):,} bytes exceeds {DESCRIPTION_METADATA_BYTES_MAX:,}: {outcome}; "
                "store it elsewhere, and its id here"
            )
        changes["metadata"] = json.loads(stored)  # a copy, because the caller may change the original
    return changes


def _tags(tags: Iterable[str], outcome: str) -> Sequence[str]:
    if isinstance(tags, (str, bytes, Mapping)) or not isinstance(tags, Iterable):
        raise InvalidInput(f"tags has type {type(tags).__name__}: {outcome}; pass a list of texts")
    kept = list(dict.fromkeys(_text(tag, "a tag", TAG_CHARS_MAX, outcome) for tag in tags))
    if not all(map(str.strip, kept)):
        raise InvalidInput(f"a tag is empty: {outcome}; leave it out, or pass an empty list for no tags")
    if len(kept) > TAGS_MAX:
        raise InvalidInput(f"{len(kept)} tags are too many: {outcome}; give at most {TAGS_MAX}")
    return kept


def _text(value: object, what: str, limit: int, outcome: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{what} has type {type(value).__name__}: {outcome}; pass a text")
    text = str(value)
    if len(text) > limit:
        raise InvalidInput(f"{what} has {len(text):,} characters: {outcome}; give at most {limit}")
    plain_json(text, what)
    if "\0" in text:
        raise InvalidInput(f"{what} contains a NUL: {outcome}; pass text without it")
    return text
