"""Align two sequences by their longest common subsequence, computed with the bits of large integers.

It is equally fast whether two long sequences have nothing in common, repeat the same few entries, or are almost equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from math import isqrt

Block = tuple[int, int, int, int]
"""Difference between two sequences: left[l1:l2] takes the place of right[r1:r2]. One of the two may be empty."""


def differing(left: Sequence[Hashable], right: Sequence[Hashable]) -> Iterator[Block]:
    """Yield the blocks in which two sequences differ, in order, never adjacent, and as small as possible."""
    l1 = r1 = 0
    for place, other in (*_matches(left, right), (len(left), len(right))):
        if (l1, r1) != (place, other):
            yield l1, place, r1, other
        l1, r1 = place + 1, other + 1


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """Return how many entries are equal from the start."""
    length = 0
    for mine, theirs in zip(left, right, strict=False):
        if mine != theirs:
            break
        length += 1
    return length


def _matches(left: Sequence[Hashable], right: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield (place in left, place in right) for the entries of a longest common subsequence."""
    start, ending = _equal_ends(left, right)
    yield from ((place, place) for place in range(start))
    numbers: dict[Hashable, int] = {}  # entries are compared here alone: the rest works with numbers
    ones = [numbers.setdefault(entry, len(numbers)) for entry in left[start : len(left) - ending]]
    others = [numbers.setdefault(entry, len(numbers)) for entry in right[start : len(right) - ending]]
    shared = set(ones).intersection(others)
    mine = [place for place, number in enumerate(ones) if number in shared]
    theirs = [place for place, number in enumerate(others) if number in shared]
    for one, other in _longest_between_ends([ones[place] for place in mine], [others[place] for place in theirs]):
        yield start + mine[one], start + theirs[other]
    yield from ((len(left) - back, len(right) - back) for back in range(ending, 0, -1))


def _equal_ends(left: Sequence[object], right: Sequence[object]) -> tuple[int, int]:
    """Return how many entries are equal from the start, and how many of the others from the end."""
    start = common_prefix(left, right)
    return start, common_prefix(left[start:][::-1], right[start:][::-1])


def _longest_between_ends(left: Sequence[int], right: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the places of a longest common subsequence; rows are only made of what is between the equal ends.

    Entries that only one side has separated these ends before: without them, the rest of two threads is often equal.
    """
    start, ending = _equal_ends(left, right)
    yield from ((place, place) for place in range(start))
    for one, other in _longest(left[start : len(left) - ending], right[start : len(right) - ending]):
        yield start + one, start + other
    yield from ((len(left) - back, len(right) - back) for back in range(ending, 0, -1))


def _longest(left: Sequence[Hashable], right: Sequence[Hashable]) -> Sequence[tuple[int, int]]:
    """Return the places of a longest common subsequence, after Crochemore and others (2001).

    A row is one integer with a bit for each entry of `left`: a bit that is 0 says that the longest common subsequence
    grows there. Some rows are kept, and the others are computed again on the way back: keeping a row for each entry
    would take a gigabyte for two threads that hold the same 100,000 entries in different orders.
    """
    places: dict[Hashable, int] = {}
    for place, entry in enumerate(left):
        places[entry] = places.get(entry, 0) | 1 << place
    step = isqrt(len(right)) + 1
    kept = [(1 << len(left)) - 1]
    for start in range(0, len(right) - step, step):
        kept.append(_rows(kept[-1], places, right[start : start + step], len(left))[-1])
    found: list[tuple[int, int]] = []
    one = len(left)
    for number in range(len(kept) - 1, -1, -1):
        rows = _rows(kept[number], places, right[number * step : (number + 1) * step], len(left))
        other = len(rows) - 1
        while one and other:
            bit = 1 << (one - 1)
            if rows[other] & bit:
                one -= 1
            elif not rows[other - 1] & bit:
                other -= 1
            else:
                one, other = one - 1, other - 1
                found.append((one, number * step + other))
    return found[::-1]


def _rows(first: int, places: dict[Hashable, int], right: Sequence[Hashable], width: int) -> list[int]:
    """Return `first` and the rows after it, one for each entry."""
    whole = (1 << width) - 1
    rows = [first]
    for entry in right:
        row = rows[-1]
        met = row & places.get(entry, 0)
        rows.append(((row + met) | (row - met)) & whole)
    return rows
