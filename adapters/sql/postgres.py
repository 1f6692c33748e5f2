"""Support PostgreSQL, for many machines and many writers.

The extra `postgres` installs the driver psycopg, which SQLAlchemy loads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event

from threadledger.domain.errors import InvalidSettings
from threadledger.domain.journal import StoredRow

from .addresses import hosts, pooled
from .connections import LOCK_TIMEOUT_SECONDS, Cursor, Kind, Move, Overtaken, leaf_header
from .sqlstates import OTHER, connection_refusal, explained

CONNECT_TIMEOUT_SECONDS = 5
"""Timeout of one connection attempt to one host, in seconds. `connect_timeout` in the URL overrides it."""

SILENCE_SECONDS = 20
"""Time after which a server whose machine or network no longer answers counts as lost, in seconds."""

_PATIENCE = {
    "connect_timeout": str(CONNECT_TIMEOUT_SECONDS),
    "keepalives_idle": str(SILENCE_SECONDS // 2),
    "keepalives_interval": str(SILENCE_SECONDS // 4),
    "keepalives_count": "2",
    "tcp_user_timeout": str(SILENCE_SECONDS * 1000),
}
"""Parameters of libpq, unless the URL sets them. Without the last four, a write to a vanished machine waits for minutes."""

_APPEND = """
WITH given AS (
    SELECT * FROM unnest(%b::text[], %s::bigint[], %s::bigint[], %s::int[], %b::text[], %s::text[])
        AS given (name, expected, version, state_schema, state, due_at)
), fresh AS (
    SELECT s.stream, given.* FROM given JOIN streams s USING (name)
    WHERE s.version = given.expected ORDER BY s.stream FOR UPDATE OF s
), head AS (
    UPDATE log_head SET position = position + %s
    WHERE (SELECT count(*) FROM fresh) = (SELECT count(*) FROM given WHERE expected >= 0)
    RETURNING position - %s AS before
), moved AS (
    UPDATE streams s SET version = fresh.version, state_schema = fresh.state_schema, state = fresh.state, due_at = fresh.due_at
    FROM fresh, head WHERE s.stream = fresh.stream RETURNING s.stream, s.name
), begun AS (
    INSERT INTO streams (name, version, state_schema, state, due_at)
    SELECT name, version, state_schema, state, due_at FROM given, head WHERE expected < 0 RETURNING stream, name
)
INSERT INTO events (position, stream, version, event_id, topic, schema, at, state, leaf)
SELECT head.before + o, s.stream, e.version, e.event_id, e.topic, e.schema, e.at, e.state,
    sha256(convert_to(E'leaf 3\\n' || (head.before + o) || E'\\n' || e.leaf_header || e.state, 'UTF8'))
FROM unnest(%b::text[], %s::bigint[], %b::text[], %b::text[], %s::int[], %b::text[], %b::text[], %b::text[]) WITH ORDINALITY
    AS e (name, version, event_id, topic, schema, at, state, leaf_header, o)
JOIN (SELECT * FROM moved UNION ALL SELECT * FROM begun) s USING (name), head
RETURNING position
"""
"""Append in one statement and one round trip.

