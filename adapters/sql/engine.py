"""Connections: one engine to read, one to write, on the same pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.engine import URL, make_url

from threadledger.domain import DatabaseMissing, ForeignDatabase, InvalidSettings, StoreUnavailable

BUSY_TIMEOUT_MS = 30_000
"""How long a writer waits for another one before the database counts as locked."""


class Database:
    """A database that is open. `synchronous` is SQLite's: FULL loses nothing that was acknowledged, even at a power cut."""

    def __init__(self, url: str, *, create: bool = True, synchronous: str = "FULL") -> None:
        parsed = _parse(url)
        self.shown_url = parsed.render_as_string(hide_password=True)
        self.path = parsed.database or ""
        if not create and not Path(self.path).is_file():
            raise DatabaseMissing(
                f"there is no database at {self.shown_url}: make one with: threadledger init, or name another with --db"
            )
        self.reader = sqlalchemy.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(self.reader, "connect", lambda connection, _: _prepare(connection, synchronous))
        event.listen(self.reader, "begin", _begin)
        self.writer: Engine = self.reader.execution_options(begin="BEGIN IMMEDIATE")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose queries see one state of the database."""
        with self.named_errors(), self.reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its beginning; committed at the end, rolled back on an error."""
        with self.named_errors(), self.writer.begin() as connection:
            yield connection

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Around any use: what goes wrong is told in our words."""
        try:
            yield
        except exc.IntegrityError:
            raise
        except exc.DatabaseError as error:
            raise self.named(error) from error

    def use_wal(self) -> None:
        """Readers and a writer side by side. Set once the database is known to be ours: it is written into the file."""
        with self.named_errors():
            connection = self.reader.raw_connection()
            try:
                cursor = connection.cursor()
                if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    cursor.execute("PRAGMA journal_mode = WAL")
            except Exception as error:
                raise exc.DatabaseError("PRAGMA journal_mode", None, error) from error
            finally:
                connection.close()

    def named(self, error: exc.DatabaseError) -> ForeignDatabase | StoreUnavailable:
        """A driver's error in our words: what, why, what next."""
        reason = str(error.orig)
        if "not a database" in reason or "file is encrypted" in reason:
            return ForeignDatabase(
                f"{self.shown_url} is not a database (SQLite says: {reason}): nothing was changed; "
                "name another file with --db or THREADLEDGER_DB"
            )
        if "unable to open" in reason and not Path(self.path).parent.is_dir():
            advice = f"make the folder {Path(self.path).parent} first"
        elif "locked" in reason:
            advice = "another process holds it; try again, or find out which"
        else:
            advice = "look at the disk, the path and its permissions"
        return StoreUnavailable(f"{self.shown_url} cannot be used ({reason}): nothing was written; {advice}")

    def size_bytes(self) -> int:
        """Size on disk, the write-ahead log included."""
        return sum(path.stat().st_size for path in (Path(self.path), Path(f"{self.path}-wal")) if path.is_file())

    def close(self) -> None:
        """Close every connection."""
        self.reader.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise InvalidSettings(
            "the database's URL cannot be read: give one like sqlite:///threadledger.db with --db or THREADLEDGER_DB"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        raise InvalidSettings(
            f"databases of kind {parsed.get_backend_name()!r} are not supported by this version: "
            "give a URL like sqlite:///threadledger.db"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidSettings(
            "a database in memory would be another one for each connection: give a file, like sqlite:///threadledger.db"
        )
    return parsed


def _prepare(connection: Any, synchronous: str) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver's own comes too late to hold the lock
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute(f"PRAGMA synchronous = {synchronous}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
