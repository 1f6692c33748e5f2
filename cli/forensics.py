"""Implement `--unchecked`: read changed events instead of refusing them, and name them on stderr."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .main import Exit, print_message
from .output import counted

if TYPE_CHECKING:
    from threadledger.domain.ledger import Ledger

CHANGED_SHOWN_MAX = 5
"""Maximum number of changed events that are named."""


def uncheck(ledger: Ledger, problems: Sequence[str] = ()) -> Callable[[], int]:
    """Allow a ledger to read changed events; return a function that names them and returns the exit code.

    `problems` are those of attachments, which are named too.
    """
    from threadledger.domain.conversation import key_of

    found: dict[tuple[str | None, int | None, int | None], str] = {}

    def report(stream: str | None, version: int | None, position: int | None, problem: str) -> None:
        found[stream, version, position] = problem

    def result() -> int:
        for (stream, version, position), problem in list(found.items())[:CHANGED_SHOWN_MAX]:
            key = "?" if not isinstance(stream, str) else repr(key_of(stream))
            print_message(f"UNCHECKED: event {version or '?'} of {key} (position {position or '?'}) {problem}")
        for problem in problems[:CHANGED_SHOWN_MAX]:
            print_message(f"UNCHECKED: {problem}")
        if found or problems:
            damaged = [counted(len(found), "damaged event")] if found else []
            damaged += [counted(len(problems), "damaged attachment")] if problems else []
            print_message(f"{' and '.join(damaged)}: list all damage with: threadledger db check")
        return Exit.FOUND_SOMETHING if found or problems else Exit.DONE

    ledger.journal.uncheck(report)
    return result
