"""Open a database, and keep its connections safe across forks."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from threadledger.domain.errors import InvalidSettings

from .connections import Connections, Kind
from .file_url import FileURL
from .group_commit import Group

if TYPE_CHECKING:
    from sqlalchemy import URL

    from threadledger.domain.journal.blobs import BlobFiles

    from .claims import Renewal


class Database(Connections):
    """Represent an open database. Threads may share it; after a fork, the child process opens its own connections.

    Args:
        create: whether to create the file and the tables if there are none.
        upgrade: whether to upgrade an older schema. Otherwise, a database that cannot be written can be read.
        read_only: whether to do neither, and to refuse appends.
        synchronous: SQLite's setting of this name; see `SQLite`.

    Raises:
        InvalidSettings, DatabaseMissing: the URL cannot be used.
    """

    renewal: Renewal
    """What extends the claims of this process; set with the first claim."""
    writes_blobs_evenly = False
    """See `BlobStore.writes_evenly`."""
    blob_files: Callable[[], BlobFiles] | None = None
    """Function that returns where the bytes of blobs are, if not in the database."""

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        upgrade: bool = True,
        read_only: bool = False,
        synchronous: str = "FULL",
    ) -> None:
        self.creates, self.upgrades = create and not read_only, upgrade and not read_only
        if "{tenant}" in url:
            raise InvalidSettings(
                "the database is that of a tenant, and none was chosen: choose one with threadledger --tenant T, or with "
                "THREADLEDGER_TENANT"
            )
        address = parse_url(url)
        kind, shown = _kind(address, self.creates, self.upgrades, synchronous)
        super().__init__(kind, shown, read_only=read_only)
        self.schema_is_open = False
        """Whether the tables are known to belong to a ledger of this schema version. Checked once, not by each recorder."""
        self.schema_before: int | None = None
        """Schema version before this process upgraded it (0: there were no tables); None if no upgrade was needed."""
        self.group = Group(self)
        self.stale_views: set[tuple[str, int]] = set()
        """Views that cannot be updated, with their positions, that were logged already."""
        self.on_close: list[Callable[[], None]] = []
        _OPEN.add(self)

    def close(self) -> None:
        """Close every connection."""
        self.closed = True
        _OPEN.discard(self)
        self.group.close()  # waits for the current write
        if "renewal" in vars(self):
            self.renewal.stop()
        self.dispose()
        for close in self.on_close:
            close()

    def before_fork(self) -> None:
        """Close every idle connection before a fork.

        SQLite's locks are not inherited: a child using its parent's open files would hold no locks.
        """
        self.group.before_fork()
        self._renewing = self.renewal.writing if "renewal" in vars(self) else threading.Lock()
        self._renewing.acquire()
        self._close_idle()
        self._at_work_when_forked = self.kind.name == "sqlite" and self.pool.in_use() > 0
        self.dispose()

    def after_fork_in_parent(self) -> None:
        """Resume work; connections are opened on demand."""
        self.group.after_fork_in_parent()
        self._renewing.release()
        self._at_work_when_forked = False

    def after_fork_in_child(self) -> None:
        """Reset the state in the child. Connections in use by the parent's threads are neither used nor closed here."""
        self.write_lock = self._new_write_lock()
        self.group.after_fork_in_child()
        vars(self).pop("renewal", None)  # its claims belong to the parent
        self.pool.dispose(close=False)


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


class _Forking:
    """Prepare the open databases for a fork and resume them afterwards; one fork runs at a time.

    Every database that was blocked before the fork is resumed after it, even if another thread closed it meanwhile.
    """

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


def parse_url(url: str) -> FileURL | URL:
    """Return the URL of a database; a text without `://` is the path of a SQLite file."""
    if "://" not in url and url.strip():
        from .addresses import url_of_path

        return url_of_path(url)
    file = FileURL.parse(url)
    if file is not None:
        return file
    from .addresses import url_of_server

    return url_of_server(url)


def _kind(url: FileURL | URL, create: bool, upgrade: bool, synchronous: str) -> tuple[Kind, str]:
    """Return the kind of a database, and its URL as it is shown; the other kind of database is not loaded."""
    if isinstance(url, FileURL):
        from .sqlite import SQLite

        return SQLite(url, create=create, upgrade=upgrade, synchronous=synchronous), str(url)
    from .addresses import shown

    if url.get_backend_name() != "postgresql":
        raise InvalidSettings(
            f"databases of kind {url.get_backend_name()!r} are not supported: "
            "use a URL like sqlite:///threadledger.db or postgresql+psycopg://user@host/database"
        )
    from .postgres import PostgreSQL

    return PostgreSQL(url), shown(url)
