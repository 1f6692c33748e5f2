"""Maintain the view of runs: the outcome of each, the positions of its events in the log, and counters by hour.

A row has the outcome of a run and the columns used in queries. Other facts about a run stay in its events and are
folded from there on request, so nothing is stored twice, least of all the partial text of an interrupted answer.
`failures` derives its output, including the cause, from the facts on each read. Groups and summaries use the cause and
group that were derived when the run's events were processed. The view's version includes the version numbers of both
rules, so a new version of a rule rebuilds the view and reclassifies old failures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from threadledger.domain.conversation import RUN_TOPICS, Exchanges, FailureFilter, key_of, stream_of
from threadledger.domain.failures import (
    DIAGNOSIS_VERSION,
    RULE_VERSION,
    BackendEnd,
    FailureGroup,
    GroupName,
    RecordedFailure,
    SummaryRow,
)
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import Row, UnansweredRun, refuse_changed
from threadledger.domain.journal.webhooks import GroupSeen

from . import figures, owners, ratings
from .catching_up import View
from .run_pages import IN_ORDER, Place, newest_of
from .runs import (
    ASIDE,
    COLUMNS,
    INDEXES,
    TABLE,
    Causes,
    FoldedRuns,
    RatedFacts,
    RunRow,
    TakenRun,
    because_of,
    ends_of,
    restored,
    rows_among,
    storable,
    taken_run,
    touched,
)
from .transaction import ViewTransaction

FOUND_RUNS_MAX = 10
"""Maximum number of runs returned for one ending of the id."""

PAGE_FAILURES = 1_000
"""Maximum number of failures read per query."""

CAUSES_MAX = 10_000
"""Maximum number of different failures whose cause is remembered."""

_LAST_CHARACTER = "\U0010ffff"

_COLUMNS = ", ".join(COLUMNS)


@dataclass
class KnownRuns:
    """Hold the stored runs that events affect, and the counters without their exchanges."""

    folded: FoldedRuns
    counters: figures.Counters


@dataclass
class RunChanges:
    """Hold the rows of runs to insert and to replace, the groups by id, and the differences of the counters."""

    new: Sequence[tuple[Any, ...]]
    known: Sequence[tuple[Any, ...]]
    groups: dict[str, GroupName]
    counters: figures.Counters
    places: Sequence[tuple[str, str]]
    """Group and conversation of each failure in the rows, before and after the events."""
    ratings: Sequence[tuple[Any, ...]] = ()
    owners: Sequence[tuple[Any, ...]] = ()


class AuditView(View[KnownRuns, RunChanges]):
    """Store the outcome and event positions of every run, and counters by hour."""

    name = "audit"
    # Two digits each: the version of the tables, of the diagnosis table, and of the normalization rule.
    version = 10_000 * 9 + 100 * DIAGNOSIS_VERSION + RULE_VERSION
    topics = (*RUN_TOPICS, "MessageRated", "ConversationDescribed", "ConversationDeleted")

    def __init__(self) -> None:
        self._causes: Causes = {}

    def read(self, row: Row) -> TakenRun | None:
        return taken_run(row)

    def create(self, transaction: ViewTransaction, generation: int) -> None:
        begin, is_sqlite = self.prefix(generation), transaction.kind == "sqlite"
        # On SQLite, only INTEGER makes a primary key the number of the row.
        differing = {
            "then_started": "" if is_sqlite else ", started"
        }  # the number of a row is in every index of SQLite
        differing |= {"plain": "" if is_sqlite else ' COLLATE "C"', "position": "INTEGER" if is_sqlite else "BIGINT"}
        for statement in (TABLE, *INDEXES, *figures.TABLES, ratings.TABLE, owners.TABLE):
            transaction.execute(statement.format(begin=begin, runs=f"{begin}runs", **differing))

    def load(self, transaction: ViewTransaction, generation: int, taken: Sequence[TakenRun]) -> KnownRuns:
        exchange_ids, run_ids = touched(taken)
        runs = f"{self.prefix(generation)}runs"
        if run_ids:
            reversed_ids = sorted(run_id[::-1] for run_id in run_ids)
            exchange_ids |= {
                row[0] for row in rows_among(transaction, runs, "exchange_id", "id_reversed", reversed_ids)
            }
        found = rows_among(transaction, runs, _COLUMNS, "exchange_id", sorted(exchange_ids)) if exchange_ids else ()
        folded, counters = FoldedRuns(RunRow(*row) for row in sorted(found)), figures.Counters()
        counters.add(folded.exchanges.values(), -1)
        return KnownRuns(folded, counters)

    def fold(self, taken: Sequence[TakenRun], known: KnownRuns | None) -> RunChanges:
        known = known or KnownRuns(FoldedRuns(), figures.Counters())
        folded, groups = known.folded, dict[str, GroupName]()
        places = _places(folded)
        if len(self._causes) > CAUSES_MAX:
            self._causes.clear()
        aside = [each for each in taken if each[3].__class__ in ASIDE]
        runs = [each for each in taken if each[3].__class__ not in ASIDE] if aside else taken
        folded.take(runs, groups, self._causes)
        places |= _places(folded)
        known.counters.add(folded.exchanges.values())
        new, old = folded.rows(taken[0][0] if taken else 0)
        rated = [each for each in aside if each[3].__class__ is RatedFacts]
        given = owners.given(each for each in aside if each[3].__class__ is not RatedFacts)
        return RunChanges(new, old, groups, known.counters, sorted(places), ratings.newest(rated), given)

    def apply(self, transaction: ViewTransaction, generation: int, changes: RunChanges) -> None:
        begin, counters = self.prefix(generation), changes.counters
        counters.add_places(figures.last_failures(transaction, begin, changes.places), -1)
        transaction.insert(f"{begin}runs", COLUMNS, changes.new)
        transaction.put(f"{begin}runs", ("started",), COLUMNS, changes.known)
        named = [(group, name.cause, name.backend, name.message) for group, name in changes.groups.items()]
        transaction.put(f"{begin}groups", ("failure_group",), figures.GROUP_COLUMNS, sorted(named))
        counters.add_places(figures.last_failures(transaction, begin, changes.places))
        counters.write(transaction, begin)
        transaction.put(f"{begin}ratings", ratings.KEY, ratings.COLUMNS, changes.ratings)
        transaction.insert(f"{begin}owners", owners.COLUMNS, changes.owners)

    def failures(
        self, transaction: ViewTransaction, generation: int, wanted: FailureFilter, limit: int | None
    ) -> list[RecordedFailure]:
        """Return the newest `limit` failed runs that match the filter, sorted by time of failure."""
        return self.failure_page(transaction, generation, wanted, limit, None)[0]

    def failure_page(
        self,
        transaction: ViewTransaction,
        generation: int,
        wanted: FailureFilter,
        limit: int | None,
        before: Place | None,
    ) -> tuple[list[RecordedFailure], Place | None]:
        """Return the newest `limit` of them before a place, and the place of the first; see `newest_of`."""
        size = PAGE_FAILURES if limit is None or wanted.cause is not None else max(min(limit + 1, PAGE_FAILURES), 1)
        pages = self._pages(transaction, generation, wanted, size, before)
        matching = ([(each, place) for each, place in page if wanted(each)] for page in pages)
        return newest_of(matching, limit)

    def unanswered(
        self, transaction: ViewTransaction, generation: int, since: datetime | None, limit: int | None
    ) -> list[UnansweredRun]:
        """Return the newest `limit` failed runs without an answer; their events are not read."""
        conditions, given = _conditions(FailureFilter(since=since, unanswered=True))
        query = (
            f"SELECT conversation, exchange_id, ended_at, next FROM {self.prefix(generation)}runs WHERE {conditions} "
            f"ORDER BY ended_at DESC, started DESC{' LIMIT ?' if limit is not None else ''}"
        )
        found = transaction.rows(query, given if limit is None else (*given, limit))
        return [
            UnansweredRun(key_of(stream), exchange_id, from_iso(at), then) for stream, exchange_id, at, then in found
        ]

    def groups(
        self,
        transaction: ViewTransaction,
        generation: int,
        since: datetime | None,
        until: datetime,
        actor: str | None = None,
    ) -> list[FailureGroup]:
        """Return the groups of failures; see `failure_groups`."""
        return figures.failure_groups(transaction, self.prefix(generation), since, until, storable(actor))

    def groups_of_runs(self, transaction: ViewTransaction, generation: int, run_ids: Sequence[str]) -> list[GroupSeen]:
        """Return the groups in which these runs have failed; see `figures.groups_of_runs`."""
        return figures.groups_of_runs(transaction, self.prefix(generation), run_ids)

    def summary(
        self,
        transaction: ViewTransaction,
        generation: int,
        by: str,
        since: datetime | None,
        until: datetime | None,
        actor: str | None = None,
    ) -> list[SummaryRow]:
        """Return a summary of the runs; see `summary`. By model it has the ratings of their answers."""
        begin, actor = self.prefix(generation), storable(actor)
        rows = figures.summary(transaction, begin, by, since, until, actor)
        return ratings.with_ratings(transaction, begin, rows, since, until, actor) if by == "model" else rows

    def failure_days(
        self, transaction: ViewTransaction, generation: int, since: datetime | None, until: datetime | None
    ) -> list[tuple[str, str, int]]:
        """Return the number of failures per day and cause; see `failure_days`."""
        return figures.failure_days(transaction, self.prefix(generation), since, until)

    def find_runs(self, transaction: ViewTransaction, generation: int, ending: str) -> list[tuple[str, str]]:
        """Return (key, run id) of up to `FOUND_RUNS_MAX` runs whose id ends with `ending`."""
        begin = (storable(ending) or "")[::-1]
        query = (
            f"SELECT conversation, id_reversed FROM {self.prefix(generation)}runs "
            f"WHERE id_reversed >= ? AND id_reversed < ? ORDER BY id_reversed LIMIT {FOUND_RUNS_MAX}"
        )
        found = transaction.rows(query, (begin, begin + _LAST_CHARACTER))
        return [(key_of(conversation), id_reversed[::-1]) for conversation, id_reversed in found]

    def exchange(self, transaction: ViewTransaction, generation: int, run_id: str) -> Exchanges:
        """Return all runs of a run's exchange; their events are compared with their leaf hashes."""
        runs = f"{self.prefix(generation)}runs"
        query = (
            f"SELECT {_COLUMNS} FROM {runs} WHERE exchange_id IN "
            f"(SELECT exchange_id FROM {runs} WHERE id_reversed = ?) ORDER BY started"
        )
        found = transaction.rows(query, ((storable(run_id) or "")[::-1],))
        return restored(transaction, [RunRow(*row) for row in found], refuse_changed, whole=True)

    def last_ends(self, transaction: ViewTransaction, generation: int, per_backend: int) -> list[BackendEnd]:
        """Return the newest outcomes that reflect each backend's health, grouped by backend, oldest first."""
        runs = f"{self.prefix(generation)}runs"
        newest = f"SELECT {_COLUMNS} FROM {runs} WHERE backend = ? AND tells = 1 ORDER BY ended_at DESC, started DESC LIMIT ?"
        found: list[BackendEnd] = []
        ((backend,),) = transaction.rows(f"SELECT min(backend) FROM {runs} WHERE tells = 1")
        while backend is not None:  # uses the index per backend: a million runs may have only ten backends
            rows = [RunRow(*row) for row in transaction.rows(newest, (backend, per_backend))]
            found += ends_of(transaction, rows[::-1])
            ((backend,),) = transaction.rows(
                f"SELECT min(backend) FROM {runs} WHERE tells = 1 AND backend > ?", (backend,)
            )
        return found

    def read_all(self, transaction: ViewTransaction, generation: int) -> None:
        """Read every row, to find those that cannot be read."""
        for _page in self._pages(transaction, generation, FailureFilter(), PAGE_FAILURES):
            pass
        self.groups(transaction, generation, None, now())
        self.summary(transaction, generation, "cause", None, None)
        self.summary(transaction, generation, "model", None, None)
        owners.Owners(transaction, self.prefix(generation))

    def _pages(
        self,
        transaction: ViewTransaction,
        generation: int,
        wanted: FailureFilter,
        size: int,
        before: Place | None = None,
    ) -> Iterator[list[tuple[RecordedFailure, Place]]]:
        """Yield pages of failed runs before a place, newest first, with the place of each.

        A page may contain runs that do not match the filter.
        """
        conditions, given = _conditions(wanted)
        source = f"{self.prefix(generation)}runs{IN_ORDER[transaction.kind]}"
        query = f"SELECT {_COLUMNS} FROM {source} WHERE {conditions}"
        is_full = True
        while is_full:
            older, values = (" AND (ended_at, started) < (?, ?)", before) if before is not None else ("", ())
            found = transaction.rows(
                f"{query}{older} ORDER BY ended_at DESC, started DESC LIMIT ?", (*given, *values, size)
            )
            page = [RunRow(*row) for row in found]
            is_full = len(page) == size
            if page:
                places = {row.id_reversed[::-1]: (row.ended_at or "", row.started) for row in page}
                before = places[page[-1].id_reversed[::-1]]
                chosen = page if wanted.cause is None else because_of(wanted.cause, transaction, page)
                failures = list(restored(transaction, chosen).failures())
                yield [(failure, places[failure.run_id]) for failure in reversed(failures)]


def _conditions(wanted: FailureFilter) -> tuple[str, list[Any]]:
    """Return the part of the filter that the database can evaluate; every matching failure passes it."""
    since, until = wanted.since, wanted.until
    given = [
        ("ended_at >= ?", to_iso(since) if since is not None else None),
        ("ended_at <= ?", to_iso(until) if until is not None else None),
        ("backend = ?", storable(wanted.backend)),
        ("code = ?", storable(wanted.code)),
        ("actor = ?", storable(wanted.actor)),
        ("conversation = ?", stream_of(wanted.key) if wanted.key is not None else None),
    ]
    conditions = ["failed IS NOT NULL", *(condition for condition, value in given if value is not None)]
    conditions += ["answered_by IS NULL"] if wanted.unanswered else []
    return " AND ".join(conditions), [value for _, value in given if value is not None]


def _places(folded: FoldedRuns) -> set[tuple[str, str]]:
    failed = (run for run in folded.runs.values() if run.failed is not None)
    return {(run.failure_group or "", run.conversation) for run in failed}
