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

from .connections import LOCK_TIMEOUT_SECONDS, Cursor, Kind, Move, Overtaken, leaf_text

CONNECT_TIMEOUT_SECONDS = 5
"""Timeout of one connection attempt, in seconds. `connect_timeout` in the URL overrides it."""

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
    sha256(convert_to(head.before + o || E'\\n' || e.leaf_text, 'UTF8'))
FROM unnest(%b::text[], %s::bigint[], %b::text[], %b::text[], %s::int[], %b::text[], %b::text[], %b::text[]) WITH ORDINALITY
    AS e (name, version, event_id, topic, schema, at, state, leaf_text, o)
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
    insert_numbered = "OVERRIDING SYSTEM VALUE"

    def __init__(self, url: URL) -> None:
        if importlib.util.find_spec("psycopg") is None:
            raise InvalidSettings(
                "PostgreSQL needs a driver that is not installed: run pip install 'threadledger[postgres]'"
            )
        url = url.set(drivername="postgresql+psycopg")
        patience = {} if "connect_timeout" in url.query else {"connect_timeout": str(CONNECT_TIMEOUT_SECONDS)}
        self._url = url.update_query_dict(patience)

    def engine(self) -> Engine:
        # Autocommit: BEGIN is sent explicitly, and a single statement needs none. Statements are prepared at their second use.
        engine = sqlalchemy.create_engine(self._url, connect_args={"autocommit": True, "prepare_threshold": 1})
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
                leaf_text(row),
            )
            for row in rows
        ]
        values = (*map(list, zip(*streams, strict=True)), len(rows), len(rows), *map(list, zip(*events, strict=True)))
        positions = sorted(position for (position,) in cursor.execute(_APPEND, values))
        if len(positions) != len(rows):
            raise Overtaken
        return positions

    def explain(self, error: BaseException) -> tuple[str, str]:
        state, message = str(getattr(error, "sqlstate", None) or ""), str(error)
        if state[:2] == "28" or state == "3D000" or any(words in message for words in _NOT_LET_IN):
            return "unusable", "correct the user, password or database name in THREADLEDGER_DB"
        if state == "25006":
            return "read-only", (
                "this server is a hot standby or set to read-only: write to the primary, or name both servers in the URL "
                "with target_session_attrs=read-write"
            )
        kinds = {each.__name__ for each in type(error).__mro__}
        if (
            state[:2] == "08"
            or state in _SHUTTING_DOWN
            or (not state and kinds & {"OperationalError", "InterfaceError"})
        ):
            return "lost", "check that the server is running and reachable, then try again"
        if state in {"55P03", "40P01", "57014"}:
            return "unusable", "another process holds a lock for too long; try again, or find it in pg_stat_activity"
        if state[:2] == "53":
            return "unusable", "the server is out of disk, memory or connections: free some, then try again"
        if state[:2] == "22" or "DataError" in kinds:
            return "unusable", "PostgreSQL cannot store this text: remove the characters named in the message"
        return "unusable", "check the server's log and the permissions of the database user"

    @staticmethod
    def _prepare(connection: Any) -> None:
        connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_SECONDS * 1000:.0f}")
        connection.execute("SET client_min_messages = warning")


_SHUTTING_DOWN = {"57P01", "57P02", "57P03"}
"""SQLSTATEs of a server that is stopping, crashed or starting.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

_NOT_LET_IN = ("does not exist", "password authentication failed", "no password supplied", "no pg_hba.conf entry")
"""Texts in libpq's errors for connections that the server refused; libpq passes on no error code."""
