"""Read runs and exchanges page by page, newest first, from the rows of the audit view.

A page is found by the time at which its runs started; the runs of one conversation are in the order of its log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from threadledger.domain.conversation import stream_of
from threadledger.domain.ids import to_iso

from .runs import COLUMNS, RunRow, restored, rows_among, storable
from .transaction import ViewTransaction

if TYPE_CHECKING:
    from threadledger.domain.conversation import ExchangeRecord, Exchanges, RunRecord
    from threadledger.domain.conversation.run_filters import ExchangeFilter, RunFilter

T = TypeVar("T")

Place = tuple[str, int]
"""Time (ISO 8601) and position of a run in the log, by which it is sorted."""

PAGE_RUNS = 1_000
"""Maximum number of runs read per query."""

_STATES = {
    "open": "r.completed IS NULL AND r.failed IS NULL",
    "completed": "r.completed IS NOT NULL",
    "failed": "r.failed IS NOT NULL",  # few are completed too, and are left out afterwards
}

_ROWS = ", ".join(f"r.{name}" for name in COLUMNS)
_ALL_COLUMNS = ", ".join(COLUMNS)

_PAGE = "SELECT {rows} FROM {runs} r{in_order} WHERE {conditions} ORDER BY {order} LIMIT ?"

IN_ORDER = {"sqlite": "", "postgresql": " CROSS JOIN json_array_elements('[1]') AS once"}
"""Addition to the tables of a query for a page. Without statistics of a table, PostgreSQL expects few matching rows, and
would read and sort them all. It expects a hundred rows of this function, which returns one: now it reads in the order of the
index, and stops at the limit."""


def run_page(
    transaction: ViewTransaction, begin: str, wanted: RunFilter, limit: int | None, before: Place | None
) -> tuple[list[RunRecord], Place | None]:
    """Return the newest `limit` matching runs before a place, and the place of the first; see `newest_of`."""
    conditions = [_STATES[wanted.state]] if wanted.state is not None else []
    named = [("r.backend = ?", storable(wanted.backend)), ("r.model = ?", storable(wanted.model))]
    pages = _pages(transaction, begin, wanted, before, _size(limit), conditions, named)

    def matching() -> Iterator[list[tuple[RunRecord, Place]]]:
        for page in pages:
            folded = _whole_exchanges(transaction, begin, page)
            runs = ((folded.runs[row.id_reversed[::-1]], _place(row)) for row in page)
            yield [(run, place) for run, place in runs if wanted(run)]

    return newest_of(matching(), limit)


def exchange_page(
    transaction: ViewTransaction, begin: str, wanted: ExchangeFilter, limit: int | None, before: Place | None
) -> tuple[list[ExchangeRecord], Place | None]:
    """Return the newest `limit` matching exchanges before a place, and the place of the first; see `newest_of`."""
    conditions = ["r.answered_by IS NULL"] if wanted.unanswered else []
    pages = _pages(transaction, begin, wanted, before, _size(limit), conditions, [])

    def matching() -> Iterator[list[tuple[ExchangeRecord, Place]]]:
        for page in pages:
            folded = _whole_exchanges(transaction, begin, page)
            exchanges = ((folded.by_id[row.exchange_id], row) for row in page)
            first = [(each, _place(row)) for each, row in exchanges if each.runs[0].run_id == row.id_reversed[::-1]]
            yield [(exchange, place) for exchange, place in first if wanted(exchange)]

    return newest_of(matching(), limit)


def newest_of(pages: Iterable[Sequence[tuple[T, Place]]], limit: int | None) -> tuple[list[T], Place | None]:
    """Return the first `limit` items of pages, whose newest item is the first, in the opposite order.

    Also return the place of the oldest one; None if there are no older ones.
    """
    limit = limit if limit is None else max(limit, 0)
    found: list[tuple[T, Place]] = []
    for page in pages:
        found += page
        if limit is not None and len(found) > limit:
            break
    kept = found[:limit]
    place = kept[-1][1] if kept and len(found) > len(kept) else None
    return [each for each, _ in reversed(kept)], place


def _size(limit: int | None) -> int:
    return PAGE_RUNS if limit is None else max(min(limit + 1, PAGE_RUNS), 1)


def _place(row: RunRow) -> Place:
    return row.started_at, row.started


def _pages(
    transaction: ViewTransaction,
    begin: str,
    wanted: RunFilter | ExchangeFilter,
    before: Place | None,
    size: int,
    conditions: Sequence[str],
    named: Sequence[tuple[str, str | None]],
) -> Iterator[list[RunRow]]:
    """Yield pages of rows before a place, newest first; a row may not match the filter, because values are shortened."""
    times = [("r.started_at >= ?", wanted.since), ("r.started_at <= ?", wanted.until)]
    given = [(condition, to_iso(time)) for condition, time in times if time is not None]
    given += [(condition, value) for condition, value in named if value is not None]
    order, older = "r.started_at DESC, r.started DESC", "(r.started_at, r.started) < (?, ?)"
    if wanted.key is not None:
        given.append(("r.conversation = ?", stream_of(wanted.key)))
        order, older = "r.started DESC", "r.started < ?"
    elif wanted.actor is not None:  # among the runs of one conversation, it selects too few to use its index
        given.append(("r.actor = ?", storable(wanted.actor) or ""))
    where, values = [*conditions, *(condition for condition, _ in given)], [value for _, value in given]
    is_full = True
    while is_full:
        place = () if before is None else before if wanted.key is None else before[1:]
        whole = " AND ".join([*where, older] if place else where) or "1 = 1"
        query = _PAGE.format(
            rows=_ROWS, runs=f"{begin}runs", in_order=IN_ORDER[transaction.kind], conditions=whole, order=order
        )
        page = [RunRow(*row) for row in transaction.rows(query, (*values, *place, size))]
        is_full = len(page) == size
        if page:
            before = _place(page[-1])
            yield page


def _whole_exchanges(transaction: ViewTransaction, begin: str, page: Sequence[RunRow]) -> Exchanges:
    """Return the exchanges of these runs with all their runs."""
    exchange_ids = sorted({row.exchange_id for row in page})
    found = rows_among(transaction, f"{begin}runs", _ALL_COLUMNS, "exchange_id", exchange_ids)
    return restored(transaction, [RunRow(*row) for row in sorted(found)], whole=True)
