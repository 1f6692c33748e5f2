"""The view of runs: what became of each, and where its events stand in the log.

What became of a run is said by one fold alone, `fold_exchanges` of the domain. The view keeps what that fold came to and what
is looked for; everything else about a run stays in its events, and is folded from there when it is asked for: nothing is
stored twice, least of all the text of an answer that broke off. For the same reason the cause of a failure is not stored: it
is derived from the facts when they are read, so that a better table explains old failures at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, or_, select, tuple_

from threadledger.domain import (
    RUN_TOPICS,
    BackendEnd,
    FailureFilter,
    RecordedFailure,
    events,
    fold_exchanges,
    key_of,
    to_iso,
)

from .runs import RunPlaces, Runs, as_row, because_of, ends_of, restored, runs_table, storable, touched
from .view import EVENTS, STREAMS, Taken, View, upsert

FOUND_RUNS_MAX = 10
"""Runs with the same ending that are told."""

PAGE_FAILURES = 1_000
"""Failures read at a time."""

_LAST_CHARACTER = "\U0010ffff"

Known = Runs
Changes = Sequence[dict[str, Any]]


class AuditView(View[Known, Changes]):
    """Every run."""

    name = "audit"
    version = 2
    topics = RUN_TOPICS

    def create(self, connection: Connection, generation: int) -> None:
        runs = self._runs(generation)
        runs.metadata.create_all(connection, checkfirst=False)
        # Written out: said by SQLAlchemy's means, it loads the code for both databases, which takes 50 ms.
        by_end = f"{self.prefix(generation)}by_end"
        connection.exec_driver_sql(f"CREATE INDEX {by_end} ON {runs.name} (ended_at, started) WHERE failed IS NOT NULL")

    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> Known:
        runs = self._runs(generation)
        exchange_ids, run_ids = touched(taken)
        begun = select(runs.c.exchange_id).where(runs.c.id_reversed.in_([each[::-1] for each in run_ids]))
        wanted = or_(runs.c.exchange_id.in_(exchange_ids), runs.c.exchange_id.in_(begun))
        return restored(connection, connection.execute(select(runs).where(wanted)).all())

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
        return [as_row(run, folded, runs.places[run.run_id]) for run in folded.runs.values()]

    def apply(self, connection: Connection, generation: int, changes: Changes) -> None:
        upsert(connection, self._runs(generation), changes)

    def failures(
        self, connection: Connection, generation: int, wanted: FailureFilter, limit: int | None
    ) -> list[RecordedFailure]:
        """The failed runs that are wanted, in the order of failing; the newest `limit` of them."""
        found: list[RecordedFailure] = []  # the newest first
        limit = limit if limit is None else max(limit, 0)
        size = PAGE_FAILURES if limit is None or wanted.cause is not None else max(min(limit, PAGE_FAILURES), 1)
        for page in self._pages(connection, generation, wanted, size):
            found += [failure for failure in reversed(page) if wanted(failure)]
            if limit is not None and len(found) >= limit:
                break
        return found[:limit][::-1]

    def find_runs(self, connection: Connection, generation: int, ending: str) -> list[tuple[str, str]]:
        """(key, run id) of the runs whose id ends so, at most `FOUND_RUNS_MAX`."""
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
        """The newest ends of each backend's runs that tell anything about it, oldest first, backend by backend."""
        runs = self._runs(generation)
        ended = select(runs).where(runs.c.tells == 1).order_by(runs.c.ended_at.desc(), runs.c.started.desc())
        first = select(func.min(runs.c.backend))
        found: list[BackendEnd] = []
        backend = connection.scalar(first)
        while backend is not None:  # each by the index: there may be a million runs, and hardly ten backends
            newest = ended.where(runs.c.backend == backend).limit(per_backend)
            found += ends_of(connection, connection.execute(newest).all()[::-1])
            backend = connection.scalar(first.where(runs.c.backend > backend))
        return found

    def _pages(
        self, connection: Connection, generation: int, wanted: FailureFilter, size: int
    ) -> Iterator[list[RecordedFailure]]:
        """Failed runs, the newest page first, within a page in the order of failing. They may be more than are wanted."""
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
    """What the database can tell of the wanted failures. All that are wanted pass."""
    return [
        runs.c.failed.is_not(None),
        *([runs.c.ended_at >= to_iso(wanted.since)] if wanted.since is not None else []),
        *([runs.c.ended_at <= to_iso(wanted.until)] if wanted.until is not None else []),
        *([runs.c.backend == storable(wanted.backend)] if wanted.backend is not None else []),
        *([runs.c.code == storable(wanted.code)] if wanted.code is not None else []),
        *([runs.c.answered_by.is_(None)] if wanted.unanswered else []),
    ]
