"""Define SQLite's tables as numbered steps. A released step never changes, because databases may have any schema version."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE threadledger (schema_version INTEGER NOT NULL, created_at TEXT NOT NULL)",
        # One row per stream, with the compact state of the aggregate, so that a cold append reads one row.
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
        # AUTOINCREMENT: a plain rowid is reused after a delete and renumbered by a dump.
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
        # Notebooks next to the log: both can be restored from the provider.
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
        # A view now sorts the conversations, so an append no longer updates an index for it.
        "DROP INDEX streams_by_position",
        "ALTER TABLE streams DROP COLUMN position",
        # The position of each view. The generation marked `live` is read; another one may be under construction.
        """CREATE TABLE tracking (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            live INTEGER NOT NULL,
            PRIMARY KEY (view, version, generation)
        )""",
        # Events that a view could not process, so that one of them does not block the view.
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
        # Writes to a thread without a response, which may still land: a JSON array.
        "ALTER TABLE mirror_heads ADD COLUMN doubts TEXT NOT NULL DEFAULT '[]'",
    ),
    (
        # New threads that a rebuild is writing and that are not linked yet: a notebook, so that an interrupted rebuild
        # can be resumed.
        """CREATE TABLE unfinished_threads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (stream, mirror)
        )""",
        # Which worker holds which item of a job: a notebook; the result of each item is an event in the log.
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
