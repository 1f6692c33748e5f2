"""Create files that only their owner can read: databases, backups, exports, reports and settings hold conversations and keys.

The mode is set when the file is created, so that there is no moment in which others can open it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

PRIVATE = 0o600
"""Mode of a new file: its owner reads and writes it. On Windows, the folder decides who else may read it."""

UNFINISHED = ".part"
"""Ending of the name of a file that is not complete."""


def create_private(path: Path) -> int:
    """Create an empty file and return its descriptor, open for writing. A symbolic link is not followed.

    Raises:
        FileExistsError: there is a file, or a link, with this name.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)


def ensure_private(path: Path) -> None:
    """Create an empty file if there is none, for SQLite, which gives its other files the same mode.

    If it cannot be created, SQLite says why when it opens it.
    """
    with suppress(OSError):  # see above: SQLite says why
        os.close(create_private(path))


def unfinished_file(path: Path) -> tuple[Path, TextIO]:
    """Create a file under a temporary name next to `path`, and return its name and a stream to write it."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with suppress(FileNotFoundError):  # no process was killed
        unfinished.unlink()  # left over by a process that was killed
    return unfinished, open(create_private(unfinished), "w", encoding="utf-8", newline="\n")


@contextmanager
def private_bytes(path: Path) -> Iterator[BinaryIO]:
    """Write a new file of bytes, which has its name once it is complete. A device or a pipe (`/dev/stdout`) is written to.

    Raises:
        FileExistsError: the file exists.
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as device:
            yield device
        return
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")
    unfinished = path.with_name(path.name + UNFINISHED)
    with suppress(FileNotFoundError):  # no process was killed
        unfinished.unlink()  # left over by a process that was killed
    try:
        with open(create_private(unfinished), "wb") as stream:
            yield stream
        rename_to_new(unfinished, path)
    finally:
        with suppress(FileNotFoundError):  # it has its final name, or was never made
            unfinished.unlink()


@contextmanager
def private_file(path: Path, *, overwrite: bool = False) -> Iterator[TextIO]:
    """Write a text file, which has its name once it is complete.

    A file that exists is replaced by a new one, and so is a symbolic link, which is not followed: another user may have
    placed it. A device or a pipe (`/dev/stdout`) is written to.

    Raises:
        FileExistsError: the file exists, and `overwrite` is not set.
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="\n") as device:
            yield device
        return
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")
    unfinished, stream = unfinished_file(path)
    try:
        with stream:
            yield stream
        if overwrite:
            unfinished.replace(path)
        else:
            rename_to_new(unfinished, path)
    finally:
        with suppress(FileNotFoundError):  # it has its final name, or was never made
            unfinished.unlink()


def rename_to_new(unfinished: Path, path: Path) -> None:
    """Give a file a name that no other file has.

    Raises:
        FileExistsError: another process has created a file with the new name meanwhile.
    """
    try:
        os.link(unfinished, path)
    except FileExistsError:
        raise
    except OSError:  # the file system has no links
        os.close(create_private(path))
        unfinished.replace(path)


def to_disk(path: Path) -> None:
    """Write what the system still buffers of a file, or of the entries of a folder, to the disk: it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
