"""What one kind of database does in a way of its own. Everything else is the same on both: see `sqlite.py`, `postgres.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Engine

from threadledger.domain import StoredRow, StoreUnavailable, StreamHead

LOCK_TIMEOUT_SECONDS = 30.0
"""How long a writer waits for another one before the database counts as locked."""

Cursor = Any
"""A cursor of the driver (DB-API 2.0): the append and the long reads go past SQLAlchemy's own, which costs four times as much."""


@dataclass(frozen=True, slots=True)
class FoundHead:
    """A stream's row as it was found: its number, and what the ledger keeps there."""

    number: int
    head: StreamHead


@dataclass(frozen=True, slots=True)
class Move:
    """One stream on its way to a new version; `found` is None for a stream that begins."""

    name: str
    found: FoundHead | None
    head: StreamHead

    @property
    def expected(self) -> int:
        """The version that the stream must still have."""
        return self.found.head.version if self.found is not None else 0


class ConnectionLost(StoreUnavailable):
    """The server went away; whether what was being written is stored has to be looked up."""


class Overtaken(Exception):
    """Somebody else wrote to the stream between reading its head and writing."""


class Kind(ABC):
    """A kind of database."""

    name: str
    """SQLAlchemy's name of it."""
    placeholder: str
    """What stands for a value in the driver's SQL."""
    steps: Sequence[Sequence[str]]
    """The schema's numbered steps."""
    begin_read: str
    begin_write: str
    locks_when_writing: bool
    """Whether a transaction that writes holds the only write lock from its beginning on."""
    lock_heads: str
    """What a query of heads ends with so that they stay as they are until the transaction's end."""

    @abstractmethod
    def engine(self) -> Engine:
        """Connections that commit each statement by themselves: we say BEGIN and COMMIT."""

    @abstractmethod
    def prepare_file(self, engine: Engine) -> None:
        """What is set once the database is known to be ours, because it is written into it."""

    @abstractmethod
    def lock_schema(self, connection: Connection) -> None:
        """Keep other processes from creating or upgrading tables until the transaction's end."""

    @abstractmethod
    def append(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        """Advance the streams and insert the rows, all or nothing; returns the rows' positions.

        Raises:
            Overtaken: a stream is no longer at the version it was found at.
        """

    @abstractmethod
    def explain(self, error: BaseException) -> tuple[str, str]:
        """(kind of trouble, advice) for a driver's error: trouble is `foreign`, `lost` or `unusable`."""

    @abstractmethod
    def size_bytes(self, connection: Connection) -> int:
        """Size of the database on disk."""

    @abstractmethod
    def integrity(self, connection: Connection) -> Sequence[str]:
        """What the database itself finds wrong with its pages; empty where all is well."""

    @abstractmethod
    def last_position(self, connection: Connection) -> int:
        """The last position that was ever given, whether its row is still there or not."""

    @abstractmethod
    def number_streams(self, connection: Connection) -> None:
        """Go on after the numbers that streams were given by a copy."""

    before_appends: str = ""
    """What a connection is told that does nothing but append."""
    insert_numbered: str = ""
    """What an INSERT of streams needs where it brings their numbers along."""


def shown(url: URL) -> str:
    """The URL without its password, for people."""
    return url.render_as_string(hide_password=True)
