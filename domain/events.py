"""The facts, exactly as stored. This module is a storage format: a field is only ever added, with a default; none is
renamed or removed. Each event is stored under its class name alone, so that a moved class never breaks a log.

Fields are flat and of JSON's own types. `timestamp`, `event_id` and the version stand in columns of their own.
"""

from dataclasses import dataclass, field
from typing import Any

from .event_base import JSON as JSON  # noqa: PLC0414 - what is common to events is a part of this face
from .event_base import Event as Event  # noqa: PLC0414
from .event_base import known_only, own_fields, shape_of
from .event_base import make as make  # noqa: PLC0414


@dataclass(frozen=True, kw_only=True)
class ConversationStarted(Event):
    """A conversation began; with parent and version when it is a fork."""

    key: str
    metadata: JSON = field(default_factory=dict)
    parent_key: str | None = None
    parent_version: int | None = None


@dataclass(frozen=True, kw_only=True)
class MessageJournaled(Event):
    """A message was written down. `content` is text, a list of parts, null, or `[]` for a message without the key."""

    message_id: str
    role: str
    content: str | list[JSON] | None = None
    tool_calls: list[JSON] = field(default_factory=list)
    tool_call_id: str | None = None
    extra: JSON = field(default_factory=dict)
    exchange_id: str | None = None
    run_id: str | None = None
    source: str = "app"
    idempotency_key: str | None = None
    written_at: str | None = None
    """When the original was written, where an import knows it (ISO 8601)."""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A backend is about to be asked. The prompt is never stored: `memory_version` and `memory_rule` say how to view it
    again, `memory_hash` proves that the view is the same."""

    run_id: str
    exchange_id: str
    attempt: int
    backend: str
    model: str
    profile_hash: str | None = None
    memory_version: int = 0
    memory_rule: str = "all"
    memory_hash: str | None = None
    deadline: str | None = None
    """ISO 8601; a run still open after it was left by a crash."""
    rerun_of: str | None = None
    """The run whose exchange, or whose memory, is run again."""
    supersedes_run_id: str | None = None
    """The run whose answer this one's is to take the place of."""
    apart: bool = False
    """Asked outside the linked thread, though the backend answers in one: it is shown its memory whole."""
    shadow: bool = False
    """Only to be looked at: no exchange is answered, opened or closed by it, and nothing of it comes into memory."""


@dataclass(frozen=True, kw_only=True)
class RunCompleted(Event):
    """The backend answered; the answer is the `MessageJournaled` of the same commit."""

    run_id: str
    remote_run_id: str | None = None
    thread_id: str | None = None
    request_id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: JSON = field(default_factory=dict)
    duration_seconds: float | None = None
    thread_version: int | None = None
    """Up to which version the thread held the journal when the run answered in it."""
    goes_on: bool = False
    """The model asked for tools: the exchange has no answer yet and goes on with their results, in another run."""
    shadow_messages: list[JSON] = field(default_factory=list)
    """Of a shadow run: what it said and which tools it used, the answer last; journaled nowhere else."""


@dataclass(frozen=True, kw_only=True)
class RunFailed(Event):
    """The run ended without an answer. Facts only: the cause is derived from them."""

    run_id: str
    status: str
    code: str | None = None
    type: str | None = None
    message: str | None = None
    http_status: int | None = None
    request_id: str | None = None
    retry_after_seconds: float | None = None
    param: str | None = None
    duration_seconds: float | None = None
    partial_text: str | None = None
    remote_run_id: str | None = None
    thread_id: str | None = None
    details: JSON = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FallbackUsed(Event):
    """The next backend takes over after a failed run; stored in one commit with that backend's `RunStarted`."""

    exchange_id: str
    failed_run_id: str
    from_backend: str
    to_backend: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ExchangeAbandoned(Event):
    """Nobody answered, and nobody will try again by itself."""

    exchange_id: str
    run_ids: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ThreadLinked(Event):
    """The provider keeps a copy of this memory under `thread_id`."""

    backend: str
    thread_id: str
    endpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class ThreadLost(Event):
    """The provider's copy is gone."""

    backend: str
    thread_id: str
    reason: str = ""
    endpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class ThreadRebuilt(Event):
    """A thread was written anew from the journal, read back and found equal. It is the linked one from here on."""

    backend: str
    thread_id: str
    old_thread_id: str | None = None
    endpoint: str = ""
    memory_version: int = 0
    message_count: int = 0
    digest: str = ""
    losses: JSON = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ThreadReconciled(Event):
    """A thread was mended: what it lacked was sent, surplus copies of our own writes were deleted from it, what had landed
    though no answer came was adopted."""

    backend: str
    thread_id: str
    memory_version: int
    sent: int = 0
    deleted: list[str] = field(default_factory=list)
    """The provider's ids of the entries."""
    adopted: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class MessageRetracted(Event):
    """A message no longer belongs to memory. It stays in the log."""

    message_id: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class MemoryCleared(Event):
    """Memory is empty up to and including this version. The log is not."""

    up_to_version: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RerunAccepted(Event):
    """A rerun's answer is now the answer of the exchange; what it supersedes leaves memory."""

    exchange_id: str
    run_id: str
    message_id: str
    superseded_message_id: str | None = None
    superseded_run_id: str | None = None
    behind_message_id: str | None = None
    """Where newer messages had come: the messages of the run stand right behind this one, not at the end of memory."""


