"""Produce the answers of the simulated models: the next scripted answer, or an echo of the user."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ..wire import Json, objects
from .ids import SeededIds


@dataclass(frozen=True)
class ScriptedToolCall:
    """Represent a call of one of the app's functions.

    `arguments` is JSON text, as on the wire.
    """

    name: str
    arguments: str


@dataclass(frozen=True)
class ScriptedAnswer:
    """Represent a model's answer: a text, or tool calls with an empty text."""

    text: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()


class AnswerQueue:
    """Hold the queue of scripted answers.

    A run that fails takes no answer, so its retry gets the answer that the run would have given.
    """

    def __init__(self, scripted: Iterable[ScriptedAnswer] = ()) -> None:
        self._queue = deque(scripted)

    def add(self, answers: Iterable[ScriptedAnswer]) -> None:
        """Append answers to the queue."""
        self._queue.extend(answers)

    def next(self, last_user_text: str) -> ScriptedAnswer:
        """Return the next scripted answer, or an echo of the user's last text."""
        return self._queue.popleft() if self._queue else echo(last_user_text)

    def replace(self, answers: Iterable[ScriptedAnswer]) -> None:
        """Replace the queue with these answers."""
        self._queue = deque(answers)

    @property
    def left(self) -> list[ScriptedAnswer]:
        """Return the scripted answers that are still in the queue."""
        return list(self._queue)


def call_of(ids: SeededIds, scripted: ScriptedToolCall) -> Json:
    """Return a scripted tool call with a new id, in the form of runs and chat completions."""
    return objects.tool_call(ids.short("call_"), scripted.name, scripted.arguments)


def echo(text: str) -> ScriptedAnswer:
    """Return the answer that is given if nothing is scripted."""
    return ScriptedAnswer(f"You said: {text}")


def first_half(text: str) -> str:
    """Return the first half of a text, as shown by an answer that was cut off."""
    words = text.split()
    return " ".join(words[: max(1, len(words) // 2)])


def token_count(text: str) -> int:
    """Return a rough token count: the number of words.

    The count is good enough for totals that add up.
    """
    return len(text.split())


# How a run, a response or a chat completion can end without success.


@dataclass(frozen=True)
class ScriptedFailure:
    """End as `failed` with this error; a chat completion answers HTTP 500."""

    code: str = "server_error"
    message: str = "Sorry, something went wrong."


@dataclass(frozen=True)
class ScriptedIncompletion:
    """End as `incomplete` for this reason; a chat completion shows it as its finish reason."""

    reason: str


@dataclass(frozen=True)
class ScriptedEnd:
    """End in this status: `expired` or `cancelled`."""

    status: str


ScriptedOutcome = ScriptedFailure | ScriptedIncompletion | ScriptedEnd
