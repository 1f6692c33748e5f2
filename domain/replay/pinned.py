"""Hold the keys and versions of the conversations of a plan in little memory, because a ledger may have a million."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

SORTED_AT_ONCE = 2_000
"""Number of keys that are sorted at once: until then, each takes about ten times the memory."""


class Pinned:
    """Hold the keys of conversations, each with its version when the plan was made: about 10 bytes besides the key."""

    def __init__(self, *parts: Sequence[tuple[str, int]]) -> None:
        """Keep these parts, which are merged when they are read: each must be sorted if there are several."""
        self._parts = [_PinnedPart(each) for each in parts]

    @classmethod
    def in_order(cls, pairs: Iterable[tuple[str, int]]) -> Pinned:
        """Return pairs of key and version, sorted by key."""
        remaining, pinned = iter(pairs), cls()
        while part := sorted(islice(remaining, SORTED_AT_ONCE)):
            pinned._parts.append(_PinnedPart(part))
        return pinned

    def __len__(self) -> int:
        return sum(len(part.versions) for part in self._parts)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._parts[0]) if len(self._parts) == 1 else merge(*self._parts)


class _PinnedPart:
    def __init__(self, pairs: Sequence[tuple[str, int]]) -> None:
        texts = [key.encode(errors="surrogatepass") for key, _ in pairs]
        self._keys, self._sizes = b"".join(texts), array("I", map(len, texts))
        self.versions = array("q", (version for _, version in pairs))

    def __iter__(self) -> Iterator[tuple[str, int]]:
        begin = 0
        for size, version in zip(self._sizes, self.versions, strict=True):
            yield self._keys[begin : begin + size].decode(errors="surrogatepass"), version
            begin += size
