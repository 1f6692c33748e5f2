"""Implement eventsourcing's recorders and the domain's `EventLog` for SQLite and PostgreSQL.

An append is one transaction: it compares and sets the version of each stream, inserts the events, and stores the new
state of the stream. Positions have no gaps and become visible in commit order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsourcing.persistence import (
    ApplicationRecorder,
    IntegrityError,
    NotSupportedError,
    StoredEvent,
    Subscription,
    Tracking,
)

from threadledger.domain.conversation.events import EVENTS
from threadledger.domain.faces import on_first_use
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import (
    Also,
    Appending,
    DecideAppend,
    LoggedRow,
    OnChange,
    Row,
    StoredRow,
    StreamHead,
    refuse_changed,
)

from .connections import MARKS, DamagedDatabase, Prefixes, Topics, checked, match_leaves, number_in
from .database import Database

if TYPE_CHECKING:
    from .blobs import SqlBlobs
from .group_commit import stored_positions
from .schema import SCHEMA_VERSION, open_schema

PAGE_EVENTS = 1_000
"""Number of events read per query."""

PAGE_USUAL_EVENTS = 2_000
"""Number of events read per query for a memory of plain texts. Smaller pages cost more than what a core's cache saves."""

FIRST_STEP = 8
"""Number of versions before its end at which a stream is first compared with a time."""

PAGE_STREAMS = 1_000
"""Number of streams read per query."""

_PAGES_AT_ONCE = 10
"""Number of pages scanned per query when only some event types are selected."""

_read_ends: Callable[[], Callable[..., tuple[StreamHead, Sequence[Sequence[Any]]] | None]] = on_first_use(
    __name__, "stream_ends", "read_ends"
)

_HEAD = "SELECT name, version, state_schema, snapshot, due_at FROM streams"
_BY_KEY = (
    "FROM events e JOIN streams s USING (stream) JOIN idempotency_keys k ON k.stream = e.stream AND k.version = e.version "
    "WHERE s.name = ? AND k.generation = {generation} AND k.key = ?"
)
_FINGERPRINTS = (
    "SELECT s.name, k.key, k.fingerprint FROM streams s "
    "JOIN idempotency_keys k ON k.stream = s.stream AND k.generation = {generation}"
)
_NEWEST = "(SELECT max(e.version) FROM events e WHERE e.stream = streams.stream)"


