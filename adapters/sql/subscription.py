"""Read and follow the log by cursor: each read checks that what was read before is still in the log.

The check costs no query of its own. A page begins with the event that was read last, and the query for the end of the log
also returns that event's leaf.
"""

from __future__ import annotations

import logging
import re
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from eventsourcing.persistence import ApplicationRecorder, Notification, Subscription

from threadledger.domain.errors import InvalidInput, LogRewound
from threadledger.domain.journal import LogCursor, OnChange, ReadTrail, refuse_changed

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
_VERSION_BEFORE = (  # the last version of a stream up to a position, by halving steps; an earlier one if events are missing
    "WITH RECURSIVE near (version, step) AS (SELECT CAST(0 AS bigint), CAST(? AS bigint) UNION ALL "
    "SELECT n.version + CASE WHEN (SELECT e.position FROM events e WHERE e.stream = ? AND e.version = n.version + n.step) <= ? "
    "THEN n.step ELSE 0 END, n.step / 2 FROM near n WHERE n.step > 0) SELECT max(version) FROM near"
)
_STREAM_VERSION = "SELECT stream, version, substr(snapshot, 1, 80) FROM streams WHERE name = ?"
_DELETED_VERSION = re.compile(r'\{(?:"deleted":true,)?"generation":\d+,"deleted_version":(\d+)')
"""Beginning of the state of a conversation whose key was deleted, with the version up to which it is left out."""


_position, _position_and_leaf = itemgetter(0), itemgetter(0, 8)


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
        self._selects_most = False
        self._changed = changed
        self._given = LogCursor.parse(after)
        self.ledger_id = ""
        """Id of the ledger, known after the first `look`."""
        self._trail = ReadTrail()
        self.after = self._given.position
        """Position up to which the log was read."""
        self._seen = self._durable = 0
        """Last position of the log that was seen, and the one up to which the events are known to be durable."""
        if self._given.leaf is not None and self.after > 0:
            self._trail.extend([(self.after, self._given.leaf)])

    def look(self) -> int:
        """Return the last position of the log."""
        known = self._trail.last
        position = known[0] if known is not None else self.after
        end = self._end(position)
        if self._given.ledger_id not in {None, end.ledger_id}:
            raise InvalidInput(
                f"the cursor {str(self._given)!r} belongs to another ledger: pass a cursor of this ledger, or a position"
            )
        self.ledger_id, self._seen = end.ledger_id, end.position
        if known is None and end.leaf is not None:
            self._trail.extend([(position, end.leaf)])
        elif known is not None and end.leaf != known[1] and not (position > end.position and self._is_standby()):
            raise self._rewound(end.position)
        return end.position

    def read(self, upto: int) -> Sequence[Sequence[Any]]:
        """Return the selected rows of the next page, each with its leaf; the page ends at or before `upto`.

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
        new = rows[bisect_right(rows, self.after, key=_position) :]
        found = len(new)
        if found != end - self.after and self._topics and not self._selects_most:
            found = self._database.query(_COUNT, (self.after, end))[0][0]
        self.report_missing(None, self.after, end, found)
        passed = self.passed(new, self._topics)
        # If most are selected, all rows of a page are read, and not counted.
        self._selects_most = not self._leaves and len(passed) * 2 > end - self.after
        self.after = end
        return passed

    def _rows(self, begin: int, end: int) -> Sequence[Any]:
        query = (
            f"SELECT {self._database.kind.row_columns}, e.leaf FROM events e LEFT JOIN streams s USING (stream) "
            "WHERE e.position BETWEEN ? AND ?"
        )
        values: list[int | str] = [begin, end]
        if self._topics and not self._selects_most:
            # The last event of a page is read too, because the next page is compared with it.
            only, topics = among(self._topics, self._changed if self._leaves else None)
            query += f" AND ({only.removeprefix('AND ')} OR e.position IN (?, ?))"
            values += [*topics, begin, end]
        return rows_of(self._database, f"{query} ORDER BY e.position", values)

    def passed(self, rows: Sequence[Sequence[Any]], topics: Sequence[str] = ()) -> Sequence[Sequence[Any]]:
        """Note the rows, which are after those before; return those of the topics once they are durable."""
        if not rows:
            return rows
        self._wait_until_durable(rows[-1])
        self._trail.extend(map(_position_and_leaf, rows[-ReadTrail.recent :]))
        if self._leaves:
            by_position = {row[0]: row for row in rows}
            return [by_position[row[0]] for row in checked(rows, self._changed, topics)]
        return [row for row in rows if row[3] in topics] if topics else rows

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
        return str(LogCursor(position, self._end(position).leaf, self.ledger_id))

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


Pages = Iterator[tuple[str, Sequence[Sequence[Any]]]]
"""Pages of rows with their leaves, each with the id of the ledger."""


def read_log(database: Database, after: int | str, topics: Sequence[str], changed: OnChange, leaves: bool) -> Pages:
    """Return the rows after a position or cursor up to the current end of the log, page by page."""
    pages = LogPages(database, after, topics, changed, leaves)

    def read() -> Pages:
        end = pages.look()
        while pages.after < end:
            before = pages.after
            yield pages.ledger_id, pages.read(end)
            if pages.after == before:
                end = pages.look()

    return read()


def read_stream(
    database: Database, after: int | str, topics: Sequence[str], stream: str, changed: OnChange, leaves: bool
) -> Pages:
    """Return the rows of one stream after a position or cursor, page by page."""
    pages = LogPages(database, after, changed=changed, leaves=leaves)
    only, others = among(topics, changed if leaves else None)
    query = (
        f"SELECT {database.kind.row_columns}, e.leaf FROM events e JOIN streams s USING (stream) "
        f"WHERE e.stream = ? AND e.version > ? AND e.version <= ? {only} ORDER BY e.version"
    )

    def read() -> Pages:
        pages.look()
        for number, version, state in database.query(_STREAM_VERSION, (stream,)):
            first, deleted = 0, _DELETED_VERSION.match(state)
            if pages.after > 0:
                step = 1 << (version.bit_length() - 1)  # the greatest power of two that is no greater
                ((first,),) = database.query(_VERSION_BEFORE, (step, number, pages.after))
            first = max(first, int(deleted[1])) if deleted is not None else first
            for begin in range(first, version, SUBSCRIPTION_PAGE_EVENTS):
                if begin > first:
                    pages.look()
                end = min(begin + SUBSCRIPTION_PAGE_EVENTS, version)
                found = rows_of(database, query, (number, begin, end, *others))
                count = database.query(_STREAM_COUNT, (number, begin, end))[0][0] if topics else len(found)
                pages.report_missing(stream, begin, end, count)
                yield pages.ledger_id, pages.passed([row for row in found if row[0] > pages.after], topics)

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
            for row in self._pages.read(end):
                cursor = LogCursor.at(row[0], (self._pages.ledger_id, row[8]))
                self._page.append(replace(logged_row(row), cursor=cursor))
        except ConnectionLost as lost:
            logger.warning("cannot read new events, retrying: %s", lost)
            return False
        return self._pages.after > before
