"""Define what a caller receives while an exchange is in progress: pieces of text, notices, and the answer.

The pieces of one message of one run, joined, are that message's text. The `Answer` comes last, when it is journaled; all
pieces before a `StartedOver` belong to a run that failed, and are part of the answer only if it `continues` them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ..conversation import events as e
from ..conversation.messages import Source, Usage, restore_message

if TYPE_CHECKING:
    from ..failures import RecordedFailure
    from ..journal import Journal


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
    """What the backend was not given, because it does not have it: `tool:TYPE`, `part:TYPE`."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """Number of parts, by kind, that the model was not shown (`part:TYPE`) or that of its answer could not be kept."""
    type: Literal["answer"] = "answer"
    """Type name that distinguishes the parts of a stream."""


StreamPart = Delta | ToolUse | StartedOver | NotShown | Answer


def recorded_answer(journal: Journal, key: str, exchange_id: str, after: int = 0) -> Answer | None:
    """Return the answer that the journal holds for an exchange; None if it has none.

    `after` is a version before the exchange's first run: earlier events are not read.
    """
    exchange = journal.exchanges(key, after).by_id.get(exchange_id)
    if exchange is None or exchange.answered_by is None:
        return None
    run = next(run for run in exchange.runs if run.run_id == exchange.answered_by)
    answers = [
        event
        for event in journal.history(key, after=run.version)
        if isinstance(event, e.MessageJournaled) and event.run_id == run.run_id and event.role == "assistant"
    ]
    if not answers or run.completed is None:
        return None
    usage = run.completed.usage
    return Answer(
        text=restore_message(answers[-1]).text,
        key=key,
        exchange_id=exchange_id,
        run_id=run.run_id,
        message_id=answers[-1].message_id,
        backend=run.backend,
        model=run.completed.model or run.model,
        fallback=answers[-1].source == Source.FALLBACK,
        failures=exchange.failures(),
        version=answers[-1].originator_version,
        usage=Usage(*(usage.get(each.name, 0) for each in fields(Usage))),
        dropped=tuple(run.dropped),
        losses=run.all_losses,
    )
