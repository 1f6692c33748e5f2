"""Manage the connections to one database: reads, writes, reconnects and error messages.

`Kind` defines the operations that differ between kinds of databases; `sqlite.py` and `postgres.py` implement them.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

from threadledger.domain.conversation.events import Event
from threadledger.domain.errors import InvalidSettings, StoreError, StoreUnavailable
from threadledger.domain.ids import id_bytes
from threadledger.domain.journal import OnChange, StoredRow, StreamHead

T = TypeVar("T")

IDLE_MAX = 4
"""Maximum number of idle connections kept outside the pool. The pool has 15, so the others remain available."""

RECONNECT_SECONDS = 15.0
"""Maximum time to reconnect to a lost server, in seconds. A restart takes less."""

UNREACHED_SECONDS = 2.0
"""The same if no server has answered yet: a wrong host or port is reported soon, and the gap of a restart is shorter."""

RECONNECT_PAUSE_SECONDS = 0.2
"""Pause between attempts to reconnect, in seconds."""

_END = "SELECT position, leaf FROM events ORDER BY position DESC LIMIT 1"


class Connections:
    """Manage the connections of one database. Threads may share an instance."""

    is_replica = False
    """Whether it is a copy of another database, to which nothing is written; see `Replica`."""

    def __init__(self, kind: Kind, shown_url: str, *, read_only: bool = False) -> None:
        self.kind = kind
        self.shown_url = shown_url
        self.read_only = read_only
        """Whether the program opened it to read only: appends are refused, also where they were possible."""
        self.on_connect: list[Callable[[Any], None]] = []
        """Functions that are called with each new connection of the driver."""
        try:
            self.pool = kind.pool(self.on_connect)
        except (ImportError, TypeError, ValueError) as error:  # a driver, a plugin or a parameter
            raise InvalidSettings(
                f"{shown_url} cannot be used ({error}): correct its driver and its parameters, or leave them out"
            ) from error
        self.driver = self.pool.driver
        self.write_lock = self._new_write_lock()
        self.closed = False
        self.joined: tuple[int, Any] | None = None
        """Thread that is deciding an append, and its connection if its queries must use it: a pooler may have no second one."""
        self._at_work_when_forked = False
        self._reached = False
        """Whether the server has answered before, be it with an error. It is waited for longer than one that never has."""
        self._durable_end: list[Any] | None = None
        """Position and leaf of the last event when it was last waited for that all are durable."""
        self._idle: list[tuple[Any, Cursor]] = []
        """Idle connections with their cursors, reused by the next query: a checkout from the pool takes longer than the query."""
        self._era = 0
        """Number of times that the pool was disposed of: a connection of an earlier time is not kept when it is returned."""

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of one query, as tuples of the driver. `?` is the placeholder for a value."""
        return self.reconnecting(lambda: self._fetch(statement.replace("?", self.kind.placeholder), values))

    def _fetch(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Return all rows of one query, by `cursor`; with an idle connection, without the calls of its context manager."""
        if not self._idle or self.joined is not None:
            with self.cursor() as cursor:
                rows: list[Any] = cursor.execute(sql, values, **self.kind.reading).fetchall()
                return rows
        self._still_open()
        lent = self._lend()
        try:
            rows = lent[2].execute(sql, values, **self.kind.reading).fetchall()
        except BaseException as error:
            self._take_back(*lent, error)
            raise
        self._take_back(*lent)
        return rows

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a read transaction: all its queries see one snapshot. It is repeated if the connection is lost."""
        return self.reconnecting(lambda: self._transaction(work, self.kind.begin_read))

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one write transaction. It must be repeatable: it is retried if the connection is lost."""
        return self.reconnecting(lambda: self._exclusively(work))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Execute one statement in its own transaction. `?` is the placeholder for a value."""
        self.write(lambda transaction: transaction.execute(statement, values))

    def sql(self, statement: str) -> str:
        """Replace `?` with the driver's placeholder; the statement must not contain other `?` or `%`."""
        return statement.replace("?", self.kind.placeholder)

    def cursor(self) -> AbstractContextManager[Cursor]:
        """Provide a cursor of the driver in autocommit mode, or of the transaction that this thread has joined."""
        self._still_open()
        if self.joined is not None and self.joined[0] == threading.get_ident():
            joined: AbstractContextManager[Cursor] = self.joined[1].cursor()
            return joined
        return self._own_cursor()

    @contextmanager
    def _own_cursor(self) -> Iterator[Cursor]:
        """Provide a cursor of a connection that no other thread uses meanwhile; errors of the driver are named."""
        lent = self._lend()
        try:
            yield lent[2]
        except BaseException as error:
            self._take_back(*lent, error)
            raise
        self._take_back(*lent)

    def _lend(self) -> tuple[int, Any, Cursor]:
        """Return the arguments of `_take_back`: the era, a connection that no other thread uses meanwhile, and its cursor."""
        era = self._era
        try:
            return era, *self._idle.pop()
        except IndexError:
            with self.named_errors():
                connection = self.check_out()
                return era, connection, connection.cursor()

    def _take_back(self, era: int, connection: Any, cursor: Cursor, error: BaseException | None = None) -> None:
        """Take back a connection, whose use may have ended with an error.

        Raises:
            StoreError: the error of the driver, named.
        """
        if error is not None:
            self._give_back(connection, cursor, lost=self._is_lost(error))
            is_named = isinstance(error, (self.driver.Error, UnicodeDecodeError))
            if is_named and not isinstance(error, self.driver.IntegrityError):
                raise self.named(error) from error
        elif self.closed or len(self._idle) >= IDLE_MAX or era != self._era:
            self._give_back(connection, cursor, left=era != self._era)
        else:
            self._idle.append((connection, cursor))
            if self.closed:  # closed meanwhile: `close` did not see this connection
                self._close_idle()

    def check_out(self) -> Any:
        """Return a connection from the pool; the caller must close it. `driver_connection` is the driver's own."""
        self._still_open()
        try:
            return self.pool.check_out()
        except AllInUse as error:
            raise self.named(error) from error

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Convert driver errors in the block to `StoreError`, except integrity errors, which the caller handles."""
        try:
            yield
        except self.driver.IntegrityError:
            raise
        except (self.driver.Error, UnicodeDecodeError) as error:  # SQLite's driver also decodes error messages
            raise self.named(error) from error

    def named(self, error: BaseException) -> StoreError:
        """Convert a driver's error to a `StoreError` that says what failed, why, and what to do."""
        from .errors import named

        return named(self, error)

    def reconnecting(self, work: Callable[[], T]) -> T:
        """Run `work`, and retry it for `RECONNECT_SECONDS` if the connection is lost (`UNREACHED_SECONDS` if no server answered).

        Raises:
            ConnectionLost: the server could not be reached again.
        """
        if self.joined is not None and self.joined[0] == threading.get_ident():
            return work()  # the whole transaction is retried
        began = time.monotonic()
        for attempt in itertools.count():  # counted too, because tests stop the clock
            try:
                result = work()
                self._reached = True
                return result
            except ConnectionLost as lost:
                self._reached = self._reached or lost.answered
                patience = RECONNECT_SECONDS if self._reached else min(UNREACHED_SECONDS, RECONNECT_SECONDS)
                if self.closed or max(attempt * RECONNECT_PAUSE_SECONDS, time.monotonic() - began) >= patience:
                    raise
                time.sleep(RECONNECT_PAUSE_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    def wait_until_durable(self) -> None:
        """Wait until every event that was read before survives a failure of the server; see `Kind.flush`."""
        if self.kind.flush:
            with self.cursor() as cursor:  # not repeated: a server that was restarted may lack what was read before
                end = cursor.execute(_END).fetchall()
                if end != self._durable_end:
                    cursor.execute(self.kind.flush)
                    self._durable_end = end

    def commit(self, execute: Callable[[str], Any], statement: str = "COMMIT") -> None:
        """Commit, unless the file was deleted or replaced; check after the commit too, as that may happen meanwhile."""
        self.kind.check_file("before")
        execute(statement)
        self.kind.check_file("after")

    def _new_write_lock(self) -> AbstractContextManager[Any]:
        """Return the lock that serializes the writers of this process, which is faster than waiting for the database's lock."""
        return threading.Lock() if self.kind.locks_when_writing else nullcontext()

    def _exclusively(self, work: Callable[[Transaction], T]) -> T:
        with self.write_lock:
            return self._transaction(work, self.kind.begin_write)

    def _transaction(self, work: Callable[[Transaction], T], begin: str) -> T:
        self._still_open()
        with self._own_cursor() as cursor:
            cursor.execute(begin)
            try:
                result = work(Transaction(self, cursor.connection))
                self.commit(cursor.execute)
                return result
            except BaseException:
                with suppress(self.driver.Error):  # the connection is gone: the original error is raised
                    cursor.execute("ROLLBACK")
                raise

    def _still_open(self) -> None:
        if self.closed or self._at_work_when_forked:
            from .errors import not_open

            raise not_open(self)
        self.kind.check_file()

    def _give_back(self, connection: Any, cursor: Cursor, lost: bool = False, left: bool = False) -> None:
        """Return a connection to the pool. Discard it if it was lost, belongs to an earlier pool, or the database is closed."""
        cursor.close()
        if lost or left or self.closed:
            connection.invalidate()
        connection.close()
        if lost:  # the idle connections are probably lost too
            self.dispose()

    def dispose(self) -> None:
        """Close every idle connection; those in use are closed when they are returned."""
        self._close_idle()
        self._era += 1
        self.pool.dispose()

    def _close_idle(self) -> None:
        with suppress(IndexError):  # none is left
            while True:
                self._give_back(*self._idle.pop())

    def _is_lost(self, error: BaseException) -> bool:
        return isinstance(error, self.driver.Error) and self.kind.explain(error)[0] == "lost"


class Transaction:
    """Execute statements in one transaction, in which `?` is the placeholder for a value."""

    __slots__ = ("_database", "driver_connection")

    def __init__(self, database: Connections, driver_connection: Any) -> None:
        self._database = database
        self.driver_connection = driver_connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """Execute one statement and return the driver's cursor: its rows are tuples, and it has a `rowcount`."""
        cursor = self.driver_connection.cursor()
        sql = self._database.sql(statement)
        return cursor.execute(sql, values) if values else cursor.execute(sql)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each of the rows of values."""
        if rows:
            self._database.kind.execute_many(self.driver_connection.cursor(), self._database.sql(statement), rows)

    def pages(self, query: str, size: int, values: Sequence[Any] = ()) -> Iterator[list[Any]]:
        """Yield the rows of a query in lists of up to `size`, without keeping all of them in memory."""
        with closing(self._database.kind.streaming_cursor(self.driver_connection)) as cursor:
            sql = self._database.sql(query)
            _ = cursor.execute(sql, values) if values else cursor.execute(sql)
            while page := cursor.fetchmany(size):
                yield page

    def tables(self) -> set[str]:
        """Return the names of the database's tables."""
        return {str(name) for (name,) in self.execute(self._database.kind.tables)}

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns; none if there is no such table."""
        return {str(name) for (name,) in self.execute(self._database.kind.columns, (table,))}


class AllInUse(Exception):
    """Raised when every connection of a pool is in use for too long."""


class Pool(Protocol):
    """Keep the connections of one database for their next use."""

    driver: Any
    """Module of the DB-API driver, which defines its exceptions."""

    def check_out(self) -> Any:
        """Return a connection with `cursor()`, `invalidate()`, `close()` and `driver_connection`.

        Raises:
            AllInUse: no connection was returned in time.
        """

    def in_use(self) -> int:
        """Return the number of connections that were checked out and not returned."""
        ...

    def dispose(self, close: bool = True) -> None:
        """Close the connections in the pool (forget them without `close`). It counts none as in use afterwards."""


LOCK_TIMEOUT_SECONDS = 30.0
"""Maximum time that a writer waits for a lock before the write fails, in seconds."""

Topics = tuple[tuple[str, int], ...]
"""Topics, each with the number to which the schema number of a row is added; see `EventLog.read_usual`."""

Cursor = Any
"""Cursor of the DB-API 2.0 driver."""


class FoundHead(NamedTuple):
    """Represent the stored row of a stream: its number and its head."""

    number: int
    head: StreamHead


class Move(NamedTuple):
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

    answered = True
    """Whether a server answered, or broke the connection; not if none was found at the address."""


class RolledBack(ConnectionLost):
    """Raised when the server rolled a transaction back to end a deadlock or conflict; the same transaction may be repeated."""


class DamagedDatabase(StoreUnavailable):
    """Raised when a table, a column or stored data is missing or cannot be read."""


class Overtaken(Exception):
    """Raised when another writer changed the stream between reading its head and writing."""


class Kind(ABC):
    """Define the operations of one kind of database."""

    name: str
    """Name of this kind, as SQLAlchemy calls it."""
    placeholder: str
    """Placeholder for a value in the driver's SQL."""
    payload: str
    """Expression for the payload of an event `e` as UTF-8 bytes."""
    event_id: str
    """Expression for the id of an event `e`."""
    row_columns: str
    """Columns of a `Row` in a query of events `e` and streams `s`."""
    usual_columns: str
    """Payload and time of an event `e` as bytes, and what else its check needs: position, id as 16 bytes, and leaf."""
    head_columns: str
    """State and `due_at` of the head `s` of a stream as bytes."""
    generation: str
    """Generation of the stream `s`, whose state begins with it if it is not 0; a number of no generation if it was deleted."""
    place_in: str
    """Function for the place of a text in another one, from 1; 0 if it is not there."""
    reading: Mapping[str, Any] = {}
    """Arguments of the driver's `execute` for a query."""
    begin_read: str
    begin_write: str
    locks_when_writing: bool
    """Whether a write transaction holds the database's only write lock from its beginning."""
    in_byte_order: str = ""
    """Clause after a column of text that compares it byte by byte, if its own collation may not."""
    lock_heads: str
    """Clause at the end of a query for heads that locks the rows until the transaction ends."""
    others_wrote: str = ""
    """Query for a number that differs after another connection has committed; empty if there is none."""
    end: int | None = None
    """Position of the last event for the next `append`; None if the group that appends does not know it."""
    tables: str
    """Query for the names of the tables."""
    columns: str
    """Query for the names of a table's columns, given the name of the table."""

    @property
    @abstractmethod
    def steps(self) -> Sequence[Sequence[str]]:
        """Return the numbered steps of the schema: the statements of each upgrade."""

    @property
    @abstractmethod
    def swap(self) -> Sequence[str]:
        """Return the statements that end step `EVENTS_REWRITTEN_BY`, once all events are copied; see `upgrading.py`."""

    @abstractmethod
    def pool(self, on_connect: Sequence[Callable[[Any], None]]) -> Pool:
        """Return a pool of autocommit connections; BEGIN and COMMIT are sent explicitly.

        Each new connection of the driver is passed to the functions in `on_connect`.
        """

    def streaming_cursor(self, connection: Any) -> Cursor:
        """Return a cursor that does not read all rows of its query at once."""
        return connection.cursor()

    def execute_many(self, cursor: Cursor, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement of the driver for each of the rows of values."""
        cursor.executemany(statement, rows)

    @abstractmethod
    def prepare_file(self, cursor: Cursor) -> None:
        """Apply settings that are stored in the database itself; called after its schema has been checked."""

    @abstractmethod
    def lock_schema(self, transaction: Transaction) -> None:
        """Prevent other processes from creating or upgrading tables until the transaction ends."""

    def lock_tables(self, transaction: Transaction) -> None:  # noqa: B027 - SQLite's write transactions exclude each other
        """Prevent others from reading and writing events until the transaction ends."""

    @abstractmethod
    def append(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        """Advance the streams and insert the rows atomically; return the rows' positions.

        Raises:
            Overtaken: a stream no longer has its expected version.
        """

    def append_durably(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        """Append in a transaction of its own, which is durable when this returns: `append`, if it is one statement."""
        return self.append(cursor, moves, rows)

    @abstractmethod
    def explain(self, error: BaseException) -> tuple[str, str]:
        """Return (category, advice) for a driver's error; the categories are described in `errors.py`."""

    def check_file(self, commit: str = "") -> None:  # noqa: B027 - a server needs no check
        """Check that the file was not deleted or replaced while it was open; a server has no such file.

        `commit` is `before` or `after` a commit; after it, the write-ahead log is checked too.
        """

    pooled = False
    """Whether a pooler gives the connection to others between transactions: no setting or lock may remain on it."""
    before_appends: str = ""
    """Statement that a connection used only for appends executes first."""
    commit_append: str = "COMMIT"
    """Statement that commits a transaction with an append, and returns when it is durable."""
    flush: str = ""
    """Statement that returns when every earlier commit is durable; empty if no commit can be seen before it is."""


MARKS = " OR ".join(
    f"topic = '{topic}'"
    for topic in (
        *("MessageRetracted", "MemoryCleared", "RerunAccepted", "BranchSelected", "MemoryCompacted", "MessagePinned"),
        "ConversationDeleted",
    )
)
"""Condition for events that change which earlier messages are in memory: they have an index of their own.

SQLite would build a table of the values of an `IN` for each append.
"""


def split_id(event_id: bytes | str) -> tuple[bytes | None, str | None]:
    """Return the id of an event for its two columns: 16 bytes, or the text of one that is no UUID."""
    value = event_id if isinstance(event_id, bytes) else id_bytes(event_id)
    return (value, None) if value is not None else (None, str(event_id))


# The leaf hash of an event reveals an edited, swapped or moved row. It does not protect against an attacker who can
# compute hashes and write to the database; that requires a checkpoint stored elsewhere.
LEAF_BEGIN = "leaf 4\n"
"""Beginning of the bytes whose SHA-256 hash is the leaf. Those of earlier forms begin with a digit, a bracket or `leaf 3`."""

TEXT_ID = "text"
"""Word on the first line of a leaf if the event's id is a text and not a UUID."""


def leaf_hash(row: StoredRow, position: int) -> bytes:
    """Return the leaf hash of a row that is stored at a position."""
    return leaves_from(position, [row])[0]


def leaves_from(first: int, rows: Iterable[StoredRow]) -> list[bytes]:
    """Return the leaf hashes of rows that are stored at the positions from `first`."""
    leaves: list[bytes] = []
    known: tuple[Any, ...] = ()
    prefix = b""
    for position, row in enumerate(rows, first):
        event_id = row.event_id
        shared = (row.originator_id, row.topic, row.schema, type(event_id))
        if shared != known or type(event_id) is not bytes:
            prefix, known = leaf_prefix(str(row.originator_id), row.topic, row.schema, event_id), shared
        hashed = event_id if type(event_id) is bytes else leaf_id(event_id)
        # `%a` and not `%d`, which would cut a number that is no integer
        text = b"%b%a\n%a\n%b\n%b%b" % (prefix, position, row.originator_version, row.at.encode(), hashed, row.state)
        leaves.append(sha256(text).digest())
    return leaves


def leaf_prefix(name: str, topic: str, schema: int, event_id: bytes | str) -> bytes:
    """Return the hashed bytes before the position: neighbours in a stream share them, unless their ids differ in kind.

    A name may contain line breaks: its length in characters precedes it.
    """
    is_text = type(event_id) is not bytes and id_bytes(str(event_id)) is None
    begin = LEAF_BEGIN.replace("\n", f" {TEXT_ID}\n") if is_text else LEAF_BEGIN
    return f"{begin}{len(name)}\n{name}\n{topic}\n{schema}\n".encode()


def leaf_id(event_id: bytes | str) -> bytes:
    """Return an event's id as it is hashed: 16 bytes, or a text after its length in bytes."""
    if isinstance(event_id, bytes):
        return event_id
    value = id_bytes(event_id)
    text = event_id.encode()
    return value if value is not None else b"%d\n%b" % (len(text), text)


def checked(rows: Iterable[Sequence[Any]], changed: OnChange, topics: Sequence[str] = ()) -> Iterator[Any]:
    """Yield each row that has one of the topics (all if empty), without its last column, the leaf.

    `changed` is called for each row that does not match its leaf.
    """
    found = rows if isinstance(rows, list) else list(rows)
    if leaves_of(found) == [row[8] for row in found]:
        for row in found:
            if not topics or row[3] in topics:
                yield row[:8]
        return
    from .damage import checked_closely

    yield from checked_closely(found, changed, topics)


def leaves_of(rows: Iterable[Sequence[Any]]) -> list[bytes]:
    """Return the leaf hashes of rows that end with a leaf; an empty list if a column has a value of another type.

    The part that neighbours share is made once, because this runs for each row that is read.
    """
    leaves: list[bytes] = []
    add, prefix = leaves.append, b""
    known_name = known_topic = known_schema = None
    try:
        for position, name, version, topic, state, event_id, at, schema, _ in rows:
            hashed = event_id
            if topic != known_topic or schema is not known_schema or name != known_name or type(event_id) is not bytes:
                known_name, known_topic, known_schema = name, topic, schema
                prefix = leaf_prefix(name, topic, schema, event_id)
                if type(event_id) is not bytes:
                    hashed, known_topic = leaf_id(event_id), None
            add(sha256(b"%b%a\n%a\n%b\n%b%b" % (prefix, position, version, at.encode(), hashed, state)).digest())
    except (TypeError, AttributeError, UnicodeEncodeError):
        return []
    return leaves


class Prefixes(dict[int, bytes]):
    """Hold what is hashed first of the rows of a stream, by the numbers that stand for their topic and schema."""

    def __init__(self, stream: str, topics: Topics) -> None:
        super().__init__()
        self._stream, self._topics = stream, topics

    def __missing__(self, number: int) -> bytes:
        for topic, first in self._topics:
            if first < number <= first + Event.SCHEMA:
                self[number] = prefix = leaf_prefix(self._stream, topic, number - first, b"")
                return prefix
        raise TypeError(number)


def number_in(topics: Topics) -> str:
    """Return the expression for the number of an event `e`; that of another topic is below 0."""
    numbers = (f"WHEN '{topic}' THEN {f'{first} + ' if first else ''}e.schema" for topic, first in topics)
    return f"CASE e.topic {' '.join(numbers)} ELSE -1 END"


def match_leaves(rows: Sequence[Sequence[Any]], versions: Iterable[int], prefixes: Prefixes) -> bool:
    """Return whether rows, which have these versions, match their leaf hashes; False if the id of one is no UUID.

    A row is a number and the `Kind.usual_columns`. This runs for each message of a memory, so it is one loop without calls of
    its own; lists of texts and hashes are slower.
    """
    try:
        for version, (number, state, at, position, event_id, leaf) in zip(versions, rows, strict=True):
            text = b"%b%d\n%d\n%b\n%b%b" % (prefixes[number], position, version, at, event_id, state)
            if sha256(text).digest() != leaf:
                return False
    except (TypeError, ValueError):  # a column has a value of another type, or a row is missing
        return False
    return True
