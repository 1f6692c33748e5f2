"""Foreign text in a Markdown document (CommonMark), where it can be nothing but text."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, urlsplit

_NEW_LINE = re.compile(r"\r\n|\r|\n")
_MEANING = re.compile(r"([\\`*_\[\]<>#|~!&$])")
"""Characters that mean something wherever they stand."""
_AT_THE_BEGINNING = re.compile(r"^([-+=:])|^(\d+)([.)])")
"""What means something at the beginning of a line: lists, underlines of headings."""
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)|(@)")
"""What readers of Markdown make links of by themselves."""

LINKED_SCHEMES = frozenset({"http", "https"})
"""Addresses that are links; others (`javascript:`, `file:`) are only told."""

SAFE_IN_A_LINK = "/:?&=%+,;@#!$'*~-._"


def escaped(text: str) -> str:
    """Text of several lines, each on a line of its own; blank lines stay blank."""
    lines = [_line(line) for line in _NEW_LINE.split(text)]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    told = []
    for index, line in enumerate(lines):
        goes_on = line and index + 1 < len(lines) and lines[index + 1]
        told.append(line + "\\" if goes_on else line)  # a backslash at the end keeps the break
    return "\n".join(told)


def escaped_line(text: str) -> str:
    """Text in one line: line breaks are shown as symbols."""
    return _line(_NEW_LINE.sub("\u2424", text))


def fenced(text: str, language: str) -> str:
    """Text between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = _NEW_LINE.sub("\n", text)
    return f"{fence}{language}\n{_printable(shown)}\n{fence}"


def as_link(url: str) -> str:
    """An address as a link, where it is one of the web's; else as text."""
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
    indent = shown[:indented].replace("\t", "    ").replace(" ", "\u00a0")  # an indented line would be code
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
    """Control characters as symbols: a transcript is read on terminals, too."""
    return "".join(
        _symbol(each) if each not in "\n\t" and unicodedata.category(each) == "Cc" else each for each in text
    )


def _symbol(character: str) -> str:
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\ufffd"
