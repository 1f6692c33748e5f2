"""Convert text to folded words for search; the databases do not do this, because their results would differ.

Case, accents and other marks are ignored. In scripts without spaces between words, each character is a word, and a word
is found as a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from threadledger.domain import InvalidInput

SEARCH_TEXT_CHARS_MAX = 100_000
"""Number of characters at the beginning of a message that are indexed.

PostgreSQL limits a tsvector to less than 1 MiB, and 100,000 different Chinese characters take 800 kB. PostgreSQL finds
phrases only among the first 16,383 words, and only in the first 255 occurrences of a word.
"""

WORD_CHARS_MAX = 200
"""Maximum length of a word; the rest is ignored. PostgreSQL limits a lexeme to less than 2 KiB."""

SEARCH_WORDS_MAX = 500
"""Maximum number of words in one search."""

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
"""Soft hyphen, Arabic tatweel and zero-width joiner: characters within a word that are ignored."""


class _Folding(dict[int, str]):
    """Map each character on first use: keep letters and digits, remove marks, and replace anything else by a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if code in _NOT_THERE or (kind == "M" and unicodedata.combining(character)):
            folded = ""
        elif kind not in "LNM":
            folded = " "
        elif any(first <= code <= last for first, last in _SPACELESS):
            folded = f" {character} "
        else:  # marks without a combining class are vowels (Devanagari, Tamil, …) and distinguish words
            folded = character
        self[code] = folded
        return folded


_FOLDING = _Folding()
_TERMS = re.compile(r'"([^"]*)"|(\S+)')


def words_of(text: str) -> list[str]:
    """Return the folded words of a text, within the limits of the index."""
    text = text[:SEARCH_TEXT_CHARS_MAX]
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKD", text).casefold()
    words = text.translate(_FOLDING)[:SEARCH_TEXT_CHARS_MAX].split()
    if len(max(words, key=len, default="")) > WORD_CHARS_MAX:
        words = [word[:WORD_CHARS_MAX] for word in words]
    return words


def phrases_of(search: str) -> Sequence[Sequence[str]]:
    """Parse a search into phrases of folded words; the last word of each phrase matches as a prefix.

    Terms are separated by white space; text in double quotes is one phrase. No other character has a special meaning.

    Raises:
        InvalidInput: the search has more than `SEARCH_WORDS_MAX` words.
    """
    phrases = [words_of(quoted or plain) for quoted, plain in _TERMS.findall(search)]
    count = sum(map(len, phrases))
    if count > SEARCH_WORDS_MAX:
        raise InvalidInput(f"a search of {count} words is too long: use at most {SEARCH_WORDS_MAX}")
    return [phrase for phrase in phrases if phrase]
