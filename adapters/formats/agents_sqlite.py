"""Read conversations from the SQLite database of the openai-agents SDK's `SQLiteSession`.

Each session is a conversation, and each row is an item. The file is opened read-only. The format is that of
openai-agents 0.24: tables `agent_sessions` and `agent_messages`, items as JSON in `message_data`, timestamps in UTC.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from threadledger.domain import InvalidInput, ThreadledgerError, from_iso, to_iso

from .found import Entry, Found, Imported, json_of, message_of
from .response_items import chat_message

MAGIC = b"SQLite format 3\0"
"""First bytes of every SQLite file."""

SESSIONS = {"session_id", "created_at"}
MESSAGES = {"id", "session_id", "message_data", "created_at"}
"""Columns that are read."""

WRITE_VERSION_AT, WRITE_AHEAD_LOG = 18, 2
"""Offset of the write version in the file header, and its value for databases with a write-ahead log."""


def found_in_sessions(path: Path) -> Iterator[Found | Imported]:
    """Yield the conversation of each session, ordered by creation time.

    Raises:
        InvalidInput: the file is not a database of the Agents SDK, or cannot be read.
    """
    try:
        with closing(_connected(path)) as database:
            _check(database, path)
            for number, (session, created_at) in enumerate(_sessions(database), 1):
                yield _found(database, number, session, created_at)
    except sqlite3.Error as error:
        raise InvalidInput(f"{path} cannot be read as a SQLite database ({error}): use a complete copy") from error


def _connected(path: Path) -> sqlite3.Connection:
    """Open a read-only connection.

    A database in WAL mode whose log file does not exist is opened as immutable: a normal connection would create
    the log file next to it.
    """
    with path.open("rb") as file:
        header = file.read(WRITE_VERSION_AT + 1)
    logs = header[WRITE_VERSION_AT:] == bytes([WRITE_AHEAD_LOG])
    at_rest = logs and not path.with_name(f"{path.name}-wal").exists()
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if at_rest else ''}", uri=True)
    database.text_factory = bytes  # so that invalid UTF-8 is reported for its row, not for the whole database
    return database


def _check(database: sqlite3.Connection, path: Path) -> None:
    columns = {name: {row[1].decode() for row in database.execute(f"PRAGMA table_info({name})")} for name in _TABLES}
    if columns["agent_sessions"] >= SESSIONS and columns["agent_messages"] >= MESSAGES:
        return
    if columns["threadledger"]:
        raise InvalidInput(
            f"{path} is a threadledger ledger, not a database of Agents SDK sessions: copy it with threadledger db copy"
        )
    raise InvalidInput(
        f"{path} is a SQLite database without the tables of Agents SDK sessions (agent_sessions, agent_messages): "
        "pass the database file that SQLiteSession uses"
    )


_TABLES = ("agent_sessions", "agent_messages", "threadledger")


def _sessions(database: sqlite3.Connection) -> list[tuple[Any, Any]]:
    return database.execute("SELECT session_id, created_at FROM agent_sessions ORDER BY created_at, rowid").fetchall()


def _found(database: sqlite3.Connection, number: int, session: Any, created_at: Any) -> Found | Imported:
    key = ""
    try:
        key = _text(session, "the session's id")
        left_out: Counter[str] = Counter()
        rows = database.execute(
            "SELECT id, message_data, created_at FROM agent_messages WHERE session_id = ? ORDER BY id",
            (key,),
        )
        read = (_entry(row, data, at, left_out) for row, data, at in rows)
        entries = [entry for entry in read if entry is not None]
        began = _moment(created_at)
        return Found(number, key, {"created_at": began} if began else {}, entries, left_out)
    except ThreadledgerError as error:
        return Imported(number, key, "failed", reason=str(error))


def _entry(row: int, data: Any, created_at: Any, left_out: Counter[str]) -> Entry | None:
    name = f"row {row}"
    try:
        given = chat_message(json_of(data if isinstance(data, bytes) else str(data).encode(), "row"), left_out)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from None
    return None if given is None else Entry(message_of(given, name), f"agents:{row}", name, _moment(created_at))


def _text(value: Any, what: str) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} is not UTF-8 text (byte {error.start}): fix it in the database") from None


def _moment(value: Any) -> str | None:
    try:
        return to_iso(from_iso(value.decode()))
    except (AttributeError, ValueError):
        return None
