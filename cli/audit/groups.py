"""Implement `threadledger audit groups`, `resolve`, `mute` and `reopen`, which manage groups of similar failures."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ..main import KEY, Exit, MomentParameter, TextParameter, common, invocation, opened
from ..output import WIDE_TERMINAL, clock, console, counted, emit_many, emit_one, note, prose, sparkline
from ..terminal import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from threadledger.domain.failures import Decision, FailureGroup

STATES = ("open", "resolved", "muted", "returned", "all")

COLUMNS = (
    *("group", "state", "cause", "backend", "exchanges", "unanswered", "runs", "conversations"),
    *("trend", "last_at", "message"),
)

STATE_STYLES = {"returned": "bold red", "open": "yellow", "resolved": "green", "muted": "dim"}

ORPHANS_SHOWN_MAX = 5

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class _To(MomentParameter):
    """Parse a future time (ISO 8601) or a span from now."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | int:
        from threadledger.domain.ids import now

        ahead = re.fullmatch(r"(\d{1,9})([smhdw])", str(value))
        if ahead is None:
            return super().convert(value, param, ctx)
        try:
            return now() + timedelta(seconds=int(ahead[1]) * UNITS[ahead[2]])
        except OverflowError:
            self.fail(f"{value!r} is too far in the future: give an earlier time.", param, ctx)


@click.command()
@click.option("--since", type=MomentParameter(), metavar="T", help="Only failures since T (ISO 8601, or 24h, 7d).")
@click.option("--state", type=click.Choice(STATES), help="Only groups in this state; default: all except muted.")
@click.option("--actor", type=KEY, metavar="NAME", help="Only failures of runs that this actor caused.")
@common
def groups(since: datetime | None, state: str | None, actor: str | None) -> int:
    """Group failures by cause, backend and message (ignoring ids and numbers), and show their trend."""
    from threadledger.domain.failures import GroupState
    from threadledger.domain.ledger import FailureGroups

    states = None if state is None else tuple(GroupState) if state == "all" else (state,)
    with opened(reads=True) as ledger:
        found = ledger.failure_groups(since, states, actor=actor)
        orphans = FailureGroups(ledger.journal).orphans()
    if invocation().output != "table":
        emit_many((each.as_json() for each in found), ())
    elif found:
        _draw_groups(found)
        for advice in _explained(found):
            note(advice)
    else:
        note("no groups")
    if orphans:
        note(_orphans_note(orphans))
    return Exit.DONE


@click.command()
@click.argument("group")
@click.option("--note", "told", type=TextParameter(), default="", metavar="TEXT", help="Note about what was done.")
@common
def resolve(group: str, told: str) -> int:
    """Mark GROUP as resolved; a new failure marks it as returned."""
    with opened() as ledger:
        _emit(ledger.resolve_group(group, told), "a new failure marks it as returned")
    return Exit.DONE


@click.command()
@click.argument("group")
@click.option("--until", type=_To(), metavar="T", help="Mute until T (ISO 8601, or a span from now: 24h, 7d).")
@click.option("--note", "told", type=TextParameter(), default="", metavar="TEXT", help="Note about the reason.")
@common
def mute(group: str, until: datetime | None, told: str) -> int:
    """Hide GROUP from `audit groups`, permanently or until a time."""
    with opened() as ledger:
        muted = ledger.mute_group(group, until, told)
    decision = muted.decision
    ending = f"until {clock(decision.until)}" if decision and decision.until else "until it is reopened"
    _emit(muted, f"{ending}; list muted groups with: threadledger audit groups --state muted")
    return Exit.DONE


@click.command()
@click.argument("group")
@click.option("--note", "told", type=TextParameter(), default="", metavar="TEXT", help="Note about the reason.")
@common
def reopen(group: str, told: str) -> int:
    """Reopen GROUP: undo resolving or muting it."""
    with opened() as ledger:
        _emit(ledger.reopen_group(group, told), "it is listed as usual")
    return Exit.DONE


def _emit(group: FailureGroup, ending: str) -> None:
    def draw(console: Console) -> None:
        counts = f"{counted(group.exchanges, 'exchange')} ({counted(group.runs, 'run')})"
        said = f"group {group.group} is {group.state}: {counts} with {group.cause} on {group.backend}; {ending}"
        prose(console, said)

    emit_one(group.as_json(), draw)


def _draw_groups(found: Sequence[FailureGroup]) -> None:
    from rich.text import Text

    rows = [
        each.as_json()
        | {
            "state": Text(each.state, style=STATE_STYLES[each.state]),
            "trend": Text(sparkline(each.trend), style="cyan"),
            "last_at": clock(each.as_json()["last_at"])[5:16],
        }
        for each in found
    ]
    if console().width >= WIDE_TERMINAL:
        emit_many(rows, COLUMNS)
    else:
        _draw_narrow(rows)
    console().print(Text(f"trend: {len(found[0].trend)} parts {found[0].trend_range}", style="dim"))


def _draw_narrow(rows: Sequence[dict[str, Any]]) -> None:
    """Print a few lines per group, for terminals too narrow for a table."""
    from rich.text import Text

    for row in rows:
        head = Text(f"{row['group']}  ").append_text(row["state"])
        head.append(printable(f"  {row['cause']} on {row['backend']}", lines=False), style="bold")
        exchanges = f"{counted(row['exchanges'], 'exchange')}, {row['unanswered']:,} unanswered"
        numbers = f"{counted(row['runs'], 'run')}, {counted(row['conversations'], 'conversation')}"
        console().print(head)
        console().print(Text(f"  {exchanges}; {numbers}"))
        console().print(Text("  ").append_text(row["trend"]).append(f"  last {row['last_at']}"))
        prose(console(), row["message"], style="dim", indent=2)
        console().print()


def _explained(found: Sequence[FailureGroup]) -> list[str]:
    """Return each advice once, with its cause and the groups that it applies to."""
    by_advice: dict[tuple[str, str], list[str]] = {}
    for each in found:
        if each.state in {"open", "returned"}:
            by_advice.setdefault((each.cause.value, each.advice), []).append(each.group)
    return [f"{cause} ({', '.join(ids)})\n  {advice}" for (cause, advice), ids in by_advice.items()]


def _orphans_note(orphans: Mapping[str, Decision]) -> str:
    from threadledger.domain.failures import RULE_VERSION

    shown = list(orphans.items())[:ORPHANS_SHOWN_MAX]
    lines = [
        f"  {group} (rule {each.rule}) {each.state}: {each.cause} on {each.backend}: {each.message}"
        for group, each in shown
    ]
    left = [f"  … and {len(orphans) - len(shown)} more"] if len(orphans) > len(shown) else []
    begin = (
        f"decisions about {counted(len(orphans), 'group')} no longer apply to any existing group "
        f"(groups now follow rule {RULE_VERSION}, or the cause has changed): review them"
    )
    return printable("\n".join([begin, *lines, *left]))
