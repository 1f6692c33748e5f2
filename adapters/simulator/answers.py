"""What the simulated models say: the next scripted answer, or an echo."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .ids import Seeded


@dataclass(frozen=True)
class ToolCall:
    """A call of one of the app's functions; `arguments` is JSON text, as on the wire."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """A text, or tool calls (then the text is empty)."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Answers:
    """The queue of scripted answers. A run that fails takes none, so that its retry gets what it would have said."""

    def __init__(self, scripted: Iterable[Answer] = ()) -> None:
        self._queue = deque(scripted)

    def add(self, answers: Iterable[Answer]) -> None:
        """Put answers at the queue's end."""
        self._queue.extend(answers)

    def next(self, last_user_text: str) -> Answer:
        """The next scripted answer, or an echo of the user's last text."""
        return self._queue.popleft() if self._queue else echo(last_user_text)

    def replace(self, answers: Iterable[Answer]) -> None:
        """These answers, and no others."""
        self._queue = deque(answers)

    @property
    def left(self) -> list[Answer]:
        """The scripted answers nobody has taken yet."""
        return list(self._queue)


def called(seeded: Seeded, wanted: ToolCall) -> dict[str, Any]:
    """A tool call with its id, as runs and chat completions show it."""
    function = {"name": wanted.name, "arguments": wanted.arguments}
    return {"id": seeded.short("call_"), "type": "function", "function": function}


def echo(text: str) -> Answer:
    """What is said where nothing is scripted."""
    return Answer(f"You said: {text}")


def first_half(text: str) -> str:
    """What an answer cut off half-way still shows."""
    words = text.split()
    return " ".join(words[: max(1, len(words) // 2)])


def token_count(text: str) -> int:
    """A rough count: words. Good enough for totals that add up."""
    return len(text.split())


def text_of(content: Any) -> str:
    """The text in a message's content: a string, or parts of any surface (text, input_text, output_text, refusal)."""
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
