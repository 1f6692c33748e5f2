"""Read an upload (multipart/form-data) piece by piece, so that no more than one piece of its file is in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import limits
from .errors import ApiError, bad_request

FORM = "multipart/form-data"
HEADERS_MAX_BYTES = 16_384
FIELDS_MAX = 100
"""Maximum number of fields of a form; those of an upload are few."""

_BOUNDARY = re.compile(r'boundary="?([^";,]{1,70})"?', re.IGNORECASE)
_PARAMETER = re.compile(r'\b(name|filename)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r'%(22|0[0-9A-F]|1[0-9AC-F])|\\([\\"])')
_BAD_FORM = "We could not read the form of your request: it is not valid multipart/form-data."


@dataclass
class Upload:
    """Represent a received form: its fields, and its file at `path`, or None if it has no file.

    `problem` is why the form is refused, or None.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    size: int = 0
    sha256: str = ""
    path: Path | None = None
    problem: ApiError | None = None

    @property
    def digest(self) -> bytes:
        """Return a hash of its fields, of the name of its file and of its bytes, whatever the boundary of its parts."""
        named = [*sorted(self.fields.items()), ("", self.filename if self.path is not None else ""), ("", self.sha256)]
        return hashlib.sha256(repr(named).encode()).digest()

    def discard(self) -> None:
        """Delete the file unless it has been moved to where it is kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def too_large(limit: int, size: int) -> ApiError:
    """Return the refusal of a body or a file above its limit; `size` is the number of bytes that were read."""
    return ApiError(413, f"Maximum content size limit ({limit}) exceeded ({size} bytes read)")


class FormReader:
    """Read a form; `new_file` returns the path to which its file of at most `file_bytes` bytes is written, by default
    of as many as the provider takes.

    After a problem, the rest is read and dropped, because a client sends its whole request before it reads the answer.
    """

    def __init__(self, content_type: str, new_file: Callable[[], Path], file_bytes: int | None = None) -> None:
        self._upload = Upload()
        self._file_bytes = limits.FILE_MAX_BYTES if file_bytes is None else file_bytes
        self._new_file = new_file
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._name: str | None = None  # of the field that is being read
        self._field_bytes = 0
        self._step: Callable[[], bool] = self._body
        found = _BOUNDARY.search(content_type)
        if found is None:
            self._fail(bad_request(_BAD_FORM))
        self._delimiter = b"\r\n--" + (found[1] if found else "").encode()
        # The first delimiter has no line break before it.
        self._buffer = bytearray(b"\r\n")

    @property
    def problem(self) -> ApiError | None:
        """Return why the form is refused, as far as is known."""
        return self._upload.problem

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body."""
        if self._upload.problem is not None:
            return
        self._buffer += data
        try:
            while self._step():
                pass
        except ApiError as problem:
            self._fail(problem)

    def close(self) -> Upload:
        """Return the upload after the last piece."""
        if self._upload.problem is None and self._step != self._end:
            self._fail(bad_request(_BAD_FORM))
        if self._file is not None:
            self._file.close()
        self._upload.sha256 = self._hash.hexdigest()
        return self._upload

    def _fail(self, problem: ApiError) -> None:
        self._upload.problem = problem

    # Each step reads from the buffer and returns whether the next step can continue with the rest.

    def _body(self) -> bool:
        end = self._buffer.find(self._delimiter)
        if end < 0:
            # The end of the buffer may be the beginning of a delimiter.
            self._take(max(0, len(self._buffer) - len(self._delimiter) + 1))
            return False
        self._take(end)
        del self._buffer[: len(self._delimiter)]
        self._step = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] == b"--":
            self._step = self._end
            return False
        if self._buffer[:2] != b"\r\n":
            raise bad_request(_BAD_FORM)
        self._step = self._headers
        return True

    def _headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEADERS_MAX_BYTES:
                raise bad_request(_BAD_FORM)
            return False
        head = self._buffer[:end].decode("utf-8", "replace")
        del self._buffer[: end + 4]
        self._begin({name: _unescaped(value) for name, value in _PARAMETER.findall(head)})
        self._step = self._body
        return True

    def _end(self) -> bool:
        self._buffer.clear()
        return False

    def _begin(self, parameters: dict[str, str]) -> None:
        if "name" not in parameters:
            raise bad_request(_BAD_FORM)
        self._name = parameters["name"]
        if "filename" not in parameters:
            if len(self._upload.fields) >= FIELDS_MAX:
                raise bad_request(_BAD_FORM)
            self._upload.fields[self._name] = ""
            return
        if self._file is not None:
            raise bad_request("The form has more than one file: upload them one by one.", self._name)
        self._upload.filename = parameters["filename"]
        self._upload.path = self._new_file()
        self._file = self._upload.path.open("wb")
        self._name = None

    def _take(self, length: int) -> None:
        """Write the first bytes of the buffer to the current field or file, and remove them."""
        piece = bytes(self._buffer[:length])
        del self._buffer[:length]
        upload = self._upload
        if self._name is not None:
            self._field_bytes += length
            if self._field_bytes > limits.FILE_FORM_FIELDS_MAX_BYTES:
                raise too_large(limits.FILE_FORM_FIELDS_MAX_BYTES, self._field_bytes)
            upload.fields[self._name] += piece.decode("utf-8", "replace")
        elif self._file is not None:
            upload.size += length
            if upload.size > self._file_bytes:
                raise too_large(self._file_bytes, upload.size)
            self._hash.update(piece)
            self._file.write(piece)


def _unescaped(value: str) -> str:
    """Return a name as its sender had it.

    Browsers and httpx write a quote and a line break as `%22`, `%0D` and `%0A`, httpx other control characters too; httpx and
    older clients write a backslash as two, and older ones a quote as `\\"`. Everything else is sent as it is, `%41` too.
    """
    return _ESCAPE.sub(lambda found: found[2] or chr(int(found[1], 16)), value)


def form_fields(given: dict[str, str]) -> dict[str, Any]:
    """Return the fields of a form as a JSON object: `expires_after[seconds]` is a field of `expires_after`.

    Raises:
        ApiError: a 400, because a field is given with and without parts.
    """
    body: dict[str, Any] = {}
    for name, text in given.items():
        outer, bracket, inner = name.partition("[")
        value: Any = int(text) if inner == "seconds]" and _WHOLE.fullmatch(text) else text
        if not bracket:
            body[outer] = value
            continue
        parts = body.setdefault(outer, {})
        if not isinstance(parts, dict):
            raise bad_request(_BAD_FORM)
        parts[inner.rstrip("]")] = value
    return body


_WHOLE = re.compile("[0-9]{1,18}")
