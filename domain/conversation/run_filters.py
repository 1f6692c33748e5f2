"""Select runs and exchanges of a ledger, where a criterion that is None matches all of them, and count those of a profile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from .events import ProfileDefined
from .exchanges import ExchangeRecord, RunRecord

RUN_STATES = ("open", "completed", "failed")
"""States of a run: see `RunRecord.state`."""


@dataclass(frozen=True)
class RunFilter:
    """Select runs by when they started, where, on what, how they ended, and who caused them."""

    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None
    """Key of the conversation."""
    backend: str | None = None
    model: str | None = None
    state: str | None = None
    """One of `RUN_STATES`."""
    actor: str | None = None

    def __call__(self, run: RunRecord) -> bool:
        return (
            (self.since is None or run.started_at >= self.since)
            and (self.until is None or run.started_at <= self.until)
            and self.key in {None, run.key}
            and self.backend in {None, run.backend}
            and self.model in {None, run.model}
            and self.state in {None, run.state}
            and self.actor in {None, run.actor}
        )


@dataclass(frozen=True)
class ExchangeFilter:
    """Select exchanges by their first run, and by whether a question waits for the answer."""

    since: datetime | None = None
    """Time from which on the first run started."""
    until: datetime | None = None
    key: str | None = None
    """Key of the conversation."""
    unanswered: bool | None = None
    actor: str | None = None
    """Who caused the first run."""

    def __call__(self, exchange: ExchangeRecord) -> bool:
        first = exchange.runs[0]
        return (
            (self.since is None or first.started_at >= self.since)
            and (self.until is None or first.started_at <= self.until)
            and self.key in {None, first.key}
            and self.unanswered in {None, exchange.unanswered}
            and self.actor in {None, first.actor}
        )


class ProfileRuns(NamedTuple):
    """Hold the definition of a profile and the outcome of its runs."""

    defined: ProfileDefined
    number: int
    """Number of its stream, which grows with each new one."""
    runs: int
    failed: int
