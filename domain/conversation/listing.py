"""Define which conversations a list holds, in which order, and what a page of any list by creation is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from ..errors import InvalidInput
from ..ids import as_utc, moment_of, to_iso
from .description import checked_changes

T = TypeVar("T")

Scalar = str | int | float | bool | None
"""Value of metadata that a list can be filtered by."""


class ListOrder(StrEnum):
    """Name the orders of a list of conversations."""

    NEWEST = "newest"
    """The last changed one first."""
    OLDEST = "oldest"
    """The one that has not changed for the longest time first."""
    STARTED = "started"
    """The last started one first."""
    FIRST = "first"
    """The first started one first."""

    @property
    def ascends(self) -> bool:
        """Return whether older conversations come before newer ones."""
        return self in {ListOrder.OLDEST, ListOrder.FIRST}

    @property
    def by_start(self) -> bool:
        """Return whether the start of a conversation decides, not its last change."""
        return self in {ListOrder.STARTED, ListOrder.FIRST}


@dataclass(frozen=True)
class ConversationFilter:
    """Hold the conditions of a list; a conversation has to meet all of them."""

    owner: str | None = None
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, Scalar], ...] = ()
    """Pairs that the metadata has on its first level."""
    unanswered: bool | None = None
    archived: bool | None = None
    since: datetime | timedelta | None = None
    search: str | None = None
    order: ListOrder = ListOrder.NEWEST
    pending: bool | None = None
    """Whether a tool call waits for a person's decision."""
    tenant: str | None = None
    """The tenant of the served API whose conversations are listed; empty for those of none, None for all."""

    @classmethod
    def of(
        cls,
        owner: str | None = None,
        tag: str | Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        unanswered: bool | None = None,
        archived: bool | None = None,
        since: datetime | timedelta | None = None,
        search: str | None = None,
        order: str = ListOrder.NEWEST,
        pending: bool | None = None,
    ) -> ConversationFilter:
        """Return the checked filter.

        Raises:
            InvalidInput: a value has another type, or no conversation can have it.
        """
        if owner == "":
            raise InvalidInput("the owner is empty: pass the id of an owner, or None for all conversations")
        tags = (tag,) if isinstance(tag, str) else tag
        checked = checked_changes(owner=owner, tags=tags, metadata=metadata, outcome="nothing was read")
        pairs = checked.get("metadata", {})
        for name, wanted in pairs.items():
            if isinstance(wanted, (dict, list)):
                raise InvalidInput(
                    f"metadata {name!r} is a list or an object: filter by a text, number, true, false or null"
                )
        if order not in set(ListOrder):
            raise InvalidInput(f"there is no order {order!r}: use one of {', '.join(ListOrder)}")
        for flag, value in (("unanswered", unanswered), ("archived", archived), ("pending", pending)):
            if value is not None and not isinstance(value, bool):
                raise InvalidInput(f"{flag} is {value!r}: pass True, False or None")
        if since is not None and not isinstance(since, (datetime, timedelta)):
            raise InvalidInput(f"since has type {type(since).__name__}: pass a datetime, or a timedelta back from now")
        return cls(
            owner,
            tuple(checked.get("tags", ())),
            tuple(pairs.items()),
            unanswered,
            archived,
            since,
            search,
            ListOrder(order),
            pending,
        )

    def as_keywords(self) -> dict[str, Any]:
        """Return the arguments of `Ledger.conversations` for this filter."""
        values = vars(self) | {"tag": self.tags or None, "metadata": dict(self.metadata) or None}
        del values["tags"], values["tenant"]
        return values

    def is_everything(self) -> bool:
        """Return whether only archived conversations are left out, if any."""
        return replace(self, archived=None, order=ListOrder.NEWEST) == ConversationFilter() and not self.archived

    def as_json(self) -> dict[str, Any]:
        """Return what a cursor is bound to."""
        since = (
            self.since.total_seconds()
            if isinstance(self.since, timedelta)
            else self.since and to_iso(as_utc(self.since))
        )
        values = vars(self) | {"since": since, "order": str(self.order)}
        if self.tenant is None:  # as in cursors of earlier versions
            del values["tenant"]
        return values

    def since_moment(self) -> datetime | None:
        """Return the time since which the conversations have changed; a time span counts back from now."""
        return moment_of(self.since)


@dataclass(frozen=True)
class MessageSearch:
    """Hold what messages are searched for."""

    text: str
    owner: str | None = None

    @classmethod
    def of(cls, text: str, owner: str | None = None) -> MessageSearch:
        """Return the checked search.

        Raises:
            InvalidInput: a value has another type, or no conversation can have it.
        """
        if not isinstance(text, str):
            raise InvalidInput(f"a search for {type(text).__name__} is not possible: pass a text")
        return cls(text, ConversationFilter.of(owner).owner)


@dataclass(frozen=True)
class SearchHit:
    """Describe a message that matches a search."""

    key: str
    message_id: str
    version: int
    role: str
    at: datetime
    snippet: str
    """The part of the message around the first match, in one line."""
    matches: tuple[tuple[int, int], ...] = ()
    """Places of the matching words in the snippet: the first character, and the one after the last."""
    in_memory: bool = True
    """Whether a model is shown it: it is on the selected branch, no summary stands for it, and it was not retracted, cleared
    or replaced."""
    selected: bool = True
    """Whether the message is on the selected branch."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `search` prints."""
        return vars(self) | {"at": to_iso(self.at), "matches": [list(each) for each in self.matches]}


def label_of_tenant(tenant: str) -> list[Any]:
    """Return what an index has for a tenant."""
    return ["tenant", tenant]


def label_of_tag(tag: str) -> list[Any]:
    """Return what an index has for a tag."""
    return ["tag", tag]


def label_of_pair(name: str, value: object) -> list[Any] | None:
    """Return what an index has for a pair of metadata; None for a value that is no scalar. `1` and `1.0` are equal."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, (dict, list)):
        return None
    return ["pair", name, value]


ListPlace = tuple[str, int | str]
"""Place of an object in a list: when it was created (ISO 8601), and what orders those of one moment."""


@dataclass(frozen=True)
class ListPage:
    """Describe a page of at most `limit` objects.

    It begins after the place `after` and ends before `before`, in its own order. With `before` alone, it ends right there.
    """

    limit: int
    newest_first: bool = True
    after: ListPlace | None = None
    before: ListPlace | None = None

    @property
    def from_end(self) -> bool:
        """Return whether the page is read against its order, beginning at `before`."""
        return self.before is not None and self.after is None

    @property
    def descends(self) -> bool:
        """Return whether newer objects are read before older ones."""
        return self.newest_first != self.from_end

    @property
    def bounds(self) -> tuple[ListPlace | None, ListPlace | None]:
        """Return the places at which reading begins and ends."""
        return (self.before, None) if self.from_end else (self.after, self.before)

    def of(self, found: Sequence[T]) -> tuple[list[T], bool]:
        """Return the page's objects in its order, and whether there are more; `found` are as read, one more than the limit."""
        kept = list(found[: self.limit])
        if self.from_end:
            kept.reverse()
        return kept, len(found) > self.limit
