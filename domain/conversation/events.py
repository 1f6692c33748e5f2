"""Define the events exactly as they are stored, and create them from stored fields.

This module is a storage format. Fields are only ever added, with a default; they are never renamed or removed. Each
event is stored under its class name alone, so that moving a class never breaks a log. Fields are flat and use JSON
types only. The fields of `Event` (such as `timestamp`, `event_id` and the version) have their own columns.

Events are msgspec Structs: `journal/rows.py` decodes a stored payload directly into its class.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from msgspec import NODEFAULT, Struct, field, json
from msgspec.structs import astuple, fields

JSON = dict[str, Any]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Define the fields of every event: its stream, its version there (from 1, without gaps), its time, id and actor.

    They have defaults only because a stored payload lacks them; whoever creates an event gives the first four. These have
    columns of their own, the actor is part of the payload.
    """

    SCHEMA: ClassVar[int] = 2
    """Newest version of a row's format that this version reads: 1 is a payload in ASCII, 2 in UTF-8."""

    originator_id: str = ""
    originator_version: int = 0
    timestamp: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    event_id: str = ""
    actor: str | None = None
    """Who caused it: a name given by the app, or `cli:USER` for a command."""


class ConversationStarted(Event, frozen=True, kw_only=True):
    """Record the start of a conversation.

    `parent_key` and `parent_version` are set if it is a fork.
    """

    key: str
    metadata: JSON = field(default_factory=dict)
    parent_key: str | None = None
    parent_version: int | None = None
    generation: int = 0
    """Number of conversations of this key that were deleted before: the stream continues after `ConversationDeleted`."""
    written_at: str | None = None
    """Time at which the original was started (ISO 8601), if an import knows it."""
    origin: JSON = field(default_factory=dict)
    """What the source says about an imported thread: `thread_id`, `tool_resources`, and `runs` before its first message."""


class ConversationDescribed(Event, frozen=True, kw_only=True):
    """Record what an app says about a conversation. None changes nothing; an empty value, and false, clear what was said."""

    title: str | None = None
    owner: str | None = None
    """Id of whom it belongs to: a filter of lists, not a boundary."""
    tags: list[str] | None = None
    archived: bool | None = None
    metadata: JSON | None = None
    """The whole metadata; the first value is that of `ConversationStarted`."""


class ConversationDeleted(Event, frozen=True, kw_only=True):
    """Record that a conversation was deleted: what came before is read only by an audit, and remains in the log.

    The next event of the stream starts another conversation with the same key.
    """

    reason: str = ""


class MessageJournaled(Event, frozen=True, kw_only=True):
    """Record a message.

    `content` is text, a list of parts, null, or `[]` for a message without a `content` key.
    """

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
    batch: int = 1
    """Number of messages of its commit, this one first, that its idempotency key stands for."""
    written_at: str | None = None
    """Time at which the original was written (ISO 8601), if an import knows it."""
    origin: JSON = field(default_factory=dict)
    """Ids, times and metadata of the original at its source, if it was imported."""
    blobs: list[str] = field(default_factory=list)
    """Addresses of the attachments that it refers to."""
    native: JSON = field(default_factory=dict)
    """What the provider's items hold beyond the content, word for word: see `native.py`."""
    parent_message_id: str | None = None
    """Id of the message that it follows, if that is not the end of memory; "" at the beginning. Such a message is aside:
    it is in memory only if it, or one that follows it, is selected."""
    parent_version: int | None = None
    """Version of that message, with 0 for the beginning; None if the message follows the end."""
    metadata: JSON = field(default_factory=dict)
    """What an app says about the message, at most 16 KiB; `MessageDescribed` replaces it."""


class MessageDescribed(Event, frozen=True, kw_only=True):
    """Record what an app says about a message: it replaces all that was said before."""

    message_id: str
    message_version: int
    metadata: JSON = field(default_factory=dict)


