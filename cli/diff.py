"""Implement `threadledger diff`, which compares a memory at two times, or with its thread."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from .diff_drawing import Drawn, draw
from .exits import Exit
from .invocation import KEY, MomentParameter, common, complete_keys, invocation, opened
from .output import console, counted, emit_many, note, printable

if TYPE_CHECKING:
    from threadledger.domain import Ledger, MemoryChange, MemoryDiff

MARKS = {"went": "-", "came": "+", "moved": "~", "different": "~"}

Moment = datetime | int | None
Range = tuple[Moment, Moment]


class RangeParameter(click.ParamType[Range]):
    """Parse a range `A..B` of versions or times; without A it starts at the beginning, without B it ends now."""

    name = "range"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Range:
        """Return both moments, None for one that is omitted, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        first, dots, last = str(value).partition("..")
        if not dots or last.startswith(".") or ".." in last:
            self.fail(
                f"{value!r} is not a range: give A..B, each a version or a time (`A..` ends now, `..B` starts at the "
                "beginning).",
                param,
                ctx,
            )
        return self._moment(first, param, ctx), self._moment(last, param, ctx)

    def _moment(self, given: str, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        if not given:
            return None
        try:
            return MomentParameter(versions=True).convert(given, param, ctx)
        except ValueError:  # not a number, or more digits than Python converts
            self.fail(f"{given[:40]!r} is not a version: give a whole number.", param, ctx)


@click.command()
@click.argument("key", type=KEY, shell_complete=complete_keys)
@click.argument("range_", metavar="[A..B]", type=RangeParameter(), required=False)
@click.option("--thread", "with_thread", is_flag=True, help="Compare the journal with the thread at the provider.")
@click.option("--to", type=click.Choice(["conversations", "assistants"]), help="With --thread: the kind of thread.")
@common
def diff(key: str, range_: Range | None, with_thread: bool, to: str | None) -> int:
    """Compare the memory of KEY as of A and as of B, message by message, or compare it with its thread.

    A and B are versions or times (ISO 8601, or 24h, 7d): A.. ends now, ..B starts at the beginning. Nothing is written.
    Exit 4 if there are differences.
    """
    if with_thread == (range_ is not None):
        raise click.UsageError("give either a range A..B or --thread", click.get_current_context())
    if to is not None and not with_thread:
        raise click.UsageError("--to requires --thread", click.get_current_context())
    with opened() as ledger:
        if range_ is not None:
            return _between(ledger, key, range_)
        from .diff_thread import against_thread

        return against_thread(ledger, key, to)


def _between(ledger: Ledger, key: str, moments: Range) -> int:
    found = ledger.diff(key, *moments)
    if invocation().output != "table":
        emit_many((each.as_json() for each in found.changes), ())
    else:
        _draw(found)
    return Exit.DONE if found.same else Exit.FOUND_SOMETHING


def _draw(found: MemoryDiff) -> None:
    if found.same:
        all_of_it = counted(len(found.entries), "message")
        note(f"version {found.before} and version {found.after} give a model the same memory: {all_of_it}")
        return
    from rich.text import Text

    drawn = console()
    title = f"{printable(found.key, lines=False)}  version {found.before} against version {found.after}"
    drawn.print(Text(title, style="bold"))
    draw(drawn, _entries(found))


def _entries(found: MemoryDiff) -> Iterator[Drawn | int]:
    same = 0
    for each in found.entries:
        if each.change == "same":
            same += 1
            continue
        yield same
        same = 0
        yield _drawn(each)
    yield same


def _drawn(change: MemoryChange) -> Drawn:
    told = change.as_json()
    moved = f"moved from place {told['place_before']} to {told['place_after']}" if change.change == "moved" else ""
    written = f"journaled at version {told['version']}"
    reason = "" if told["reason"] == written else told["reason"] or moved
    return Drawn(MARKS[change.change], str(told["role"]), written, told["before"], told["after"], reason)
