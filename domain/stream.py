"""Define the parts of a stream that a caller receives while an exchange is in progress.

The `Delta` texts of one run and one message, joined, are the text of that message. The `Answer` comes last, after it
was journaled. All parts before a `StartedOver` belong to a failed run and must not be taken for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .failures import RecordedFailure
from .messages import Usage


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
