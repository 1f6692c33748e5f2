"""Convert runs between the domain and their table: store a row for each, and restore it from the row and its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from math import isfinite
from typing import Any

from sqlalchemy import Column, Connection, Double, Index, MetaData, Row, SmallInteger, Table, Text, select

from threadledger.domain.conversation import (
    CONVERSATION,
    Exchanges,
    RunRecord,
    events,
    fold_exchanges,
    recorded_failure,
)
from threadledger.domain.errors import CorruptEvent
from threadledger.domain.failures import BackendEnd, Cause, Failure, GroupName, concerns_backend, diagnose, whole_text
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal import restore

from .catching_up import EVENTS, PLAIN_TEXT, POSITION, STREAMS, Taken

RowOfRun = Row[Any]

TOKENS_MAX = 2**53
"""Maximum number of tokens accepted for a run; larger values are stored as 0."""

_EVENT = (
    *(EVENTS.c.position, STREAMS.c.name, EVENTS.c.version, EVENTS.c.topic, EVENTS.c.state),
    *(EVENTS.c.text_id, EVENTS.c.at, EVENTS.c.schema),
)


@dataclass
class RunPlaces:
    """Hold the positions of one run's events: its start, and the last event of each kind of end."""

    started: int
    completed: int | None = None
    failed: int | None = None


@dataclass
class FoldedRuns:
    """Hold folded runs with the positions of their events. Contains all runs of an exchange, or no run of it."""

    folded: Exchanges = field(default_factory=Exchanges)
    places: dict[str, RunPlaces] = field(default_factory=dict)


@cache
def runs_table(begin: str) -> Table:
    runs = Table(
        f"{begin}runs",
        MetaData(),
        Column("started", POSITION, primary_key=True, autoincrement=False),
        Column("completed", POSITION),
        Column("failed", POSITION),
        # Reversed, so that an index finds ids by their ending.
        Column("id_reversed", PLAIN_TEXT, nullable=False),
        Column("exchange_id", PLAIN_TEXT, nullable=False),
        Column("conversation", PLAIN_TEXT, nullable=False),
        Column("started_at", PLAIN_TEXT, nullable=False),
        Column("ended_at", PLAIN_TEXT),
        Column("backend", Text),
        Column("model", Text),
        Column("profile", Text),
        Column("code", Text),
        # Derived from the facts; the view's version includes the version numbers of the rules.
        Column("cause", Text),
        Column("failure_group", Text),
        Column("seconds", Double),
        Column("input_tokens", POSITION, nullable=False),
        Column("output_tokens", POSITION, nullable=False),
        Column("next", Text, nullable=False),
        # Whether its end reflects the health of its backend.
        Column("tells", SmallInteger, nullable=False),
        # Values of the whole exchange, the same in all its runs.
        Column("abandoned", SmallInteger, nullable=False),
        Column("answered_by", Text),
    )
    Index(f"{begin}by_id", runs.c.id_reversed)
    Index(f"{begin}by_exchange", runs.c.exchange_id)
    Index(f"{begin}by_backend", runs.c.backend, runs.c.tells, runs.c.ended_at, runs.c.started)
    return runs


@cache
def groups_table(begin: str) -> Table:
    """Return the table with the cause, backend and message of each failure group."""
    texts = [Column(name, Text, nullable=False) for name in ("cause", "backend", "message")]
    return Table(f"{begin}groups", MetaData(), Column("failure_group", PLAIN_TEXT, primary_key=True), *texts)


def touched(taken: Sequence[Taken]) -> tuple[set[str], set[str]]:
    """Return the ids of exchanges that events refer to, and of runs whose exchanges they refer to.

    Runs that start in these events are omitted, because their exchanges are already included.
    """
    exchange_ids: set[str] = set()
    run_ids: set[str] = set()
    begun: set[str] = set()
    for _, event in taken:
        match event:
            case events.RunStarted():
                exchange_ids.add(_id(event.exchange_id))
                begun.add(_id(event.run_id))
            case events.RunCompleted() | events.RunFailed():
                run_ids.add(_id(event.run_id))
            case events.ExchangeAbandoned():
                exchange_ids.add(_id(event.exchange_id))
            case events.FallbackUsed():
                run_ids.add(_id(event.failed_run_id))
            case _:
                pass
    return exchange_ids, run_ids - begun


def _id(given: object) -> str:
    """Return the id if it is text that every database can store and look up; else raise `TypeError`."""
    if not isinstance(given, str) or storable(given) != given:
        raise TypeError("an id is not text that every database can store")
    return given


COLUMNS = (
    *(
        "started",
        "completed",
        "failed",
        "id_reversed",
        "exchange_id",
        "conversation",
        "started_at",
        "ended_at",
        "backend",
    ),
    *(
        "model",
        "profile",
        "code",
        "cause",
        "failure_group",
        "seconds",
        "input_tokens",
        "output_tokens",
        "next",
        "tells",
    ),
    *("abandoned", "answered_by"),
)
"""Columns of a row, in the order of its values."""


