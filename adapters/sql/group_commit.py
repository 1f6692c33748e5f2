"""Implement group commit: concurrent appends of several threads share one transaction and one fsync.

There is no writer thread. The first thread takes the requests waiting behind it, decides for all of them, commits once,
and wakes each of their threads with its result. Only the first thread of the queue waits for the lead; the others sleep
until they have a result or are the first. A single thread has no overhead. No caller gets its result before the commit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import IntegrityError

from threadledger.domain import limits
from threadledger.domain.errors import DatabaseReadOnly
from threadledger.domain.journal import Also, Appending, StoredRow, StreamHead

from .connections import ConnectionLost, Connections, Cursor, FoundHead, Move, Overtaken, split_id

GROUP_MAX = 64
"""Maximum number of appends in one transaction."""

KEPT_HEADS_MAX = 1_000
"""Maximum number of heads that are kept for the next append to their streams."""

SLEEP_SECONDS_MAX = 1.0
"""Time after which a thread asks for the lead by itself, in seconds: the one that had to wake it may have been interrupted."""

Decision = Callable[[Mapping[str, StreamHead]], Appending]
"""Function that returns what to append, given the heads of the existing streams. May be called again with newer heads."""

Append = Callable[[Cursor, Sequence[Move], Sequence[StoredRow]], Sequence[int]]

_HEADS = "SELECT stream, name, version, state_schema, snapshot, due_at FROM streams WHERE name IN "


@dataclass(eq=False, slots=True)
class Request:
    """Represent a pending append."""

    streams: Sequence[str]
    decide: Decision
    also: Also | None = None
    appending: Appending | None = None
    """Result of the decision, kept while it is unknown whether it was stored."""
    unsure: bool = False
    """Whether the connection was lost after the append was sent."""
    positions: Sequence[int] = ()
    error: Exception | None = None
    done: bool = False
    attempts: int = 0
    sleeper: threading.Lock | None = None
    """Lock on which the request's thread sleeps; None while it does not."""

    def wake(self) -> None:
        """Wake the request's thread if it sleeps; waking it twice does no harm."""
        sleeper = self.sleeper
        if sleeper is not None:
            with suppress(RuntimeError):  # it was woken already
                sleeper.release()

    def end(self, positions: Sequence[int] = (), error: Exception | None = None) -> None:
        self.positions, self.error, self.done = positions, error, True


Ending = tuple[Request, Sequence[int], Exception | None]


class KeptHeadPassed(Exception):
    """Raised when an append has to be decided again, because a kept head may be older than the stored one."""


