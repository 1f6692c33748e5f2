"""Write ids, times and counts as people read them."""

from __future__ import annotations

ID_ENDING_CHARS = 8
"""Last characters of the id of a run or job, by which people name it."""


def short(run_id: str | None) -> str:
    """Return the ending of a run id, which every command accepts instead of the whole id."""
    return run_id[-ID_ENDING_CHARS:] if run_id else ""


def counted(number: int, word: str) -> str:
    """Return a number with its noun, such as `1 thread` or `2 threads`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def clock(at: str) -> str:
    """Return an ISO 8601 time in readable form, to the second."""
    return at[:19].replace("T", " ")