class SessionItemsKept(Event, frozen=True, kw_only=True):
    """Record which items of an SDK's session a message is that a run journaled; the newest one of a message counts."""

    message_id: str
    message_version: int
    native: JSON = field(default_factory=dict)
    """The items, word for word, as in `MessageJournaled.native`: see `session_items.py`."""
    blobs: list[str] = field(default_factory=list)
    """Addresses of the long texts in them."""


class RunStarted(Event, frozen=True, kw_only=True):
    """Record that a backend is about to be called.

    The prompt is never stored: `memory_version`, `memory_rule` and `memory_first_version` determine how to reproduce the
    view, and `memory_hash` proves that the reproduced view is the same.
    """

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
    """Time limit (ISO 8601); a run that is still open after it was interrupted by a crash."""
    rerun_of: str | None = None
    """Id of the run whose exchange, or whose memory, is run again."""
    supersedes_run_id: str | None = None
    """Id of the run whose answer this run's answer replaces."""
    apart: bool = False
    """Whether the run bypasses the linked thread, although the backend uses threads: its memory is sent whole."""
    shadow: bool = False
    """Whether the run is for inspection only: it answers, opens and closes no exchange, and adds nothing to memory."""
    endpoint: str | None = None
    """Where the backend is reached, without secrets; stored if the app names backends of its own."""
    continues_run_id: str | None = None
    """Id of the failed run whose streamed text this run continues: its answer begins with that text."""
    continued_chars: int = 0
    """Number of characters of that text, including what the failed run itself continued."""
    path_hash: str | None = None
    """Hash of the whole memory as of `memory_version`, whatever of it the run is shown: see `domain/canonical.py`."""
    memory_first_version: int | None = None
    """Version of the first message of the view that a window did not leave out; None if it left out none."""
    losses: JSON = field(default_factory=dict)
    """What the backend is not given of the request: the number of parts in view that it cannot be shown, by kind
    (`part:TYPE`), options that it does not have (`option:NAME`), and results whose calls are not in view (`message:tool`)."""
    idempotency_key: str | None = None
    """Key under which an app started the exchange with its own run, or a rerun; later runs do not repeat it."""
    rendering: str | None = None
    """Form in which the backend was sent the view, with its version: `responses/2`; None if the app decided it."""
    memory_leaf_version: int | None = None
    """Version of the message with which the path of its memory ends; None is the end as of `memory_version`."""
    cost_reserved: int | None = None
    """Highest cost of the run, reserved in its budgets, in billionths of a US dollar; None if no budget limits it."""
    question_answered: bool = False
    """Whether the question had an answer before, so that nobody is left waiting if the run fails: it is regenerated."""


class RunCompleted(Event, frozen=True, kw_only=True):
    """Record that the backend answered.

    The answer is the `MessageJournaled` in the same commit.
    """

    run_id: str
    remote_run_id: str | None = None
    thread_id: str | None = None
    request_id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: JSON = field(default_factory=dict)
    duration_seconds: float | None = None
    thread_version: int | None = None
    """Journal version that the thread contained when the run answered in it."""
    goes_on: bool = False
    """Whether the model called tools: the exchange is not answered yet and continues in another run."""
    shadow_messages: list[JSON] = field(default_factory=list)
    """Messages and tool calls of a shadow run, the answer last; they are journaled nowhere else."""
    losses: JSON = field(default_factory=dict)
    """Number of parts of the answer that could not be kept, by kind."""
    waits_for: list[str] = field(default_factory=list)
    """Ids of the tool calls on which a person has to decide before the exchange continues."""
    blobs: list[str] = field(default_factory=list)
    """Addresses of the attachments that `shadow_messages` refer to."""


class RunFailed(Event, frozen=True, kw_only=True):
    """Record that a run ended without an answer.

    Only facts are stored; the cause is derived from them.
    """

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


