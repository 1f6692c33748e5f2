"""Fill large ledgers by SQL: rows like those of `audit.py`, copied with new ids, keys, positions and leaf hashes."""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from audit import DAYS, Writer, opened

import threadledger
from threadledger.adapters.sql.connections import leaf_hash
from threadledger.domain.conversation import STATE_SCHEMA, ConversationState, evolve, stream_of
from threadledger.domain.journal.rows import StoredRow
from threadledger.domain.ledger import Ledger

TEMPLATES = 50
"""Number of different conversations."""

BATCH = 2_000
"""Conversations per transaction."""

ID = re.compile(r"[0-9a-f]{8}(?=-[0-9a-f]{4}-7[0-9a-f]{3}-)")
"""First part of a generated id; a copy gets the number of its conversation instead."""

KEY = re.compile(r"customer-\d+")
EVENTS, STREAMS = "events", "streams"


class Marked(NamedTuple):
    """Hold a row by column; in its texts, the character 1 replaces the first part of each id, and 2 the key."""

    columns: dict[str, Any]
    with_marks: list[str]
    """Columns in which something is replaced."""


class Template(NamedTuple):
    """Hold the rows of a conversation."""

    stream: Marked
    events: list[Marked]
    one_day: bool
    """Whether all events are of one day, which a copy may then change."""


def fill(url: str, conversations: int, exchanges: int = 5) -> int:
    """Fill a new ledger with this many conversations, and return the number of events."""
    threadledger.open(url, threads="none").close()
    templates = list(_templates(exchanges))
    made = _copies(templates, conversations)
    store = _Postgres(url) if url.startswith("postgres") else _SQLite(url)
    events = 0
    while batch := list(islice(made, BATCH)):
        rows = [row for _, of in batch for row in of]
        store.insert([stream for stream, _ in batch], rows)
        events += len(rows)
    store.close(conversations, events)
    return events


def key_of(number: int) -> str:
    """Return the key of the conversation with a number, counted from 1."""
    return f"customer-{number}"


def _templates(exchanges: int) -> Iterator[Template]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/templates.db"
        with opened(f"sqlite:///{path}") as ledger:
            Writer(ledger).write(TEMPLATES, exchanges)
            heads = {stream_of(key): _head(ledger, key) for key, _ in ledger.journal.versions()}
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        for stream in connection.execute(f"SELECT * FROM {STREAMS} ORDER BY stream").fetchall():
            query = f"SELECT * FROM {EVENTS} WHERE stream = ? ORDER BY version"
            events = [_marked(dict(row)) for row in connection.execute(query, (stream["stream"],))]
            yield Template(
                _marked({**dict(stream), **heads[stream["name"]]}),
                events,
                len({row.columns["at"][:10] for row in events}) == 1,
            )
        connection.close()


def _head(ledger: Ledger, key: str) -> dict[str, Any]:
    """Return the columns of a stream that the writer leaves out: the state of the conversation.

    Its path hash is that of the copies too: they say the same, and only their ids and keys differ.
    """
    state = ConversationState()
    for event in ledger.journal.history(key):
        evolve(state, event)
    return {"state_schema": STATE_SCHEMA, "snapshot": state.as_json(), "due_at": state.next_deadline}


def _marked(row: Mapping[str, Any]) -> Marked:
    columns = {name: _mark(value) for name, value in row.items()}
    return Marked(
        columns, [name for name, value in columns.items() if isinstance(value, str) and {"\1", "\2"} & {*value}]
    )


def _mark(value: Any) -> Any:
    return KEY.sub("\2", ID.sub("\1", value)) if isinstance(value, str) else value


def _copied(row: Marked, number: int) -> dict[str, Any]:
    part, key = f"{number:08x}", key_of(number)
    new = row.columns | {"stream": number}
    for name in row.with_marks:
        new[name] = row.columns[name].replace("\1", part).replace("\2", key)
    if isinstance(new.get("id"), bytes):  # ids of 16 bytes
        new["id"] = number.to_bytes(4) + new["id"][4:]
    return new


def _copies(templates: Sequence[Template], conversations: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    today = datetime.now(UTC)
    days = [str((today - timedelta(days=DAYS - day)).date()) for day in range(DAYS)]
    position = 0
    for number in range(1, conversations + 1):
        template, stream = templates[number % len(templates)], stream_of(key_of(number))
        day = days[number * DAYS // (conversations + 1)] if template.one_day else None

        rows = []
        for each in template.events:
            position += 1
            row = _copied(each, number) | {"position": position}
            if day is not None:
                row["at"] = day + row["at"][10:]
            rows.append(row | {"leaf": leaf_hash(_stored(row, stream), position)})
        head = _copied(template.stream, number)
        if day is not None:
            head["snapshot"] = head["snapshot"].replace(template.events[0].columns["at"][:10], day)
        yield head, rows


def _stored(row: dict[str, Any], stream: str) -> StoredRow:
    state = row["state"] if isinstance(row["state"], bytes) else row["state"].encode()
    return StoredRow(stream, row["version"], row["topic"], state, row["id"], row["at"], row["schema"])


class _SQLite:
    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self._connection.execute("PRAGMA synchronous = OFF")

    def insert(self, streams: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> None:
        self._connection.execute("BEGIN")
        for table, rows in ((STREAMS, streams), (EVENTS, events)):
            columns = list(rows[0])
            query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"
            self._connection.executemany(query, rows)
        self._connection.execute("COMMIT")

    def close(self, streams: int, events: int) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()


class _Postgres:
    def __init__(self, url: str) -> None:
        import psycopg

        self._connection = psycopg.connect(url.replace("+psycopg", ""))

    def insert(self, streams: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> None:
        with self._connection.cursor() as cursor:
            for table, rows in ((STREAMS, streams), (EVENTS, events)):
                with cursor.copy(f"COPY {table} ({', '.join(rows[0])}) FROM STDIN") as copy:
                    for row in rows:
                        values = row | {"id": UUID(bytes=row["id"])} if row.get("id") is not None else row
                        copy.write_row(list(values.values()))
        self._connection.commit()

    def close(self, streams: int, events: int) -> None:
        self._connection.execute("SELECT setval(pg_get_serial_sequence('streams', 'stream'), %s)", (streams,))
        self._connection.execute("UPDATE log_head SET position = %s", (events,))
        self._connection.commit()
        self._connection.autocommit = True
        self._connection.execute("ANALYZE")
        self._connection.close()
