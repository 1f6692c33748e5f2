"""Ids that look like the provider's, never repeat, and are the same again for the same seed."""

import hashlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHORT_ID_CHARS = 24  # the Assistants surface, tool calls
LONG_ID_CHARS = 48  # conversations, responses and their items: hexadecimal


class Seeded:
    """A deterministic source of ids and of chances: a counter hashed together with the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0

    def short(self, prefix: str) -> str:
        """`thread_` and 24 letters and digits."""
        return prefix + "".join(ALPHABET[byte % len(ALPHABET)] for byte in self._next()[:SHORT_ID_CHARS])

    def long(self, prefix: str) -> str:
        """`conv_` and 48 hexadecimal digits."""
        return prefix + self._next().hex()[:LONG_ID_CHARS]

    def chance(self) -> float:
        """A number from 0 up to, but not including, 1."""
        return int.from_bytes(self._next()[:6], "big") / 2**48

    def _next(self) -> bytes:
        self.count += 1
        return hashlib.sha256(f"{self.seed}/{self.count}".encode()).digest()
