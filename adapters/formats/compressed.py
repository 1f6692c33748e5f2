"""Read a gzip file or the files in a zip up to where they are damaged or end early.

The standard library raises an exception there, and what it decompressed just before is lost.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

from threadledger.domain.errors import InvalidInput

CHUNK_BYTES = 64 * 1024
"""Number of compressed bytes read at once."""

CONTENT_BYTES = 1024 * 1024
"""Maximum number of bytes decompressed at once."""

UNPACKED_RATIO_MAX = 400
"""Maximum size of decompressed data, as a multiple of its compressed size. JSON has 5 to 30, repeated texts 100 or
more; deflate reaches 1,032."""

UNPACKED_FREE_BYTES = 64 * 1024 * 1024
"""Size of decompressed data, in bytes, up to which any ratio is accepted."""

UNPACKED_BYTES_MAX = 64 * 1024**3
"""Maximum size of all decompressed data of a file, in bytes."""

ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of a zip file, and of the header of each file in it."""

GZIP, RAW = 31, -15
"""What zlib calls a gzip file and a bare deflate stream (`wbits`)."""

STORED, DEFLATED = 0, 8
"""Compression methods of a zip that are read."""

ENDS_EARLY = "it ends early"


@dataclass(frozen=True)
class FileInZip:
    """Represent a file in a zip: its name, where its data begins, and its method, size and checksum, if known."""

    name: str
    begin: int
    method: int
    packed: int | None
    crc: int | None


