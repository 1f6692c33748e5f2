"""Whoever watches runs is told of them here, once they are stored: the log line of a run, and telemetry where an app wants it.

The place is the journal, behind its commit: whichever path a run takes (an app's question, a stream, its own run, a recorded
client, a rerun, a crash that somebody else closes), its start and its end are events, and each is stored once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Protocol

from . import events as e
from .audit import facts_of
from .diagnosis import diagnose
from .failures import Cause, Failure
from .limits import RUNS_WATCHED_MAX
from .messages import Role
from .naming import key_of

logger = logging.getLogger("threadledger")
run_logger = logging.getLogger("threadledger.runs")


@dataclass(frozen=True)
class SeenRun:
    """A run, as it stands at its start."""

    key: str
    exchange_id: str
    run_id: str
    backend: str
    model: str
    attempt: int
    started_at: datetime
    memory_version: int = 0
    rerun_of: str | None = None
    shadow: bool = False
    took_over_from: str | None = None
    """The failed run of another backend that this one takes the place of."""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended: with an answer, or with a failure and its cause."""

    run: SeenRun
    ended_at: datetime
    duration_seconds: float | None = None
    failure: Failure | None = None
    cause: Cause | None = None
    remote_run_id: str | None = None
    request_id: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    goes_on: bool = False
    """The model asked for tools: the exchange goes on in another run."""
    answer: str | None = field(default=None, repr=False)
    question: Callable[[], str | None] = field(default=lambda: None, repr=False)
    """What was asked, read when it is wanted."""


@dataclass(frozen=True)
class ExchangeEnd:
    """How an exchange ended: with the run that answered it, or given up."""

    key: str
    exchange_id: str
    ended_at: datetime
    answered_by: str | None = None


class Observer(Protocol):
    """Watches runs. It is told in the thread that stored them, several at once, and after the fact: what it raises is
    logged, and costs no run anything."""

    def run_started(self, run: SeenRun) -> None:
        """A run begins."""
        ...

    def run_ended(self, end: RunEnd) -> None:
        """A run has ended; its start may have been another process's."""
        ...

    def exchange_ended(self, end: ExchangeEnd) -> None:
        """An exchange has its answer, or was given up."""
        ...


class RunLog:
    """One line a run, at its end. Without a word that was said, by people, models or providers, unless `text` asks for it."""

    def __init__(self, text: bool = False) -> None:
        self._text = text

    def run_started(self, run: SeenRun) -> None:
        """Told at its end."""

    def exchange_ended(self, end: ExchangeEnd) -> None:
        """Told by its runs."""

    def run_ended(self, end: RunEnd) -> None:
        """The line: what went wrong stands in its fields, by the names of `audit show`."""
        level = logging.INFO if end.failure is None else logging.WARNING
        if run_logger.isEnabledFor(level):
            run_logger.log(level, _line(end), extra=dict(self._fields(end)))

    def _fields(self, end: RunEnd) -> Iterator[tuple[str, Any]]:
        run, failure = end.run, end.failure
        yield from {"run_id": run.run_id, "key": run.key, "exchange_id": run.exchange_id}.items()
        yield from {"backend": run.backend, "model": run.model, "attempt": run.attempt}.items()
        yield "status", "completed" if failure is None else failure.status
        if failure is not None:
            yield from {"cause": end.cause, "code": failure.code, "type": failure.type}.items()
            yield "http_status", failure.http_status
        yield from {"request_id": end.request_id, "remote_run_id": end.remote_run_id}.items()
        yield "duration_seconds", end.duration_seconds
        if end.usage:
            yield "usage", dict(end.usage)
        if self._text:
            said = failure.message if failure is not None else None
            yield from {"question": end.question(), "answer": end.answer, "provider_message": said}.items()


