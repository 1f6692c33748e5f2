"""Compare the journal with the provider's thread item by item, for `threadledger diff KEY --thread`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .diff_drawing import Drawn, draw
from .exits import Exit
from .invocation import invocation
from .output import console, counted, emit_many, note, printable, short_thread

if TYPE_CHECKING:
    from threadledger.domain import Difference, Ledger, SideBySide, ThreadItem

MARKS = {"missing": "-", "extra": "+", "different": "~"}

KIND_NAMES = {"message": "", "tool_call": "calls ", "tool_result": "result"}


def against_thread(ledger: Ledger, key: str, to: str | None) -> int:
    """Show where the threads of a conversation differ from the journal, and return exit code 4 if one does."""
    from threadledger.domain import differences, perform

    rows: list[dict[str, Any]] = []
    for name, kind in ledger.replay.places([key], to):
        side = perform(ledger.replay.verifier.reading(name, kind))
        found = differences(side.journal, side.thread or ())
        place = {"backend": kind, "thread_id": side.verification.thread_id}
        rows += [place | each.as_json() for each in found]
        if invocation().output == "table":
            _draw(side, found)
    if invocation().output != "table":
        emit_many(rows, ())
    return Exit.FOUND_SOMETHING if rows else Exit.DONE


def _draw(side: SideBySide, found: Sequence[Difference]) -> None:
    from rich.text import Text

    told, thread = side.verification, side.thread
    name = f"{told.backend} thread {short_thread(told.thread_id)}" if told.thread_id else f"{told.backend} threads"
    if thread is not None and not found:
        note(f"{name} matches the journal: {counted(len(thread), 'item')}")
        return
    drawn = console()
    drawn.print(Text(f"{printable(told.key, lines=False)}  the journal against its {name}", style="bold"))
    if thread is None:
        why = f"{told.found.state.value}{': ' if told.reason else ''}{printable(told.reason, lines=False)}"
        missing = counted(len(side.journal), "item")
        drawn.print(Text(f"- everything, {missing}: there is no thread to read ({why})", style="red"))
    else:
        draw(drawn, _entries(found, len(side.journal)), "item")
    note("- only in the journal, + only in the thread; rewrite the thread with: threadledger replay rebuild KEY")


def _entries(found: Sequence[Difference], journal: int) -> Iterator[Drawn | int]:
    """Yield the differences, and between them the number of unchanged entries."""
    j = t = 0
    for each in found:
        same = each.journal_place - j - 1 if each.journal_place is not None else (each.thread_place or 0) - t - 1
        yield same
        j, t = j + same + (each.journal is not None), t + same + (each.thread is not None)
        yield _drawn(each)
    yield journal - j


def _drawn(difference: Difference) -> Drawn:
    journal, thread = difference.journal, difference.thread
    places = [f"place {difference.journal_place}"] if journal is not None else []
    places += [f"place {difference.thread_place} of the thread"] if thread is not None else []
    version = [f"journaled at version {difference.version}"] if difference.version else []
    who = [_who(each) for each in (journal, thread) if each is not None]
    return Drawn(
        MARKS[difference.change],
        " → ".join(dict.fromkeys(who)),
        "; ".join(places + version),
        journal.content if journal is not None else None,
        thread.content if thread is not None else None,
    )


def _who(item: ThreadItem) -> str:
    return f"{KIND_NAMES.get(item.kind, item.kind + ' ')}{item.name}".strip()
