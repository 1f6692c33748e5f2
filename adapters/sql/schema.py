"""The tables, as numbered steps that only go forward. Opening a database creates or upgrades it.

One row of `threadledger` says which step a database has reached. What is not ours is refused, and so is what a newer
version wrote: neither is ever read as an empty ledger.
"""

from sqlalchemy import Connection, Engine, inspect

from threadledger.domain import ForeignDatabase, NewerSchema, now, to_iso

SQLITE_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE threadledger (schema_version INTEGER NOT NULL, created_at TEXT NOT NULL)",
        # A stream is named once; its row holds the aggregate's slim state, so that a cold append reads one row.
        """CREATE TABLE streams (
            stream INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            version INTEGER NOT NULL,
            state_schema INTEGER NOT NULL,
            state TEXT NOT NULL,
            due_at TEXT,
            position INTEGER NOT NULL
        )""",
        "CREATE INDEX streams_by_position ON streams (position)",
        "CREATE INDEX streams_by_due_at ON streams (due_at) WHERE due_at IS NOT NULL",
        # AUTOINCREMENT: a plain rowid is given out again after a delete, and renumbered by a dump.
        """CREATE TABLE events (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            stream INTEGER NOT NULL REFERENCES streams (stream),
            version INTEGER NOT NULL,
            event_id TEXT NOT NULL UNIQUE,
            topic TEXT NOT NULL,
            schema INTEGER NOT NULL,
            at TEXT NOT NULL,
            state TEXT NOT NULL,
            leaf BLOB NOT NULL,
            UNIQUE (stream, version)
        )""",
        """CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never changed'); END""",
        """CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END""",
        # Notebooks beside the log: both can be made again from the provider.
        """CREATE TABLE mirror_heads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            version INTEGER NOT NULL,
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
    ),
)

SCHEMA_VERSION = len(SQLITE_STEPS)
"""The step that this version of threadledger works with."""


def open_schema(reader: Engine, writer: Engine, shown_url: str) -> None:
    """Create or upgrade the tables, in one transaction.

    Raises:
        ForeignDatabase: the database holds tables, but not ours.
        NewerSchema: a newer threadledger wrote it.
    """
    with reader.connect() as connection:
        if schema_version(connection, shown_url) == SCHEMA_VERSION:
            return
    with writer.begin() as connection:
        reached = schema_version(connection, shown_url)
        for statement in (statement for step in SQLITE_STEPS[reached:] for statement in step):
            connection.exec_driver_sql(statement)
        if reached == 0:
            connection.exec_driver_sql("INSERT INTO threadledger VALUES (?, ?)", (SCHEMA_VERSION, to_iso(now())))
        else:
            connection.exec_driver_sql("UPDATE threadledger SET schema_version = ?", (SCHEMA_VERSION,))


def schema_version(connection: Connection, shown_url: str) -> int:
    """The step a database has reached; 0 for one without any table.

    Raises:
        ForeignDatabase, NewerSchema: see `open_schema`.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return 0
    if not {"threadledger", "streams", "events"} <= tables:
        found = ", ".join(sorted(tables)[:5])
        raise ForeignDatabase(
            f"{shown_url} is not a threadledger database (its tables are {found}): nothing was changed; "
            "name another one with --db or THREADLEDGER_DB"
        )
    version = int(connection.exec_driver_sql("SELECT schema_version FROM threadledger").scalar_one())
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{shown_url} has schema {version}, this threadledger knows up to {SCHEMA_VERSION}: "
            "nothing was changed; upgrade with: pip install --upgrade threadledger"
        )
    return version
