"""Define conversations and their rules. This package imports only the standard library and eventsourcing.

It is the domain's public interface: the other layers import from here alone.
"""

from . import errors, events, limits
from .advice import ADVICE, advise
from .alignment import common_prefix
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
    retried,
    sent_again,
    taken_out,
)
from .diagnosis import BACKEND_UNWELL, DIAGNOSIS_VERSION, diagnose, may_succeed_when_retried
from .differences import Difference, differences
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
    GroupNotFound,
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
from .following import follow_failures
from .grouping import (
    TREND_PARTS,
    Decision,
    FailureGroup,
    GroupName,
    GroupState,
    named_group,
    state_of,
    tallied,
)
from .groups import FailureGroups
from .health import BackendEnd, BackendHealth, Cooling, Health, cooling_after, health_of, tells
from .ids import from_iso, new_id, now, to_iso
from .jobs import Jobs, JobState
from .journal import Journal
from .journaled import JournaledMessage
from .lagging import LaggingThread, Lags, threads_behind
from .late_copies import Doubt, DoubtedItem, open_doubts, surplus
from .ledger import Ledger, LoggedEvent
from .logs import LOGGERS, Redacting, fields_of
from .memory import Memory, fold_memory, response_items
from .memory_diff import Fate, MemoryChange, MemoryDiff, diff_memories, said
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
from .normalising import RULE_VERSION, group_id, normalised
from .observing import ExchangeEnd, Observer, RunEnd, RunLog, SeenRun
from .outside import Mend, Outbox, Outside
from .own_runs import AsyncOwnRun, OwnRun
from .parsing import parse_message, restore_message, text_message
from .plans import Plan
from .ports import (
    Appending,
    Backend,
    BackendRequest,
    DecideAppend,
    EventLog,
    JobClaims,
    MemoryFile,
    MirrorHead,
    MirrorHeads,
    StreamHead,
    ThreadMirror,
    ToolFunction,
    Views,
)
from .profiles import Profile, parse_profile
from .rebuild import RebuildItem, RebuildPlan
from .rebuild_file import FileRebuildPlan
from .reconcile import ReconcilePlan
from .reconcile_item import ReconcileItem
from .recorded_exchange import RecordedExchange, recorded_exchange
from .recorded_runs import RecordedRun
from .recorded_tools import not_bound
from .redaction import keep_secret, redact, redact_details, whole_text
from .replay import Replay
from .rerun import RerunPlan
from .rerun_item import RerunItem
from .run_look import ShownMemory, defined_profile, memory_shown, tool_names
from .runs import ActiveRuns, Completion, RunPlan
from .state import STATE_SCHEMA, ConversationState, evolve
from .storage import EventMapper, LoggedRow, PlainJSON, Row, StoredRow, restore
from .stream import Answer, Delta, StartedOver, StreamPart, ToolUse
from .summary import BY_FAILURE, SUMMARY_BY, SummaryRow, in_order, percentile
from .threads import Comparison, Rendering, ThreadItem, ThreadState, compare, digest
from .tokens import estimate_tokens
from .upkeep import Finding, NotedThread, Upkeep
from .verification import SideBySide, Verification

__all__ = [
    "ADVICE",
    "BACKEND_UNWELL",
    "BY_FAILURE",
    "CATCH_UP_ATTEMPTS_MAX",
    "CONVERSATION",
    "DIAGNOSIS_VERSION",
    "IMPORTED",
    "LEFT_IN_THREAD",
    "LOGGERS",
    "RULE_VERSION",
    "RUN_TOPICS",
    "STATE_SCHEMA",
    "SUMMARY_BY",
    "TREND_PARTS",
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
    "Decision",
    "Delivered",
    "Delta",
    "Difference",
    "Doubt",
    "DoubtedItem",
    "Effect",
    "Effects",
    "EventLog",
    "EventMapper",
    "ExchangeAnswered",
    "ExchangeEnd",
    "ExchangeRecord",
    "Exchanges",
    "Failure",
    "FailureFilter",
    "FailureGroup",
    "FailureGroups",
    "Fate",
    "File",
    "FileMissing",
    "FileRebuildPlan",
    "Finding",
    "ForeignDatabase",
    "GroupName",
    "GroupNotFound",
    "GroupState",
    "Health",
    "IdempotencyConflict",
    "Image",
    "InvalidInput",
    "InvalidKey",
    "InvalidMessage",
    "InvalidProfile",
    "InvalidSettings",
    "JobClaims",
    "JobState",
    "Jobs",
    "Journal",
    "JournaledMessage",
    "LaggingThread",
    "Lags",
    "Ledger",
    "LoggedEvent",
    "LoggedRow",
    "Memory",
    "MemoryChange",
    "MemoryDiff",
    "MemoryFile",
    "Mend",
    "Message",
    "MirrorHead",
    "MirrorHeads",
    "NewerSchema",
    "NotFound",
    "NotedThread",
    "Observer",
    "Outbox",
    "Outside",
    "OwnRun",
    "Part",
    "Pause",
    "PlainJSON",
    "Plan",
    "Policy",
    "Profile",
    "ProviderRefused",
    "RebuildItem",
    "RebuildPlan",
    "ReconcileItem",
    "ReconcilePlan",
    "RecordedExchange",
    "RecordedFailure",
    "RecordedRun",
    "Redacting",
    "Rendering",
    "Replay",
    "RerunItem",
    "RerunPlan",
    "Role",
    "Row",
    "RunEnd",
    "RunLog",
    "RunNotFound",
    "RunNotOpen",
    "RunPlan",
    "RunRecord",
    "SeenRun",
    "ShownMemory",
    "SideBySide",
    "Source",
    "StartedOver",
    "StoreError",
    "StoreUnavailable",
    "StoredRow",
    "StreamHead",
    "StreamPart",
    "SummaryRow",
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
    "defined_profile",
    "diagnose",
    "diff_memories",
    "differences",
    "digest",
    "errors",
    "estimate_tokens",
    "events",
    "evolve",
    "exchange",
    "facts_of",
    "fields_of",
    "fold_exchanges",
    "fold_memory",
    "follow_failures",
    "from_iso",
    "group_id",
    "health_of",
    "heard",
    "in_order",
    "is_uncertain",
    "is_worth_a_retry",
    "keep_secret",
    "key_of",
    "lacking",
    "limits",
    "may_succeed_when_retried",
    "memory_shown",
    "named_group",
    "new_id",
    "normalised",
    "not_bound",
    "now",
    "open_doubts",
    "parse_message",
    "parse_profile",
    "percentile",
    "perform",
    "recorded_answer",
    "recorded_exchange",
    "recorded_failure",
    "redact",
    "redact_details",
    "response_items",
    "restore",
    "restore_message",
    "retried",
    "said",
    "sent_again",
    "state_of",
    "stream_of",
    "surplus",
    "taken_out",
    "tallied",
    "tells",
    "text_message",
    "threads_behind",
    "to_iso",
    "tool_names",
    "whole_text",
]
