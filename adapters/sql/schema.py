"""Create the tables of a ledger, or upgrade them by numbered steps.

The only row of the table `threadledger` holds the last step applied to a database. Databases of other programs and
those written by a newer version are refused: neither is ever read as an empty ledger.
"""

from __future__ import annotations

from threadledger.domain.errors import DatabaseMissing, ForeignDatabase, NewerSchema, OlderSchema
from threadledger.domain.ids import new_id, now, to_iso

from .connections import Transaction
from .database import Database

SCHEMA_VERSION = 9
"""Schema version that this version of threadledger uses: the number of the last step of each kind of database."""

EVENTS_REWRITTEN_BY = 6
"""Step that rewrites every event, so it is not a part of opening: `upgrading.py` performs it."""

OURS = {"threadledger", "streams", "events"}
"""Tables that identify a ledger."""


def open_schema(database: Database) -> None:
    """Create or upgrade the tables, in one transaction.

    Raises:
        ForeignDatabase: the database contains tables, but not the tables of a ledger.
        NewerSchema: a newer threadledger wrote it.
        DatabaseMissing, OlderSchema: it is empty or older, and was opened without creating or upgrading it.
    """
    if database.schema_is_open:
        return
    reached = database.read(lambda transaction: schema_version(transaction, database.shown_url))
    if not reached and not database.creates:
        raise DatabaseMissing(
            f"{database.shown_url} is empty: create a ledger there with: threadledger init, or choose another with --db"
        )
    if reached != SCHEMA_VERSION:
        if not database.upgrades:
            raise OlderSchema(
                f"{database.shown_url} has schema {reached}, and reading does not upgrade it to {SCHEMA_VERSION}: "
                "nothing was changed; back it up with threadledger db backup FILE, then run: threadledger db upgrade"
            )
        if 0 < reached < EVENTS_REWRITTEN_BY:
            raise OlderSchema(
                f"{database.shown_url} has schema {reached}, and its upgrade to {SCHEMA_VERSION} rewrites the events: "
                "nothing was changed; back it up with threadledger db backup FILE, then run: threadledger db upgrade"
            )
        reached = database.schema_before = database.write(lambda transaction: _upgrade(transaction, database))
    if database.upgrades:
        with database.cursor() as cursor:
            database.kind.prepare_file(cursor)
    database.schema_is_open = True


def schema_version(transaction: Transaction, shown_url: str) -> int:
    """Return the schema version of a database; 0 for one without tables.

    Raises:
        ForeignDatabase, NewerSchema: see `open_schema`.
    """
    tables = transaction.tables()
    if not tables:
        return 0
    if not tables >= OURS:
        found = ", ".join(sorted(tables)[:5])
        raise ForeignDatabase(
            f"{shown_url} is not a threadledger database (its tables are {found}): nothing was changed; "
            "choose another one with --db or THREADLEDGER_DB"
        )
    version = int(transaction.execute("SELECT schema_version FROM threadledger").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{shown_url} has schema {version}, but this threadledger supports only up to {SCHEMA_VERSION}: "
            "nothing was changed; upgrade with: pip install --upgrade threadledger"
        )
    return version


def _upgrade(transaction: Transaction, database: Database) -> int:
    database.kind.lock_schema(transaction)
    reached = schema_version(transaction, database.shown_url)
    if reached < SCHEMA_VERSION:
        take_steps(transaction, database, reached, SCHEMA_VERSION)
        for statement in database.kind.swap if reached < EVENTS_REWRITTEN_BY else ():
            transaction.execute(statement)
    return reached


def take_steps(transaction: Transaction, database: Database, reached: int, wanted: int) -> None:
    """Execute the statements of the steps after the one that was reached, and note the last one."""
    for statement in (statement for step in database.kind.steps[reached:wanted] for statement in step):
        transaction.execute(statement)
    if reached == 0:
        first = "INSERT INTO threadledger (schema_version, created_at) VALUES (?, ?)"
        transaction.execute(first, (wanted, to_iso(now())))
    else:
        transaction.execute("UPDATE threadledger SET schema_version = ?", (wanted,))
    if wanted >= _NAMED_BY:
        unnamed = "UPDATE threadledger SET ledger_id = ? WHERE ledger_id IS NULL"
        transaction.execute(unnamed, (new_id(),))


_NAMED_BY = 5
"""Step that gives a ledger its id."""
