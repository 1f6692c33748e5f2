"""List failures, runs and exchanges of the whole ledger in pages, the newest page first.

Within a page, the order is that of the list without a limit: the oldest first. The cursor of a page is the place before
which older ones are read.
The times of a filter are not part of a cursor, because a span such as the last 24 hours moves on from page to page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from ..conversation import ExchangeRecord, Exchanges
from ..conversation.run_filters import RUN_STATES, ExchangeFilter, RunFilter
from ..errors import InvalidInput
from .pages import Page, cursor_of, place_in

if TYPE_CHECKING:
    from ..conversation import FailureFilter, RunRecord
    from ..failures import RecordedFailure
    from ..journal import Journal

T = TypeVar("T")

Place = tuple[str, int]
"""Time (ISO 8601) and position of a run in the log."""

Read = Callable[["int | None", "Place | None"], "tuple[list[T], Place | None]"]
"""Function that reads the newest items before a place, at most a number of them; it also returns the place of the first of
them, if there are older ones."""


class ExchangePage(Page[ExchangeRecord], Exchanges):
    """Hold exchanges as a page, a list in the order of their start, and as `Exchanges`: by id, with all their runs."""

    def __init__(self, exchanges: Iterable[ExchangeRecord] = (), cursor: str | None = None) -> None:
        Page.__init__(self, exchanges, cursor)
        by_id = {each.exchange_id: each for each in self}
        Exchanges.__init__(self, by_id, {run.run_id: run for each in self for run in each.runs})


def failure_page(
    journal: Journal, wanted: FailureFilter, limit: int | None, after: str | None
) -> Page[RecordedFailure]:
    """Return a page of failed runs; see `Ledger.failures`."""
    cause = wanted.cause.value if wanted.cause is not None else None
    filters: dict[str, object] = {"cause": cause, "code": wanted.code, "backend": wanted.backend}
    filters |= {"actor": wanted.actor, "unanswered": wanted.unanswered or None}
    return _page(
        "failures", filters, limit, after, lambda most, before: journal.views.failure_page(wanted, most, before)
    )


def run_page(journal: Journal, wanted: RunFilter, limit: int | None, after: str | None) -> Page[RunRecord]:
    """Return a page of runs; see `Ledger.runs`.

    Raises:
        InvalidInput: there is no such state.
    """
    if wanted.state is not None and wanted.state not in RUN_STATES:
        raise InvalidInput(f"a run cannot be {wanted.state!r}: use one of {', '.join(RUN_STATES)}")
    names = ("key", "backend", "model", "state", "actor")
    filters = {name: getattr(wanted, name) for name in names}
    return _page("runs", filters, limit, after, lambda most, before: journal.views.run_page(wanted, most, before))


def exchange_page(journal: Journal, wanted: ExchangeFilter, limit: int | None, after: str | None) -> ExchangePage:
    """Return a page of exchanges; see `Ledger.exchanges`."""
    filters = {name: getattr(wanted, name) for name in ("key", "unanswered", "actor")}
    found = _page(
        "exchanges", filters, limit, after, lambda most, before: journal.views.exchange_page(wanted, most, before)
    )
    return ExchangePage(found, found.cursor)


def _page(what: str, filters: Mapping[str, object], limit: int | None, after: str | None, read: Read[T]) -> Page[T]:
    """Read one page.

    Raises:
        InvalidInput: the limit is no number, a filter no text, or the cursor belongs to another list.
    """
    if limit is not None and type(limit) is not int:
        raise InvalidInput(f"limit has type {type(limit).__name__}: nothing was read; pass a number of items, or None")
    for name, value in filters.items():
        if value is not None and not isinstance(value, (str, bool)):
            raise InvalidInput(f"{name} has type {type(value).__name__}: nothing was read; pass a text, or omit it")
    named = {"list": what, **filters}
    found, place = read(limit, cast("Place | None", place_in(after, named, str, int)))
    return Page(found, cursor_of(place, named) if place is not None else None)