class FallbackUsed(Event, frozen=True, kw_only=True):
    """Record that the next backend takes over after a failed run.

    It is stored in one commit with that backend's `RunStarted`.
    """

    exchange_id: str
    failed_run_id: str
    from_backend: str
    to_backend: str
    reason: str
    dropped: list[str] = field(default_factory=list)
    """What the next backend is not given, because it does not have it: `tool:TYPE`, `part:TYPE`."""


class ExchangeRequested(Event, frozen=True, kw_only=True):
    """Record what was sent with a question beyond the defaults, so that a rerun can send it again.

    It is stored in one commit with the question, and only if there is anything. What is None was not sent: it is whatever
    the settings say by then. The profile holds instructions, tools and sampling.
    """

    exchange_id: str
    profile_hash: str | None = None
    model: str | None = None
    backend: str | None = None
    metadata: JSON = field(default_factory=dict)
    """Pairs of text for the provider, bounded by the checks of the options."""
    timeout_seconds: float | None = None
    question_message_id: str | None = None
    """Id of the question, and its version, if the exchange answers a message that it did not journal."""
    question_version: int | None = None
    surface: str | None = None
    """Where the request came from: the served API (`assistants`, `chat`); None for a call in the app's own process."""
    deadline: str | None = None
    """Time limit of the whole exchange (ISO 8601)."""
    background: bool = False
    """Whether any process may answer: one that stops is replaced, and nothing else is asked until the deadline."""
    blobs: list[str] = field(default_factory=list)
    """Addresses of the blobs that the event needs."""
    request: JSON = field(default_factory=dict)
    """What a served request says besides the profile and the fields above, such as `assistant_id`."""
    idempotency_key: str | None = None
    """Key of the request that opened the exchange, if that journaled no message."""


class ExchangeDescribed(Event, frozen=True, kw_only=True):
    """Record what an app says about an exchange: it replaces the metadata of its request."""

    exchange_id: str
    metadata: JSON = field(default_factory=dict)


class ExchangeCancelled(Event, frozen=True, kw_only=True):
    """Record that the caller no longer wants an answer: the exchange has none, and nobody waits for one."""

    exchange_id: str
    reason: str = ""


class ExchangeAbandoned(Event, frozen=True, kw_only=True):
    """Record that an exchange has no answer and that no process will retry it automatically."""

    exchange_id: str
    run_ids: list[str] = field(default_factory=list)
    reason: str = ""


class CompletionStored(Event, frozen=True, kw_only=True):
    """Record that a chat completion can be read from now on, in the commit of its answer; or again, with other metadata."""

    completion_id: str
    """Its id in the API."""
    exchange_id: str
    run_id: str
    """The run that answered it."""
    request_version: int
    """Version of the request that it answers; an exchange has several if the client sent results of tools."""
    completed_version: int
    """Version of the end of that run."""
    message_id: str
    """The answer, and its version."""
    message_version: int
    created_at: str
    """When it was requested (ISO 8601)."""
    model: str
    """The model that answered."""
    metadata: JSON = field(default_factory=dict)
    """Pairs of text of the client."""


class CompletionDeleted(Event, frozen=True, kw_only=True):
    """Record that a chat completion can no longer be read; its messages remain in the conversation."""

    completion_id: str


class ResponseDeleted(Event, frozen=True, kw_only=True):
    """Record that a response can no longer be read or continued by its id; its messages remain in the conversation."""

    response_id: str


class ThreadLinked(Event, frozen=True, kw_only=True):
    """Record that the provider stores a copy of this memory under `thread_id`."""

    backend: str
    thread_id: str
    endpoint: str = ""


class ThreadLost(Event, frozen=True, kw_only=True):
    """Record that the provider's copy is gone, or that runs can no longer answer in it."""

    backend: str
    thread_id: str
    reason: str = ""
    endpoint: str = ""
    window_tokens: int | None = None
    """Budget of the memory that runs are given instead, if the thread was too long; None if it was not."""


class ThreadRebuilt(Event, frozen=True, kw_only=True):
    """Record that a thread was rewritten from the journal, read back and found equal.

    From this event on, it is the linked thread.
    """

    backend: str
    thread_id: str
    old_thread_id: str | None = None
    endpoint: str = ""
    memory_version: int = 0
    message_count: int = 0
    digest: str = ""
    losses: JSON = field(default_factory=dict)


