"""Turn a failure into a test: export the exchange of a run as a simulator script and a pytest file that reproduces it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from textwrap import fill
from typing import Any

from threadledger.domain.conversation.attachments import described, inline
from threadledger.domain.conversation.messages import FOUND_IN_THREAD
from threadledger.domain.failures import Cause, diagnose
from threadledger.domain.journal import Journal
from threadledger.domain.replay import RecordedExchange, RecordedRun, recorded_exchange

from ..settings import BACKENDS, Settings
from ..simulator import ScriptError, parse_fault
from .faults import MODEL_ROUTES, OUTPUTS, is_refusal, met_by
from .redacting import Veil
from .rehearsal import KEY, Outcome, Placed, Play, Rehearsed, Stage, rehearse

RUN_ENDING_CHARS = 8
"""Number of last characters of the run id that name an exported run; tables show the same characters."""

HASTY_SECONDS = 1.0
"""Timeout of one attempt, in seconds, if a recorded run timed out."""

PATIENT_SECONDS = 20.0
"""Timeout of one attempt, in seconds, if no recorded run timed out."""

DATA_BYTES_MAX = 64 * 1024
"""Maximum size of the attachments of a test together, in bytes: they are written into the test."""

FILLER = "This answer does not arrive."
"""Text of an answer that a fault interrupts or prevents."""

NO_RESULT = "The result of this call was not recorded."
"""Result of a tool call during which the process stopped, so that no result was recorded."""

UNWELL_FACTS: Mapping[Cause, Mapping[str, Any]] = {
    Cause.PROVIDER_ERROR: {"http_status": 500},
    Cause.PROVIDER_GONE: {"http_status": 410},
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
    streamed = any(_needs_stream(each) for each in exchange.runs)
    stages, met = _stages(exchange, veil, streamed=streamed)
    messages = [each.as_chat_message() for each in (*exchange.memory, exchange.question)]
    (*memory, question), left_out = _with_data(messages, journal)
    play = _play(exchange, memory, question, veil, settings, streamed=streamed)
    rehearsed = rehearse(play, stages)
    wanted = _outcome(exchange, veil)
    notes = (*exchange.left_out, *left_out, *met, *_differing(wanted, rehearsed.outcome))
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
        landed = following is not None and following.finish_reason == FOUND_IN_THREAD
        faults: list[Placed] = []
        if run.failure is not None:
            met = met_by(run.failure, run.backend, streamed=streamed, landed=landed)
            faults = [each for fault in met.faults for each in _places(fault, run)]
            notes += [f"{run.backend}, {diagnose(run.failure).value}: {met.note}"] if met.note else []
        said = following.answer if following is not None and landed else run.answer
        answers = [_calls(round_, veil) for round_ in run.rounds]
        answers += (
            [] if run.finish_reason == FOUND_IN_THREAD else _said_last(run, answers, veil(said) if said else None)
        )
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


def _with_data(messages: Sequence[dict[str, Any]], journal: Journal) -> tuple[list[dict[str, Any]], list[str]]:
    """Return messages with the data of their attachments inside, and notes about those that are too large for a test."""
    left = DATA_BYTES_MAX
    notes: list[str] = []

    def placed(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal left
        inner = part.get(part.get("type", ""))
        if not isinstance(inner, dict) or "blob" not in inner:
            return part
        size = journal.blobs.size(str(inner["blob"]))
        if size is not None and size <= left:
            left -= size
            return inline(part, journal.read_blob)
        why = "is not stored" if size is None else f"has {size:,} bytes"
        notes.append(f"{described(part)}: a text is in its place, because the attachment {why}")
        return {"type": "text", "text": f"[{described(part)}]"}

    def whole(message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        return {**message, "content": list(map(placed, content))} if isinstance(content, list) else message

    return list(map(whole, messages)), notes


def _play(
    exchange: RecordedExchange,
    messages: Sequence[dict[str, Any]],
    question: dict[str, Any],
    veil: Veil,
    settings: Settings,
    *,
    streamed: bool,
) -> Play:
    memory = tuple(map(veil.message, messages))
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
        question=veil.message(question)["content"],
        memory=memory,
        profile=veil.profile(exchange.profile),
        metadata=veil.metadata(exchange.metadata),
        settings=_settings(exchange, settings),
        results=results,
        unwell=unwell,
        streamed=streamed,
    )


def _was_called(name: str, arguments: str, result: str) -> bool:
    """Return whether the app's function was called: it was bound, and the model's arguments were a JSON object."""
    from threadledger.domain.exchange import not_bound

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
        yield f"the runs differ: recorded {_listed(wanted.failures)}; reproduced {_listed(played.failures)}"
    if wanted.answer != played.answer:
        on_record, here = (each.answer[0] if each.answer else "no backend" for each in (wanted, played))
        yield f"the answer differs: recorded from {on_record}, reproduced from {here}"


def _listed(failures: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{backend} {cause}" for backend, cause in failures) or "no failure"


def _needs_stream(run: RecordedRun) -> bool:
    """Return whether a failure is only possible while the app reads a stream."""
    failure = run.failure
    if failure is None:
        return False
    exception, event = failure.details.get("exception"), failure.details.get("event")
    broke_off = bool(failure.partial_text) and exception is not None and not is_refusal(failure)
    return failure.code == "stream_broken" or event == "error" or exception == "APIError" or broke_off


LINE_CHARS = 100

HEAD = """
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai  # noqa: F401 - imported early, so that import time does not count towards a run's timeout
import pytest

