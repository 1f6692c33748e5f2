"""Group failures that share a cause and a backend and whose messages differ only in ids, numbers, paths and names.

Placeholders replace these, and addresses and times (`normalised`). The result and the rule version are part of a
group's id: a new rule version creates new groups and never silently moves a failure from one group to another.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from ..ids import as_utc, from_iso, to_iso
from .advice import advise
from .diagnosis import diagnose
from .failure import Cause, Failure
from .redaction import whole_text

TREND_PARTS = 12
"""Number of intervals in a trend, equal to the hour; the trend counts the failures in each."""

WHOLE_HOURS_MIN = 6
"""Minimum length of an interval that begins with an hour, in hours."""


class GroupState(StrEnum):
    """Name the state of a group."""

    RETURNED = "returned"
    """Resolved, but failures occurred afterwards."""
    OPEN = "open"
    RESOLVED = "resolved"
    MUTED = "muted"

    @classmethod
    def of(cls, decision: Decision | None, last_at: datetime, at: datetime) -> GroupState:
        """Return the state of a group at a time, given the time of its last failure.

        A failure after the resolution makes the group `returned`. A mute that has expired makes it `open`.
        """
        if decision is None or decision.state == "open":
            return cls.OPEN
        if decision.state == "muted":
            over = decision.until is not None and from_iso(decision.until) <= at
            return cls.OPEN if over else cls.MUTED
        return cls.RETURNED if last_at > from_iso(decision.at) else cls.RESOLVED


@dataclass(frozen=True)
class GroupName:
    """Hold the values that make up a group's id, together with the rule version."""

    cause: str
    backend: str
    message: str

    @classmethod
    def of(cls, failure: Failure, backend: str, cause: Cause | None = None) -> GroupName:
        """Return the group of a failure.

        A failure without a message is grouped by its code, its type or its status, in this order.
        """
        said = failure.message or failure.code or failure.type or failure.status
        return cls((cause or diagnose(failure)).value, _storable(backend), normalised(_storable(said)))

    @property
    def id(self) -> str:
        """Return the group's id."""
        return group_id(self.cause, self.backend, self.message)


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
    """Number of exchanges that were answered in the end."""
    advice: str
    trend: tuple[int, ...]
    trend_since: datetime
    trend_until: datetime
    state: GroupState = GroupState.OPEN
    decision: Decision | None = None
    exchanges: int = 0
    """Number of exchanges with a failure of this group; one exchange may have several, because runs are retried."""

    @property
    def unanswered(self) -> int:
        """Return the number of exchanges that have no answer."""
        return self.exchanges - self.answered

    @property
    def failures_range(self) -> str:
        """Return when the failures were: "at" a minute, or "from" one "to" another (UTC)."""
        return _range(self.first_at, self.last_at)

    @property
    def trend_range(self) -> str:
        """Return the time that the trend covers, in the same words."""
        return _range(self.trend_since, self.trend_until)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a group; docs/commands.md and docs/audit.md list its keys."""
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
            "unanswered": self.unanswered,
            "advice": self.advice,
            "state": self.state.value,
            "trend": list(self.trend),
            "trend_since": to_iso(self.trend_since),
            "trend_until": to_iso(self.trend_until),
            "rule": RULE_VERSION,
            "decided_at": decided.at or None,
            "muted_until": decided.until,
            "note": decided.note,
            "exchanges": self.exchanges,
        }


def _range(first: datetime, last: datetime) -> str:
    since, until = (to_iso(moment)[:16].replace("T", " ") for moment in (first, last))
    return f"at {since}" if since == until else f"from {since} to {until}"


GroupedRun = tuple[str, str, str, "str | None", bool, str]
"""A failed run for grouping: group id, conversation, time of failure (ISO 8601), code, whether its exchange was
answered, exchange id."""


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
        answered=len({exchange_id for *_, answered, exchange_id in found if answered}),
        advice=advise(cause, found[-1][3], name.backend),
        trend=_trend([at for _, _, at, *_ in found], begin, end),
        trend_since=begin,
        trend_until=end,
        exchanges=len({exchange_id for *_, exchange_id in found}),
    )


def _trend(times: Sequence[str], begin: datetime, end: datetime) -> tuple[int, ...]:
    """Count the times in each interval; the last interval includes its end."""
    counts, borders = [0] * TREND_PARTS, trend_borders(begin, end)
    for at in times:
        counts[bisect_right(borders, at)] += 1
    return tuple(counts)


def trend_borders(begin: datetime, end: datetime) -> list[str]:
    """Return the times (ISO 8601) between the intervals of a trend; each is the first time of the later interval.

    Long intervals begin with an hour, so that failures counted by hour are in one of them.
    """
    part = max((end - begin) / TREND_PARTS, timedelta(microseconds=1))
    times = [as_utc(begin + part * number) for number in range(1, TREND_PARTS)]
    if part >= timedelta(hours=WHOLE_HOURS_MIN):
        times = [each.replace(minute=0, second=0, microsecond=0) for each in times]
    return [to_iso(each) for each in times]


RULE_VERSION = 1
"""Version of this rule. Increment it with every change, however small: see `group_id`."""

GROUP_ID_CHARS = 10
"""Length of a group's id, in characters."""

