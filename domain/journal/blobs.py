"""Define the store of blobs: the bytes of attachments, each stored once under an address made of their hash.

A blob is complete before the event that refers to it is stored. A reference is a row that is written in the transaction of
the append: a blob without references can be removed once it is older than `UNREFERENCED_SECONDS_MIN`. An address is opaque:
it is compared, never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from ..errors import BlobMissing, BlobTooLarge, ChangedBlob, InvalidInput

if TYPE_CHECKING:
    from .ports import Also
    from .rows import StoredRow

BLOB_BYTES_MAX = 64 * 1024 * 1024
"""Maximum size of one blob, in bytes."""

CHUNK_BYTES = 1024 * 1024
"""Size of a chunk, in bytes; the last one of a blob may be smaller. Blobs are read and written chunk by chunk."""

UNREFERENCED_SECONDS_MIN = 86_400.0
"""Minimum age of a blob without references before it is removed, in seconds: it is written before its event."""


class Blob(Struct, frozen=True):
    """Name stored bytes by their address, with their size in bytes."""

    address: str
    size: int


class StoredBlob(Struct, frozen=True):
    """Describe a blob as the store lists it."""

    address: str
    size: int
    """Size in bytes."""
    complete: bool
    """Whether all of it is stored. An incomplete one is being written, or its writer was stopped."""
    at: datetime
    """Time at which it was last added."""
    references: int = 0
    """Number of events that refer to it."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `blobs list` prints; the time is ISO 8601."""
        from ..ids import to_iso

        return {**{name: getattr(self, name) for name in self.__struct_fields__}, "at": to_iso(self.at)}


class BlobStore(Protocol):
    """Store bytes of attachments once each, under their hash, in chunks of `CHUNK_BYTES`."""

    writes_evenly: bool
    """Whether bytes that are stored already are written again, so that the time says nothing of what other tenants store."""

    def add(self, chunks: Iterable[bytes]) -> Blob:
        """Store the bytes of these chunks, which may have any size, and return their address and size.

        A blob that is stored already is not written again, but its time is renewed, so that it is not removed before an
        event refers to it.

        Raises:
            BlobTooLarge: they are more than `BLOB_BYTES_MAX` bytes; nothing was stored.
            StoreError: the database, or the place of the bytes, cannot be written.
        """
        ...

    def read(self, address: str) -> Iterator[bytes]:
        """Return the bytes of a blob, chunk by chunk. They are hashed meanwhile: a changed blob is never returned whole.

        Raises:
            BlobMissing: there is no such blob, or it is incomplete.
            ChangedBlob: its bytes are not those of its address; raised before the last chunk is returned.
        """
        ...

    def size(self, address: str) -> int | None:
        """Return the size of a blob in bytes; None if it is not there, or incomplete."""
        ...

    def listed(self, after: str = "", limit: int | None = None) -> Iterator[StoredBlob]:
        """Yield the blobs with addresses after `after`, sorted by address, at most `limit`; read page by page."""
        ...

    def prunable(self, before: datetime) -> Iterator[StoredBlob]:
        """Yield the blobs that no event refers to and that were last added before a time, sorted by address."""
        ...

    def released(self, stream: str, address: str) -> Also:
        """Return what removes the references of a stream's events to a blob, in the transaction of an event that ends it.

        The blob can be removed from then on, if no other event refers to it.
        """
        ...

    def remove(self, address: str, before: datetime) -> bool:
        """Remove a blob if no event refers to it and it was last added before a time, and return whether it was removed.

        This is decided in the transaction that removes it, so that an event that is appended meanwhile keeps it.
        """
        ...


class BlobFiles(Protocol):
    """Keep the bytes of blobs as files outside the database; which blobs there are is recorded in the database alone."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, which has its name once it is complete; an existing one is replaced.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a file in chunks of at most `CHUNK_BYTES`.

        Raises:
            BlobMissing: there is no such file.
            StoreUnavailable: it cannot be read.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is no such file.

        Raises:
            StoreUnavailable: that cannot be found out.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            StoreUnavailable: it cannot be removed.
        """
        ...


ADDRESS_CHARS_MAX = 200
"""Maximum length of an address, in characters."""

_WRITABLE = re.compile(r"[a-z0-9]+:[A-Za-z0-9_-]+")


def is_address(text: object) -> bool:
    """Return whether a text can be an address, so that a name of a file can be made of it."""
    return isinstance(text, str) and len(text) <= ADDRESS_CHARS_MAX and _WRITABLE.fullmatch(text) is not None


def hashed_address(digest: bytes) -> str:
    """Return the address of bytes with this SHA-256 hash."""
    return f"sha256:{digest.hex()}"


def referred(rows: Iterable[StoredRow]) -> list[str]:
    """Return the addresses of the blobs that rows refer to, each once.

    Raises:
        InvalidInput: one of them cannot be an address.
    """
    found = list(dict.fromkeys(address for row in rows for address in row.blobs))
    wrong = next((each for each in found if not is_address(each)), None)
    if wrong is not None:
        raise InvalidInput(
            f"{wrong[:ADDRESS_CHARS_MAX]!a} is no address of an attachment: nothing was written; store its bytes first, and "
            "refer to the address that is returned"
        )
    return found


def missing(addresses: Sequence[str]) -> BlobMissing:
    """Create the error for an event that refers to blobs which are not stored."""
    return BlobMissing(
        f"the bytes of {', '.join(addresses[:3])} are not stored: nothing was written; store the attachment first"
    )


def too_large() -> BlobTooLarge:
    """Create the error for bytes that are more than a blob may have."""
    return BlobTooLarge(
        f"an attachment has more than {BLOB_BYTES_MAX // 1024**2} MiB: nothing was stored; split it, or keep it elsewhere "
        "and refer to its URL"
    )


def changed(address: str, problem: str) -> ChangedBlob:
    """Create the error for a blob whose bytes are not those that were stored."""
    return ChangedBlob(
        f"the attachment {address} {problem}: it was changed after it was stored; list all damage with threadledger db "
        "check, and restore a backup with threadledger db restore FILE"
    )


def verified(address: str, size: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a blob; the last one only if all of them have its size and hash.

    Raises:
        ChangedBlob: they do not.
    """
    hashed, length, held = sha256(), 0, b""
    for chunk in chunks:
        hashed.update(chunk)
        length += len(chunk)
        if length > size:
            break
        if held:
            yield held
        held = chunk
    if length != size:
        raise changed(address, f"has {'more than its' if length > size else f'{length:,} of its'} {size:,} bytes")
    if hashed_address(hashed.digest()) != address:
        raise changed(address, "does not match its hash")
    if held:
        yield held


def in_chunks(data: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in chunks of `CHUNK_BYTES`; the last one may be smaller."""
    held = bytearray()
    for piece in data:
        view = memoryview(piece)
        while view:
            taken = view[: CHUNK_BYTES - len(held)]
            held += taken
            view = view[len(taken) :]
            if len(held) == CHUNK_BYTES:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


def unless_known(add: Callable[[Iterable[bytes]], Blob], known: Collection[str]) -> Callable[[Iterable[bytes]], Blob]:
    """Return a function that stores bytes by `add`, except those at addresses that are stored and referred to already."""

    def keep(chunks: Iterable[bytes]) -> Blob:
        held = list(chunks)
        hashed = sha256()
        for chunk in held:
            hashed.update(chunk)
        address = hashed_address(hashed.digest())
        return Blob(address, sum(map(len, held))) if address in known else add(held)

    return keep