class Group:
    """Group the concurrent appends to one database."""

    def __init__(self, database: Connections) -> None:
        self._database = database
        self._waiting: deque[Request] = deque()
        self._turn = threading.Lock()
        self._leader: int | None = None
        self._connection: Any = None
        self._held_cursor: Cursor = None
        self._kept: dict[str, FoundHead] = {}
        """Heads as the last appends of this connection left them, those of the oldest appends first."""
        self._kept_as_of: object = None
        """Result of `Kind.others_wrote` that the heads are valid for."""
        self._stored: tuple[Sequence[Move], Sequence[int]] = (), ()
        """Moves and positions of the last transaction."""

    def append(self, streams: Sequence[str], decide: Decision, also: Also | None = None) -> Sequence[int]:
        """Decide on the current heads of these streams and store the decision; return the events' positions.

        Raises:
            IntegrityError: the events cannot be stored: an idempotency key exists already, or other writers changed
                the streams during all attempts.
            StoreUnavailable: the database cannot be used.
            Exception: what `decide` raises; nothing was written.
        """
        if self._leader == threading.get_ident():
            raise RuntimeError("a decision function appended to the ledger itself: return the decision, then append")
        if self._database.read_only:
            raise DatabaseReadOnly(
                f"{self._database.shown_url} was opened with read_only=True: nothing was written; open it without that to write"
            )
        own = Request(streams, decide, also)
        led: list[Request] = []
        self._waiting.append(own)
        try:
            if self._first() is not own:
                self._sleep(own)
            if not own.done:
                with self._turn:
                    if not own.done:
                        self._leader = threading.get_ident()
                        try:
                            self._perform(own, led)
                        finally:
                            self._leader = None
        except BaseException:  # interrupted while waiting: no other thread may store it later
            with suppress(ValueError):  # a leader has taken it already
                self._waiting.remove(own)
            raise
        finally:
            for each in (self._first(), *led):  # the thread that leads next, then those that have their result
                if each is not None:
                    each.wake()
        if own.error is not None:
            raise own.error
        return own.positions

    def close(self) -> None:
        """Close the connection after the current write."""
        with self._turn:
            self._let_go()

    def before_fork(self) -> None:
        """Block appends and close the connection, because a child process must not inherit it."""
        if self._leader != threading.get_ident():
            self._turn.acquire()
            self._let_go()

    def after_fork_in_parent(self) -> None:
        """Allow appends again."""
        if self._leader != threading.get_ident():
            self._turn.release()

    def after_fork_in_child(self) -> None:
        """Discard the pending requests, which belong to threads of the parent process."""
        self._waiting.clear()
        self._turn, self._leader = threading.Lock(), None

    def _first(self) -> Request | None:
        try:
            return self._waiting[0]
        except IndexError:
            return None

    def _sleep(self, own: Request) -> None:
        """Sleep until the request is done or the first of the queue; a change after the last look finds the lock."""
        own.sleeper = sleeper = threading.Lock()
        sleeper.acquire()
        first = self._first()
        if first is not own and not own.done:
            if first is not None:
                first.wake()  # it became the first before it showed its lock
            sleeper.acquire(timeout=SLEEP_SECONDS_MAX)
        own.sleeper = None

    def _perform(self, own: Request, requests: list[Request]) -> None:
        """Complete this request and those waiting with it, and end each one even if an error occurs."""
        requests.append(own)
        try:
            while self._waiting and len(requests) < GROUP_MAX:  # only the leader takes requests
                each = self._waiting.popleft()
                if each is not own:
                    requests.append(each)
            self._database.reconnecting(lambda: self._attempt_all(requests))
        except Exception as error:  # noqa: BLE001 - raised again in the threads that wait for it
            from .errors import with_doubt

            for each in requests:
                if not each.done:
                    each.end(error=error if each.appending is None else with_doubt(error))
        except BaseException:  # this thread is interrupted: requests of other threads return to the queue
            self._let_go()
            self._waiting.extendleft(each for each in reversed(requests) if not each.done and each is not own)
            raise

    def _attempt_all(self, requests: Sequence[Request]) -> None:
        """Complete requests; those that have to read what others store first follow in another commit."""
        while left := [each for each in requests if not each.done]:
            self._attempt(left)

    def _attempt(self, requests: Sequence[Request]) -> None:
        driver = self._database.driver
        try:
            with self._database.write_lock:
                self._commit(requests)
        except (driver.IntegrityError, Overtaken) as error:
            self._one_by_one(requests, error)
        except Exception as error:
            named_error = self._database.named(error) if isinstance(error, driver.Error) else error
            if isinstance(named_error, ConnectionLost):
                for each in requests:
                    each.unsure = each.appending is not None
                self._let_go()
            elif len(requests) > 1:
                self._one_by_one(requests, error)
                return
            raise named_error from error

    def _one_by_one(self, requests: Sequence[Request], error: Exception) -> None:
        """Decide and store each request separately, because one of them cannot be stored as decided."""
        for each in requests:
            each.attempts += 1
            if not each.unsure:
                each.appending = None
            # An unacknowledged commit may have succeeded just after the check: check once more before deciding again.
            each.unsure = False
        for each in requests:
            if each.attempts >= limits.DECIDE_ATTEMPTS_MAX:
                each.end(error=IntegrityError(str(error) or "other writers were first in every attempt"))
                continue
            try:
                self._attempt([each])
            except ConnectionLost:
                raise
            except Exception as own_error:  # noqa: BLE001 - the error belongs to this request alone
                each.end(error=own_error)

    def _commit(self, requests: Sequence[Request]) -> None:
        first = all(each.attempts == 0 and each.also is None for each in requests)
        try:
            try:
                ended = self._transact(requests, first, use_kept=first)
            except KeptHeadPassed:
                for each in requests:
                    each.appending = None
                ended = self._transact(requests, first, use_kept=False)
        except BaseException:
            self._forget()
            raise
        for each, positions, error in ended:
            each.end(positions, error)

    def _transact(self, requests: Sequence[Request], first: bool, use_kept: bool) -> list[Ending]:
        """Decide and store the requests in one transaction; return the results of each, which it has when this returns."""
        cursor, kind = self._cursor(), self._database.kind
        ended: list[Ending] = []
        if first and not kind.locks_when_writing and not kind.pooled:  # one statement, which compares and sets
            ended = self._store(cursor, requests, "", kind.append_durably, use_kept)
            if kind.flush and not any(positions for _, positions, _ in ended):  # perhaps it is stored, and not durable
                cursor.execute(kind.flush)
        else:
            cursor.execute(kind.begin_write)
            self._database.joined = (threading.get_ident(), self._connection) if kind.pooled else None
            try:
                ended = self._store(cursor, requests, "" if first else kind.lock_heads, kind.append, use_kept)
                self._database.commit(cursor.execute, kind.commit_append)
            except self._database.driver.Error as failed:
                self._roll_back(cursor)
                if ended and kind.flush:  # it may be committed, and not durable: the next attempt finds out
                    raise ConnectionLost(f"the server did not confirm that an append is durable: {failed}") from failed
                raise
            except BaseException:
                self._roll_back(cursor)
                raise
            finally:
                self._database.joined = None
        self._keep()
        return ended

    def _store(
        self, cursor: Cursor, requests: Sequence[Request], lock: str, append: Append, use_kept: bool
    ) -> list[Ending]:
        """Decide each request on the heads left by the one before it, append once, and return the results to report on commit.

        Those without a result are decided again after this commit.

        Raises:
            KeptHeadPassed: a kept head may not be the newest one: nothing was written, and the heads have to be read.
        """
        names = requests[0].streams if len(requests) == 1 else [name for each in requests for name in each.streams]
        kept = self._kept_heads(cursor, names, use_kept)
        found = self._heads(cursor, list(dict.fromkeys(names)), lock) if kept is None else kept
        uncertain = kept is not None and not self._database.kind.others_wrote
        heads = {name: each.head for name, each in found.items()}
        moved: dict[str, StreamHead] = {}
        rows: list[StoredRow] = []
        ended: list[tuple[Request, slice | Sequence[int], Exception | None]] = []
        for each in requests:
            stored = self._stored_before(cursor, each)
            if stored is not None:
                ended.append((each, stored, None))
                continue
            # A decision may read the log, which does not have the rows of this commit yet.
            is_behind = any(name in moved for name in each.streams)
            if is_behind and each.also is not None:
                continue
            decided = self._decide(each, heads, uncertain and not is_behind)
            if isinstance(decided, Exception):
                ended += [] if is_behind else [(each, (), decided)]
                continue
            if each.also is not None:
                each.also(cursor)  # an error here rolls back the transaction; the other requests are stored without it
            for head in decided.heads:
                heads[head.stream] = moved[head.stream] = head
            ended.append((each, slice(len(rows), len(rows) + len(decided.rows)), None))
            rows += decided.rows
        moves = [Move(name, found.get(name), head) for name, head in moved.items()]
        try:
            positions = append(cursor, moves, rows) if rows else ()
        except Overtaken as error:
            if kept is not None:
                raise KeptHeadPassed from error
            raise
        self._stored = moves, positions
        return [(each, positions[at] if isinstance(at, slice) else at, error) for each, at, error in ended]

    def _decide(self, own: Request, heads: Mapping[str, StreamHead], uncertain: bool) -> Appending | Exception:
        """Decide a request on these heads; return what to append, or the error of its decision.

        Raises:
            KeptHeadPassed: it depends on heads that may not be the newest ones.
        """
        decided = own.appending
        try:
            if decided is None or not _still_fits(decided, heads):
                decided = own.appending = own.decide(heads)
        except Exception as error:
            if isinstance(error, self._database.driver.Error):
                raise
            if uncertain:
                raise KeptHeadPassed from error
            return error
        if uncertain and not decided.rows:  # nothing would compare the head with the stored one
            raise KeptHeadPassed
        return decided

    def _kept_heads(self, cursor: Cursor, names: Sequence[str], use_kept: bool) -> dict[str, FoundHead] | None:
        """Return the kept heads of these streams; None if one is not known, or another connection has written meanwhile."""
        others_wrote = self._database.kind.others_wrote
        if others_wrote:  # within the transaction, so that the answer is true until its end
            as_of = cursor.execute(others_wrote).fetchone()
            if as_of != self._kept_as_of:
                self._forget()
                self._kept_as_of = as_of
        kept = self._kept
        try:
            return {name: kept[name] for name in names} if use_kept and kept else None
        except KeyError:
            return None

    def _forget(self) -> None:
        self._kept.clear()
        self._database.kind.end = None

    def _keep(self) -> None:
        """Keep the end of the log and the heads as a commit left them. The first append to a stream does not know its number."""
        moves, positions = self._stored
        if positions:
            self._database.kind.end = positions[-1]
        for name, found, head in moves:
            self._kept.pop(name, None)
            if found is not None:
                self._kept[name] = FoundHead(found.number, head)
        while len(self._kept) > KEPT_HEADS_MAX:
            del self._kept[next(iter(self._kept))]

    def _heads(self, cursor: Cursor, names: Sequence[str], lock: str) -> dict[str, FoundHead]:
        if not names:
            return {}
        places = ", ".join([self._database.kind.placeholder] * len(names))
        cursor.execute(f"{_HEADS}({places}){lock}", names)
        return {row[1]: FoundHead(row[0], StreamHead(*row[1:])) for row in cursor.fetchall()}

    def _stored_before(self, cursor: Cursor, request: Request) -> Sequence[int] | None:
        """Return the positions of an earlier attempt whose commit succeeded without being acknowledged, else None."""
        if request.appending is None or not request.appending.rows:
            return None
        return stored_positions(self._database, cursor, request.appending.rows)

    def _cursor(self) -> Cursor:
        if self._held_cursor is None:
            self._connection = self._database.check_out()
            cursor = self._connection.cursor()
            if self._database.kind.before_appends:
                cursor.execute(self._database.kind.before_appends)
            self._held_cursor = cursor
        return self._held_cursor

    def _roll_back(self, cursor: Cursor) -> None:
        try:
            cursor.execute("ROLLBACK")
        except self._database.driver.Error:  # no transaction is open or the server is gone: nothing was written
            self._let_go()

    def _let_go(self) -> None:
        connection, self._connection, self._held_cursor = self._connection, None, None
        self._forget()
        if connection is not None:
            connection.invalidate()
            connection.close()


