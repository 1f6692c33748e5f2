"""Open a file of conversations, detect its format from its content, and read its conversations."""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from threadledger.domain.errors import FileMissing, InvalidInput, ThreadledgerError

from .agents_sqlite import MAGIC, found_in_sessions
from .chatgpt import ZIP_MAGIC, found_in_export, found_in_zip
from .importing import Found, Imported, json_of
from .json_values import is_lines, values_of
from .jsonl import found_in_lines
from .threads import IN_A_THREAD, KEY, found_in_threads

FORMATS = ("jsonl", "threads", "chatgpt", "agents-sqlite")

VALUES_CHECKED_MAX = 50
"""Number of values at the beginning of a file that are checked to detect its format."""

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class ImportSource:
    """Represent an opened file. `total` is its number of conversations, if known before reading."""

    format: str
    detected: bool
    """Whether the format was detected from the content, not given by the caller."""
    found: Iterator[Found | Imported]
    total: int | None = None


@contextmanager
def import_source(file: str, kind: str | None = None, key_from: str = KEY) -> Iterator[ImportSource]:
    """Open a file, or standard input for `-`; gzip files are decompressed.

    Standard input is copied to a temporary file first, unless `kind` is `jsonl`.

    Raises:
        FileMissing: the file cannot be read.
        InvalidInput: the format cannot be detected, or is not the given one.
    """
    with ExitStack() as stack, _reading_errors(file):
        if file == "-" and kind == "jsonl":
            yield ImportSource("jsonl", False, found_in_lines(iter(sys.stdin.buffer)))
            return
        stream, path = _opened(file, stack)
        magic = stream.read(len(MAGIC))
        stream.seek(0)
        chosen = kind or _format_of(stream, magic)
        stream.seek(0)
        if (chosen == "agents-sqlite") != (magic == MAGIC):
            raise InvalidInput(
                f"{file} is {'' if magic == MAGIC else 'not '}a SQLite database: pass its correct --format, or omit the option"
            )
        yield ImportSource(chosen, kind is None, _found(chosen, stream, path, magic, key_from), _total(chosen, stream))


def _found(kind: str, stream: BinaryIO, path: Path, magic: bytes, key_from: str) -> Iterator[Found | Imported]:
    if kind == "agents-sqlite":
        return found_in_sessions(path)
    if kind == "chatgpt":
        return found_in_zip(stream) if magic.startswith(ZIP_MAGIC) else found_in_export(values_of(stream))
    return found_in_threads(values_of(stream), key_from) if kind == "threads" else found_in_lines(stream)


def _total(kind: str, stream: BinaryIO) -> int | None:
    if kind != "jsonl":
        return None
    total = sum(1 for _ in stream)
    stream.seek(0)
    return total


@contextmanager
def _reading_errors(file: str) -> Iterator[None]:
    """Convert errors of reading the file to `FileMissing`, with a message of one sentence."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone; this is not an error of the file
        raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileMissing(f"{file} cannot be read ({reason}): choose another file") from error


def _opened(file: str, stack: ExitStack) -> tuple[BinaryIO, Path]:
    """Return a seekable stream of the file's content, and its path on disk."""
    if file == "-":
        return _spooled(cast("BinaryIO", sys.stdin.buffer), stack)
    path = Path(file)
    stream = stack.enter_context(path.open("rb"))
    packed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    if not packed:
        return stream, path
    unpacked = stack.enter_context(gzip.open(path))  # noqa: SIM115 - the stack closes it
    if unpacked.read(len(MAGIC)) == MAGIC:  # SQLite needs a file on disk
        unpacked.seek(0)
        return _spooled(cast("BinaryIO", unpacked), stack)
    unpacked.seek(0)
    return cast("BinaryIO", unpacked), path


def _spooled(stream: BinaryIO, stack: ExitStack) -> tuple[BinaryIO, Path]:
    file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="threadledger-import-"))  # noqa: SIM115 - the stack closes it
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
    if magic.startswith(ZIP_MAGIC):
        return "chatgpt"
    kinds = (_kind_of_text(text) for _, text in islice(values_of(stream), VALUES_CHECKED_MAX))
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind in {None, "jsonl"} and not is_lines(stream):
        raise InvalidInput(
            "the format of the file is unknown: write one conversation per line (from an array: jq -c '.[]'), "
            f"or name the format with --format ({', '.join(FORMATS)})"
        )
    return kind or "jsonl"


def _kind_of_text(text: bytes | InvalidInput) -> str | None:
    try:
        return _kind_of(json_of(text, "line"))
    except ThreadledgerError:
        return None


def _kind_of(value: Any) -> str | None:
    """Return the format of a value if its shape identifies one, else None."""
    if isinstance(value, list):
        kinds = {_kind_of(each) for each in value[:VALUES_CHECKED_MAX]} - {None, "jsonl"}
        return min(filter(None, kinds), default=None)
    if not isinstance(value, Mapping):
        return None
    if "mapping" in value and ("current_node" in value or "create_time" in value):
        return "chatgpt"
    messages = value.get("messages")
    if value.get("object") in IN_A_THREAD or "thread_id" in value or isinstance(messages, Mapping):
        return "threads"
    if "items" in value and str(value.get("id")).startswith("conv_"):
        return "threads"
    if not isinstance(messages, list):
        return None
    return "threads" if any(_is_of_a_thread(message) for message in messages[:1]) else "jsonl"


def _is_of_a_thread(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("object") == "thread.message"
