"""Implement `--unchecked`: read changed events instead of refusing them, and name them on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .main import Exit, print_message
from .output import counted

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger

CHANGED_SHOWN_MAX = 5
"""Maximum number of changed events that are named."""


def uncheck(ledger: Ledger) -> Callable[[], int]:
    """Allow a ledger to read changed events; return a function that names them and returns the exit code."""
    from threadledger.domain.conversation import key_of

    found: dict[tuple[str | None, int | None, int | None], str] = {}

    def report(stream: str | None, version: int | None, position: int | None, problem: str) -> None:
        found[stream, version, position] = problem

    def result() -> int:
        for (stream, version, position), problem in list(found.items())[:CHANGED_SHOWN_MAX]:
            key = "?" if not isinstance(stream, str) else repr(key_of(stream))
            print_message(f"UNCHECKED: event {version or '?'} of {key} (position {position or '?'}) {problem}")
        if found:
            print_message(f"{counted(len(found), 'damaged event')}: list all damage with: threadledger db check")
        return Exit.FOUND_SOMETHING if found else Exit.DONE

    ledger.journal.uncheck(report)
    return result
