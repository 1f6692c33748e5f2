"""What a conversation is and what it needs. Imports only the standard library and eventsourcing.

This is the domain's public face: the other layers import from here alone.
"""

from . import errors, events, limits
from .advice import ADVICE, advise
from .answers import recorded_answer
from .asking import Asking
from .async_chat import AsyncChat
from .async_ledger import AsyncLedger
from .audit import (
    RUN_TOPICS,
    ExchangeRecord,
    Exchanges,
    FailureFilter,
    RunRecord,
    facts_of,
    fold_exchanges,
    recorded_failure,
)
from .chat import Chat
from .conversation import Conversation
from .conversing import Conversing
from .delivery import (
    CATCH_UP_ATTEMPTS_MAX,
    LEFT_IN_THREAD,
    Delivered,
    bring_up,
    is_uncertain,
    lacking,
    sent_again,
    taken_out,
)
from .diagnosis import BACKEND_UNWELL, diagnose, may_succeed_when_retried
from .driving import AsyncDriver, heard, perform
from .effects import Call, Effect, Effects, Pause, Tell, Use, Work, attended
from .errors import (
    AllBackendsFailed,
    Conflict,
    ConversationBusy,
    ConversationChanged,
    ConversationNotFound,
    CorruptEvent,
    DatabaseMissing,
    ExchangeAnswered,
    FileMissing,
    ForeignDatabase,
    IdempotencyConflict,
    InvalidInput,
    InvalidKey,
    InvalidMessage,
    InvalidProfile,
    InvalidSettings,
    NewerSchema,
    NotFound,
    ProviderRefused,
    RunNotFound,
    RunNotOpen,
    StoreError,
    StoreUnavailable,
    ThreadledgerError,
)
from .exchange import Candidate, Policy, exchange, is_worth_a_retry
from .failures import Cause, Failure, RecordedFailure
from .health import BackendEnd, BackendHealth, Cooling, Health, cooling_after, health_of, tells
from .ids import from_iso, new_id, now, to_iso
from .journal import Journal
from .journaled import JournaledMessage
from .ledger import Ledger, LoggedEvent
from .memory import Memory, fold_memory, response_items
from .messages import (
    File,
    Image,
    Message,
    Part,
    Role,
    Source,
    Text,
    ToolCall,
    Usage,
    Verbatim,
)
from .naming import CONVERSATION, IMPORTED, key_of, stream_of
from .outside import Outbox, Outside
from .own_runs import AsyncOwnRun, OwnRun
from .parsing import parse_message, restore_message, text_message
from .ports import (
    Appending,
    Backend,
    BackendRequest,
    DecideAppend,
    EventLog,
    MirrorHead,
    MirrorHeads,
    StreamHead,
    ThreadMirror,
    ToolFunction,
    Views,
)
from .profiles import Profile, parse_profile
from .rebuild import RebuildItem, RebuildPlan
from .reconciling import Doubt, DoubtedItem, open_doubts, surplus
from .recorded_tools import not_bound
from .redaction import redact, redact_details, whole_text
from .replay import Replay
from .rerun import RerunItem, RerunPlan
from .runs import ActiveRuns, Completion, RunPlan
from .state import STATE_SCHEMA, ConversationState, evolve
from .storage import EventMapper, LoggedRow, PlainJSON, Row, StoredRow, restore
from .stream import Answer, Delta, StartedOver, StreamPart, ToolUse
from .threads import Comparison, Rendering, ThreadItem, ThreadState, common_prefix, compare, digest
from .tokens import estimate_tokens
from .upkeep import Finding, Upkeep
from .verification import Verification

__all__ = [
    "ADVICE",
    "BACKEND_UNWELL",
    "CATCH_UP_ATTEMPTS_MAX",
    "CONVERSATION",
    "IMPORTED",
    "LEFT_IN_THREAD",
    "RUN_TOPICS",
    "STATE_SCHEMA",
    "ActiveRuns",
    "AllBackendsFailed",
    "Answer",
    "Appending",
    "Asking",
    "AsyncChat",
    "AsyncDriver",
    "AsyncLedger",
    "AsyncOwnRun",
    "Backend",
    "BackendEnd",
    "BackendHealth",
    "BackendRequest",
    "Call",
    "Candidate",
    "Cause",
    "Chat",
    "Comparison",
    "Completion",
    "Conflict",
    "Conversation",
    "ConversationBusy",
    "ConversationChanged",
    "ConversationNotFound",
    "ConversationState",
    "Conversing",
    "Cooling",
    "CorruptEvent",
    "DatabaseMissing",
    "DecideAppend",
    "Delivered",
    "Delta",
    "Doubt",
    "DoubtedItem",
    "Effect",
    "Effects",
    "EventLog",
    "EventMapper",
    "ExchangeAnswered",
    "ExchangeRecord",
    "Exchanges",
    "Failure",
    "FailureFilter",
    "File",
    "FileMissing",
    "Finding",
    "ForeignDatabase",
    "Health",
    "IdempotencyConflict",
    "Image",
    "InvalidInput",
    "InvalidKey",
    "InvalidMessage",
    "InvalidProfile",
    "InvalidSettings",
    "Journal",
    "JournaledMessage",
    "Ledger",
    "LoggedEvent",
    "LoggedRow",
    "Memory",
    "Message",
    "MirrorHead",
    "MirrorHeads",
    "NewerSchema",
    "NotFound",
    "Outbox",
    "Outside",
    "OwnRun",
    "Part",
    "Pause",
    "PlainJSON",
    "Policy",
    "Profile",
    "ProviderRefused",
    "RebuildItem",
    "RebuildPlan",
    "RecordedFailure",
    "Rendering",
    "Replay",
    "RerunItem",
    "RerunPlan",
    "Role",
    "Row",
    "RunNotFound",
    "RunNotOpen",
    "RunPlan",
    "RunRecord",
    "Source",
    "StartedOver",
    "StoreError",
    "StoreUnavailable",
    "StoredRow",
    "StreamHead",
    "StreamPart",
    "Tell",
    "Text",
    "ThreadItem",
    "ThreadMirror",
    "ThreadState",
    "ThreadledgerError",
    "ToolCall",
    "ToolFunction",
    "ToolUse",
    "Upkeep",
    "Usage",
    "Use",
    "Verbatim",
    "Verification",
    "Views",
    "Work",
    "advise",
    "attended",
    "bring_up",
    "common_prefix",
    "compare",
    "cooling_after",
    "diagnose",
    "digest",
    "errors",
    "estimate_tokens",
    "events",
    "evolve",
    "exchange",
    "facts_of",
    "fold_exchanges",
    "fold_memory",
    "from_iso",
    "health_of",
    "heard",
    "is_uncertain",
    "is_worth_a_retry",
    "key_of",
    "lacking",
    "limits",
    "may_succeed_when_retried",
    "new_id",
    "not_bound",
    "now",
    "open_doubts",
    "parse_message",
    "parse_profile",
    "perform",
    "recorded_answer",
    "recorded_failure",
    "redact",
    "redact_details",
    "response_items",
    "restore",
    "restore_message",
    "sent_again",
    "stream_of",
    "surplus",
    "taken_out",
    "tells",
    "text_message",
    "to_iso",
    "whole_text",
]
