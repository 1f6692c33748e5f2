"""Turn a failure into a test: export the exchange of a run as a simulator script and a pytest file that reproduces it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from threadledger.domain import (
    Cause,
    Journal,
    RecordedExchange,
    RecordedRun,
    diagnose,
    recorded_exchange,
)

from .exported_test import ExportedTest
from .rehearsal import Outcome, Play, rehearse
from .settings import BACKENDS, Settings
from .simulator.fault_script import parse_fault
from .simulator.from_audit import MODEL_ROUTES, OUTPUTS, met_by
from .simulator.reading import ScriptError
from .staging import Placed, Stage
from .veil import Veil

RUN_ENDING_CHARS = 8
"""Number of last characters of the run id that name an exported run; tables show the same characters."""

HASTY_SECONDS = 1.0
"""Timeout of one attempt, in seconds, if a recorded run timed out."""

PATIENT_SECONDS = 20.0
"""Timeout of one attempt, in seconds, if no recorded run timed out."""

FILLER = "This answer does not arrive."
"""Text of an answer that a fault interrupts or prevents."""

NO_RESULT = "What this gave is not on record."
"""Result of a tool call during which the process stopped, so that no result was recorded."""

FOUND = "found_in_thread"
"""Finish reason of a run that found the answer of an earlier run in the thread."""

UNWELL_FACTS: Mapping[Cause, Mapping[str, Any]] = {
    Cause.PROVIDER_ERROR: {"http_status": 500},
    Cause.PROVIDER_GONE: {"http_status": 404, "details": {"endpoint": "POST /responses"}},
    Cause.TIMED_OUT: {"details": {"exception": "APITimeoutError"}},
    Cause.NETWORK: {"details": {"exception": "APIConnectionError"}},
    Cause.RATE_LIMITED: {"http_status": 429},
    Cause.QUOTA_EXHAUSTED: {"code": "insufficient_quota"},
    Cause.AUTHENTICATION: {"http_status": 401},
    Cause.PERMISSION: {"http_status": 403},
    Cause.EXPIRED: {"details": {"incomplete_reason": "run_expired"}},
    Cause.MODEL_UNAVAILABLE: {"code": "model_not_found"},
}
"""Minimal facts of a failure with each cause that can make the health check skip a backend (`BACKEND_UNWELL`)."""


@dataclass(frozen=True)
class ExportedRun:
    """Hold a simulator script (format: `docs/simulator.md`), a pytest file that plays it, and notes.

    The notes say in sentences what could not be reproduced.
    """

    name: str
    script: dict[str, Any]
    test: str
    notes: tuple[str, ...]


def export_run(journal: Journal, run_id: str, settings: Settings, *, redact_text: bool = False) -> ExportedRun:
    """Export the exchange of a run, given the run's id or the last characters of it.

    The exchange is rehearsed on a simulator started for this purpose; no provider is called. With `redact_text`,
    message texts, tool arguments, tool results and the profile's instructions are replaced by placeholders of the same
    length.

    Raises:
        RunNotFound: no run, or more than one, matches.
        InvalidInput: the run is still open, or the app ran the model itself.
    """
    run, _ = journal.run(run_id)
    exchange = recorded_exchange(journal, run.run_id, settings.retries, BACKENDS)
    veil = Veil(redact_text)
    streamed = any(_tells_of_a_stream(each) for each in exchange.runs)
    stages, met = _stages(exchange, veil, streamed=streamed)
    play = _play(exchange, veil, settings, streamed=streamed)
    rehearsed = rehearse(play, stages)
    wanted = _outcome(exchange, veil)
    notes = (*exchange.left_out, *met, *_differing(wanted, rehearsed.outcome))
    name = run.run_id[-RUN_ENDING_CHARS:]
    written = ExportedTest(name, run.started_at, play, rehearsed, notes)
    return ExportedRun(name, rehearsed.script, written.text(), notes)


def _stages(exchange: RecordedExchange, veil: Veil, *, streamed: bool) -> tuple[list[Stage], list[str]]:
    stages: list[Stage] = []
    notes: list[str] = []
    for number, run in enumerate(exchange.runs):
        if run.was_passed_over:
            continue
        following = exchange.runs[number + 1] if number + 1 < len(exchange.runs) else None
        landed = following is not None and following.finish_reason == FOUND
        faults: list[Placed] = []
        if run.failure is not None:
            met = met_by(run.failure, run.backend, streamed=streamed, landed=landed)
            faults = [each for fault in met.faults for each in _places(fault, run)]
            notes += [f"{run.backend}, {diagnose(run.failure).value}: {met.note}"] if met.note else []
        said = following.answer if following is not None and landed else run.answer
        answers = [_calls(round_, veil) for round_ in run.rounds]
        answers += [] if run.finish_reason == FOUND else _said_last(run, answers, veil(said) if said else None)
        stages.append(Stage(run.backend, run.cause, tuple(answers), tuple(faults)))
    return stages, notes


def _places(fault: Mapping[str, Any], run: RecordedRun) -> Iterator[Placed]:
    """Yield the fault where it happened, after the successful requests of its run; then alternative places to try."""
    rounds, asked = len(run.rounds), MODEL_ROUTES[run.backend]
    ends = any(name in fault for name in ("fail", "incomplete", "end"))
    places = [(fault["on"], 0), (asked, 0)]
    if rounds and run.backend == "assistants" and (ends or fault["on"] == OUTPUTS):
        places.insert(0, (OUTPUTS, rounds - 1))
    elif rounds and fault["on"] == asked:
        places.insert(0, (asked, rounds))
    for on, passes in dict.fromkeys(places):
        with suppress(ScriptError):  # the fault is not valid on this route
            parse_fault({**fault, "on": on})
            yield Placed({**fault, "on": on}, passes)


def _calls(round_: Sequence[Any], veil: Veil) -> dict[str, Any]:
    return {"tool_calls": [{"name": call.name, "arguments": veil.arguments(call.arguments)} for call in round_]}


def _said_last(run: RecordedRun, calls: Sequence[Any], said: str | None) -> list[Any]:
    """Return the model's answers after its tool calls. If a fault prevents an answer, that answer is never consumed."""
    failure = run.failure
    if failure is None or said is not None:
        return [said or ""]
    if failure.code == "empty_answer":
        return [""]
    if failure.code == "tool_failed":
        return list(calls[-1:])
    return [FILLER]


