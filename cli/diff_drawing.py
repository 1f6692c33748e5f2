"""Draw differences: `-` for removed, `+` for added and `~` for changed text. Unchanged entries are counted in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from .output import counted, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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
        told = "; ".join(filter(None, [entry.where, entry.reason]))
        head.append(f"  {printable(told, lines=False)}", style="not bold dim")
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
        went, came = printable("".join(old[o1:o2]), lines=False), printable("".join(new[n1:n2]), lines=False)
        if not changed:
            line.append(came, style="default")
            continue
        if went:
            line.append(f"[-{went}-]", style=STYLES["-"])
        if came:
            line.append(f"{{+{came}+}}", style=STYLES["+"])
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
