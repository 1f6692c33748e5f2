"""Define the operations that differ between kinds of databases; `sqlite.py` and `postgres.py` implement them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Engine

from threadledger.domain import StoredRow, StoreUnavailable, StreamHead

LOCK_TIMEOUT_SECONDS = 30.0
"""Maximum time that a writer waits for a lock before the write fails, in seconds."""

Cursor = Any
"""Cursor of the DB-API 2.0 driver. Appends and long reads use it directly, because SQLAlchemy takes four times as long."""


@dataclass(frozen=True, slots=True)
class FoundHead:
    """Represent the stored row of a stream: its number and its head."""

    number: int
    head: StreamHead


@dataclass(frozen=True, slots=True)
class Move:
    """Represent the update of one stream to a new version; `found` is None for a new stream."""

    name: str
    found: FoundHead | None
    head: StreamHead

    @property
    def expected(self) -> int:
        """Return the version that the stream must still have."""
        return self.found.head.version if self.found is not None else 0


class ConnectionLost(StoreUnavailable):
    """Raised when the connection is lost; whether a pending write was stored must be checked."""


class Overtaken(Exception):
    """Raised when another writer changed the stream between reading its head and writing."""


class Kind(ABC):
    """Define the operations of one kind of database."""

    name: str
    """SQLAlchemy's name for this kind."""
    placeholder: str
    """Placeholder for a value in the driver's SQL."""
    steps: Sequence[Sequence[str]]
    """Numbered steps of the schema: the statements of each migration."""
    begin_read: str
    begin_write: str
    locks_when_writing: bool
    """Whether a write transaction holds the database's only write lock from its beginning."""
    lock_heads: str
    """Clause at the end of a query for heads that locks the rows until the transaction ends."""

    @abstractmethod
    def engine(self) -> Engine:
        """Return an engine with autocommit connections; BEGIN and COMMIT are sent explicitly."""

    @abstractmethod
    def prepare_file(self, engine: Engine) -> None:
        """Apply settings that are stored in the database itself; called after its schema has been checked."""

    @abstractmethod
    def lock_schema(self, connection: Connection) -> None:
        """Prevent other processes from creating or upgrading tables until the transaction ends."""

    @abstractmethod
    def append(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        """Advance the streams and insert the rows atomically; return the rows' positions.

        Raises:
            Overtaken: a stream no longer has its expected version.
        """

    @abstractmethod
    def explain(self, error: BaseException) -> tuple[str, str]:
        """Return (category, advice) for a driver's error; the category is `foreign`, `lost` or `unusable`."""

    @abstractmethod
    def size_bytes(self, connection: Connection) -> int:
        """Return the size of the database on disk, in bytes."""

    @abstractmethod
    def integrity(self, connection: Connection) -> Sequence[str]:
        """Return the problems that the database's own integrity check reports; empty if there are none."""

    @abstractmethod
    def last_position(self, connection: Connection) -> int:
        """Return the last position ever assigned, even if its row is missing."""

    @abstractmethod
    def number_streams(self, connection: Connection) -> None:
        """Set the counters for positions and stream numbers after a copy inserted them explicitly."""

    before_appends: str = ""
    """Statement that a connection used only for appends executes first."""
    insert_numbered: str = ""
    """Clause for an INSERT into streams that sets their numbers explicitly."""


def shown(url: URL) -> str:
    """Return the URL for display, without its password."""
    return url.render_as_string(hide_password=True)
