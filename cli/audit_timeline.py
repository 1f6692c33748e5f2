"""Draw the runs of an exchange as bars on one time scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .output import WIDE_TERMINAL, clock, printable, short
from .plots import span

if TYPE_CHECKING:
    from rich.console import Console

BAR_CHARS_MAX, NARROW_BAR_CHARS_MAX = 48, 24
"""Characters for the whole exchange, on a wide and on a narrow terminal."""

PAUSE_SHOWN_MAX = 3.0
"""Longest pause drawn to scale, as a multiple of the duration of all runs together. A longer pause is printed as text,
because a rerun may follow days later."""

STYLES = {"completed": "green", "failed": "red", "open": "yellow"}


@dataclass(frozen=True)
class Placed:
    """Represent a run on the time scale: its start after the first run and its duration, in seconds.

    `pause` is a long pause before the run that is not drawn to scale, in seconds.
    """

    run: dict[str, Any]
    begin: float
    seconds: float
    pause: float = 0.0


def placed(runs: Sequence[dict[str, Any]], until: str) -> list[Placed]:
    """Place the runs of `audit show` on one time scale; an open run lasts until `until`."""
    from threadledger.domain import from_iso

    spans = [(from_iso(run["started_at"]), from_iso(run["ended_at"] or until)) for run in runs]
    together = sum((end - begin).total_seconds() for begin, end in spans)
    found: list[Placed] = []
    shift, last = 0.0, spans[0][0]
    for run, (begin, end) in zip(runs, spans, strict=True):
        pause = (begin - last).total_seconds()
        left_out = pause if pause > max(PAUSE_SHOWN_MAX * together, 1.0) else 0.0
        shift += left_out
        offset = (begin - spans[0][0]).total_seconds() - shift
        found.append(Placed(run, max(offset, 0.0), max((end - begin).total_seconds(), 0.0), left_out))
        last = max(last, end)
    return found


def draw_timeline(console: Console, thing: dict[str, Any]) -> None:
    """Draw the exchange of `audit show`; an arrow marks the run that was requested."""
    from rich.text import Text

    from threadledger.domain import now, to_iso

    runs = placed(thing["exchange"], to_iso(now()))
    whole = max(each.begin + each.seconds for each in runs)
    narrow = console.width < WIDE_TERMINAL
    unit = whole / (NARROW_BAR_CHARS_MAX if narrow else BAR_CHARS_MAX)
    head = Text("the exchange", style="bold")
    if unit:
        head.append(f"  from {clock(thing['exchange'][0]['started_at'])}, █ is {_unit(unit)}", style="not bold dim")
    console.print(head)
    backends = max(len(each.run["backend"]) for each in runs)
    labels = [_label(each, thing["run_id"], backends) for each in runs]
    width = max(len(f"{who}  {ending}") for who, ending in labels)
    for each, label in zip(runs, labels, strict=True):
        if each.pause:
            console.print(Text(f"  … {span(each.pause)} later", style="dim"))
        for line in _lines(each, label, unit, width, narrow):
            console.print(line, soft_wrap=True)


def _lines(each: Placed, label: tuple[str, str], unit: float, width: int, narrow: bool) -> Iterator[Any]:
    from rich.text import Text

    who, ending = label
    before = round(each.begin / unit) if unit else 0
    length = max(round(each.seconds / unit), 1) if unit else 1
    drawn = Text(" " * before).append("█" * length, style=STYLES[each.run["state"]]).append(f" {span(each.seconds)}")
    if narrow:
        yield Text(who.rstrip())
        yield Text(f"    {ending}")
        yield Text(" " * 4).append_text(drawn)
    else:
        yield Text(f"{who}  {ending}".ljust(width + 2)).append_text(drawn)


def _label(each: Placed, run_id: str, width: int) -> tuple[str, str]:
    """Return the label of a run (id, backend, attempt) and its outcome."""
    run = each.run
    ending = run["state"] + (f" ({run['cause']}), {run['next']}" if run["state"] == "failed" else "")
    kind = "shadow  " if run["shadow"] else "rerun  " if run["rerun_of"] else ""
    mark = "→" if run["run_id"] == run_id else " "
    backend = printable(run["backend"], lines=False).ljust(width)
    return f"{mark} {short(run['run_id'])}  {backend}  attempt {run['attempt']}", f"{kind}{ending}"


def _unit(seconds: float) -> str:
    return f"{seconds * 1_000:.3g} ms" if seconds < 1 else span(seconds)
