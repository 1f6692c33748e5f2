"""Replace a SQLite database by a verified backup; the replaced file is kept under another name.

The target is locked from before the copy until it is replaced. A process that is killed in between leaves the old or the
new database, each complete.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadledger.domain.errors import (
    Conflict,
    FileMissing,
    ForeignDatabase,
    InvalidInput,
    StoreError,
    StoreUnavailable,
)
from threadledger.domain.ids import now
from threadledger.domain.journal import Finding, quietly

from ..private_files import rename_to_new, to_disk
from .addresses import path_in_address
from .database import Database, parse_url
from .file_url import FileURL
from .schema import schema_version
from .upgrading import upgrade
from .upkeep import Progress, check

_FACTS = "SELECT (SELECT count(*) FROM events), (SELECT max(at) FROM events WHERE position = (SELECT max(position) FROM events))"


@dataclass(frozen=True)
class Restored:
    """Describe a restored database; with findings, nothing was replaced."""

    events: int
    kept: Path | None = None
    """Where the replaced database is; None if there was none."""
    findings: Sequence[Finding] = ()


def restore(url: str, backup: Path, confirm: Callable[[Mapping[str, Any]], None], progress: Progress) -> Restored:
    """Replace the SQLite database at `url` by a backup that passes every check.

    Args:
        confirm: called with facts about both databases before anything is locked or written; raises to stop.
        progress: called with the number of events checked and the total.

    Raises:
        InvalidInput, FileMissing: the database is on a server, or there is no such backup.
        ForeignDatabase, NewerSchema: one of the files belongs to another program or a newer threadledger.
        Conflict: another process has the database open.
        StoreUnavailable: a file cannot be written; nothing was replaced.
    """
    target = _target(url)
    if not target.parent.is_dir():
        raise StoreUnavailable(f"{target} cannot be written: create the folder {target.parent} first")
    if not backup.is_file():
        raise FileMissing(f"there is no file {backup}: nothing was replaced; name a file that db backup has written")
    if target.exists() and target.samefile(backup):
        raise InvalidInput(f"{backup} is the database itself: nothing was replaced; name a backup of it")
    source = Database(str(backup.absolute()), create=False, upgrade=False)
    with closing(source):
        events, last_at = _facts(source)
        found = _facts_of(target)
        confirm({"file": str(target), "replaced": found, "events": events, "last_at": last_at})
        try:
            with _locked(target) as is_readable:
                return _replace(target, source, is_readable, progress)
        except OSError as error:
            raise StoreUnavailable(
                f"{target} was not replaced ({error.strerror}): check the disk and the permissions of {target.parent}"
            ) from error


def _target(url: str) -> Path:
    address = parse_url(url)
    if not isinstance(address, FileURL):
        raise InvalidInput(
            "only a SQLite file can be replaced by a backup: create an empty database on the server, copy the backup "
            "there with threadledger --db FILE db copy URL, and set THREADLEDGER_DB to it"
        )
    if not address.database or ":memory:" in address.database:
        raise InvalidInput("an in-memory database cannot be restored: use a file, like sqlite:///threadledger.db")
    if address.is_address:
        return path_in_address(address.database).resolve()
    return Path(address.database).resolve()


def _facts(database: Database) -> tuple[int, str | None]:
    """Return the number of events and the time of the last one; schemas before this version's are read, too.

    Raises:
        ForeignDatabase, NewerSchema: it is not a ledger that this version reads.
    """
    if not database.read(lambda transaction: schema_version(transaction, database.shown_url)):
        raise ForeignDatabase(f"{database.shown_url} contains no ledger: nothing was replaced; name another backup")
    ((events, last_at),) = database.query(_FACTS)
    return int(events), last_at


def _facts_of(target: Path) -> Mapping[str, Any] | None:
    """Return facts about the database to replace; None if there is none, without numbers if it is damaged.

    Raises:
        ForeignDatabase, NewerSchema: it belongs to another program or a newer threadledger.
    """
    if not target.exists():
        return None
    with closing(Database(str(target), create=False, upgrade=False)) as database:
        try:
            if database.read(lambda transaction: schema_version(transaction, database.shown_url)):
                events, last_at = _facts(database)
                return {"events": events, "last_at": last_at}
        except StoreError as error:
            if not isinstance(error.__cause__, Exception):  # it is readable, and not ours
                raise
    return {"events": None, "last_at": None}


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Lock the whole file, with everything of its write-ahead log in it; yield whether SQLite can read it.

    A file that SQLite cannot read cannot be locked, but no other process can use it either.

    Raises:
        Conflict: another process has it open.
    """
    if not target.exists():
        yield True
        return
    connection = sqlite3.connect(target, timeout=0, isolation_level=None)
    is_readable = True
    try:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            is_readable = False
            if error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise Conflict(
                    f"{target} is in use by another program: nothing was replaced; stop the programs that have it open, "
                    "then restore again"
                ) from error
            if error.sqlite_errorcode not in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
                raise StoreUnavailable(
                    f"{target} cannot be locked ({error}): nothing was replaced; check the disk and its permissions"
                ) from error
            connection.close()  # closed later, it would delete a write-ahead log of the new file
        yield is_readable
    finally:
        connection.close()


def _replace(target: Path, source: Database, is_readable: bool, progress: Progress) -> Restored:
    fresh = target.with_name(f"{target.name}.restoring")
    try:
        for leftover in _with_sides(fresh):
            leftover.unlink(missing_ok=True)
        events, findings = _copied(source, fresh, progress)
        if findings:
            return Restored(events, findings=findings)
        exists = target.exists()
        fresh.chmod(target.stat().st_mode & 0o777 if exists else 0o600)
        if not exists:
            rename_to_new(fresh, target)
            to_disk(target.parent)
            return Restored(events)
        kept = target.with_name(f"{target.name}.before-restore-{now():%Y%m%dT%H%M%S.%fZ}")
        os.link(target, kept)
        if not is_readable:
            _move_sides(target, kept)
        to_disk(target.parent)
        fresh.replace(target)
        to_disk(target.parent)
        return Restored(events, kept)
    except FileExistsError as error:
        raise Conflict(
            f"{error.filename2 or error.filename} was created meanwhile: nothing was replaced; restore again"
        ) from error
    finally:
        for leftover in _with_sides(fresh):
            leftover.unlink(missing_ok=True)


def _copied(source: Database, fresh: Path, progress: Progress) -> tuple[int, Sequence[Finding]]:
    """Copy the backup, upgrade the copy to this schema and check it; the copy is what is verified, and on the disk."""
    with source.cursor() as cursor:
        cursor.execute("VACUUM INTO ?", (str(fresh),))
    with closing(Database(str(fresh.absolute()), synchronous="NORMAL")) as copy:
        if upgrade(copy, quietly) is not None:
            copy.query("VACUUM")  # the upgrade leaves as much free space as the events take
        findings = tuple(check(copy, progress))
        ((events,),) = copy.query("SELECT count(*) FROM events")
        with copy.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.fetchall()
    with closing(sqlite3.connect(fresh)) as connection:  # the only one: the file leaves its write-ahead log
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    to_disk(fresh)
    return int(events), findings


def _move_sides(target: Path, kept: Path) -> None:
    """Keep the log of a damaged database next to it, and away from the new file, which would replay it."""
    for old, new in zip(_with_sides(target)[1:], _with_sides(kept)[1:], strict=True):
        with suppress(FileNotFoundError):  # a closed database has none of them
            os.link(old, new)
            old.unlink()


def _with_sides(path: Path) -> tuple[Path, Path, Path, Path]:
    return path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")
