"""How far the generations of a view have come: its rows in `tracking` and `parked`.

A generation is claimed, and moved on, by compare-and-set: of several at one place only one gets on, in the transaction in
which it writes the rows. The rows of `tracking` are locked before the tables they stand for, by everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, CursorResult, inspect

from ..engine import Database
from .view import View, prefix

_LOOK = (
    "SELECT log.position, t.generation, t.position, t.live "
    "FROM (SELECT coalesce(max(position), 0) AS position FROM events) log "
    "LEFT JOIN tracking t ON t.view = ? AND t.version = ? ORDER BY t.generation"
)
_CLAIM = (
    "INSERT INTO tracking (view, version, generation, position, live) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (view, version, generation) DO NOTHING"
)
_ADVANCE = (
    "UPDATE tracking SET position = ?, live = ? "
    "WHERE view = ? AND version = ? AND generation = ? AND position = ? AND live = ?"
)
_FIND = "SELECT 1 FROM tracking WHERE view = ? AND version = ? AND generation = ? AND position = ?"
_PARK = "INSERT INTO parked (view, version, generation, position, reason) VALUES (?, ?, ?, ?, ?)"
_PARKED = "SELECT position, reason FROM parked WHERE view = ? AND version = ? AND generation = ? ORDER BY position"
# Version 0 is that of other applications' projections, which share the table.
_OLDER = (
    "SELECT version, generation FROM tracking "
    "WHERE view = ? AND version > 0 AND (version < ? OR (version = ? AND generation < ?)) ORDER BY version, generation"
)
_FORGET = "WHERE view = ? AND version = ? AND generation = ?"


@dataclass(frozen=True, slots=True)
class Place:
    """How far one generation has come."""

    generation: int = 1
    position: int = 0
    live: bool = False
    """Whether it is the one that is read; otherwise it is being built, or was left behind by a process that died."""
    claimed: bool = False
    """Whether it is there at all."""


class Places:
    """The places of one view in its present version."""

    def __init__(self, database: Database, view: View[Any, Any]) -> None:
        self._database = database
        self._view = view
        self._named = (view.name, view.version)

    def look(self) -> tuple[int, Sequence[Place]]:
        """The end of the log, and the places of all generations, the oldest first."""
        rows = self._database.query(_LOOK, self._named)
        places = [Place(row[1], row[2], bool(row[3]), claimed=True) for row in rows if row[1] is not None]
        return rows[0][0], places

    def holds(self, connection: Connection, place: Place) -> bool:
        """Whether a place is still as it was found."""
        return self._execute(connection, _FIND, (*self._named, place.generation, place.position)).first() is not None

    def advance(self, connection: Connection, place: Place, position: int, live: bool) -> bool:
        """Move a place on, or claim it where it is not there; False where somebody else was first."""
        if not place.claimed:
            return (
                self._execute(connection, _CLAIM, (*self._named, place.generation, position, int(live))).rowcount == 1
            )
        found = (*self._named, place.generation, place.position, int(place.live))
        return self._execute(connection, _ADVANCE, (position, int(live), *found)).rowcount == 1

    def park(self, connection: Connection, generation: int, position: int, reason: str) -> None:
        """Note an event that could not be taken in."""
        self._execute(connection, _PARK, (*self._named, generation, position, reason))

    def parked(self, generation: int) -> Sequence[tuple[int, str]]:
        """(position, reason) of the events that could not be taken in."""
        return [(row[0], row[1]) for row in self._database.query(_PARKED, (*self._named, generation))]

    def drop_older(self, connection: Connection, generation: int) -> None:
        """Drop what this generation takes the place of; what a newer version of this program made is left alone."""
        name, version = self._named
        older = self._execute(connection, _OLDER, (name, version, version, generation)).fetchall()
        for each in older:
            self._drop(connection, each.version, each.generation)

    def drop(self, connection: Connection, generation: int) -> None:
        """Drop a generation that came to nothing; one that is read is kept."""
        unfinished = f"DELETE FROM tracking {_FORGET} AND live = 0"
        if self._execute(connection, unfinished, (*self._named, generation)).rowcount == 1:
            self._drop(connection, self._view.version, generation)

    def _drop(self, connection: Connection, version: int, generation: int) -> None:
        for notes in ("tracking", "parked"):
            self._execute(connection, f"DELETE FROM {notes} {_FORGET}", (self._view.name, version, generation))
        begin = prefix(self._view.name, version, generation)
        # In this order a full-text index comes before the tables it is made of, which go with it.
        for name in sorted(each for each in inspect(connection).get_table_names() if each.startswith(begin)):
            connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{name}"')

    def _execute(self, connection: Connection, statement: str, values: tuple[Any, ...]) -> CursorResult[Any]:
        return connection.exec_driver_sql(self._database.sql(statement), values)
