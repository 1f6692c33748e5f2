"""Read the values of a JSON file one by one, without loading the whole file: lines, or the elements of one array.

The end of a value is found from brackets and quotes only. An error inside one value (invalid UTF-8, a malformed number)
therefore affects only that value.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from threadledger.domain.errors import InvalidInput

CHUNK_BYTES = 1024 * 1024
"""Number of bytes read at once."""

HEAD_BYTES = 1024 * 1024
"""Number of bytes at the beginning of a file that are read to decide whether it has lines or is one document."""

VALUE_BYTES_MAX = 256 * 1024 * 1024
"""Maximum size of one value (a line, or an element of the array), in bytes: it is in memory as a whole. An exported
conversation of 100,000 messages has about 80 MB."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NUMBER_CHARS_MAX = 4_300
"""Maximum length of an integer, in characters. Python reads and writes no longer ones."""

LEVELS_MAX = 500
"""Levels that are kept of a value that is nested deeper than Python reads."""

UNREADABLE = float("nan")
"""What `parsed` returns in place of an integer that is too long and of a value that is nested too deep."""

_SEVERAL = re.compile(rb"\}\s*,?\s*\{|,$")
"""What a line contains that may hold several values, or a comma after its value."""

_NESTING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
_INSIDE = re.compile(rb'["{}\[\]]')
_BETWEEN = re.compile(rb'[",{}\[\]]')
_IN_TEXT = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


Line = bytes | InvalidInput
Value = tuple[int, Line]
"""Number of a value (the line number, or its index in a document) and its text, or the error if it cannot be read."""


def values_of(stream: BinaryIO) -> Iterator[Value]:
    """Yield each value of a file. If the file ends inside its array, the last item is an error that says so."""
    return lines_of(_lines_in(stream)) if is_lines(stream) else _Document(stream).values()


def too_large(what: str) -> InvalidInput:
    """Return the error for a value that is larger than `VALUE_BYTES_MAX`."""
    size = f"{VALUE_BYTES_MAX / 1024**2:,.0f} MiB"
    return InvalidInput(f"the {what} is larger than {size} and was skipped: split it into several conversations")