def _play(exchange: RecordedExchange, veil: Veil, settings: Settings, *, streamed: bool) -> Play:
    memory = tuple(veil.message(message.as_chat_message()) for message in exchange.memory)
    results: dict[str, list[str]] = {}
    for name, arguments, result in exchange.results:
        if _was_called(name, arguments, result):
            results.setdefault(name, []).append(veil(result))
    answered = {name for name, _, _ in exchange.results}
    for call in (call for run in exchange.runs for round_ in run.rounds for call in round_):
        if call.name not in answered:
            results.setdefault(call.name, []).append(NO_RESULT)
    unwell = {backend: (times, _unwell_facts(exchange, backend)) for backend, times in exchange.unwell.items() if times}
    return Play(
        question=veil(exchange.question),
        memory=memory,
        profile=veil.profile(exchange.profile),
        settings=_settings(exchange, settings),
        results=results,
        unwell=unwell,
        streamed=streamed,
    )


def _was_called(name: str, arguments: str, result: str) -> bool:
    """Return whether the app's function was called: it was bound, and the model's arguments were a JSON object."""
    from threadledger.domain import not_bound

    try:
        given = json.loads(arguments or "{}")
    except ValueError:
        return False
    return isinstance(given, dict) and result != not_bound(name)


def _unwell_facts(exchange: RecordedExchange, backend: str) -> dict[str, Any]:
    passed = (run.failure for run in exchange.runs if run.backend == backend and run.was_passed_over)
    failure = next(passed, None)
    cause = diagnose(failure) if failure is not None else Cause.PROVIDER_ERROR
    return {"status": "error", **UNWELL_FACTS.get(cause, UNWELL_FACTS[Cause.PROVIDER_ERROR])}


def _settings(exchange: RecordedExchange, settings: Settings) -> dict[str, Any]:
    """Return the settings recorded by the runs, completed from the current settings; no addresses, keys or ids."""
    models = {run.backend: run.model for run in exchange.runs}
    first = next((models[backend] for backend in exchange.backends if backend != "chat"), models.get("chat"))
    linked, threads = exchange.linked, settings.threads
    endpoints = {str(run.failure.details.get("endpoint")) for run in exchange.runs if run.failure is not None}
    in_thread = any(
        run.backend == "responses" and (run.thread_id or (run.failure and run.failure.thread_id))
        for run in exchange.runs
    )
    hasty = any(run.cause is Cause.TIMED_OUT and not run.was_passed_over for run in exchange.runs)
    chosen: dict[str, Any] = {
        "backends": list(exchange.backends),
        "threads": threads if threads in linked or not linked else linked[-1],
        "retries": exchange.retries,
        "timeout_seconds": HASTY_SECONDS if hasty else PATIENT_SECONDS,
        "openai_model": first,
        "fallback_model": models.get("chat"),
        "stateless": settings.stateless and not in_thread,
        "background": settings.background or "GET /responses/{response_id}" in endpoints,
    }
    bounds = dict(re.findall(r"(last|tokens)=(\d+)", exchange.memory_rule))
    chosen |= {f"memory_{name}": int(number) for name, number in bounds.items()}
    return {name: value for name, value in chosen.items() if value is not None and value is not False}


def _outcome(exchange: RecordedExchange, veil: Veil) -> Outcome:
    failures = tuple((run.backend, run.cause.value) for run in exchange.runs if run.cause is not None)
    answered = exchange.answered_by
    return Outcome(failures, (answered.backend, veil(answered.answer or "")) if answered is not None else None)


def _differing(wanted: Outcome, played: Outcome) -> Iterator[str]:
    if wanted.failures != played.failures:
        yield f"the runs differ: recorded {_told(wanted.failures)}; reproduced {_told(played.failures)}"
    if wanted.answer != played.answer:
        on_record, here = (each.answer[0] if each.answer else "no backend" for each in (wanted, played))
        yield f"the answer differs: recorded from {on_record}, reproduced from {here}"


def _told(failures: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{backend} {cause}" for backend, cause in failures) or "no failure"


def _tells_of_a_stream(run: RecordedRun) -> bool:
    """Return whether a failure is only possible while the app reads a stream."""
    failure = run.failure
    if failure is None:
        return False
    exception, event = failure.details.get("exception"), failure.details.get("event")
    broke_off = bool(failure.partial_text) and exception is not None and failure.http_status is None
    return failure.code == "stream_broken" or event == "error" or exception == "APIError" or broke_off
