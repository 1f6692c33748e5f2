"""What a view is: tables that are made from events, and can be made from them again at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import BigInteger, Connection, Integer, Table, Text, column, table
from sqlalchemy.types import TypeEngine

from threadledger.domain import events

Taken = tuple[int, events.Event]
"""An event that is taken in, with its position in the log."""

K = TypeVar("K")
C = TypeVar("C")

POSITION: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
"""A position in the log. SQLite's INTEGER is as large, and only under that name it can be the row's own number."""

PLAIN_TEXT: TypeEngine[str] = Text(collation="C").with_variant(Text(), "sqlite")
"""Text that is compared byte by byte, whatever the language of the server is."""

EVENTS = table("events", *map(column, ("position", "stream", "version", "topic", "state", "event_id", "at", "schema")))
STREAMS = table("streams", column("stream"), column("name"))
"""The parts of the log that views are read together with."""


class View(ABC, Generic[K, C]):
    """One view. Its tables carry its name, its version and a generation: each rebuild makes a generation of its own.

    Taking in a batch of events has three steps, so that the write lock is held for the last one only, and so that what
    goes wrong in the second is the events' fault, not the database's.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised with each change of the tables or of what is written into them: the view is then built anew by itself."""
    topics: ClassVar[Sequence[str]]
    """The events that it takes in; all where it is empty."""

    @abstractmethod
    def create(self, connection: Connection, generation: int) -> None:
        """Make the tables of a generation."""

    @abstractmethod
    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> K:
        """What the view knows already of what these events touch. Reads only."""

    @abstractmethod
    def fold(self, taken: Sequence[Taken], known: K | None) -> C:
        """What is to be written. Without a database; `known` is None where the view is empty.

        Raises:
            Exception: of any kind, where an event cannot be taken in.
        """

    @abstractmethod
    def apply(self, connection: Connection, generation: int, changes: C) -> None:
        """Write it. Writes only."""

    def prefix(self, generation: int) -> str:
        """What the names of a generation's tables begin with."""
        return prefix(self.name, self.version, generation)


def prefix(name: str, version: int, generation: int) -> str:
    """What the names of the tables of one generation of a view begin with."""
    return f"view_{name}_{version}_{generation}_"


def upsert(connection: Connection, into: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or replace those with the same primary key."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":  # imported where it is used: the other one need not be loaded
        from sqlalchemy.dialects.postgresql import insert as insert_postgresql

        new: Any = insert_postgresql(into)
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        new = insert_sqlite(into)
    key = [each.name for each in into.primary_key]
    changed = {each.name: new.excluded[each.name] for each in into.columns if each.name not in key}
    connection.execute(new.on_conflict_do_update(index_elements=key, set_=changed), rows)


def put(connection: Connection, into: str, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The same, for rows whose values come in the order of `columns`, at half the price: the statement is our own."""
    if not rows:
        return
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    places = ", ".join([mark] * len(columns))
    changed = ", ".join(f"{each} = excluded.{each}" for each in columns if each != key)
    connection.exec_driver_sql(
        f"INSERT INTO {into} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {changed}",
        [tuple(row) for row in rows],
    )
