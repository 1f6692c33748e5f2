"""Store blobs in chunks of 1 MiB as rows of the database, or as files elsewhere; check them, and complete copies of them.

Each chunk is written in a transaction of its own, so that a large blob does not keep other writers waiting. A blob is found by
nothing before its row is marked as complete. An incomplete one is garbage, which the next writer of the same bytes completes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from hashlib import sha256
from operator import itemgetter
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from threadledger.domain.conversation import key_of
from threadledger.domain.conversation.events import FileDeleted, FileStored, payload_in
from threadledger.domain.errors import BlobMissing, ChangedBlob, DatabaseReadOnly, StoreUnavailable
from threadledger.domain.ids import from_iso, now, to_iso
from threadledger.domain.journal import Also, Finding
from threadledger.domain.journal.blobs import (
    BLOB_BYTES_MAX,
    CHUNK_BYTES,
    Blob,
    BlobFiles,
    StoredBlob,
    changed,
    hashed_address,
    in_chunks,
    is_address,
    too_large,
    verified,
)

from .connections import Transaction
from .database import Database
from .schema import open_schema

PAGE_BLOBS = 500
"""Number of blobs, or of references, listed per query; their bytes are not read with them."""

WRITE_ATTEMPTS_MAX = 5
"""Maximum number of attempts to write a blob while others remove it as unreferenced."""

_BEGIN = (
    "INSERT INTO blobs (address, size, complete, at) VALUES (?, ?, 0, ?) "
    "ON CONFLICT (address) DO UPDATE SET at = CASE WHEN blobs.at < excluded.at THEN excluded.at ELSE blobs.at END"
)
_IS_COMPLETE = "SELECT complete FROM blobs WHERE address = ?"
_PUT = "INSERT INTO blob_chunks (address, n, data) VALUES (?, ?, ?) ON CONFLICT (address, n) DO UPDATE SET data = excluded.data"
_COMPLETE = "UPDATE blobs SET complete = 1 WHERE address = ?"
_LENGTH = "SELECT sum(length(data)) FROM blob_chunks WHERE address = ?"
_CHUNK = "SELECT data FROM blob_chunks WHERE address = ? AND n = ?"
_RELEASE = "DELETE FROM blob_refs WHERE blob = ? AND stream = (SELECT stream FROM streams WHERE name = ?)"
_IS_INSIDE = "SELECT 1 FROM blob_chunks WHERE address = ? AND n = 0"
_LISTED = (
    "SELECT b.address, b.size, b.complete, b.at, (SELECT count(*) FROM blob_refs r WHERE r.blob = b.address) FROM blobs b "
    "WHERE b.address > ? {only} ORDER BY b.address LIMIT ?"
)
_PRUNABLE = "AND b.at < ? AND NOT EXISTS (SELECT 1 FROM blob_refs r WHERE r.blob = b.address)"


class SqlBlobs:
    """Implement `BlobStore` for a database; the bytes are elsewhere if it has `blob_files`."""

    def __init__(self, database: Database) -> None:
        open_schema(database)
        self._database = database

    @property
    def writes_evenly(self) -> bool:
        """Return whether bytes that are stored already are written again."""
        return self._database.writes_blobs_evenly

    @writes_evenly.setter
    def writes_evenly(self, evenly: bool) -> None:
        self._database.writes_blobs_evenly = evenly

    def add(self, chunks: Iterable[bytes]) -> Blob:
        """Store bytes; see `BlobStore.add`. They wait in a temporary file until their hash is known."""
        if self._database.read_only:
            raise DatabaseReadOnly(
                f"{self._database.shown_url} was opened with read_only=True: nothing was written; open it without that to write"
            )
        try:
            with SpooledTemporaryFile(max_size=CHUNK_BYTES) as spool:
                blob = _spooled(chunks, spool)
                for attempt in range(1, WRITE_ATTEMPTS_MAX + 1):
                    spool.seek(0)
                    try:
                        self._write(blob, spool)
                        return blob
                    except self._database.driver.IntegrityError:  # its row was removed meanwhile: it begins again
                        if attempt == WRITE_ATTEMPTS_MAX:
                            raise
        except self._database.driver.IntegrityError as error:
            raise StoreUnavailable(
                "an attachment was removed each time while it was written: nothing was stored; try again"
            ) from error
        raise AssertionError("the last attempt returns or raises")

    def _write(self, blob: Blob, spool: IO[bytes]) -> None:
        """Write a blob, unless it is complete and need not be written again; one of a single chunk in one transaction."""
        files = self._database.blob_files() if self._database.blob_files is not None else None
        chunks = enumerate(iter(lambda: spool.read(CHUNK_BYTES), b""))
        first = next(chunks, None) if files is None and blob.size <= CHUNK_BYTES else None

        def begin(transaction: Transaction) -> bool:
            transaction.execute(_BEGIN, (blob.address, blob.size, to_iso(now())))
            if transaction.execute(_IS_COMPLETE, (blob.address,)).fetchone()[0] and not self.writes_evenly:
                return True
            if files is not None or blob.size > CHUNK_BYTES:
                return False
            if first is not None:
                transaction.execute(_PUT, (blob.address, *first))
            transaction.execute(_COMPLETE, (blob.address,))
            return True

        if self._database.write(begin) and (files is None or self._is_kept(blob, files)):
            return
        if files is not None:
            files.write(name_of(blob.address), (data for _, data in chunks))
        else:
            for chunk in chunks:
                self._database.execute(_PUT, (blob.address, *chunk))
        self._database.write(lambda transaction: self._end(transaction, blob, files))

    def _is_kept(self, blob: Blob, files: BlobFiles) -> bool:
        """Return whether the bytes of a complete blob are there: its file may have been lost, and is written again."""
        if not blob.size or files.size(name_of(blob.address)) == blob.size:
            return True
        return bool(self._database.query(_IS_INSIDE, (blob.address,)))

    def _end(self, transaction: Transaction, blob: Blob, files: BlobFiles | None) -> None:
        """Mark a blob as complete if its bytes are there: another process may have removed them, and a third begun again."""
        is_there = transaction.execute(_COMPLETE, (blob.address,)).rowcount == 1  # which locks the row
        if is_there and files is not None:
            is_there = files.size(name_of(blob.address)) == blob.size
        elif is_there:
            is_there = transaction.execute(_LENGTH, (blob.address,)).fetchone()[0] == blob.size
        if not is_there:
            raise self._database.driver.IntegrityError("the blob was removed")

    def read(self, address: str) -> Iterator[bytes]:
        """Return the bytes of a blob; see `BlobStore.read`."""
        size = self.size(address)
        if size is None:
            raise _not_there(address)
        return verified(address, size, self._chunks(address, size))

    def size(self, address: str) -> int | None:
        """Return the size of a complete blob; see `BlobStore.size`."""
        if not is_address(address):
            return None
        found = self._database.query("SELECT size FROM blobs WHERE address = ? AND complete = 1", (address,))
        return int(found[0][0]) if found else None

    def listed(self, after: str = "", limit: int | None = None) -> Iterator[StoredBlob]:
        """Yield the blobs page by page; see `BlobStore.listed`."""
        left = limit
        while left is None or left > 0:
            wanted = PAGE_BLOBS if left is None else min(left, PAGE_BLOBS)
            page = self._database.query(_LISTED.format(only=""), (after, wanted))
            yield from map(_as_stored, page)
            if len(page) < wanted:
                return
            after, left = page[-1][0], None if left is None else left - len(page)

    def prunable(self, before: datetime) -> Iterator[StoredBlob]:
        """Yield the blobs that may be removed; see `BlobStore.prunable`."""
        after = ""
        while page := self._database.query(_LISTED.format(only=_PRUNABLE), (after, to_iso(before), PAGE_BLOBS)):
            yield from map(_as_stored, page)
            after = page[-1][0]

    def released(self, stream: str, address: str) -> Also:
        """Return what removes the references of a stream's events to a blob; see `BlobStore.released`."""
        statement = self._database.sql(_RELEASE)
        return lambda cursor: cursor.execute(statement, (address, stream))

    def remove(self, address: str, before: datetime) -> bool:
        """Remove a blob; see `BlobStore.remove`.

        It is first marked as incomplete: a process that is killed while the bytes are removed leaves garbage, not a blob
        without bytes.
        """
        if not self._database.write(lambda transaction: self._mark(transaction, address, before)):
            return False
        return self._database.write(lambda transaction: self._remove(transaction, address, before))

    def _mark(self, transaction: Transaction, address: str, before: datetime) -> bool:
        if not self._is_prunable(transaction, address, before):
            return False
        transaction.execute("UPDATE blobs SET complete = 0 WHERE address = ?", (address,))
        return True

    def _remove(self, transaction: Transaction, address: str, before: datetime) -> bool:
        if not self._is_prunable(transaction, address, before, "AND complete = 0"):
            return False
        transaction.execute("DELETE FROM blob_chunks WHERE address = ?", (address,))
        transaction.execute("DELETE FROM blobs WHERE address = ?", (address,))
        if self._database.blob_files is not None and is_address(address):
            # Before the commit: afterwards, it could be the file of a new writer of the same bytes.
            self._database.blob_files().remove(name_of(address))
        return True

    def _is_prunable(self, transaction: Transaction, address: str, before: datetime, only: str = "") -> bool:
        """Lock the row of a blob, and return whether it is old and no event refers to it.

        The references are read by a query of their own: it sees those of an append that was waited for.
        """
        lock = "" if self._database.kind.locks_when_writing else " FOR UPDATE"
        row = f"SELECT 1 FROM blobs WHERE address = ? AND at < ? {only}{lock}"
        if transaction.execute(row, (address, to_iso(before))).fetchone() is None:
            return False
        return transaction.execute("SELECT 1 FROM blob_refs WHERE blob = ? LIMIT 1", (address,)).fetchone() is None

    def _chunks(self, address: str, size: int) -> Iterator[bytes]:
        """Yield the stored chunks of a blob, each by a query of its own; its file is read if the database has none."""

        def fetch(n: int) -> bytes | None:
            found = self._database.query(_CHUNK, (address, n))
            return bytes(found[0][0]) if found else None

        try:
            yield from _stored_chunks(fetch, address, size, self._database.blob_files)
        except ChangedBlob:
            if self.size(address) is None:  # it was removed meanwhile
                raise _not_there(address) from None
            raise


