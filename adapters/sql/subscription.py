"""Read and follow the log by cursor: each read checks that what was read before is still in the log.

The check costs no query of its own. A page begins with the event that was read last, and the query for the end of the log
also returns that event's leaf.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eventsourcing.persistence import ApplicationRecorder, Notification, Subscription

from threadledger.domain.errors import InvalidInput, LogRewound
from threadledger.domain.journal import LogCursor, OnChange, Place, ReadTrail, Row, refuse_changed

from .connections import ConnectionLost, checked
from .database import Database
from .recorder import among, logged_row, rows_of

logger = logging.getLogger("threadledger")

FOLLOW_SECONDS = 0.05
"""Interval between polls for events of other processes, in seconds."""

SUBSCRIPTION_PAGE_EVENTS = 500
"""Number of positions read per query."""

PAGES_AT_ONCE = 10
"""Number of pages read per query while the selected event types are few of the events: a fold of most is faster by page."""

_LOOK = (
    "SELECT ledger_id, (SELECT coalesce(max(position), 0) FROM events), (SELECT leaf FROM events WHERE position = ?) "
    "FROM threadledger"
)
_LEAF = "SELECT leaf FROM events WHERE position = ?"
_COUNT = "SELECT count(*) FROM events WHERE position > ? AND position <= ?"
_STREAM_COUNT = "SELECT count(*) FROM events WHERE stream = ? AND version > ? AND version <= ?"
_STREAM_VERSION = "SELECT stream, version FROM streams WHERE name = ?"


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Represent the end of the log at one moment, and the leaf of the event that was asked for."""

    ledger_id: str
    position: int
    leaf: bytes | None


