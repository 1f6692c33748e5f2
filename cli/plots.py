"""Draw bars and sparklines with characters."""

from __future__ import annotations

from collections.abc import Sequence

SPARKS = "▁▂▃▄▅▆▇█"
NOTHING = "·"
"""Character for a count of 0 in a sparkline; the lowest bar is for small counts."""

EIGHTHS = " ▏▎▍▌▋▊▉█"


def sparkline(counts: Sequence[int]) -> str:
    """Return one character per count, its height relative to the largest count."""
    top = max(counts, default=0)
    return "".join(SPARKS[(count * len(SPARKS) - 1) // top] if count else NOTHING for count in counts)


def bar(value: float, top: float, width: int) -> str:
    """Return a bar of at most `width` characters, its length relative to `top`; values above 0 are always visible."""
    if value <= 0 or top <= 0:
        return ""
    whole, rest = divmod(max(round(min(value / top, 1.0) * width * 8), 1), 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "")


def span(seconds: float | None) -> str:
    """Return a duration in readable form: `0.31 s`, `4.2 s`, `12 min`, `3.5 h`, `2.0 d`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds:.2f} s"
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} d"
