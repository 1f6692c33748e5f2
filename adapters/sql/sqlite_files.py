"""Open the file of a SQLite database for reading, say why it cannot be written, and explain its errors.

None of this is loaded by a program that reads and writes without errors.
"""

from __future__ import annotations

import os
from pathlib import Path

from threadledger.domain.errors import DatabaseReadOnly, DatabaseReplaced


def address_for_reading(path: Path) -> str:
    """Return the SQLite URI that opens a file for reading and never creates it.

    If the file and its folder can be written, it is opened for writing, because SQLite keeps a lock file next to it and
    views are updated when they are read. Otherwise SQLite can create no lock file. It uses the one of a program that has
    the file open; without one, it reads the file as it is now (`immutable`) if everything is in the file itself.

    Raises:
        DatabaseReadOnly: the latest commits are in a write-ahead log that cannot be read without writing.
    """
    address = path.as_uri()
    if why_read_only(path) is None:
        return f"{address}?mode=rw"
    real = path.resolve()
    sides = [Path(f"{real}{side}") for side in ("-shm", "-wal")]
    # Also if the log is empty: a program may be about to write to it.
    if all(os.access(side, os.R_OK) for side in sides):
        return f"{address}?mode=ro"
    if not any(_has_content(Path(f"{real}{side}")) for side in ("-wal", "-journal")):
        return f"{address}?mode=ro&immutable=1"
    raise DatabaseReadOnly(
        f"sqlite:///{path} cannot be read here: its latest commits are in {real.name}-wal, which SQLite can only read in "
        f"a folder that it may write; copy both files to such a folder, or open and close the ledger there first"
    )


def why_read_only(path: Path) -> str | None:
    """Return why a file cannot be written; None if it can, or if it does not exist."""
    if not path.exists():
        return None
    for place, kind in ((path, "file"), (path.resolve().parent, "folder")):
        if not os.access(place, os.W_OK):
            return f"the {kind} {place} is read-only"
    return None


def replaced(what: str, commit: str) -> DatabaseReplaced:
    """Return the error for a file that was deleted or replaced while it was open; see `Kind.check_file`."""
    outcome = "the last write may be only in the old file" if commit == "after" else "nothing was written"
    return DatabaseReplaced(
        f"{what} was deleted, moved or replaced while this program had it open: {outcome}; close the ledger and open it "
        "again to use the file that is there now, or put the old file back"
    )


def explain(error: BaseException, path: Path) -> tuple[str, str]:
    """Return (category, advice) for an error of SQLite; see `Kind.explain`."""
    reason = str(error)
    if "not a database" in reason or "file is encrypted" in reason:
        return "foreign", "choose another file with --db or THREADLEDGER_DB"
    if "unable to open" in reason and not path.parent.is_dir():
        return "unusable", f"create the folder {path.parent} first"
    if "readonly" in reason:
        return "read-only", "check the permissions of the file and its folder; the commands that read need none"
    if "locked" in reason:
        return "unusable", "another process has locked it; try again, or find and stop that process"
    if any(words in reason for words in _DAMAGED):
        return "damaged", "run threadledger db check, and restore a backup with: threadledger db restore FILE"
    if "unable to open" in reason and why_read_only(path) is not None:
        return "read-only", "make the file and its folder writable, or open it with read_only=True"
    return "unusable", "check the disk, the path and its permissions"


_DAMAGED = ("malformed", "Could not decode", "codec can't decode", "no such table", "no such column", "corrupt")
"""Texts in SQLite's errors about data that cannot be read."""


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