class Inflated(io.RawIOBase):
    """Read the decompressed content of a gzip file, or of a file in a zip. It ends where the data is damaged."""

    def __init__(self, stream: BinaryIO, file: FileInZip | None = None, before: int = 0) -> None:
        """`before` is the size of what was decompressed of other files of the same zip."""
        self._stream = stream
        self._file = file
        self._before = before
        self.problem = ""
        """What is damaged, once the content was read to its end."""
        self._start()

    def _start(self) -> None:
        self._at = self._file.begin if self._file else 0
        self._inflater = zlib.decompressobj(RAW if self._file else GZIP)
        self._given = self._crc = self._unpacked = 0
        self._ready = memoryview(b"")
        self._has_ended = False
        self.problem = ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position in the content; to go back, it is decompressed again."""
        if whence == io.SEEK_END:
            while self.read(CHUNK_BYTES):
                pass
            whence, offset = io.SEEK_CUR, min(offset, 0)
        target = offset + (self._given if whence == io.SEEK_CUR else 0)
        if target < self._given:
            self._start()
        while self._given < target and self.read(min(CHUNK_BYTES, target - self._given)):
            pass
        return self._given

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._has_ended:
            self._ready = memoryview(self._more())
        view = memoryview(buffer)
        size = min(len(view), len(self._ready))
        view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        self._given += size
        return size

    @property
    def unpacked(self) -> int:
        """Return the size of what was decompressed, with that of the files before."""
        return self._before + self._unpacked

    @property
    def end(self) -> int:
        """Return the position in the compressed stream after what was read."""
        return self._at

    def _more(self) -> bytes:
        """Return the next decompressed bytes; at the end, note what is wrong with them."""
        self._stream.seek(self._at)
        if self._file is not None and self._file.method == STORED:
            return self._copied(self._file)
        packed = self._stream.read(CHUNK_BYTES)
        before = self._inflater.copy()
        try:
            data = self._inflater.decompress(packed, CONTENT_BYTES)
        except zlib.error:
            self._stop("its data or its checksum is wrong")
            return _until_error(before, packed)
        if not packed and not data:
            self._stop(ENDS_EARLY)
        # At the end of a member, zlib leaves an old `unconsumed_tail`.
        left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        self._at += len(packed) - len(left)
        self._crc = zlib.crc32(data, self._crc)
        self._unpacked += len(data)
        self._check_size()
        if self._inflater.eof:
            self._finish_part()
        return data

    def _check_size(self) -> None:
        packed = self._at - (self._file.begin if self._file else 0)
        what = f"{self._file.name} in the zip" if self._file else "the gzip file"
        if self._unpacked > max(UNPACKED_FREE_BYTES, packed * UNPACKED_RATIO_MAX):
            raise InvalidInput(
                f"{what} unpacks to more than {UNPACKED_RATIO_MAX} times its size, as files do that are made to fill "
                "the memory: if you trust it, unpack it yourself and import the result"
            )
        if self.unpacked > UNPACKED_BYTES_MAX:
            size = f"{UNPACKED_BYTES_MAX / 1024**3:,.0f} GiB"
            raise InvalidInput(f"{what} unpacks to more than {size}: unpack it, and import it in several parts")

    def _copied(self, file: FileInZip) -> bytes:
        left = file.begin + (file.packed or 0) - self._at
        data = self._stream.read(min(CHUNK_BYTES, left))
        self._at += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if left <= len(data) or not data:
            self._stop(self._wrong_sum() if left <= len(data) else ENDS_EARLY)
        return data

    def _finish_part(self) -> None:
        if self._file is not None:
            self._stop(self._wrong_sum())
            return
        rest = self._inflater.unused_data or self._stream.read(CHUNK_BYTES)
        while rest and not rest.strip(b"\0"):  # a gzip file may be padded, or consist of several
            self._at += len(rest)
            rest = self._stream.read(CHUNK_BYTES)
        self._at += len(rest) - len(rest.lstrip(b"\0"))
        self._inflater = zlib.decompressobj(GZIP)
        if not rest:
            self._stop("")

    def _wrong_sum(self) -> str:
        return "its checksum is wrong" if self._file and self._file.crc not in {None, self._crc} else ""

    def _stop(self, problem: str) -> None:
        self._has_ended = True
        self.problem = problem


def _until_error(inflater: zlib._Decompress, packed: bytes) -> bytes:
    """Return what can be decompressed before the byte that raises the error."""
    data = []
    try:
        for at in range(len(packed)):
            data.append(inflater.decompress(packed[at : at + 1]))
    except zlib.error:
        pass
    return b"".join(data)


def files_in_zip(stream: BinaryIO) -> tuple[list[FileInZip], str]:
    """Return the files of a zip, and the problem if its directory is missing; then its beginning is searched for files.

    Raises:
        InvalidInput: the stream is not a zip.
    """
    try:
        with ZipFile(stream) as archive:
            return [_listed(stream, info) for info in archive.infolist()], ""
    except (BadZipFile, NotImplementedError, ValueError, OSError) as error:  # not implemented: a version of the format
        files = list(_found(stream))
        if not files:
            raise InvalidInput(f"the zip cannot be read ({error}): download it again") from error
        return files, ENDS_EARLY


def opened_in_zip(stream: BinaryIO, file: FileInZip, before: int = 0) -> Inflated:
    """Return the content of a file in a zip; for `before`, see `Inflated`.

    Raises:
        InvalidInput: its compression is not supported, or it is encrypted.
    """
    if file.method not in {STORED, DEFLATED}:
        raise InvalidInput(
            f"{file.name} in the zip is encrypted or compressed in another way: unpack the zip and zip it again"
        )
    return Inflated(stream, file, before)


HEADER = struct.Struct("<4s2xHH4xLL4xHH")
"""Header of a file in a zip: magic, flags, method, checksum, packed size, and the lengths of its name and extra fields."""

ENCRYPTED, SIZE_FOLLOWS = 1, 8
"""Flags of a file in a zip."""

SIZE_ELSEWHERE = 0xFFFFFFFF
"""Size of a file that is in its extra fields, because it is too large."""

FOLLOWING_BYTES = 28
"""Maximum length of what follows the data of a file, with the magic of the next one."""


def _header(stream: BinaryIO, at: int) -> FileInZip | None:
    stream.seek(at)
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(ZIP_MAGIC):
        return None
    _, flags, method, crc, packed, name_chars, extra = HEADER.unpack(head)
    name = stream.read(name_chars).decode(errors="replace")
    is_known = not flags & SIZE_FOLLOWS and packed != SIZE_ELSEWHERE
    begin = at + HEADER.size + name_chars + extra
    return FileInZip(
        name, begin, -1 if flags & ENCRYPTED else method, packed if is_known else None, crc if is_known else None
    )


def _listed(stream: BinaryIO, info: ZipInfo) -> FileInZip:
    header = _header(stream, info.header_offset)
    if header is None:
        raise BadZipFile(f"{info.filename} is not where the directory says")
    return FileInZip(info.filename, header.begin, header.method, info.compress_size, info.CRC)


def _found(stream: BinaryIO) -> Iterator[FileInZip]:
    """Yield the files of a zip from its beginning, as long as one follows another."""
    at = 0
    while (file := _header(stream, at)) is not None:
        yield file
        if file.packed is not None:
            at = file.begin + file.packed
        elif file.method == DEFLATED:
            content = Inflated(stream, file)
            content.seek(0, io.SEEK_END)
            stream.seek(content.end)
            following = stream.read(FOLLOWING_BYTES).find(ZIP_MAGIC)
            at = content.end + max(following, 0)
        else:
            return
