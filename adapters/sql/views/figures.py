"""Count runs by hour, and derive summaries and groups from these counters and a few rows.

Two tables of counters are changed by differences: `hours` (by cause, code, backend, model, profile and actor, and of all runs) by
the hour in which runs started, `group_hours` by the hour in which they failed. Whole hours of a period are read from the
counters. The hours at its ends, and exchanges whose runs started in different hours, are counted from rows of runs.
"""

from __future__ import annotations

import json
import operator
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from threadledger.domain.failures import (
    BY_FAILURE,
    Cause,
    FailureGroup,
    SummaryRow,
    advise,
    percentile,
    trend_borders,
)
from threadledger.domain.ids import from_iso, to_iso
from threadledger.domain.journal.webhooks import GroupSeen

from .runs import RunRow, rows_among
from .transaction import ViewTransaction, values_of

TABLES = (
    """CREATE TABLE {begin}hours (
        property TEXT NOT NULL,
        hour TEXT{plain} NOT NULL,
        value TEXT NOT NULL,
        runs BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        fallbacks BIGINT NOT NULL,
        exchanges BIGINT NOT NULL,
        answered BIGINT NOT NULL,
        input_tokens BIGINT NOT NULL,
        output_tokens BIGINT NOT NULL,
        seconds TEXT NOT NULL,
        seconds_removed TEXT NOT NULL,
        PRIMARY KEY (property, hour, value)
    )""",
    """CREATE TABLE {begin}group_hours (
        hour TEXT{plain} NOT NULL,
        failure_group TEXT{plain} NOT NULL,
        runs BIGINT NOT NULL,
        exchanges BIGINT NOT NULL,
        answered BIGINT NOT NULL,
        conversations BIGINT NOT NULL,
        PRIMARY KEY (hour, failure_group)
    )""",
    """CREATE TABLE {begin}groups (
        failure_group TEXT{plain} NOT NULL PRIMARY KEY,
        cause TEXT NOT NULL,
        backend TEXT NOT NULL,
        message TEXT NOT NULL
    )""",
)

HOUR_CHARS = 13
"""Number of characters of a time (ISO 8601) that name its hour."""

_AFTER = "~"
"""Character after every one in a time: an hour with it is after all times in this hour."""

_HOUR_BEGINS = ":00:00.000000Z"
"""Rest of the first time in an hour."""

_COUNTS = ("runs", "failed", "fallbacks", "exchanges", "answered", "input_tokens", "output_tokens")
_GROUP_COUNTS = ("runs", "exchanges", "answered", "conversations")
_HOUR_COLUMNS = {
    **dict.fromkeys(("property", "hour", "value"), "text"),
    **dict.fromkeys(_COUNTS, "bigint"),
    **dict.fromkeys(("seconds", "seconds_removed"), "text"),
}
_GROUP_HOUR_COLUMNS = {**dict.fromkeys(("hour", "failure_group"), "text"), **dict.fromkeys(_GROUP_COUNTS, "bigint")}
GROUP_COLUMNS: dict[str, str] = dict.fromkeys(("failure_group", "cause", "backend", "message"), "text")
"""Columns of the tables of counters and groups, with their types in PostgreSQL."""

_ALL_RUNS = "run"
"""Property of the counters of all runs, whose only value is empty."""


def _stored(value: str | None) -> str:
    """Return a value for the key of a counter, in which None differs from an empty text."""
    return "" if value is None else f"={value}"


def _shown(stored: str) -> str | None:
    return stored[1:] if stored else None


