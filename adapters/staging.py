"""Prepare the simulator for each run of a rehearsal, and count the answers and faults that the run consumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from threadledger.domain import Cause, Failure, diagnose

from .simulator import Script, Simulator
from .simulator.script import parse_answers

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