OpenFiles = Callable[[], BlobFiles]


def _spooled(chunks: Iterable[bytes], spool: IO[bytes]) -> Blob:
    """Write chunks to a temporary file, and return their address and size.

    Raises:
        BlobTooLarge: they are more than `BLOB_BYTES_MAX` bytes.
        StoreUnavailable: there is no space for the file.
    """
    hashed, size = sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > BLOB_BYTES_MAX:
            raise too_large()
        hashed.update(chunk)
        _to_spool(spool.write, chunk)
    _to_spool(spool.flush)
    return Blob(hashed_address(hashed.digest()), size)


def _to_spool(write: Callable[..., object], *chunk: bytes) -> None:
    try:
        write(*chunk)
    except OSError as error:
        raise StoreUnavailable(
            f"an attachment cannot be kept in a temporary file ({error.strerror}): nothing was stored; free space, or set "
            "TMPDIR to a folder that has some"
        ) from error


def _stored_chunks(
    fetch: Callable[[int], bytes | None], address: str, size: int, blob_files: OpenFiles | None
) -> Iterator[bytes]:
    """Yield the chunks of a blob that `fetch` returns by number, or those of its file if the database has none.

    Raises:
        BlobMissing: its bytes are elsewhere, and it is not known where, or there is no such file.
        ChangedBlob: a chunk is missing.
    """
    length = number = 0
    while length < size:
        chunk = fetch(number)
        if chunk is None and number == 0:
            yield from _elsewhere(address, blob_files)
            return
        if not chunk:
            raise changed(address, f"lacks chunk {number}")
        yield chunk
        length, number = length + len(chunk), number + 1


