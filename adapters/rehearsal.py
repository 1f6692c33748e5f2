"""An exchange of the ledger, played again at a simulator, so that a script can be written that brings it back.

It is played at least twice. The first time each run meets its fault as often as it asks, and it is counted how often that
is and which answers were taken; the last time by the script that was written from it, as a test will play it.
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
"""The conversation of a rehearsal, and of the test: an app's own key may name a person."""

PLAYED_MAX = 8
"""How often an exchange is played with its faults in other places."""


@dataclass(frozen=True)
class Outcome:
    """What came of a question: the runs that failed, in order, and who answered with what."""

    failures: tuple[tuple[str, str], ...] = ()
    """(backend, cause)"""
    answer: tuple[str, str] | None = None
    """(backend, text); None where nobody answered"""


@dataclass(frozen=True)
class Play:
    """All that it takes to play an exchange."""

    question: str
    memory: tuple[Mapping[str, Any], ...]
    profile: Profile
    settings: Mapping[str, Any]
    results: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """function → its results, in the order of the calls"""
    unwell: Mapping[str, tuple[int, Mapping[str, Any]]] = field(default_factory=dict)
    """backend → how many failures it met before, and the facts of each"""
    streamed: bool = False


@dataclass(frozen=True)
class Rehearsed:
    """A script, and what comes of the exchange when it is played by it."""

    script: dict[str, Any]
    outcome: Outcome
    memory_hash: str | None


def rehearse(play: Play, stages: Sequence[Stage]) -> Rehearsed:
    """Write the script of an exchange, and play it by that."""
    import openai  # noqa: F401 - loaded here, so that no run's time goes by while it is

    counted = _counted(play, stages)
    script = counted.script()
    outcome, memory_hash = _played(play, script, None)
    return Rehearsed(script, outcome, memory_hash)


def _counted(play: Play, stages: Sequence[Stage]) -> Counting:
    """Play it until each run goes as it is on record, with faults in other places where one does not; or until there is no
    other place left to try: then the play that went well for longest."""
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
        raise AssertionError("what was played went well or did not")
    return best


def stub_tools(results: Mapping[str, Sequence[str]]) -> dict[str, Callable[..., str]]:
    """Functions that give what was given once, call after call."""

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
    assert isinstance(answer, Answer)  # noqa: S101 - what a stream promises
    return answer


def _named(failures: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((failure.backend, failure.cause.value) for failure in failures)


class _Watched(Health):
    """The health of the backends, which tells when a run of one is over: the next one meets something else."""

    def __init__(self, counted: Counting | None) -> None:
        super().__init__()
        self._counted = counted

    def saw(self, backend: str, failure: Failure | None, at: datetime) -> None:
        super().saw(backend, failure, at)
        if self._counted is not None:
            self._counted.turn(backend, failure)
