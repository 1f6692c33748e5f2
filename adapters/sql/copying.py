"""Copy a whole ledger into a backup file or into another database, also of the other kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection

from threadledger.domain import Conflict, StoreUnavailable

from .engine import Database
from .schema import open_schema

PAGE_ROWS = 2_000
"""Number of rows copied per statement."""

TABLES: Sequence[tuple[str, str, str]] = (
    ("streams", "stream, name, version, state_schema, state, due_at", "stream"),
    ("events", "position, stream, version, event_id, topic, schema, at, state, leaf", "position"),
    ("mirror_heads", "stream, mirror, thread_id, version, settled, holder, held_until, doubts", "stream, mirror"),
    ("assistants", "endpoint, profile_hash, assistant_id", "endpoint, profile_hash"),
    ("unfinished_threads", "stream, mirror, thread_id, digest", "stream, mirror"),
    ("job_items", "job, item, ended, holder, held_until", "job, item"),
)
"""Table name, columns and sort order. Views are not copied: they are rebuilt from the events."""

Progress = Callable[[int, int], None]


def back_up(database: Database, path: Path, progress: Progress) -> int:
    """Write a snapshot of the ledger into a new SQLite file, itself a ledger; return its number of events.

    The file appears under its name only when it is complete. Other processes may keep writing to the ledger.

    Raises:
        Conflict: the file exists already.
        StoreUnavailable: the file cannot be written.
    """
    if path.exists():
        raise Conflict(f"{path} exists already: choose a new file, or move this one away")
    if not path.parent.is_dir():
        raise StoreUnavailable(f"{path} cannot be written: create the folder {path.parent} first")
    unfinished = path.with_name(f"{path.name}.unfinished")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    try:
        copied = _write(database, unfinished, progress)
        _to_disk(unfinished)
        os.link(unfinished, path)  # unlike a rename, this does not overwrite a file created meanwhile
    except FileExistsError:
        raise Conflict(f"{path} exists already: choose a new file, or move this one away") from None
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be written ({error.strerror}): check the disk and the permissions"
        ) from error
    finally:
        for leftover in (unfinished, Path(f"{unfinished}-wal"), Path(f"{unfinished}-shm")):
            with suppress(FileNotFoundError):
                leftover.unlink()
    return copied


def copy_ledger(source: Database, target: Database, progress: Progress) -> int:
    """Copy a snapshot of a ledger into an empty database; return its number of events.

    Raises:
        Conflict: the target is not empty.
        StoreError: one of the databases cannot be used.
    """
    open_schema(target)
    return source.read(lambda reading: target.write(lambda writing: _copy(source, reading, target, writing, progress)))


def _write(database: Database, path: Path, progress: Progress) -> int:
    if database.kind.name == "sqlite":
        with database.cursor() as cursor:
            cursor.execute("VACUUM INTO ?", (str(path),))
    copy = Database(f"sqlite:///{path}", synchronous="NORMAL")
    try:
        if database.kind.name != "sqlite":
            copy_ledger(database, copy, progress)
        ((count, last),) = copy.query("SELECT count(*), coalesce(max(position), 0) FROM events")
        if count != last:
            raise StoreUnavailable(
                f"the copy has {count} events up to position {last}: run threadledger db check on the ledger itself"
            )
        with copy.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.fetchall()
            cursor.execute("PRAGMA journal_mode = DELETE")
        return int(count)
    finally:
        copy.close()


def _copy(source: Database, reading: Connection, target: Database, writing: Connection, progress: Progress) -> int:
    if writing.exec_driver_sql("SELECT count(*) FROM streams").scalar_one():
        raise Conflict(f"{target.shown_url} already contains a ledger: copy into an empty database")
    events = int(reading.exec_driver_sql("SELECT count(*) FROM events").scalar_one())
    for table, columns, order in TABLES:
        numbered = target.kind.insert_numbered if table == "streams" else ""
        places = ", ".join("?" for _ in columns.split(","))
        insert = target.sql(f"INSERT INTO {table} ({columns}) {numbered} VALUES ({places})")
        rows = reading.exec_driver_sql(
            f"SELECT {columns} FROM {table} ORDER BY {order}", execution_options={"stream_results": True}
        )
        copied = 0
        for page in rows.partitions(PAGE_ROWS):
            writing.exec_driver_sql(insert, [tuple(row) for row in page])
            copied += len(page)
            if table == "events":
                progress(copied, events)
    target.kind.number_streams(writing)
    return events


def _to_disk(path: Path) -> None:
    """Flush the file to disk, so that the backup survives a power failure."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