def _elsewhere(address: str, blob_files: OpenFiles | None) -> Iterator[bytes]:
    if blob_files is None:
        raise BlobMissing(
            f"the bytes of {address} are not in the database: set THREADLEDGER_BLOBS to the place where they are"
        )
    return blob_files().read(name_of(address))


def name_of(address: str) -> str:
    """Return the name of the file of a blob, which is made of characters that are safe in a path.

    Raises:
        BlobMissing: the text is no address.
    """
    if not is_address(address):
        raise _not_there(address)
    return address.replace(":", "/")


def _not_there(address: str) -> BlobMissing:
    return BlobMissing(f"there is no attachment {address[:200]!a}: list them with threadledger blobs list")


def _as_stored(row: Sequence[Any]) -> StoredBlob:
    address, size, complete, at, references = row
    return StoredBlob(address, size, bool(complete), from_iso(at), references)


# For the operator: check blobs, and complete copies of a ledger


Read = Callable[[Callable[[Transaction], Any]], Any]


def _rows(query: str, values: Sequence[Any], transaction: Transaction) -> Sequence[Any]:
    found: Sequence[Any] = transaction.execute(query, values).fetchall()
    return found


def check_blobs(database: Database, read: Read) -> Iterator[Finding]:
    """Yield what is wrong with the bytes of the blobs and with the references to them; nothing before schema 6.

    `read` runs a function in a read transaction: each blob is checked in one of its own, however many there are.
    """
    if not read(lambda transaction: "blobs" in transaction.tables()):
        return
    after = ""
    query = "SELECT address, size, complete FROM blobs WHERE address > ? ORDER BY address LIMIT ?"
    while page := read(partial(_rows, query, (after, PAGE_BLOBS))):
        for address, *_ in page:
            yield from read(partial(_check_blob, address, database.blob_files))
        after = page[-1][0]
    yield from read(_check_chunks)
    yield from _check_references(read, database.kind.payload)