from threadledger.adapters import Script, Simulator, load_settings, open_ledger
from threadledger.domain import {names}

SCRIPT = Path(__file__).with_name("{name}.json")
"""

FIXTURE = '''
@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Open a ledger with that memory on a simulator that follows the script, without this machine's settings."""
    for name in list(os.environ):
        if name.startswith(("THREADLEDGER_", "OPENAI_", "AZURE_OPENAI_", "USE_ASSISTANTS")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    db = f"sqlite:///{tmp_path / 'ledger.db'}"
    if MEMORY:
        with open_ledger(load_settings(db=db, threads="none")) as journaling:
            journaling.conversation("<KEY>").extend(MEMORY)
    results = {name: iter(given) for name, given in RESULTS.items()}
    tools = {name: (lambda given: lambda **arguments: next(given))(given) for name, given in results.items()}
    with Simulator(script=Script.load(SCRIPT)) as simulator:
        settings = load_settings(
            db=db, openai_api_key="sk-test", openai_base_url=simulator.base_url, **SETTINGS
        )
        with open_ledger(settings, tools=tools, wait=lambda seconds: None) as opened:
<UNWELL>            yield Ledger(opened.journal, replace(opened.services, profile=PROFILE))
'''

UNWELL = """            for backend, (times, facts) in UNWELL.items():
                for _ in range(times):
                    opened.services.health.saw(backend, Failure(**facts), now())
"""

ANSWERED = """

def test_run_{name}_is_reproduced(ledger: Ledger) -> None:
    {ask}
    assert [(each.backend, each.cause.value) for each in answer.failures] == FAILURES
    assert (answer.backend, answer.text) == ANSWER
"""

UNANSWERED = """

def test_run_{name}_is_reproduced(ledger: Ledger) -> None:
    with pytest.raises(AllBackendsFailed) as raised:
        {ask}
    assert [(each.backend, each.cause.value) for each in raised.value.failures] == FAILURES
"""

SAME_MEMORY = """    (exchange,) = ledger.exchanges("{key}").by_id.values()
    assert exchange.runs[0].memory_hash == MEMORY_HASH
"""


@dataclass(frozen=True)
class ExportedTest:
    """Represent a rehearsed exchange that can be written as a test."""

    name: str
    at: datetime
    play: Play
    rehearsed: Rehearsed
    notes: tuple[str, ...]

    def text(self) -> str:
        """Return the text of the file."""
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        outcome = self.rehearsed.outcome
        yield self._docstring()
        yield HEAD.format(name=self.name, names=", ".join(self._names()))
        yield from self._data()
        yield FIXTURE.replace("<KEY>", KEY).replace("<UNWELL>", UNWELL if self.play.unwell else "")
        asked = "QUESTION, metadata=METADATA" if self.play.metadata else "QUESTION"
        ask = f'answer = ledger.conversation("{KEY}").ask({asked})'
        if self.play.streamed:
            ask = f'*_, answer = ledger.conversation("{KEY}").stream({asked})'
        if outcome.answer is None:
            yield UNANSWERED.format(name=self.name, ask=ask.partition(" = ")[2] if not self.play.streamed else ask)
        else:
            yield ANSWERED.format(name=self.name, ask=ask)
        if self.rehearsed.memory_hash is not None:
            yield SAME_MEMORY.format(key=KEY)

    def _names(self) -> list[str]:
        names = ["Ledger", "Profile"]
        names += ["AllBackendsFailed"] if self.rehearsed.outcome.answer is None else []
        names += ["Failure", "now"] if self.play.unwell else []
        return sorted(names, key=lambda name: (name.islower(), name))

    def _docstring(self) -> str:
        outcome = self.rehearsed.outcome
        failed = ", then ".join(f"{backend} failed ({cause})" for backend, cause in outcome.failures)
        ended = f"{outcome.answer[0]} answered" if outcome.answer else "no backend answered"
        summary = fill(f"{failed + ', then ' if failed else ''}{ended}.", LINE_CHARS)
        made = fill(
            f"Generated by `threadledger audit export {self.name}` from a run of {self.at:%Y-%m-%d}. The provider is a "
            f"simulator that follows {self.name}.json.",
            LINE_CHARS,
        )
        lines = [f"# {line}" for line in f"{summary[:1].upper()}{summary[1:]}\n\n{made}".split("\n")]
        if self.notes:
            lines += ["#", "# Not reproduced:"]
            for note in self.notes:
                lines += fill(note, LINE_CHARS, initial_indent="# - ", subsequent_indent="#   ").split("\n")
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def _data(self) -> Iterator[str]:
        play, outcome = self.play, self.rehearsed.outcome
        yield _named("SETTINGS", dict(play.settings))
        profile = play.profile
        fields = {"name": profile.name, "instructions": profile.instructions, "model": profile.model}
        given = "".join(f"    {name}={literal(value)},\n" for name, value in fields.items())
        tools = literal(json.loads(profile.tools_json), 4)
        settings = literal(profile.settings, 4)
        given += f"    tools_json=json.dumps({tools}),\n"
        given += f"    settings_json=json.dumps({settings}),\n" if profile.settings else ""
        yield f"\nPROFILE = Profile(\n{given})\n"
        yield _named("MEMORY", list(play.memory))
        yield _named("QUESTION", play.question)
        if play.metadata:
            yield _named("METADATA", dict(play.metadata))
        results = {name: list(given) for name, given in play.results.items()}
        yield _named("RESULTS", results, "Results of each tool, in the order of its calls.", "dict[str, list[str]]")
        if play.unwell:
            yield _named("UNWELL", dict(play.unwell), "Earlier failures in other exchanges, by backend.")
        failures = list(outcome.failures)
        yield _named("FAILURES", failures, "Failed runs: (backend, cause).", "list[tuple[str, str]]")
        if outcome.answer is not None:
            yield _named("ANSWER", outcome.answer, "Backend that answered, and the answer's text.")
        if self.rehearsed.memory_hash is not None:
            yield _named("MEMORY_HASH", self.rehearsed.memory_hash, "Hash of the memory of the first run.")
        yield "\n"


def literal(value: Any, indent: int = 0) -> str:
    """Return the Python source of a JSON value or of a tuple of JSON values."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list | tuple):
        return repr(value)
    begin, end = "{}" if isinstance(value, dict) else "()" if isinstance(value, tuple) else "[]"
    deeper = indent + 4
    if isinstance(value, dict):
        parts = [f"{literal(name)}: {literal(each, deeper)}" for name, each in value.items()]
    else:
        parts = [literal(each, deeper) for each in value]
    line = f"{begin}{', '.join(parts)}{',' if isinstance(value, tuple) and len(parts) == 1 else ''}{end}"
    if "\n" not in line and len(line) + indent <= LINE_CHARS:
        return line
    return f"{begin}\n" + "".join(f"{' ' * deeper}{part},\n" for part in parts) + f"{' ' * indent}{end}"


def _named(name: str, value: Any, description: str = "", kind: str = "") -> str:
    said = f'"""{description}"""\n' if description else ""
    return f"\n{name}{': ' if kind else ''}{kind} = {literal(value)}\n{said}"