@dataclass
class RunTally:
    """Count the runs that share one value."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_COUNTS))
    seconds: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)
    failed_in: set[str] = field(default_factory=set)
    """Exchanges with a failed run."""
    answered_in: set[str] = field(default_factory=set)
    """Exchanges with a failed run that were answered."""

    def add(self, run: RunRow, times: int = 1) -> None:
        """Add a run, or with -1 remove it, but not its exchange."""
        counts = self.counts
        counts[0] += times
        counts[5] += times * run.input_tokens
        counts[6] += times * run.output_tokens
        if run.failed is not None:
            counts[1] += times
            counts[2] += times * (run.next == "fallback")
        if run.seconds is not None:
            (self.seconds if times > 0 else self.removed).append(run.seconds)

    def merge(self, counts: Sequence[int], seconds: Iterable[float], removed: Iterable[float]) -> None:
        """Add other counts."""
        self.counts = list(map(operator.add, self.counts, counts))
        self.seconds += seconds
        self.removed += removed

    def close(self) -> None:
        """Count the exchanges that were remembered, and forget them."""
        self.counts[3] += len(self.failed_in)
        self.counts[4] += len(self.answered_in)
        self.failed_in, self.answered_in = set(), set()

    def durations(self) -> list[float]:
        """Return the durations, sorted."""
        if self.removed:
            return sorted((Counter(self.seconds) - Counter(self.removed)).elements())
        return sorted(self.seconds)


class Counters:
    """Add up how a batch of events changes the counters."""

    def __init__(self) -> None:
        self._single: defaultdict[tuple[str | None, ...], RunTally] = defaultdict(RunTally)
        """Runs that are the only ones of their exchange, by hour, backend, model, profile, actor, cause and code."""
        self._hours: defaultdict[tuple[str, str, str], RunTally] = defaultdict(RunTally)
        self._groups: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(_GROUP_COUNTS))

    def add(self, exchanges: Iterable[Sequence[RunRow]], times: int = 1) -> None:
        """Add the runs of whole exchanges, or with -1 remove them."""
        single = self._single
        for runs in exchanges:
            run = runs[0]
            hour = run.started_at[:HOUR_CHARS]
            if len(runs) == 1:
                tally = single[hour, run.backend, run.model, run.profile, run.actor, run.cause, run.code]
                tally.add(run, times)
                if run.failed is not None:
                    tally.counts[3] += times
                    tally.counts[4] += times * (run.answered_by is not None)
                    self._add_groups(runs, times)
                continue
            if all(each.started_at[:HOUR_CHARS] == hour for each in runs):
                self._add_together(hour, runs, times)
            if any(each.failed is not None for each in runs):
                self._add_groups(runs, times)

    def _add_together(self, hour: str, runs: Sequence[RunRow], times: int) -> None:
        """Add the runs of one exchange, which counts once for each value that one of its failed runs has."""
        failed: set[tuple[str, str, str]] = set()
        for run in runs:
            names = _names(hour, run.backend, run.model, run.profile, run.actor, run.cause, run.code)
            if run.failed is None:
                names = names[:-2]
            else:
                failed.update(names)
            for name in names:
                self._hours[name].add(run, times)
        answered = times * (runs[0].answered_by is not None)
        for name in failed:
            counts = self._hours[name].counts
            counts[3] += times
            counts[4] += answered

    def _add_groups(self, runs: Sequence[RunRow], times: int) -> None:
        last: dict[str, str] = {}
        for run in sorted((run for run in runs if run.failed is not None), key=lambda run: (run.ended_at, run.started)):
            group, hour = run.failure_group or "", (run.ended_at or "")[:HOUR_CHARS]
            self._groups[hour, group][0] += times
            last[group] = hour
        answered = times * (runs[0].answered_by is not None)
        for group, hour in last.items():
            self._groups[hour, group][1] += times
            self._groups[hour, group][2] += answered

    def add_places(self, last: Iterable[tuple[str, str]], times: int = 1) -> None:
        """Add the group and time of the last failure in each conversation, or with -1 remove them."""
        for group, at in last:
            self._groups[at[:HOUR_CHARS], group][3] += times

    def write(self, transaction: ViewTransaction, begin: str) -> None:
        """Add the differences to the stored counters."""
        found: dict[tuple[str, str, str], tuple[list[int], list[str], list[str]]] = {
            name: (tally.counts, [_as_text(tally.seconds)], [_as_text(tally.removed)])
            for name, tally in self._hours.items()
        }
        for (hour, *values), single in self._single.items():
            names = _names(str(hour), *values)
            counts, added, removed = single.counts, _as_text(single.seconds), _as_text(single.removed)
            for name in names if values[-2] is not None else names[:-2]:
                known = found.get(name)
                if known is None:
                    found[name] = (counts, [added], [removed])
                else:
                    known[1].append(added)
                    known[2].append(removed)
                    found[name] = (list(map(operator.add, known[0], counts)), known[1], known[2])
        self._single.clear()
        changed = []
        for name, (counts, *seconds) in sorted(found.items()):
            added, removed = map("".join, seconds)
            if added or removed or any(counts):
                changed.append((*name, *counts, added, removed))
        sums = ", ".join(f"{name} = mine.{name} + excluded.{name}" for name in _COUNTS)
        texts = ", ".join(f"{name} = mine.{name} || excluded.{name}" for name in ("seconds", "seconds_removed"))
        transaction.merge(f"{begin}hours", ("property", "hour", "value"), _HOUR_COLUMNS, changed, f"{sums}, {texts}")
        sums = ", ".join(f"{name} = mine.{name} + excluded.{name}" for name in _GROUP_COUNTS)
        rows = [(*name, *counts) for name, counts in sorted(self._groups.items()) if any(counts)]
        transaction.merge(f"{begin}group_hours", ("hour", "failure_group"), _GROUP_HOUR_COLUMNS, rows, sums)


def _names(
    hour: str,
    backend: str | None,
    model: str | None,
    profile: str | None,
    actor: str | None,
    cause: str | None,
    code: str | None,
) -> list[tuple[str, str, str]]:
    """Return the keys of the counters of a run with these values; the last two count only failed runs."""
    return [
        (_ALL_RUNS, hour, ""),
        ("backend", hour, _stored(backend)),
        ("model", hour, _stored(model)),
        ("profile", hour, _stored(profile)),
        ("actor", hour, _stored(actor)),
        ("cause", hour, _stored(cause)),
        ("code", hour, _stored(code)),
    ]


def _as_text(seconds: Sequence[float]) -> str:
    return ",".join(map(repr, seconds)) + "," if seconds else ""


def _as_seconds(text: str) -> Iterator[float]:
    return map(float, text[:-1].split(",")) if text else iter(())


def last_failures(transaction: ViewTransaction, begin: str, places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return group and time of the last failure of each (group, conversation) that has one."""
    if not places:
        return []
    query = (
        "SELECT wanted.failure_group, (SELECT max(r.ended_at) FROM {begin}runs r WHERE r.failed IS NOT NULL "
        "AND r.failure_group = wanted.failure_group AND r.conversation = wanted.conversation) FROM {source}"
    )
    if transaction.kind == "sqlite":
        source = (
            "(SELECT json_extract(value, '$[0]') AS failure_group, json_extract(value, '$[1]') AS conversation "
            "FROM json_each(?)) wanted"
        )
        values: tuple[Any, ...] = (json.dumps(places),)
    else:
        source = "unnest(?::text[], ?::text[]) AS wanted(failure_group, conversation)"
        values = ([group for group, _ in places], [conversation for _, conversation in places])
    found = transaction.rows(query.format(begin=begin, source=source), values)
    return [(group, at) for group, at in found if at is not None]


