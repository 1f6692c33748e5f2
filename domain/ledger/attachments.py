"""Store a file of an app as an attachment, and make the content part that refers to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..conversation.attachments import media_type_of, part_for
from ..errors import FileMissing, InvalidInput

if TYPE_CHECKING:
    from ..journal import Journal

READ_BYTES = 1024 * 1024
"""Size of the pieces in which a file is read, in bytes."""


def attach(
    journal: Journal, source: str | Path | bytes | IO[bytes], filename: str | None, media_type: str | None
) -> dict[str, Any]:
    """Store bytes and return the part that refers to them; see `Ledger.attach`."""
    for name, given in (("filename", filename), ("media_type", media_type)):
        if given is not None and not isinstance(given, str):
            raise InvalidInput(f"{name} is {type(given).__name__}: give a text, or omit it")
    if isinstance(source, bytes):
        return _stored(journal, iter([source]), filename or "", media_type)
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "read"):
            raise InvalidInput(f"the file is {type(source).__name__}: give its path, its bytes, or an open binary file")
        return _stored(journal, _pieces_of(source), filename or "", media_type)
    path = Path(source)
    try:
        with path.open("rb") as file:
            return _stored(journal, _pieces_of(file), path.name if filename is None else filename, media_type)
    except OSError as error:
        raise FileMissing(f"the file {path} cannot be read ({error.strerror}): correct the path") from error


def _pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(READ_BYTES):
        if not isinstance(piece, bytes):
            raise InvalidInput("the file is open as text: open it as binary, with mode 'rb'")
        yield piece


def _stored(journal: Journal, pieces: Iterator[bytes], filename: str, media_type: str | None) -> dict[str, Any]:
    first = next(pieces, b"")
    if not first:
        raise InvalidInput(f"the file {filename!r} is empty: nothing was stored; attach a file with content")
    known = media_type or media_type_of(first, filename)
    return part_for(journal.blobs.add(chain([first], pieces)), known, filename)