_CHANGING = re.compile(
    r"""
      (?P<kept><(?:address|id|n|name|path|time)>)
    | (?P<name>"[^"]*" | `[^`]*` | “[^”]*” | ‘[^’]*’ | «[^»]*» | (?<!\w)'[^']+'(?!\w))
    | (?<!\w)(?:  # all others begin where a word may begin: in the middle of one nothing is tried
      (?P<address>
          [A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>`]*[^\s'"<>`.,;:!?)\]]          # https://…
        | [A-Za-z0-9][\w.+-]*@[\w-]+(?:\.[\w-]+)+                            # mail
        | \d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.]*\d)                      # IPv4
        | (?<!:)(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])           # IPv6
      )
    | (?P<time>
          \d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?(?:Z|UTC|[+-]\d\d:?\d\d))?)?(?!\w)
        | \d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?!\w)
        | (?:\d+(?:\.\d+)?(?:ms|us|µs|s|m|h|d)){1,4}(?!\w)                   # 20ms, 6m0s
      )
    | (?P<path>
          (?<!/)(?:~|\.{1,2})?(?:/\.?[\w@%+~-]+(?:\.[\w@%+~-]+)*)+/?          # /srv/app/main.py
        | [A-Za-z]:\\(?:[^\s'"<>|*?]*[\w)])?                                 # C:\app\main.py
        | (?<!/)[\w-]+/(?:[\w.-]+/)*[\w-]+\.[A-Za-z]\w{0,4}(?!\w)            # app/main.py
      )
    | (?P<id>
          [0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?!\w)
        | 0[xX][0-9A-Fa-f]+(?!\w)
        | (?<!-)[A-Za-z]{2,16}[_-](?=[A-Za-z]*\d|[A-Za-z]*[a-z][A-Z])[A-Za-z0-9]{8,}(?!\w)    # thread_…, org-…
        | (?=[A-Fa-f]*\d)(?=\d*[A-Fa-f])[0-9A-Fa-f]{8,}(?!\w)
        | (?<!-)(?=[\w-]{20})(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[A-Za-z0-9_-]{20,}(?![\w-])
      )
    | (?P<n>[-+]?\d+(?:[.,_]\d+)*(?:[eE][-+]?\d+)?(?:[kKMGT]?i?[bB]|[kKMGT])?(?!\w))
    )
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=1_024)
def normalised(message: str) -> str:
    """Return the message in one line, with placeholders for what changes from one failure to the next.

    A second call changes nothing.
    """
    before, text = "", " ".join(message.split())
    while text != before:  # one replacement can enable another; each pass leaves less to replace
        before, text = text, _CHANGING.sub(_placeholder, text)
    return text


@lru_cache(maxsize=1_024)
def group_id(cause: str, backend: str, message: str) -> str:
    """Return the id of the group with this cause, backend and normalised message, under this rule version."""
    named = json.dumps([RULE_VERSION, cause, backend, message], separators=(",", ":"))
    return hashlib.sha256(named.encode()).hexdigest()[:GROUP_ID_CHARS]


def _placeholder(match: re.Match[str]) -> str:
    return match[0] if match.lastgroup == "kept" else f"<{match.lastgroup}>"