def as_row(run: RunRecord, folded: Exchanges, places: RunPlaces, groups: dict[str, GroupName]) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for a run, and add the group of a failed run to `groups`."""
    exchange = folded.exchange_of(run)
    failure, completed = run.failure, run.completed
    code = cause = group = None
    if failure is not None:
        cause = recorded_failure(run, exchange).cause  # raises if the run could not be read back later
        name = GroupName.of(failure, run.backend, cause)
        code, group = storable(failure.code), name.id
        groups[group] = name
    return (
        places.started,
        places.completed,
        places.failed,
        _id(run.run_id)[::-1],
        _id(run.exchange_id),
        CONVERSATION + run.key,
        to_iso(run.started_at),
        to_iso(run.ended_at) if run.ended_at is not None else None,
        storable(run.backend),
        storable(run.model),
        storable(run.profile_hash),
        code,
        cause.value if cause is not None else None,
        group,
        _seconds(run.duration_seconds),
        _tokens(completed, "input_tokens"),
        _tokens(completed, "output_tokens"),
        run.next,
        int(completed is not None or (failure is not None and concerns_backend(failure))),
        int(exchange.abandoned),
        exchange.answered_by,
    )


def _seconds(given: object) -> float | None:
    return float(given) if isinstance(given, (int, float)) and isfinite(given) else None


def _tokens(completed: events.RunCompleted | None, name: str) -> int:
    """Return the provider's token count, or 0 if it is missing, invalid or too large for a database."""
    given = completed.usage.get(name) if completed is not None else None
    return given if isinstance(given, int) and 0 <= given <= TOKENS_MAX else 0


@lru_cache(maxsize=1_024)
def _whole(given: str) -> str:
    return whole_text(given).replace("\0", "\ufffd")


def storable(given: object) -> str | None:
    """Return the search key for a value; collisions are possible, so callers must compare the matches."""
    return _whole(given) if isinstance(given, str) else None


def restored(connection: Connection, rows: Sequence[RowOfRun]) -> FoldedRuns:
    """Restore folded runs from their rows and events.

    Raises:
        CorruptEvent: an event has changed since it was processed.
    """
    places = [RunPlaces(row.started, row.completed, row.failed) for row in rows]
    by_position = events_at(connection, [at for place in places for at in vars(place).values() if at is not None])
    runs = FoldedRuns(fold_exchanges(by_position.values()))
    for row, place in zip(rows, places, strict=True):
        run = runs.folded.runs.get(row.id_reversed[::-1])
        if run is None:
            raise _event_changed(row.started, row)
        runs.places[run.run_id] = place
        run.next = row.next
        exchange = runs.folded.exchange_of(run)
        exchange.abandoned, exchange.answered_by = bool(row.abandoned), row.answered_by
    return runs


def ends_of(connection: Connection, rows: Sequence[RowOfRun]) -> list[BackendEnd]:
    """Return the outcomes of ended runs, in the order of the rows.

    Raises:
        CorruptEvent: an event has changed since it was processed.
    """
    by_position = events_at(connection, [row.failed for row in rows if row.completed is None])
    found = []
    for row in rows:
        event = by_position.get(row.failed) if row.completed is None else None
        if row.completed is None and not isinstance(event, events.RunFailed):
            raise _event_changed(row.failed, row)
        failure = Failure.of(event) if isinstance(event, events.RunFailed) else None
        found.append(BackendEnd(row.backend, from_iso(row.ended_at), failure))
    return found


def because_of(cause: Cause, connection: Connection, rows: Sequence[RowOfRun]) -> list[RowOfRun]:
    """Return the failed runs with this cause; takes half the time of restoring them completely."""
    by_position = events_at(connection, [row.failed for row in rows])
    failed = ((row, by_position.get(row.failed)) for row in rows)
    return [
        row for row, event in failed if isinstance(event, events.RunFailed) and diagnose(Failure.of(event)) is cause
    ]


def _event_changed(position: int, row: RowOfRun) -> CorruptEvent:
    return CorruptEvent(
        f"event {position} of the log no longer belongs to the run {row.id_reversed[::-1]}: "
        "find the changed events with: threadledger db check"
    )


def events_at(connection: Connection, positions: Sequence[int]) -> dict[int, events.Event]:
    """Return the events at these positions, in log order."""
    query = (
        select(*_EVENT)
        .join_from(EVENTS, STREAMS, STREAMS.c.stream == EVENTS.c.stream)
        .where(EVENTS.c.position.in_(positions))
        .order_by(EVENTS.c.position)
    )
    return {
        position: restore((position, name, version, topic, state.encode(), event_id or "", at, schema))
        for position, name, version, topic, state, event_id, at, schema in connection.execute(query)
    }