# Summaries


@dataclass(frozen=True)
class Period:
    """Represent a period of time (ISO 8601, both ends included) and the whole hours in it; None is without an end."""

    since: str | None
    until: str | None

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None) -> Period:
        """Create a period from the times of a caller."""
        return cls(to_iso(since) if since is not None else None, to_iso(until) if until is not None else None)

    @property
    def first_hour(self) -> str:
        """Return a text that is not after the first whole hour of the period, but after the hour before it."""
        since = self.since or ""
        hour = since[:HOUR_CHARS]
        return hour if since <= hour + _HOUR_BEGINS else hour + _AFTER

    @property
    def last_hour(self) -> str:
        """Return a text that is after the last whole hour of the period, and not after the next hour."""
        if self.until is None:
            return _AFTER
        hour = self.until[:HOUR_CHARS]
        return hour + _AFTER if self.until >= f"{hour}:59:59.999999Z" else hour

    def parts(self) -> list[tuple[str, str]]:
        """Return the times of the period that are in no whole hour: the first that is included, the first that is not."""
        after = self.until + _AFTER if self.until is not None else _AFTER
        begin, end = self.since or "", self.first_hour
        found = [(begin, min(end, after))] if begin and end.endswith(_AFTER) else []
        if self.until is not None and not self.last_hour.endswith(_AFTER):
            found.append((max(self.last_hour, begin, end if found else ""), after))
        return [(first, last) for first, last in found if first < last]