class LogPages:
    """Read the log page by page after a position or cursor; `changed` is called for each changed or missing event.

    Without `leaves`, events are not compared with their leaf hashes: only missing ones are noticed.

    Raises:
        InvalidInput: the cursor cannot be read, or belongs to another ledger.
        LogRewound: raised by each method, if events that were read are no longer in the log.
    """

    def __init__(
        self,
        database: Database,
        after: int | str | None = 0,
        topics: Sequence[str] = (),
        changed: OnChange = refuse_changed,
        leaves: bool = True,
    ) -> None:
        self._leaves = leaves
        self._database = database
        self._topics = tuple(topics)
        self._selects_few = bool(topics)
        self._changed = changed
        self._given = LogCursor.parse(after)
        self._ledger_id = ""
        self._trail = ReadTrail()
        self.after = self._given.position
        """Position up to which the log was read."""
        self._seen = self._durable = 0
        """Last position of the log that was seen, and the one up to which the events are known to be durable."""
        if self._given.leaf is not None and self.after > 0:
            self._trail.add((self.after, self._given.leaf))

    def look(self) -> int:
        """Return the last position of the log."""
        known = self._trail.last
        position = known[0] if known is not None else self.after
        end = self._end(position)
        if self._given.ledger_id not in {None, end.ledger_id}:
            raise InvalidInput(
                f"the cursor {str(self._given)!r} belongs to another ledger: pass a cursor of this ledger, or a position"
            )
        self._ledger_id, self._seen = end.ledger_id, end.position
        if known is None and end.leaf is not None:
            self._trail.add((position, end.leaf))
        elif known is not None and end.leaf != known[1] and not (position > end.position and self._is_standby()):
            raise self._rewound(end.position)
        return end.position

    def read(self, upto: int) -> list[tuple[Row, Place]]:
        """Return the selected rows of the next page, each with its place; the page ends at or before `upto`.

        The page is empty, and `after` as before, if a standby answers that lags behind what was read.
        """
        size = SUBSCRIPTION_PAGE_EVENTS * (PAGES_AT_ONCE if self._selects_few else 1)
        end = min(self.after + size, upto)
        known = self._trail.last
        begin = known[0] if known is not None else self.after
        rows = self._rows(begin, end)
        if not rows or rows[-1][0] < end:  # since `look`, the log was rewound, or another server has answered
            end = max(min(end, self._end(end).position), self.after)
            rows = self._rows(begin, end)
        if known is not None and (not rows or (rows[0][0], LogCursor.short(rows[0][8])) != known):
            newest = self._end(begin).position
            if begin > newest and self._is_standby():
                return []
            raise self._rewound(newest)
        self._selects_few = bool(self._topics) and len(rows) * PAGES_AT_ONCE <= end - begin
        new = [row for row in rows if row[0] > self.after]
        found = self._database.query(_COUNT, (self.after, end))[0][0] if self._topics else len(new)
        self.report_missing(None, self.after, end, found)
        passed = self.passed(new, self._topics)
        self.after = end
        return passed

    def _rows(self, begin: int, end: int) -> Sequence[Any]:
        query = (
            f"SELECT {self._database.kind.row_columns}, e.leaf FROM events e LEFT JOIN streams s USING (stream) "
            "WHERE e.position BETWEEN ? AND ?"
        )
        values: list[int | str] = [begin, end]
        if self._topics:  # the last event of a page is read too, because the next page is compared with it
            only, topics = among(self._topics, self._changed if self._leaves else None)
            query += f" AND ({only.removeprefix('AND ')} OR e.position IN (?, ?))"
            values += [*topics, begin, end]
        return rows_of(self._database, f"{query} ORDER BY e.position", values)

    def passed(self, rows: Sequence[Any], topics: Sequence[str] = ()) -> list[tuple[Row, Place]]:
        """Note the rows; return those of the topics without their leaf, and with their place, once they are durable."""
        if rows:
            self._wait_until_durable(rows[-1])
        after, ledger_id = self.after, self._ledger_id
        newest = rows[-ReadTrail.recent :]
        self._trail.add(*[(row[0], LogCursor.short(row[8])) for row in newest if row[0] > after])
        if not self._leaves:
            wanted = set(topics)
            return [
                (row[:8], (ledger_id, row[8])) for row in rows if row[0] > after and (not wanted or row[3] in wanted)
            ]
        leaves = {row[0]: row[8] for row in rows if row[0] > after}
        rows_checked = checked(rows, self._changed, topics)
        return [(row, (ledger_id, leaves[row[0]])) for row in rows_checked if row[0] in leaves]

    def _wait_until_durable(self, last: Any) -> None:
        """Wait until the row that was read last is durable, and so all before it."""
        if last[0] > self._durable and self._database.kind.flush:
            self._database.wait_until_durable()
            if self._end(last[0]).leaf != LogCursor.short(last[8]):
                raise ConnectionLost(
                    "the server was restarted, and lacks events that were not durable: read them again"
                )
            self._durable = max(last[0], self._seen)

    def report_missing(self, stream: str | None, begin: int, end: int, found: int) -> None:
        """Call `changed` if fewer versions of a stream, or positions of the log, exist after `begin` and up to `end`."""
        if found != end - begin:
            from .damage import report_missing

            report_missing(self._database, stream, begin, end, self._changed)

    def last_cursor(self) -> str:
        """Return the cursor of the last event of the log."""
        position = self.look()
        self._database.wait_until_durable()
        return str(LogCursor(position, self._end(position).leaf, self._ledger_id))

    def _end(self, position: int) -> LogEnd:
        ((ledger_id, end, leaf),) = self._database.query(_LOOK, (position,))
        return LogEnd(ledger_id, end, LogCursor.short(leaf) if leaf is not None else None)

    def _is_standby(self) -> bool:
        """Return whether the server is a standby, which may lag behind the one that this cursor was read from."""
        return self._database.kind.name == "postgresql" and bool(
            self._database.query("SELECT pg_is_in_recovery()")[0][0]
        )

    def _rewound(self, end: int) -> LogRewound:
        def holds(position: int, leaf: bytes) -> bool:
            found = self._database.query(_LEAF, (position,))
            return bool(found) and LogCursor.short(found[0][0]) == leaf

        position = self._trail.last[0] if self._trail.last is not None else self.after
        upto = min(position - 1, end)
        common = self._trail.common(holds) if upto else 0
        then = f"the last common position is {common}: discard later events, then run: threadledger events --after {common}"
        if common is None:
            then = (
                f"the last common position is unknown, and at most {upto}: continue from an earlier cursor, "
                "or discard all events and run: threadledger events --after 0"
            )
        error = LogRewound(
            "the log was rewound by a restored backup or a failover: "
            f"the event at position {position}, which was read before, is no longer in it; {then}"
        )
        error.position, error.common = position, common
        return error


