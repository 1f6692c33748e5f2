"""Define PostgreSQL's tables as numbered steps, with the same numbers as SQLite's. Step 1 predates PostgreSQL support."""

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
            item BIGINT NOT NULL,
            ended INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT,
            PRIMARY KEY (job, item)
        )""",
    ),
)
