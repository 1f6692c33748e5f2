"""Compute groups of failures and summaries from the runs in the audit view.

The queries read no events, and only the columns that they need, because there may be 100,000 rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, case, func, literal, select

from threadledger.domain import (
    BY_FAILURE,
    FailureGroup,
    GroupName,
    SummaryRow,
    in_order,
    percentile,
    tallied,
    to_iso,
)


def failure_groups(
    connection: Connection, runs: Table, groups: Table, since: datetime | None, until: datetime
) -> list[FailureGroup]:
    """Return the groups of the failures since a time, most recent failure first."""
    wanted = [runs.c.failed.is_not(None), *([runs.c.ended_at >= to_iso(since)] if since is not None else [])]
    query = (
        select(runs.c.failure_group, runs.c.conversation, runs.c.ended_at, runs.c.code, runs.c.answered_by.is_not(None))
        .where(*wanted)
        .order_by(runs.c.ended_at, runs.c.started)
    )
    names = {row[0]: GroupName(*row[1:]) for row in connection.execute(select(groups))}
    found: Any = _values(connection.execute(query))
    return tallied(found, names, since, until)


def summary(
    connection: Connection, runs: Table, by: str, since: datetime | None, until: datetime | None
) -> list[SummaryRow]:
    """Return a summary of the runs that started in a period, grouped by one of `SUMMARY_BY`."""
    value = _value(runs, by)
    within = _within(runs, since, until)
    counted = [*within, *([runs.c.failed.is_not(None)] if by in BY_FAILURE else [])]
    all_runs = connection.scalar(select(func.count()).select_from(runs).where(*within)) if by in BY_FAILURE else None
    failed = runs.c.failed.is_not(None)
    query = (
        select(
            value,
            func.count(),
            func.count(runs.c.failed),
            func.sum(case((failed & (runs.c.next == "fallback"), 1), else_=0)),
            func.sum(case((failed & runs.c.answered_by.is_not(None), 1), else_=0)),
            func.sum(runs.c.input_tokens),
            func.sum(runs.c.output_tokens),
        )
        .where(*counted)
        .group_by(value)
    )
    seconds = _seconds(connection, runs, value, counted)
    rows = []
    for row in connection.execute(query):
        took = sorted(seconds.get(row[0], ()))
        numbers = [int(each) for each in row[1:]]
        rows.append(
            SummaryRow(
                by,
                _shown(by, row[0]),
                runs=numbers[0] if all_runs is None else all_runs,
                failed=numbers[1],
                fallbacks=numbers[2],
                answered=numbers[3],
                p50_seconds=percentile(took, 0.50),
                p95_seconds=percentile(took, 0.95),
                input_tokens=numbers[4],
                output_tokens=numbers[5],
            )
        )
    return in_order(rows)


def failure_days(
    connection: Connection, runs: Table, since: datetime | None, until: datetime | None
) -> list[tuple[str, str, int]]:
    """Return (day, cause, count) of the failed runs that started in a period, sorted by day."""
    day = _value(runs, "day")
    query = (
        select(day, runs.c.cause, func.count())
        .where(runs.c.failed.is_not(None), *_within(runs, since, until))
        .group_by(day, runs.c.cause)
        .order_by(day, runs.c.cause)
    )
    return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def _within(runs: Table, since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    return [
        *([runs.c.started_at >= to_iso(since)] if since is not None else []),
        *([runs.c.started_at <= to_iso(until)] if until is not None else []),
    ]


def _value(runs: Table, by: str) -> ColumnElement[Any]:
    # Literals: PostgreSQL treats bound parameters in SELECT and GROUP BY as different values.
    chars = {"day": 10, "hour": 13}.get(by)
    if chars is None:
        column: ColumnElement[Any] = runs.c[by]
        return column
    return func.substr(runs.c.started_at, literal(1, literal_execute=True), literal(chars, literal_execute=True))


def _shown(by: str, value: str | None) -> str | None:
    return f"{value}:00:00Z" if by == "hour" else value


def _seconds(
    connection: Connection, runs: Table, value: ColumnElement[Any], wanted: list[ColumnElement[bool]]
) -> dict[str | None, list[float]]:
    found: defaultdict[str | None, list[float]] = defaultdict(list)
    took = connection.execute(select(value, runs.c.seconds).where(runs.c.seconds.is_not(None), *wanted))
    for each, seconds in _values(took):
        found[each].append(seconds)
    return found


def _values(result: Any) -> Sequence[Any]:
    """Return all rows as tuples of the driver; creating SQLAlchemy's rows would take as long as the query."""
    rows: Sequence[Any] = result.cursor.fetchall()
    result.close()
    return rows
