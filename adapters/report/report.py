"""Render the audit as one self-contained HTML page: plots are inline SVG, and the page has no scripts or external resources.

Every text is passed through `escape`, because messages, keys and names are untrusted. The page's Content-Security-Policy
allows nothing but its own style sheet, so that a text that were not escaped could still not run or load anything.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from html import escape

from threadledger.domain.failures import FailureGroup, SummaryRow
from threadledger.domain.ids import to_iso

from .plots import OTHER, STYLE, bars, by_day, durations, sparkline

CAUSES_SHOWN_MAX = 7
"""Number of causes with their own colour; all others are combined."""


POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of the page: the hash allows `STYLE`, and no other style, script, image or address."""


@dataclass(frozen=True)
class Report:
    """Hold the data of a report. `days` has (day, cause, number); rates and durations are taken from `backends`."""

    made_at: datetime
    since: datetime | None
    backends: Sequence[SummaryRow]
    causes: Sequence[SummaryRow]
    models: Sequence[SummaryRow]
    days: Sequence[tuple[str, str, int]]
    groups: Sequence[FailureGroup]
    muted: int = 0
    unanswered: int = 0
    """Number of exchanges with a failed run and without an answer."""
    title: str = "Failed runs"
    notes: Sequence[str] = field(default_factory=tuple)


def render_report(report: Report) -> str:
    """Return the HTML page."""
    parts = (
        _head(report),
        _tiles(report),
        _section("Failures by day", _days(report), "wide"),
        '<div class="pair">',
        _section("Failure rate by backend", bars(_rates(report.backends))),
        _section("Run duration", durations(report.backends)),
        "</div>",
        _section("Failure groups", _groups(report), "wide"),
        _section("By cause", _table(report.causes, "cause"), "wide"),
        _section("By backend and model", _table(report.backends, "backend") + _table(report.models, "model"), "wide"),
        f"<footer>threadledger, {_clock(report.made_at)}. Times are UTC.</footer>",
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    begin = f"since {_clock(report.since)}" if report.since is not None else "whole ledger"
    return f"<header><h1>{escape(report.title)}</h1><p>{begin}, as of {_clock(report.made_at)}</p></header>"


def _tiles(report: Report) -> str:
    runs, failed = (sum(getattr(row, name) for row in report.backends) for name in ("runs", "failed"))
    tiles = (
        ("runs", f"{runs:,}", ""),
        ("failed", f"{failed:,}", f"{failed / runs:.1%} of all" if runs else ""),
        ("fallbacks", f"{sum(row.fallbacks for row in report.backends):,}", "another backend took over"),
        ("not answered", f"{report.unanswered:,}", "exchanges without an answer"),
        ("groups", f"{len(report.groups):,}", f"{report.muted:,} more muted" if report.muted else "no muted groups"),
    )
    return '<dl class="tiles">' + "".join(map(_tile, tiles)) + "</dl>"


def _tile(tile: tuple[str, str, str]) -> str:
    name, number, said = tile
    return f"<div><dt>{escape(name)}</dt><dd>{escape(number)}<small>{escape(said)}</small></dd></div>"


def _section(title: str, body: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{escape(title)}</h2>{body}</section>'


def _days(report: Report) -> str:
    counted: Counter[str] = Counter()
    for _, cause, number in report.days:
        counted[cause] += number
    colours = {cause: number for number, (cause, _) in enumerate(counted.most_common(CAUSES_SHOWN_MAX))}
    legend = [*colours, *([OTHER] if len(counted) > len(colours) else [])]
    keys = "".join(
        f'<li><i class="c{colours.get(cause, CAUSES_SHOWN_MAX)}"></i>{escape(cause)} '
        f"<b>{counted.get(cause, sum(counted.values()) - sum(counted[each] for each in colours)):,}</b></li>"
        for cause in legend
    )
    return by_day(report.days, colours) + f'<ul class="legend">{keys}</ul>' if report.days else _nothing()


def _rates(rows: Sequence[SummaryRow]) -> list[tuple[str, float, str]]:
    return [
        (row.value or "(none)", row.failure_rate, f"{row.failure_rate:.1%} ({row.failed:,} of {row.runs:,})")
        for row in sorted(rows, key=lambda row: -row.failure_rate)
    ]


def _groups(report: Report) -> str:
    return "".join(map(_group, report.groups)) or _nothing()


def _group(group: FailureGroup) -> str:
    waits = f"{group.unanswered:,} not answered" if group.unanswered else "all answered"
    decided = group.decision.note if group.decision is not None and group.state != "open" else ""
    note = f'<p class="note">{escape(decided)}</p>' if decided else ""
    return (
        f'<article><header><b class="state {escape(group.state)}">{escape(group.state)}</b> '
        f"<strong>{escape(group.cause.value)}</strong> on {escape(group.backend)}"
        f"<code>{escape(group.group)}</code></header>"
        f'<p class="said">{escape(group.message)}</p>'
        f'<div class="numbers">{sparkline(group.trend)}<span>{group.exchanges:,} exchanges, {waits}; '
        f"{group.runs:,} runs in {group.conversations:,} conversations</span>"
        f"<span>{group.failures_range}</span></div>"
        f'<p class="advice">{escape(group.advice)}</p>{note}</article>'
    )


def _table(rows: Sequence[SummaryRow], name: str) -> str:
    if not rows:
        return _nothing() if name == "cause" else '<p class="nothing">No runs.</p>'
    heads = (name, "runs", "failed", "rate", "fallbacks", "not answered", "p50", "p95", "tokens in", "tokens out")
    top = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(row: SummaryRow) -> Iterable[str]:
    yield f"<th>{escape(row.value or '(none)')}</th>"
    for text in (
        *(f"{row.runs:,}", f"{row.failed:,}", f"{row.failure_rate:.1%}", f"{row.fallbacks:,}"),
        *(f"{row.unanswered:,}", _seconds(row.p50_seconds), _seconds(row.p95_seconds)),
        *(f"{row.input_tokens:,}", f"{row.output_tokens:,}"),
    ):
        yield f"<td>{escape(text)}</td>"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


def _clock(moment: datetime) -> str:
    return to_iso(moment)[:16].replace("T", " ")


def _nothing() -> str:
    return '<p class="nothing">Nothing failed.</p>'
