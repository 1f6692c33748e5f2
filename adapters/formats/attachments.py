"""Write the bytes of attachments into an exported file, or into a folder next to it, and read them there at an import.

A file stands alone by default: its messages have the bytes inside, as Chat Completions take them. With a folder, they keep the
addresses, and the folder has one file for each attachment, named by its hash. A path is never taken from a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from threadledger.domain.conversation.attachments import blobs_of, inlined
from threadledger.domain.conversation.messages import Message
from threadledger.domain.conversation.native import with_texts_in_place
from threadledger.domain.errors import BlobMissing, ChangedBlob, Conflict, FileMissing, InvalidInput
from threadledger.domain.journal.blobs import CHUNK_BYTES
from threadledger.domain.ledger import Ledger

from ..private_files import private_bytes

JSON = dict[str, Any]
NATIVE = "threadledger_native"
"""Key of an exported message for what the provider's items held besides."""

Attach = Callable[[Message, JSON], JSON]
"""Function that returns the JSON of a message as an export writes it, given the message and its JSON in the ledger."""

_ADDRESS = re.compile(r"sha256:([0-9a-f]{64})")


def file_name(address: str) -> str:
    """Return the name of the file of an attachment: the hash in its address.

    Raises:
        InvalidInput: it is not a well-formed address.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise InvalidInput(
            f"{address[:100]!a} is not the address of an attachment: correct the file, or export it again"
        )
    return found[1]


def inside(ledger: Ledger) -> Attach:
    """Return the function that writes the bytes of attachments into their messages."""

    def attach(message: Message, given: JSON) -> JSON:
        read = ledger.journal.read_blob
        whole = inlined(given, read) if isinstance(message.content, tuple) else given
        return whole | {NATIVE: with_texts_in_place(whole[NATIVE], read)} if message.native_json else whole

    return attach


def into_folder(ledger: Ledger, folder: Path) -> Attach:
    """Return the function that writes the attachments of messages into a folder, each once, and keeps their addresses.

    A file that is there already is kept if it has the same bytes.
    """
    written: set[str] = set()

    def attach(message: Message, given: JSON) -> JSON:
        for address in blobs_of(message):
            if address not in written:
                _write(ledger, folder, address)
                written.add(address)
        return given

    return attach


def _write(ledger: Ledger, folder: Path, address: str) -> None:
    path = folder / file_name(address)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with private_bytes(path) as file:
                for chunk in ledger.journal.read_blob(address):
                    file.write(chunk)
        except FileExistsError:
            if not path.is_file() or _hash_of(path) != path.name:
                raise Conflict(
                    f"{path} exists already and has other bytes: nothing more was exported; choose another folder for --blobs"
                ) from None
    except OSError as error:
        raise FileMissing(f"{path} cannot be written ({error.strerror}): choose another folder for --blobs") from error


def forgiving(attach: Attach, problems: list[str]) -> Attach:
    """Return a function that keeps the address of an attachment that is missing or was changed, and adds what is wrong."""

    def attach_or_keep(message: Message, given: JSON) -> JSON:
        try:
            return attach(message, given)
        except (BlobMissing, ChangedBlob) as error:
            problems.append(str(error).partition(": ")[0])
            return given

    return attach_or_keep


class ImportedAttachments:
    """Store the attachments to which imported messages refer by their addresses."""

    def __init__(self, ledger: Ledger, folder: Path | None) -> None:
        self._ledger = ledger
        self._folder = folder

    def store(self, message: Message, name: str) -> None:
        """Store the attachments of a message from the folder; those that are not there must be stored already.

        Raises:
            InvalidInput: one of them is in neither place, is too large, or its file has other bytes.
            FileMissing: its file cannot be read.
        """
        for address in blobs_of(message):
            path = self._folder / file_name(address) if self._folder is not None else None
            if path is not None and path.is_file():
                self._add(path, address)
            elif self._ledger.journal.blobs.size(address) is None:
                place = "--blobs names the folder of its export" if path is None else f"there is no file {path}"
                raise InvalidInput(
                    f"{name} refers to the attachment {address[:100]!a}, whose bytes are not in this ledger: {place}"
                )

    def _add(self, path: Path, address: str) -> None:
        try:
            # Hashed first, so that other bytes are not stored at all.
            if _hash_of(path) != path.name or self._ledger.journal.blobs.add(_chunks(path)).address != address:
                raise InvalidInput(
                    f"the file {path} does not have the bytes of its name: copy it from the export again"
                )
        except OSError as error:
            raise FileMissing(f"{path} cannot be read ({error.strerror}): correct its permissions") from error


def _hash_of(path: Path) -> str:
    hashed = sha256()
    for chunk in _chunks(path):
        hashed.update(chunk)
    return hashed.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
