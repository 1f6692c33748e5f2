"""Write text so that no character of it can control a terminal, hide, or change the order of what is read.

Answers, error messages, keys and names come from other people and programs. `safe_output` replaces stdout (on a terminal)
and stderr for as long as a command runs: every character that a command, click, a log line or a traceback writes there
passes `printable`. Only rich may write escape sequences, through `styled`, and `output.console` makes each text safe
before rich adds its own styles. A command that prints in any other way cannot bypass this; its styles are then shown as
symbols.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO

HIDDEN_RANGES = (
    (0x00, 0x08),  # C0 controls but tab and line feed
    (0x0B, 0x1F),
    (0x7F, 0x9F),  # DEL and C1 controls
    (0xAD, 0xAD),  # soft hyphen
    (0x061C, 0x061C),  # bidirectional mark
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),
    (0x180E, 0x180E),
    (0x200B, 0x200B),  # zero-width space
    (0x200E, 0x200F),  # bidirectional marks
    (0x2028, 0x202E),  # line and paragraph separators, bidirectional embeddings and overrides
    (0x2060, 0x206F),  # word joiner, invisible operators, bidirectional isolates
    (0x3164, 0x3164),
    (0xD800, 0xDFFF),  # lone surrogates, which no terminal encoding has
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE00FF),  # tag characters
    (0xE01F0, 0xE0FFF),
)
"""Code points that are never written: controls, and Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt of
Unicode 16) without `JOINING_RANGES`; also separators, annotations and surrogates."""

JOINING_RANGES = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x180B, 0x180D),  # Mongolian variation selectors
    (0x180F, 0x180F),
    (0x200C, 0x200D),  # zero-width non-joiner and joiner
    (0xFE00, 0xFE0F),  # variation selectors
    (0xE0100, 0xE01EF),
)
"""Invisible code points that Persian, Indic scripts, Mongolian, Chinese characters and emoji need. They are written directly
after a visible character from `JOINED_FROM` on, one of them at most, so that Latin text cannot contain them."""

JOINED_SIGNS = "0-9#*©®"
"""Characters before `JOINED_FROM` that emoji are made of."""

JOINED_FROM = 0x0590
"""First code point after which a joining character is written; the Latin, Greek and Cyrillic scripts come before it."""

LAST_CODE_POINT = 0x10FFFF

OWN_SEQUENCES = re.compile(r"(\x1b\[[0-9;]*m|\x1b\[[0-9]*[ABK]|\x1b\[\?25[hl]|\r)")
"""Escape sequences of rich that are written: styles, and the cursor movements of a progress bar."""


PASSED_ON = frozenset({"flush", "isatty", "fileno", "encoding", "errors", "closed", "writable", "readable"})
"""Attributes of a stream that a `SafeStream` shares with it. `buffer` is not among them, so that bytes cannot pass, and
click does not write around it."""


def printable(text: str, lines: bool = True) -> str:
    """Return the text with each character that controls a terminal or is invisible replaced by a symbol such as ␛.

    With `lines`, line breaks and tabs are kept.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = _hidden().sub(lambda found: "".join(map(_symbol, found[0])), text)
    return shown if lines else shown.replace("\n", _symbol("\n")).replace("\t", _symbol("\t"))


def safe_json(text: str) -> str:
    """Return JSON with the same characters as `printable` replaces written as `\\uXXXX`: the same value."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _hidden().sub(lambda found: "".join(map(_json_escape, found[0])), text)


@contextmanager
def safe_output() -> Iterator[None]:
    """Write only printable text to stderr, and to stdout if it is a terminal; a pipe gets exactly the data."""
    before = sys.stdout, sys.stderr
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = _safe(sys.stdout)
    if sys.stderr is not None:
        sys.stderr = _safe(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def styled(stream: Any) -> Any:
    """Return a stream for rich that writes to `stream` and also lets through `OWN_SEQUENCES`."""
    return _Styled(stream) if isinstance(stream, SafeStream) else stream


def binary_output() -> BinaryIO | None:
    """Return stdout as a stream of bytes, for a pipe or a file; None if it is a terminal, which bytes could control."""
    return None if sys.stdout.isatty() else sys.stdout.buffer


class SafeStream:
    """Represent a text stream that writes only printable text."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last = ""
        """The last character that was written: a joining character may be the first of the next text."""

    def write(self, text: str | bytes) -> int:
        """Write the text and return its length."""
        if isinstance(text, bytes):  # click writes a script for the shell so
            text = text.decode("utf-8", "replace")
        before = "" if text[:1].isascii() else self._last
        self._stream.write(printable(before + text)[len(printable(before)) :])
        self._last = text[-1:] or self._last
        return len(text)

    def write_styled(self, text: str) -> None:
        """Write text with escape sequences of rich; other escape sequences become symbols."""
        parts = OWN_SEQUENCES.split(text)  # every second one is a sequence
        self._stream.write("".join(part if at % 2 else printable(part) for at, part in enumerate(parts)))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in PASSED_ON:
            return getattr(self._stream, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: only text can be written")


class _Styled:
    """Represent a `SafeStream` as rich writes to it."""

    def __init__(self, stream: SafeStream) -> None:
        self._stream = stream
        self.write: Callable[[str], None] = stream.write_styled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _safe(stream: Any) -> Any:
    if isinstance(stream, SafeStream):
        return stream
    if str(getattr(stream, "encoding", "")).lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"):
        stream.reconfigure(encoding="utf-8")  # click does the same with a stream that it may write around
    return SafeStream(stream)


@cache
def _hidden() -> re.Pattern[str]:
    """Return the pattern of characters that are not written; compiled on first use, because most output is ASCII."""
    hidden, joining = _ranges(HIDDEN_RANGES), _ranges(JOINING_RANGES)
    joined = f"{JOINED_SIGNS}{_ranges(_between(sorted(HIDDEN_RANGES + JOINING_RANGES)))}"
    selectors = "\ufe0e\ufe0f"  # an emoji with a variation selector can be joined with another one
    alone = f"(?<![{joined}{selectors}])\u200d|(?<![{joined}])(?!\u200d)[{joining}]"
    return re.compile(f"[{hidden}]+|{alone}")


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges)


def _between(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges from `JOINED_FROM` on that lie between the given ones."""
    begin = JOINED_FROM
    for first, last in ranges:
        if first > begin:
            yield begin, first - 1
        begin = max(begin, last + 1)
    yield begin, LAST_CODE_POINT


@cache
def _symbol(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures
    return "\u2421" if code == 0x7F else f"‹U+{code:04X}›"


@cache
def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
