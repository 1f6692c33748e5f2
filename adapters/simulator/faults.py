"""Faults: what goes wrong, where, and how often. `Script` files and the control endpoints speak this format."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .call import Call
from .disruptions import Garbling, Hang, StreamError, Truncation
from .outcomes import End, Failure, Incomplete, Outcome
from .routes import CHAT, RESPONSE, RUN, Route

EVERYWHERE = "*"
ACTIONS = (
    "refuse", "fail", "incomplete", "end", "drop", "lose_answer", "hang", "ignore", "land_late", "reply", "slow",
    "truncate", "garble", "error_event", "thread_gone", "gone",
)  # fmt: skip
_WITHIN = (Hang, Truncation, Garbling, StreamError)


@dataclass(frozen=True)
class Refusal:
    """An answer in the error envelope, given before anything is done. `type` None: by the status."""

    status: int
    message: str = "The simulator was told to refuse this."
    type: str | None = None
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawReply:
    """An answer that is not the provider's: a proxy's page, broken JSON. Nothing is done."""

    text: str
    status: int = 200
    content_type: str = "application/json"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong at `on` ("POST /threads/{thread_id}/runs", or "*" for everywhere).

    `after` matching requests pass first; then it happens `times` times (None: for ever), each time with `probability`.
    Exactly one of the actions is set: `refuse`; `fail`, `incomplete` (a reason) and `end` ("expired", "cancelled") for
    what a model was asked; `drop` (nothing is done, the connection closes); `lose_answer` (all is done, the connection
    closes); `hang` (seconds to wait first, or a `Hang` within a stream); `ignore` (nothing is done and nothing said for so many
    seconds, then the connection closes); `land_late` (the connection closes, and it is
    done only after so many further requests); `reply`; `slow` (seconds before the body, or before every event of a
    stream); `truncate`, `garble` and `error_event` within a stream; `thread_gone` (the thread or conversation that is
    addressed is lost first); `gone` (the API is shut down, from this request on).
    """

    on: str
    times: int | None = 1
    after: int = 0
    probability: float = 1.0
    refuse: Refusal | None = None
    fail: Failure | None = None
    incomplete: str | None = None
    end: str | None = None
    drop: bool = False
    lose_answer: bool = False
    hang: float | Hang | None = None
    ignore: float | None = None
    land_late: int | None = None
    reply: RawReply | None = None
    slow: float | None = None
    truncate: Truncation | None = None
    garble: Garbling | None = None
    error_event: StreamError | None = None
    thread_gone: bool = False
    gone: bool = False

    @property
    def outcome(self) -> Outcome | None:
        """How a run ends under this fault; None for faults of another kind."""
        if self.incomplete is not None:
            return Incomplete(self.incomplete)
        return End(self.end) if self.end is not None else self.fail

    @property
    def silent_seconds(self) -> float | None:
        """How long nothing is said before anything is done, or not done; None where that is not the fault."""
        return self.hang if isinstance(self.hang, float) else self.ignore

    @property
    def undone(self) -> bool:
        """The request is not carried out, or not now."""
        return self.drop or any(each is not None for each in (self.ignore, self.land_late, self.reply))

    @property
    def needs_stream(self) -> bool:
        """It happens within a stream, and to nothing else."""
        return isinstance(self.hang or self.truncate or self.garble or self.error_event, _WITHIN)

    def fits(self, route: Route) -> bool:
        """Whether this fault can happen to a request of this route at all."""
        if self.on not in (EVERYWHERE, route.name) or (self.needs_stream and not route.streams):
            return False
        if self.thread_gone and route.api not in ("assistants", "conversations", "responses"):
            return False
        return self.outcome is None or route.makes in self.makers()

    def concerns(self, route: Route, call: Call) -> bool:
        """Whether it can happen to this request."""
        if (self.needs_stream and not call.wants_stream) or (self.thread_gone and call.addressed is None):
            return False
        return self.fits(route)

    def makers(self) -> tuple[str, ...]:
        """The kinds of route that know how to end like this."""
        if self.end is None:
            return (RUN, RESPONSE, CHAT)
        return (RUN, RESPONSE) if self.end == "cancelled" else (RUN,)


@dataclass(frozen=True)
class FaultState:
    """A fault, how many requests it matched, and how often it happened."""

    fault: Fault
    seen: int = 0
    fired: int = 0

    @property
    def spent(self) -> bool:
        """It will not happen again."""
        return self.fault.times is not None and self.fired >= self.fault.times


class Faults:
    """The faults in force, in the order they were added. The first whose turn it is happens; the others only count."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._states: list[FaultState] = []

    @property
    def states(self) -> list[FaultState]:
        """All faults, also spent ones, with their counts."""
        return list(self._states)

    def add(self, fault: Fault) -> None:
        """Put a fault at the end of the list."""
        self._states.append(FaultState(fault))

    def replace(self, states: Iterable[FaultState]) -> None:
        """These faults with their counts, and no others."""
        self._states = list(states)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._states.clear()

    def take(self, route: Route, call: Call) -> Fault | None:
        """The fault that happens to this request."""
        taken: Fault | None = None
        for index, state in enumerate(self._states):
            if state.spent or not state.fault.concerns(route, call):
                continue
            happens = taken is None and state.seen >= state.fault.after and self._hits(state.fault)
            self._states[index] = replace(state, seen=state.seen + 1, fired=state.fired + happens)
            if happens:
                taken = state.fault
        return taken

    def give_back(self, fault: Fault) -> None:
        """The request was refused for another reason before the fault could happen: it is still to come."""
        for index, state in enumerate(self._states):
            if state.fault is fault:
                self._states[index] = replace(state, fired=state.fired - 1)

    def _hits(self, fault: Fault) -> bool:
        return fault.probability >= 1 or self._chance() < fault.probability


def as_json(state: FaultState) -> dict[str, Any]:
    """A fault as the control endpoint lists it: what it does, in short, and its counts."""
    fault = state.fault
    action = next(name for name in ACTIONS if getattr(fault, name) not in (None, False))
    value = getattr(fault, action)
    shown = vars(value) if hasattr(value, "__dict__") else value
    limits = {"on": fault.on, "times": fault.times, "after": fault.after, "probability": fault.probability}
    return {**limits, action: shown, "seen": state.seen, "fired": state.fired}
