"""SQLite's tables, as numbered steps. A step is never changed once it was released: a database may stand at any of them."""

STEPS: tuple[tuple[str, ...], ...] = (
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
    (
        # The order of conversations is a view's matter now: an append no longer writes to an index for it.
        "DROP INDEX streams_by_position",
        "ALTER TABLE streams DROP COLUMN position",
        # How far each view has come; `live` is the one that is read, another one may be under construction.
        """CREATE TABLE tracking (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            live INTEGER NOT NULL,
            PRIMARY KEY (view, version, generation)
        )""",
        # Events that a view could not take in, so that one of them does not stop all.
        """CREATE TABLE parked (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (view, version, generation, position)
        )""",
    ),
    (
        # Writes to a thread that were never answered and may still land: a JSON array.
        "ALTER TABLE mirror_heads ADD COLUMN doubts TEXT NOT NULL DEFAULT '[]'",
    ),
    (
        # New threads that a rebuild is writing, beside those that are linked: a notebook, so that a rebuild that was
        # broken off is gone on with.
        """CREATE TABLE unfinished_threads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (stream, mirror)
        )""",
        # Who is at which item of a job: a notebook beside the log, where what became of each is an event.
        """CREATE TABLE job_items (
            job TEXT NOT NULL,
            item INTEGER NOT NULL,
            ended INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT,
            PRIMARY KEY (job, item)
        )""",
    ),
)
