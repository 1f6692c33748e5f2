"""Keep the bytes of attachments as files at any address that fsspec knows: a folder, or a bucket of an object store.

A file is written under a temporary name and moved to its own once it is complete. Which blobs there are, how large they are and
which events refer to them is recorded in the database alone: nothing is listed here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from threadledger.domain.errors import BlobMissing, InvalidSettings, StoreUnavailable
from threadledger.domain.failures import keep_secret, redact
from threadledger.domain.ids import id_bytes, new_id
from threadledger.domain.journal.blobs import CHUNK_BYTES, UNREFERENCED_SECONDS_MIN, BlobFiles

from .private_files import PRIVATE, to_disk

if TYPE_CHECKING:
    from .settings import Settings

SETTING = "THREADLEDGER_BLOBS"

UNFINISHED = "unfinished"
"""Folder of the files that are not complete. Their names end with an id that begins with the time."""

LOCAL = ("file", "local")
"""Protocols of fsspec for files of this machine."""


def files_of(settings: Settings) -> BlobFiles:
    """Return the place that THREADLEDGER_BLOBS names.

    Raises:
        FolderNotTrusted: a command would use a place that only the working folder names.
        InvalidSettings: the place cannot be used, or fsspec is not installed.
    """
    settings.require_trust("blobs")
    return FsspecFiles(settings.blobs or "")


def problem_of_blobs(address: str) -> tuple[str, str | None, str | None]:
    """Return the place as it is shown, why it cannot be used, and what to do; nothing is contacted."""
    try:
        return FsspecFiles(address).shown, None, None
    except InvalidSettings as error:
        problem, _, fix = str(error).rpartition(": ")
        return redact(address), problem, fix


def local_folder(address: str) -> Path | None:
    """Return the folder of this machine that an address names; None if it names another place."""
    protocol, separator, rest = address.partition("://")
    if "::" in address or (separator and protocol not in LOCAL):
        return None
    with suppress(RuntimeError):  # the home of an unknown user
        return Path(rest if separator else address).expanduser()
    return None


class FsspecFiles:
    """Keep files below one address."""

    def __init__(self, address: str) -> None:
        """Prepare to use an address; nothing is contacted yet.

        Raises:
            InvalidSettings: fsspec is not installed, or it does not know the address.
        """
        with suppress(ValueError):  # an address that is no URL has no password
            keep_secret(urlsplit(address).password)
        self.shown = redact(address)
        if not address.strip():
            raise InvalidSettings(f"{SETTING} is empty: set it to a folder or an address like s3://bucket/path")
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise InvalidSettings(
                f"{SETTING} needs fsspec, which is not installed: pip install 'threadledger[blobs]'"
            ) from None
        try:
            self._files, root = url_to_fs(address)
        except Exception as error:  # noqa: BLE001 - each kind of place checks its address in its own way
            raise InvalidSettings(
                f"{SETTING} cannot be used ({redact(str(error))}): set it to an address that fsspec knows, and install what "
                "it needs for it"
            ) from None
        self._root = str(root).rstrip("/")
        self._is_local = (
            local_folder(address) is not None and os.name != "nt"
        )  # Windows has neither modes nor folders to sync
        self._is_tidy = False

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file under a temporary name, and move it to its own; see `BlobFiles.write`."""
        path = f"{self._root}/{name}"
        unfinished = (
            f"{self._root}/{UNFINISHED}/{name.replace('/', '-')}.{new_id()}"  # two writers have files of their own
        )
        with self._named("written"):
            for each in (path, unfinished):
                self._files.makedirs(each.rpartition("/")[0], exist_ok=True)
            try:
                with self._files.open(unfinished, "wb") as file:
                    if self._is_local:
                        os.fchmod(file.fileno(), PRIVATE)
                    for chunk in chunks:
                        file.write(chunk)
                    if self._is_local:
                        self._to_disk(file)
                self._files.mv(unfinished, path)
                if self._is_local:
                    to_disk(Path(path).parent)
            except BaseException:
                with suppress(Exception):  # the first error is the one to report
                    self._files.rm_file(unfinished)
                raise

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a file; see `BlobFiles.read`."""
        with self._named("read"):
            try:
                file = self._files.open(f"{self._root}/{name}", "rb")
            except FileNotFoundError:
                raise BlobMissing(
                    f"there is no file {name} at {self.shown}: set {SETTING} to the place where the attachments are"
                ) from None
            with file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

    def size(self, name: str) -> int | None:
        """Return the size of a file; see `BlobFiles.size`."""
        with self._named("found"), suppress(FileNotFoundError):  # then it has no size
            return self._files.size(f"{self._root}/{name}")
        return None

    def remove(self, name: str) -> None:
        """Remove a file; see `BlobFiles.remove`."""
        with self._named("removed"):
            with suppress(FileNotFoundError):  # it is gone, as wanted
                self._files.rm_file(f"{self._root}/{name}")
            if not self._is_tidy:
                self._tidy()
                self._is_tidy = True

    def _tidy(self) -> None:
        """Remove the files of writers that were stopped, if they began more than a day ago: their names say when."""
        with suppress(FileNotFoundError):  # no writer has begun a file yet, or another process tidies too
            for path in self._files.ls(f"{self._root}/{UNFINISHED}", detail=False):
                value = id_bytes(path.rpartition(".")[2])
                if value is not None and int.from_bytes(value[:6]) / 1000 < time.time() - UNREFERENCED_SECONDS_MIN:
                    self._files.rm_file(path)

    @staticmethod
    def _to_disk(file: Any) -> None:
        file.flush()
        os.fsync(file.fileno())

    @contextmanager
    def _named(self, done: str) -> Iterator[None]:
        """Raise errors of fsspec and of what it uses, which are of many kinds, as `StoreUnavailable`."""
        try:
            yield
        except (BlobMissing, GeneratorExit):
            raise
        except Exception as error:
            reason = redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            raise StoreUnavailable(
                f"an attachment cannot be {done} at {self.shown} ({reason}): check {SETTING}, its permissions and its credentials"
            ) from error
