"""Produce the answers of the simulated models: the next scripted answer, or an echo of the user."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..wire import Json, errors, objects
from .ids import SeededIds
from .sample import EndlessSchemaError, smallest


@dataclass(frozen=True)
class ScriptedToolCall:
    """Represent a call of one of the app's functions.

    `arguments` is JSON text, as on the wire. `call_id` is new for each call unless the script gives it.
    """

    name: str
    arguments: str
    call_id: str | None = None


@dataclass(frozen=True)
class ScriptedAnswer:
    """Represent a model's answer: a text, or tool calls with an empty text.

    `output` are the items of a response, if the script gives more than that; `text` and `tool_calls` are then what other
    APIs show of them. `audio` is the sound of a chat completion, and `usage` numbers of tokens that replace the counted.
    """

    text: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    output: tuple[Json, ...] = ()
    audio: Json | None = None
    usage: dict[str, int] = field(default_factory=dict)


class AnswerQueue:
    """Hold the queue of scripted answers.

    A run that fails takes no answer, so its retry gets the answer that the run would have given.
    """

    def __init__(self, scripted: Iterable[ScriptedAnswer] = ()) -> None:
        self._queue = deque(scripted)

    def add(self, answers: Iterable[ScriptedAnswer]) -> None:
        """Append answers to the queue."""
        self._queue.extend(answers)

    def next(self, last_user_text: str, wanted: Json | None = None) -> ScriptedAnswer:
        """Return the next scripted answer, or else an echo of the user's last text, or JSON if the request wants it.

        `wanted` is the format of the answer, as in `text.format` of a response.
        """
        return self._queue.popleft() if self._queue else unscripted(last_user_text, wanted)

    def replace(self, answers: Iterable[ScriptedAnswer]) -> None:
        """Replace the queue with these answers."""
        self._queue = deque(answers)

    @property
    def left(self) -> list[ScriptedAnswer]:
        """Return the scripted answers that are still in the queue."""
        return list(self._queue)


def call_of(ids: SeededIds, scripted: ScriptedToolCall) -> Json:
    """Return a scripted tool call with its id, in the form of runs and chat completions."""
    return objects.tool_call(scripted.call_id or ids.short("call_"), scripted.name, scripted.arguments)


def unscripted(last_user_text: str, wanted: Json | None = None) -> ScriptedAnswer:
    """Return the answer that is given if nothing is scripted: the smallest JSON in the wanted format, or an echo."""
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return echo(last_user_text)
    try:
        return ScriptedAnswer(json.dumps(smallest(wanted.get("schema") or {"type": "object"})))
    except EndlessSchemaError as error:
        raise errors.bad_request(f"Invalid schema: {error}.", None, "invalid_json_schema") from error


def echo(text: str) -> ScriptedAnswer:
    """Return the answer that is given if nothing is scripted."""
    return ScriptedAnswer(f"You said: {text}")


def answer_usage(answer: ScriptedAnswer, given: int, written: int) -> tuple[int, int, int, int]:
    """Return the tokens of the input and of the output, and those of them that were cached and used for reasoning.

    `given` and `written` are the counted ones. The script's numbers replace them; reasoning is added to what was counted.
    """
    usage = answer.usage
    cached, reasoning = usage.get("cached_tokens", 0), usage.get("reasoning_tokens", 0)
    return (
        usage.get("input_tokens", max(given, cached)),
        usage.get("output_tokens", written + reasoning),
        cached,
        reasoning,
    )


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
