"""Differences drawn for people: `-` what went, `+` what came, `~` what changed, in colours where there are any; what is
the same is folded into one line."""

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
"""Words and spaces of a text that are compared one by one; longer texts are compared line by line."""

ALIKE_MIN = 0.4
"""How much of two texts has to be the same for the words that changed to be shown within one of them."""

SAME_LINES_SHOWN = 1
"""Unchanged lines that are shown beside changed ones."""


@dataclass(frozen=True)
class Drawn:
    """One difference: its mark, who speaks and where, the text before and the text after (None: there was none)."""

    mark: str
    who: str
    where: str
    before: str | None
    after: str | None
    reason: str = ""


def draw(console: Console, entries: Iterable[Drawn | int], what: str = "message") -> None:
    """Differences in their order; a number stands for so many of what is compared that are the same."""
    from rich.text import Text

    for entry in entries:
        if isinstance(entry, int):
            if entry:
                console.print(Text(f"  {counted(entry, what)} the same", style="dim"))
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
    """A text that changed: word by word in one line, line by line in several; two that have little in common as wholes."""
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
    """(whether it changed, from where to where in the old words and in the new) one after the other; a space between two
    changes belongs to them."""
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
                same[SAME_LINES_SHOWN:-SAME_LINES_SHOWN] = [Text(f"    ... {hidden} the same", style="dim")]
            yield from same
            continue
        yield from (Text(f"-   {printable(line)}", style=STYLES["-"]) for line in old[o1:o2])
        yield from (Text(f"+   {printable(line)}", style=STYLES["+"]) for line in new[n1:n2])
