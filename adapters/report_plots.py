"""Draw the plots of the report as SVG. Colours are CSS classes, so they follow the light or dark theme."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from html import escape
from math import ceil, floor, log10

from threadledger.domain import SummaryRow

OTHER = "other causes"

COLUMNS_MAX = 92
"""Maximum number of columns in the plot by day; with more days, one column covers several days."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 240, 46, 24, 10
"""Size of the plot by day and its margins, in SVG units."""

ROW, LABEL, BAR, TOLD = 30, 120, 170, 170
"""Row height, and widths of the name, the bar and the text after it, in plots with one row per backend (SVG units)."""

LABEL_CHARS_MAX = 17
"""Maximum length of a name; longer names are cut."""


def by_day(days: Sequence[tuple[str, str, int]], colours: Mapping[str, int]) -> str:
    """Draw failures by day, stacked by cause. `colours` maps a cause to its colour number; other causes share one colour."""
    columns, step = _columns(days, colours)
    top = _nice(max(sum(stack.values()) for _, stack in columns))
    wide = (WIDTH - LEFT) / len(columns)
    drawn = [_grid(top)]
    for number, (day, stack) in enumerate(columns):
        drawn += _stack(LEFT + number * wide, wide, day, stack, top, colours)
    every = ceil(len(columns) / 8)
    for number, (day, _) in enumerate(columns):
        if number % every == 0:
            middle = LEFT + (number + 0.5) * wide
            drawn.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{day:%d %b}</text>')
    each = "one day" if step == 1 else f"{step} days"
    return _svg(WIDTH, HEIGHT, f"failures, {each} per column", drawn, "days")


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Draw one bar per row of (name, value, text after the bar)."""
    if not rows:
        return '<p class="nothing">No runs.</p>'
    top = max(value for _, value, _ in rows) or 1.0
    drawn = []
    for number, (name, value, told) in enumerate(rows):
        y = number * ROW
        long = BAR * value / top
        drawn += [
            _name(name, y),
            f'<rect class="rate" x="{LABEL}" y="{y + 8}" width="{long:.1f}" height="14" rx="2"/>',
            f'<text x="{LABEL + long + 8:.1f}" y="{y + 19}">{escape(told)}</text>',
        ]
    return _svg(LABEL + BAR + TOLD, len(rows) * ROW, "failure rate by backend", drawn)


def durations(rows: Sequence[SummaryRow]) -> str:
    """Draw the range from the median to the 95th percentile, one row per backend, on a scale that starts at zero."""
    known = [row for row in rows if row.p50_seconds is not None and row.p95_seconds is not None]
    if not known:
        return '<p class="nothing">No run has ended.</p>'
    top = _nice(max(row.p95_seconds or 0.0 for row in known)) or 1.0
    drawn = []
    for number, row in enumerate(known):
        y, p50, p95 = number * ROW, row.p50_seconds or 0.0, row.p95_seconds or 0.0
        begin, end = (LABEL + BAR * value / top for value in (p50, p95))
        drawn += [
            _name(row.value or "(none)", y),
            f'<line class="track" x1="{LABEL}" y1="{y + 15}" x2="{LABEL + BAR}" y2="{y + 15}"/>',
            f'<line class="took" x1="{begin:.1f}" y1="{y + 15}" x2="{end:.1f}" y2="{y + 15}"/>',
            f'<circle class="took" cx="{begin:.1f}" cy="{y + 15}" r="4"/>',
            f'<circle class="took hollow" cx="{end:.1f}" cy="{y + 15}" r="4"/>',
            f'<text x="{LABEL + BAR + 12}" y="{y + 19}">{p50:.1f} s, {p95:.1f} s</text>',
        ]
    legend = f'<text class="dim" x="{LABEL}" y="{len(known) * ROW + 14}">● median   ○ 95th percentile</text>'
    return _svg(LABEL + BAR + TOLD, len(known) * ROW + 22, "median and 95th percentile by backend", [*drawn, legend])


def sparkline(counts: Sequence[int]) -> str:
    """Draw one column per count."""
    top, wide = max(counts, default=0) or 1, 8
    drawn = [
        f'<rect class="spark" x="{number * wide}" y="{24 - max(22 * count / top, 1):.1f}" width="6" '
        f'height="{max(22 * count / top, 1):.1f}"><title>{count:,}</title></rect>'
        for number, count in enumerate(counts)
    ]
    return _svg(len(counts) * wide, 24, "trend", drawn, "trend")


def _columns(
    days: Sequence[tuple[str, str, int]], colours: Mapping[str, int]
) -> tuple[list[tuple[date, dict[str, int]]], int]:
    """Return (first day, failures by cause) of every column, empty ones included, and the number of days per column."""
    first, last = (date.fromisoformat(each) for each in (days[0][0], days[-1][0]))
    step = ceil(((last - first).days + 1) / COLUMNS_MAX)
    number = (last - first).days // step + 1
    columns: list[tuple[date, dict[str, int]]] = [(first + timedelta(days=each * step), {}) for each in range(number)]
    for day, cause, count in days:
        stack = columns[(date.fromisoformat(day) - first).days // step][1]
        name = cause if cause in colours else OTHER
        stack[name] = stack.get(name, 0) + count
    return columns, step


def _stack(
    x: float, wide: float, day: date, stack: Mapping[str, int], top: float, colours: Mapping[str, int]
) -> Iterator[str]:
    room, y = HEIGHT - BOTTOM - TOP, float(HEIGHT - BOTTOM)
    thick = min(max(wide * 0.78, 1.0), 42.0)
    for cause in (*colours, OTHER):
        if stack.get(cause):
            high = room * stack[cause] / top
            y -= high
            told = f"{day.isoformat()}: {stack[cause]:,} {cause}"
            yield (
                f'<rect class="c{colours.get(cause, len(colours))}" x="{x + (wide - thick) / 2:.1f}" y="{y:.2f}" '
                f'width="{thick:.1f}" height="{high:.2f}"><title>{escape(told)}</title></rect>'
            )


def _grid(top: float) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH}" y2="{y}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{top * share:,.4g}</text>')
    return "".join(lines)


def _name(name: str, y: int) -> str:
    shown = name if len(name) <= LABEL_CHARS_MAX else name[: LABEL_CHARS_MAX - 1] + "…"
    return f'<text x="{LABEL - 10}" y="{y + 19}" text-anchor="end">{escape(shown)}<title>{escape(name)}</title></text>'


def _nice(value: float) -> float:
    """Return the next larger number that is easy to read: 1, 2, 4, 5, 6, 8 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10 ** floor(log10(value))
    return float(next(each * power for each in (1, 2, 4, 5, 6, 8, 10) if each * power >= value * 0.999))


def _svg(width: float, height: float, title: str, drawn: Sequence[str], kind: str = "plot") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(drawn)}</svg>"
    )