_RUN_COLUMNS = (
    "started_at, exchange_id, backend, model, profile, actor, cause, code, failed, next, answered_by, seconds, "
    "input_tokens, output_tokens"
)


def _other_runs(transaction: ViewTransaction, begin: str, period: Period, actor: str | None = None) -> list[RunRow]:
    """Return the runs of a period that its whole hours do not count; with an actor, all that it caused."""
    within, values = (["spread = 1"], []) if actor is None else (["actor = ?"], [actor])
    if period.since is not None:
        within.append("started_at >= ?")
        values.append(period.since)
    if period.until is not None:
        within.append("started_at <= ?")
        values.append(period.until)
    queries = [f"SELECT {_RUN_COLUMNS} FROM {begin}runs WHERE {' AND '.join(within)}"]
    for part in period.parts() if actor is None else ():
        queries.append(
            f"SELECT {_RUN_COLUMNS} FROM {begin}runs WHERE started_at >= ? AND started_at < ? AND spread = 0"
        )
        values += part
    return [_run_of(*row) for row in transaction.rows(" UNION ALL ".join(queries), values)]


def _run_of(
    started_at: str, exchange_id: str, backend: Any, model: Any, profile: Any, actor: Any, cause: Any, code: Any, failed: Any,
    then: str, answered_by: Any, seconds: Any, input_tokens: int, output_tokens: int,
) -> RunRow:  # fmt: skip
    return RunRow(
        started=0, id_reversed="", exchange_id=exchange_id, conversation="", started_at=started_at, backend=backend,
        model=model, profile=profile, actor=actor, rerun_of=None, shadow=0, failed=failed, cause=cause, code=code,
        seconds=seconds, input_tokens=input_tokens, output_tokens=output_tokens, next=then, answered_by=answered_by,
    )  # fmt: skip


def summary(
    transaction: ViewTransaction,
    begin: str,
    by: str,
    since: datetime | None,
    until: datetime | None,
    actor: str | None = None,
) -> list[SummaryRow]:
    """Return a summary of the runs that started in a period, grouped by one of `SUMMARY_BY`.

    The runs of one actor are counted from their rows, which an index finds: counters by actor and each other property
    would be as many as the runs if each user of an app is an actor.
    """
    period = Period.of(since, until)
    others = _other_runs(transaction, begin, period, actor)
    tallies: defaultdict[str | None, RunTally] = defaultdict(RunTally)
    for run in others:
        if by not in BY_FAILURE or run.failed is not None:
            tally = tallies[_value(run, by)]
            tally.add(run)
            if run.failed is not None:
                tally.failed_in.add(run.exchange_id)
                if run.answered_by is not None:
                    tally.answered_in.add(run.exchange_id)
    for tally in tallies.values():
        tally.close()
    all_runs = len(others) if by in BY_FAILURE else None
    if actor is None:
        all_runs = _add_whole_hours(transaction, begin, by, period, tallies, all_runs)
    rows = [summary_row(by, value, tally, all_runs) for value, tally in tallies.items() if tally.counts[0]]
    return SummaryRow.ranked(rows)


