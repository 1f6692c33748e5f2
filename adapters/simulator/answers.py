"""Produce the answers of the simulated models: the next scripted answer, or an echo of the user."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .ids import Seeded


@dataclass(frozen=True)
class ToolCall:
    """Represent a call of one of the app's functions.

    `arguments` is JSON text, as on the wire.
    """

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """Represent a model's answer: a text, or tool calls with an empty text."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Answers:
    """Hold the queue of scripted answers.

    A run that fails takes no answer, so its retry gets the answer that the run would have given.
    """

    def __init__(self, scripted: Iterable[Answer] = ()) -> None:
        self._queue = deque(scripted)

    def add(self, answers: Iterable[Answer]) -> None:
        """Append answers to the queue."""
        self._queue.extend(answers)

    def next(self, last_user_text: str) -> Answer:
        """Return the next scripted answer, or an echo of the user's last text."""
        return self._queue.popleft() if self._queue else echo(last_user_text)

    def replace(self, answers: Iterable[Answer]) -> None:
        """Replace the queue with these answers."""
        self._queue = deque(answers)

    @property
    def left(self) -> list[Answer]:
        """Return the scripted answers that are still in the queue."""
        return list(self._queue)


def called(seeded: Seeded, wanted: ToolCall) -> dict[str, Any]:
    """Return a tool call with a new id, in the form of runs and chat completions."""
    function = {"name": wanted.name, "arguments": wanted.arguments}
    return {"id": seeded.short("call_"), "type": "function", "function": function}


def echo(text: str) -> Answer:
    """Return the answer that is given if nothing is scripted."""
    return Answer(f"You said: {text}")


def first_half(text: str) -> str:
    """Return the first half of a text, as shown by an answer that was cut off."""
    words = text.split()
    return " ".join(words[: max(1, len(words) // 2)])


def token_count(text: str) -> int:
    """Return a rough token count: the number of words.

    The count is good enough for totals that add up.
    """
    return len(text.split())


def text_of(content: Any) -> str:
    """Return the text of a message's content.

    `content` is a string, or a list of parts of any API (text, input_text, output_text, refusal).
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return " ".join(filter(None, (_part_text(part) for part in content)))


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        return ""
    text = part.get("text", part.get("refusal", ""))
    value = text.get("value", "") if isinstance(text, Mapping) else text
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Failure:
    """End as `failed` with this error; a chat completion answers HTTP 500."""

    code: str = "server_error"
    message: str = "Sorry, something went wrong."


@dataclass(frozen=True)
class Incomplete:
    """End as `incomplete` for this reason; a chat completion shows it as its finish reason."""

    reason: str


@dataclass(frozen=True)
class End:
    """End in this status: `expired` or `cancelled`."""

    status: str


Outcome = Failure | Incomplete | End