_ROW = "SELECT size, complete, (SELECT min(version) FROM blob_refs WHERE blob = address) FROM blobs WHERE address = ?"


def _check_blob(address: str, blob_files: OpenFiles | None, transaction: Transaction) -> list[Finding]:
    found = transaction.execute(_ROW, (address,)).fetchone()
    if found is None:  # it was removed meanwhile
        return []
    size, complete, version = found
    if not complete:
        return [] if version is None else [Finding("blob", f"{address} is incomplete, although an event refers to it")]

    def fetch(n: int) -> bytes | None:
        row = transaction.execute(_CHUNK, (address, n)).fetchone()
        return bytes(row[0]) if row is not None else None

    try:
        for _ in verified(address, size, _stored_chunks(fetch, address, size, blob_files)):
            pass
    except (ChangedBlob, BlobMissing) as error:
        return [Finding("blob", str(error).partition(": ")[0])]
    except TypeError:
        return [Finding("blob", f"the row of {address} has a value of another type")]
    return []


_CHUNKS_BEYOND = (
    f"SELECT b.address, count(*) FROM blob_chunks c JOIN blobs b USING (address) WHERE b.complete = 1 "
    f"AND c.n >= (b.size + {CHUNK_BYTES} - 1) / {CHUNK_BYTES} GROUP BY b.address"
)
_ORPHANED_CHUNKS = (
    "SELECT DISTINCT address FROM blob_chunks c WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.address = c.address)"
)


def _check_chunks(transaction: Transaction) -> list[Finding]:
    beyond, orphaned = transaction.execute(_CHUNKS_BEYOND).fetchall(), transaction.execute(_ORPHANED_CHUNKS).fetchall()
    return [
        *(Finding("blob", f"{address} has {count} chunks after its end") for address, count in beyond),
        *(Finding("blob", f"there are chunks of {address}, which is not listed") for (address,) in orphaned),
    ]


_REFERENCES = (
    "SELECT r.stream, r.version, r.blob, s.name, e.position, {payload}, b.address FROM blob_refs r "
    "LEFT JOIN streams s ON s.stream = r.stream LEFT JOIN events e ON e.stream = r.stream AND e.version = r.version "
    "LEFT JOIN blobs b ON b.address = r.blob WHERE (r.blob, r.stream, r.version) > (?, ?, ?) "
    "ORDER BY r.blob, r.stream, r.version LIMIT ?"
)


