"""What the tests of attachments share: stores on each kind of database with each place of the bytes, and events that refer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from threadledger.adapters.blob_files import FsspecFiles
from threadledger.adapters.sql import Database, Factory
from threadledger.domain.conversation import Conversation, text_message
from threadledger.domain.journal import Journal
from threadledger.domain.journal.blobs import CHUNK_BYTES
from threadledger.domain.ledger import Ledger

PLACES = ("sqlite", "postgresql", "sqlite and a folder", "sqlite and memory")
"""Kinds of databases, and where the bytes are if they are not in the database."""


def files_at(place: str, folder: Path) -> Any:
    """The files of a place; none if the bytes are in the database."""
    if "folder" in place:
        return FsspecFiles(f"file://{folder / 'attachments'}")
    return FsspecFiles(f"memory://{uuid4().hex}") if "memory" in place else None


def open_blobs(url: str, files: Any = None) -> Ledger:
    """A ledger that knows nobody outside; the caller closes it."""
    database = Database(url)
    if files is not None:
        database.blob_files = lambda: files
    return Ledger(Journal(Factory(database=database)))


def database_of(ledger: Ledger) -> Any:
    return ledger.journal._given_factory.database  # type: ignore[attr-defined] - a factory of ours


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two chunks are equal."""
    return random.Random(seed).randbytes(size)


def refer(ledger: Ledger, key: str, *addresses: str, text: str = "See this.") -> None:
    """Journal a message that refers to blobs."""

    def decide(conversation: Conversation) -> None:
        event = conversation.journal(text_message("user", text))
        conversation.pending[-1] = msgspec.structs.replace(event, blobs=list(addresses))

    ledger.journal.commit(key, decide, create=True)


def references(ledger: Ledger) -> list[tuple[str, str, int]]:
    """The stored references: key, address and version."""
    query = "SELECT substr(s.name, 14), r.blob, r.version FROM blob_refs r JOIN streams s ON s.stream = r.stream ORDER BY 1, 2, 3"
    return [tuple(row) for row in database_of(ledger).query(query)]


def rows_of(ledger: Ledger) -> tuple[int, int, int]:
    """The numbers of blobs, chunks and references."""
    ((blobs, chunks, refs),) = database_of(ledger).query(
        "SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM blob_chunks), (SELECT count(*) FROM blob_refs)"
    )
    return blobs, chunks, refs


def in_pieces(data: bytes, size: int = 700_001) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5)

ATTACHMENTS = 40
"""Different attachments, the largest of more than 2 MiB: writers add the same ones at the same time."""


def attachment(number: int) -> bytes:
    return pattern(number % 5 * 550_000, seed=number)
