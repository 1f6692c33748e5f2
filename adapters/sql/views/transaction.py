"""Execute the statements of views: the same text on SQLite and PostgreSQL, sent by the driver's cursor.

This is the only module of the views that knows what kind of connection a transaction has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import msgspec

from ..connections import Connections, Cursor

T = TypeVar("T")

Columns = Mapping[str, str]
"""Names of columns, each with its type in PostgreSQL."""

PAGE_ROWS = 1_000
"""Number of rows in memory while all rows of a large table are read."""


VALUES_AT_ONCE = 900
"""Maximum number of values in one statement, which every build of SQLite accepts."""


class ViewTransaction:
    """Represent a transaction that is in progress. `?` is the placeholder for a value in its statements."""

    def __init__(self, database: Connections, connection: Any) -> None:
        self.kind = database.kind.name
        self.row_columns = database.kind.row_columns
        self._database = database
        self._connection = connection

    @staticmethod
    def reading(database: Connections, work: Callable[[ViewTransaction], T]) -> T:
        """Run `work` in a read transaction: all its queries see one snapshot."""
        return database.read(lambda connection: work(ViewTransaction(database, connection)))

    @staticmethod
    def writing(database: Connections, work: Callable[[ViewTransaction], T]) -> T:
        """Run `work` in a write transaction. It must be repeatable: it is retried if the connection is lost."""
        return database.write(lambda connection: work(ViewTransaction(database, connection)))

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query, as tuples of the driver."""
        with self._cursor() as cursor:
            cursor.execute(self._database.sql(statement), values)
            found: list[Any] = cursor.fetchall()
            return found

    def each(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query, of which there may be very many, without keeping all of them in memory."""
        return chain.from_iterable(self._connection.pages(statement, PAGE_ROWS, values))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement and return the number of rows that it changed."""
        with self._cursor() as cursor:
            cursor.execute(self._database.sql(statement), values)
            return int(cursor.rowcount)

    def insert(self, table: str, columns: Columns | Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows that do not exist yet; the fastest way that the database offers.

        Columns with their types are sent to PostgreSQL in its own form, which takes a third of the time of texts.
        """
        if not rows:
            return
        names = ", ".join(columns)
        with self._cursor() as cursor:
            if self.kind == "sqlite":
                self._insert_many(cursor, f"INSERT INTO {table} ({names}) VALUES", f"({_marks(columns)})", rows)
                return
            types = list(columns.values()) if isinstance(columns, Mapping) else []
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN{' (FORMAT BINARY)' if types else ''}") as copy:
                if types:
                    copy.set_types(types)
                for row in rows:
                    copy.write_row(row)

    @staticmethod
    def _insert_many(cursor: Cursor, into: str, marks: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows several at a time: SQLite opens every index of the table once for each statement."""
        at_once = max(VALUES_AT_ONCE // len(rows[0]), 1)
        whole = len(rows) - len(rows) % at_once
        together = (tuple(chain.from_iterable(rows[begin : begin + at_once])) for begin in range(0, whole, at_once))
        if whole:
            cursor.executemany(f"{into} {', '.join([marks] * at_once)}", together)
        if whole < len(rows):
            cursor.executemany(f"{into} {marks}", rows[whole:])

    def put(self, table: str, key: Sequence[str], columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows; replace existing ones with the same key."""
        changed = ", ".join(f"{each} = excluded.{each}" for each in columns if each not in key)
        self.merge(table, key, columns, rows, changed)

    def merge(
        self, table: str, key: Sequence[str], columns: Columns, rows: Sequence[Sequence[Any]], changed: str
    ) -> None:
        """Insert rows with different keys; change existing ones with the same key as `changed` says."""
        if not rows:
            return
        into = f"INSERT INTO {table} AS mine ({', '.join(columns)})"
        changing = f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
        if self.kind == "sqlite":
            self.update(f"{into} VALUES ({_marks(columns)}) {changing}", rows)
            return
        # As one JSON text: to build the driver's arrays takes ten times as long.
        values = ", ".join(f"(value ->> {place})::{kind}" for place, kind in enumerate(columns.values()))
        self.execute(
            f"{into} SELECT {values} FROM jsonb_array_elements(?::jsonb) AS given(value) {changing}",
            (msgspec.json.encode(rows).decode(),),
        )

    def update(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once for each row of values."""
        if rows:
            with self._cursor() as cursor:
                self._database.kind.execute_many(cursor, self._database.sql(statement), rows)

    def tables(self, prefix: str) -> list[str]:
        """Return the names of the tables that begin with a prefix, sorted."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, ?) = ? ORDER BY name"
        if self.kind != "sqlite":
            query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND left(tablename, ?) = ?"
        return sorted(name for (name,) in self.rows(query, (len(prefix), prefix)))

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        cursor = self._connection.driver_connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()  # an open query would not let SQLite drop its table


def values_of(kind: str, given: Sequence[Any]) -> tuple[str, Any]:
    """Return a table `wanted` of one column `value` for a FROM clause, and the value of its placeholder.

    A statement with it has the same text for any number of values, which have one type.
    """
    if kind == "sqlite":
        return "json_each(?) AS wanted", json.dumps(given)
    return f"unnest(?::{'bigint' if given and isinstance(given[0], int) else 'text'}[]) AS wanted(value)", list(given)


def pairs_of(kind: str, given: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Return a table `wanted` of pairs of whole numbers for a FROM clause, and the value of its placeholder."""
    source = "json_each(?) AS wanted" if kind == "sqlite" else "jsonb_array_elements(?::jsonb) AS wanted(value)"
    return source, msgspec.json.encode(given).decode()


def pair_columns(kind: str) -> tuple[str, str]:
    """Return the two numbers of a pair in a query with the table of `pairs_of`."""
    if kind == "sqlite":
        return "json_extract(wanted.value, '$[0]')", "json_extract(wanted.value, '$[1]')"
    return "(wanted.value ->> 0)::bigint", "(wanted.value ->> 1)::bigint"


def _marks(columns: Iterable[str]) -> str:
    return ", ".join("?" for _ in columns)
