"""What a caller hears while an exchange is under way: pieces of text, and what must not be taken for the answer.

Of one run and one message, the pieces joined are that message's text. The answer itself (`Answer`) comes last, when it is
journaled; where `StartedOver` comes, all pieces before it belong to a run that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .failures import RecordedFailure
from .messages import Usage


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of text; `message` counts the messages of the run from 0."""

    text: str
    run_id: str = ""
    message: int = 0
    type: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The model asked for a function; pieces that follow belong to the next message. `arguments` is JSON text."""

    name: str
    arguments: str
    call_id: str
    run_id: str = ""
    type: Literal["tool_use"] = "tool_use"


@dataclass(frozen=True, slots=True)
class StartedOver:
    """A run failed and another one begins: what was told of the failed one is not the answer."""

    failed_run_id: str
    run_id: str
    backend: str
    model: str
    reason: str
    fallback: bool
    """Whether another backend has taken over; otherwise the same one tries again."""
    from_backend: str = ""
    type: Literal["started_over"] = "started_over"


@dataclass(frozen=True)
class Answer:
    """The answer of an exchange, journaled before anybody sees it."""

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
    """Tells it from the other parts of a stream."""


StreamPart = Delta | ToolUse | StartedOver | Answer
