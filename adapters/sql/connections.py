"""Connections to one database: how it is read and written, and how what goes wrong is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, exc

from threadledger.domain import ForeignDatabase, StoreError, StoreUnavailable

from .kinds import ConnectionLost, Cursor, Kind

T = TypeVar("T")

IDLE_MAX = 4
"""Connections kept at hand beside the pool, which has 15: the others are for whoever comes."""

RECONNECT_SECONDS = 15.0
"""How long a server that went away is waited for: a restart takes less."""

RECONNECT_PAUSE_SECONDS = 0.2
"""How long apart the attempts to reach it again are."""


class Connections:
    """The connections of one database. Threads may share them."""

    def __init__(self, kind: Kind, shown_url: str) -> None:
        self.kind = kind
        self.shown_url = shown_url
        self.engine: Engine = kind.engine()
        self.driver = self.engine.dialect.loaded_dbapi
        """The driver's module: its errors."""
        self.write_lock = self._new_write_lock()
        self.closed = False
        self._at_work_when_forked = False
        self._reached = False
        """Whether anything has ever come back: a server that was never there is not waited for."""
        self._idle: list[tuple[Any, Cursor]] = []
        """Connections with their cursors, at hand for the next query: the pool's own check-out costs more than the query."""

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query, as the driver's tuples. `?` stands for a value."""
        sql = self.sql(statement)

        def fetch() -> list[Any]:
            with self.cursor() as cursor:
                cursor.execute(sql, values)
                rows: list[Any] = cursor.fetchall()
                return rows

        return self.reconnecting(fetch)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Work that reads, more than once perhaps: all its queries see one state of the database."""
        return self.reconnecting(lambda: self._transaction(work, self.kind.begin_read))

    def write(self, work: Callable[[Connection], T]) -> T:
        """Work in one transaction. It must bear being done again: a connection may break at any point of it."""
        return self.reconnecting(lambda: self._exclusively(work))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """One statement in a transaction of its own. `?` stands for a value."""
        sql, bound = self.sql(statement), tuple(values)
        self.write(lambda connection: connection.exec_driver_sql(sql, bound))

    def sql(self, statement: str) -> str:
        """A statement with the driver's placeholders; it may not hold `?` or `%` otherwise."""
        return statement.replace("?", self.kind.placeholder)

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """A driver's cursor; each statement commits by itself."""
        self._still_open()
        pool = self.engine.pool
        try:
            connection, cursor = self._idle.pop()
        except IndexError:
            with self.named_errors():
                connection = self.check_out()
                cursor = connection.cursor()
        try:
            yield cursor
        except BaseException as error:
            self._give_back(connection, cursor, lost=self._is_lost(error))
            if isinstance(error, self.driver.Error) and not isinstance(error, self.driver.IntegrityError):
                raise self.named(error) from error
            raise
        if self.closed or len(self._idle) >= IDLE_MAX or pool is not self.engine.pool:
            self._give_back(connection, cursor, left=pool is not self.engine.pool)
        else:
            self._idle.append((connection, cursor))
            if self.closed:  # a moment ago, and it was not there to be closed with the others
                self._close_idle()

    def check_out(self) -> Any:
        """A connection of the pool: the driver's, to be closed by whoever took it."""
        self._still_open()
        return self.engine.raw_connection()

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Around any use: what goes wrong is told in our words. Broken rules of the tables are the caller's to judge."""
        try:
            yield
        except (exc.IntegrityError, self.driver.IntegrityError):
            raise
        except exc.DBAPIError as error:
            raise self.named(error.orig or error) from error
        except exc.TimeoutError as error:
            raise StoreUnavailable(
                f"{self.shown_url}: all of this program's connections are at work; use fewer threads at once, or try again"
            ) from error
        except self.driver.Error as error:
            raise self.named(error) from error

    def named(self, error: BaseException) -> StoreError:
        """A driver's error in our words: what, why, what next."""
        trouble, advice = self.kind.explain(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        if trouble == "foreign":
            return ForeignDatabase(f"{self.shown_url} is not a database ({reason}): nothing was changed; {advice}")
        if trouble == "lost":
            return ConnectionLost(f"{self.shown_url} cannot be reached ({reason}); {advice}")
        return StoreUnavailable(f"{self.shown_url} cannot be used ({reason}): nothing was written; {advice}")

    def reconnecting(self, work: Callable[[], T]) -> T:
        """Do the work, and again for a while where the server went away.

        Raises:
            ConnectionLost: it did not come back.
        """
        for attempts_left in range(int(RECONNECT_SECONDS / RECONNECT_PAUSE_SECONDS), -1, -1):  # tests stop the clock
            try:
                result = work()
                self._reached = True
                return result
            except ConnectionLost:
                if self.closed or not self._reached or not attempts_left:
                    raise
                time.sleep(RECONNECT_PAUSE_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    def size_bytes(self) -> int:
        """Size on disk, the write-ahead log included."""
        return self.read(self.kind.size_bytes)

    def _new_write_lock(self) -> AbstractContextManager[Any]:
        """What this process's writers take in turn: waiting in the database's own queue is slower."""
        return threading.Lock() if self.kind.locks_when_writing else nullcontext()

    def _exclusively(self, work: Callable[[Connection], T]) -> T:
        with self.write_lock:
            return self._transaction(work, self.kind.begin_write)

    def _transaction(self, work: Callable[[Connection], T], begin: str) -> T:
        with self.named_errors(), self._connected() as connection:
            connection.exec_driver_sql(begin)
            try:
                result = work(connection)
                connection.exec_driver_sql("COMMIT")
                return result
            except BaseException:
                with suppress(exc.SQLAlchemyError):  # nobody is there any more: what went wrong first is what is told
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def _connected(self) -> Connection:
        self._still_open()
        return self.engine.connect()

    def _still_open(self) -> None:
        if self.closed:
            raise StoreUnavailable(f"{self.shown_url} was closed by this program: open it again")
        if self._at_work_when_forked:
            raise StoreUnavailable(
                f"{self.shown_url} was at work in another thread when this process was forked from it, and SQLite's locks "
                "are not inherited: fork first, then open it"
            )

    def _give_back(self, connection: Any, cursor: Cursor, lost: bool = False, left: bool = False) -> None:
        """A connection to the pool; one that was lost, is left over from an earlier pool, or comes back after the end, to
        nobody."""
        cursor.close()
        if lost or left or self.closed:
            connection.invalidate()
        connection.close()
        if lost:  # and with it, in all likelihood, all that are not at work
            self._close_idle()
            self.engine.dispose()

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._give_back(*self._idle.pop())

    def _is_lost(self, error: BaseException) -> bool:
        return isinstance(error, self.driver.Error) and self.kind.explain(error)[0] == "lost"
