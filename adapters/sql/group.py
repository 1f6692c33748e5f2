"""Group commit: what several threads append at the same moment goes into one transaction, and shares its fsync.

There is no writer thread. Whoever comes first takes what waits behind it, decides for all, commits once, and tells each
what became of its own; a thread alone pays nothing for it. Nobody is told before the commit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import IntegrityError

from threadledger.domain import Appending, StoredRow, StoreUnavailable, StreamHead, limits

from .connections import Connections
from .kinds import ConnectionLost, Cursor, FoundHead, Move, Overtaken

GROUP_MAX = 64
"""Appends in one transaction at most."""

Decision = Callable[[Mapping[str, StreamHead]], Appending]
"""What to append, given the heads of the streams that are there. May be asked again, with newer heads."""

Also = Callable[[Cursor], None]
"""What else is written in the same transaction."""

_HEADS = "SELECT stream, name, version, state_schema, state, due_at FROM streams WHERE name IN "


@dataclass(eq=False, slots=True)
class Request:
    """One append on its way."""

    streams: Sequence[str]
    decide: Decision
    also: Also | None = None
    appending: Appending | None = None
    """What was decided; kept as long as it is not known whether it was stored."""
    unsure: bool = False
    """Whether a connection broke after it was sent."""
    positions: Sequence[int] = ()
    error: Exception | None = None
    done: bool = False
    attempts: int = 0

    def end(self, positions: Sequence[int] = (), error: Exception | None = None) -> None:
        self.positions, self.error, self.done = positions, error, True


Ending = tuple[Request, Sequence[int], Exception | None]


class Group:
    """The appends of one database."""

    def __init__(self, database: Connections) -> None:
        self._database = database
        self._waiting: deque[Request] = deque()
        self._turn = threading.Lock()
        self._leader: int | None = None
        self._connection: Any = None
        self._held_cursor: Cursor = None

    def append(self, streams: Sequence[str], decide: Decision, also: Also | None = None) -> Sequence[int]:
        """Decide on the present heads of these streams and store what was decided; returns the events' positions.

        Raises:
            IntegrityError: the events cannot be stored: an event id is taken, or others were first too often.
            StoreUnavailable: the database cannot be used.
            Exception: what `decide` raises; nothing was written.
        """
        if self._leader == threading.get_ident():
            raise RuntimeError("a decision appended to the ledger itself: decide first, then append the next thing")
        own = Request(streams, decide, also)
        self._waiting.append(own)
        try:
            with self._turn:
                if not own.done:
                    self._leader = threading.get_ident()
                    try:
                        self._perform(own)
                    finally:
                        self._leader = None
        except BaseException:  # told to stop while it waited: nobody is to store it later
            with suppress(ValueError):
                self._waiting.remove(own)
            raise
        if own.error is not None:
            raise own.error
        return own.positions

    def close(self) -> None:
        """Give the connection back, once nobody writes."""
        with self._turn:
            self._let_go()

    def before_fork(self) -> None:
        """Hold everybody up, and close the connection: a child must not inherit it."""
        if self._leader != threading.get_ident():
            self._turn.acquire()
            self._let_go()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._leader != threading.get_ident():
            self._turn.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: what waits belongs to threads of the parent."""
        self._waiting.clear()
        self._turn, self._leader = threading.Lock(), None

    def _perform(self, own: Request) -> None:
        """See to it that this one is done, and those that wait with it, whatever ends it."""
        requests = [own]
        try:
            with suppress(IndexError):
                while len(requests) < GROUP_MAX:
                    each = self._waiting.popleft()
                    requests += [] if each is own else [each]
            self._database.reconnecting(lambda: self._attempt([each for each in requests if not each.done]))
        except Exception as error:  # noqa: BLE001 - it is handed to those who wait for it
            for each in requests:
                if not each.done:
                    each.end(error=_told(error, each))
        except BaseException:  # this thread is told to stop: what others wait for goes back into the queue
            self._let_go()
            self._waiting.extendleft(each for each in reversed(requests) if not each.done and each is not own)
            raise

    def _attempt(self, requests: Sequence[Request]) -> None:
        if not requests:
            return
        driver = self._database.driver
        try:
            with self._database.write_lock:
                self._commit(requests)
        except (driver.IntegrityError, Overtaken) as error:
            self._one_by_one(requests, error)
        except Exception as error:
            told = self._database.named(error) if isinstance(error, driver.Error) else error
            if isinstance(told, ConnectionLost):
                for each in requests:
                    each.unsure = each.appending is not None
                self._let_go()
            elif len(requests) > 1:
                self._one_by_one(requests, error)
                return
            raise told from error

    def _one_by_one(self, requests: Sequence[Request], error: Exception) -> None:
        """One of them cannot be stored as it was decided: each is decided again, alone."""
        for each in requests:
            each.attempts += 1
            if not each.unsure:
                each.appending = None
            # It may have come through after all, a moment after it was looked for: looked for once more, then decided anew.
            each.unsure = False
        for each in requests:
            if each.attempts >= limits.DECIDE_ATTEMPTS_MAX:
                each.end(error=IntegrityError(str(error) or "others were first each time"))
                continue
            try:
                self._attempt([each])
            except ConnectionLost:
                raise
            except Exception as told:  # noqa: BLE001 - it is this one's own end, and nobody else's
                each.end(error=told)

    def _commit(self, requests: Sequence[Request]) -> None:
        cursor, kind = self._cursor(), self._database.kind
        if not kind.locks_when_writing and all(each.attempts == 0 and each.also is None for each in requests):
            ended = self._store(cursor, requests, "")  # one statement, which compares and sets and commits by itself
        else:
            cursor.execute(kind.begin_write)
            try:
                ended = self._store(cursor, requests, kind.lock_heads)
                cursor.execute("COMMIT")
            except BaseException:
                self._roll_back(cursor)
                raise
        for each, positions, error in ended:
            each.end(positions, error)

    def _store(self, cursor: Cursor, requests: Sequence[Request], lock: str) -> list[Ending]:
        """Decide for each on what the one before it left, then append once; what each will be told after the commit."""
        names = requests[0].streams if len(requests) == 1 else [name for each in requests for name in each.streams]
        found = self._heads(cursor, list(dict.fromkeys(names)), lock)
        heads = {name: each.head for name, each in found.items()}
        moved: dict[str, StreamHead] = {}
        rows: list[StoredRow] = []
        ended: list[tuple[Request, slice | Sequence[int], Exception | None]] = []
        for each in requests:
            stored = self._stored_before(cursor, each)
            if stored is not None:
                ended.append((each, stored, None))
                continue
            try:
                if each.appending is None or not _still_fits(each.appending, heads):
                    each.appending = each.decide(heads)
            except Exception as error:
                if isinstance(error, self._database.driver.Error):
                    raise
                ended.append((each, (), error))
                continue
            if each.also is not None:
                each.also(cursor)  # what it raises undoes the whole transaction; the others are then stored without it
            for head in each.appending.heads:
                heads[head.stream] = moved[head.stream] = head
            ended.append((each, slice(len(rows), len(rows) + len(each.appending.rows)), None))
            rows += each.appending.rows
        moves = [Move(name, found.get(name), head) for name, head in moved.items()]
        positions = self._database.kind.append(cursor, moves, rows) if rows else ()
        return [(each, positions[at] if isinstance(at, slice) else at, error) for each, at, error in ended]

    def _heads(self, cursor: Cursor, names: Sequence[str], lock: str) -> dict[str, FoundHead]:
        if not names:
            return {}
        places = ", ".join([self._database.kind.placeholder] * len(names))
        cursor.execute(f"{_HEADS}({places}){lock}", names)
        return {row[1]: FoundHead(row[0], StreamHead(*row[1:])) for row in cursor.fetchall()}

    def _stored_before(self, cursor: Cursor, request: Request) -> Sequence[int] | None:
        """The positions of what an earlier attempt decided, where its commit came through without being acknowledged."""
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
        except self._database.driver.Error:  # nothing is open any more, or nobody is there: so nothing was written
            self._let_go()

    def _let_go(self) -> None:
        connection, self._connection, self._held_cursor = self._connection, None, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def stored_positions(database: Connections, cursor: Cursor, rows: Sequence[StoredRow]) -> Sequence[int] | None:
    """The positions of these very rows, where all of them are stored already; None where one is not."""
    query = database.sql(
        "SELECT e.position FROM events e JOIN streams s USING (stream) "
        "WHERE e.event_id = ? AND s.name = ? AND e.version = ? AND e.topic = ? AND e.state = ?"
    )
    positions = []
    for row in rows:
        cursor.execute(query, (row.event_id, row.originator_id, row.originator_version, row.topic, row.state.decode()))
        stored = cursor.fetchone()
        if stored is None:
            return None
        positions.append(int(stored[0]))
    return positions


def _still_fits(appending: Appending, heads: Mapping[str, StreamHead]) -> bool:
    """Whether what was decided in an attempt that broke off can go on the streams as they are: with the same event ids, so
    that of two attempts only one can ever be stored."""
    first: dict[str, int] = {}
    for row in appending.rows:
        first.setdefault(str(row.originator_id), row.originator_version)
    return all(version == (heads[name].version if name in heads else 0) + 1 for name, version in first.items())


def _told(error: Exception, request: Request) -> Exception:
    """The error that a caller gets: where a commit was not acknowledged, it says so."""
    if not isinstance(error, ConnectionLost) or request.appending is None:
        return error
    return StoreUnavailable(
        f"{error}; whether the last append is stored is not known: do it again with the same idempotency key, "
        "or look with: threadledger events"
    )
