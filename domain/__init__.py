"""What a conversation is and what it needs. Imports only the standard library and eventsourcing.

This is the domain's public face: the other layers import from here alone.
"""

from . import errors, events, limits
from .answers import Answer, recorded_answer
from .asking import Asking
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
from .delivery import bring_up, lacking
from .diagnosis import ADVICE, advise, diagnose, may_succeed_when_retried
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
from .exchange import Candidate, Policy, exchange
from .failures import Cause, Failure, RecordedFailure
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
from .rebuild import RebuildItem, RebuildPlan, Verification
from .redaction import redact, redact_details, whole_text
from .replay import Replay
from .rerun import RerunItem, RerunPlan
from .runs import Completion, RunPlan
from .state import STATE_SCHEMA, ConversationState, evolve
from .storage import EventMapper, LoggedRow, PlainJSON, Row, StoredRow, restore
from .threads import Comparison, Rendering, ThreadItem, ThreadState, compare, digest
from .tokens import estimate_tokens
from .upkeep import Finding, Upkeep

__all__ = [
    "ADVICE",
    "CONVERSATION",
    "IMPORTED",
    "RUN_TOPICS",
    "STATE_SCHEMA",
    "AllBackendsFailed",
    "Answer",
    "Appending",
    "Asking",
    "Backend",
    "BackendRequest",
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
    "CorruptEvent",
    "DatabaseMissing",
    "DecideAppend",
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
    "Part",
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
    "StoreError",
    "StoreUnavailable",
    "StoredRow",
    "StreamHead",
    "Text",
    "ThreadItem",
    "ThreadMirror",
    "ThreadState",
    "ThreadledgerError",
    "ToolCall",
    "ToolFunction",
    "Upkeep",
    "Usage",
    "Verbatim",
    "Verification",
    "Views",
    "advise",
    "bring_up",
    "compare",
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
    "key_of",
    "lacking",
    "limits",
    "may_succeed_when_retried",
    "new_id",
    "now",
    "parse_message",
    "parse_profile",
    "recorded_answer",
    "recorded_failure",
    "redact",
    "redact_details",
    "response_items",
    "restore",
    "restore_message",
    "stream_of",
    "text_message",
    "to_iso",
    "whole_text",
]