@dataclass(frozen=True, kw_only=True)
class ProfileDefined(Event):
    """What an assistant is made of, on a stream of its own named by the content's hash: stored once."""

    profile_hash: str
    name: str
    instructions: str
    model: str | None = None
    tools: list[JSON] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class JobItemsPlanned(Event):
    """Part of a job's plan, on a stream of the job's own: its items from number `first` on. Each pin holds the key of a
    conversation and the version it had when it was planned."""

    first: int
    pins: list[JSON]


@dataclass(frozen=True, kw_only=True)
class JobStarted(Event):
    """Mass work was begun: the plan stands in the events before this one. `options` are enough to go on with it."""

    kind: str
    items: int
    options: JSON = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobItemsEnded(Event):
    """What became of items of a job: `item` (its number), `state`, `reason` and facts of each; `before` is the state of an
    item that had ended in an earlier attempt."""

    items: list[JSON]


@dataclass(frozen=True, kw_only=True)
class JobCancelled(Event):
    """Nobody will go on with a job."""

    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class FailureGroupResolved(Event):
    """What made a group of failures is mended, on the ledger's stream of groups. `group` is an id that the rule of this
    number made of cause, backend and normalised message; those are kept so that the decision can be read by itself."""

    group: str
    rule: int
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FailureGroupMuted(Event):
    """A group of failures is known and is not to be shown, until then (ISO 8601) or for ever; on the stream of groups."""

    group: str
    rule: int
    until: str | None = None
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FailureGroupReopened(Event):
    """A group of failures is neither resolved nor muted any more; on the stream of groups."""

    group: str
    rule: int
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a newer threadledger: its name and fields are kept as they are, and it changes nothing here."""

    topic: str
    data: JSON = field(default_factory=dict)


EVENTS: dict[str, type[Event]] = {
    event.__name__: event
    for event in (
        ConversationStarted,
        MessageJournaled,
        RunStarted,
        RunCompleted,
        RunFailed,
        FallbackUsed,
        ExchangeAbandoned,
        ThreadLinked,
        ThreadLost,
        ThreadRebuilt,
        ThreadReconciled,
        MessageRetracted,
        MemoryCleared,
        RerunAccepted,
        ProfileDefined,
        JobItemsPlanned,
        JobStarted,
        JobItemsEnded,
        JobCancelled,
        FailureGroupResolved,
        FailureGroupMuted,
        FailureGroupReopened,
    )
}
"""The closed registry: the only names that a stored row may have and be understood."""


def topic_of(event: Event) -> str:
    """The name under which an event is stored."""
    return event.topic if isinstance(event, UnknownEvent) else type(event).__name__


def payload_of(event: Event) -> JSON:
    """An event's own fields as stored: without those that stand in columns, and without those at their default."""
    if isinstance(event, UnknownEvent):
        return event.data
    values = vars(event)
    return {name: values[name] for name, default in own_fields(type(event)).items() if values[name] != default}


def restore_event(topic: str, payload: JSON, **columns: Any) -> Event:
    """The event of a stored row. Fields that this version does not know are passed over, missing ones get their default."""
    event_class = EVENTS.get(topic)
    if event_class is None:
        return UnknownEvent(topic=topic, data=payload, **columns)
    known = shape_of(event_class).known
    return make(event_class, payload if payload.keys() <= known else known_only(payload, known), **columns)
