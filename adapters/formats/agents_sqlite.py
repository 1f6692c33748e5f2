"""The SQLite database of the openai-agents SDK's `SQLiteSession`: a session is a conversation, a row an item.

The file is opened read-only. Read in openai-agents 0.24: tables `agent_sessions` and `agent_messages`, the items as JSON in
`message_data`, times in UTC.
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
"""What every SQLite file begins with."""

SESSIONS = {"session_id", "created_at"}
MESSAGES = {"id", "session_id", "message_data", "created_at"}
"""The columns that are read."""

WRITE_VERSION_AT, WRITE_AHEAD_LOG = 18, 2
"""The byte of the header that says whether changes go to a file beside it."""


def found_in_sessions(path: Path) -> Iterator[Found | Imported]:
    """The conversation of each session, in the order in which they began.

    Raises:
        InvalidInput: it is not a database of the SDK's.
    """
    try:
        with closing(_connected(path)) as database:
            _check(database, path)
            for number, (session, created_at) in enumerate(_sessions(database), 1):
                yield _found(database, number, session, created_at)
    except sqlite3.Error as error:
        raise InvalidInput(f"{path} cannot be read as a SQLite database ({error}): name a whole copy of it") from error


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing. A database with a write-ahead log that has none at the moment is read as it lies
    there: to open it otherwise would leave such a log beside it."""
    with path.open("rb") as file:
        header = file.read(WRITE_VERSION_AT + 1)
    logs = header[WRITE_VERSION_AT:] == bytes([WRITE_AHEAD_LOG])
    at_rest = logs and not path.with_name(f"{path.name}-wal").exists()
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if at_rest else ''}", uri=True)
    database.text_factory = bytes  # what is no UTF-8 is told of its row, not of the database
    return database


def _check(database: sqlite3.Connection, path: Path) -> None:
    columns = {name: {row[1].decode() for row in database.execute(f"PRAGMA table_info({name})")} for name in _TABLES}
    if columns["agent_sessions"] >= SESSIONS and columns["agent_messages"] >= MESSAGES:
        return
    if columns["threadledger"]:
        raise InvalidInput(
            f"{path} is not a database of Agents SDK sessions: of a ledger, copy it with threadledger db copy"
        )
    raise InvalidInput(
        f"{path} is a SQLite database without the tables of Agents SDK sessions (agent_sessions, agent_messages): "
        "name the file that SQLiteSession was given"
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
        raise InvalidInput(f"{what} is not UTF-8 text (byte {error.start}): mend it in the database") from None


def _moment(value: Any) -> str | None:
    try:
        return to_iso(from_iso(value.decode()))
    except (AttributeError, ValueError):
        return None
