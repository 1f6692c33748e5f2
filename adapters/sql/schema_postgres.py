"""PostgreSQL's tables, as numbered steps with the numbers of SQLite's. It was not yet supported at step 1."""

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
        # `state` is text: jsonb takes neither \\u0000 nor half a character, both of which a log may have to keep.
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
        # The last position. Whoever appends holds this row until the commit: positions appear in the order of commits,
        # and a rollback gives them back, which a sequence would not.
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
            item BIGINT NOT NULL,
            ended INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT,
            PRIMARY KEY (job, item)
        )""",
    ),
)
