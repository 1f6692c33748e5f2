"""Read a ledger from a copy of its database: a hot standby, or a copied SQLite file. The primary answers when it cannot.

A `Replica` is a `Database` that nothing is written to. It becomes its primary, once and for all readers that share it, as soon
as the copy is lost or lacks too much; what was read before is still in the primary's log. Loaded only if there is a replica.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from threadledger.domain.conversation import CONVERSATION
from threadledger.domain.errors import (
    DatabaseMissing,
    DatabaseReadOnly,
    InvalidSettings,
    StoreError,
    ThreadledgerError,
)
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import Journal

from .connections import ConnectionLost, RolledBack, Transaction
from .database import Database, parse_url
from .factory import Factory
from .file_url import FileURL
from .schema import open_schema

T = TypeVar("T")

logger = logging.getLogger("threadledger.replica")
"""Logger of what a reader of a replica should know, which the commands show."""
details = logging.getLogger("threadledger")

LAG_SHOWN_SECONDS = 5.0
"""Age of the oldest event that a replica lacks, in seconds, from which on it is reported without -v as well."""

LAG_SECONDS_MAX = 3_600.0
"""The same from which on the primary answers instead: no standby that still receives anything is an hour behind."""

VIEW_LAG_SECONDS_MAX = 30.0
"""Age of the oldest event that a view on a replica lacks, in seconds, from which on the primary answers instead, which brings
the view up to date. A worker keeps views newer than that; without one, only readers of the primary do."""

CONFLICTS_MAX = 5
"""Number of attempts of a query that a standby cancels because it is in the way of its replay."""

_LOOK = "SELECT ledger_id, (SELECT coalesce(max(position), 0) FROM events) FROM threadledger"
_EVENT = "SELECT leaf FROM events WHERE position = ?"
_TIME_AFTER = "SELECT at FROM events WHERE position > ? ORDER BY position LIMIT 1"


class NotAReplica(InvalidSettings):
    """Raised when a database is no copy of the ledger's."""


class Lag(NamedTuple):
    """Hold how far a replica is behind its primary."""

    events: int
    seconds: float
    """Age of the oldest event that it lacks; 0 if it lacks none."""
    url: str
    """URL of the replica, without its passwords."""

    @property
    def is_noticeable(self) -> bool:
        """Return whether it is reported without -v as well."""
        return self.seconds >= LAG_SHOWN_SECONDS

    def __str__(self) -> str:
        if not self.events:
            return "the replica has all events of the primary"
        plural = "" if self.events == 1 else "s"
        return (
            f"the replica is {self.events:,} event{plural} behind the primary; the oldest of them was written "
            f"{self.seconds:,.1f} s ago"
        )


