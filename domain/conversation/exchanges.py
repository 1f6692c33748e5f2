"""Audit runs: fold their events into exchanges, and derive the failures from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..errors import InvalidInput
from ..failures import Cause, Failure, RecordedFailure, advise, diagnose
from ..ids import moment_of
from . import events as e
from .keys import key_of

RUN_TOPICS = ("RunStarted", "RunCompleted", "RunFailed", "FallbackUsed", "ExchangeAbandoned", "ExchangeCancelled")
"""Names of the events that this fold reads."""


@dataclass
class RunRecord:
    """Represent one run, from its start to its end."""

    run_id: str
    key: str
    exchange_id: str
    started_at: datetime
    backend: str
    model: str
    attempt: int
    version: int
    memory_version: int
    memory_rule: str
    memory_hash: str | None
    profile_hash: str | None
    deadline: str | None
    rerun_of: str | None
    memory_first_version: int | None = None
    memory_leaf_version: int | None = None
    supersedes_run_id: str | None = None
    question_answered: bool = False
    apart: bool = False
    shadow: bool = False
    endpoint: str | None = None
    continues_run_id: str | None = None
    continued_chars: int = 0
    dropped: Sequence[str] = ()
    """What the backend was not given, as the fallback to it recorded."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """Number of parts in view that the backend could not be shown, by kind."""
    rendering: str | None = None
    actor: str | None = None
    """Who caused it; None if that is not known."""
    ended_at: datetime | None = None
    completed: e.RunCompleted | None = None
    failure: Failure | None = None
    duration_seconds: float | None = None
    next: str = "open"

    @property
    def all_losses(self) -> dict[str, int]:
        """Return the number of parts, by kind, that the model was not shown, or that of its answer could not be kept."""
        completed = self.completed.losses if self.completed is not None else {}
        counts = ((kind, count) for each in (self.losses, completed) for kind, count in each.items())
        found: dict[str, int] = {}
        for kind, count in counts:
            if type(count) is int:  # a newer version may store something else
                found[kind] = found.get(kind, 0) + count
        return found

    @property
    def state(self) -> str:
        """Return `open`, `completed` or `failed`."""
        return "completed" if self.completed else "failed" if self.failure else "open"


@dataclass
class ExchangeRecord:
    """Represent one exchange: its runs in order, and the run that answered it.

    Shadow runs are among the runs, but never answer the exchange.
    """

    exchange_id: str
    key: str
    runs: list[RunRecord] = field(default_factory=list)
    abandoned: bool = False
    answered_by: str | None = None
    unanswered: bool = True
    """Whether a question waits for the answer: no longer once there is one or it was cancelled, and never if the first run
    wrote a summary or regenerated an answer."""
    taken_over: e.FallbackUsed | None = None
    """The newest fallback."""

    def last(self, shadow: bool = False) -> RunRecord | None:
        """Return the last run that tried to answer the exchange, or the last shadow run; None if there is none."""
        return next((run for run in reversed(self.runs) if run.shadow == shadow), None)

    def failures(self) -> list[RecordedFailure]:
        """Return the failed runs, without shadow runs."""
        return [recorded_failure(run, self) for run in self.runs if run.failure is not None and not run.shadow]


@dataclass
class Exchanges:
    """Hold all exchanges of the events folded so far."""

    by_id: dict[str, ExchangeRecord] = field(default_factory=dict)
    runs: dict[str, RunRecord] = field(default_factory=dict)

    def exchange_of(self, run: RunRecord) -> ExchangeRecord:
        """Return the exchange that a run belongs to."""
        return self.by_id[run.exchange_id]

    def failures(self) -> Iterator[RecordedFailure]:
        """Yield every failed run, in the order in which they failed."""
        failed = [run for run in self.runs.values() if run.failure is not None]
        for run in sorted(failed, key=lambda run: run.ended_at or run.started_at):
            yield recorded_failure(run, self.by_id[run.exchange_id])


def fold_exchanges(events: Iterable[e.Event], folded: Exchanges | None = None) -> Exchanges:
    """Fold the events of one or all conversations, in log order, onto earlier results, which are changed and returned.

    Never raises: an end without a start is ignored.
    """
    folded = folded or Exchanges()
    for event in events:
        match event:
            case e.RunStarted():
                _started(folded, event)
            case e.RunCompleted() if (run := folded.runs.get(event.run_id)) is not None:
                run.completed, run.ended_at, run.duration_seconds = event, event.timestamp, event.duration_seconds
                exchange = folded.by_id[run.exchange_id]
                if not run.shadow:
                    exchange.abandoned = False
                    if not event.goes_on:
                        exchange.answered_by, exchange.unanswered = event.run_id, False
            case e.RunFailed() if (run := folded.runs.get(event.run_id)) is not None:
                run.failure, run.ended_at = Failure.of(event), event.timestamp
                run.duration_seconds = event.duration_seconds
            case e.FallbackUsed() if (run := folded.runs.get(event.failed_run_id)) is not None:
                run.next = "fallback"
                folded.by_id[run.exchange_id].taken_over = event
            case e.ExchangeAbandoned() | e.ExchangeCancelled() if (
                abandoned := folded.by_id.get(event.exchange_id)
            ) is not None:
                abandoned.abandoned = True
                abandoned.unanswered = abandoned.unanswered and isinstance(event, e.ExchangeAbandoned)
                last = abandoned.last()
                if last is not None and last.failure is not None:
                    last.next = "abandoned"
            case _:
                pass
    return folded


def recorded_failure(run: RunRecord, exchange: ExchangeRecord) -> RecordedFailure:
    """Return a failed run with its cause, its advice and the run that answered its exchange."""
    facts = run.failure or Failure(status="open")
    cause: Cause = diagnose(facts)
    return RecordedFailure(
        run_id=run.run_id,
        key=run.key,
        exchange_id=run.exchange_id,
        at=run.ended_at or run.started_at,
        backend=run.backend,
        model=run.model,
        endpoint=run.endpoint,
        attempt=run.attempt,
        facts=facts,
        cause=cause,
        advice=advise(cause, facts.code, run.backend),
        duration_seconds=run.duration_seconds,
        next=run.next,
        answered_by=exchange.answered_by,
        unanswered=exchange.unanswered,
        actor=run.actor,
    )


@dataclass(frozen=True)
class FailureFilter:
    """Select failures; a criterion that is not given matches all of them."""

    since: datetime | None = None
    until: datetime | None = None
    cause: Cause | None = None
    code: str | None = None
    backend: str | None = None
    unanswered: bool = False
    key: str | None = None
    """Key of the conversation."""
    actor: str | None = None

    @classmethod
    def of(
        cls,
        since: datetime | timedelta | None,
        until: datetime | timedelta | None,
        cause: Cause | str | None,
        code: str | None,
        backend: str | None,
        unanswered: bool,
        actor: str | None = None,
    ) -> FailureFilter:
        """Create a filter from user input: time spans count back from now, causes are given by name.

        Raises:
            InvalidInput: the cause is unknown.
        """
        try:
            wanted = Cause(cause) if cause is not None else None
        except ValueError:
            raise InvalidInput(f"there is no cause {cause!r}: use one of {', '.join(Cause)}") from None
        return cls(moment_of(since), moment_of(until), wanted, code, backend, unanswered, actor=actor)

    def __call__(self, failure: RecordedFailure) -> bool:
        return (
            (self.since is None or failure.at >= self.since)
            and (self.until is None or failure.at <= self.until)
            and self.cause in {None, failure.cause}
            and self.code in {None, failure.facts.code}
            and self.backend in {None, failure.backend}
            and self.key in {None, failure.key}
            and self.actor in {None, failure.actor}
            and (failure.unanswered or not self.unanswered)
        )


def _started(folded: Exchanges, event: e.RunStarted) -> None:
    key = key_of(event.originator_id)
    exchange = folded.by_id.setdefault(event.exchange_id, ExchangeRecord(event.exchange_id, key))
    exchange.abandoned = exchange.abandoned and event.shadow
    if not exchange.runs and (event.shadow or event.question_answered):
        exchange.unanswered = False
    previous = exchange.last(event.shadow)
    if previous is not None and previous.failure is not None:
        # An app may take up an abandoned exchange again. A rerun starts another attempt, and changes nothing before it.
        taken_up = previous.next == "abandoned" and (previous.key, previous.rerun_of) == (key, event.rerun_of)
        previous.next = "retried" if previous.next == "open" or taken_up else previous.next
    shared = {name: getattr(event, name) for name in _SHARED}
    run = RunRecord(key=key, started_at=event.timestamp, version=event.originator_version, **shared)
    fallback = exchange.taken_over
    if fallback is not None and previous is not None and fallback.to_backend == run.backend:
        is_next = fallback.failed_run_id == previous.run_id
        is_retry = run.attempt > 1 and (previous.backend, previous.rerun_of) == (run.backend, run.rerun_of)
        run.dropped = fallback.dropped if is_next else previous.dropped if is_retry else ()
    exchange.runs.append(run)
    folded.runs[event.run_id] = run


_SHARED = tuple(RunRecord.__dataclass_fields__.keys() & set(e.RunStarted.__struct_fields__))
"""Fields that a run has from its start, under the same name; computed once, because a log may hold a million runs."""
