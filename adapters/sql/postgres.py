"""Support PostgreSQL, for many machines and many writers.

The extra `postgres` installs the driver psycopg, which SQLAlchemy loads.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import URL, Engine, event, exc

from threadledger.domain.errors import InvalidSettings
from threadledger.domain.journal import StoredRow
from threadledger.domain.journal.blobs import missing, referred

from .addresses import hosts, pooled
from .connections import (
    LOCK_TIMEOUT_SECONDS,
    AllInUse,
    Cursor,
    Kind,
    Move,
    Overtaken,
    Pool,
    Transaction,
    leaf_prefix,
    split_id,
)
from .sqlstates import OTHER, connection_refusal, explained

if TYPE_CHECKING:
    from .pipeline import Pipeline

CONNECT_TIMEOUT_SECONDS = 5
"""Timeout of one connection attempt to one host, in seconds. `connect_timeout` in the URL overrides it."""

SILENCE_SECONDS = 20
"""Time after which a server whose machine or network no longer answers counts as lost, in seconds."""

WRITE_IDLE_SECONDS_MAX = 10.0
"""Time after which the server ends a transaction that writes and whose process sends nothing, in seconds. One that is cut from
the network would hold its locks, maybe that of the log's head, until the server's system notices: by default for hours."""

POOL_LOGGER = "sqlalchemy.pool"
logging.getLogger(POOL_LOGGER).addHandler(logging.NullHandler())  # a lost connection is reported in one sentence

_PATIENCE = {
    "connect_timeout": str(CONNECT_TIMEOUT_SECONDS),
    "keepalives_idle": str(SILENCE_SECONDS // 2),
    "keepalives_interval": str(SILENCE_SECONDS // 4),
    "keepalives_count": "2",
    "tcp_user_timeout": str(SILENCE_SECONDS * 1000),
}
"""Parameters of libpq, unless the URL sets them. Without the last four, a write to a vanished machine waits for minutes."""

_PLACEHOLDER = "%s"

_APPEND_BEGIN = """
WITH given AS (
    SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::text[])
        AS given (name, expected, version, state_schema, snapshot, due_at)
), fresh AS (
    SELECT s.stream, given.* FROM given JOIN streams s USING (name)
    WHERE s.version = given.expected ORDER BY s.stream FOR UPDATE OF s
), head AS (
    UPDATE log_head SET position = position + %s::bigint
    WHERE (SELECT count(*) FROM fresh) = (SELECT count(*) FROM given WHERE expected >= 0) {if_present}
    RETURNING position - %s::bigint AS before,
        CASE WHEN %s::bool THEN set_config('synchronous_commit', 'off', true) END
), moved AS (
    UPDATE streams s SET version = fresh.version, state_schema = fresh.state_schema, snapshot = fresh.snapshot,
        due_at = fresh.due_at
    FROM fresh, head WHERE s.stream = fresh.stream RETURNING s.stream, s.name
), begun AS (
    INSERT INTO streams (name, version, state_schema, snapshot, due_at)
    SELECT name, version, state_schema, snapshot, due_at FROM given, head WHERE expected < 0 RETURNING stream, name
), stored AS (
    SELECT * FROM moved UNION ALL SELECT * FROM begun
)
"""

_APPEND_NOTES = """, keyed AS (
    INSERT INTO idempotency_keys (stream, generation, key, version, fingerprint)
    SELECT stream, generation, key, k.version, fingerprint
    FROM unnest(%s::int[], %s::text[], %s::text[], %s::bigint[], %s::bytea[])
        AS k (generation, name, key, version, fingerprint)
    JOIN stored USING (name)
), addressed AS (
    INSERT INTO addresses (address, stream, version)
    SELECT address, stream, a.version FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS a (name, address, version)
    JOIN stored USING (name)
)
"""

_APPEND_REFERENCES = """, referring AS (
    INSERT INTO blob_refs (blob, stream, version)
    SELECT address, stream, r.version FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS r (name, address, version)
    JOIN present USING (address) JOIN stored USING (name)
)
"""

_PRESENT = """
WITH present AS MATERIALIZED (
    SELECT address FROM blobs WHERE address = ANY (%s::text[]) AND complete = 1 FOR SHARE
), given AS ("""
"""The blobs that the events refer to, locked against their removal until the references are committed."""

_APPEND_EVENTS = """
INSERT INTO events (position, stream, version, topic, schema, at, id, text_id, leaf, state)
SELECT head.before + o, s.stream, e.version, e.topic, e.schema, e.at, e.id::uuid, e.text_id, sha256(
    convert_to(e.leaf_prefix || (head.before + o) || E'\\n' || e.version || E'\\n' || e.at || E'\\n', 'UTF8')
    || coalesce(uuid_send(e.id::uuid), convert_to(octet_length(e.text_id) || E'\\n' || e.text_id, 'UTF8'))
    || convert_to(e.state, 'UTF8')
), e.state
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    WITH ORDINALITY AS e (name, version, topic, schema, at, id, text_id, leaf_prefix, state, o)
JOIN stored s USING (name), head
RETURNING position
"""
_APPEND = _APPEND_BEGIN.format(if_present="") + _APPEND_EVENTS
"""Append in one statement and one round trip.

The statement first selects the streams that still have their expected version (-1: the stream does not exist yet). Only
if all have it, the head of the log is advanced and rows are written. Its transaction does not wait for the disk when it
commits if another process may be waiting for the head of the log, which it would hold meanwhile: `_FLUSH` follows. Each
array is sent as one text, because psycopg's own arrays take most of the client's time.
"""

_APPEND_WITH_NOTES = _APPEND_BEGIN.format(if_present="") + _APPEND_NOTES + _APPEND_EVENTS
"""The same with the idempotency keys and addresses of the events."""

_APPEND_WITH_BLOBS = (
    _APPEND_BEGIN.replace("\nWITH given AS (", _PRESENT).format(
        if_present="AND (SELECT count(*) FROM present) = %s::bigint"
    )
    + _APPEND_NOTES
    + _APPEND_REFERENCES
    + _APPEND_EVENTS
)
"""The same with their references to blobs; nothing is stored if one of the blobs is not there, or incomplete."""
_COMPLETE = "SELECT address FROM blobs WHERE address = ANY (%s) AND complete = 1"
_FLUSH = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'threadledger', '')::text END"
"""Write a message to the write-ahead log, which nothing reads.

Its commit waits for the disk and the synchronous standby as the session is configured to, and so for every earlier commit,
because the log is written and sent in order. A commit that writes nothing would not wait. A standby can only read what
its primary has written to its disk, and cannot wait for more.
"""


@cache
def _numbered(statement: str) -> str:
    """Return a statement with the placeholders of PostgreSQL itself."""
    parts = enumerate(statement.split(_PLACEHOLDER))
    return "".join(f"${number}{part}" if number else part for number, part in parts)


_NAMES = {
    _APPEND: b"threadledger_append",
    _APPEND_WITH_NOTES: b"threadledger_append_with_notes",
    _APPEND_WITH_BLOBS: b"threadledger_append_with_blobs",
}

_NOT_THERE_YET = -1
_BACKSLASH, _QUOTE = "\\", '"'


def _notes(rows: Sequence[StoredRow], *, always: bool) -> list[str]:
    """Return the values of the idempotency keys and addresses of rows; nothing if there are none, except with `always`."""
    keyed = [row for row in rows if row.idempotency_key is not None]
    addressed = [(row, address) for row in rows for address in row.addresses]
    if not keyed and not addressed and not always:
        return []
    return [
        _array([row.generation for row in keyed]),
        _array([str(row.originator_id) for row in keyed]),
        _array([row.idempotency_key for row in keyed]),
        _array([row.originator_version for row in keyed]),
        _array([f"\\x{row.fingerprint.hex()}" if row.fingerprint is not None else None for row in keyed]),
        _array([str(row.originator_id) for row, _ in addressed]),
        _array([address for _, address in addressed]),
        _array([row.originator_version for row, _ in addressed]),
    ]


class PostgreSQL(Kind):
    """Implement `Kind` for a PostgreSQL server."""

    name = "postgresql"
    placeholder = _PLACEHOLDER
    payload = "convert_to(e.state, 'UTF8')"
    event_id = "coalesce(e.id::text, e.text_id)"
    row_columns = f"e.position, s.name, e.version, e.topic, {payload}, {event_id}, e.at, e.schema"
    usual_columns = f"{payload}, convert_to(e.at, 'UTF8'), e.position, uuid_send(e.id), e.leaf"
    head_columns = "convert_to(s.snapshot, 'UTF8'), convert_to(s.due_at, 'UTF8')"
    generation = (
        "CASE WHEN left(s.snapshot, 14) = '{\"generation\":' THEN CAST(split_part(substr(s.snapshot, 15, 20), ',', 1) AS int) "
        "WHEN left(s.snapshot, 10) = '{\"deleted\"' THEN -1 ELSE 0 END"
    )
    place_in = "strpos"
    reading = MappingProxyType({"binary": True})  # as texts, bytes have twice their size
    begin_read = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    begin_write = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {WRITE_IDLE_SECONDS_MAX * 1000:.0f}"
    locks_when_writing = False
    in_byte_order = ' COLLATE "C"'
    lock_heads = " ORDER BY stream FOR UPDATE"
    tables = (
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') "
        "AND c.relpersistence <> 't' AND pg_table_is_visible(c.oid) AND n.nspname <> 'pg_catalog'"
    )
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(CAST(? AS TEXT)) AND attnum > 0 AND NOT attisdropped"
    # Otherwise the server plans the statement again for each append, which takes longer than running it.
    before_appends = "SET plan_cache_mode = force_generic_plan"
    flush = _FLUSH
    commit_append = f"COMMIT; {_FLUSH}"

    def __init__(self, url: URL) -> None:
        if importlib.util.find_spec("psycopg") is None:
            raise InvalidSettings(
                "PostgreSQL needs a driver that is not installed: run pip install 'threadledger[postgres]'"
            )
        self._is_pooled = pooled(url)
        """Whether the URL names a pooler; None if each connection finds out."""
        url, self._hosts = hosts(url.set(drivername="postgresql+psycopg").difference_update_query(["pgbouncer"]))
        self._url = url.update_query_dict({key: value for key, value in _PATIENCE.items() if key not in url.query})
        self._pipeline: Pipeline | None = None
        self._end = 0
        """Position of the last event of the last durable append."""
        self._alone = False
        """Whether that append was the first after the one before it: no other process seems to append."""

    @property
    def steps(self) -> Sequence[Sequence[str]]:
        from .postgres_schema import STEPS

        return STEPS

    @property
    def swap(self) -> Sequence[str]:
        from .postgres_schema import SWAP

        return SWAP

    def pool(self, on_connect: Sequence[Callable[[Any], None]]) -> Pool:
        def connected(connection: Any, _record: object) -> None:
            self._prepare(connection)
            for each in on_connect:
                each(connection)

        # Autocommit: BEGIN is sent explicitly, and a single statement needs none. Statements are prepared at their second use.
        arguments = {"autocommit": True, "prepare_threshold": 1, **self._hosts}
        try:
            engine = sqlalchemy.create_engine(self._url, connect_args=arguments, use_native_hstore=False)
        except exc.ArgumentError as error:
            raise ValueError(str(error)) from error
        event.listen(engine, "connect", connected)
        return ServerPool(engine)

    def connection_parameters(self) -> dict[str, Any]:
        """Return the parameters with which the driver connects, for a pool of another library."""
        _, parameters = self._url.get_dialect()().create_connect_args(self._url)
        return {**parameters, **self._hosts}

    def execute_many(self, cursor: Cursor, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        from .pipeline import execute_together

        execute_together(cursor, statement, rows)

    def streaming_cursor(self, connection: Any) -> Cursor:
        return connection.cursor(name="threadledger")

    def prepare_file(self, cursor: Cursor) -> None:
        """Do nothing: the administrator configures the server's files."""

    def lock_schema(self, transaction: Transaction) -> None:
        transaction.execute("SELECT pg_advisory_xact_lock(hashtext('threadledger schema'))")
        encoding = transaction.execute("SHOW server_encoding").fetchone()[0]
        if encoding != "UTF8":
            raise InvalidSettings(
                f"the encoding of the database is {encoding}, in which not every message can be stored: create one with "
                "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
            )

    def lock_tables(self, transaction: Transaction) -> None:
        transaction.execute("LOCK TABLE streams, log_head, events IN ACCESS EXCLUSIVE MODE")

    def append(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        statement, values = _statement(moves, rows, alone=False)
        return _all_of(rows, sorted(position for position, *_ in cursor.execute(statement, values)), cursor)

    def append_durably(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
        """Append and wait for the disk: in one transaction if no other process appends, else in two.

        A transaction that waits for the disk holds the head of the log meanwhile.
        """
        from .pipeline import Pipeline, long_append, short_append

        if self._pipeline is None:
            self._pipeline = Pipeline(_FLUSH)
        alone, self._alone = self._alone, False
        connection, appending = cursor.connection, short_append(moves, rows, alone)
        if appending is None:
            text, texts = _statement(moves, rows, alone)
            appending = long_append(connection, _NAMES[text], _numbered(text), texts)
        positions = _all_of(rows, self._pipeline.append(connection, *appending, flush=not alone), cursor)
        self._end, self._alone = positions[-1], positions[0] == self._end + 1
        return positions

    def explain(self, error: BaseException) -> tuple[str, str]:
        # Connection errors have no SQLSTATE: libpq does not pass it on.
        state = str(getattr(error, "sqlstate", None) or "")
        kinds = {each.__name__ for each in type(error).__mro__}
        if state or not kinds & {"OperationalError", "InterfaceError", "ProgrammingError"}:
            return explained(state or ("22" if "DataError" in kinds else ""))
        if "ProgrammingError" in kinds:  # of the driver, also about a parameter of the URL
            return connection_refusal(str(error), OTHER)
        return connection_refusal(str(error))

    def _prepare(self, connection: Any) -> None:
        """Set the session up in one round trip; do it for each transaction instead if a pooler is in between."""
        if not self._is_pooled:
            own = connection.info.backend_pid if self._is_pooled is None else None
            timeout = f"{LOCK_TIMEOUT_SECONDS * 1000:.0f}"
            if connection.execute(_SETTINGS, (timeout, own)).fetchone() is not None:
                return
        connection.prepare_threshold = None
        if not self.pooled:
            self.pooled = True
            self.before_appends = ""
            self.begin_read += self._patience()
            self.begin_write += self._patience()

    @staticmethod
    def _patience() -> str:
        return f"; SET LOCAL lock_timeout = {LOCK_TIMEOUT_SECONDS * 1000:.0f}"


class ServerPool:
    """Keep connections in the pool of SQLAlchemy's engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.driver: Any = engine.dialect.loaded_dbapi

    def check_out(self) -> Any:
        try:
            return self._engine.raw_connection()
        except exc.TimeoutError:
            raise AllInUse from None
        except exc.DBAPIError as error:  # of a statement that SQLAlchemy executes on its first connection
            raise error.orig or error from error

    def in_use(self) -> int:
        pool = self._engine.pool
        return pool.checkedout() if isinstance(pool, sqlalchemy.QueuePool) else 0

    def dispose(self, close: bool = True) -> None:
        self._engine.dispose(close=close)


def _statement(moves: Sequence[Move], rows: Sequence[StoredRow], alone: bool) -> tuple[str, list[str]]:
    """Return the statement that appends, and its values as PostgreSQL's texts; `alone` if it waits for the disk itself."""
    streams = [
        (
            move.name,
            _NOT_THERE_YET if move.found is None else move.expected,
            move.head.version,
            move.head.state_schema,
            move.head.state,
            move.head.due_at,
        )
        for move in moves
    ]
    events = []
    for row in rows:
        name, (value, text_id) = str(row.originator_id), split_id(row.event_id)
        prefix = leaf_prefix(name, row.topic, row.schema, row.event_id).decode()
        short = value.hex() if value is not None else None
        place = (name, row.originator_version, row.topic, row.schema, row.at)
        events.append((*place, short, text_id, prefix, row.state.decode()))
    references = [(str(row.originator_id), each, row.originator_version) for row in rows for each in row.blobs]
    count, notes = str(len(rows)), _notes(rows, always=bool(references))
    begin, rest = [*map(_array, zip(*streams, strict=True)), count], map(_array, zip(*events, strict=True))
    if references:
        needed = referred(rows)
        begin = [_array(needed), *begin, str(len(needed)), count, str(not alone), *notes]
        return _APPEND_WITH_BLOBS, [*begin, *map(_array, zip(*references, strict=True)), *rest]
    return _APPEND_WITH_NOTES if notes else _APPEND, [*begin, count, str(not alone), *notes, *rest]


def _array(values: Sequence[Any]) -> str:
    """Return PostgreSQL's text of an array of texts, numbers and NULLs."""
    texts = [
        f'"{each.replace(_BACKSLASH, _BACKSLASH * 2).replace(_QUOTE, _BACKSLASH + _QUOTE)}"'
        if isinstance(each, str)
        else "NULL"
        if each is None
        else str(each)
        for each in values
    ]
    return f"{{{','.join(texts)}}}"


def _all_of(rows: Sequence[StoredRow], positions: Sequence[int], cursor: Cursor) -> Sequence[int]:
    """Return the positions, if all of the rows were stored.

    Raises:
        BlobMissing: a blob that a row refers to is not stored.
        Overtaken: another writer was first.
    """
    if len(positions) == len(rows):
        return positions
    if needed := referred(rows):
        stored = {address for (address,) in cursor.execute(_COMPLETE, (needed,)).fetchall()}
        if lacking := [address for address in needed if address not in stored]:
            raise missing(lacking)
    raise Overtaken


_SETTINGS = """
SELECT set_config('lock_timeout', %s, false), set_config('client_min_messages', 'warning', false)
WHERE pg_backend_pid() = coalesce(%s, pg_backend_pid())
"""
"""Settings of a session, applied only if the server process is the one that was named to the client.

PgBouncer gives each client a number of its own, and hands a server process to another client after each transaction.
"""
