"""Upgrade a database by the step that rewrites its events, page by page, so that others can read meanwhile.

Each page is one transaction: an upgrade that breaks off goes on where it stopped. The last transaction copies what was
appended since, and switches to the new tables. Until then the database has its earlier schema, and a program of an earlier
version that writes to it loses nothing.

SQLite cannot drop the index of a column, so its events are copied to a new table. PostgreSQL can; there, only the idempotency
keys and the addresses of events are collected.
"""

from __future__ import annotations

from collections.abc import Callable

from threadledger.domain.errors import DatabaseMissing, StoreUnavailable
from threadledger.domain.ids import id_bytes
from threadledger.domain.journal import noted_row

from .connections import Transaction
from .database import Database
from .notes import noted
from .schema import EVENTS_REWRITTEN_BY, SCHEMA_VERSION, open_schema, schema_version, take_steps

UPGRADE_PAGE_EVENTS = 5_000
"""Number of positions copied per transaction, which keeps other writers waiting for less than a second."""

_COPY = (
    "INSERT INTO copied_events (position, stream, version, topic, schema, at, id, text_id, leaf, state) "
    "SELECT position, stream, version, topic, schema, at, id_bytes(CAST(event_id AS BLOB)), "
    "CASE WHEN id_bytes(CAST(event_id AS BLOB)) IS NULL THEN event_id END, leaf, state "
    "FROM events WHERE position > ? AND position <= ? ORDER BY position"
)
_KEYED = (
    "SELECT e.position, e.stream, e.version, e.topic, {payload}, e.event_id, e.at, e.schema FROM events e "
    "WHERE e.position > ? AND e.position <= ? AND e.topic = 'MessageJournaled' "
    """AND replace(e.state, '"idempotency_key":', '') <> e.state ORDER BY e.position"""
)
_COUNTS = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM copied_events)"


def upgrade(database: Database, progress: Callable[[int, int], None]) -> int | None:
    """Upgrade a database to this schema and return the schema it had; None if it has this one already.

    `progress` is called with the number of events copied and the total.

    Raises:
        DatabaseMissing, ForeignDatabase, NewerSchema: there is no ledger that this version can upgrade.
        StoreUnavailable: the events cannot be copied; the database works with its earlier schema as before.
    """
    found = database.read(lambda transaction: schema_version(transaction, database.shown_url))
    if not found:
        raise DatabaseMissing(
            f"{database.shown_url} is empty: there is nothing to upgrade; create a ledger with: threadledger init"
        )
    if found < EVENTS_REWRITTEN_BY:
        try:
            database.write(lambda transaction: _begin(transaction, database))
            while not database.write(lambda transaction: _copy_page(transaction, database, progress)):
                pass
            database.write(lambda transaction: _finish(transaction, database))
        except database.driver.IntegrityError as error:
            raise StoreUnavailable(
                f"{database.shown_url} was not upgraded, because its rows contradict each other ({error.args[0]}): it works "
                "with its earlier schema as before; list all damage with: threadledger db check"
            ) from error
    open_schema(database)
    return found if found < SCHEMA_VERSION else None


def _begin(transaction: Transaction, database: Database) -> None:
    """Take the earlier steps, and create the new tables unless an upgrade that broke off has created them."""
    database.kind.lock_schema(transaction)
    reached = schema_version(transaction, database.shown_url)
    before = EVENTS_REWRITTEN_BY - 1
    if reached < before:
        take_steps(transaction, database, reached, before)
    if reached < EVENTS_REWRITTEN_BY and not _is_begun(transaction):
        for statement in database.kind.steps[before]:
            transaction.execute(statement)


def _is_begun(transaction: Transaction) -> bool:
    return "upgrading" in transaction.tables()


def _copy_page(transaction: Transaction, database: Database, progress: Callable[[int, int], None]) -> bool:
    """Copy the next page; return whether the newest event was reached."""
    database.kind.lock_schema(transaction)
    if not _is_begun(transaction):
        return True  # another process has finished the upgrade
    copied, last = _places(transaction)
    end = min(copied + UPGRADE_PAGE_EVENTS, last)
    _copy(transaction, database, copied, end)
    progress(end, last)
    return end == last


def _places(transaction: Transaction) -> tuple[int, int]:
    query = "SELECT (SELECT position FROM upgrading), (SELECT coalesce(max(position), 0) FROM events)"
    copied, last = transaction.execute(query).fetchone()
    return int(copied), int(last)


def _copy(transaction: Transaction, database: Database, begin: int, end: int) -> None:
    """Copy the events after one position up to another, with their idempotency keys and addresses."""
    if database.kind.name == "sqlite":
        transaction.driver_connection.create_function("id_bytes", 1, _id_bytes, deterministic=True)
        transaction.execute(_COPY, (begin, end))
    found = transaction.execute(_KEYED.format(payload=database.kind.payload), (begin, end)).fetchall()
    rows = [noted_row((position, str(stream), *rest)) for position, stream, *rest in found]
    for statement, values in noted(rows, {str(row.originator_id): int(str(row.originator_id)) for row in rows}):
        # Of two equal keys, the first one counts.
        transaction.execute_many(f"{statement} ON CONFLICT DO NOTHING", values)
    transaction.execute("UPDATE upgrading SET position = ?", (end,))


def _finish(transaction: Transaction, database: Database) -> None:
    """Copy what was appended since, and switch to the new tables."""
    database.kind.lock_schema(transaction)
    if not _is_begun(transaction):
        return
    database.kind.lock_tables(transaction)
    _copy(transaction, database, *_places(transaction))
    if database.kind.name == "sqlite":
        stored, copied = transaction.execute(_COUNTS).fetchone()
        if stored != copied:
            raise StoreUnavailable(
                f"{database.shown_url} was not upgraded: {copied} of {stored} events could be copied; list all damage with: "
                "threadledger db check"
            )
    for statement in database.kind.swap:
        transaction.execute(statement)
    take_steps(transaction, database, EVENTS_REWRITTEN_BY, EVENTS_REWRITTEN_BY)


def _id_bytes(text: object) -> bytes | None:
    try:
        return id_bytes(text.decode()) if isinstance(text, bytes) else None
    except UnicodeDecodeError:
        return None
