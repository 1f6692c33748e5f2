"""Draw the plots of the report as SVG. Colours are CSS classes, so they follow the light or dark theme.

`STYLE` is the CSS of the report, with rules for both themes, narrow screens and print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from html import escape
from math import ceil, floor, log10

from threadledger.domain.failures import SummaryRow

OTHER = "other causes"

COLUMNS_MAX = 92
"""Maximum number of columns in the plot by day; with more days, one column covers several days."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 240, 46, 24, 10
"""Size of the plot by day and its margins, in SVG units."""

ROW, LABEL, BAR, TEXT = 30, 120, 170, 170
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
    for number, (name, value, text) in enumerate(rows):
        y = number * ROW
        long = BAR * value / top
        drawn += [
            _name(name, y),
            f'<rect class="rate" x="{LABEL}" y="{y + 8}" width="{long:.1f}" height="14" rx="2"/>',
            f'<text x="{LABEL + long + 8:.1f}" y="{y + 19}">{escape(text)}</text>',
        ]
    return _svg(LABEL + BAR + TEXT, len(rows) * ROW, "failure rate by backend", drawn)


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
    return _svg(LABEL + BAR + TEXT, len(known) * ROW + 22, "median and 95th percentile by backend", [*drawn, legend])


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
            title = f"{day.isoformat()}: {stack[cause]:,} {cause}"
            yield (
                f'<rect class="c{colours.get(cause, len(colours))}" x="{x + (wide - thick) / 2:.1f}" y="{y:.2f}" '
                f'width="{thick:.1f}" height="{high:.2f}"><title>{escape(title)}</title></rect>'
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


STYLE = """
:root { --ground: #f7f7f5; --card: #ffffff; --ink: #1c1d21; --dim: #63666f; --line: #dedfe3; --accent: #2f6db5;
  --red: #b3372f; --green: #2e7d4f; --amber: #9a6700;
  --c0: #c8553d; --c1: #2f6db5; --c2: #d9a13b; --c3: #3f8f6b; --c4: #8661b5; --c5: #4aa5b8; --c6: #b5507f; --c7: #8b8f98; }
@media (prefers-color-scheme: dark) { :root { --ground: #16171a; --card: #1f2125; --ink: #e7e8ea; --dim: #9da1aa;
  --line: #363940; --accent: #74a9e8; --red: #f08a80; --green: #79c89a; --amber: #e0b052;
  --c0: #e27d66; --c1: #6ba4e6; --c2: #e6b85c; --c3: #68bd95; --c4: #ad8ae0; --c5: #72c8da; --c6: #dc7ba8; --c7: #8d929c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 48px; }
main > header h1 { margin: 0; font-size: 28px; letter-spacing: -0.01em; }
main > header p, footer, .nothing { color: var(--dim); margin: 4px 0 20px; }
h2 { font-size: 16px; margin: 0 0 12px; }
section, .tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
section { padding: 18px 20px; margin: 0 0 16px; min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 16px; }
.tiles > div { padding: 12px 16px; }
.tiles dt { color: var(--dim); font-size: 13px; }
.tiles dd { margin: 0; font-size: 26px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: 12px; font-weight: 400; color: var(--dim); line-height: 1.35; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 0 16px; }
svg { display: block; width: 100%; height: auto; max-width: 100%; overflow: visible; }
svg text { fill: var(--ink); font: 12px system-ui, "Segoe UI", Roboto, sans-serif; }
svg text.dim { fill: var(--dim); white-space: pre; }
svg.trend { width: 96px; flex: none; }
.pair svg { max-width: 460px; }
.grid { stroke: var(--line); } .track { stroke: var(--line); stroke-width: 2; stroke-linecap: round; }
line.took { stroke: var(--accent); stroke-width: 5; } circle.took { fill: var(--accent); stroke: var(--accent); stroke-width: 2; }
circle.hollow { fill: var(--card); }
.rate { fill: var(--red); } .spark { fill: var(--accent); }
.c0 { fill: var(--c0); background: var(--c0); } .c1 { fill: var(--c1); background: var(--c1); }
.c2 { fill: var(--c2); background: var(--c2); } .c3 { fill: var(--c3); background: var(--c3); }
.c4 { fill: var(--c4); background: var(--c4); } .c5 { fill: var(--c5); background: var(--c5); }
.c6 { fill: var(--c6); background: var(--c6); } .c7 { fill: var(--c7); background: var(--c7); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; padding: 0; font-size: 13px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
article { border-top: 1px solid var(--line); padding: 14px 0; break-inside: avoid; }
article:first-of-type { border-top: 0; padding-top: 0; } article:last-of-type { padding-bottom: 0; }
article header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; }
code { font: 12px ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--dim); margin-left: auto; }
.said { margin: 6px 0; font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.numbers { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 18px; font-size: 13px; color: var(--dim); }
.advice { margin: 8px 0 0; } .note { margin: 4px 0 0; color: var(--dim); font-style: italic; }
.state { font-size: 12px; font-weight: 600; padding: 1px 8px; border-radius: 99px; border: 1px solid currentColor; }
.returned { color: var(--red); } .open { color: var(--amber); } .resolved { color: var(--green); } .muted { color: var(--dim); }
.scroll { overflow-x: auto; } .scroll + .scroll { margin-top: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--dim); font-weight: 500; } tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
@media (max-width: 560px) { main { padding: 20px 12px 32px; } section { padding: 14px; }
  .tiles { grid-template-columns: 1fr 1fr; } code { margin-left: 0; } svg.days text { font-size: 21px; } }
@media print { :root { --ground: #fff; --card: #fff; --ink: #000; --dim: #444; --line: #bbb; --accent: #2f6db5;
  --red: #b3372f; --green: #2e7d4f; --amber: #9a6700;
  --c0: #c8553d; --c1: #2f6db5; --c2: #d9a13b; --c3: #3f8f6b; --c4: #8661b5; --c5: #4aa5b8; --c6: #b5507f; --c7: #8b8f98; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  section { break-inside: auto; } h2 { break-after: avoid; } svg { break-inside: avoid; }
  svg, .legend i, .c0, .rate { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
