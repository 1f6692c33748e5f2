"""Runs between the domain and their table: what is kept of each, and how it is put together again from its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Index, MetaData, Row, SmallInteger, Table, Text, select

from threadledger.domain import (
    BackendEnd,
    Cause,
    CorruptEvent,
    Exchanges,
    RunRecord,
    diagnose,
    events,
    facts_of,
    fold_exchanges,
    from_iso,
    recorded_failure,
    restore,
    tells,
    to_iso,
    whole_text,
)

from .view import EVENTS, PLAIN_TEXT, POSITION, STREAMS, Taken

RowOfRun = Row[Any]

_EVENT = (
    *(EVENTS.c.position, STREAMS.c.name, EVENTS.c.version, EVENTS.c.topic, EVENTS.c.state),
    *(EVENTS.c.event_id, EVENTS.c.at, EVENTS.c.schema),
)


@dataclass
class RunPlaces:
    """Where the events of one run stand: its start, and the last of each kind of end."""

    started: int
    completed: int | None = None
    failed: int | None = None


@dataclass
class Runs:
    """Runs as the fold has them, with the places of their events. Runs of one exchange are here all, or none."""

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
        # Reversed, so that an index finds the end of it.
        Column("id_reversed", PLAIN_TEXT, nullable=False),
        Column("exchange_id", PLAIN_TEXT, nullable=False),
        Column("state", Text, nullable=False),
        Column("ended_at", PLAIN_TEXT),
        Column("backend", Text),
        Column("code", Text),
        Column("next", Text, nullable=False),
        # Whether its end says anything about its backend.
        Column("tells", SmallInteger, nullable=False),
        # Of the whole exchange, the same in all its runs.
        Column("abandoned", SmallInteger, nullable=False),
        Column("answered_by", Text),
    )
    Index(f"{begin}by_id", runs.c.id_reversed)
    Index(f"{begin}by_exchange", runs.c.exchange_id)
    Index(f"{begin}by_backend", runs.c.backend, runs.c.tells, runs.c.ended_at, runs.c.started)
    return runs


def touched(taken: Sequence[Taken]) -> tuple[set[str], set[str]]:
    """The ids of the exchanges that events touch, and of the runs whose exchanges they touch."""
    exchange_ids: set[str] = set()
    run_ids: set[str] = set()
    for _, event in taken:
        match event:
            case events.RunStarted() | events.ExchangeAbandoned():
                exchange_ids.add(_id(event.exchange_id))
            case events.RunCompleted() | events.RunFailed():
                run_ids.add(_id(event.run_id))
            case events.FallbackUsed():
                run_ids.add(_id(event.failed_run_id))
            case _:
                pass
    return exchange_ids, run_ids


def _id(given: object) -> str:
    """An id that can be looked up: text that every database takes."""
    if not isinstance(given, str) or storable(given) != given:
        raise TypeError("an id is not a text")
    return given


def as_row(run: RunRecord, folded: Exchanges, places: RunPlaces) -> dict[str, Any]:
    exchange = folded.exchange_of(run)
    if run.failure is not None:
        recorded_failure(run, exchange)  # what cannot be told when it is read is not taken in
    return {
        "started": places.started,
        "completed": places.completed,
        "failed": places.failed,
        "id_reversed": _id(run.run_id)[::-1],
        "exchange_id": _id(run.exchange_id),
        "state": run.state,
        "ended_at": to_iso(run.ended_at) if run.ended_at is not None else None,
        "backend": storable(run.backend),
        "code": storable(run.failure.code) if run.failure is not None else None,
        "next": run.next,
        "tells": int(run.completed is not None or (run.failure is not None and tells(run.failure))),
        "abandoned": int(exchange.abandoned),
        "answered_by": exchange.answered_by,
    }


def storable(given: object) -> str | None:
    """What is looked for of a value. Two values may come to the same: whoever looks compares what was found."""
    return whole_text(given).replace("\0", "\ufffd") if isinstance(given, str) else None


def restored(connection: Connection, rows: Sequence[RowOfRun]) -> Runs:
    """Runs from their rows and their events, as the fold had them.

    Raises:
        CorruptEvent: an event that was taken in is no longer what it was.
    """
    places = [RunPlaces(row.started, row.completed, row.failed) for row in rows]
    told = events_at(connection, [at for place in places for at in vars(place).values() if at is not None])
    runs = Runs(fold_exchanges(told.values()))
    for row, place in zip(rows, places, strict=True):
        run = runs.folded.runs.get(row.id_reversed[::-1])
        if run is None:
            raise _no_longer_told(row.started, row)
        runs.places[run.run_id] = place
        run.next = row.next
        exchange = runs.folded.exchange_of(run)
        exchange.abandoned, exchange.answered_by = bool(row.abandoned), row.answered_by
    return runs


def ends_of(connection: Connection, rows: Sequence[RowOfRun]) -> list[BackendEnd]:
    """How the calls of ended runs ended, in the order of the rows.

    Raises:
        CorruptEvent: an event that was taken in is no longer what it was.
    """
    told = events_at(connection, [row.failed for row in rows if row.completed is None])
    found = []
    for row in rows:
        event = told.get(row.failed) if row.completed is None else None
        if row.completed is None and not isinstance(event, events.RunFailed):
            raise _no_longer_told(row.failed, row)
        failure = facts_of(event) if isinstance(event, events.RunFailed) else None
        found.append(BackendEnd(row.backend, from_iso(row.ended_at), failure))
    return found


def because_of(cause: Cause, connection: Connection, rows: Sequence[RowOfRun]) -> list[RowOfRun]:
    """Of failed runs, those with a cause: it takes half of what all about each would take."""
    told = events_at(connection, [row.failed for row in rows])
    failed = ((row, told.get(row.failed)) for row in rows)
    return [row for row, event in failed if isinstance(event, events.RunFailed) and diagnose(facts_of(event)) is cause]


def _no_longer_told(position: int, row: RowOfRun) -> CorruptEvent:
    return CorruptEvent(
        f"event {position} of the log no longer tells of the run {row.id_reversed[::-1]}: "
        "find out what was changed with: threadledger db check"
    )


def events_at(connection: Connection, positions: Sequence[int]) -> dict[int, events.Event]:
    """The events at these positions, in the order of the log."""
    query = (
        select(*_EVENT)
        .join_from(EVENTS, STREAMS, STREAMS.c.stream == EVENTS.c.stream)
        .where(EVENTS.c.position.in_(positions))
        .order_by(EVENTS.c.position)
    )
    return {row.position: restore(tuple(row)) for row in connection.execute(query)}
