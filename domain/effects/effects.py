"""Represent side effects as values: a generator yields them and a driver (`driving.py`) performs them.

The same generator serves the blocking and the asynchronous API, so every decision and every write is implemented once:

    def catch_up(self, …) -> Effects[int]:
        held = yield from mirror.read(thread_id)      # yields a Call
        yield Pause(0.5)
        version = yield Work(lambda: journal.commit(key, decide))
        return version

The driver sends the result of an effect back into the generator. An exception is raised at the effect's `yield`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from ..conversation.messages import Usage
from ..failures import RecordedFailure

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """Represent a network call; its result is sent back."""

    blocking: Callable[[], Any]
    awaited: Callable[[], Awaitable[Any]]
    """The same call, for a driver that awaits it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Represent database work on the ledger; its return value is sent back. Drivers never interrupt it."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Use:
    """Represent a call of an app's function, blocking or asynchronous; its return value is sent back."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Represent a pause, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Represent a stream part or a job item for the listener, if there is one."""

    part: StreamPart | Any


class ListenerLeft(BaseException):
    """Raised in effects whose listener has stopped reading.

    `GeneratorExit` does not work here: `yield from` closes the inner generator instead of raising the exception inside
    it. A generator that is being closed must not yield, so it could not clean up.
    """


Effect = Call | Work | Use | Pause | Tell


Effects = Generator[Effect, Any, T]
"""Generator of effects that returns a T."""


def attended(
    effects: Effects[T],
    after: Callable[[Effect], Effects[None]],
    before: Callable[[Effect], Effect] = lambda effect: effect,
) -> Effects[T]:
    """Wrap effects: pass each one through `before`, and run `after` when it has been performed.

    Every exception, including one raised by `after`, is raised inside the wrapped effects so that they can clean up.
    """
    step: Callable[[Any], Effect] = effects.send
    given: Any = None
    while True:
        try:
            effect = before(step(given))
        except StopIteration as end:
            return cast("T", end.value)
        try:
            step = effects.send
            given = yield effect
            yield from after(effect)
        except BaseException as error:  # noqa: BLE001 - the effects must see every exception first
            step, given = effects.throw, error


@dataclass(frozen=True, slots=True)
class Delta:
    """Represent the next piece of text; `message` counts the messages of the run from 0."""

    text: str
    run_id: str = ""
    message: int = 0
    type: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Represent a function call requested by the model; later text belongs to the next message.

    `arguments` is JSON text.
    """

    name: str
    arguments: str
    call_id: str
    run_id: str = ""
    type: Literal["tool_use"] = "tool_use"


@dataclass(frozen=True, slots=True)
class StartedOver:
    """Represent the start of another run after a failed one, whose streamed text is not the answer."""

    failed_run_id: str
    run_id: str
    backend: str
    model: str
    reason: str
    fallback: bool
    """Whether another backend has taken over; otherwise the same backend retries."""
    from_backend: str = ""
    type: Literal["started_over"] = "started_over"


@dataclass(frozen=True)
class Answer:
    """Represent the answer of an exchange, journaled before it is returned."""

    text: str
    key: str
    exchange_id: str
    run_id: str
    message_id: str
    backend: str
    model: str
    fallback: bool = False
    failures: Sequence[RecordedFailure] = ()
    version: int = 0
    usage: Usage = field(default_factory=Usage)
    type: Literal["answer"] = "answer"
    """Type name that distinguishes the parts of a stream."""


StreamPart = Delta | ToolUse | StartedOver | Answer