def parsed(text: bytes | str, repeated: list[str] | None = None) -> Any:
    """Parse JSON. An integer that is too long and a value that is nested too deep become `UNREADABLE`.

    Keys that an object has more than once are added to `repeated`; their last value counts.

    Raises:
        ValueError: the text is not JSON.
    """
    object_of = None if repeated is None else _noting(repeated)
    try:
        return json.loads(text, object_pairs_hook=object_of)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except (ValueError, RecursionError):
        data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        if repeated:
            repeated.clear()  # they are found again
    try:
        return json.loads(
            _without_deep_values(data),
            parse_int=_integer,
            parse_constant=lambda name: UNREADABLE,
            object_pairs_hook=object_of,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _noting(repeated: list[str]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return made

    return object_of


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= NUMBER_CHARS_MAX else UNREADABLE


def _without_deep_values(text: bytes) -> bytes:
    kept: list[bytes] = []
    depth = begin = 0
    for token in _NESTING.finditer(text):
        mark = token.group()
        if mark in b"{[":
            depth += 1
            if depth == LEVELS_MAX + 1:
                kept += [text[begin : token.start()], b"NaN"]
        elif mark in b"}]":
            depth -= 1
            if depth == LEVELS_MAX:
                begin = token.end()
    return b"".join([*kept, text[begin:]]) if depth == 0 else text


def _lines_in(stream: BinaryIO) -> Iterable[Line]:
    """Return the lines of a file, also if each ends with a carriage return alone."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    return bounded_lines(stream) if _line_end(head) == b"\n" else _lines_by_carriage_return(stream)


def bounded_lines(stream: BinaryIO) -> Iterator[Line]:
    """Yield the lines of a file; one that is too large is not kept in memory."""
    while line := stream.readline(VALUE_BYTES_MAX + 1):
        if len(line) <= VALUE_BYTES_MAX:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(CHUNK_BYTES)
        yield too_large("line")


def _line_end(head: bytes) -> bytes:
    return b"\r" if b"\r" in head and b"\n" not in head else b"\n"


def _lines_by_carriage_return(stream: BinaryIO) -> Iterator[Line]:
    kept = _Kept("line")
    while chunk := stream.read(CHUNK_BYTES):
        *ended, left = chunk.split(b"\r")
        for line in ended:
            kept.add(line)
            yield kept.taken()
        kept.add(left)
    yield kept.taken()


class _Kept:
    """Hold the parts of a value that were read so far, unless they are too large."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._parts: list[bytes] = []
        self._bytes = 0

    def add(self, part: bytes) -> None:
        """Keep another part; once the value is too large, none of it is kept."""
        self._bytes += len(part)
        if self._bytes <= VALUE_BYTES_MAX:
            self._parts.append(part)
        else:
            self._parts.clear()

    def taken(self) -> Line:
        """Return the value, or the error, and begin the next one."""
        parts, size = self._parts, self._bytes
        self._parts, self._bytes = [], 0
        return b"".join(parts) if size <= VALUE_BYTES_MAX else too_large(self._what)


_BRACKETS = frozenset({b"[", b"]", b"{", b"}"})
"""Lines that only a document has."""


def is_lines(stream: BinaryIO) -> bool:
    """Return whether each line is a separate value, judged by the complete lines at the beginning of the file."""
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    lines = head.removeprefix(BYTE_ORDER_MARK).split(_line_end(head))
    whole = [line for line in (lines[:-1] if len(head) == HEAD_BYTES and len(lines) > 1 else lines) if line.strip()]
    if not whole:
        return True
    if whole[0].lstrip()[:1] == b"[" and (len(whole) == 1 or not is_json(whole[0])):
        is_document = any(line.strip().rstrip(b",") in _BRACKETS for line in whole)
        return not is_document and sum(is_json(line) for line in whole[1:] if line[:1] == b"{") > 1
    if len(whole) == 1:
        return True
    return any(is_json(line) for line in whole if line[:1] in {b"{", b"["})


def is_json(line: bytes) -> bool:
    """Return whether a line is JSON on its own."""
    try:
        parsed(line)
    except ValueError:
        return False
    return True


def lines_of(lines: Iterable[Line]) -> Iterator[Value]:
    """Yield the value of each line that is not blank; several objects on one line have the same number.

    A byte order mark may be around any line, because files are concatenated.
    """
    for number, line in enumerate(lines, 1):
        if isinstance(line, InvalidInput):
            yield number, line
            continue
        text = line.strip().removeprefix(BYTE_ORDER_MARK).removesuffix(BYTE_ORDER_MARK).strip()
        if text:
            yield from ((number, value) for value in _values_on(text))


def _values_on(line: bytes) -> Iterable[Line]:
    """Return the values of a line: itself if it is JSON, or if its first object is not."""
    if line[:1] != b"{" or not _SEVERAL.search(line) or _is_one_value(line) or is_json(line):
        return (line,)
    values = [text for _, text in _Document(io.BytesIO(line)).values()]
    first = next(iter(values), b"")
    return values if isinstance(first, bytes) and is_json(first) else (line,)


def _is_one_value(line: bytes) -> bool:
    """Return whether a line is one value of JSON, found by its brackets alone; false may be wrong, true is not."""
    try:
        _skip(line)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


_skip = msgspec.json.Decoder(msgspec.Raw).decode


class _Document:
    """Parse a document incrementally: the elements of an array, or a sequence of values."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._kept = _Kept("value")
        self._depth = 0
        self._in_text = self._escaped = False
        self._in_array = False

    def values(self) -> Iterator[Value]:
        number, first = 0, True
        while chunk := self._stream.read(CHUNK_BYTES):
            if first:
                chunk = chunk.removeprefix(BYTE_ORDER_MARK).lstrip()
                self._in_array = chunk[:1] == b"["
                chunk, self._depth = (chunk[1:], 1) if self._in_array else (chunk, 0)
                first = False
            for text in self._ended(chunk):
                number += 1
                yield number, text
        left = self._taken()
        if left:
            yield number + 1, left
        if self._in_array and (self._depth == 1 or (self._depth > 1 and not left)):  # else the rest fails to parse
            problem = (
                f"the file ends inside its array, after {number + bool(left)} complete values: download the file again"
            )
            yield number + 1 + bool(left), InvalidInput(problem)

    def _ended(self, chunk: bytes) -> Iterator[Line]:
        """Yield the values that end in this chunk of the file."""
        top = 1 if self._in_array else 0
        begin = at = 0
        while at < len(chunk):
            if self._in_text:
                at = self._out_of_text(chunk, at)
                continue
            token = (_BETWEEN if self._depth <= top else _INSIDE).search(chunk, at)
            if token is None:
                break
            at = token.end()
            mark = token.group()
            if mark == b'"':
                self._in_text = True
            elif mark in b"{[":
                self._depth += 1
            elif mark == b"," or self._depth <= top:  # between values, or the array's end
                self._kept.add(chunk[begin : at - 1])
                begin = at
                self._depth -= mark != b"," and self._depth > 0
                text = self._taken()
                if text:
                    yield text
            else:
                self._depth -= 1
                if self._depth == top and not self._in_array:
                    self._kept.add(chunk[begin:at])
                    begin = at
                    yield self._taken()
        self._kept.add(chunk[begin:])

    def _out_of_text(self, chunk: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        token = _IN_TEXT.search(chunk, at)
        if token is None:
            return len(chunk)
        self._in_text = token.group() != b'"'
        self._escaped = self._in_text
        return token.end()

    def _taken(self) -> Line:
        text = self._kept.taken()
        return text.strip(_SPACE) if isinstance(text, bytes) else text
