"""Escape untrusted text for a Markdown document (CommonMark)."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, urlsplit

_NEW_LINE = re.compile(r"\r\n|\r|\n")
_MEANING = re.compile(r"([\\`*_\[\]<>#|~!&$])")
"""Characters with a special meaning at any position."""
_AT_THE_BEGINNING = re.compile(r"^([-+=:])|^(\d+)([.)])")
"""Characters with a special meaning at the beginning of a line: list markers and heading underlines."""
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)|(@)")
"""Text that Markdown renderers turn into links automatically."""

LINKED_SCHEMES = frozenset({"http", "https"})
"""URL schemes that become links; other URLs (`javascript:`, `file:`) are shown as text."""

SAFE_IN_A_LINK = "/:?&=%+,;@#!$'*~-._"


def escaped(text: str) -> str:
    """Return multi-line text, escaped, with its line breaks and blank lines preserved."""
    lines = [_line(line) for line in _NEW_LINE.split(text)]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    told = []
    for index, line in enumerate(lines):
        goes_on = line and index + 1 < len(lines) and lines[index + 1]
        told.append(line + "\\" if goes_on else line)  # a trailing backslash is a hard line break
    return "\n".join(told)


def escaped_line(text: str) -> str:
    """Return text escaped on one line; line breaks are shown as symbols."""
    return _line(_NEW_LINE.sub("\u2424", text))


def fenced(text: str, language: str) -> str:
    """Return text in a code block whose fences are longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = _NEW_LINE.sub("\n", text)
    return f"{fence}{language}\n{_printable(shown)}\n{fence}"


def as_link(url: str) -> str:
    """Return a URL as a link if its scheme is http or https, else as escaped text."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return escaped_line(url)
    if parts.scheme.lower() not in LINKED_SCHEMES:
        return escaped_line(url)
    return f"[{escaped_line(url)}](<{quote(url, safe=SAFE_IN_A_LINK)}>)"


def _line(line: str) -> str:
    shown = _printable(line)
    indented = len(shown) - len(shown.lstrip(" \t"))
    indent = shown[:indented].replace("\t", "    ").replace(" ", "\u00a0")  # plain indentation would start a code block
    rest = shown[indented:].rstrip(" \t")
    if not rest:
        return ""
    rest = _ADDRESS.sub(_unlinked, _MEANING.sub(r"\\\1", rest))
    return indent + (rest if indent else _AT_THE_BEGINNING.sub(_kept, rest))


def _kept(match: re.Match[str]) -> str:
    return f"\\{match[1]}" if match[1] else f"{match[2]}\\{match[3]}"


def _unlinked(match: re.Match[str]) -> str:
    word, mark = match[1] or match[3] or "", match[2] or match[4] or match[5]
    return f"{word}\\{mark}"


def _printable(text: str) -> str:
    """Replace control characters with symbols, because transcripts are also read on terminals."""
    return "".join(
        _symbol(each) if each not in "\n\t" and unicodedata.category(each) == "Cc" else each for each in text
    )


def _symbol(character: str) -> str:
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\ufffd"
