"""Our recorder: eventsourcing's recorders and the domain's `EventLog`, the same for SQLite and PostgreSQL.

An append is one transaction: the version of each stream is compared and set, its events are inserted, its new state is
stored beside it. Positions have no gaps and appear in the order of commits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

from eventsourcing.persistence import (
    ApplicationRecorder,
    IntegrityError,
    NotSupportedError,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)

from threadledger.domain import (
    CONVERSATION,
    Appending,
    DecideAppend,
    LoggedRow,
    Row,
    StoredRow,
    StreamHead,
    new_id,
    now,
    to_iso,
)

from .engine import Database
from .group import Also, stored_positions
from .kinds import Cursor
from .schema import SCHEMA_VERSION, open_schema
from .subscription import LogSubscription
from .tracking import Tracker

PAGE_EVENTS = 1_000
"""Events read at a time."""

_PAGES_AT_ONCE = 10
"""How many pages' positions are gone through at once where only some events are wanted."""

_ROWS = (
    "SELECT e.position, s.name, e.version, e.topic, e.state, e.event_id, e.at, e.schema "
    "FROM events e JOIN streams s USING (stream)"
)
_HEAD = "SELECT name, version, state_schema, state, due_at FROM streams"


class Recorder(ApplicationRecorder):
    """Events of one database."""

    def __init__(self, database: Database) -> None:
        open_schema(database)
        self._database = database
        self._followers: set[threading.Event] = set()

    # What the ledger calls

    def append(self, stream: str, decide: DecideAppend) -> Sequence[int]:
        """Decide on a stream's present head, and store what was decided: see `EventLog.append`."""
        positions = self._database.append([stream], lambda heads: decide(heads.get(stream)))
        self._wake()
        return positions

    def rows(self, after: int = 0, upto: int | None = None, topics: Sequence[str] = ()) -> Iterator[Row]:
        """The whole log by position, after one and up to another, read page by page.

        A page is a range of positions, not a LIMIT: a server without statistics would sort the rest of the log for each.
        """
        only, values = _among("e.topic", topics)
        last = self.max_notification_id() or 0
        upto = last if upto is None else min(upto, last)
        query = f"{_ROWS} WHERE e.position > ? AND e.position <= ? {only} ORDER BY e.position"
        size = PAGE_EVENTS * _PAGES_AT_ONCE if topics else PAGE_EVENTS
        while after < upto:
            end = min(after + size, upto)
            yield from self._database.query(query, (after, end, *values))
            after = end

    def stream_rows(
        self,
        stream: str,
        after: int = 0,
        upto: int | None = None,
        topics: Sequence[str] = (),
        newest_first: bool = False,
        page: int = PAGE_EVENTS,
    ) -> Iterator[Row]:
        """One stream's events by version, after one and up to another, read from either end; a page is a range of versions."""
        only, values = _among("e.topic", topics)
        query = (
            "SELECT e.position, CAST(? AS TEXT), e.version, e.topic, e.state, e.event_id, e.at, e.schema FROM events e "
            "WHERE e.stream = (SELECT stream FROM streams WHERE name = ?) AND e.version > ? AND e.version <= ? "
            f"{only} ORDER BY e.version {'DESC' if newest_first else 'ASC'}"
        )
        if upto is None:
            head = self.select_head(stream)
            upto = head.version if head is not None else after
        while after < upto:
            begin, end = (max(after, upto - page), upto) if newest_first else (after, min(after + page, upto))
            yield from self._database.query(query, (stream, stream, begin, end, *values))
            after, upto = (after, begin) if newest_first else (end, upto)

    def version_at(self, stream: str, at: str) -> int:
        """The version that a stream had at a time (ISO 8601): its events never go back in time, so few rows are read."""
        head = self.select_head(stream)
        low, high = 0, head.version if head is not None else 0
        query = "SELECT e.at FROM events e JOIN streams s USING (stream) WHERE s.name = ? AND e.version = ?"
        while low < high:
            middle = (low + high + 1) // 2
            found = self._database.query(query, (stream, middle))
            low, high = (middle, high) if found and found[0][0] <= at else (low, middle - 1)
        return low

    def select_head(self, stream: str) -> StreamHead | None:
        """The state of one stream: one row, however long it is."""
        found = self._database.query(f"{_HEAD} WHERE name = ?", (stream,))
        return StreamHead(*found[0]) if found else None

    def select_heads(self, prefix: str, *, overdue_at: str | None = None) -> Sequence[StreamHead]:
        """The streams with this prefix; or only those with a run overdue at a time (ISO 8601)."""
        overdue, values = ("", ()) if overdue_at is None else (" AND due_at < ?", (overdue_at,))
        query = f"{_HEAD} WHERE substr(name, 1, ?) = ?{overdue} ORDER BY stream"
        return [StreamHead(*row) for row in self._database.query(query, (len(prefix), prefix, *values))]

    def select_versions(self, prefix: str) -> Sequence[tuple[str, int]]:
        """The versions of the streams with this prefix, by name: without the states, which take up far more room."""
        query = "SELECT name, version FROM streams WHERE substr(name, 1, ?) = ? ORDER BY name"
        return [(name, version) for name, version in self._database.query(query, (len(prefix), prefix))]

    def select_event(self, event_id: str) -> StoredRow | None:
        """One event by its id."""
        found = self._database.query(f"{_ROWS} WHERE e.event_id = ?", (event_id,))
        return stored_row(found[0]) if found else None

    def status(self) -> Mapping[str, Any]:
        """What is in the database, and how large it is."""
        return status(self._database)

    # What eventsourcing calls

    def insert_events(
        self, stored_events: Sequence[StoredEvent], *, heads: Sequence[StreamHead] = (), **kwargs: Any
    ) -> Sequence[int]:
        """Store events in one transaction, all or none; `heads` are the states their streams have afterwards.

        The same events again (a caller that never saw its commit acknowledged) are where they are: their positions.

        Raises:
            IntegrityError: a stream moved on, or an event id is taken by another event.
        """
        rows = [_as_row(stored) for stored in stored_events]
        try:
            positions = self._insert(rows, heads, **kwargs)
        except IntegrityError:
            with self._database.cursor() as cursor:
                stored = stored_positions(self._database, cursor, rows) if rows else None
            if stored is None:
                raise
            return stored
        self._wake()
        return positions

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
        after = gt if gt is not None else -1
        page = min(limit, PAGE_EVENTS) if limit is not None else PAGE_EVENTS
        rows = self.stream_rows(str(originator_id), after, lte, newest_first=desc, page=max(page, 1))
        return [stored_row(row, originator_id) for row in islice(rows, limit)]

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
        after = 0 if start is None else start - 1 if inclusive_of_start else start
        return [logged_row(row) for row in islice(self.rows(after, stop, topics), limit)]

    def max_notification_id(self) -> int | None:
        """The last position; None where nothing was stored."""
        position: int | None = self._database.query("SELECT max(position) FROM events")[0][0]
        return position

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """The log from a position on, and what comes after, whichever process writes it."""
        return LogSubscription(self, gt, topics, self._followers)

    def _insert(
        self, rows: Sequence[StoredRow], heads: Sequence[StreamHead], tracking: Tracking | None = None, **_: Any
    ) -> Sequence[int]:
        given = {head.stream: head for head in heads}
        streams = list(dict.fromkeys(str(row.originator_id) for row in rows))

        def decide(found: Mapping[str, StreamHead]) -> Appending:
            return Appending(rows, [_next_head(name, rows, found.get(name), given.get(name)) for name in streams])

        if not streams and tracking is None:
            return ()
        return self._database.append(streams, decide, self._tracked(tracking))

    def _tracked(self, tracking: Tracking | None) -> Also | None:
        if tracking is not None:
            raise NotSupportedError("only a process recorder keeps what was processed beside the events")
        return None

    def _wake(self) -> None:
        for follower in tuple(self._followers):
            follower.set()