def _check_references(read: Read, payload: str) -> Iterator[Finding]:
    """Yield the references whose event is missing or does not name the blob, and those to blobs that are not there."""
    after: tuple[str, int, int] = ("", 0, 0)
    query = _REFERENCES.format(payload=payload)
    while page := read(partial(_rows, query, (*after, PAGE_REFERENCES))):
        for stream, version, address, name, position, state, there in page:
            where: dict[str, Any] = {"key": key_of(str(name)) if name else None, "version": version}
            if position is None:
                yield Finding("blob", f"{address} has a reference of stream {stream} whose event is missing", **where)
            elif address not in _blobs_in(bytes(state)):
                yield Finding("blob", f"{address} has a reference of this event, which does not name it", **where)
            if there is None:
                yield Finding("blob", f"{address}, to which this event refers, is missing", **where)
        after = (page[-1][2], page[-1][0], page[-1][1])


PAGE_REFERENCES = 200
"""Number of references checked per query, each with the payload of its event."""

MARK = b'"blobs":['
"""Text in the payload of each event that refers to blobs."""


def _blobs_in(state: bytes) -> Sequence[str]:
    """Return the addresses in the payload of an event; none if it cannot be read, which another check reports."""
    with suppress(ValueError, TypeError, RecursionError):  # see above: another check reports it
        found = payload_in(state).get("blobs")
        if isinstance(found, list):
            return [each for each in found if isinstance(each, str)]
    return ()


_PAYLOAD = itemgetter(5)

FILE_TOPIC = FileStored.__name__
_IS_DELETED = (
    "SELECT 1 FROM streams s JOIN events e ON e.stream = s.stream AND e.version = s.version "
    f"WHERE s.stream = ? AND e.topic = '{FileDeleted.__name__}'"
)
"""Query that finds the deletion of a file: its event names bytes that are not kept any longer."""


def unreferenced(
    query: Callable[[str, Sequence[Any]], Sequence[Any]], rows: Sequence[Sequence[Any]]
) -> Iterator[Finding]:
    """Yield the events of a page of the check (stream number, then the columns of a `Row`) whose references are missing."""
    with suppress(TypeError):  # a payload of another type, which another check reports
        if MARK not in b"".join(map(_PAYLOAD, rows)):  # a single search: this runs for each event of the log
            return
    marked = [row[:6] for row in rows if type(row[5]) is bytes and MARK in row[5]]
    for number, position, name, version, topic, state in marked:
        noted = {
            blob for (blob,) in query("SELECT blob FROM blob_refs WHERE stream = ? AND version = ?", (number, version))
        }
        for address in dict.fromkeys(_blobs_in(state)):
            if address not in noted and not (topic == FILE_TOPIC and query(_IS_DELETED, (number,))):
                problem = f"it names {address}, and the reference that keeps this attachment is missing"
                yield Finding("blob", problem, key_of(str(name)), position, version)


def kept_in_files(transaction: Transaction) -> list[str]:
    """Return the addresses of the blobs whose bytes are not in the database."""
    return [str(address) for (address,) in transaction.execute(_WITHOUT_CHUNKS).fetchall()]


_WITHOUT_CHUNKS = (
    "SELECT address FROM blobs b WHERE complete = 1 AND size > 0 "
    "AND NOT EXISTS (SELECT 1 FROM blob_chunks c WHERE c.address = b.address) ORDER BY address"
)


def copy_file(address: str, blob_files: OpenFiles | None, transaction: Transaction) -> None:
    """Copy the bytes of a blob from its file into a copy of the database, which has to be complete on its own.

    A blob without references whose file is missing is dropped from the copy: it was removed meanwhile.

    Raises:
        BlobMissing: the file of another blob is missing, or it is not known where the files are.
    """
    try:
        for number, data in enumerate(in_chunks(_elsewhere(address, blob_files))):
            transaction.execute(_PUT, (address, number, data))
    except BlobMissing:
        if transaction.execute("SELECT 1 FROM blob_refs WHERE blob = ? LIMIT 1", (address,)).fetchone() is not None:
            raise
        transaction.execute("DELETE FROM blob_chunks WHERE address = ?", (address,))
        transaction.execute("DELETE FROM blobs WHERE address = ?", (address,))