The statement first selects the streams that still have their expected version (-1: the stream does not exist yet). Only
if all have it, the head of the log is advanced and rows are written. Texts are sent in binary (`%b`), because psycopg
escapes each quote of a payload in an array with a separate call.
"""

_NOT_THERE_YET = -1

STEPS: tuple[tuple[str, ...], ...] = (
    (),
    (
        "CREATE TABLE threadledger (schema_version INTEGER NOT NULL, created_at TEXT NOT NULL)",
        """CREATE TABLE streams (
            stream BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            version BIGINT NOT NULL,
            state_schema INTEGER NOT NULL,
            state TEXT NOT NULL,
            due_at TEXT
        )""",
        "CREATE INDEX streams_by_due_at ON streams (due_at) WHERE due_at IS NOT NULL",
        # `state` is text: jsonb accepts neither \\u0000 nor lone surrogates, and a log may contain both.
        """CREATE TABLE events (
            position BIGINT PRIMARY KEY,
            stream BIGINT NOT NULL REFERENCES streams (stream),
            version BIGINT NOT NULL,
            event_id TEXT NOT NULL UNIQUE,
            topic TEXT NOT NULL,
            schema INTEGER NOT NULL,
            at TEXT NOT NULL,
            state TEXT NOT NULL,
            leaf BYTEA NOT NULL,
            UNIQUE (stream, version)
        )""",
        # The last position. An append locks this row until its commit, so positions become visible in commit order, and
        # a rollback leaves no gap, unlike with a sequence.
        "CREATE TABLE log_head (position BIGINT NOT NULL)",
        "INSERT INTO log_head VALUES (0)",
        """CREATE FUNCTION events_are_kept() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'events are never changed or deleted'; END $$""",
        """CREATE TRIGGER events_are_not_changed BEFORE UPDATE OR DELETE ON events
            FOR EACH ROW EXECUTE FUNCTION events_are_kept()""",
        """CREATE TRIGGER events_are_not_deleted BEFORE TRUNCATE ON events
            FOR EACH STATEMENT EXECUTE FUNCTION events_are_kept()""",
        """CREATE TABLE mirror_heads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            version BIGINT NOT NULL,
            settled INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT,
            PRIMARY KEY (stream, mirror)
        )""",
        """CREATE TABLE assistants (
            endpoint TEXT NOT NULL,
            profile_hash TEXT NOT NULL,
            assistant_id TEXT NOT NULL,
            PRIMARY KEY (endpoint, profile_hash)
        )""",
        """CREATE TABLE tracking (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position BIGINT NOT NULL,
            live INTEGER NOT NULL,
            PRIMARY KEY (view, version, generation)
        )""",
        """CREATE TABLE parked (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position BIGINT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (view, version, generation, position)
        )""",
    ),
    (
        # Unconfirmed writes to a thread, which may still arrive: a JSON array.
        "ALTER TABLE mirror_heads ADD COLUMN doubts TEXT NOT NULL DEFAULT '[]'",
    ),
    (
        # New threads that a rebuild is writing and that are not linked yet, so that an interrupted rebuild can be
        # resumed.
        """CREATE TABLE unfinished_threads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (stream, mirror)
        )""",
        # Claims of workers on items of a job; the result of each item is an event in the log.
        """CREATE TABLE job_items (
            job TEXT NOT NULL,
            item BIGINT NOT NULL,
            ended INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT,
            PRIMARY KEY (job, item)
        )""",
    ),
    (
        # Name of the log, kept by backups and copies, so that a cursor of another log is noticed.
        "ALTER TABLE threadledger ADD COLUMN ledger_id TEXT",
        # Leaf hash of the event at the position of a view, so that a log that was rewound is noticed.
        "ALTER TABLE tracking ADD COLUMN leaf BYTEA",
        # Threads that are being created, and those that were created and not linked yet: a crash leaves a row.
        """CREATE TABLE thread_creations (
            creation TEXT PRIMARY KEY,
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            endpoint TEXT,
            thread_id TEXT,
            at TEXT NOT NULL
        )""",
    ),
)


class PostgreSQL(Kind):
    """Implement `Kind` for a PostgreSQL server."""

    name = "postgresql"
    placeholder = "%s"
    steps = STEPS
    begin_read = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    begin_write = "BEGIN"
    locks_when_writing = False
    lock_heads = " ORDER BY stream FOR UPDATE"
    # Otherwise the server plans the statement again for each append, which takes longer than running it.
    before_appends = "SET plan_cache_mode = force_generic_plan"
    confirm = "UPDATE log_head SET position = position"
    insert_numbered = "OVERRIDING SYSTEM VALUE"

    def __init__(self, url: URL) -> None:
        if importlib.util.find_spec("psycopg") is None:
            raise InvalidSettings(
                "PostgreSQL needs a driver that is not installed: run pip install 'threadledger[postgres]'"
            )
        self._is_pooled = pooled(url)
        """Whether the URL names a pooler; None if each connection finds out."""
        url, self._hosts = hosts(url.set(drivername="postgresql+psycopg").difference_update_query(["pgbouncer"]))
        self._url = url.update_query_dict({key: value for key, value in _PATIENCE.items() if key not in url.query})

    def engine(self) -> Engine:
        # Autocommit: BEGIN is sent explicitly, and a single statement needs none. Statements are prepared at their second use.
        arguments = {"autocommit": True, "prepare_threshold": 1, **self._hosts}
        engine = sqlalchemy.create_engine(self._url, connect_args=arguments, use_native_hstore=False)
        event.listen(engine, "connect", lambda connection, _: self._prepare(connection))
        return engine

    def prepare_file(self, engine: Engine) -> None:
        """Do nothing: the administrator configures the server's files."""

    def lock_schema(self, connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('threadledger schema'))")

    def append(self, cursor: Cursor, moves: Sequence[Move], rows: Sequence[StoredRow]) -> Sequence[int]:
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
        events = [
            (
                row.originator_id,
                row.originator_version,
                row.event_id,
                row.topic,
                row.schema,
                row.at,
                row.state.decode(),
                leaf_header(row),
            )
            for row in rows
        ]
        values = (*map(list, zip(*streams, strict=True)), len(rows), len(rows), *map(list, zip(*events, strict=True)))
        positions = sorted(position for (position,) in cursor.execute(_APPEND, values))
        if len(positions) != len(rows):
            raise Overtaken
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


_SETTINGS = """
SELECT set_config('lock_timeout', %s, false), set_config('client_min_messages', 'warning', false)
WHERE pg_backend_pid() = coalesce(%s, pg_backend_pid())
"""
"""Settings of a session, applied only if the server process is the one that was named to the client.

PgBouncer gives each client a number of its own, and hands a server process to another client after each transaction.
"""
