"""Implement `threadledger diff`, which compares a memory at two times, or with its thread item by item.

Differences are drawn with `-` for removed, `+` for added and `~` for changed text. Unchanged entries are counted in one
line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import click

from .main import IN_KEY, Exit, MomentParameter, common, invocation, opened
from .output import console, counted, emit_many, note, short_thread
from .terminal import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from threadledger.domain.ledger import Ledger
    from threadledger.domain.memory import MemoryChange, MemoryDiff
    from threadledger.domain.threads import Difference, SideBySide, ThreadItem

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
@IN_KEY
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
        raise click.UsageError("pass either a range A..B or --thread", click.get_current_context())
    if to is not None and not with_thread:
        raise click.UsageError("--to requires --thread", click.get_current_context())
    with opened(reads=True, sends=with_thread) as ledger:
        if range_ is not None:
            return _between(ledger, key, range_)

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
        note(f"version {found.before} and version {found.after} have the same memory: {all_of_it}")
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
    fields = change.as_json()
    moved = f"moved from place {fields['place_before']} to {fields['place_after']}" if change.change == "moved" else ""
    written = f"journaled at version {fields['version']}"
    reason = "" if fields["reason"] == written else fields["reason"] or moved
    return Drawn(MARKS[change.change], str(fields["role"]), written, fields["before"], fields["after"], reason)


THREAD_MARKS = {"missing": "-", "extra": "+", "different": "~"}

KIND_NAMES = {"message": "", "tool_call": "calls ", "tool_result": "result"}


def against_thread(ledger: Ledger, key: str, to: str | None) -> int:
    """Show where the threads of a conversation differ from the journal, and return exit code 4 if one does."""
    from threadledger.domain.effects import perform
    from threadledger.domain.threads import differences

    rows: list[dict[str, Any]] = []
    for name, kind in ledger.replay.places([key], to):
        side = perform(ledger.replay.verifier.reading(name, kind))
        found = differences(side.journal, side.thread or ())
        place = {"backend": kind, "thread_id": side.verification.thread_id}
        rows += [place | each.as_json() for each in found]
        if invocation().output == "table":
            _draw_thread(side, found)
    if invocation().output != "table":
        emit_many(rows, ())
    return Exit.FOUND_SOMETHING if rows else Exit.DONE


def _draw_thread(side: SideBySide, found: Sequence[Difference]) -> None:
    from rich.text import Text

    result, thread = side.verification, side.thread
    name = (
        f"{result.backend} thread {short_thread(result.thread_id)}" if result.thread_id else f"{result.backend} threads"
    )
    if thread is not None and not found:
        note(f"{name} matches the journal: {counted(len(thread), 'item')}")
        return
    drawn = console()
    drawn.print(Text(f"{printable(result.key, lines=False)}  the journal against its {name}", style="bold"))
    if thread is None:
        why = f"{result.found.state.value}{': ' if result.reason else ''}{printable(result.reason, lines=False)}"
        missing = counted(len(side.journal), "item")
        drawn.print(Text(f"- everything, {missing}: there is no thread to read ({why})", style="red"))
    else:
        draw(drawn, _thread_entries(found, len(side.journal)), "item")
    rewrite = f"threadledger replay rebuild {shlex.quote(result.key)}"
    note(f"- only in the journal, + only in the thread; rewrite the thread with: {rewrite}")


def _thread_entries(found: Sequence[Difference], journal: int) -> Iterator[Drawn | int]:
    """Yield the differences, and between them the number of unchanged entries."""
    j = t = 0
    for each in found:
        same = each.journal_place - j - 1 if each.journal_place is not None else (each.thread_place or 0) - t - 1
        yield same
        j, t = j + same + (each.journal is not None), t + same + (each.thread is not None)
        yield _drawn_item(each)
    yield journal - j


def _drawn_item(difference: Difference) -> Drawn:
    journal, thread = difference.journal, difference.thread
    places = [f"place {difference.journal_place}"] if journal is not None else []
    places += [f"place {difference.thread_place} of the thread"] if thread is not None else []
    version = [f"journaled at version {difference.version}"] if difference.version else []
    who = [_who(each) for each in (journal, thread) if each is not None]
    return Drawn(
        THREAD_MARKS[difference.change],
        " → ".join(dict.fromkeys(who)),
        "; ".join(places + version),
        journal.content if journal is not None else None,
        thread.content if thread is not None else None,
    )


def _who(item: ThreadItem) -> str:
    return f"{KIND_NAMES.get(item.kind, item.kind + ' ')}{item.name}".strip()


STYLES = {"-": "red", "+": "green", "~": "yellow"}

WORDS_COMPARED_MAX = 2_000
"""Maximum words and spaces of a text that are compared one by one; longer texts are compared line by line."""

ALIKE_MIN = 0.4
"""Minimum similarity of two texts (0 to 1) for marking changed words within one line."""

SAME_LINES_SHOWN = 1
"""Number of unchanged lines shown before and after changed ones."""


@dataclass(frozen=True)
class Drawn:
    """Represent one difference: its mark, role and place, and the text before and after (None if there is none)."""

    mark: str
    who: str
    where: str
    before: str | None
    after: str | None
    reason: str = ""


def draw(console: Console, entries: Iterable[Drawn | int], what: str = "message") -> None:
    """Print differences in order; an integer entry is a number of unchanged entries."""
    from rich.text import Text

    for entry in entries:
        if isinstance(entry, int):
            if entry:
                console.print(Text(f"  {counted(entry, what)} unchanged", style="dim"))
            continue
        head = Text(f"{entry.mark} {printable(entry.who, lines=False)}", style=f"bold {STYLES[entry.mark]}")
        details = "; ".join(filter(None, [entry.where, entry.reason]))
        head.append(f"  {printable(details, lines=False)}", style="not bold dim")
        console.print(head, soft_wrap=True)
        for line in _text_of(entry):
            console.print(line, soft_wrap=True)


def _text_of(entry: Drawn) -> Iterator[Text]:
    if entry.before is not None and entry.after is not None and entry.before != entry.after:
        yield from _changed(entry.before, entry.after)
    elif entry.mark != "~":
        yield from _whole(entry.before if entry.after is None else entry.after, entry.mark)


def _whole(text: str | None, mark: str) -> Iterator[Text]:
    from rich.text import Text

    for line in printable(text or "").split("\n") if text else ():
        yield Text(f"{mark}   {line}", style=STYLES[mark])


def _changed(before: str, after: str) -> Iterator[Text]:
    """Yield the lines of a changed text.

    A single line is compared word by word, several lines line by line. Texts with little in common are shown whole.
    """
    if "\n" in before or "\n" in after:
        yield from _by_line(before.split("\n"), after.split("\n"))
        return
    old, new = _words(before), _words(after)
    if max(len(old), len(new)) > WORDS_COMPARED_MAX:
        yield from _by_line([before], [after])
        return
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < ALIKE_MIN:
        yield from _by_line([before], [after])
        return
    yield _by_word(matcher, old, new)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)


def _by_word(matcher: SequenceMatcher[str], old: list[str], new: list[str]) -> Text:
    from rich.text import Text

    line = Text("~   ", style=STYLES["~"])
    for changed, o1, o2, n1, n2 in _stretches(matcher, new):
        removed, added = printable("".join(old[o1:o2]), lines=False), printable("".join(new[n1:n2]), lines=False)
        if not changed:
            line.append(added, style="default")
            continue
        if removed:
            line.append(f"[-{removed}-]", style=STYLES["-"])
        if added:
            line.append(f"{{+{added}+}}", style=STYLES["+"])
    return line


def _stretches(matcher: SequenceMatcher[str], new: list[str]) -> list[tuple[bool, int, int, int, int]]:
    """Return (changed, old start, old end, new start, new end) for each stretch of words.

    A space between two changes belongs to them.
    """
    found: list[tuple[bool, int, int, int, int]] = []
    codes = matcher.get_opcodes()
    for number, (operation, o1, o2, n1, n2) in enumerate(codes):
        between = 0 < number < len(codes) - 1 and "".join(new[n1:n2]).isspace()
        changed = operation != "equal" or between
        if found and found[-1][0] and changed:
            found[-1] = (True, found[-1][1], o2, found[-1][3], n2)
        else:
            found.append((changed, o1, o2, n1, n2))
    return found


def _by_line(old: list[str], new: list[str]) -> Iterator[Text]:
    from rich.text import Text

    for operation, o1, o2, n1, n2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if operation == "equal":
            same = [Text(f"    {printable(line)}") for line in new[n1:n2]]
            if len(same) > 2 * SAME_LINES_SHOWN + 1:
                hidden = counted(len(same) - 2 * SAME_LINES_SHOWN, "line")
                same[SAME_LINES_SHOWN:-SAME_LINES_SHOWN] = [Text(f"    ... {hidden} unchanged", style="dim")]
            yield from same
            continue
        yield from (Text(f"-   {printable(line)}", style=STYLES["-"]) for line in old[o1:o2])
        yield from (Text(f"+   {printable(line)}", style=STYLES["+"]) for line in new[n1:n2])
