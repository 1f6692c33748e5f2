"""Open a file of conversations, detect its format from its content, and read its conversations."""

from __future__ import annotations

import codecs
import io
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from threadledger.domain.errors import FileMissing, InvalidInput, ThreadledgerError

from .agents_sqlite import MAGIC, found_in_sessions
from .assistants import Read
from .chatgpt import first_values_in_zip, found_in_export, found_in_zip
from .claude import found_in_claude_export
from .compressed import ZIP_MAGIC, Inflated
from .json_values import (
    BYTE_ORDER_MARK,
    VALUE_BYTES_MAX,
    Value,
    bounded_lines,
    is_json,
    is_lines,
    lines_of,
    too_large,
    values_of,
)
from .jsonl import found_in_values
from .reading import Found, Imported, json_of
from .threads import IN_A_THREAD, KEY, found_in_threads, is_dump

FORMATS = ("jsonl", "threads", "chatgpt", "claude", "agents-sqlite")

VALUES_CHECKED_MAX = 50
"""Number of values at the beginning of a file that are checked to detect its format."""

GZIP_MAGIC = b"\x1f\x8b"

ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, and the encoding that each announces."""

CHUNK_BYTES = 1024 * 1024
"""Number of bytes converted at once."""

MESSAGE = "message"
"""What is detected for a message of Chat Completions that is in no conversation."""

STANDARD_INPUT = "stdin"
"""Name of standard input in keys that are made of the file's name."""


@dataclass(frozen=True)
class ImportSource:
    """Represent an opened file. `total` is its number of conversations, if known before reading."""

    format: str
    detected: bool
    """Whether the format was detected from the content, not given by the caller."""
    found: Iterator[Read]
    total: int | None = None


@contextmanager
def import_source(file: str, kind: str | None = None, key_from: str = KEY) -> Iterator[ImportSource]:
    """Open a file, or standard input for `-`; gzip files are decompressed.

    Standard input is copied to a temporary file first, unless `kind` is `jsonl` and its first line is an object.

    Raises:
        FileMissing: the file cannot be read.
        InvalidInput: the format cannot be detected, or is not the given one.
    """
    with ExitStack() as stack, _reading_errors(file):
        name = STANDARD_INPUT if file == "-" else Path(file).name
        own_key = "id" if key_from == KEY else key_from
        first = _first_line(sys.stdin.buffer) if file == "-" and kind == "jsonl" else b""
        if first.lstrip()[:1] == b"{" and is_json(first):
            lines = chain(io.BytesIO(first), bounded_lines(sys.stdin.buffer))
            yield ImportSource("jsonl", False, found_in_values(lines_of(lines), own_key, name))
            return
        stream, path, unpacked = _opened(file, first, stack)
        magic = stream.read(len(MAGIC))
        stream.seek(0)
        chosen = kind or _format_of(stream, magic)
        stream.seek(0)
        if (chosen == "agents-sqlite") != (magic == MAGIC):
            raise InvalidInput(
                f"{file} is {'' if magic == MAGIC else 'not '}a SQLite database: pass its correct --format, or omit the option"
            )
        found: Iterator[Read]
        if chosen == "agents-sqlite":
            found = found_in_sessions(path, name)
        elif chosen in EXPORTS and magic.startswith(ZIP_MAGIC):
            found = found_in_zip(stream, EXPORTS[chosen], name)
        elif chosen in EXPORTS:
            found = EXPORTS[chosen](values_of(stream), name)
        elif chosen == "threads":
            found = found_in_threads(values_of(stream), key_from, name)
        else:
            found = found_in_values(_conversations_in(stream), own_key, name)
        found = _up_to_damage(found, unpacked)
        yield ImportSource(chosen, kind is None, found, _total(chosen, stream))


EXPORTS: Mapping[str, Callable[..., Iterator[Found | Imported]]] = {
    "chatgpt": found_in_export,
    "claude": found_in_claude_export,
}
"""Data exports of chat apps: a JSON document, or a zip that contains it."""


def _up_to_damage(found: Iterator[Read], unpacked: Inflated | None) -> Iterator[Read]:
    """Yield what can be read; if the file is damaged after its first conversation, the last item says so."""
    last = 0
    problem = ""
    try:
        for each in found:
            yield each
            last = each.line
    except ThreadledgerError as error:
        if not last:
            raise
        problem = str(error)
    if unpacked is not None and unpacked.problem:
        problem = f"the gzip file is damaged ({unpacked.problem}): download it again"
    if problem:
        yield Imported(last + 1, "", "failed", reason=f"{problem}; what comes before was read")


def _conversations_in(stream: BinaryIO) -> Iterator[Value]:
    """Return the values of a file; a document that is a list of messages is one conversation."""
    if not is_lines(stream):
        _, first = next(values_of(stream), (0, b""))
        stream.seek(0)
        if _kind_of_text(first) == MESSAGE:
            text = stream.read(VALUE_BYTES_MAX + 1).removeprefix(BYTE_ORDER_MARK)
            return iter([(1, too_large("file") if len(text) > VALUE_BYTES_MAX else b'{"messages": ' + text + b"}")])
    return values_of(stream)


def _first_line(stream: BinaryIO) -> bytes:
    """Return the first line that is not blank, with those before it."""
    read = [b""]
    while not read[-1].strip() and (line := stream.readline(VALUE_BYTES_MAX)):
        read.append(line)
    return b"".join(read)


