"""Write items of work for the engine of workers in PostgreSQL, also in the transaction of an append.

The rows are those of Procrastinate, in a schema of its own. They are written by our own statement: an append cannot fail
because its conversation waits already, and whoever has little waiting work comes before others that have much.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

from threadledger.domain.ids import to_iso
from threadledger.domain.journal import Also

from .connections import Transaction
from .database import Database

ENGINE_SCHEMA = "threadledger_workers"
"""Name of the schema of the engine's tables, if the ledger's tables are in the schema `public`."""

NAME_BYTES_MAX = 63
"""Maximum length of a name in PostgreSQL, in bytes."""

TASK = "threadledger"
"""Name of the engine's only task."""

SHARE_RANKS = 100
"""Number of waiting items of one share up to which each further one has a lower priority than the one before."""

_DEFER = f"""
INSERT INTO {{schema}}.procrastinate_jobs AS j
    (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT ?, '{TASK}', -(SELECT count(*) FROM (
    SELECT 1 FROM {{schema}}.procrastinate_jobs WHERE status = 'todo' AND args ->> 'share' = ? LIMIT {SHARE_RANKS}
) AS waiting)::int, ?, ?, CAST(? AS jsonb), CAST(? AS timestamptz)
WHERE ? = 0 OR NOT EXISTS (SELECT 1 FROM {{schema}}.procrastinate_jobs WHERE status = 'doing' AND lock = ?)
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO UPDATE
    SET scheduled_at = CASE WHEN excluded.scheduled_at < j.scheduled_at THEN excluded.scheduled_at END
    WHERE j.scheduled_at > coalesce(excluded.scheduled_at, '-infinity')
"""
_EXISTS = "SELECT to_regclass('{schema}.procrastinate_jobs') IS NOT NULL"
_FUNCTIONS = (
    "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = '{schema}'::regnamespace ORDER BY p.oid"
)
"""Functions of the engine, which triggers call in sessions with another search path."""

_LIVE = "SELECT 1 FROM {schema}.procrastinate_workers WHERE last_heartbeat > now() - interval '1 minute' LIMIT 1"
_COMMENT = "SELECT obj_description('{schema}'::regnamespace, 'pg_namespace')"
_COUNTS = (
    "SELECT count(*) FILTER (WHERE status = 'todo'), count(*) FILTER (WHERE status = 'doing') "
    "FROM {schema}.procrastinate_jobs WHERE status IN ('todo', 'doing')"
)

_BROKEN = (
    "UPDATE {schema}.procrastinate_jobs AS j SET status = 'todo', abort_requested = false, worker_id = NULL "
    "WHERE status IN ('failed', 'aborted') AND NOT EXISTS (SELECT 1 FROM {schema}.procrastinate_jobs AS other "
    "WHERE other.status = 'todo' AND other.queueing_lock = j.queueing_lock)"
)
_DOUBLE = "DELETE FROM {schema}.procrastinate_jobs WHERE status IN ('failed', 'aborted')"


class Deferred(NamedTuple):
    """Describe one row for the engine."""

    queue: str
    name: str
    share: str
    arguments: str
    """JSON object that the task gets."""
    due_at: datetime | None = None
    once: bool = False
    """Whether it is not to be written while one in progress has its name."""

    def values(self) -> tuple[str | int | None, ...]:
        due = to_iso(self.due_at) if self.due_at is not None else None
        return (self.queue, self.share, self.name, self.name, self.arguments, due, int(self.once), self.name)


def deferred(
    queue: str, kind: str, subject: str, share: str = "", due_at: datetime | None = None, *, once: bool = False
) -> Deferred:
    """Return the row of an item of work."""
    arguments = json.dumps({"kind": kind, "subject": subject, "share": share})
    return Deferred(queue, f"{kind}:{subject}", share, arguments, due_at, once)


class Deferral:
    """Write rows for the engine, if it was set up in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._exists = False

    @cached_property
    def schema(self) -> str:
        """Return the quoted name of the engine's schema: each schema of ledgers has its own."""
        own = str(self._database.query("SELECT current_schema()")[0][0])
        name = ENGINE_SCHEMA if own == "public" else f"{own}_workers"
        if len(name.encode()) > NAME_BYTES_MAX:
            name = f"{ENGINE_SCHEMA}_{sha256(own.encode()).hexdigest()[:16]}"
        doubled = name.replace('"', '""')
        return f'"{doubled}"'

    def exists(self) -> bool:
        """Return whether the engine was set up; it is looked for until it was."""
        self._exists = self._exists or bool(self._database.query(self._in_schema(_EXISTS))[0][0])
        return self._exists

    def also(self, row: Deferred) -> Also:
        """Return what defers an item in the transaction of an append; nothing while the engine was not set up."""
        statement, exists = self._database.sql(self._in_schema(_DEFER)), self._in_schema(_EXISTS)

        def note(cursor: Any) -> None:
            if not self._exists:
                cursor.execute(exists)
                self._exists = bool(cursor.fetchone()[0])
            if self._exists:
                self._exists = False  # if this fails, because the schema was removed, the next append looks again
                cursor.execute(statement, row.values())
                self._exists = True

        return note

    def defer(self, rows: Iterable[Deferred]) -> None:
        """Write items in a transaction of their own."""
        values = [row.values() for row in rows]
        if values:
            statement = self._in_schema(_DEFER)
            self._database.write(lambda transaction: transaction.execute_many(statement, values))

    def counts(self) -> tuple[int, int]:
        """Return the number of items that wait, and of those in progress."""
        ((waiting, running),) = self._database.query(self._in_schema(_COUNTS))
        return int(waiting), int(running)

    def revive(self) -> int:
        """Queue items again that broke off because their worker or its database did; return their number."""

        def work(transaction: Transaction) -> int:
            revived = int(transaction.execute(self._in_schema(_BROKEN)).rowcount)
            transaction.execute(self._in_schema(_DOUBLE))
            return revived

        return self._database.write(work)

    def set_up(self, definition: str, version: str, changes: Sequence[str]) -> bool:
        """Create the engine's schema unless it is there, and return whether it was created.

        One that another version has created is replaced if no worker uses it: its rows are found again from the log.
        """
        wanted, schema = f"Procrastinate {version}", self.schema

        def work(transaction: Transaction) -> bool:
            self._database.kind.lock_schema(transaction)
            if transaction.execute(self._in_schema(_EXISTS)).fetchone()[0]:
                is_current = transaction.execute(self._in_schema(_COMMENT)).fetchone()[0] == wanted
                if is_current or transaction.execute(self._in_schema(_LIVE)).fetchone() is not None:
                    return False
                transaction.execute(f"DROP SCHEMA {schema} CASCADE")
            transaction.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            transaction.execute(f"COMMENT ON SCHEMA {schema} IS '{wanted}'")
            transaction.execute(f"SET LOCAL search_path TO {schema}")
            transaction.execute(definition)
            for change in changes:
                transaction.execute(change)
            for (function,) in transaction.execute(self._in_schema(_FUNCTIONS)).fetchall():
                transaction.execute(f"ALTER FUNCTION {function} SET search_path TO {schema}")
            return True

        return self._database.write(work)

    def _in_schema(self, statement: str) -> str:
        return statement.replace("{schema}", self.schema)
