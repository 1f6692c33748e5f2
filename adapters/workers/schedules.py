"""Read `[schedules]` of `threadledger.toml`: our own commands that workers run at fixed times, without a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from threadledger.domain.errors import InvalidSettings

NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")
"""What the name of a schedule looks like."""

KEYS = ("run", "at", "every")
EVERY = re.compile(r"([1-9][0-9]{0,5})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

EVERY_SECONDS_MIN = 10.0
"""Shortest interval of a schedule, in seconds."""

NIGHT_HOUR = 3
"""Hour (UTC) of what runs every night, week or month."""

WELL_KNOWN = {
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "nightly": f"0 {NIGHT_HOUR} * * *",
    "weekly": f"0 {NIGHT_HOUR} * * 1",
    "monthly": f"0 {NIGHT_HOUR} 1 * *",
}
"""Names that say themselves when they run, as five fields of cron: minute, hour, day of month, month, day of week."""


@dataclass(frozen=True)
class Schedule:
    """Define a command and when it runs."""

    name: str
    command: tuple[str, ...]
    at: str = ""
    """Five fields of cron in UTC; empty if it has an interval."""
    every: timedelta | None = None

    def next_after(self, moment: datetime) -> datetime:
        """Return the first time after a moment at which it runs; an interval counts from midnight (UTC) of 1970-01-01."""
        if self.every is not None:
            seconds = self.every.total_seconds()
            return datetime.fromtimestamp((moment.timestamp() // seconds + 1) * seconds, UTC)
        if self.name in WELL_KNOWN and self.at == WELL_KNOWN[self.name]:
            return _next_well_known(self.name, moment)
        from .cron import next_after

        return next_after(self.at, moment)

    def shown(self) -> str:
        """Return the command and when it runs, as they are shown to people."""
        return f"{shlex.join(self.command)} ({self.when()})"

    def when(self) -> str:
        """Return when it runs, as it is written in the file."""
        if self.every is not None:
            return f"every {self.every}"
        return self.name if WELL_KNOWN.get(self.name) == self.at else f"at {self.at} UTC"


def _next_well_known(name: str, moment: datetime) -> datetime:
    day = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if name == "hourly":
        return day + timedelta(hours=1)
    day = day.replace(hour=0 if name == "daily" else NIGHT_HOUR)
    while day <= moment or (name == "weekly" and day.weekday() != 0) or (name == "monthly" and day.day != 1):
        day += timedelta(days=1)
    return day


def parse_schedules(given: object, path: Path) -> dict[str, Schedule]:
    """Return the schedules of a table `[schedules]`; their commands are checked where commands are known.

    Raises:
        InvalidSettings: the table is not valid; the message names the file, the schedule and what is wrong.
    """
    if not isinstance(given, Mapping):
        raise InvalidSettings(
            f'{path}: schedules is not a table: write [schedules] and below it nightly = "replay reconcile --all --apply"'
        )
    return {name: _schedule(name, value, path) for name, value in given.items()}


def _schedule(name: str, given: object, path: Path) -> Schedule:
    where = f"{path}: [schedules] {name!r}"
    if not NAME.fullmatch(name):
        raise InvalidSettings(f"{where} is no name of a schedule: use up to 50 letters, digits, dashes and underscores")
    if isinstance(given, str):
        if name not in WELL_KNOWN:
            raise InvalidSettings(
                f"{where} does not say when it runs: use one of {', '.join(WELL_KNOWN)} as its name, or a table "
                f'[schedules.{name}] with run = "…" and at = "30 4 * * *" or every = "15m"'
            )
        return Schedule(name, _command(given, where), at=WELL_KNOWN[name])
    if not isinstance(given, Mapping):
        raise InvalidSettings(f'{where} is neither a command nor a table: write nightly = "db check"')
    for key in given:
        if key not in KEYS:
            raise InvalidSettings(f"{where} has an unknown key {key!r}: use {', '.join(KEYS)}")
    for key in KEYS:
        if not isinstance(given.get(key, ""), str):
            raise InvalidSettings(f"{where}: {key} is not a text")
    if bool(given.get("at")) == bool(given.get("every")) or not given.get("run"):
        raise InvalidSettings(f'{where} needs run = "…", and one of at = "30 4 * * *" and every = "15m"')
    command = _command(given["run"], where)
    return Schedule(name, command, **_time(given, where))


def _command(text: str, where: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidSettings(f"{where}: the command cannot be read ({error}): close its quotes") from None
    words = words[1:] if words[:1] == ("threadledger",) else words
    if not words:
        raise InvalidSettings(f"{where}: the command is empty: give one like replay reconcile --all --apply")
    return words


def _time(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    if given.get("every"):
        found = EVERY.fullmatch(given["every"])
        every = timedelta(**{UNITS[found[2]]: int(found[1])}) if found else timedelta()
        if every.total_seconds() < EVERY_SECONDS_MIN:
            raise InvalidSettings(
                f"{where}: every cannot be used: give at least {EVERY_SECONDS_MIN:g}s, as a number and s, m, h or d"
            )
        return {"every": every}
    at = " ".join(given["at"].split())
    if at not in WELL_KNOWN.values():
        from .cron import problem_of

        problem = problem_of(at)
        if problem:
            raise InvalidSettings(f"{where}: at cannot be used ({problem}): give five fields of cron, like 30 4 * * *")
    return {"at": at}
