"""Rehearse a stored exchange on a simulator, to write a script that reproduces it.

The exchange is played at least twice. In the first play every request of a run meets the run's fault, and the number of
faults and the answers consumed are counted. The last play uses the script written from these counts, as a test will.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from threadledger.domain import (
    AllBackendsFailed,
    Answer,
    Chat,
    Failure,
    Health,
    Ledger,
    Profile,
    now,
)

from .settings import settings_alone
from .simulator import Simulator
from .staging import SEED, Counting, Stage
from .wiring import open_ledger

KEY = "exported"
"""Conversation key in the rehearsal and in the test; the app's own key may identify a person."""

PLAYED_MAX = 8
"""Maximum number of plays that try the faults in different places."""


@dataclass(frozen=True)
class Outcome:
    """Hold the result of a question: the failed runs in order, and the answer with its backend."""

    failures: tuple[tuple[str, str], ...] = ()
    """(backend, cause) of each failed run."""
    answer: tuple[str, str] | None = None
    """(backend, text), or None if no backend answered."""


@dataclass(frozen=True)
class Play:
    """Hold everything needed to play an exchange."""

    question: str
    memory: tuple[Mapping[str, Any], ...]
    profile: Profile
    settings: Mapping[str, Any]
    results: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Results of each function, in the order of the calls."""
    unwell: Mapping[str, tuple[int, Mapping[str, Any]]] = field(default_factory=dict)
    """Number of earlier failures of each backend, and the facts of one failure."""
    streamed: bool = False


@dataclass(frozen=True)
class Rehearsed:
    """Hold a script and the outcome of playing it."""

    script: dict[str, Any]
    outcome: Outcome
    memory_hash: str | None


def rehearse(play: Play, stages: Sequence[Stage]) -> Rehearsed:
    """Write the script of an exchange and play it once."""
    import openai  # noqa: F401 - imported early, so that import time does not count towards a run's timeout

    counted = _counted(play, stages)
    script = counted.script()
    outcome, memory_hash = _played(play, script, None)
    return Rehearsed(script, outcome, memory_hash)


def _counted(play: Play, stages: Sequence[Stage]) -> Counting:
    """Play the exchange until every run matches its record, moving faults to other places where one does not.

    If no other place is left to try, return the play that matched the record for the most runs.
    """
    tried, best, longest = [0] * len(stages), None, -1
    for _ in range(PLAYED_MAX):
        counted = Counting(stages, tried)
        _played(play, None, counted)
        wrong = counted.first_wrong()
        if wrong is None:
            return counted
        if wrong > longest:
            best, longest = counted, wrong
        earlier = range(min(wrong, len(stages) - 1), -1, -1)
        other = next((number for number in earlier if tried[number] + 1 < len(stages[number].faults)), None)
        if other is None:
            break
        tried = [*tried[:other], tried[other] + 1, *([0] * (len(stages) - other - 1))]
    if best is None:
        raise AssertionError("unreachable: the first play is always kept")
    return best


def stub_tools(results: Mapping[str, Sequence[str]]) -> dict[str, Callable[..., str]]:
    """Return functions that return the recorded results, one per call."""

    def stub(texts: Iterator[str]) -> Callable[..., str]:
        return lambda **arguments: next(texts)

    return {name: stub(iter(texts)) for name, texts in results.items()}


def _played(play: Play, script: Mapping[str, Any] | None, counted: Counting | None) -> tuple[Outcome, str | None]:
    with (
        tempfile.TemporaryDirectory(prefix="threadledger-") as folder,
        Simulator(script=script, seed=None if script else SEED) as simulator,
    ):
        db = f"sqlite:///{Path(folder, 'ledger.db')}"
        profile = Path(folder, "profile.toml")
        profile.write_text('name = "rehearsal"\n', encoding="utf-8")
        shared = {"db": db, "profile": profile, "synchronous": "NORMAL"}
        if play.memory:
            with open_ledger(settings_alone(**shared, threads="none")) as journaling:
                journaling.conversation(KEY).extend(play.memory)
        settings = settings_alone(
            **(shared | dict(play.settings)), openai_api_key="sk-test", openai_base_url=simulator.base_url
        )
        with open_ledger(settings, tools=stub_tools(play.results), wait=lambda seconds: None) as opened:
            health = _Watched(counted)
            for backend, (times, facts) in play.unwell.items():
                for _ in range(times):
                    Health.saw(health, backend, Failure(**facts), now())
            ledger = Ledger(opened.journal, replace(opened.outside, profile=play.profile, health=health))
            if counted is not None:
                counted.begin(simulator)
            outcome = _asked(ledger.conversation(KEY), play)
            (exchange,) = ledger.exchanges(KEY).by_id.values()
            return outcome, exchange.runs[0].memory_hash if exchange.runs else None


def _asked(chat: Chat, play: Play) -> Outcome:
    try:
        answer = _last(chat, play) if play.streamed else chat.ask(play.question)
    except AllBackendsFailed as nobody:
        return Outcome(_named(nobody.failures))
    return Outcome(_named(answer.failures), (answer.backend, answer.text))


def _last(chat: Chat, play: Play) -> Answer:
    *_, answer = chat.stream(play.question)
    assert isinstance(answer, Answer)  # noqa: S101 - a stream always ends with an Answer
    return answer


def _named(failures: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((failure.backend, failure.cause.value) for failure in failures)


class _Watched(Health):
    """Track the health of the backends and report the end of each run, so that the next run meets its own fault."""

    def __init__(self, counted: Counting | None) -> None:
        super().__init__()
        self._counted = counted

    def saw(self, backend: str, failure: Failure | None, at: datetime) -> None:
        super().saw(backend, failure, at)
        if self._counted is not None:
            self._counted.turn(backend, failure)
