"""Our recorder: eventsourcing's `ApplicationRecorder` and the domain's `EventLog` on SQLAlchemy Core.

An append is one transaction: the stream's version is compared and set, its events are inserted, its new state is stored
beside it. Positions are given in the order of commits, because the transaction holds the write lock from its beginning.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Event
from typing import Any
from uuid import UUID

from eventsourcing.persistence import ApplicationRecorder, IntegrityError, StoredEvent, Subscription
from sqlalchemy import Connection, exc

from threadledger.domain import LoggedRow, StoredRow, StreamHead, new_id, now, to_iso

from .engine import Database
from .schema import open_schema, schema_version

FOLLOW_SECONDS = 0.05
"""How often a subscription looks for events of other processes."""

_INSERT_EVENT = (
    "INSERT INTO events (stream, version, event_id, topic, schema, at, state, leaf) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = (
    "SELECT e.position, s.name, e.version, e.topic, e.state, e.event_id, e.at, e.schema "
    "FROM events e JOIN streams s USING (stream)"
)


class Recorder(ApplicationRecorder):
    """Events of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.named_errors():
            open_schema(database.reader, database.writer, database.shown_url)
        database.use_wal()

    def insert_events(
        self, stored_events: Sequence[StoredEvent], *, heads: Sequence[StreamHead] = (), **kwargs: Any
    ) -> Sequence[int]:
        """Store events in one transaction, all or none; `heads` are the states their streams have afterwards.

        Returns:
            The position of each event in the log.

        Raises:
            IntegrityError: a stream moved on, or an event id is taken.
        """
        if not stored_events:
            return []
        rows = [_as_row(stored) for stored in stored_events]
        given = {head.stream: head for head in heads}
        try:
            with self._database.writing() as connection:
                return self._insert(connection, rows, given)
        except exc.IntegrityError as error:
            raise IntegrityError(str(error.orig)) from error

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """A stream's events, by version."""
        conditions: list[str] = ["s.name = ?"]
        values: list[str | int] = [str(originator_id)]
        bounds: list[tuple[str, int | None]] = [("e.version > ?", gt), ("e.version <= ?", lte)]
        for condition, bound in bounds:
            if bound is not None:
                conditions.append(condition)
                values.append(bound)
        order = "DESC" if desc else "ASC"
        query = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY e.version {order} LIMIT {-1 if limit is None else limit:d}"
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.exec_driver_sql(query, tuple(values))]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[LoggedRow]:
        """The whole log, by position."""
        conditions: list[str] = ["TRUE"]
        values: list[Any] = []
        if start is not None:
            conditions.append("e.position >= ?" if inclusive_of_start else "e.position > ?")
            values.append(start)
        if stop is not None:
            conditions.append("e.position <= ?")
            values.append(stop)
        if topics:
            conditions.append(f"e.topic IN ({', '.join('?' for _ in topics)})")
            values.extend(topics)
        query = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY e.position LIMIT {limit:d}"
        with self._database.reading() as connection:
            return [_logged(row) for row in connection.exec_driver_sql(query, tuple(values))]

    def max_notification_id(self) -> int | None:
        """The last position; None where nothing was stored."""
        with self._database.reading() as connection:
            position: int | None = connection.exec_driver_sql("SELECT max(position) FROM events").scalar()
            return position

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """The log from a position on, and what comes after, whichever process writes it."""
        return PollingSubscription(self, gt, topics)

    def select_head(self, stream: str) -> StreamHead | None:
        """The state of one stream: one row, however long it is."""
        query = "SELECT name, version, state_schema, state, due_at FROM streams WHERE name = ?"
        with self._database.reading() as connection:
            row = connection.exec_driver_sql(query, (stream,)).one_or_none()
            return StreamHead(*row) if row is not None else None

    def select_heads(
        self, prefix: str, *, limit: int | None = None, overdue_at: datetime | None = None
    ) -> Sequence[StreamHead]:
        """The streams with this prefix, last changed first; or only those with a run overdue at a time."""
        overdue = "" if overdue_at is None else "AND due_at < ?"
        query = (
            "SELECT name, version, state_schema, state, due_at FROM streams "
            f"WHERE substr(name, 1, ?) = ? {overdue} ORDER BY position DESC LIMIT ?"
        )
        bounds = () if overdue_at is None else (to_iso(overdue_at),)
        values = (len(prefix), prefix, *bounds, -1 if limit is None else limit)
        with self._database.reading() as connection:
            return [StreamHead(*row) for row in connection.exec_driver_sql(query, values)]

    def select_event(self, event_id: str) -> StoredEvent | None:
        """One event by its id."""
        with self._database.reading() as connection:
            row = connection.exec_driver_sql(f"{_SELECT} WHERE e.event_id = ?", (event_id,)).one_or_none()
            return _stored(row) if row is not None else None

    def status(self) -> Mapping[str, Any]:
        """What is in the database, and how large it is."""
        count = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM streams WHERE name LIKE 'conversation:%')"
        with self._database.reading() as connection:
            stored, conversations = connection.exec_driver_sql(count).one()
            schema = schema_version(connection, self._database.shown_url)
        return {
            "url": self._database.shown_url,
            "dialect": self._database.reader.dialect.name,
            "schema_version": schema,
            "events": stored,
            "conversations": conversations,
            "size_bytes": self._database.size_bytes(),
        }

    def _insert(self, connection: Connection, rows: Sequence[StoredRow], heads: Mapping[str, StreamHead]) -> list[int]:
        streams = {name: self._advance(connection, name, rows, heads.get(name)) for name in _names(rows)}
        positions = []
        for row in rows:
            state = row.state.decode()
            values = (
                streams[str(row.originator_id)],
                row.originator_version,
                row.event_id,
                row.topic,
                row.schema,
                row.at,
                state,
                leaf_hash(row),
            )
            positions.append(int(connection.exec_driver_sql(_INSERT_EVENT, values).lastrowid))
        for name, position in zip((str(row.originator_id) for row in rows), positions, strict=True):
            connection.exec_driver_sql("UPDATE streams SET position = ? WHERE stream = ?", (position, streams[name]))
        return positions

    def _advance(self, connection: Connection, name: str, rows: Sequence[StoredRow], head: StreamHead | None) -> int:
        """Compare and set the stream's version; returns the stream's number."""
        versions = [row.originator_version for row in rows if row.originator_id == name]
        first, last = versions[0], versions[-1]
        state = (head.state_schema, head.state, head.due_at) if head is not None else (0, "", None)
        found = connection.exec_driver_sql("SELECT stream, version FROM streams WHERE name = ?", (name,)).one_or_none()
        if head is not None and (found.version if found is not None else 0) != first - 1:
            raise IntegrityError(f"{name} is at version {found.version if found else 0}, not at {first - 1}")
        if found is None:
            inserted = connection.exec_driver_sql(
                "INSERT INTO streams (name, version, state_schema, state, due_at, position) VALUES (?, ?, ?, ?, ?, 0)",
                (name, last, *state),
            )
            return int(inserted.lastrowid)
        connection.exec_driver_sql(
            "UPDATE streams SET version = ?, state_schema = ?, state = ?, due_at = ? WHERE stream = ?",
            (max(last, found.version), *state, found.stream),
        )
        return int(found.stream)


