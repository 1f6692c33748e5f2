"""Notify observers of runs after they are stored: the run log always, telemetry if an app enables it.

The journal does this after each commit. The start and the end of a run are events, each stored once, whichever path the
run takes: an app's question, a stream, an app's own run, a recorded client, a rerun, or a crash whose run another
process closes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Protocol

from ..conversation import events as e
from ..conversation import key_of
from ..failures import Cause, Failure, diagnose
from ..limits import RUNS_WATCHED_MAX

logger = logging.getLogger("threadledger")
run_logger = logging.getLogger("threadledger.runs")


@dataclass(frozen=True)
class SeenRun:
    """Describe a run at its start."""

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
    """Id of the failed run on another backend that this run replaces."""


@dataclass(frozen=True)
class RunEnd:
    """Describe how a run ended: with an answer, or with a failure and its cause."""

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
    """Whether the model requested tools, so that the exchange continues in another run."""
    answer: str | None = field(default=None, repr=False)
    question: Callable[[], str | None] = field(default=lambda: None, repr=False)
    """Function that reads the question when it is needed."""


@dataclass(frozen=True)
class ExchangeEnd:
    """Describe how an exchange ended: answered by a run, or abandoned."""

    key: str
    exchange_id: str
    ended_at: datetime
    answered_by: str | None = None


class Observer(Protocol):
    """Observe runs.

    The methods are called after the commit, in the thread that stored the events, possibly several at once. Exceptions
    are logged and do not affect the run.
    """

    def run_started(self, run: SeenRun) -> None:
        """Handle the start of a run."""
        ...

    def run_ended(self, end: RunEnd) -> None:
        """Handle the end of a run; another process may have started it."""
        ...

    def exchange_ended(self, end: ExchangeEnd) -> None:
        """Handle an exchange that was answered or abandoned."""
        ...


class RunLog:
    """Log one line per run, at its end. Text of people, models and providers is only logged if `text` is set."""

    def __init__(self, text: bool = False) -> None:
        self._text = text

    def run_started(self, run: SeenRun) -> None:
        """Ignore the start: a run is logged at its end."""

    def exchange_ended(self, end: ExchangeEnd) -> None:
        """Ignore the end of an exchange: its runs are logged."""

    def run_ended(self, end: RunEnd) -> None:
        """Log the run; details of a failure are in the record's fields, named as in `audit show`."""
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
    """Notify observers of the events of a commit.

    Open runs are remembered, so that an end is reported together with its start. Other runs are read from the log.
    """

    def __init__(
        self, find: Callable[[str, str], e.RunStarted | None], question: Callable[[SeenRun], str | None]
    ) -> None:
        """Create a watch.

        `find` returns the start of a run by stream and run id, `question` returns the question of its exchange.
        """
        self.observers: tuple[Observer, ...] = (RunLog(),)
        self._find = find
        self._question = question
        self._open: OrderedDict[str, SeenRun] = OrderedDict()
        self._lock = Lock()

    def saw(self, stored: Sequence[e.Event]) -> None:
        """Notify observers of events that were stored in this order, in one commit."""
        try:
            self._notify(stored)
        except Exception:
            logger.exception("observers could not be notified of runs; the runs are not affected")

    def _notify(self, stored: Sequence[e.Event]) -> None:
        took_over: dict[str, str] = {}
        for event in stored:
            match event:
                case e.FallbackUsed():
                    took_over[event.exchange_id] = event.failed_run_id
                case e.RunStarted():
                    self._started(_seen(event, took_over.get(event.exchange_id)))
                case e.RunCompleted() | e.RunFailed():
                    self._ended(event, stored)
                case e.ExchangeAbandoned() | e.ExchangeCancelled():
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

    def _each(self, notify: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            try:
                notify(observer)
            except Exception:
                logger.exception("%s failed to handle a run; the run is not affected", type(observer).__name__)

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


WATCHED = frozenset({e.RunStarted, e.RunCompleted, e.RunFailed, e.ExchangeAbandoned, e.ExchangeCancelled})


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
        facts = Failure.of(event)
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
    from ..conversation.messages import Role

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
    """Return the log line: the run and its outcome."""
    run, failure = end.run, end.failure
    place = f"run {run.run_id} on {run.backend} ({run.model}, attempt {run.attempt})"
    if failure is None or end.cause is None:
        return f"{place} completed"
    kind = failure.code or failure.type or failure.status
    facts = [f"HTTP {failure.http_status}" if failure.http_status else None, kind]
    asked = f", request {failure.request_id}" if failure.request_id else ""
    return f"{place} failed: {end.cause.value} ({': '.join(each for each in facts if each)}{asked})"
