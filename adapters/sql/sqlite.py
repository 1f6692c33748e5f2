"""Support SQLite: one file, one writer at a time, and concurrent readers (WAL)."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from threadledger.domain.errors import DatabaseMissing, InvalidSettings
from threadledger.domain.faces import on_first_use
from threadledger.domain.journal import StoredRow

from .connections import (
    LOCK_TIMEOUT_SECONDS,
    AllInUse,
    Cursor,
    Kind,
    Move,
    Overtaken,
    Transaction,
    leaves_from,
    split_id,
)
from .file_url import FileURL

CACHE_KIB = 8 * 1024
"""Page cache of one connection, in KiB. It halves the time to read a conversation of 1,000 messages again."""

_POSITION = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
_BEGIN_STREAM = "INSERT INTO streams (name, version, state_schema, snapshot, due_at) VALUES (?, ?, ?, ?, ?)"
_ADVANCE_STREAM = (
    "UPDATE streams SET version = ?, state_schema = ?, snapshot = ?, due_at = ? WHERE stream = ? AND version = ?"
)
_INSERT_EVENT = (
    "INSERT INTO events (position, stream, version, topic, schema, at, id, text_id, leaf, state) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT))"
)

_note: Callable[[], Callable[..., None]] = on_first_use(__name__, "notes", "note")

FILE_NAME_BYTES_MAX = 255
"""Maximum length of the name of a file on the usual file systems, in bytes."""

CONNECTIONS_MAX = 15
"""Maximum number of open connections of one program to a file."""

CONNECTIONS_KEPT_MAX = 5
"""Maximum number of connections that the pool keeps for their next use."""

CONNECTION_TIMEOUT_SECONDS = 30.0
"""Maximum time that a thread waits for a connection, in seconds."""

SWITCH_PAUSE_SECONDS = 0.02
"""Pause between attempts to switch a new file to a write-ahead log, in seconds."""


class SQLite(Kind):
    """Implement `Kind` for a SQLite file. `synchronous` FULL keeps every acknowledged write, even after a power failure."""

    name = "sqlite"
    placeholder = "?"
    payload = "CAST(e.state AS BLOB)"
    event_id = "coalesce(e.id, e.text_id)"
    row_columns = f"e.position, s.name, e.version, e.topic, {payload}, {event_id}, e.at, e.schema"
    usual_columns = f"{payload}, CAST(e.at AS BLOB), e.position, e.id, e.leaf"
    head_columns = "CAST(s.snapshot AS BLOB), CAST(s.due_at AS BLOB)"
    generation = (
        "CASE WHEN substr(s.snapshot, 1, 14) = '{\"generation\":' THEN CAST(substr(s.snapshot, 15, 20) AS INTEGER) "
        "WHEN substr(s.snapshot, 1, 10) = '{\"deleted\"' THEN -1 ELSE 0 END"
    )
    place_in = "instr"
    begin_read = "BEGIN"
    begin_write = "BEGIN IMMEDIATE"  # a deferred BEGIN fails at once if it writes after another writer committed
    locks_when_writing = True
    lock_heads = ""
    others_wrote = "PRAGMA data_version"
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    columns = "SELECT name FROM pragma_table_info(?)"

    def __init__(self, url: FileURL, *, create: bool, upgrade: bool, synchronous: str) -> None:
        if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
            raise InvalidSettings(
                "an in-memory database is separate for each connection: use a file, like sqlite:///threadledger.db"
            )
        self._url = url
        self._is_address = url.is_address
        path = Path(url.database)
        if self._is_address:
            from .addresses import path_in_address

            path = path_in_address(url.database)
        if "\0" in str(path):
            raise InvalidSettings(f"no file can be named {url}, which contains a NUL: choose another with --db")
        try:
            is_name = bool(os.fsencode(path)) and len(os.fsencode(path.name)) <= FILE_NAME_BYTES_MAX
        except UnicodeEncodeError:  # half a character
            is_name = False
        if not is_name:
            raise InvalidSettings(
                f"no file can be named {path.name[:60]!a}: choose a name of at most {FILE_NAME_BYTES_MAX} bytes with --db"
            )
        self.path = path.absolute()  # the working folder may change
        self._path = str(self.path)
        self._upgrade = upgrade
        self._synchronous = synchronous
        self._creates = create and not self._is_address
        self._opened: tuple[int, int] | None = None
        """Identity of the file that was opened: its path may later name another one."""
        self._wal_path = f"{self.path.resolve()}-wal"
        self._wal: tuple[int, int] | None = None
        self._in_wal = False
        self.attached: str | None = None
        """Address of another file, whose tables each connection finds if its own file does not have them."""
        if not create and not self.path.is_file():
            raise DatabaseMissing(
                f"there is no database at {url}: create one with: threadledger init, or choose another with --db"
            )

    @property
    def steps(self) -> Sequence[Sequence[str]]:
        from .sqlite_schema import STEPS

        return STEPS

    @property
    def swap(self) -> Sequence[str]:
        from .sqlite_schema import SWAP

        return SWAP

    def pool(self, on_connect: Sequence[Callable[[Any], None]]) -> FilePool:
        place, options = self._url.arguments()
        options |= {"timeout": LOCK_TIMEOUT_SECONDS, "uri": True}
        return FilePool(lambda: self._connected(place, options, on_connect))

    def prepare_file(self, cursor: Cursor) -> None:
        """Switch the file to WAL mode, so that readers and a writer do not block each other."""
        until = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
                cursor.execute("SELECT 1 FROM sqlite_master").fetchall()  # ends the read lock that the switch may leave
            except sqlite3.OperationalError as error:
                # SQLite does not wait for the lock on this switch: another process is opening the new file.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(SWITCH_PAUSE_SECONDS)
        self._in_wal = True

    def check_file(self, commit: str = "") -> None:
        lost = str(self._url) if self._opened is not None and identity(self._path) != self._opened else None
        if commit == "after" and self._in_wal and lost is None:
            before, self._wal = self._wal, identity(self._wal_path)
            if self._wal is None or (before is not None and before != self._wal):
                lost = f"the write-ahead log {self._wal_path}"
        if lost is not None:
            from .sqlite_files import replaced

            raise replaced(lost, commit)

    def lock_schema(self, transaction: Transaction) -> None:
        """Do nothing: the transaction already holds the write lock."""

    def append(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        end = self.end
        if end is None:
            end = next(iter(cursor.execute(_POSITION).fetchone() or ()), 0)
        first = end + 1
        numbers = {move.name: self._advance(cursor, move) for move in moves}
        cursor.executemany(
            _INSERT_EVENT,
            [
                (
                    position,
                    numbers[str(row.originator_id)],
                    row.originator_version,
                    row.topic,
                    row.schema,
                    row.at,
                    *split_id(row.event_id),
                    leaf,
                    row.state,
                )
                for position, (row, leaf) in enumerate(zip(rows, leaves_from(first, rows), strict=True), first)
            ],
        )
        if any(row.idempotency_key is not None or row.addresses or row.blobs for row in rows):
            _note()(cursor, rows, numbers)
        return list(range(first, first + len(rows)))

    @staticmethod
    def _advance(cursor: Cursor, move: Move) -> int:
        head = move.head
        if move.found is None:
            cursor.execute(_BEGIN_STREAM, (move.name, head.version, head.state_schema, head.state, head.due_at))
            return int(cursor.lastrowid)
        number = move.found.number
        cursor.execute(
            _ADVANCE_STREAM, (head.version, head.state_schema, head.state, head.due_at, number, move.expected)
        )
        if cursor.rowcount != 1:
            raise Overtaken
        return number

    @property
    def is_opened_to_read(self) -> bool:
        """Return whether the URL is an address of SQLite that opens the file for reading only."""
        return self._is_address and (self._url.query.get("mode") == "ro" or "immutable" in self._url.query)

    def explain(self, error: BaseException) -> tuple[str, str]:
        from .sqlite_files import explain

        return explain(error, self.path)

    def _connected(
        self, place: str, options: Mapping[str, Any], on_connect: Sequence[Callable[[Any], None]]
    ) -> sqlite3.Connection:
        """Connect, and remember the identity of the file, which must not change before it is opened."""
        if not self._upgrade and not self._is_address:  # an address has its own options
            from .sqlite_files import address_for_reading

            place = address_for_reading(self.path)
        elif self._creates and not self.path.exists():
            with suppress(OSError):  # as `private_files.ensure_private`, which need not be loaded
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        before = identity(self.path)
        connection: sqlite3.Connection = sqlite3.connect(place, **options)
        self._opened, self._wal = self._opened or before or identity(self.path), None
        try:
            self._prepare(connection)
            for each in on_connect:
                each(connection)
        except BaseException:  # the error holds the connection, which would keep its locks
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.isolation_level = None  # BEGIN is sent explicitly: the driver sends it too late to hold the lock
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_SECONDS * 1000:.0f}")
        cursor.execute(f"PRAGMA synchronous = {self._synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if self.attached is not None:
            cursor.execute("ATTACH ? AS attached", (self.attached,))
        cursor.close()


class FilePool:
    """Keep the connections of one file for their next use; threads may share it."""

    driver: Any = sqlite3

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._room = threading.Condition()
        self._idle: list[sqlite3.Connection] = []
        self._open = 0
        """Number of connections that are idle or in use."""
        self.era = 0
        """Number of times that the pool was disposed of."""

    def check_out(self) -> PooledConnection:
        with self._room:
            while not self._idle and self._open >= CONNECTIONS_MAX:
                if not self._room.wait(CONNECTION_TIMEOUT_SECONDS):
                    raise AllInUse
            era = self.era
            if self._idle:
                return PooledConnection(self, self._idle.pop(), era)
            self._open += 1
        try:
            return PooledConnection(self, self._connect(), era)
        except BaseException:
            self._leave(era)
            raise

    def in_use(self) -> int:
        return self._open - len(self._idle)

    def dispose(self, close: bool = True) -> None:
        if not close:  # in a forked child, where no thread is left to release the lock
            self._room = threading.Condition()
        with self._room:
            idle, self._idle, self._open = self._idle, [], 0
            self.era += 1
            self._room.notify_all()
        for connection in idle if close else ():
            connection.close()

    def take_back(self, connection: sqlite3.Connection, era: int) -> None:
        """Keep a connection that is no longer used, or close it."""
        try:
            connection.rollback()
            with self._room:
                if era == self.era and len(self._idle) < CONNECTIONS_KEPT_MAX:
                    self._idle.append(connection)
                    self._room.notify()
                    return
        except sqlite3.Error:  # it cannot be used again
            pass
        self.discard(connection, era)

    def discard(self, connection: sqlite3.Connection, era: int) -> None:
        """Close a connection that is no longer used."""
        self._leave(era)
        connection.close()

    def _leave(self, era: int) -> None:
        with self._room:
            if era == self.era:
                self._open -= 1
                self._room.notify()


class PooledConnection:
    """Represent a connection that was checked out of a pool."""

    __slots__ = ("_era", "_pool", "driver_connection")

    def __init__(self, pool: FilePool, driver_connection: sqlite3.Connection, era: int) -> None:
        self._pool: FilePool | None = pool
        self.driver_connection = driver_connection
        self._era = era

    def cursor(self) -> sqlite3.Cursor:
        return self.driver_connection.cursor()

    def close(self) -> None:
        """Return the connection to the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.take_back(self.driver_connection, self._era)

    def invalidate(self) -> None:
        """Close the connection itself, so that it is not used again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.discard(self.driver_connection, self._era)


def identity(path: Path | str) -> tuple[int, int] | None:
    """Return device and inode of a file; None if there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, and called around each commit
    except OSError:
        return None
    return found.st_dev, found.st_ino