class PollingSubscription(Subscription[ApplicationRecorder]):
    """Looks again and again: a wake-up across processes is only ever a hint."""

    def __init__(self, recorder: Recorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._log = recorder
        self._after = gt
        self._page: list[LoggedRow] = []
        self._stopping = Event()

    def stop(self) -> None:
        """End the iteration, from another thread too."""
        super().stop()
        self._stopping.set()

    def __next__(self) -> LoggedRow:
        if self._stopping.is_set():
            raise StopIteration
        while not self._page:
            if self._stopping.is_set():
                raise StopIteration
            start = self._after if self._after is not None else 0
            self._page = list(self._log.select_notifications(start, 500, topics=self._topics, inclusive_of_start=False))
            if not self._page:
                self._stopping.wait(FOLLOW_SECONDS)
        row = self._page.pop(0)
        self._after = row.id
        return row


def leaf_hash(row: StoredRow) -> bytes:
    """SHA-256 over a row's own fields, the payload by its hash: an edited row no longer fits its leaf."""
    payload = hashlib.sha256(row.state).hexdigest()
    fields = [str(row.originator_id), row.originator_version, row.event_id, row.topic, row.schema, row.at, payload]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).digest()


def _as_row(stored: StoredEvent) -> StoredRow:
    """A row with an id and a time, which events that are not ours (those of the library's own tests) lack."""
    if isinstance(stored, StoredRow):
        return stored
    return StoredRow(**vars(stored), event_id=new_id(), at=to_iso(now()))


def _names(rows: Sequence[StoredRow]) -> Sequence[str]:
    return list(dict.fromkeys(str(row.originator_id) for row in rows))


def _stored(row: Any) -> StoredRow:
    return StoredRow(row.name, row.version, row.topic, row.state.encode(), row.event_id, row.at, row.schema)


def _logged(row: Any) -> LoggedRow:
    return LoggedRow(
        row.name, row.version, row.topic, row.state.encode(), row.position, row.event_id, row.at, row.schema
    )
