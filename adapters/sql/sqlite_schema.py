"""Define the numbered steps of the schema in a SQLite file. They are loaded only where a database is created or upgraded."""

from __future__ import annotations

from .connections import MARKS

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
        # The state of threads and the ids of assistants: both can be read again from the provider.
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
            item INTEGER NOT NULL,
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
        "ALTER TABLE tracking ADD COLUMN leaf BLOB",
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
    (
        # Events are copied into this table, which then takes the place of the old one. The id of an event is 16 bytes, or a
        # text if it is no UUID, and has no index. The payload comes last: the other columns are read without it.
        """CREATE TABLE copied_events (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            stream INTEGER NOT NULL REFERENCES streams (stream),
            version INTEGER NOT NULL,
            topic TEXT NOT NULL,
            schema INTEGER NOT NULL,
            at TEXT NOT NULL,
            id BLOB,
            text_id TEXT,
            leaf BLOB NOT NULL,
            state TEXT NOT NULL,
            UNIQUE (stream, version)
        )""",
        f"CREATE INDEX events_of_marks ON copied_events (stream, version) WHERE {MARKS}",
        "CREATE TABLE upgrading (position INTEGER NOT NULL)",
        "INSERT INTO upgrading VALUES (0)",
        # The events that were stored with an idempotency key, by stream, generation of its key, and idempotency key.
        """CREATE TABLE idempotency_keys (
            stream INTEGER NOT NULL REFERENCES streams (stream),
            generation INTEGER NOT NULL,
            key TEXT NOT NULL,
            version INTEGER NOT NULL,
            fingerprint BLOB,
            PRIMARY KEY (stream, generation, key)
        ) WITHOUT ROWID""",
        # Ids under which others know an event: those of imported messages.
        """CREATE TABLE addresses (
            address TEXT NOT NULL,
            stream INTEGER NOT NULL REFERENCES streams (stream),
            version INTEGER NOT NULL,
            PRIMARY KEY (address, stream, version)
        ) WITHOUT ROWID""",
        # Attachments: their bytes once, in chunks, and the events that refer to them.
        """CREATE TABLE blobs (
            address TEXT PRIMARY KEY,
            size INTEGER NOT NULL,
            complete INTEGER NOT NULL,
            at TEXT NOT NULL
        )""",
        """CREATE TABLE blob_chunks (
            address TEXT NOT NULL REFERENCES blobs (address),
            n INTEGER NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (address, n)
        )""",
        """CREATE TABLE blob_refs (
            blob TEXT NOT NULL REFERENCES blobs (address),
            stream INTEGER NOT NULL REFERENCES streams (stream),
            version INTEGER NOT NULL,
            PRIMARY KEY (blob, stream, version)
        ) WITHOUT ROWID""",
    ),
    (
        # Which process answers an exchange of the served API, or until when one waits for results of tools.
        """CREATE TABLE exchange_claims (
            stream TEXT NOT NULL,
            exchange TEXT NOT NULL,
            holder TEXT,
            held_until TEXT NOT NULL,
            PRIMARY KEY (stream, exchange)
        ) WITHOUT ROWID""",
        "CREATE INDEX exchange_claims_by_end ON exchange_claims (held_until)",
        # Requests of the served API whose response was not fully sent, so that a repeated one is recognised.
        """CREATE TABLE unsent_responses (
            request TEXT PRIMARY KEY,
            fingerprint TEXT NOT NULL,
            at TEXT NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX unsent_responses_by_fingerprint ON unsent_responses (fingerprint, at)",
        "CREATE INDEX unsent_responses_by_time ON unsent_responses (at)",
    ),
    (
        # Worker processes, so that `doctor` shows which are alive and what they do.
        """CREATE TABLE workers (
            worker TEXT PRIMARY KEY,
            started_at TEXT NOT NULL,
            seen_at TEXT NOT NULL,
            facts TEXT NOT NULL
        ) WITHOUT ROWID""",
        # What one worker at a time does: who does it, when it is due, and what is remembered of it, as JSON.
        """CREATE TABLE duties (
            duty TEXT PRIMARY KEY,
            holder TEXT,
            held_until TEXT,
            due_at TEXT,
            state TEXT NOT NULL
        ) WITHOUT ROWID""",
        # Work that failed: when it is tried again; without a time, it is parked until a person decides.
        """CREATE TABLE failed_work (
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            failed_at TEXT NOT NULL,
            next_at TEXT,
            reason TEXT NOT NULL,
            PRIMARY KEY (kind, subject)
        ) WITHOUT ROWID""",
        "CREATE INDEX failed_work_by_time ON failed_work (next_at)",
    ),
    (
        # Messages about failure groups for the webhook; one for each occurrence.
        """CREATE TABLE webhook_messages (
            message TEXT PRIMARY KEY,
            failure_group TEXT NOT NULL,
            kind TEXT NOT NULL,
            occurrence TEXT NOT NULL,
            body TEXT NOT NULL,
            created_at TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            next_at TEXT,
            sent_at TEXT,
            answer TEXT NOT NULL,
            UNIQUE (failure_group, kind, occurrence)
        ) WITHOUT ROWID""",
        "CREATE INDEX webhook_messages_by_time ON webhook_messages (next_at) WHERE next_at IS NOT NULL",
        # What the provider allows in a minute, and what is left of it, as of a time of the database's clock in Unix seconds.
        """CREATE TABLE provider_limits (
            endpoint TEXT NOT NULL,
            model TEXT NOT NULL,
            quantity TEXT NOT NULL,
            per_minute REAL NOT NULL,
            available REAL NOT NULL,
            at REAL NOT NULL,
            closed_until REAL NOT NULL,
            PRIMARY KEY (endpoint, model, quantity)
        ) WITHOUT ROWID""",
        # Backends that cool down for all processes, and until when one of them probes.
        """CREATE TABLE backend_health (
            backend TEXT PRIMARY KEY,
            since TEXT NOT NULL,
            until TEXT NOT NULL,
            failures INTEGER NOT NULL,
            last TEXT NOT NULL,
            probe_until TEXT
        ) WITHOUT ROWID""",
    ),
)

SWAP = (
    "UPDATE sqlite_sequence SET seq = max(seq, (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events')) "
    "WHERE name = 'copied_events'",
    "DROP TABLE events",
    "ALTER TABLE copied_events RENAME TO events",
    """CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never changed'); END""",
    """CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END""",
    # A program of an earlier version that is still running fails at its next append: it would drop what it does not know.
    "ALTER TABLE streams RENAME COLUMN state TO snapshot",
    "DROP TABLE upgrading",
)
