"""Group failures that share a cause and a backend and whose messages differ only in ids, numbers, paths and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from .advice import advise
from .diagnosis import diagnose
from .failures import Cause, Failure
from .ids import from_iso, to_iso
from .normalising import RULE_VERSION, group_id, normalised
from .redaction import whole_text

TREND_PARTS = 12
"""Number of equal intervals in a trend; the trend counts the failures in each."""


class GroupState(StrEnum):
    """Name the state of a group."""

    RETURNED = "returned"
    """Resolved, but failures occurred afterwards."""
    OPEN = "open"
    RESOLVED = "resolved"
    MUTED = "muted"


@dataclass(frozen=True)
class GroupName:
    """Hold the values that make up a group's id, together with the rule version."""

    cause: str
    backend: str
    message: str

    @property
    def id(self) -> str:
        """Return the group's id."""
        return group_id(self.cause, self.backend, self.message)


def named_group(failure: Failure, backend: str, cause: Cause | None = None) -> GroupName:
    """Return the group of a failure.

    A failure without a message is grouped by its code, its type or its status, in this order.
    """
    said = failure.message or failure.code or failure.type or failure.status
    return GroupName((cause or diagnose(failure)).value, _storable(backend), normalised(_storable(said)))


def _storable(text: str) -> str:
    return whole_text(text).replace("\0", "\ufffd")


@dataclass(frozen=True)
class Decision:
    """Hold the last decision about a group, and the rule version it was made under."""

    state: str
    at: str
    rule: int
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""
    until: str | None = None


@dataclass(frozen=True)
class FailureGroup:
    """Represent the failures of one group within a period, and the group's state."""

    group: str
    cause: Cause
    backend: str
    message: str
    runs: int
    conversations: int
    first_at: datetime
    last_at: datetime
    answered: int
    """Number of runs whose exchange was answered in the end."""
    advice: str
    trend: tuple[int, ...]
    trend_since: datetime
    trend_until: datetime
    state: GroupState = GroupState.OPEN
    decision: Decision | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that CONTRACT.md defines, with additional keys."""
        decided = self.decision or Decision("open", "", RULE_VERSION)
        return {
            "group": self.group,
            "cause": self.cause.value,
            "backend": self.backend,
            "message": self.message,
            "runs": self.runs,
            "conversations": self.conversations,
            "first_at": to_iso(self.first_at),
            "last_at": to_iso(self.last_at),
            "answered": self.answered,
            "unanswered": self.runs - self.answered,
            "advice": self.advice,
            "state": self.state.value,
            "trend": list(self.trend),
            "trend_since": to_iso(self.trend_since),
            "trend_until": to_iso(self.trend_until),
            "rule": RULE_VERSION,
            "decided_at": decided.at or None,
            "muted_until": decided.until,
            "note": decided.note,
        }


GroupedRun = tuple[str, str, str, "str | None", bool]
"""A failed run for grouping: group id, conversation, time of failure (ISO 8601), code, whether its exchange was
answered."""


def tallied(
    runs: Iterable[GroupedRun], names: Mapping[str, GroupName], since: datetime | None, until: datetime
) -> list[FailureGroup]:
    """Return the groups of these runs, the most recent failure first.

    The runs must be in order of failure time. Decisions are not applied: every group is open.
    """
    by_group: dict[str, list[GroupedRun]] = {}
    for run in runs:
        by_group.setdefault(run[0], []).append(run)
    firsts = [from_iso(found[0][2]) for found in by_group.values()]
    begin = since or min(firsts, default=until)
    end = max([until, *(from_iso(found[-1][2]) for found in by_group.values())])
    groups = [_tally(group, names[group], found, begin, end) for group, found in by_group.items()]
    return sorted(groups, key=lambda each: (each.last_at, each.group), reverse=True)


def _tally(group: str, name: GroupName, found: Sequence[GroupedRun], begin: datetime, end: datetime) -> FailureGroup:
    cause = Cause(name.cause)
    return FailureGroup(
        group=group,
        cause=cause,
        backend=name.backend,
        message=name.message,
        runs=len(found),
        conversations=len({conversation for _, conversation, *_ in found}),
        first_at=from_iso(found[0][2]),
        last_at=from_iso(found[-1][2]),
        answered=sum(answered for *_, answered in found),
        advice=advise(cause, found[-1][3]),
        trend=_trend([at for _, _, at, *_ in found], begin, end),
        trend_since=begin,
        trend_until=end,
    )


def _trend(times: Sequence[str], begin: datetime, end: datetime) -> tuple[int, ...]:
    """Count the (sorted) times in each interval; the last interval includes its end."""
    part = max((end - begin) / TREND_PARTS, timedelta(microseconds=1))
    counts, number, border = [0] * TREND_PARTS, 0, to_iso(begin + part)
    for at in times:
        while number < TREND_PARTS - 1 and at >= border:
            number += 1
            border = to_iso(begin + part * (number + 1))
        counts[number] += 1
    return tuple(counts)


def state_of(decision: Decision | None, last_at: datetime, at: datetime) -> GroupState:
    """Return the state of a group at a time, given the time of its last failure.

    A failure after the resolution makes the group `returned`. A mute that has expired makes it `open`.
    """
    if decision is None or decision.state == "open":
        return GroupState.OPEN
    if decision.state == "muted":
        over = decision.until is not None and from_iso(decision.until) <= at
        return GroupState.OPEN if over else GroupState.MUTED
    return GroupState.RETURNED if last_at > from_iso(decision.at) else GroupState.RESOLVED
