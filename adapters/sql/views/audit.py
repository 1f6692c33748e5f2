"""Maintain the view of runs: the outcome of each, and the positions of its events in the log.

The outcome of a run is computed only by `fold_exchanges` of the domain. The view stores its result and the columns used
in queries. Other facts about a run stay in its events and are folded from there on request, so nothing is stored twice,
least of all the partial text of an interrupted answer. `failures` derives its output, including the cause, from the
facts on each read. Groups and summaries use the cause and group that were derived when the run's events were processed.
The view's version includes the version numbers of both rules, so a new version of a rule rebuilds the view and
reclassifies old failures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, case, func, literal, select, tuple_

from threadledger.domain.conversation import RUN_TOPICS, FailureFilter, events, fold_exchanges, key_of
from threadledger.domain.failures import (
    BY_FAILURE,
    DIAGNOSIS_VERSION,
    RULE_VERSION,
    BackendEnd,
    FailureGroup,
    GroupName,
    RecordedFailure,
    SummaryRow,
    percentile,
    tallied,
)
from threadledger.domain.ids import now, to_iso

from .catching_up import EVENTS, STREAMS, Taken, View, put
from .runs import (
    COLUMNS,
    FoldedRuns,
    RunPlaces,
    as_row,
    because_of,
    ends_of,
    groups_table,
    restored,
    runs_table,
    storable,
    touched,
)

FOUND_RUNS_MAX = 10
"""Maximum number of runs returned for one ending of the id."""

PAGE_FAILURES = 1_000
"""Maximum number of failures read per query."""

_LAST_CHARACTER = "\U0010ffff"

Known = FoldedRuns


@dataclass
class Changes:
    """Hold the rows of runs, in the order of `COLUMNS`, and the groups by id."""

    runs: Sequence[tuple[Any, ...]]
    groups: dict[str, GroupName]


class AuditView(View[Known, Changes]):
    """Store the outcome and event positions of every run."""

    name = "audit"
    # Two digits each: the version of the tables, of the diagnosis table, and of the normalization rule.
    version = 10_000 * 3 + 100 * DIAGNOSIS_VERSION + RULE_VERSION
    topics = RUN_TOPICS

    def create(self, connection: Connection, generation: int) -> None:
        runs = self._runs(generation)
        runs.metadata.create_all(connection, checkfirst=False)
        # Plain SQL: with SQLAlchemy's Index, the code for both databases is loaded, which takes 50 ms.
        by_end = f"{self.prefix(generation)}by_end"
        groups_table(self.prefix(generation)).metadata.create_all(connection, checkfirst=False)
        connection.exec_driver_sql(f"CREATE INDEX {by_end} ON {runs.name} (ended_at, started) WHERE failed IS NOT NULL")

    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> Known:
        runs = self._runs(generation)
        exchange_ids, run_ids = touched(taken)
        mark = "?" if connection.dialect.name == "sqlite" else "%s"
        exchanges, ids = (", ".join([mark] * len(each)) or "NULL" for each in (exchange_ids, run_ids))
        found = connection.exec_driver_sql(  # plain SQL: SQLAlchemy takes longer to bind thousands of values than the query runs
            f"SELECT * FROM {runs.name} WHERE exchange_id IN ({exchanges}) OR exchange_id IN "
            f"(SELECT exchange_id FROM {runs.name} WHERE id_reversed IN ({ids}))",
            (*exchange_ids, *(each[::-1] for each in run_ids)),
        )
        return restored(connection, found.all())

    def fold(self, taken: Sequence[Taken], known: Known | None) -> Changes:
        runs = known or FoldedRuns()
        folded = fold_exchanges((event for _, event in taken), runs.folded)
        for position, event in taken:
            match event:
                case events.RunStarted():
                    runs.places[event.run_id] = RunPlaces(position)
                case events.RunCompleted() if event.run_id in runs.places:
                    runs.places[event.run_id].completed = position
                case events.RunFailed() if event.run_id in runs.places:
                    runs.places[event.run_id].failed = position
                case _:
                    pass
        groups: dict[str, GroupName] = {}
        return Changes([as_row(run, folded, runs.places[run.run_id], groups) for run in folded.runs.values()], groups)

    def apply(self, connection: Connection, generation: int, changes: Changes) -> None:
        put(connection, self._runs(generation).name, "started", COLUMNS, changes.runs)
        named = [(group, name.cause, name.backend, name.message) for group, name in changes.groups.items()]
        columns = ("failure_group", "cause", "backend", "message")
        put(connection, groups_table(self.prefix(generation)).name, columns[0], columns, sorted(named))

    def failures(
        self, connection: Connection, generation: int, wanted: FailureFilter, limit: int | None
    ) -> list[RecordedFailure]:
        """Return the newest `limit` failed runs that match the filter, sorted by time of failure."""
        found: list[RecordedFailure] = []  # the newest first
        limit = limit if limit is None else max(limit, 0)
        size = PAGE_FAILURES if limit is None or wanted.cause is not None else max(min(limit, PAGE_FAILURES), 1)
        for page in self._pages(connection, generation, wanted, size):
            found += [failure for failure in reversed(page) if wanted(failure)]
            if limit is not None and len(found) >= limit:
                break
        return found[:limit][::-1]

    def groups(
        self, connection: Connection, generation: int, since: datetime | None, until: datetime
    ) -> list[FailureGroup]:
        """Return the groups of failures; see `failure_groups`."""
        named = groups_table(self.prefix(generation))
        return failure_groups(connection, self._runs(generation), named, since, until)

    def summary(
        self, connection: Connection, generation: int, by: str, since: datetime | None, until: datetime | None
    ) -> list[SummaryRow]:
        """Return a summary of the runs; see `summary`."""
        return summary(connection, self._runs(generation), by, since, until)

    def failure_days(
        self, connection: Connection, generation: int, since: datetime | None, until: datetime | None
    ) -> list[tuple[str, str, int]]:
        """Return the number of failures per day and cause; see `failure_days`."""
        return failure_days(connection, self._runs(generation), since, until)

    def find_runs(self, connection: Connection, generation: int, ending: str) -> list[tuple[str, str]]:
        """Return (key, run id) of up to `FOUND_RUNS_MAX` runs whose id ends with `ending`."""
        runs = self._runs(generation)
        begin = (storable(ending) or "")[::-1]
        query = (
            select(STREAMS.c.name, runs.c.id_reversed)
            .join_from(runs, EVENTS, EVENTS.c.position == runs.c.started)
            .join(STREAMS, STREAMS.c.stream == EVENTS.c.stream)
            .where(runs.c.id_reversed >= begin, runs.c.id_reversed < begin + _LAST_CHARACTER)
            .order_by(runs.c.id_reversed)
            .limit(FOUND_RUNS_MAX)
        )
        return [(key_of(row.name), row.id_reversed[::-1]) for row in connection.execute(query)]

    def last_ends(self, connection: Connection, generation: int, per_backend: int) -> list[BackendEnd]:
        """Return the newest outcomes that reflect each backend's health, grouped by backend, oldest first."""
        runs = self._runs(generation)
        ended = select(runs).where(runs.c.tells == 1).order_by(runs.c.ended_at.desc(), runs.c.started.desc())
        first = select(func.min(runs.c.backend))
        found: list[BackendEnd] = []
        backend = connection.scalar(first)
        while backend is not None:  # uses the index per backend: a million runs may have only ten backends
            newest = ended.where(runs.c.backend == backend).limit(per_backend)
            found += ends_of(connection, connection.execute(newest).all()[::-1])
            backend = connection.scalar(first.where(runs.c.backend > backend))
        return found

    def read_all(self, connection: Connection, generation: int) -> None:
        """Read every row, to find those that cannot be read."""
        self.failures(connection, generation, FailureFilter(), None)
        self.groups(connection, generation, None, now())
        self.summary(connection, generation, "cause", None, None)

    def _pages(
        self, connection: Connection, generation: int, wanted: FailureFilter, size: int
    ) -> Iterator[list[RecordedFailure]]:
        """Yield pages of failed runs, newest page first, each page sorted by time of failure.

        A page may contain runs that do not match the filter.
        """
        runs = self._runs(generation)
        conditions = _conditions(runs, wanted)
        newest_first = select(runs).order_by(runs.c.ended_at.desc(), runs.c.started.desc()).limit(size)
        page = connection.execute(newest_first.where(*conditions)).all()
        while page:
            chosen = page if wanted.cause is None else because_of(wanted.cause, connection, page)
            yield list(restored(connection, chosen).folded.failures())
            older = tuple_(runs.c.ended_at, runs.c.started) < (page[-1].ended_at, page[-1].started)
            page = connection.execute(newest_first.where(*conditions, older)).all() if len(page) == size else []

    def _runs(self, generation: int) -> Table:
        return runs_table(self.prefix(generation))


