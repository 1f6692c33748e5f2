"""Define what the upkeep of SQLite and of PostgreSQL does differently: size, integrity, why a database cannot be written.

Only the commands for operators use it, and views that are behind, so a program that asks and appends does not load it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from threadledger.domain.ids import to_iso

from .connections import Connections, Transaction
from .sqlite_files import why_read_only

if TYPE_CHECKING:
    from .sqlite import SQLite


class KindUpkeep(ABC):
    """Define the operations of upkeep that differ between kinds of databases."""

    def __init__(self, database: Connections) -> None:
        self._database = database

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size on disk in bytes, including the write-ahead log."""

    @abstractmethod
    def integrity(self, transaction: Transaction) -> Sequence[str]:
        """Return the problems that the database's own integrity check reports; empty if there are none."""

    @abstractmethod
    def last_position(self, transaction: Transaction) -> int:
        """Return the last position ever assigned, even if its row is missing."""

    @abstractmethod
    def insert(
        self, transaction: Transaction, table: str, columns: Sequence[str], page: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert the rows of a copy, with their numbers, as fast as the database takes them."""

    @abstractmethod
    def number_streams(self, transaction: Transaction) -> None:
        """Set the counters for positions and stream numbers after a copy inserted them explicitly."""

    def why_read_only(self) -> str | None:
        """Return why the database cannot be written; None if it can."""
        reason = self._why_read_only()
        return "it is a replica, which is only read" if reason is None and self._database.is_replica else reason

    @abstractmethod
    def _why_read_only(self) -> str | None:
        """Return why nobody can write to the database."""


class _SQLiteUpkeep(KindUpkeep):
    @property
    def _kind(self) -> SQLite:
        return cast("SQLite", self._database.kind)

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self._kind.path, Path(f"{self._kind.path}-wal")) if path.is_file())

    def integrity(self, transaction: Transaction) -> Sequence[str]:
        found = [str(row[0]) for row in transaction.execute("PRAGMA integrity_check")]
        found += [f"a row of {row[0]} has no parent" for row in transaction.execute("PRAGMA foreign_key_check")]
        return [problem for problem in found if problem != "ok"]

    def last_position(self, transaction: Transaction) -> int:
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
        row = transaction.execute(query).fetchone()
        return int(row[0] or 0) if row is not None else 0

    def insert(
        self, transaction: Transaction, table: str, columns: Sequence[str], page: Sequence[tuple[Any, ...]]
    ) -> None:
        places = ", ".join("?" for _ in columns)
        transaction.execute_many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", page)

    def number_streams(self, transaction: Transaction) -> None:
        """Do nothing: SQLite continues after the largest rowid."""

    def _why_read_only(self) -> str | None:
        if self._kind.is_opened_to_read:
            return "its URL opens it for reading only"
        return why_read_only(self._kind.path)


_WRITABLE = """
SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp(), current_setting('transaction_read_only') = 'on',
    has_table_privilege('tracking', 'INSERT') AND has_schema_privilege(current_schema(), 'CREATE')
"""


class _PostgreSQLUpkeep(KindUpkeep):
    def size_bytes(self) -> int:
        query = (
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
            "WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'm')"
        )
        return int(self._database.query(query)[0][0])

    def integrity(self, transaction: Transaction) -> Sequence[str]:
        """Report pages with a wrong checksum, which PostgreSQL detects on reading if checksums are enabled."""
        query = "SELECT coalesce(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()"
        (failures,) = transaction.execute(query).fetchone()
        return [f"PostgreSQL has found {failures} pages with a wrong checksum"] if failures else []

    def last_position(self, transaction: Transaction) -> int:
        return int(transaction.execute("SELECT position FROM log_head").fetchone()[0])

    def insert(
        self, transaction: Transaction, table: str, columns: Sequence[str], page: Sequence[tuple[Any, ...]]
    ) -> None:
        """Use COPY: one message per row, no statement and no answer. It also sets the numbers of streams."""
        cursor = transaction.driver_connection.cursor()
        with cursor, cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            at = list(columns).index("id") if table == "events" else None  # 16 bytes, which COPY would send as bytes
            for row in page:
                copy.write_row(
                    row if at is None or row[at] is None else (*row[:at], UUID(bytes=row[at]), *row[at + 1 :])
                )

    def number_streams(self, transaction: Transaction) -> None:
        transaction.execute("UPDATE log_head SET position = (SELECT coalesce(max(position), 0) FROM events)")
        transaction.execute(
            "SELECT setval(pg_get_serial_sequence('streams', 'stream'), (SELECT coalesce(max(stream), 1) FROM streams))"
        )

    def _why_read_only(self) -> str | None:
        ((standby, replayed, read_only, permitted),) = self._database.query(_WRITABLE)
        if standby:
            until = f", which has replayed the commits up to {to_iso(replayed)}" if replayed else ""
            return f"this server is a hot standby{until}"
        if read_only:
            return "the server is set to read-only (default_transaction_read_only)"
        return None if permitted else "the database user may not write"


_KINDS: Mapping[str, type[KindUpkeep]] = {"sqlite": _SQLiteUpkeep, "postgresql": _PostgreSQLUpkeep}


def upkeep_of(database: Connections) -> KindUpkeep:
    """Return the operations of upkeep for the kind of a database."""
    return _KINDS[database.kind.name](database)


def status(database: Connections, schema_version: int) -> Mapping[str, Any]:
    """Return the values of `db status`, except those of the views."""
    # Positions have no gaps: counting the rows would read all of them.
    ((events,),) = database.query("SELECT coalesce(max(position), 0) FROM events")
    upkeep = upkeep_of(database)
    return {
        "url": database.shown_url,
        "dialect": database.kind.name,
        "schema_version": schema_version,
        "events": events,
        "size_bytes": upkeep.size_bytes(),
        "read_only": upkeep.why_read_only(),
    }