class ThreadReconciled(Event, frozen=True, kw_only=True):
    """Record that a thread was reconciled with the journal.

    Missing messages were sent, surplus copies of our writes were deleted, and other writers' messages were adopted.
    """

    backend: str
    thread_id: str
    memory_version: int
    sent: int = 0
    deleted: list[str] = field(default_factory=list)
    """The provider's ids of the deleted entries."""
    adopted: int = 0
    reason: str = ""


class MessageRetracted(Event, frozen=True, kw_only=True):
    """Record that a message no longer belongs to memory; it remains in the log."""

    message_id: str
    reason: str = ""
    message_version: int | None = None
    """Version of the message; earlier programs did not store it."""


class MemoryCleared(Event, frozen=True, kw_only=True):
    """Record that memory is empty up to and including this version; the log is unchanged."""

    up_to_version: int
    reason: str = ""


class RerunAccepted(Event, frozen=True, kw_only=True):
    """Record that a rerun's answer is now the answer of the exchange; the messages that it supersedes leave memory.

    Also recorded for the answer of a question after which others wrote messages: it follows its question
    (`behind_message_id`), and neither a message nor a run is superseded.
    """

    exchange_id: str
    run_id: str
    message_id: str
    superseded_message_id: str | None = None
    superseded_run_id: str | None = None
    behind_message_id: str | None = None
    """Id of the message that the run's messages follow directly, if newer messages exist; None places them last."""
    superseded_version: int | None = None
    behind_version: int | None = None
    """Versions of these messages; earlier programs did not store them, nor those of the run."""
    message_versions: list[int] | None = None
    """Versions of the messages that the run journaled, if they are placed behind another one."""


class BranchSelected(Event, frozen=True, kw_only=True):
    """Record that memory ends with this message from now on, and consists of the path that leads to it."""

    message_id: str
    """Id of the message; "" is the beginning, before any message."""
    message_version: int
    """Version of the message; 0 is the beginning."""
    reason: str = ""
    mark_version: int | None = None
    """Version of the newest event before this one that hides, moves, covers or pins a message, with 0 for none: a reader
    from the end skips the selections between. None if the writer did not say."""


class MemoryCompacted(Event, frozen=True, kw_only=True):
    """Record that a summary is shown in place of the path up to a message, where that message is on the path.

    The summary is a message aside that follows `covers`. System messages and pinned ones of the covered part are shown
    before it. It no longer applies after an event that removes or moves a message of a version up to `upto_version`.
    """

    message_id: str
    message_version: int
    covers_message_id: str
    covers_version: int
    upto_version: int
    """Greatest version of the messages that it covers."""
    system_versions: list[int] | None = None
    """Versions of the system messages that it covers, so that a reader from the end finds them; None if it has to search."""
    run_id: str | None = None
    """Id of the run that wrote the summary."""


class MessagePinned(Event, frozen=True, kw_only=True):
    """Record that a message is shown in every window of memory, or no longer is."""

    message_id: str
    message_version: int
    pinned: bool = True


class MessageRated(Event, frozen=True, kw_only=True):
    """Record what a person thinks of a message. The newest rating by an actor counts."""

    message_id: str
    message_version: int
    score: float
    """A number on the app's own scale, such as 1 and -1."""
    comment: str = ""


class ToolCallDecided(Event, frozen=True, kw_only=True):
    """Record a person's decision on a tool call for which an exchange waits."""

    call_id: str
    exchange_id: str
    approved: bool
    reason: str = ""


class ProfileDefined(Event, frozen=True, kw_only=True):
    """Record the content of a profile, once, on its own stream, which is named by the content's hash."""

    profile_hash: str
    name: str
    instructions: str
    model: str | None = None
    tools: list[JSON] = field(default_factory=list)
    settings: JSON = field(default_factory=dict)
    """Sampling, tool choice and the format of answers, by name."""


