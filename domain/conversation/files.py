"""Name the streams of uploaded files and vector stores, and define what their lists and searches return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BlobMissing, InvalidInput
from ..limits import KEY_CHARS_MAX

if TYPE_CHECKING:
    from .listing import ListPlace

FILE, VECTOR_STORE = "file:", "vector_store:"
"""Prefixes of the streams of uploaded files and of vector stores."""

PREFIX_BYTES = 32
"""Number of random bytes before the bytes of a file, so that no two files share a blob."""

UNSUPPORTED, INVALID, SERVER = "unsupported_file", "invalid_file", "server_error"
"""Why a file of a vector store cannot be searched. Source: openai-python 3.54, types/vector_stores/vector_store_file.py."""


class Chunking(NamedTuple):
    """Define how the text of a file is divided for a search, in tokens of about four bytes."""

    size: int = 800
    overlap: int = 400


@dataclass(frozen=True)
class StoreFile:
    """Describe a file of a vector store."""

    file_id: str
    filename: str = ""
    created_at: str = ""
    """When it was added (ISO 8601)."""
    size: int = 0
    """Size of the file in bytes."""
    text_bytes: int = 0
    """Size of its text in bytes of UTF-8; 0 if it cannot be searched."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    chunking: Chunking = field(default_factory=Chunking)
    error: tuple[str, str] | None = None
    """Code and message of why it cannot be searched."""
    blob: str = ""
    """Address of its bytes, behind the `PREFIX_BYTES` other ones."""
    number: int = 0
    expires_at: str | None = None
    """Time from which the file can no longer be read, nor found (ISO 8601)."""

    @property
    def status(self) -> str:
        """Return the status that the API shows: a file is searchable, or never will be."""
        return "failed" if self.error is not None else "completed"

    @property
    def place(self) -> ListPlace:
        """Return its place in the list of its vector store."""
        return self.created_at, self.number

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `VectorStoreFilesAdded`."""
        entry: dict[str, Any] = {"file_id": self.file_id, "filename": self.filename, "size": self.size}
        entry |= {"blob": self.blob, "bytes": self.text_bytes, "attributes": dict(self.attributes)}
        entry["chunking"] = self.chunking._asdict()
        if self.expires_at is not None:
            entry["expires_at"] = self.expires_at
        return entry | ({"error": {"code": self.error[0], "message": self.error[1]}} if self.error is not None else {})


def store_file(entry: Mapping[str, Any], created_at: str, number: int) -> StoreFile:
    """Return the file of an entry of `VectorStoreFilesAdded`."""
    chunking, error = entry.get("chunking") or {}, entry.get("error")
    return StoreFile(
        str(entry["file_id"]),
        str(entry.get("filename", "")),
        created_at,
        int(entry.get("size", 0)),
        int(entry.get("bytes", 0)),
        entry.get("attributes") or {},
        Chunking(int(chunking.get("size", Chunking().size)), int(chunking.get("overlap", Chunking().overlap))),
        (str(error["code"]), str(error["message"])) if error else None,
        str(entry.get("blob", "")),
        number,
        entry.get("expires_at"),
    )


@dataclass(frozen=True)
class FileCounts:
    """Count the files of a vector store."""

    completed: int = 0
    failed: int = 0
    text_bytes: int = 0


class FileBatch(NamedTuple):
    """Describe a batch of files that was added to a vector store."""

    created_at: str
    """When it was added (ISO 8601)."""
    completed: int
    """Number of files that could be searched then."""
    failed: int


@dataclass(frozen=True)
class FileSearch:
    """Describe a search in vector stores of one tenant."""

    stores: Sequence[str]
    """Names of their streams."""
    queries: Sequence[str]
    limit: int
    score_min: float = 0.0
    accepts: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Function that returns whether files with these attributes are searched."""
    at: str = ""
    """Time of the search (ISO 8601): files that have expired are left out."""


class FoundChunk(NamedTuple):
    """Hold a passage that a search found."""

    file_id: str
    filename: str
    score: float
    """From 0 to 1: near 1 if it has all words of the query several times."""
    text: str
    attributes: Mapping[str, Any]
    number: int
    """Number of the passage in its file, from 0."""


def own_bytes(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a blob without those before the bytes of its file.

    Raises:
        BlobMissing: the blob is not that of a file.
    """
    left = PREFIX_BYTES
    for chunk in chunks:
        if left >= len(chunk):
            left -= len(chunk)
            continue
        yield chunk[left:]
        left = 0
    if left:
        raise BlobMissing("the bytes of the file are not complete: check the ledger with threadledger db check")


def file_stream(tenant: str, file_id: object) -> str:
    """Return the name of the stream of a file.

    Raises:
        InvalidInput: no file can have this id.
    """
    return f"{FILE}{tenant}/{_checked(file_id)}"


def store_stream(tenant: str, store_id: object) -> str:
    """Return the name of the stream of a vector store.

    Raises:
        InvalidInput: no vector store can have this id.
    """
    return f"{VECTOR_STORE}{tenant}/{_checked(store_id)}"


def _checked(given: object) -> str:
    if not isinstance(given, str) or not 1 <= len(given) <= KEY_CHARS_MAX:
        raise InvalidInput(f"{given!a:.80} is not the id of a file: use a text of 1 to {KEY_CHARS_MAX} characters")
    if "\0" in given or any("\ud800" <= each <= "\udfff" for each in given):
        raise InvalidInput(f"the id {given!a} contains a NUL or a lone surrogate: use valid Unicode text")
    return given
