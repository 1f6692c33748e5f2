"""Rehearse a stored exchange on a simulator, to write a script that reproduces it.

The exchange is played at least twice. In the first play every request of a run meets the run's fault, and the number of
faults and the answers consumed are counted. The last play uses the script written from these counts, as a test will.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.exchange import Answer
from threadledger.domain.failures import Cause, Failure, Health, diagnose
from threadledger.domain.ids import now
from threadledger.domain.ledger import Chat, Ledger

from ..settings import settings_alone
from ..simulator import Script, Simulator, parse_answers
from ..wiring import open_ledger

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

    question: str | list[dict[str, Any]]
    """Text, or content parts."""
    memory: tuple[Mapping[str, Any], ...]
    profile: Profile
    settings: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata that is sent with the question."""
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
    """Play the exchange until every run matches its record, moving the fault of a run that does not match.

    If there is no other place to try, return the play that matched the record for the most runs.
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
        db = str(Path(folder, "ledger.db"))
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
            health = _CountingHealth(counted)
            for backend, (times, facts) in play.unwell.items():
                for _ in range(times):
                    Health.saw(health, backend, Failure(**facts), now())
            ledger = Ledger(opened.journal, replace(opened.services, profile=play.profile, health=health))
            if counted is not None:
                counted.begin(simulator)
            outcome = _asked(ledger.conversation(KEY), play)
            (exchange,) = ledger.exchanges(KEY).by_id.values()
            return outcome, exchange.runs[0].memory_hash if exchange.runs else None


def _asked(chat: Chat, play: Play) -> Outcome:
    try:
        answer = _last(chat, play) if play.streamed else chat.ask(play.question, metadata=play.metadata or None)
    except AllBackendsFailed as error:
        return Outcome(_named(error.failures))
    return Outcome(_named(answer.failures), (answer.backend, answer.text))


def _last(chat: Chat, play: Play) -> Answer:
    *_, answer = chat.stream(play.question, metadata=play.metadata or None)
    assert isinstance(answer, Answer)  # noqa: S101 - a stream always ends with an Answer
    return answer


def _named(failures: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((failure.backend, failure.cause.value) for failure in failures)


# The simulator is prepared for each run of a rehearsal, and the answers and faults that the run consumes are counted.
class _CountingHealth(Health):
    """Track the health of the backends and report the end of each run, so that the next run meets its own fault."""

    def __init__(self, counted: Counting | None) -> None:
        super().__init__()
        self._counted = counted

    def saw(self, backend: str, failure: Failure | None, at: datetime) -> None:
        super().saw(backend, failure, at)
        if self._counted is not None:
            self._counted.turn(backend, failure)


SEED = 7

NEVER = 1_000_000_000
"""Number of requests that a disabled fault lets pass."""


@dataclass(frozen=True)
class Placed:
    """Hold a fault and the number of requests of its run that succeed before it."""

    fault: Mapping[str, Any]
    passes: int = 0


@dataclass(frozen=True)
class Stage:
    """Describe one run to play: the model's answers, and the run's fault with one or more places to try in order."""

    backend: str
    cause: Cause | None
    answers: tuple[Any, ...] = ()
    faults: tuple[Placed, ...] = ()


class Counting:
    """Prepare the simulator for one run after another, and count what each run consumes.

    All faults are installed from the beginning, so that the simulator counts the requests that each of them lets pass.
    Only the fault of the current run is enabled.
    """

    def __init__(self, stages: Sequence[Stage], tried: Sequence[int]) -> None:
        self._stages = stages
        chosen = [stage.faults[place] if stage.faults else None for stage, place in zip(stages, tried, strict=True)]
        self._places = {number: place for place, number in enumerate(n for n, each in enumerate(chosen) if each)}
        self._actions = [each for each in chosen if each]
        self._simulator = Simulator()
        self._number = -1
        self._ended: list[tuple[str, Cause | None]] = []
        self._answers: list[Any] = []
        self._written: list[dict[str, Any]] = []

    def begin(self, simulator: Simulator) -> None:
        """Install the faults and prepare the first run; call this before sending the question."""
        self._simulator = simulator
        simulator.add_faults({**action.fault, "times": None, "after": NEVER} for action in self._actions)
        self._next()

    def turn(self, backend: str, failure: Failure | None) -> None:
        """Count what a finished run consumed, and prepare the next run."""
        if self._number < len(self._stages):
            self._count(self._stages[self._number])
        self._ended.append((backend, diagnose(failure) if failure is not None else None))
        self._next()

    def first_wrong(self) -> int | None:
        """Return the number of the first run that differs from the record, or None if all match."""
        wanted = [(stage.backend, stage.cause) for stage in self._stages]
        pairs = zip_longest(wanted, self._ended)
        return next((number for number, (one, other) in enumerate(pairs) if one != other), None)

    def script(self) -> dict[str, Any]:
        """Return the counted answers and faults as a script."""
        script: dict[str, Any] = {"seed": SEED, "answers": self._answers, "faults": self._written}
        Script.parse(script)
        return script

    def _next(self) -> None:
        self._number += 1
        ready = self._stages[self._number].answers if self._number < len(self._stages) else ()
        with self._simulator.provider.lock:
            self._simulator.provider.store.answers.replace(parse_answers(ready, "answers"))
            self._let(self._places.get(self._number), happen=True)

    def _count(self, stage: Stage) -> None:
        with self._simulator.provider.lock:
            left = len(self._simulator.provider.store.answers.left)
            place = self._places.get(self._number)
            self._answers += stage.answers[: len(stage.answers) - left]
            state = self._simulator.provider.faults.states[place] if place is not None else None
            if place is not None and state is not None and state.fired:
                action = dict(self._actions[place].fault)
                counts = {"after": state.fault.after, "times": state.fired}
                self._write({"on": action.pop("on"), **counts, **action})
            self._let(place, happen=False)

    def _write(self, fault: dict[str, Any]) -> None:
        """Append a fault to the script; if it continues the last one, raise that fault's count instead."""
        last = self._written[-1] if self._written else None
        if last is not None and fault == {**last, "after": last["after"] + last["times"], "times": fault["times"]}:
            last["times"] += fault["times"]
        else:
            self._written.append(fault)

    def _let(self, place: int | None, *, happen: bool) -> None:
        """Enable or disable one fault."""
        if place is None:
            return
        states = self._simulator.provider.faults.states
        state = states[place]
        after = state.seen + self._actions[place].passes if happen else NEVER
        states[place] = replace(state, fault=replace(state.fault, after=after))
        self._simulator.provider.faults.replace(states)
