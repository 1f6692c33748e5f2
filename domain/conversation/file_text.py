"""Read the text of an uploaded file, and divide it into the passages that a search finds."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import PurePosixPath

from .files import INVALID, UNSUPPORTED, Chunking

FILE_TEXT_BYTES_MAX = 10 * 1024 * 1024
"""Maximum size of a file whose text is indexed, in bytes."""

BYTES_PER_TOKEN = 4
"""Number of bytes of UTF-8 that count as a token."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, each with the encoding that it announces."""

HTML = frozenset({".html", ".htm", ".xhtml"})
BINARY = (b"%PDF-", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x1f\x8b")
"""Beginnings of files that are no text: PDF, documents and other archives, older documents, images, compressed data."""

KINDS = "text, Markdown, JSON, CSV, HTML and source code"

WORD_SEARCHED_CHARS_MAX = 400
"""Number of characters at the end of a passage among which the place of its end is searched."""


class NoText(Exception):
    """Raised when a file has no text that can be indexed; `code` is the API's code for the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def text_of_file(data: bytes, filename: str) -> str:
    """Return the text of a file: of HTML without its tags.

    Raises:
        NoText: it is too large, empty, or has no text that can be read here.
    """
    if len(data) > FILE_TEXT_BYTES_MAX:
        raise too_long(len(data))
    text = _decoded(data)
    if PurePosixPath(filename).suffix.lower() in HTML:
        text = _without_tags(text)
    if not text.strip():
        raise NoText(INVALID, "The file has no text: nothing of it can be searched.")
    return text


def too_long(size: int) -> NoText:
    """Return the refusal of a file that is larger than the text that is indexed."""
    return NoText(
        INVALID,
        f"The file has {size:,} bytes, and at most {FILE_TEXT_BYTES_MAX:,} are indexed: divide it into several files.",
    )


def _decoded(data: bytes) -> str:
    encoding, rest = next(((name, data[len(mark) :]) for mark, name in MARKS if data.startswith(mark)), ("utf-8", data))
    if data.startswith(BINARY):
        raise NoText(UNSUPPORTED, f"The file is no text: only {KINDS} can be searched; convert it to one of them.")
    try:
        text = rest.decode(encoding)
    except UnicodeDecodeError:
        raise NoText(
            UNSUPPORTED,
            f"The file is no text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark: only {KINDS} can "
            "be searched; convert it to one of them.",
        ) from None
    if "\0" in text:
        raise NoText(UNSUPPORTED, f"The file is no text, because it has NUL bytes: only {KINDS} can be searched.")
    return text


class _Words(HTMLParser):
    """Collect the text of a page, with a line break in the place of each tag that ends a line."""

    SILENT = frozenset({"script", "style", "template", "noscript"})
    """Tags without text; of the others in the head of a page, the title has some."""
    INLINE = frozenset({"a", "abbr", "b", "code", "em", "i", "mark", "small", "span", "strong", "sub", "sup", "u"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in self.SILENT
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(self._silent - (tag in self.SILENT), 0)
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)

    def _break(self, tag: str) -> None:
        if tag not in self.INLINE:
            self.pieces.append("\n")


def _without_tags(text: str) -> str:
    parser = _Words()
    parser.feed(text)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def passages(text: str, chunking: Chunking) -> Iterator[str]:
    """Yield the passages of a text: each but the last has about `size` tokens, and repeats `overlap` of the one before.

    A passage ends where a paragraph, a line, a sentence or a word does, if there is such a place near its end.
    """
    each_token = BYTES_PER_TOKEN if text.isascii() else max(BYTES_PER_TOKEN * len(text) / len(text.encode()), 1)
    size = max(int(chunking.size * each_token), 1)
    step = max(size - int(chunking.overlap * each_token), 1)
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = _end_near(text, max(start + step, end - WORD_SEARCHED_CHARS_MAX), end)
        passage = text[start:end].strip()
        if passage:
            yield passage
        if end >= len(text):
            return
        start = _start_near(text, start + 1, max(end - (size - step), start + 1), end)


def _end_near(text: str, first: int, end: int) -> int:
    """Return the last place from `first` to `end` where a text is best divided."""
    for mark in ("\n\n", "\n", ". ", " "):
        found = text.rfind(mark, first, end)
        if found >= 0:
            return found + len(mark)
    return end


def _start_near(text: str, least: int, start: int, end: int) -> int:
    """Return the beginning of the word at a place, or the place itself within a long word; at least `least`."""
    found = text.rfind(" ", max(least, start - WORD_SEARCHED_CHARS_MAX), start)
    return min(found + 1, end) if found >= 0 else start
