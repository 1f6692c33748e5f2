"""Text as it is searched: folded to plain words here, and not by the databases, which would not agree.

Case, accents and other marks do not count. Characters of scripts that set no spaces between words are words of their own; a
word of such a script is then found as a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from threadledger.domain import InvalidInput

SEARCH_TEXT_CHARS_MAX = 100_000
"""Characters of a message that are searched, from its beginning. PostgreSQL's tsvector holds less than 1 MiB: 100,000
different Chinese characters take 800 kB of it. Of these, it finds words that stand together (phrases) only among the first
16,383 words, and the first 255 times that a word is there."""

WORD_CHARS_MAX = 200
"""Characters of one word; the rest does not count. A lexeme of PostgreSQL holds less than 2 KiB."""

SEARCH_WORDS_MAX = 500
"""Words in one search."""

_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # Chinese characters
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_NOT_THERE = {0x00AD, 0x0640, 0x200D}
"""Soft hyphen, Arabic tatweel, zero-width joiner: they stand within a word and say nothing."""


class _Folding(dict[int, str]):
    """What becomes of each character, found out at its first use: a letter or digit stays, a mark goes, all else parts words."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if code in _NOT_THERE or (kind == "M" and unicodedata.combining(character)):
            folded = ""
        elif kind not in "LNM":
            folded = " "
        elif any(first <= code <= last for first, last in _SPACELESS):
            folded = f" {character} "
        else:  # marks without a combining class are vowels (Devanagari, Tamil, …): without them the word is another one
            folded = character
        self[code] = folded
        return folded


_FOLDING = _Folding()
_TERMS = re.compile(r'"([^"]*)"|(\S+)')


def words_of(text: str) -> list[str]:
    """The words of a text, folded, as far as they are searched."""
    text = text[:SEARCH_TEXT_CHARS_MAX]
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKD", text).casefold()
    words = text.translate(_FOLDING)[:SEARCH_TEXT_CHARS_MAX].split()
    if len(max(words, key=len, default="")) > WORD_CHARS_MAX:
        words = [word[:WORD_CHARS_MAX] for word in words]
    return words


def phrases_of(search: str) -> Sequence[Sequence[str]]:
    """What is searched for: phrases of folded words, of which the last may be the beginning of one.

    Terms are parted by white space; those in double quotes stand together. No sign has any other meaning.

    Raises:
        InvalidInput: the search is too long.
    """
    phrases = [words_of(quoted or plain) for quoted, plain in _TERMS.findall(search)]
    count = sum(map(len, phrases))
    if count > SEARCH_WORDS_MAX:
        raise InvalidInput(f"a search of {count} words is too long: give at most {SEARCH_WORDS_MAX}")
    return [phrase for phrase in phrases if phrase]
