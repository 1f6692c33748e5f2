"""Read conversations from the SQLite database of the openai-agents SDK's `SQLiteSession`.

Each session is a conversation, and each row is an item. The file is opened read-only. The supported format is
openai-agents 0.24: tables `agent_sessions` and `agent_messages`, items as JSON in `message_data`, timestamps in UTC.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from threadledger.domain.conversation.native import RESPONSES
from threadledger.domain.errors import InvalidInput, ThreadledgerError
from threadledger.domain.ids import from_iso, to_iso

from .items import ItemReader
from .json_values import VALUE_BYTES_MAX, too_large
from .reading import (
    NEWEST_RULE,
    TREE_RULE,
    Found,
    Imported,
    MessageReader,
    SourcePlace,
    conversation_key,
    json_of,
    made_key,
    with_repeated,
)
from .trees import in_order, read_branches

MAGIC = b"SQLite format 3\0"
"""First bytes of every SQLite file."""

SESSIONS = {"session_id", "created_at"}
MESSAGES = {"id", "session_id", "message_data", "created_at"}
"""Columns that are read."""

WRITE_VERSION_AT, WRITE_AHEAD_LOG = 18, 2
"""Offset of the write version in the file header, and its value for databases with a write-ahead log."""


Row = tuple[Any, Any, Any]
"""Id, item and time of a row."""


class SessionRows(NamedTuple):
    """Hold the rows of a session in the order of their ids, and the ids of each branch in its order, the current one first.

    A session without branches has none.
    """

    stored: list[Row]
    branches: list[list[int]]


def found_in_sessions(path: Path, file: str) -> Iterator[Found | Imported]:
    """Yield the conversation of each session, ordered by creation time; `file` names the file in keys that are made.

    Raises:
        InvalidInput: the file is not a database of the Agents SDK, or cannot be read.
    """
    number, read = 0, set[Any]()
    try:
        with closing(_connected(path)) as database:
            _check(database, file)
            for number, (session, created_at) in enumerate(_sessions(database), 1):
                try:
                    yield _found(number, session, created_at, file, _rows_of(database, session))
                except InvalidInput as error:
                    key = session.decode(errors="replace") if isinstance(session, bytes) else ""
                    yield Imported(number, key, "failed", reason=str(error))
                read.add(session)
    except sqlite3.Error as error:
        problem = f"{file} cannot be read as a SQLite database ({error}): use a complete copy"
        found = {} if isinstance(error, sqlite3.OperationalError) else _rows_before_damage(path)
        left = {session: rows for session, rows in found.items() if session not in read}
        if not read and not left:
            raise InvalidInput(problem) from error
        for number, (session, rows) in enumerate(left.items(), len(read) + 1):
            yield _found(number, session, None, file, SessionRows(rows, []))
        reason = f"{file} is damaged ({error}): use a complete copy; what comes before was read"
        yield Imported(number + 1, "", "failed", reason=reason)


def _rows_before_damage(path: Path) -> dict[Any, list[Row]]:
    """Return the rows of each session, in the order of the file, up to the first that cannot be read."""
    found: dict[Any, list[Row]] = {}
    with suppress(sqlite3.Error), closing(_connected(path)) as database:  # the damage: what was read until then is kept
        database.execute("PRAGMA writable_schema = ON")  # else a database that is cut off is not opened at all
        rows = database.execute("SELECT session_id, id, message_data, created_at FROM agent_messages NOT INDEXED")
        for session, row_id, data, created_at in rows:
            if session is not None or data is not None:  # a page that is there in part has empty rows
                found.setdefault(session, []).append((row_id, data, created_at))
    return found


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
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
    database.text_factory = bytes  # so that invalid UTF-8 is reported for its row, not for the whole database
    return database


def _check(database: sqlite3.Connection, file: str) -> None:
    columns = {name: {row[1].decode() for row in database.execute(f"PRAGMA table_info({name})")} for name in _TABLES}
    if columns["agent_sessions"] >= SESSIONS and columns["agent_messages"] >= MESSAGES:
        return
    if columns["threadledger"]:
        raise InvalidInput(
            f"{file} is a threadledger ledger, not a database of Agents SDK sessions: copy it with threadledger db copy"
        )
    raise InvalidInput(
        f"{file} is a SQLite database without the tables of Agents SDK sessions (agent_sessions, agent_messages): "
        "pass the database file that SQLiteSession uses"
    )


_TABLES = ("agent_sessions", "agent_messages", "threadledger")


def _sessions(database: sqlite3.Connection) -> list[tuple[Any, Any]]:
    """Return the id and time of each session, then the ids that only rows of messages have."""
    recorded = database.execute(
        "SELECT session_id, created_at FROM agent_sessions ORDER BY created_at, rowid"
    ).fetchall()
    others = database.execute(
        "SELECT session_id, NULL FROM agent_messages m WHERE NOT EXISTS "
        "(SELECT 1 FROM agent_sessions s WHERE s.session_id IS m.session_id) GROUP BY session_id ORDER BY min(id)"
    ).fetchall()
    return recorded + others


def _rows_of(database: sqlite3.Connection, session: Any) -> SessionRows:
    """Return the rows of a session.

    Raises:
        InvalidInput: the session is too large.
    """
    key = session.decode(errors="replace") if isinstance(session, bytes) else session
    stored: list[Row] = []
    size = 0
    try:
        for row in database.execute(
            "SELECT id, message_data, created_at FROM agent_messages WHERE session_id IS ? ORDER BY id", (key,)
        ):
            stored.append(row)
            size += len(row[1]) if isinstance(row[1], bytes) else 0
            if size > VALUE_BYTES_MAX:
                raise too_large("session")
    except sqlite3.DataError:  # a row is larger than the limit of the connection
        raise too_large("session") from None
    return SessionRows(stored, _branches(database, key, {row[0] for row in stored}))


def _found(
    number: int, session: Any, created_at: Any, file: str, rows: SessionRows, rule: int | None = None
) -> Found | Imported:
    key = ""
    rule = rule or (TREE_RULE if rows.branches else NEWEST_RULE)
    try:
        reader = MessageReader(RESPONSES, rule)
        made = made_key(file, number)
        key = conversation_key(None, made, reader.left_out) if session is None else _text(session, "the session's id")
        repeated: list[str] = []
        items = _RowReader({}, reader, ItemReader(reader), repeated)
        if not rows.branches:
            for row in rows.stored:
                items.read_row(row)
            items.end()
        else:
            items.rows.update((row[0], row) for row in rows.stored)
        others = _read_branches(rows.branches, items) if rows.branches else ()
        reader.check()
        if others:
            reader.left_out["messages_on_other_branches"] = len(others)
        places = frozenset(map(_place, others)) if rule < TREE_RULE else frozenset[str]()
        began = _moment(created_at)
        metadata = {"created_at": began} if began else {}
        found = Found(number, key, metadata, in_order(reader.entries), reader.left_out, places, rule=rule)
        again = partial(_found, number, session, created_at, file, rows)
        size = sum(len(data) for _, data, _ in rows.stored if isinstance(data, bytes))
        found = replace(found, by_rule_1=partial(again, rule=1) if rule > 1 else None)
        found = replace(found, by_rule_2=partial(again, rule=2) if rule > NEWEST_RULE else None)
        return with_repeated(found, repeated, size)
    except ThreadledgerError as error:
        return Imported(number, key, "failed", reason=str(error))


def _read_branches(branches: Sequence[Sequence[int]], items: _RowReader) -> Collection[int]:
    """Read the rows of the branches that the rule reads; return the other rows.

    Branches share the rows that they begin with. A row is read once: where a branch has one that follows another row in
    an earlier branch, it ends.
    """
    line, *others = branches if items.reader.rule >= TREE_RULE else branches[:1]
    before: dict[int, int | None] = {}
    following: dict[int | None, list[int]] = {}
    for branch in (line, *others):
        last: int | None = None
        for row in branch:
            if row not in before:
                before[row] = last
                following.setdefault(last, []).append(row)
            elif before[row] != last:
                break
            last = row
    met = read_branches(line, lambda row: following.get(row, []), items)
    return [row for row in items.rows if row not in met]


def _branches(database: sqlite3.Connection, session: Any, stored: Collection[Any]) -> list[list[int]]:
    """Return the ids of the rows of each branch, in its order, the current branch first; none without branches.

    An `AdvancedSQLiteSession` records in `message_structure` which rows belong to which branch. It does not store which
    branch is current: that is the branch that was written to last.
    """
    columns = {column[1].decode() for column in database.execute("PRAGMA table_info(message_structure)")}
    if not columns >= {"id", "session_id", "message_id", "branch_id", "sequence_number"}:
        return []
    placed = database.execute(
        "SELECT branch_id, message_id, id FROM message_structure WHERE session_id = ? ORDER BY sequence_number, id",
        (session,),
    ).fetchall()
    newest = dict[Any, int]()
    found = dict[Any, dict[int, None]]()
    for branch, row, number in placed:
        newest[branch] = max(number, newest.get(branch, 0))
        found.setdefault(branch, {})
        if row in stored:
            found[branch][row] = None
    return [list(found[branch]) for branch in sorted(found, key=lambda each: -newest[each])]


@dataclass
class _RowReader:
    """Read the rows of one branch."""

    rows: dict[int, Row]
    reader: MessageReader
    items: ItemReader
    repeated: list[str]

    def branched(self) -> Self:
        reader = self.reader.branched()
        return replace(self, reader=reader, items=self.items.branched(reader))

    def end(self) -> None:
        self.items.end()
        self.reader.end()

    def read(self, row: int) -> None:
        self.read_row(self.rows[row])

    def read_row(self, row: Row) -> None:
        _read(*row, self.reader, self.items, self.repeated)


def _read(row: int, data: Any, created_at: Any, reader: MessageReader, items: ItemReader, repeated: list[str]) -> None:
    name = f"row {row}"
    try:
        text = data if isinstance(data, bytes) else str(data).encode(errors="surrogatepass")
        item = json_of(text, "row", repeated)
    except InvalidInput as error:
        reader.leave_out(f"{name}: {error}")
        return
    written_at = _moment(created_at)
    item_id = item.get("id") if isinstance(item, Mapping) else None
    origin = {"row": row, "message_id": item_id, "created_at": written_at}
    items.read(item, SourcePlace(_place(row), name, written_at, origin))


def _place(row: Any) -> str:
    return f"agents:{row}"


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