def _conditions(runs: Table, wanted: FailureFilter) -> list[ColumnElement[bool]]:
    """Return the part of the filter that the database can evaluate; every matching failure passes it."""
    return [
        runs.c.failed.is_not(None),
        *([runs.c.ended_at >= to_iso(wanted.since)] if wanted.since is not None else []),
        *([runs.c.ended_at <= to_iso(wanted.until)] if wanted.until is not None else []),
        *([runs.c.backend == storable(wanted.backend)] if wanted.backend is not None else []),
        *([runs.c.code == storable(wanted.code)] if wanted.code is not None else []),
        *([runs.c.answered_by.is_(None)] if wanted.unanswered else []),
    ]


# These queries read no events, and only the columns that they need, because there may be 100,000 rows.
def failure_groups(
    connection: Connection, runs: Table, groups: Table, since: datetime | None, until: datetime
) -> list[FailureGroup]:
    """Return the groups of the failures since a time, most recent failure first."""
    wanted = [runs.c.failed.is_not(None), *([runs.c.ended_at >= to_iso(since)] if since is not None else [])]
    query = (
        select(
            *(runs.c.failure_group, runs.c.conversation, runs.c.ended_at, runs.c.code),
            *(runs.c.answered_by.is_not(None), runs.c.exchange_id),
        )
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
            func.count(case((failed & runs.c.answered_by.is_not(None), runs.c.exchange_id)).distinct()),
            func.sum(runs.c.input_tokens),
            func.sum(runs.c.output_tokens),
            func.count(case((failed, runs.c.exchange_id)).distinct()),
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
                exchanges=numbers[6],
            )
        )
    return SummaryRow.ranked(rows)


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