def _add_whole_hours(
    transaction: ViewTransaction,
    begin: str,
    by: str,
    period: Period,
    tallies: defaultdict[str | None, RunTally],
    all_runs: int | None,
) -> int | None:
    """Add the counters of the whole hours of a period to the tallies, and return the number of all runs, if it is counted."""
    names = ", ".join((*_COUNTS, "seconds", "seconds_removed"))
    whole = f"FROM {begin}hours WHERE property = ? AND hour >= ? AND hour < ?"
    chars = {"day": 10, "hour": HOUR_CHARS}.get(by)
    given = (_ALL_RUNS if chars is not None else by, period.first_hour, period.last_hour)
    for hour, value, *counts, seconds, removed in transaction.rows(f"SELECT hour, value, {names} {whole}", given):
        tally = tallies[hour[:chars] if chars is not None else _shown(value)]
        tally.merge(counts, _as_seconds(seconds), _as_seconds(removed))
    if all_runs is None:
        return None
    counted = transaction.rows(f"SELECT coalesce(sum(runs), 0) {whole}", (_ALL_RUNS, *given[1:]))
    return all_runs + int(counted[0][0])


def _value(run: RunRow, by: str) -> str | None:
    chars = {"day": 10, "hour": HOUR_CHARS}.get(by)
    value: str | None = getattr(run, by) if chars is None else run.started_at[:chars]
    return value


def summary_row(by: str, value: str | None, tally: RunTally, all_runs: int | None) -> SummaryRow:
    """Return the row of a summary for one value; `all_runs` is the number of all runs, if the row shows it."""
    runs, failed, fallbacks, exchanges, answered, input_tokens, output_tokens = tally.counts
    took = tally.durations()
    return SummaryRow(
        by,
        f"{value}:00:00Z" if by == "hour" else value,
        runs=runs if all_runs is None else all_runs,
        failed=failed,
        fallbacks=fallbacks,
        answered=answered,
        p50_seconds=percentile(took, 0.50),
        p95_seconds=percentile(took, 0.95),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        exchanges=exchanges,
    )


def failure_days(
    transaction: ViewTransaction, begin: str, since: datetime | None, until: datetime | None
) -> list[tuple[str, str, int]]:
    """Return (day, cause, count) of the failed runs that started in a period, sorted by day."""
    period = Period.of(since, until)
    others = _other_runs(transaction, begin, period)
    days = Counter((run.started_at[:10], run.cause or "") for run in others if run.failed is not None)
    query = f"SELECT hour, value, failed FROM {begin}hours WHERE property = 'cause' AND hour >= ? AND hour < ?"
    for hour, value, failed in transaction.rows(query, (period.first_hour, period.last_hour)):
        days[hour[:10], _shown(value) or ""] += failed
    return [(day, cause, count) for (day, cause), count in sorted(days.items()) if count]


# Groups


