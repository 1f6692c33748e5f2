"""Store the positions of a view's generations: its rows in `tracking` and `parked`.

A generation is claimed and advanced by compare-and-set, in the transaction that writes the rows of the view. If several
processes advance it from the same position, only one succeeds. Every process locks the rows of `tracking` before the
tables of the view.
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
# Version 0 is used by the projections of other applications, which share the table.
_OLDER = (
    "SELECT version, generation FROM tracking "
    "WHERE view = ? AND version > 0 AND (version < ? OR (version = ? AND generation < ?)) ORDER BY version, generation"
)
_FORGET = "WHERE view = ? AND version = ? AND generation = ?"


@dataclass(frozen=True, slots=True)
class Place:
    """Represent the position of one generation in the log."""

    generation: int = 1
    position: int = 0
    live: bool = False
    """Whether this generation is read; otherwise it is being built, or was left by a process that died."""
    claimed: bool = False
    """Whether the generation has a row in `tracking`."""


class Places:
    """Store the places of one view in its current version."""

    def __init__(self, database: Database, view: View[Any, Any]) -> None:
        self._database = database
        self._view = view
        self._named = (view.name, view.version)

    def look(self) -> tuple[int, Sequence[Place]]:
        """Return the last position of the log and the places of all generations, oldest first."""
        rows = self._database.query(_LOOK, self._named)
        places = [Place(row[1], row[2], bool(row[3]), claimed=True) for row in rows if row[1] is not None]
        return rows[0][0], places

    def holds(self, connection: Connection, place: Place) -> bool:
        """Return whether the stored position of a place is unchanged."""
        return self._execute(connection, _FIND, (*self._named, place.generation, place.position)).first() is not None

    def advance(self, connection: Connection, place: Place, position: int, live: bool) -> bool:
        """Advance a place, or claim it if it does not exist; return False if another process was first."""
        if not place.claimed:
            return (
                self._execute(connection, _CLAIM, (*self._named, place.generation, position, int(live))).rowcount == 1
            )
        found = (*self._named, place.generation, place.position, int(place.live))
        return self._execute(connection, _ADVANCE, (position, int(live), *found)).rowcount == 1

    def park(self, connection: Connection, generation: int, position: int, reason: str) -> None:
        """Record an event that could not be processed."""
        self._execute(connection, _PARK, (*self._named, generation, position, reason))

    def parked(self, generation: int) -> Sequence[tuple[int, str]]:
        """Return (position, reason) of the events that could not be processed."""
        return [(row[0], row[1]) for row in self._database.query(_PARKED, (*self._named, generation))]

    def drop_older(self, connection: Connection, generation: int) -> None:
        """Drop older generations and older versions of the view; those of newer versions are kept."""
        name, version = self._named
        older = self._execute(connection, _OLDER, (name, version, version, generation)).fetchall()
        for each in older:
            self._drop(connection, each.version, each.generation)

    def drop(self, connection: Connection, generation: int) -> None:
        """Drop a generation that was not completed; a live one is kept."""
        unfinished = f"DELETE FROM tracking {_FORGET} AND live = 0"
        if self._execute(connection, unfinished, (*self._named, generation)).rowcount == 1:
            self._drop(connection, self._view.version, generation)

    def _drop(self, connection: Connection, version: int, generation: int) -> None:
        for notes in ("tracking", "parked"):
            self._execute(connection, f"DELETE FROM {notes} {_FORGET}", (self._view.name, version, generation))
        begin = prefix(self._view.name, version, generation)
        # Sorted, a full-text index precedes its internal tables, which are dropped with it.
        for name in sorted(each for each in inspect(connection).get_table_names() if each.startswith(begin)):
            connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{name}"')

    def _execute(self, connection: Connection, statement: str, values: tuple[Any, ...]) -> CursorResult[Any]:
        return connection.exec_driver_sql(self._database.sql(statement), values)
