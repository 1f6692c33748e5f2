"""A database that is open."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import cast

from sqlalchemy import QueuePool, exc
from sqlalchemy.engine import URL, make_url

from threadledger.domain import InvalidSettings

from .connections import Connections
from .group import Also, Decision, Group
from .kinds import Kind, shown
from .postgres import PostgreSQL
from .sqlite import SQLite


class Database(Connections):
    """A database that is open. Threads may share it; after a fork, the child has connections of its own.

    Args:
        create: whether a SQLite file that is not there is made.
        synchronous: SQLite's; see `SQLite`.

    Raises:
        InvalidSettings, DatabaseMissing: the URL cannot be used.
    """

    def __init__(self, url: str, *, create: bool = True, synchronous: str = "FULL") -> None:
        parsed = _parse(url)
        super().__init__(_kind(parsed, create, synchronous), shown(parsed))
        self.schema_is_open = False
        """Whether the tables are known to be ours, and this version's: looked at once, not by each recorder."""
        self.schema_before: int | None = None
        """The schema's number before this opening took it forward (0: there was none); None where nothing was to do."""
        self._group = Group(self)
        _OPEN.add(self)

    def append(self, streams: Sequence[str], decide: Decision, also: Also | None = None) -> Sequence[int]:
        """Decide and store, together with what other threads append at this moment: see `Group.append`."""
        return self._group.append(streams, decide, also)

    def close(self) -> None:
        """Close every connection."""
        self.closed = True
        _OPEN.discard(self)
        self._group.close()  # whoever is writing at this moment ends first
        self._close_idle()
        self.engine.dispose()

    def before_fork(self) -> None:
        """Close every connection that is not at work: SQLite's locks are not inherited, and a child that has its parent's
        files open would hold none."""
        self._group.before_fork()
        self._close_idle()
        self._at_work_when_forked = self.kind.name == "sqlite" and cast("QueuePool", self.engine.pool).checkedout() > 0
        self.engine.dispose()

    def after_fork_in_parent(self) -> None:
        """Go on; connections are made when they are needed."""
        self._group.after_fork_in_parent()
        self._at_work_when_forked = False

    def after_fork_in_child(self) -> None:
        """Begin anew. What other threads of the parent were at is left alone, never used and never closed from here."""
        self.write_lock = self._new_write_lock()
        self._group.after_fork_in_child()
        self.engine.dispose(close=False)


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


class _Forking:
    """What happens to the open databases around a fork, of which one takes place at a time. Those that were held up before it
    are let go after it, also where another thread has closed one meanwhile."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._held: list[Database] = []

    def before(self) -> None:
        self._one_at_a_time.acquire()
        self._held = list(_OPEN)
        for database in self._held:
            database.before_fork()

    def after_in_parent(self) -> None:
        held, self._held = self._held, []
        for database in held:
            database.after_fork_in_parent()
        self._one_at_a_time.release()

    def after_in_child(self) -> None:
        held, self._held = self._held, []
        self._one_at_a_time = threading.Lock()
        for database in held:
            database.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    _forking = _Forking()
    os.register_at_fork(
        before=_forking.before, after_in_parent=_forking.after_in_parent, after_in_child=_forking.after_in_child
    )


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except exc.ArgumentError:
        raise InvalidSettings(
            "the database's URL cannot be read: give one like sqlite:///threadledger.db with --db or THREADLEDGER_DB"
        ) from None


def _kind(url: URL, create: bool, synchronous: str) -> Kind:
    match url.get_backend_name():
        case "sqlite":
            return SQLite(url, create=create, synchronous=synchronous)
        case "postgresql":
            return PostgreSQL(url)
    raise InvalidSettings(
        f"databases of kind {url.get_backend_name()!r} are not supported: "
        "give a URL like sqlite:///threadledger.db or postgresql+psycopg://user@host/database"
    )