@dataclass
class _Group:
    """Hold the counts of one group, and its runs by hour."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_GROUP_COUNTS))
    hours: dict[str, int] = field(default_factory=dict)


def failure_groups(
    transaction: ViewTransaction, begin: str, since: datetime | None, until: datetime, actor: str | None = None
) -> list[FailureGroup]:
    """Return the groups of the failures since a time, most recent failure first.

    The failures of one actor are counted from their rows, which an index finds.
    """
    if actor is not None:
        return _groups_of_actor(transaction, begin, since, until, actor)
    period = Period.of(since, None)
    groups: defaultdict[str, _Group] = defaultdict(_Group)
    query = f"SELECT hour, failure_group, {', '.join(_GROUP_COUNTS)} FROM {begin}group_hours WHERE hour >= ?"
    for hour, name, *counts in transaction.rows(query, (period.first_hour,)):
        group = groups[name]
        group.counts = [have + more for have, more in zip(group.counts, counts, strict=True)]
        group.hours[hour] = counts[0]
    for part in period.parts():
        for name, *counts in transaction.rows(_PART_OF_HOUR.format(begin=begin), part):
            group = groups[name]
            group.counts = [have + more for have, more in zip(group.counts, counts, strict=True)]
    found = {name: group for name, group in groups.items() if group.counts[0]}
    facts = _facts(transaction, begin, sorted(found), period.since or "")
    first = since or min((from_iso(fact[3]) for fact in facts.values()), default=until)
    end = max([until, *(from_iso(fact[4]) for fact in facts.values())])
    trends = _trends(transaction, begin, found, trend_borders(first, end), period)
    counted = {name: group.counts for name, group in found.items()}
    return _ranked_groups(facts, counted, trends, first, end)


def _groups_of_actor(
    transaction: ViewTransaction, begin: str, since: datetime | None, until: datetime, actor: str
) -> list[FailureGroup]:
    """Return the groups of the failures that one actor caused."""
    query = (
        f"SELECT failure_group, ended_at, exchange_id, conversation, answered_by, code FROM {begin}runs "
        "WHERE actor = ? AND failed IS NOT NULL AND ended_at >= ? ORDER BY ended_at, started"
    )
    failed: defaultdict[str, list[Any]] = defaultdict(list)
    for name, *run in transaction.rows(query, (actor, to_iso(since) if since is not None else "")):
        failed[name].append(run)
    facts: dict[str, Sequence[Any]] = {}
    for name, cause, backend, message, *_ in _named_groups(transaction, begin, sorted(failed)):
        facts[name] = (cause, backend, message, failed[name][0][0], failed[name][-1][0], failed[name][-1][-1])
    first = since or min((from_iso(fact[3]) for fact in facts.values()), default=until)
    end = max([until, *(from_iso(fact[4]) for fact in facts.values())])
    borders = trend_borders(first, end)
    counted: dict[str, list[int]] = {}
    trends: dict[str, list[int]] = {}
    for name, runs in failed.items():
        answered = {run[1] for run in runs if run[3] is not None}
        counted[name] = [len(runs), len({run[1] for run in runs}), len(answered), len({run[2] for run in runs})]
        trends[name] = [0] * (len(borders) + 1)
        for run in runs:
            trends[name][bisect_right(borders, run[0])] += 1
    return _ranked_groups(facts, counted, trends, first, end)


def _named_groups(transaction: ViewTransaction, begin: str, names: Sequence[str]) -> Sequence[Sequence[Any]]:
    """Return id, cause, backend and message of these groups."""
    if not names:
        return ()
    source, wanted = values_of(transaction.kind, names)
    query = (
        f"SELECT g.failure_group, g.cause, g.backend, g.message FROM {source} CROSS JOIN {begin}groups g "
        "WHERE g.failure_group = wanted.value"
    )
    return transaction.rows(query, (wanted,))


def _ranked_groups(
    facts: Mapping[str, Sequence[Any]],
    counted: Mapping[str, Sequence[int]],
    trends: Mapping[str, Sequence[int]],
    first: datetime,
    end: datetime,
) -> list[FailureGroup]:
    """Return groups from their facts, counts and trends, most recent failure first."""
    failures = []
    for name, (cause, backend, message, first_at, last_at, code) in facts.items():
        runs, exchanges, answered, conversations = counted[name]
        failures.append(
            FailureGroup(
                group=name,
                cause=Cause(cause),
                backend=backend,
                message=message,
                runs=runs,
                conversations=conversations,
                first_at=from_iso(first_at),
                last_at=from_iso(last_at),
                answered=answered,
                advice=advise(Cause(cause), code, backend),
                trend=tuple(trends[name]),
                trend_since=first,
                trend_until=end,
                exchanges=exchanges,
            )
        )
    return sorted(failures, key=lambda each: (each.last_at, each.group), reverse=True)


def groups_of_runs(transaction: ViewTransaction, begin: str, run_ids: Sequence[str]) -> list[GroupSeen]:
    """Return the groups in which these runs have failed, each with its first and last failure ever."""
    found = rows_among(
        transaction, f"{begin}runs", "failure_group, failed", "id_reversed", [each[::-1] for each in run_ids]
    )
    names = sorted({group for group, failed in found if failed is not None})
    return [
        GroupSeen(
            group=name,
            cause=Cause(cause),
            backend=backend,
            message=message,
            advice=advise(Cause(cause), code, backend),
            first_at=from_iso(first_at),
            last_at=from_iso(last_at),
        )
        for name, (cause, backend, message, first_at, last_at, code) in _facts(transaction, begin, names, "").items()
    ]


_LATER = (
    "EXISTS (SELECT 1 FROM {begin}runs l WHERE l.failed IS NOT NULL AND l.failure_group = r.failure_group "
    "AND {same} AND (l.ended_at, l.started) > (r.ended_at, r.started))"
)
_PART_OF_HOUR = (
    "SELECT r.failure_group, count(*), "
    f"sum(CASE WHEN {_LATER.format(begin='{begin}', same='l.exchange_id = r.exchange_id')} THEN 0 ELSE 1 END), "
    f"sum(CASE WHEN r.answered_by IS NULL OR {_LATER.format(begin='{begin}', same='l.exchange_id = r.exchange_id')} "
    "THEN 0 ELSE 1 END), "
    f"sum(CASE WHEN {_LATER.format(begin='{begin}', same='l.conversation = r.conversation')} THEN 0 ELSE 1 END) "
    "FROM {begin}runs r WHERE r.failed IS NOT NULL AND r.ended_at >= ? AND r.ended_at < ? GROUP BY r.failure_group"
)
"""Counts of the failures in a part of an hour. An exchange, or conversation, counts where its last failure is."""

_FACTS = (
    "SELECT g.failure_group, g.cause, g.backend, g.message, "
    "(SELECT min(r.ended_at) FROM {begin}runs r "
    "WHERE r.failure_group = g.failure_group AND r.failed IS NOT NULL AND r.ended_at >= ?), {last_at}, {code} "
    "FROM {source} CROSS JOIN {begin}groups g WHERE g.failure_group = wanted.value"
)
_LAST = (
    "(SELECT r.{column} FROM {begin}runs r WHERE r.failure_group = g.failure_group AND r.failed IS NOT NULL "
    "ORDER BY r.ended_at DESC, r.started DESC LIMIT 1)"
)


def _facts(transaction: ViewTransaction, begin: str, names: Sequence[str], since: str) -> dict[str, Sequence[Any]]:
    """Return cause, backend and message of each group, the times of its first and last failure, and its last code."""
    if not names:
        return {}
    source, wanted = values_of(transaction.kind, names)
    last = {column: _LAST.format(begin=begin, column=column) for column in ("ended_at", "code")}
    query = _FACTS.format(begin=begin, source=source, last_at=last["ended_at"], code=last["code"])
    values = (since, wanted)
    return {row[0]: row[1:] for row in transaction.rows(query, values)}


def _trends(
    transaction: ViewTransaction, begin: str, groups: Mapping[str, _Group], borders: Sequence[str], period: Period
) -> dict[str, list[int]]:
    """Return the number of failures between the borders of a trend, by group."""
    divided = {border[:HOUR_CHARS] for border in borders if not border.endswith(_HOUR_BEGINS)}
    divided |= {part[0][:HOUR_CHARS] for part in period.parts()}
    trends = {name: [0] * (len(borders) + 1) for name in groups}
    for name, group in groups.items():
        for hour, runs in group.hours.items():
            if hour not in divided:
                trends[name][bisect_right(borders, hour + _HOUR_BEGINS)] += runs
    source, wanted = values_of(transaction.kind, sorted(divided))
    query = (
        f"SELECT r.failure_group, r.ended_at FROM {source} CROSS JOIN {begin}runs r WHERE r.failed IS NOT NULL "
        f"AND r.ended_at >= wanted.value AND r.ended_at < wanted.value || '{_AFTER}' AND r.ended_at >= ?"
    )
    earliest = max(period.since or "", min(divided, default=""))  # so that PostgreSQL expects few rows
    for name, at in transaction.rows(query, (wanted, earliest)):
        trends[name][bisect_right(borders, at)] += 1
    return trends