def stored_positions(database: Connections, cursor: Cursor, rows: Sequence[StoredRow]) -> Sequence[int] | None:
    """Return the positions of exactly these rows if all of them are stored already, else None.

    They are durable afterwards: a connection that was lost between an append and the commit that waits for the disk and
    the synchronous standby leaves rows that are visible before they are durable.
    """
    query = database.sql(
        f"SELECT {database.kind.row_columns} FROM events e JOIN streams s USING (stream) WHERE s.name = ? AND e.version = ?"
    )
    positions = []
    for row in rows:
        cursor.execute(query, (row.originator_id, row.originator_version))
        stored = cursor.fetchone()
        if stored is None or stored[3:5] != (row.topic, row.state) or split_id(stored[5]) != split_id(row.event_id):
            return None
        positions.append(int(stored[0]))
    if database.kind.flush:
        cursor.execute(database.kind.flush)
    return positions


def _still_fits(appending: Appending, heads: Mapping[str, StreamHead]) -> bool:
    """Return whether the decision of an interrupted attempt can still be appended to the streams.

    It keeps its event ids, so that at most one of the two attempts can ever be stored.
    """
    first: dict[str, int] = {}
    for row in appending.rows:
        first.setdefault(str(row.originator_id), row.originator_version)
    return all(version == (heads[name].version if name in heads else 0) + 1 for name, version in first.items())