class Recorder(ApplicationRecorder):
    """Store and read the events of one database."""

    def __init__(self, database: Database) -> None:
        open_schema(database)
        self._database = database
        self._followers: set[threading.Event] = set()

    @property
    def url(self) -> str:
        """Return the address of the database, without secrets."""
        return self._database.shown_url

    # Called by the ledger

    @property
    def blobs(self) -> SqlBlobs:
        """Return the store of the attachments to which events refer."""
        from .blobs import SqlBlobs

        return SqlBlobs(self._database)

    def append(self, stream: str, decide: DecideAppend, also: Also | None = None) -> Sequence[int]:
        """Decide on a stream's current head and store the decision; see `EventLog.append`."""
        positions = self._database.group.append([stream], lambda heads: decide(heads.get(stream)), also)
        self._wake()
        return positions

    def rows(
        self, after: int = 0, upto: int | None = None, topics: Sequence[str] = (), changed: OnChange | None = None
    ) -> Iterator[Row]:
        """Yield the rows of the log with positions greater than `after` and up to `upto`, read page by page.

        A page is a range of positions, not a LIMIT: a server without statistics would sort the rest of the log for each
        page.
        """
        after = max(after, 0)
        only, values = among(topics, changed)
        last = self.max_notification_id() or 0
        upto = last if upto is None else min(upto, last)
        leaf = ", e.leaf" if changed is not None else ""
        query = (
            f"SELECT {self._database.kind.row_columns}{leaf} FROM events e "
            # With checks, an event must not disappear with the name of its stream.
            f"{'LEFT ' if leaf else ''}JOIN streams s USING (stream) "
            f"WHERE e.position > ? AND e.position <= ? {only} ORDER BY e.position"
        )
        size = PAGE_EVENTS * _PAGES_AT_ONCE if topics else PAGE_EVENTS
        while after < upto:
            end = min(after + size, upto)
            given = (after, end, *values)
            if changed is None:
                yield from rows_of(self._database, query, given)
            else:
                yield from self._checked(query, given, (None, after, end), topics, changed)
            after = end

    def stream_rows(
        self,
        stream: str,
        after: int = 0,
        upto: int | None = None,
        topics: Sequence[str] = (),
        newest_first: bool = False,
        page: int = PAGE_EVENTS,
        changed: OnChange | None = None,
    ) -> Iterator[Row]:
        """Yield the rows of one stream with versions greater than `after` and up to `upto`.

        They are read page by page from either end; a page is a range of versions.
        """
        only, values = among(topics, changed)
        columns = self._database.kind.row_columns.replace("s.name", "CAST(? AS TEXT)")
        query = (
            f"SELECT {columns}{', e.leaf' if changed is not None else ''} FROM events e WHERE e.stream = "
            "(SELECT stream FROM streams WHERE name = ?) AND e.version > ? AND e.version <= ? "
            f"{only} ORDER BY e.version {'DESC' if newest_first else 'ASC'}"
        )
        if upto is None:
            head = self.select_head(stream, changed)
            upto = head.version if head is not None else after
        while after < upto:
            begin, end = (max(after, upto - page), upto) if newest_first else (after, min(after + page, upto))
            given = (stream, stream, begin, end, *values)
            if changed is None:
                yield from rows_of(self._database, query, given)
            else:
                yield from self._checked(query, given, (stream, begin, end), topics, changed)
            after, upto = (after, begin) if newest_first else (end, upto)

    def marks(self, stream: str, after: int, upto: int, limit: int, changed: OnChange | None = None) -> Iterator[Row]:
        """Return the newest marks of a stream in a range of versions, by their own index; see `EventLog.marks`."""
        columns = self._database.kind.row_columns.replace("s.name", "CAST(? AS TEXT)")
        query = (
            f"SELECT {columns}{', e.leaf' if changed is not None else ''} FROM events e WHERE e.stream = "
            f"(SELECT stream FROM streams WHERE name = ?) AND e.version > ? AND e.version <= ? AND ({MARKS}) "
            "ORDER BY e.version DESC LIMIT ?"
        )
        found = rows_of(self._database, query, (stream, stream, after, upto, limit))
        return iter(found) if changed is None else checked(found, changed)

    def read_usual(
        self, stream: str, upto: int, topics: Topics, take: Callable[[int, Sequence[Sequence[Any]]], None]
    ) -> bool:
        """Read all rows of a stream, if they are usual; see `EventLog.read_usual`."""
        query = (
            f"SELECT {number_in(topics)} AS number, {self._database.kind.usual_columns} FROM events e "
            "WHERE e.stream = (SELECT stream FROM streams WHERE name = ?) AND e.version > ? AND e.version <= ? "
            "ORDER BY e.version"
        )
        prefixes = Prefixes(stream, topics)
        for begin in range(0, upto, PAGE_USUAL_EVENTS):
            end = min(begin + PAGE_USUAL_EVENTS, upto)
            rows = self._database.query(query, (stream, begin, end))
            if len(rows) != end - begin:
                return False
            try:
                take(begin, rows)
            except TypeError:  # the schema of a row is no number
                return False
            if not match_leaves(rows, range(begin + 1, end + 1), prefixes):
                return False
        return True

    def read_ends(
        self, stream: str, first: int, newest: int, topics: Topics, unless: str
    ) -> tuple[StreamHead, Sequence[Sequence[Any]]] | None:
        """Return the head of a stream with a row near its beginning and its newest rows; see `EventLog.read_ends`."""
        return _read_ends()(self._database, stream, first, newest, topics, unless)

    def number_of(self, stream: str) -> int | None:
        """Return the number of a stream; see `EventLog.number_of`."""
        found = self._database.query("SELECT stream FROM streams WHERE name = ?", (stream,))
        return int(found[0][0]) if found else None

    def addressed(self, addresses: Sequence[str]) -> Sequence[tuple[str, str, int]]:
        """Return the events that were stored under these addresses; see `EventLog.addressed`."""
        places = ", ".join("?" for _ in addresses)
        query = "SELECT a.address, s.name, a.version FROM addresses a JOIN streams s USING (stream)"
        return self._database.query(f"{query} WHERE a.address IN ({places})", tuple(addresses))

    def versions_addressed(
        self, address: str, stream: str, after: int, upto: int, *, newest_first: bool, limit: int
    ) -> Sequence[int]:
        """Return the versions of events that were stored under an address; see `EventLog.versions_addressed`."""
        query = (
            "SELECT version FROM addresses WHERE address = ? AND stream = (SELECT stream FROM streams WHERE name = ?) "
            f"AND version > ? AND version <= ? ORDER BY version{' DESC' if newest_first else ''} LIMIT ?"
        )
        return [row[0] for row in self._database.query(query, (address, stream, after, upto, limit))]

    def fingerprints(self, streams: Sequence[str]) -> Iterator[tuple[str, str, bytes | None]]:
        """Return the idempotency keys of streams with their fingerprints; see `EventLog.fingerprints`."""
        for begin in range(0, len(streams), PAGE_STREAMS):
            names = streams[begin : begin + PAGE_STREAMS]
            found = _FINGERPRINTS.format(generation=self._database.kind.generation)
            query = f"{found} WHERE s.name IN ({', '.join('?' for _ in names)})"
            yield from self._database.query(query, names)

    def version_at(self, stream: str, at: str, changed: OnChange | None = None) -> int:
        """Return the version that a stream had at a time (ISO 8601).

        The timestamps of a stream never decrease, so a binary search reads few rows; it begins in growing steps from the
        end, so that a recent time costs the same in a stream of any length.
        """
        head = self.select_head(stream, changed)
        low, high, step = 0, head.version if head is not None else 0, FIRST_STEP
        while low < high:
            middle = (low + high + 1) // 2 if low else max(high - step, 1)
            found = next(self.stream_rows(stream, middle - 1, middle, changed=changed), None)
            low, high = (middle, high) if found is not None and found[6] <= at else (low, middle - 1)
            step *= 2
        return low

    def select_head(self, stream: str, changed: OnChange | None = None) -> StreamHead | None:
        """Return the head of one stream, or None; reads one row, however long the stream is.

        With `changed`, its version is compared with that of the newest event.
        """
        if changed is None:
            found = self._database.query(f"{_HEAD} WHERE name = ?", (stream,))
            return StreamHead(*found[0]) if found else None
        query = _HEAD.replace(" FROM", f", {_NEWEST} FROM")
        for name, version, *state, newest in self._database.query(f"{query} WHERE name = ?", (stream,)):
            if version != newest:
                changed(stream, newest, None, f"is the newest one, although its conversation is at version {version}")
            return StreamHead(name, newest if isinstance(newest, int) else version, *state)
        return None

    def _checked(
        self,
        query: str,
        values: Sequence[Any],
        place: tuple[str | None, int, int],
        topics: Sequence[str],
        changed: OnChange,
    ) -> Iterator[Row]:
        """Return the rows of one page (of a stream or the log, between two numbers); `changed` is called for wrong ones."""
        found = rows_of(self._database, query, values)
        if not topics and len(found) != place[2] - place[1]:
            from .damage import report_missing

            report_missing(self._database, *place, changed)
        return checked(found, changed, topics)

    def select_heads(self, prefix: str, *, overdue_at: str | None = None) -> Sequence[StreamHead]:
        """Return the heads of streams with this prefix, or only those with a run overdue at a time (ISO 8601)."""
        if overdue_at is None:
            return [StreamHead(*row) for row in self._database.query(*self._named(f"{_HEAD} WHERE", prefix))]
        # Ordered as the index on due_at: if ordered by stream, SQLite would scan every conversation.
        overdue = f"{_HEAD} WHERE due_at < ? AND substr(name, 1, ?) = ? ORDER BY due_at, stream"
        return [StreamHead(*row) for row in self._database.query(overdue, (overdue_at, len(prefix), prefix))]

    def _named(self, query: str, prefix: str, order: str = "stream") -> tuple[str, tuple[str, str]]:
        """Return a query for the streams with this prefix as a range of their names, which have an index, and its values."""
        name = f"name{self._database.kind.in_byte_order}"
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return f"{query} {name} >= ? AND {name} < ? ORDER BY {name if order == 'name' else order}", (prefix, after)

    def select_versions(self, prefix: str, unless: str = "") -> Iterator[tuple[str, int]]:
        """Yield (name, version) of the streams with this prefix, oldest first; omits the much larger states.

        They are read page by page in the order of their numbers, not by the index on names: a damaged one would lose
        names. Streams whose state begins with the text `unless` are left out.
        """
        begin = f"substr(snapshot, 1, {len(unless)})"
        query = f"SELECT stream, name, version, {begin} FROM streams WHERE stream > ? ORDER BY stream LIMIT ?"
        after = 0
        while page := self._database.query(query, (after, PAGE_STREAMS)):
            for _, name, version, state in page:
                if str(name).startswith(prefix) and (not unless or state != unless):
                    yield name, version
            after = page[-1][0]

    def select_first(self, prefix: str, limit: int, unless: str = "") -> Sequence[tuple[str, int]]:
        """Return (name, version) of the first `limit` streams with this prefix, sorted by name; the others are not read.

        Streams whose state begins with the text `unless` are left out.
        """
        left_out = f"substr(snapshot, 1, {len(unless)}) <> '{unless}' AND" if unless else ""
        query, values = self._named(f"SELECT name, version FROM streams WHERE {left_out}", prefix, "name")
        return [(name, version) for name, version in self._database.query(f"{query} LIMIT ?", (*values, limit))]

    def heads_of(self, streams: Sequence[str]) -> Sequence[StreamHead]:
        """Return the heads of those of these streams that exist, in no particular order."""
        if not streams:
            return ()
        places = ", ".join("?" for _ in streams)
        return [StreamHead(*row) for row in self._database.query(f"{_HEAD} WHERE name IN ({places})", streams)]

    def select_keyed(self, stream: str, idempotency_key: str) -> Row | None:
        """Return the event of a stream that was stored with an idempotency key, or None."""
        query = f"SELECT {self._database.kind.row_columns}, e.leaf {_BY_KEY.format(generation=self._database.kind.generation)}"
        found = rows_of(self._database, query, (stream, idempotency_key))
        return next(checked(found, refuse_changed), None)

    def status(self) -> Mapping[str, Any]:
        """Return the contents and size of the database."""
        from .kind_upkeep import status

        return status(self._database, SCHEMA_VERSION)

    def pages_after(
        self,
        after: int | str = 0,
        topics: Sequence[str] = (),
        stream: str | None = None,
        changed: OnChange = refuse_changed,
        leaves: bool = True,
    ) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
        """Return the rows after a position or cursor, page by page; see `EventLog.pages_after`."""
        from .subscription import read_log, read_stream

        if stream is not None:
            return read_stream(self._database, after, topics, stream, changed, leaves)
        return read_log(self._database, after, topics, changed, leaves)

    def last_cursor(self) -> str:
        """Return the cursor of the last event."""
        from .subscription import LogPages

        return LogPages(self._database).last_cursor()

    def wait_until_durable(self) -> None:
        """Wait until every event that was read before is durable; see `EventLog.wait_until_durable`."""
        self._database.wait_until_durable()

    # Called by eventsourcing

    def insert_events(
        self, stored_events: Sequence[StoredEvent], *, heads: Sequence[StreamHead] = (), **kwargs: Any
    ) -> Sequence[int]:
        """Store events in one transaction, all or none; `heads` are the states of their streams afterwards.

        If the same events are already stored, because an earlier commit was not acknowledged, return their positions.

        Raises:
            IntegrityError: a stream has changed, or an event id is used by another event.
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
        """Return a stream's events, sorted by version."""
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
        """Return events of the log, sorted by position."""
        after = 0 if start is None else start - 1 if inclusive_of_start else start
        found = [logged_row(row) for row in islice(self.rows(after, stop, topics, refuse_changed), limit)]
        if found:
            self._database.wait_until_durable()
        return found

    def max_notification_id(self) -> int | None:
        """Return the last position, or None if the log is empty."""
        position: int | None = self._database.query("SELECT max(position) FROM events")[0][0]
        return position

    def subscribe(self, gt: int | str | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """Return a subscription to the log after a position or cursor, including new events from any process."""
        from .subscription import LogSubscription

        return LogSubscription(self, self._database, gt, topics, self._followers)

    def _insert(
        self, rows: Sequence[StoredRow], heads: Sequence[StreamHead], tracking: Tracking | None = None, **_: Any
    ) -> Sequence[int]:
        given = {head.stream: head for head in heads}
        versions: dict[str, list[int]] = {}
        for row in rows:
            versions.setdefault(str(row.originator_id), []).append(row.originator_version)

        def decide(found: Mapping[str, StreamHead]) -> Appending:
            return Appending(
                rows, [_next_head(name, each, found.get(name), given.get(name)) for name, each in versions.items()]
            )

        if not versions and tracking is None:
            return ()
        return self._database.group.append(list(versions), decide, self._tracked(tracking))

    def _tracked(self, tracking: Tracking | None) -> Also | None:
        if tracking is not None:
            raise NotSupportedError("only a process recorder stores tracking positions: use process_recorder()")
        return None

    def _wake(self) -> None:
        for follower in tuple(self._followers):
            follower.set()


def _bytes(state: bytes | str) -> bytes:
    return state.encode() if isinstance(state, str) else state


def stored_row(row: Row, stream: UUID | str | None = None) -> StoredRow:
    """Convert a row to eventsourcing's stored event."""
    _, name, version, topic, state, event_id, at, schema = row
    return StoredRow(name if stream is None else stream, version, topic, state, event_id, at, schema)


def logged_row(row: Sequence[Any]) -> LoggedRow:
    """Convert a `Row`, which may have more columns, to eventsourcing's notification."""
    position, name, version, topic, state, event_id, at, schema = row[:8]
    return LoggedRow(name, version, topic, state, position, event_id, at, schema)


def _next_head(name: str, versions: Sequence[int], found: StreamHead | None, given: StreamHead | None) -> StreamHead:
    """Return the head of a stream after rows of these versions.

    Raises:
        IntegrityError: the versions do not continue the stream without a gap.
    """
    expected = found.version + 1 if found is not None else 1 if given is not None else versions[0]
    if versions != list(range(expected, expected + len(versions))):
        raise IntegrityError(f"{name} has version {expected - 1}: version {versions[0]} is not the next one")
    return given or StreamHead(name, versions[-1], 0, "")


def rows_of(database: Database, query: str, values: Sequence[Any]) -> Sequence[Any]:
    """Return the rows of a query of events; a text that cannot be decoded is read as far as possible."""
    try:
        return database.query(query, values)
    except DamagedDatabase as error:
        from .damage import read_leniently

        return read_leniently(database, query, values, error)


def among(topics: Sequence[str], changed: OnChange | None) -> tuple[str, tuple[str, ...]]:
    """Return a condition for the topics. A checked read also selects unknown topics, because a topic may have been changed."""
    if not topics:
        return "", ()
    chosen = tuple(topics) if changed is None else tuple(EVENTS.keys() - set(topics))
    return f"AND e.topic {'' if changed is None else 'NOT'} IN ({', '.join('?' for _ in chosen)})", chosen


def _as_row(stored: StoredEvent) -> StoredRow:
    """Return a row; events of other applications get a new id and timestamp, because they have none."""
    stored.state.decode()  # SQLite would store bytes that are no text
    if isinstance(stored, StoredRow):
        return stored
    return StoredRow(
        str(stored.originator_id), stored.originator_version, stored.topic, stored.state, new_id(), to_iso(now())
    )
