"""Define faults: what goes wrong, where, and how often.

Script files and the control endpoints use this format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..wire import CHAT, RESPONSE, RUN, Route, RouteCall, sse
from .answers import ScriptedEnd, ScriptedFailure, ScriptedIncompletion, ScriptedOutcome

EVERYWHERE = "*"
ACTIONS = (
    "refuse", "fail", "incomplete", "end", "drop", "lose_answer", "hang", "ignore", "land_late", "reply", "slow",
    "truncate", "garble", "error_event", "thread_gone", "gone",
)  # fmt: skip

# Faults that happen within a stream, each after a given number of its events. A stream with fewer events is not affected.
CLEAN, BROKEN = "clean", "broken"
FLAT, ENVELOPE = "flat", "envelope"
GARBLED = b'data: {"this line": is no JSON\n\n'


@dataclass(frozen=True)
class Truncation:
    """Cut the stream: `clean`, as if it had ended, or `broken`, in the middle of the next event.

    The request is still carried out, unless `done` is false: then the provider stops at the same point.
    """

    events: int = 0
    kind: str = CLEAN
    done: bool = True


@dataclass(frozen=True)
class Hang:
    """Pause the stream for `seconds`, or until the client disconnects."""

    seconds: float
    events: int = 0


@dataclass(frozen=True)
class Garbling:
    """Send a line that is not JSON between two events."""

    events: int = 0


@dataclass(frozen=True)
class StreamError:
    """Send an error event instead of the rest of the stream.

    `form` is `flat`, as the API documents it, or `envelope`, as in a refusal. A run or response in progress ends
    `failed`. Chat Completions always use the envelope.
    """

    events: int = 0
    form: str = FLAT
    code: str = "server_error"
    message: str = "Sorry, something went wrong."

    def frame(self, api: str, number: int) -> bytes:
        """Return the event as bytes for the wire; `number` is its position in the stream."""
        enveloped = self.form == ENVELOPE
        return sse.error_frame(api, self.code, self.message, number=number, enveloped=enveloped)


_WITHIN = (Hang, Truncation, Garbling, StreamError)


@dataclass(frozen=True)
class Refusal:
    """Answer with an error envelope and do not carry out the request.

    `type` None means the usual type for the status.
    """

    status: int
    message: str = "The simulator refused this request as scripted."
    type: str | None = None
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawReply:
    """Answer with a body that is not the provider's, such as a proxy's page or broken JSON.

    The request is not carried out.
    """

    text: str
    status: int = 200
    content_type: str = "application/json"


@dataclass(frozen=True)
class Fault:
    """Describe one thing that goes wrong at a route.

    `on` is the route, such as "POST /threads/{thread_id}/runs", or "*" for every route. `after` matching requests pass
    first; then the fault happens `times` times (None: no limit), each time with `probability`. Exactly one action is
    set:

    - `refuse`: answer with an error.
    - `fail`, `incomplete` (a reason), `end` ("expired" or "cancelled"): determine how the model's answer ends.
    - `drop`: close the connection without carrying out the request.
    - `lose_answer`: carry out the request, then close the connection without an answer.
    - `hang`: wait for a number of seconds, then carry out the request; or, with a `Hang`, pause within a stream.
    - `ignore`: send nothing for a number of seconds, then close the connection without carrying out the request.
    - `land_late`: close the connection, and carry out the request after this number of further requests.
    - `reply`: send a `RawReply` without carrying out the request.
    - `slow`: wait for a number of seconds before the body, or before every event of a stream.
    - `truncate`, `garble`, `error_event`: disrupt a stream.
    - `thread_gone`: delete the addressed thread or conversation first.
    - `gone`: shut the API down, starting with this request.
    """

    on: str
    times: int | None = 1
    after: int = 0
    probability: float = 1.0
    refuse: Refusal | None = None
    fail: ScriptedFailure | None = None
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
    def outcome(self) -> ScriptedOutcome | None:
        """Return how a run ends under this fault, or None for faults of another kind."""
        if self.incomplete is not None:
            return ScriptedIncompletion(self.incomplete)
        return ScriptedEnd(self.end) if self.end is not None else self.fail

    @property
    def silent_seconds(self) -> float | None:
        """Return how many seconds the provider waits first, or None if the fault causes no such wait."""
        return self.hang if isinstance(self.hang, float) else self.ignore

    @property
    def undone(self) -> bool:
        """Return whether the request is not carried out, or only later."""
        return self.drop or any(each is not None for each in (self.ignore, self.land_late, self.reply))

    @property
    def needs_stream(self) -> bool:
        """Return whether the fault can only happen within a stream."""
        return isinstance(self.hang or self.truncate or self.garble or self.error_event, _WITHIN)

    def fits(self, route: Route) -> bool:
        """Return whether this fault can happen to requests of this route."""
        if self.on not in (EVERYWHERE, route.name) or (self.needs_stream and not route.streams):
            return False
        if self.thread_gone and route.api not in ("assistants", "conversations", "responses"):
            return False
        return self.outcome is None or route.makes in self.makers()

    def concerns(self, route: Route, call: RouteCall) -> bool:
        """Return whether this fault can happen to this request."""
        if (self.needs_stream and not call.wants_stream) or (self.thread_gone and call.addressed is None):
            return False
        return self.fits(route)

    def makers(self) -> tuple[str, ...]:
        """Return the kinds of route whose answers can end as this fault requires."""
        if self.end is None:
            return (RUN, RESPONSE, CHAT)
        return (RUN, RESPONSE) if self.end == "cancelled" else (RUN,)


@dataclass(frozen=True)
class FaultState:
    """Hold a fault, how many requests it matched, and how often it happened."""

    fault: Fault
    seen: int = 0
    fired: int = 0

    @property
    def spent(self) -> bool:
        """Return whether the fault will not happen again."""
        return self.fault.times is not None and self.fired >= self.fault.times


class Faults:
    """Hold the active faults in the order they were added.

    The first fault that is due happens to a request; the others only count the request.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._states: list[FaultState] = []

    @property
    def states(self) -> list[FaultState]:
        """Return all faults with their counts, including spent ones."""
        return list(self._states)

    def add(self, fault: Fault) -> None:
        """Append a fault to the list."""
        self._states.append(FaultState(fault))

    def replace(self, states: Iterable[FaultState]) -> None:
        """Replace the list with these faults and their counts."""
        self._states = list(states)

    def clear(self) -> None:
        """Remove all faults."""
        self._states.clear()

    def take(self, route: Route, call: RouteCall) -> Fault | None:
        """Return the fault that happens to this request, or None, and update the counts."""
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
        """Take back one use of a fault.

        The request was refused for another reason before the fault could happen, so the fault is still due.
        """
        for index, state in enumerate(self._states):
            if state.fault is fault:
                self._states[index] = replace(state, fired=state.fired - 1)

    def _hits(self, fault: Fault) -> bool:
        return fault.probability >= 1 or self._chance() < fault.probability


def as_json(state: FaultState) -> dict[str, Any]:
    """Return a fault as the control endpoint lists it, with its action and its counts."""
    fault = state.fault
    action = next(name for name in ACTIONS if getattr(fault, name) not in (None, False))
    value = getattr(fault, action)
    shown = vars(value) if hasattr(value, "__dict__") else value
    limits = {"on": fault.on, "times": fault.times, "after": fault.after, "probability": fault.probability}
    return {**limits, action: shown, "seen": state.seen, "fired": state.fired}