class Processor(Tracker, Recorder, ProcessRecorder):
    """Events, and how far another application's events have been processed, in one transaction."""

    def __init__(self, database: Database) -> None:
        Recorder.__init__(self, database)

    def _tracked(self, tracking: Tracking | None) -> Also | None:
        if tracking is None:
            return None

        def also(cursor: Cursor) -> None:
            self._track(cursor, tracking)

        return also


def status(database: Database) -> Mapping[str, Any]:
    """The keys of `db status`, but for the views."""
    count = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM streams WHERE substr(name, 1, ?) = ?)"
    ((events, conversations),) = database.query(count, (len(CONVERSATION), CONVERSATION))
    return {
        "url": database.shown_url,
        "dialect": database.kind.name,
        "schema_version": SCHEMA_VERSION,
        "events": events,
        "conversations": conversations,
        "size_bytes": database.size_bytes(),
    }


def stored_row(row: Row, stream: UUID | str | None = None) -> StoredRow:
    """A row as eventsourcing's stored event."""
    _, name, version, topic, state, event_id, at, schema = row
    return StoredRow(name if stream is None else stream, version, topic, state.encode(), event_id, at, schema)


def logged_row(row: Row) -> LoggedRow:
    """A row as eventsourcing's notification."""
    position, name, version, topic, state, event_id, at, schema = row
    return LoggedRow(name, version, topic, state.encode(), position, event_id, at, schema)


def _next_head(name: str, rows: Sequence[StoredRow], found: StreamHead | None, given: StreamHead | None) -> StreamHead:
    """The head that a stream gets; refused where its rows do not follow on what is there without a gap.

    Raises:
        IntegrityError: they do not.
    """
    versions = [row.originator_version for row in rows if str(row.originator_id) == name]
    expected = found.version + 1 if found is not None else 1 if given is not None else versions[0]
    if versions != list(range(expected, expected + len(versions))):
        raise IntegrityError(f"{name} is at version {expected - 1}: {versions[0]} does not follow")
    return given or StreamHead(name, versions[-1], 0, "")


def _among(column: str, topics: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    return (f"AND {column} IN ({', '.join('?' for _ in topics)})", tuple(topics)) if topics else ("", ())


def _as_row(stored: StoredEvent) -> StoredRow:
    """A row with an id and a time, which events that are not ours (those of other applications) lack."""
    if isinstance(stored, StoredRow):
        return stored
    return StoredRow(
        str(stored.originator_id), stored.originator_version, stored.topic, stored.state, new_id(), to_iso(now())
    )