class Replica(Database):
    """Represent a copy of a ledger's database, which is only read.

    Args:
        url: where the copy is.
        primary: the database that it is a copy of, which is closed with it.
        read_only: whether appends are also refused once the primary answers.

    Raises:
        InvalidSettings, DatabaseMissing: the URL cannot be used.
    """

    def __init__(self, url: str, primary: Database, *, read_only: bool = False) -> None:
        super().__init__(_for_reading(url), create=False, upgrade=False, read_only=True)
        self.shown_url = shown(url)
        self.primary = primary
        self.is_replica, self._read_only_later = True, read_only
        self.can_leave = False
        """Whether the primary answers if this database cannot."""
        self.is_alone = False
        """Whether the primary cannot be reached, so that this database is waited for."""
        self._leaving = threading.Lock()

    def close(self) -> None:
        super().close()
        self.primary.close()

    def abandon(self) -> None:
        """Close the connections to the copy alone."""
        super().close()

    def compare(self) -> Lag:
        """Return how far this database is behind the primary.

        Raises:
            NotAReplica: it is another ledger, or its log differs from the primary's.
            StoreError: one of the two cannot be read.
        """
        if self.kind.name != self.primary.kind.name:
            raise NotAReplica(
                f"{self.shown_url} is no copy of {self.primary.shown_url}: it is another kind of database"
            )
        ((ledger_id, last),) = self.primary.query(_LOOK)  # first: a standby may show a commit before its primary does
        ((own_id, own_last),) = self.query(_LOOK)
        if own_id != ledger_id:
            raise NotAReplica(f"{self.shown_url} is another ledger than {self.primary.shown_url}: it was not read")
        common = min(last, own_last)
        if self.query(_EVENT, (common,)) != self.primary.query(_EVENT, (common,)):
            raise NotAReplica(
                f"the log of {self.shown_url} differs from that of {self.primary.shown_url} at position {common:,} (one of "
                "them was restored, or written to by itself): it was not read"
            )
        age = _age_after(self.primary, common) if last > own_last else 0.0
        return Lag(max(last - own_last, 0), age, self.shown_url)

    def leave(self, why: str) -> bool:
        """Switch to the primary for good, if it can be reached; return whether it answers."""
        with self._leaving:
            if not self.is_replica:
                return True
            if not self.can_leave:
                return False
            self._close_idle()
            before, self._era = self.pool, self._era + 1  # connections in use are closed when they are returned
            self.kind, self.pool, self.driver = self.primary.kind, self.primary.pool, self.primary.driver
            self.shown_url, self.on_connect = self.primary.shown_url, self.primary.on_connect
            self.write_lock, self.read_only = self.primary.write_lock, self._read_only_later
            self._reached, self.is_replica = False, False
            before.dispose()
        logger.warning("%s", _instead(why))
        return True

    def leave_for_view(self, name: str, position: int | None) -> bool:
        """Switch to the primary for good if a view lacks too much; return whether it answers.

        `position` is the one that the view has reached; None if it was never built.
        """
        if position is None:
            return self.leave(f"the view {name} was never built there")
        age = _age_after(self, position)
        behind = f"the view {name} on the replica lacks events, of which the oldest was written {age:,.1f} s ago"
        if age > VIEW_LAG_SECONDS_MAX and self.leave(behind):
            return True
        if (name, position) not in self.stale_views:
            self.stale_views.add((name, position))
            is_noticeable = age >= LAG_SHOWN_SECONDS
            (logger.warning if is_noticeable else details.info)("%s, and is read as it is", behind)
        return False

    def reconnecting(self, work: Callable[[], T]) -> T:
        """Run `work`, and run it on the primary if this database is lost; see `Connections.reconnecting`."""
        if not self.is_replica or self.is_alone:
            return super().reconnecting(work)
        for attempt in count(1):
            try:
                return work()
            except ConnectionLost as lost:
                if isinstance(lost, RolledBack) and attempt < CONFLICTS_MAX:
                    continue
                if not self.leave(str(lost)):
                    raise
                break
        return super().reconnecting(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
        if self.is_replica:
            raise DatabaseReadOnly(f"{self.shown_url} is a replica, which is only read: nothing was written")
        return super().write(work)


class ReplicaJournal(Journal):
    """Hold the events of a replica. Overdue runs are closed on the primary, which answers from then on."""

    def close_overdue_runs(self) -> list[str]:
        database: Replica = self._given_factory.database  # type: ignore[attr-defined]
        if database.is_replica and not database._read_only_later:
            overdue = len(self._log.select_heads(CONVERSATION, overdue_at=to_iso(now())))
            if overdue:
                database.leave("a run is past its deadline, which only the primary can close")
        return super().close_overdue_runs()


def journal_of_replica(url: str, primary: Database, *, read_only: bool = False) -> tuple[Database, Journal]:
    """Return a database that reads from a replica, or the primary if the replica cannot be used, and its journal.

    Why the primary is used, and a noticeable lag, are logged.

    Raises:
        StoreError, DatabaseMissing: the primary cannot be read; if it cannot be reached, only if the replica cannot either.
    """
    away: ConnectionLost | None = None
    try:
        open_schema(primary)
    except ConnectionLost as error:
        away = error
    replica: Replica | None = None
    try:
        replica = Replica(url, primary, read_only=read_only)
        replica.is_alone = away is not None
        open_schema(replica)
        lag = replica.compare() if away is None else None
        if lag is not None and lag.seconds > LAG_SECONDS_MAX:
            raise NotAReplica(f"{lag}, and receives nothing more, it seems")
        journal = ReplicaJournal(Factory(database=replica))
    except (ThreadledgerError, ConnectionLost) as error:
        if replica is not None:
            replica.abandon()
        if away is not None:
            raise away from error
        logger.warning("%s", _instead(_of_replica(error)))
        return primary, Journal(Factory(database=primary))
    replica.can_leave = not replica.is_alone
    if lag is None:
        logger.warning(
            "read from the replica, without comparing it with the primary, and perhaps not up to date: %s", away
        )
    else:
        (logger.warning if lag.is_noticeable else details.info)("%s", lag)
    return replica, journal


def lag_of_replica(url: str, primary_url: str) -> Lag:
    """Return how far a replica is behind its primary.

    Raises:
        InvalidSettings, StoreError, DatabaseMissing: one of the two cannot be read, or the one is no copy of the other.
    """
    primary = Database(primary_url, create=False, upgrade=False)
    try:
        replica = Replica(url, primary)
        try:
            open_schema(replica)
            return replica.compare()
        finally:
            replica.abandon()
    except (InvalidSettings, StoreError, DatabaseMissing) as error:
        raise type(error)(_of_replica(error)) from error
    finally:
        primary.close()


def shown(url: str) -> str:
    """Return the URL of a replica without its passwords."""
    from .addresses import shown as shown_server

    parsed = parse_url(url)
    return str(parsed) if isinstance(parsed, FileURL) else shown_server(parsed)


def _for_reading(url: str) -> str:
    """Return the URL under which nothing is written, not even views: SQLite's own address of a file, opened to be read."""
    parsed = parse_url(url)
    if not isinstance(parsed, FileURL) or parsed.is_address:
        return url
    from pathlib import Path

    from .sqlite_files import address_for_reading

    path = Path(parsed.database).absolute()
    if not path.is_file():
        raise DatabaseMissing(f"there is no database at {parsed}")
    address, _, options = address_for_reading(path).partition("?")
    return f"sqlite:///{quote(address)}?{options.replace('mode=rw', 'mode=ro')}"


def _age_after(database: Database, position: int) -> float:
    """Return the age of the first event after a position, in seconds; 0 if there is none."""
    found = database.query(_TIME_AFTER, (position,))
    return max((now() - from_iso(found[0][0])).total_seconds(), 0.0) if found else 0.0


def _instead(why: str) -> str:
    return f"read from the primary instead of the replica: {why}"


def _of_replica(error: Exception) -> str:
    """Return an error's text with the name of the setting that it is about."""
    text = str(error).replace("--db or THREADLEDGER_DB", "THREADLEDGER_DB")
    return text.replace("THREADLEDGER_DB", "THREADLEDGER_READ_DB")