def read_log(
    database: Database, after: int | str, topics: Sequence[str], changed: OnChange, leaves: bool
) -> Iterator[tuple[Row, Place]]:
    """Return the rows after a position or cursor up to the current end of the log, each with its place."""
    pages = LogPages(database, after, topics, changed, leaves)

    def read() -> Iterator[tuple[Row, Place]]:
        end = pages.look()
        while pages.after < end:
            before = pages.after
            yield from pages.read(end)
            if pages.after == before:
                end = pages.look()

    return read()


def read_stream(
    database: Database, after: int | str, topics: Sequence[str], stream: str, changed: OnChange, leaves: bool
) -> Iterator[tuple[Row, Place]]:
    """Return the rows of one stream after a position or cursor, each with its place."""
    pages = LogPages(database, after, changed=changed, leaves=leaves)
    only, others = among(topics, changed if leaves else None)
    query = (
        f"SELECT {database.kind.row_columns}, e.leaf FROM events e JOIN streams s USING (stream) "
        f"WHERE e.stream = ? AND e.version > ? AND e.version <= ? {only} ORDER BY e.version"
    )

    def read() -> Iterator[tuple[Row, Place]]:
        pages.look()
        for number, version in database.query(_STREAM_VERSION, (stream,)):
            for begin in range(0, version, SUBSCRIPTION_PAGE_EVENTS):
                if begin:
                    pages.look()
                end = min(begin + SUBSCRIPTION_PAGE_EVENTS, version)
                found = rows_of(database, query, (number, begin, end, *others))
                count = database.query(_STREAM_COUNT, (number, begin, end))[0][0] if topics else len(found)
                pages.report_missing(stream, begin, end, count)
                yield from pages.passed(found, topics)

    return read()


# Appends of this process wake the follower; events of other processes are found by polling. PostgreSQL's NOTIFY would
# avoid polling, but would halve the throughput of appends.
class LogSubscription(Subscription[ApplicationRecorder]):
    """Iterate over the log without end; `stop()` ends the iteration, also from another thread."""

    def __init__(
        self,
        recorder: ApplicationRecorder,
        database: Database,
        gt: int | str | None,
        topics: Sequence[str],
        followers: set[threading.Event],
    ) -> None:
        self._pages = LogPages(database, gt, topics)
        super().__init__(recorder, self._pages.after, topics)
        self._page: deque[Notification] = deque()
        self._woken = threading.Event()
        self._followers = followers
        followers.add(self._woken)

    def stop(self) -> None:
        """End the iteration."""
        super().stop()
        self._followers.discard(self._woken)
        self._woken.set()

    def __next__(self) -> Any:
        while not self._has_been_stopped:
            if self._page:
                return self._page.popleft()
            self._woken.clear()
            if not self._look():
                self._woken.wait(FOLLOW_SECONDS)
        raise StopIteration

    def _look(self) -> bool:
        """Read the next page and return whether there were new events; a lost connection is retried at the next poll."""
        try:
            end = self._pages.look()
            if end <= self._pages.after:
                return False
            before = self._pages.after
            for row, place in self._pages.read(end):
                self._page.append(replace(logged_row(row), cursor=LogCursor.at(row[0], place)))
        except ConnectionLost as lost:
            logger.warning("cannot read new events, retrying: %s", lost)
            return False
        return self._pages.after > before