class AssistantDefined(Event, frozen=True, kw_only=True):
    """Record an assistant of the served API as it is from now on, on its own stream."""

    assistant_id: str
    model: str
    """The model that requests name; the server's routes say what answers."""
    profile_hash: str
    """The profile with its name, instructions, tools and settings."""
    tenant: str = ""
    """The tenant that it belongs to."""
    description: str | None = None
    tool_resources: JSON = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    """Types of tools that it was to have and that the server does not run."""
    metadata: JSON = field(default_factory=dict)
    written_at: str | None = None
    """When it was created (ISO 8601), if not by this event: of an imported or a changed assistant."""
    origin: JSON = field(default_factory=dict)
    """What an import said: the `digest` of the original, and the fields of it that have no place here (`other`)."""
    idempotency_key: str | None = None
    """Key of the request that created or changed it."""


class AssistantDeleted(Event, frozen=True, kw_only=True):
    """Record that an assistant was deleted; runs that used it are unchanged."""

    assistant_id: str


class FileStored(Event, frozen=True, kw_only=True):
    """Record a file that was uploaded to the served API, on its own stream."""

    file_id: str
    filename: str
    purpose: str
    size: int
    """Size in bytes."""
    blobs: list[str]
    """Address of its bytes, behind 32 random ones that belong to no other file."""
    tenant: str = ""
    """The tenant that it belongs to."""
    expires_at: str | None = None
    """Time from which it can no longer be read (ISO 8601)."""
    idempotency_key: str | None = None
    """Key of the request that uploaded it."""


class FileDeleted(Event, frozen=True, kw_only=True):
    """Record that a file was deleted: its bytes are not kept, and no vector store has it any longer."""

    file_id: str
    tenant: str = ""


class VectorStoreDefined(Event, frozen=True, kw_only=True):
    """Record a vector store of the served API as it is from now on, on its own stream."""

    vector_store_id: str
    tenant: str = ""
    """The tenant that it belongs to."""
    name: str = ""
    description: str | None = None
    metadata: JSON = field(default_factory=dict)
    expires_days: int | None = None
    """Number of days after its last use from which it can no longer be searched."""
    idempotency_key: str | None = None
    """Key of the request that created or changed it."""


class VectorStoreFilesAdded(Event, frozen=True, kw_only=True):
    """Record that a vector store has these files from now on, on the stream of the store.

    Each has its `file_id`, `filename`, `size`, the address `blob` of its bytes, `attributes`, `chunking` (`size` and `overlap` in
    tokens), the `bytes` of its text, and an `error` (`code`, `message`) if it cannot be searched; `expires_at` if it expires.
    """

    vector_store_id: str
    files: list[JSON]
    tenant: str = ""
    batch_id: str | None = None
    """Id of the batch in which they were added."""
    idempotency_key: str | None = None
    """Key of the request that added them."""


class VectorStoreFileDescribed(Event, frozen=True, kw_only=True):
    """Record the attributes that a file of a vector store has from now on."""

    vector_store_id: str
    file_id: str
    attributes: JSON = field(default_factory=dict)


class VectorStoreFileRemoved(Event, frozen=True, kw_only=True):
    """Record that a vector store no longer has a file, which itself remains."""

    vector_store_id: str
    file_id: str


class VectorStoreUsed(Event, frozen=True, kw_only=True):
    """Record that a vector store that expires was searched; at most once an hour."""

    vector_store_id: str


class VectorStoreDeleted(Event, frozen=True, kw_only=True):
    """Record that a vector store was deleted; its files remain."""

    vector_store_id: str


class ToolResourcesDescribed(Event, frozen=True, kw_only=True):
    """Record the vector stores that the runs of a conversation search from now on."""

    tool_resources: JSON = field(default_factory=dict)


