"""Read what a request says of the page that it wants, and return the page in the provider's envelope.

Pages are read by key: a handler finds the objects that `after` and `before` name, and reads one object more than the limit
between them, which says whether there are more. A limit out of bounds is not refused as the provider does: it means the
nearest one that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from threadledger.domain.conversation.listing import ListPage, ListPlace

from ..wire import Json
from ..wire.limits import PAGE_DEFAULT, PAGE_MAX
from ..wire.pages import envelope, given_limit, not_in_list, page_between
from ..wire.validation import one_of


@dataclass(frozen=True)
class PageQuery:
    """Hold what a request says of a page: how many objects, in which order, and between which of them."""

    limit: int = PAGE_DEFAULT
    order: str = "desc"
    """`desc` is newest first, `asc` oldest first."""
    after: str | None = None
    """Id of the object that the page follows, in its order."""
    before: str | None = None
    """Id of the object that follows the page, in its order."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Return the page that the query of a URL describes.

        Raises:
            ApiError: a 400, because the limit is no number or the order is unknown.
        """
        limit = min(max(given_limit(query, PAGE_DEFAULT), 1), PAGE_MAX)
        order = one_of(query.get("order") or "desc", "order", ("asc", "desc"))
        return cls(limit, order, query.get("after") or None, query.get("before") or None)

    def page(self, place: Callable[[str], ListPlace | None], limit: int | None = None) -> ListPage:
        """Return the page of a list, of which a function returns the place of an object by its id.

        Raises:
            ApiError: a 400, because the list has no such object.
        """
        places: list[ListPlace | None] = []
        for param, name in (("after", self.after), ("before", self.before)):
            found = place(name) if name is not None else None
            if found is None and name is not None:
                raise not_in_list(name, param)
            places.append(found)
        return ListPage(limit or self.limit, self.newest_first, *places)

    @property
    def newest_first(self) -> bool:
        """Return whether the page shows newer objects before older ones."""
        return self.order == "desc"

    @property
    def from_end(self) -> bool:
        """Return whether the page ends right before `before`, so that it is read against its order, beginning there."""
        return self.before is not None and self.after is None

    @property
    def reads_newest_first(self) -> bool:
        """Return whether objects are read from newer to older ones, whatever the order in which they are shown."""
        return self.newest_first != self.from_end


def page_of(items: Sequence[Json], query: PageQuery, has_more: bool | None = None) -> Json:
    """Return objects in the provider's envelope.

    Without `has_more`, `items` are as they were read (see `PageQuery.reads_newest_first`), up to one more than the limit;
    with it, they are the page.
    """
    if has_more is not None:
        return envelope(items, has_more=has_more)
    kept = list(items[: query.limit])
    if query.from_end:
        kept.reverse()
    return envelope(kept, has_more=len(items) > query.limit)


def page_in(items: Iterable[Json], query: PageQuery) -> Json:
    """Return a page of a short list, all of which is given, oldest first.

    Raises:
        ApiError: a 400, because the list has no object that `after` or `before` names.
    """
    ordered = list(items)
    if query.newest_first:
        ordered.reverse()
    return page_between(ordered, query.limit, query.after, query.before)
