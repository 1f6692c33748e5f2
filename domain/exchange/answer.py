"""Define what a caller receives while an exchange is in progress: pieces of text, notices, and the answer.

The pieces of one message of one run, joined, are that message's text. The `Answer` comes last, when it is journaled; all
pieces before a `StartedOver` belong to a run that failed, and are part of the answer only if it `continues` them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..conversation.messages import Usage

if TYPE_CHECKING:
    from ..conversation.messages import ToolCall
    from ..failures import RecordedFailure


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
    """Represent the start of another run after a failed one, whose streamed text is not the answer.

    With `continues`, it is the beginning of the answer.
    """

    failed_run_id: str
    run_id: str
    backend: str
    model: str
    reason: str
    fallback: bool
    """Whether another backend has taken over; otherwise the same backend retries."""
    from_backend: str = ""
    dropped: Sequence[str] = ()
    """What the backend is not given, because it does not have it: `tool:TYPE`, `part:TYPE`."""
    continues: bool = False
    """Whether the text of the failed run is kept: the pieces that follow continue it."""
    type: Literal["started_over"] = "started_over"


@dataclass(frozen=True, slots=True)
class Began:
    """Represent the start of a run of a served request, with the id of the first message that the model will say.

    Each further message of the run has the next id (`id_behind`).
    """

    run_id: str
    backend: str
    model: str
    message_id: str
    type: Literal["began"] = "began"


@dataclass(frozen=True, slots=True)
class NotShown:
    """Represent the start of a run whose backend cannot be shown parts of the memory, such as images."""

    losses: Mapping[str, int]
    """Number of these parts by kind, `part:TYPE`."""
    run_id: str
    backend: str
    type: Literal["not_shown"] = "not_shown"


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
    dropped: Sequence[str] = ()
    """What the backend was not given, because it does not have it: `tool:TYPE`, `part:TYPE`, `option:NAME`."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """Number of parts, by kind, that the model was not shown (`part:TYPE`) or that of its answer could not be kept."""
    selected: bool = True
    """Whether memory has the answer; False if another branch was selected before it arrived, so that it is a variant."""
    pending: Sequence[ToolCall] = ()
    """Tool calls on which a person has to decide before there is an answer; see `Chat.approve`."""
    type: Literal["answer"] = "answer"
    """Type name that distinguishes the parts of a stream."""
    response_format: Any = field(default=None, repr=False, compare=False)
    """What the answer was to fit: a model class or a response format; None if any text fits."""

    @property
    def parsed(self) -> Any:
        """Return the answer as an object of the model class, or as a JSON value; None if no structure was asked for.

        Raises:
            AnswerDoesNotFit: it is another value; the answer was paid for and is journaled, so `text` has it.
        """
        from .structured import parsed

        return parsed(self)


StreamPart = Delta | ToolUse | StartedOver | NotShown | Answer