class ApiKeyAdded(Event, frozen=True, kw_only=True):
    """Record a key with which apps may call the server; the key itself is stored nowhere."""

    name: str
    key_hash: str
    """SHA-256 of the key, in hexadecimal."""
    tenant: str = ""
    """The tenant whose objects it reaches; empty for those that belong to no tenant."""
    read_only: bool = False


class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    """Record that a key is no longer accepted."""

    name: str


class AttachmentUploaded(Event, frozen=True, kw_only=True):
    """Record that a provider has a copy of an attachment, on the stream of that attachment at that endpoint."""

    blob: str
    endpoint: str
    file_id: str
    """The provider's id of the file."""
    purpose: str = ""
    """What it was uploaded for, as the provider names it."""
    filename: str = ""
    size: int = 0
    """Size in bytes."""


class AttachmentRemoved(Event, frozen=True, kw_only=True):
    """Record that a provider no longer has the copy of an attachment, on the same stream."""

    blob: str
    endpoint: str
    file_id: str
    reason: str = ""


class JobItemsPlanned(Event, frozen=True, kw_only=True):
    """Record part of a job's plan, on the job's own stream: its items from number `first` on.

    Each pin holds the key of a conversation and its version at the time of planning.
    """

    first: int
    pins: list[JSON]


class JobStarted(Event, frozen=True, kw_only=True):
    """Record that a bulk job was started.

    The plan is in the events before this one. `options` are sufficient to resume the job.
    """

    kind: str
    items: int
    options: JSON = field(default_factory=dict)


class JobItemsEnded(Event, frozen=True, kw_only=True):
    """Record the results of items of a job.

    Each item has `item` (its number), `state`, `reason` and facts. `before` is the state of an item that had already
    ended in an earlier attempt.
    """

    items: list[JSON]


class JobCancelled(Event, frozen=True, kw_only=True):
    """Record that a job was cancelled and will not be resumed."""

    reason: str = ""


class FailureGroupResolved(Event, frozen=True, kw_only=True):
    """Record that the problem behind a group of failures is fixed, on the ledger's stream of groups.

    `group` is the id that rule version `rule` computed from cause, backend and normalised message. These are stored
    too, so that the decision can be read on its own.
    """

    group: str
    rule: int
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""


class FailureGroupMuted(Event, frozen=True, kw_only=True):
    """Record that a group of failures is hidden until `until` (ISO 8601) or permanently, on the stream of groups."""

    group: str
    rule: int
    until: str | None = None
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""


class FailureGroupReopened(Event, frozen=True, kw_only=True):
    """Record that a group of failures is no longer resolved or muted, on the stream of groups."""

    group: str
    rule: int
    cause: str = ""
    backend: str = ""
    message: str = ""
    note: str = ""


class UnknownEvent(Event, frozen=True, kw_only=True):
    """Represent an event of a newer threadledger: its name and fields are kept unchanged, and it has no effect."""

    topic: str
    data: JSON = field(default_factory=dict)


EVENTS: dict[str, type[Event]] = {
    event.__name__: event
    for event in (
        ConversationStarted,
        ConversationDescribed,
        ConversationDeleted,
        MessageJournaled,
        MessageDescribed,
        SessionItemsKept,
        RunStarted,
        RunCompleted,
        RunFailed,
        FallbackUsed,
        ExchangeRequested,
        ExchangeDescribed,
        ExchangeCancelled,
        ExchangeAbandoned,
        CompletionStored,
        CompletionDeleted,
        ResponseDeleted,
        ThreadLinked,
        ThreadLost,
        ThreadRebuilt,
        ThreadReconciled,
        MessageRetracted,
        MemoryCleared,
        RerunAccepted,
        BranchSelected,
        MemoryCompacted,
        MessagePinned,
        MessageRated,
        ToolCallDecided,
        ProfileDefined,
        AssistantDefined,
        AssistantDeleted,
        FileStored,
        FileDeleted,
        VectorStoreDefined,
        VectorStoreFilesAdded,
        VectorStoreFileDescribed,
        VectorStoreFileRemoved,
        VectorStoreUsed,
        VectorStoreDeleted,
        ToolResourcesDescribed,
        ApiKeyAdded,
        ApiKeyRevoked,
        AttachmentUploaded,
        AttachmentRemoved,
        JobItemsPlanned,
        JobStarted,
        JobItemsEnded,
        JobCancelled,
        FailureGroupResolved,
        FailureGroupMuted,
        FailureGroupReopened,
    )
}
"""All known events by the name in a stored row; a row with any other name becomes an `UnknownEvent`."""


