"""Check how a page of a list is described and returned: the same pages as those of the whole list, but read by key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters.server.pages import PageQuery, page_in, page_of
from threadledger.adapters.wire import ApiError
from threadledger.adapters.wire.pages import page


@pytest.mark.parametrize(
    ("given_limit", "limit"), [(None, 20), ("1", 1), ("100", 100), ("0", 1), ("-5", 1), ("101", 100)]
)
def test_a_limit_out_of_bounds_means_the_nearest_one(given_limit: str | None, limit: int) -> None:
    assert PageQuery.of({} if given_limit is None else {"limit": given_limit}).limit == limit


@pytest.mark.parametrize("query", [{"limit": "many"}, {"limit": ""}, {"order": "random"}])
def test_a_query_that_cannot_be_read_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        PageQuery.of(query)
    assert (caught.value.status, caught.value.param) == (400, next(iter(query)))


def test_an_empty_id_is_none() -> None:
    assert PageQuery.of({"after": "", "before": ""}) == PageQuery()


@given(
    st.integers(0, 12),
    st.integers(1, 6),
    st.sampled_from(["asc", "desc"]),
    st.none() | st.integers(0, 11),
    st.none() | st.integers(0, 11),
)
def test_a_page_read_by_key_is_the_page_of_the_whole_list(
    size: int, limit: int, order: str, after: int | None, before: int | None
) -> None:
    given_query = {"limit": str(limit), "order": order}
    given_query |= {name: f"x{place}" for name, place in (("after", after), ("before", before)) if place is not None}
    objects = [{"id": f"x{number}"} for number in range(size)]
    if any(place is not None and place >= size for place in (after, before)):
        return
    query = PageQuery.of(given_query)
    first, last = (after, before) if not query.newest_first else (before, after)
    between = [
        each
        for number, each in enumerate(objects)
        if (first is None or number > first) and (last is None or number < last)
    ]
    read = (between[::-1] if query.reads_newest_first else between)[: limit + 1]
    assert page_of(read, query) == page_in(objects, query) == page(objects, given_query)


def test_a_page_that_is_whole_is_returned_as_it_is() -> None:
    items = [{"id": "b"}, {"id": "a"}]
    assert page_of(items, PageQuery(limit=1), has_more=True) == {
        "object": "list",
        "data": items,
        "first_id": "b",
        "last_id": "a",
        "has_more": True,
    }