def _total(kind: str, stream: BinaryIO) -> int | None:
    if kind != "jsonl" or not is_lines(stream):
        return None
    lines, last = 0, b"\n"
    try:
        while chunk := stream.read(CHUNK_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    except InvalidInput:  # it unpacks to too much, which is reported after what comes before
        return None
    finally:
        stream.seek(0)
    return lines + (last != b"\n")


@contextmanager
def _reading_errors(file: str) -> Iterator[None]:
    """Convert errors of reading the file to `FileMissing`, with a message of one sentence."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone; this is not an error of the file
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileMissing(f"{file} cannot be read ({reason}): choose another file") from error


def _opened(file: str, read: bytes, stack: ExitStack) -> tuple[BinaryIO, Path, Inflated | None]:
    """Return a seekable stream of the file's content as UTF-8, its path on disk, and what decompresses it.

    `read` is what was already read of standard input.
    """
    if file == "-":
        stream, path = _spooled(sys.stdin.buffer, stack, read)
    else:
        path = Path(file)
        stream = stack.enter_context(path.open("rb"))
    unpacked = None
    if _head(stream, len(GZIP_MAGIC)) == GZIP_MAGIC:
        unpacked = Inflated(stream)
        stream = cast("BinaryIO", stack.enter_context(io.BufferedReader(unpacked)))
        if _head(stream, len(MAGIC)) == MAGIC:  # SQLite needs a file on disk
            return *_spooled(stream, stack), unpacked
    head = _head(stream, len(codecs.BOM_UTF32_LE))
    encoding = next((name for mark, name in ENCODINGS if head.startswith(mark)), None)
    return (stream if encoding is None else _as_utf8(stream, encoding, stack)), path, unpacked


def _head(stream: BinaryIO, size: int) -> bytes:
    head = stream.read(size)
    stream.seek(0)
    return head


def _as_utf8(stream: BinaryIO, encoding: str, stack: ExitStack) -> BinaryIO:
    """Return a temporary file with the content as UTF-8. Half characters become JSON escapes, which are counted later."""
    file = stack.enter_context(tempfile.TemporaryFile(prefix="threadledger-import-"))  # noqa: SIM115 - the stack closes it
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
    while chunk := stream.read(CHUNK_BYTES):
        file.write(decoder.decode(chunk).encode("utf-8", "backslashreplace"))
    with suppress(UnicodeDecodeError):  # the file ends inside a character
        file.write(decoder.decode(b"", final=True).encode("utf-8", "backslashreplace"))
    file.seek(0)
    return cast("BinaryIO", file)


def _spooled(stream: BinaryIO, stack: ExitStack, read: bytes = b"") -> tuple[BinaryIO, Path]:
    file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="threadledger-import-"))  # noqa: SIM115 - the stack closes it
    file.write(read)
    shutil.copyfileobj(stream, file)
    file.flush()
    file.seek(0)
    return cast("BinaryIO", file), Path(file.name)


def _format_of(stream: BinaryIO, magic: bytes) -> str:
    """Return the detected format, or `jsonl` for unknown lines, which are then reported one by one.

    Raises:
        InvalidInput: the file is one document in an unknown format.
    """
    if magic == MAGIC:
        return "agents-sqlite"
    is_zip = magic.startswith(ZIP_MAGIC)
    values = islice(first_values_in_zip(stream) if is_zip else values_of(stream), VALUES_CHECKED_MAX)
    readable: Counter[str] = Counter()
    first: str | None = None
    is_empty = True
    for _, text in values:
        is_empty = False
        kind = _kind_of_text(text)
        kind = "jsonl" if kind == MESSAGE else kind
        first = first or kind
        if kind is not None and isinstance(text, bytes) and _is_readable(kind, text):
            readable[kind] += 1
    kind = next((name for name, _ in readable.most_common(1)), first)
    if is_zip:
        return kind if kind is not None and kind in EXPORTS else "chatgpt"
    if kind is None and not is_empty and not is_lines(stream):
        raise InvalidInput(
            'the format of the file is unknown: write one conversation per line ({"id": KEY, "messages": [...]}), '
            f"or name the format with --format ({', '.join(FORMATS)})"
        )
    return kind or "jsonl"


def _is_readable(kind: str, text: bytes) -> bool:
    """Return whether a value can be read in a format, so that a damaged one does not decide about the others."""
    found = {"threads": found_in_threads, "jsonl": found_in_values, **EXPORTS}[kind]([(1, text)])
    return any(not isinstance(each, Imported) for each in found)


def _kind_of_text(text: bytes | InvalidInput) -> str | None:
    try:
        return _kind_of(json_of(text, "line"))
    except ThreadledgerError:
        return None


def _kind_of(value: Any, is_outer: bool = True) -> str | None:
    """Return the format of a value, or of the elements of a list, if its shape identifies one, else None."""
    if isinstance(value, list) and is_outer:
        kinds = {_kind_of(each, is_outer=False) for each in value[:VALUES_CHECKED_MAX]} - {None, "jsonl", MESSAGE}
        return min(filter(None, kinds), default=None)
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("chat_messages"), list):
        return "claude"
    messages = value.get("messages")
    if messages is None and isinstance(value.get("mapping"), Mapping):
        return "chatgpt"
    if value.get("object") in IN_A_THREAD or is_dump(value) or "thread_id" in value or isinstance(messages, Mapping):
        return "threads"
    if "items" in value and str(value.get("id")).startswith("conv_"):
        return "threads"
    if not isinstance(messages, list):
        return MESSAGE if isinstance(value.get("role"), str) and messages is None else None
    return "threads" if any(_is_of_a_thread(message) for message in messages[:1]) else "jsonl"


def _is_of_a_thread(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("object") == "thread.message"
