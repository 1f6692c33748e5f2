"""Return pages of a list by limit, order, after and before, in the provider's envelope."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from .errors import ApiError, bad_request
from .limits import FILES_PAGE_MAX, PAGE_DEFAULT, PAGE_MAX
from .validation import Json, one_of


def page(objects: Iterable[Json], query: Mapping[str, str]) -> Json:
    """Return one page of `objects`, which are in order of creation; newest first unless `order=asc`."""
    return _page(objects, query, PAGE_DEFAULT, PAGE_MAX)


def page_of_files(files: Iterable[Json], query: Mapping[str, str]) -> Json:
    """Return one page of files, which is longer than a page of other objects."""
    return _page(files, query, FILES_PAGE_MAX, FILES_PAGE_MAX)


def _page(objects: Iterable[Json], query: Mapping[str, str], default: int, maximum: int) -> Json:
    ordered = list(objects)
    if one_of(query.get("order", "desc"), "order", ("asc", "desc")) == "desc":
        ordered.reverse()
    return page_between(ordered, _limit(query, default, maximum), query.get("after"), query.get("before"))


def page_between(ordered: Sequence[Json], limit: int, after: str | None, before: str | None) -> Json:
    """Return the page of a whole list that is between two of its objects, by their ids; the list is in the page's order.

    With only `before`, the page ends right before it; otherwise it starts right after `after`.

    Raises:
        ApiError: a 400, because the list has no such object.
    """
    start = _position(ordered, after, "after") + 1 if after else 0
    end = _position(ordered, before, "before") if before else len(ordered)
    window = ordered[start:end]
    data = window[-limit:] if before and not after else window[:limit]
    return envelope(data, has_more=len(window) > len(data))


def envelope(data: Sequence[Json], *, has_more: bool = False) -> Json:
    """Return `data` in the provider's list envelope."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def given_limit(query: Mapping[str, str], default: int) -> int:
    """Return the `limit` of a query as it is given, or `default` without one.

    Raises:
        ApiError: a 400, because it is no integer.
    """
    raw = query.get("limit")
    if raw is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,9}", raw):
        message = f"Invalid type for 'limit': expected an integer, but got '{raw}' instead."
        raise bad_request(message, "limit", "invalid_type")
    return int(raw)


def not_in_list(identifier: str, param: str) -> ApiError:
    """Return a 400 for an `after` or `before` (`param`) that names no object of the list."""
    return bad_request(f"Invalid '{param}': no object with id '{identifier}' in this list.", param, "invalid_value")


def _limit(query: Mapping[str, str], default: int, maximum: int) -> int:
    limit = given_limit(query, default)
    if limit > maximum:
        expected = f"Expected a value <= {maximum}, but got {limit} instead."
        raise bad_request(
            f"Invalid 'limit': integer above maximum value. {expected}", "limit", "integer_above_max_value"
        )
    if limit < 1:
        expected = f"Expected a value >= 1, but got {limit} instead."
        raise bad_request(
            f"Invalid 'limit': integer below minimum value. {expected}", "limit", "integer_below_min_value"
        )
    return limit


def _position(ordered: Sequence[Json], identifier: str, param: str) -> int:
    for index, entry in enumerate(ordered):
        if entry["id"] == identifier:
            return index
    raise not_in_list(identifier, param)
