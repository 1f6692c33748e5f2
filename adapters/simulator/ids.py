"""Generate ids that look like the provider's, never repeat, and are reproducible from a seed."""

from __future__ import annotations

import hashlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHORT_ID_CHARS = 24  # Assistants API, tool calls
LONG_ID_CHARS = 48  # conversations, responses and their items: hexadecimal


class SeededIds:
    """Generate ids and random numbers deterministically, by hashing a counter together with the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0

    def short(self, prefix: str) -> str:
        """Return the prefix followed by 24 letters and digits, as in `thread_…`."""
        return prefix + "".join(ALPHABET[byte % len(ALPHABET)] for byte in self._next()[:SHORT_ID_CHARS])

    def long(self, prefix: str) -> str:
        """Return the prefix followed by 48 hexadecimal digits, as in `conv_…`."""
        return prefix + self._next().hex()[:LONG_ID_CHARS]

    def chance(self) -> float:
        """Return a number from 0 up to, but not including, 1."""
        return int.from_bytes(self._next()[:6], "big") / 2**48

    def _next(self) -> bytes:
        self.count += 1
        return hashlib.sha256(f"{self.seed}/{self.count}".encode()).digest()