class Watch:
    """Tells observers what the events of a commit mean. It remembers the runs that are open, so that an end can be told with
    its start; one that is not remembered is looked up."""

    def __init__(
        self, find: Callable[[str, str], e.RunStarted | None], question: Callable[[SeenRun], str | None]
    ) -> None:
        """`find` gives the start of a run by stream and id, `question` what its exchange asked."""
        self.observers: tuple[Observer, ...] = (RunLog(),)
        self._find = find
        self._question = question
        self._open: OrderedDict[str, SeenRun] = OrderedDict()
        self._lock = Lock()

    def saw(self, stored: Sequence[e.Event]) -> None:
        """Events were stored, in this order, in one commit."""
        if not any(type(event) in _WATCHED for event in stored):
            return
        try:
            self._tell(stored)
        except Exception:
            logger.exception("runs could not be told to whoever watches them; the runs are not concerned")

    def _tell(self, stored: Sequence[e.Event]) -> None:
        took_over: dict[str, str] = {}
        for event in stored:
            match event:
                case e.FallbackUsed():
                    took_over[event.exchange_id] = event.failed_run_id
                case e.RunStarted():
                    self._started(_seen(event, took_over.get(event.exchange_id)))
                case e.RunCompleted() | e.RunFailed():
                    self._ended(event, stored)
                case e.ExchangeAbandoned():
                    self._over(ExchangeEnd(key_of(event.originator_id), event.exchange_id, event.timestamp))

    def _started(self, run: SeenRun) -> None:
        self._remember(run)
        self._each(lambda it: it.run_started(run))

    def _ended(self, event: e.RunCompleted | e.RunFailed, stored: Sequence[e.Event]) -> None:
        run = self._run(event.originator_id, event.run_id)
        if run is None:
            return
        end = _end(run, event, stored, lambda: self._question(run))
        self._each(lambda it: it.run_ended(end))
        if end.failure is None and not end.goes_on and not run.shadow:
            self._over(ExchangeEnd(run.key, run.exchange_id, end.ended_at, run.run_id))

    def _over(self, end: ExchangeEnd) -> None:
        self._each(lambda it: it.exchange_ended(end))

    def _each(self, tell: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            try:
                tell(observer)
            except Exception:
                logger.exception("%s failed to take in a run; the run is not concerned", type(observer).__name__)

    def _remember(self, run: SeenRun) -> None:
        with self._lock:
            self._open[run.run_id] = run
            while len(self._open) > RUNS_WATCHED_MAX:
                self._open.popitem(last=False)

    def _run(self, stream: str, run_id: str) -> SeenRun | None:
        with self._lock:
            run = self._open.pop(run_id, None)
        if run is not None:
            return run
        started = self._find(stream, run_id)
        return _seen(started) if started is not None else None


_WATCHED = frozenset({e.RunStarted, e.RunCompleted, e.RunFailed, e.ExchangeAbandoned})


def _seen(event: e.RunStarted, took_over_from: str | None = None) -> SeenRun:
    return SeenRun(
        key=key_of(event.originator_id),
        exchange_id=event.exchange_id,
        run_id=event.run_id,
        backend=event.backend,
        model=event.model,
        attempt=event.attempt,
        started_at=event.timestamp,
        memory_version=event.memory_version,
        rerun_of=event.rerun_of,
        shadow=event.shadow,
        took_over_from=took_over_from,
    )


def _end(
    run: SeenRun,
    event: e.RunCompleted | e.RunFailed,
    stored: Sequence[e.Event],
    question: Callable[[], str | None],
) -> RunEnd:
    if isinstance(event, e.RunFailed):
        facts = facts_of(event)
        return RunEnd(
            run,
            event.timestamp,
            event.duration_seconds,
            failure=facts,
            cause=diagnose(facts),
            remote_run_id=facts.remote_run_id,
            request_id=facts.request_id,
            question=question,
        )
    said = [each for each in stored if isinstance(each, e.MessageJournaled) and each.run_id == event.run_id]
    texts = [each.content for each in said if each.role == Role.ASSISTANT and isinstance(each.content, str)]
    return RunEnd(
        run,
        event.timestamp,
        event.duration_seconds,
        remote_run_id=event.remote_run_id,
        request_id=event.request_id,
        response_model=event.model,
        finish_reason=event.finish_reason,
        usage=event.usage,
        goes_on=event.goes_on,
        answer=texts[-1] if texts else None,
        question=question,
    )


def _line(end: RunEnd) -> str:
    """For people: the run, and what was made of it."""
    run, failure = end.run, end.failure
    place = f"run {run.run_id} on {run.backend} ({run.model}, attempt {run.attempt})"
    if failure is None or end.cause is None:
        return f"{place} completed"
    kind = failure.code or failure.type or failure.status
    told = [f"HTTP {failure.http_status}" if failure.http_status else None, kind]
    asked = f", request {failure.request_id}" if failure.request_id else ""
    return f"{place} failed: {end.cause.value} ({': '.join(each for each in told if each)}{asked})"
