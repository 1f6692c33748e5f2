"""Store a file of an app as an attachment, and make the content part that refers to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..arguments import check_path
from ..conversation.attachments import media_type_of, part_for
from ..conversation.parts import MEDIA_TYPE
from ..effects import Effects, work
from ..errors import FileMissing, InvalidInput
from ..ids import from_iso

if TYPE_CHECKING:
    from ..exchange import Services
    from ..journal import Journal
    from ..journal.uploads import AttachmentCopy


def removable_uploads(journal: Journal, before: datetime, also: datetime | None) -> list[AttachmentCopy]:
    """Return the copies at providers that can be deleted; see `Ledger.removable_uploads`."""
    from ..journal.uploads import Uploads

    copies = [each for each in Uploads(journal).listed() if from_iso(each.at) < max(before, also or before)]
    used: set[str] = set()
    if copies:
        used = {each.address for each in journal.blobs.listed() if each.references}
    is_old = {each.file_id: also is not None and from_iso(each.at) < also for each in copies}
    return [each for each in copies if is_old[each.file_id] or (each.blob not in used and from_iso(each.at) < before)]


def remove_upload(journal: Journal, services: Services, upload: AttachmentCopy) -> Effects[None]:
    """Delete the copy of an attachment at its provider, and record it.

    Raises:
        ProviderRefused: it was not deleted.
        InvalidInput: no backend at its endpoint is configured.
    """
    from ..journal.uploads import Uploads

    if services.remove_file is None:
        raise InvalidInput(f"no backend at {upload.endpoint} is configured: the copy of {upload.blob} was not deleted")
    yield from services.remove_file(upload.endpoint, upload.file_id)
    yield from work(partial(Uploads(journal).forget, upload.endpoint, upload.blob, upload.file_id, PRUNED))


PRUNED = "pruned"
"""Why a copy was deleted by the operator."""

READ_BYTES = 1024 * 1024
"""Size of the pieces in which a file is read, in bytes."""


def attach(
    journal: Journal, source: str | Path | bytes | IO[bytes], filename: str | None, media_type: str | None
) -> dict[str, Any]:
    """Store bytes and return the part that refers to them; see `Ledger.attach`."""
    for name, given in (("filename", filename), ("media_type", media_type)):
        if given is not None and not isinstance(given, str):
            raise InvalidInput(f"{name} is {type(given).__name__}: give a text, or omit it")
    if media_type and MEDIA_TYPE.fullmatch(media_type) is None:
        raise InvalidInput(
            f"the media type {media_type[:100]!a} has other characters than one has: give one like image/png"
        )
    if isinstance(source, bytes):
        return _stored(journal, iter([source]), filename or "", media_type)
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "read"):
            raise InvalidInput(f"the file is {type(source).__name__}: give its path, its bytes, or an open binary file")
        return _stored(journal, _pieces_of(source), filename or "", media_type)
    path = Path(source)
    check_path("source", path)
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