COMMON_FIELDS = frozenset(("originator_id", "originator_version", "timestamp", "event_id"))
"""Names of the fields that have their own columns."""


def topic_of(event: Event) -> str:
    """Return the name under which an event is stored."""
    return event.topic if isinstance(event, UnknownEvent) else type(event).__name__


def fields_of(event: Event) -> JSON:
    """Return an event's own fields, including those that are equal to their default, and its actor if it has one."""
    if isinstance(event, UnknownEvent):
        return event.data
    own = {name: getattr(event, name) for name in _defaults_of(type(event))}
    return own if event.actor is not None else {name: value for name, value in own.items() if name != "actor"}


def payload_of(event: Event) -> JSON:
    """Return an event's own fields as stored, without those that have columns or are equal to their default."""
    if isinstance(event, UnknownEvent):
        return event.data
    own = _defaults_of(type(event)).items()
    values = astuple(event)[len(COMMON_FIELDS) :]  # the fields of a base class come first
    return {
        name: value
        for (name, default), value in zip(own, values, strict=True)
        if value is not default and value != default
    }


def encoded(event: Event) -> bytes | None:
    """Return what msgspec writes of `payload_of` an event, without creating it; None if the event is an unusual one.

    Raises:
        TypeError, UnicodeEncodeError: it contains a value or a text that msgspec does not write.
    """
    if type(event) is UnknownEvent:
        return None
    text = _encode(event)  # the fields of the base class come first, and the id is the last of those with a column
    # Within a text, every quotation mark follows a backslash, so these characters begin a field.
    begin = text.find(b',"event_id":"') + _BEFORE_ID
    end = text.find(b'"', begin)
    if text[begin:end] != event.event_id.encode():
        return None
    return b"{" + text[end + 2 :] if text[end + 1] == _COMMA else b"{}"


_BEFORE_ID = len(b',"event_id":"')
_COMMA = ord(",")
_encode = json.Encoder().encode


def restore_event(topic: str, payload: JSON) -> Event:
    """Create an event from its stored fields, whatever their types; its common fields have their defaults.

    Fields that this version does not know are ignored; missing fields get their default.

    Raises:
        TypeError: a field without a default is missing.
    """
    event_class = EVENTS.get(topic)
    if event_class is None:
        actor = payload.get("actor")
        return UnknownEvent(topic=topic, data=payload, actor=actor if isinstance(actor, str) else None)
    known = _defaults_of(event_class)
    return event_class(**{name: value for name, value in payload.items() if name in known})


def _defaults_of(event_class: type[Event]) -> JSON:
    """Return the defaults of a class's own fields, computed once; a required field has msgspec's `NODEFAULT`."""
    defaults = _DEFAULTS.get(event_class)
    if defaults is None:
        defaults = _DEFAULTS[event_class] = {
            each.name: each.default if each.default_factory is NODEFAULT else each.default_factory()
            for each in fields(event_class)
            if each.name not in COMMON_FIELDS
        }
    return defaults


_DEFAULTS: dict[type[Event], JSON] = {}


def payload_in(text: bytes | str) -> JSON:
    """Return the payload of a row, or the object of a snapshot.

    Raises:
        ValueError, TypeError: the payload is not exactly one JSON object.
    """
    try:
        return _decode_object(text)
    except ValueError:
        from ..json_text import object_in

        return object_in(text)


_decode_object: Callable[[bytes | str], JSON] = json.Decoder(JSON).decode
