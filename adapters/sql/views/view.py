"""Define views: tables built from events, which can be rebuilt at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import BigInteger, Connection, Integer, Table, Text, column, table
from sqlalchemy.types import TypeEngine

from threadledger.domain import events

Taken = tuple[int, events.Event]
"""Event to process, with its position in the log."""

K = TypeVar("K")
C = TypeVar("C")

POSITION: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
"""Type of a position in the log. SQLite's INTEGER has the same size, and only that type can be an alias of the rowid."""

PLAIN_TEXT: TypeEngine[str] = Text(collation="C").with_variant(Text(), "sqlite")
"""Type of text that is compared byte by byte, independent of the server's locale."""

EVENTS = table("events", *map(column, ("position", "stream", "version", "topic", "state", "event_id", "at", "schema")))
STREAMS = table("streams", column("stream"), column("name"))
"""Columns of the log's tables that views use in joins."""


class View(ABC, Generic[K, C]):
    """Define one view. The names of its tables contain its name, version and generation; each rebuild creates a generation.

    Processing a batch of events has three steps: `load`, `fold` and `apply`. The write lock is held only in the last
    step, and errors in the second step are caused by the events, not by the database.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Version of the view. Increase it when the tables or their contents change: the view is then rebuilt automatically."""
    topics: ClassVar[Sequence[str]]
    """Types of events that the view processes; all if empty."""

    @abstractmethod
    def create(self, connection: Connection, generation: int) -> None:
        """Create the tables of a generation."""

    @abstractmethod
    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> K:
        """Return the existing data that these events affect. Read-only."""

    @abstractmethod
    def fold(self, taken: Sequence[Taken], known: K | None) -> C:
        """Compute the changes to write, without database access; `known` is None if the view is empty.

        Raises:
            Exception: an event cannot be processed; any type of exception is allowed.
        """

    @abstractmethod
    def apply(self, connection: Connection, generation: int, changes: C) -> None:
        """Write the changes, without reading."""

    def prefix(self, generation: int) -> str:
        """Return the prefix of the table names of a generation."""
        return prefix(self.name, self.version, generation)


def prefix(name: str, version: int, generation: int) -> str:
    """Return the prefix of the table names of one generation of a view."""
    return f"view_{name}_{version}_{generation}_"


def upsert(connection: Connection, into: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; replace existing ones with the same primary key."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":  # a local import, so that the other dialect is not loaded
        from sqlalchemy.dialects.postgresql import insert as insert_postgresql

        new: Any = insert_postgresql(into)
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        new = insert_sqlite(into)
    key = [each.name for each in into.primary_key]
    changed = {each.name: new.excluded[each.name] for each in into.columns if each.name not in key}
    connection.execute(new.on_conflict_do_update(index_elements=key, set_=changed), rows)


def put(connection: Connection, into: str, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Upsert rows given as tuples in the order of `columns`; plain SQL takes half the time of `upsert`."""
    if not rows:
        return
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    places = ", ".join([mark] * len(columns))
    changed = ", ".join(f"{each} = excluded.{each}" for each in columns if each != key)
    connection.exec_driver_sql(
        f"INSERT INTO {into} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {changed}",
        [tuple(row) for row in rows],
    )
