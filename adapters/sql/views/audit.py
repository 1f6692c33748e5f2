"""Maintain the view of runs: the outcome of each, and the positions of its events in the log.

The outcome of a run is computed only by `fold_exchanges` of the domain. The view stores its result and the columns used
in queries. Other facts about a run stay in its events and are folded from there on request, so nothing is stored twice,
least of all the partial text of an interrupted answer. `failures` derives its output, including the cause, from the
facts on each read. Groups and summaries use the cause and group that were derived when the run's events were processed.
The view's version includes the version numbers of both rules, so a new version of a rule rebuilds the view and
reclassifies old failures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select, tuple_

from threadledger.domain import (
    DIAGNOSIS_VERSION,
    RULE_VERSION,
    RUN_TOPICS,
    BackendEnd,
    FailureFilter,
    FailureGroup,
    GroupName,
    RecordedFailure,
    SummaryRow,
    events,
    fold_exchanges,
    key_of,
    to_iso,
)

from . import figures
from .runs import (
    COLUMNS,
    RunPlaces,
    Runs,
    as_row,
    because_of,
    ends_of,
    groups_table,
    restored,
    runs_table,
    storable,
    touched,
)
from .view import EVENTS, STREAMS, Taken, View, put

FOUND_RUNS_MAX = 10
"""Maximum number of runs returned for one ending of the id."""

PAGE_FAILURES = 1_000
"""Maximum number of failures read per query."""

_LAST_CHARACTER = "\U0010ffff"

Known = Runs


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
        runs = known or Runs()
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
        """Return the groups of failures; see `figures.failure_groups`."""
        named = groups_table(self.prefix(generation))
        return figures.failure_groups(connection, self._runs(generation), named, since, until)

    def summary(
        self, connection: Connection, generation: int, by: str, since: datetime | None, until: datetime | None
    ) -> list[SummaryRow]:
        """Return a summary of the runs; see `figures.summary`."""
        return figures.summary(connection, self._runs(generation), by, since, until)

    def failure_days(
        self, connection: Connection, generation: int, since: datetime | None, until: datetime | None
    ) -> list[tuple[str, str, int]]:
        """Return the number of failures per day and cause; see `figures.failure_days`."""
        return figures.failure_days(connection, self._runs(generation), since, until)

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
        """Return the newest ends of each backend's runs that reflect its health, grouped by backend, oldest first."""
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
