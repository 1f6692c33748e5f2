"""Cut the part of a text out that matches a search, and mark the matching words in it.

A text is folded character by character as the index folds it whole, so that each word has its place in the original.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from .search import FOLDING, SEARCH_TEXT_CHARS_MAX, WORD_CHARS_MAX

SNIPPET_CHARS = 160
"""Length of a snippet, in characters."""

_BEFORE_CHARS = 40
"""Number of characters before the first match, at most."""

Span = tuple[int, int]


class _Folded(dict[str, str]):
    """Map each character on first use to what the index has of it: letters and digits, and spaces between words."""

    def __missing__(self, character: str) -> str:
        folded = unicodedata.normalize("NFKD", character).casefold().translate(FOLDING)
        self[character] = folded
        return folded


_FOLDED = _Folded()


def snippet_of(text: str, phrases: Sequence[Sequence[str]]) -> tuple[str, list[Span]]:
    """Return the part of a text around its first match, and the places of all matching words in it.

    White space is shown as spaces, so that a snippet is one line. Without a match, the part is the beginning of the text.
    """
    text = text[:SEARCH_TEXT_CHARS_MAX]
    words: list[tuple[str, int, int]] = []
    found: list[Span] = []
    for word in _words(text):
        words.append(word)
        if found and word[1] > found[0][0] + SNIPPET_CHARS:
            break
        found += (span for phrase in phrases for span in _ending(words, phrase))
    first = min(found, default=(0, 0))[0]
    begin = 0
    if first > _BEFORE_CHARS:  # at the beginning of a word
        begin = next((start for _, start, _ in words if first - _BEFORE_CHARS <= start <= first), first)
    end = begin + SNIPPET_CHARS
    shown = "".join(" " if each.isspace() else each for each in text[begin:end])
    return shown, _merged((max(start, begin) - begin, min(last, end) - begin) for start, last in found if start < end)


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the folded words of a text, each with its place."""
    word, start, end = "", 0, 0
    for place, character in enumerate(text):
        for piece in _FOLDED[character]:
            if piece == " ":
                if word:
                    yield word[:WORD_CHARS_MAX], start, end
                word = ""
            else:
                if not word:
                    start = place
                word += piece
                end = place + 1
        if word and not _FOLDED[character]:  # a mark, which belongs to its word
            end = place + 1
    if word:
        yield word[:WORD_CHARS_MAX], start, end


def _ending(words: Sequence[tuple[str, int, int]], phrase: Sequence[str]) -> Iterator[Span]:
    """Yield the places of the words of a phrase that ends with the last word, which may be longer."""
    last = words[-len(phrase) :]
    is_whole = len(last) == len(phrase) and [word for word, _, _ in last[:-1]] == [*phrase[:-1]]
    if is_whole and last[-1][0].startswith(phrase[-1]):
        yield from ((start, end) for _, start, end in last)


def _merged(spans: Iterator[Span]) -> list[Span]:
    """Return the places in order, each once; words without a space between them are one place."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
