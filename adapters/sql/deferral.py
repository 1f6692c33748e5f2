"""Hand work over to the engine of workers in PostgreSQL, also in the transaction of an append.

The rows are those of Procrastinate, in a schema of its own. They are written by our own statement: an append cannot fail
because its conversation waits already, and whoever has little waiting work comes before others that have much.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from threadledger.domain.ids import to_iso
from threadledger.domain.journal import Also

from .connections import Transaction
from .database import Database

ENGINE_SCHEMA = "threadledger_workers"
"""Name of the schema of the engine's tables."""

TASK = "threadledger"
"""Name of the engine's only task."""

SHARE_RANKS = 100
"""Number of waiting items of one share up to which each further one has a lower priority than the one before."""

_DEFER = f"""
INSERT INTO {ENGINE_SCHEMA}.procrastinate_jobs AS j
    (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT ?, '{TASK}', -(SELECT count(*) FROM (
    SELECT 1 FROM {ENGINE_SCHEMA}.procrastinate_jobs WHERE status = 'todo' AND args ->> 'share' = ? LIMIT {SHARE_RANKS}
) AS waiting)::int, ?, ?, CAST(? AS jsonb), CAST(? AS timestamptz)
WHERE ? = 0 OR NOT EXISTS (SELECT 1 FROM {ENGINE_SCHEMA}.procrastinate_jobs WHERE status = 'doing' AND lock = ?)
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO UPDATE
    SET scheduled_at = CASE WHEN excluded.scheduled_at < j.scheduled_at THEN excluded.scheduled_at END
    WHERE j.scheduled_at > coalesce(excluded.scheduled_at, '-infinity')
"""
_EXISTS = f"SELECT to_regclass('{ENGINE_SCHEMA}.procrastinate_jobs') IS NOT NULL"
_FUNCTIONS = (
    f"SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = '{ENGINE_SCHEMA}'::regnamespace "
    "ORDER BY p.oid"
)
"""Functions of the engine, which triggers call in sessions with another search path."""

_LIVE = (
    f"SELECT 1 FROM {ENGINE_SCHEMA}.procrastinate_workers WHERE last_heartbeat > now() - interval '1 minute' LIMIT 1"
)
_COMMENT = f"SELECT obj_description('{ENGINE_SCHEMA}'::regnamespace, 'pg_namespace')"
_COUNTS = (
    f"SELECT count(*) FILTER (WHERE status = 'todo'), count(*) FILTER (WHERE status = 'doing') "
    f"FROM {ENGINE_SCHEMA}.procrastinate_jobs WHERE status IN ('todo', 'doing')"
)


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

    def exists(self) -> bool:
        """Return whether the engine was set up; it is looked for until it was."""
        self._exists = self._exists or bool(self._database.query(_EXISTS)[0][0])
        return self._exists

    def also(self, row: Deferred) -> Also:
        """Return what defers an item in the transaction of an append; nothing while the engine was not set up."""
        statement = self._database.sql(_DEFER)

        def note(cursor: Any) -> None:
            if not self._exists:
                cursor.execute(_EXISTS)
                self._exists = bool(cursor.fetchone()[0])
            if self._exists:
                self._exists = False  # if this fails, because the schema was removed, the next append looks again
                cursor.execute(statement, row.values())
                self._exists = True

        return note

    def defer(self, rows: Iterable[Deferred]) -> None:
        """Defer items in a transaction of their own."""
        values = [row.values() for row in rows]
        if values:
            self._database.write(lambda transaction: transaction.execute_many(_DEFER, values))

    def counts(self) -> tuple[int, int]:
        """Return the number of items that wait, and of those in progress."""
        ((waiting, running),) = self._database.query(_COUNTS)
        return int(waiting), int(running)

    def set_up(self, schema: str, version: str, changes: Sequence[str]) -> bool:
        """Create the engine's schema unless it is there, and return whether it was created.

        One that another version has created is replaced if no worker uses it: its rows are found again from the log.
        """
        wanted = f"Procrastinate {version}"

        def work(transaction: Transaction) -> bool:
            self._database.kind.lock_schema(transaction)
            if transaction.execute(_EXISTS).fetchone()[0]:
                is_current = transaction.execute(_COMMENT).fetchone()[0] == wanted
                if is_current or transaction.execute(_LIVE).fetchone() is not None:
                    return False
                transaction.execute(f"DROP SCHEMA {ENGINE_SCHEMA} CASCADE")
            transaction.execute(f"CREATE SCHEMA IF NOT EXISTS {ENGINE_SCHEMA}")
            transaction.execute(f"COMMENT ON SCHEMA {ENGINE_SCHEMA} IS '{wanted}'")
            transaction.execute(f"SET LOCAL search_path TO {ENGINE_SCHEMA}")
            transaction.execute(schema)
            for change in changes:
                transaction.execute(change)
            for (function,) in transaction.execute(_FUNCTIONS).fetchall():
                transaction.execute(f"ALTER FUNCTION {function} SET search_path TO {ENGINE_SCHEMA}")
            return True

        return self._database.write(work)
