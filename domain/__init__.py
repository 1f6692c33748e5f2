"""Define what a conversation is and what it needs: the domain API for apps that compose it themselves.

Each package below has its own public names (`threadledger.domain.journal` and so on). Imports go one way, from
`ledger` to `failures`. Names of these packages that earlier versions offered here can still be imported from here.
"""

from typing import TYPE_CHECKING

from . import errors, limits
from .faces import lazy_face

if TYPE_CHECKING:
    from .conversation.conversation import Completion
    from .conversation.exchanges import ExchangeRecord, FailureFilter, RunRecord
    from .conversation.messages import File, Image, JournaledMessage, Message, Part, Role, Source, Text, ToolCall, Usage
    from .conversation.profiles import Profile
    from .errors import (
        AllBackendsFailed,
        Conflict,
        ConversationBusy,
        ConversationChanged,
        ConversationNotFound,
        CorruptEvent,
        ExchangeAnswered,
        IdempotencyConflict,
        InvalidInput,
        InvalidKey,
        InvalidMessage,
        InvalidProfile,
        InvalidSettings,
        NotFound,
        ProviderRefused,
        StoreError,
        StoreUnavailable,
        ThreadledgerError,
    )
    from .exchange.answer import Answer, Delta, StartedOver, StreamPart, ToolUse
    from .exchange.backend import Backend, BackendRequest
    from .exchange.policy import Policy
    from .exchange.services import Services
    from .failures.failure import Cause, Failure, RecordedFailure
    from .failures.groups import FailureGroup, GroupState
    from .failures.health import BackendHealth
    from .failures.summary import SummaryRow
    from .journal.facilities import Finding
    from .journal.journal import Journal
    from .journal.observers import ExchangeEnd, Observer, RunEnd, SeenRun
    from .ledger.audit import LaggingThread
    from .ledger.awaited import AsyncChat, AsyncLedger
    from .ledger.chat import Chat
    from .ledger.ledger import Ledger
    from .ledger.logged_events import LoggedEvent
    from .ledger.own_runs import AsyncOwnRun, OwnRun
    from .memory.diff import MemoryChange, MemoryDiff
    from .memory.memory import Memory
    from .replay.jobs import JobState
    from .replay.plan import Plan
    from .replay.rebuild import RebuildItem, RebuildPlan
    from .replay.reconcile import ReconcileItem, ReconcilePlan
    from .replay.replay import Replay
    from .replay.rerun import RerunPlan
    from .replay.rerun_request import RerunItem
    from .threads.thread import Difference
    from .threads.verification import Verification

__all__ = [
    "AllBackendsFailed",
    "Answer",
    "AsyncChat",
    "AsyncLedger",
    "AsyncOwnRun",
    "Backend",
    "BackendHealth",
    "BackendRequest",
    "Cause",
    "Chat",
    "Completion",
    "Conflict",
    "ConversationBusy",
    "ConversationChanged",
    "ConversationNotFound",
    "CorruptEvent",
    "Delta",
    "Difference",
    "ExchangeAnswered",
    "ExchangeEnd",
    "ExchangeRecord",
    "Failure",
    "FailureFilter",
    "FailureGroup",
    "File",
    "Finding",
    "GroupState",
    "IdempotencyConflict",
    "Image",
    "InvalidInput",
    "InvalidKey",
    "InvalidMessage",
    "InvalidProfile",
    "InvalidSettings",
    "JobState",
    "Journal",
    "JournaledMessage",
    "LaggingThread",
    "Ledger",
    "LoggedEvent",
    "Memory",
    "MemoryChange",
    "MemoryDiff",
    "Message",
    "NotFound",
    "Observer",
    "OwnRun",
    "Part",
    "Plan",
    "Policy",
    "Profile",
    "ProviderRefused",
    "RebuildItem",
    "RebuildPlan",
    "ReconcileItem",
    "ReconcilePlan",
    "RecordedFailure",
    "Replay",
    "RerunItem",
    "RerunPlan",
    "Role",
    "RunEnd",
    "RunRecord",
    "SeenRun",
    "Services",
    "Source",
    "StartedOver",
    "StoreError",
    "StoreUnavailable",
    "StreamPart",
    "SummaryRow",
    "Text",
    "ThreadledgerError",
    "ToolCall",
    "ToolUse",
    "Usage",
    "Verification",
    "errors",
    "limits",
]

_HOMES = {
    "conversation.conversation": "Completion",
    "conversation.exchanges": "ExchangeRecord FailureFilter RunRecord",
    "conversation.messages": "File Image JournaledMessage Message Part Role Source Text ToolCall Usage",
    "conversation.profiles": "Profile",
    "exchange.answer": "Answer Delta StartedOver StreamPart ToolUse",
    "errors": (
        "AllBackendsFailed Conflict ConversationBusy ConversationChanged ConversationNotFound "
        "CorruptEvent ExchangeAnswered IdempotencyConflict InvalidInput InvalidKey InvalidMessage "
        "InvalidProfile InvalidSettings NotFound ProviderRefused StoreError StoreUnavailable "
        "ThreadledgerError"
    ),
    "exchange.backend": "Backend BackendRequest",
    "exchange.policy": "Policy",
    "exchange.services": "Services",
    "failures.failure": "Cause Failure RecordedFailure",
    "failures.groups": "FailureGroup GroupState",
    "failures.health": "BackendHealth",
    "failures.summary": "SummaryRow",
    "journal.journal": "Journal",
    "journal.observers": "ExchangeEnd Observer RunEnd SeenRun",
    "journal.facilities": "Finding",
    "ledger.audit": "LaggingThread",
    "ledger.awaited": "AsyncChat AsyncLedger",
    "ledger.chat": "Chat",
    "ledger.ledger": "Ledger",
    "ledger.logged_events": "LoggedEvent",
    "ledger.own_runs": "AsyncOwnRun OwnRun",
    "memory.diff": "MemoryChange MemoryDiff",
    "memory.memory": "Memory",
    "replay.jobs": "JobState",
    "replay.plan": "Plan",
    "replay.rebuild": "RebuildItem RebuildPlan",
    "replay.reconcile": "ReconcileItem ReconcilePlan",
    "replay.replay": "Replay",
    "replay.rerun": "RerunPlan",
    "replay.rerun_request": "RerunItem",
    "threads.thread": "Difference",
    "threads.verification": "Verification",
}

_EARLIER = {
    "alignment": "common_prefix",
    "conversation.conversation": "ActiveRuns Conversation RunPlan",
    "conversation.exchanges": "Exchanges RUN_TOPICS fold_exchanges recorded_failure",
    "conversation.keys": "CONVERSATION IMPORTED key_of stream_of",
    "conversation.messages": "Verbatim restore_message",
    "conversation.parsing": "parse_message text_message",
    "conversation.profile_files": "parse_profile",
    "conversation.state": "ConversationState STATE_SCHEMA evolve",
    "effects.async_driver": "AsyncDriver",
    "effects.drivers": "heard=stream perform",
    "effects.effects": "Call Effect Effects Pause Tell=Emit Use Work attended",
    "errors": ("DatabaseMissing FileMissing ForeignDatabase GroupNotFound NewerSchema RunNotFound RunNotOpen"),
    "exchange.backend": "ToolFunction",
    "exchange.conversing": "Conversing",
    "exchange.recorded_answers": "recorded_answer",
    "exchange.exchange": "Asking=Exchange",
    "exchange.policy": "Candidate",
    "exchange.recorded_tools": "not_bound",
    "exchange.services": "Outside=Services",
    "failures.advice": "ADVICE advise",
    "failures.failure": "facts_of=Failure.of",
    "failures.diagnosis": "BACKEND_UNWELL DIAGNOSIS_VERSION diagnose may_succeed_when_retried",
    "failures.groups": (
        "Decision GroupName RULE_VERSION TREND_PARTS group_id named_group=GroupName.of normalised state_of=GroupState.of tallied"
    ),
    "failures.health": "BackendEnd Cooling Health cooling_after health_of=BackendHealth.of_each tells=concerns_backend",
    "failures.redaction": "LOGGERS Redacting fields_of keep_secret redact redact_details whole_text",
    "failures.retry": "is_worth_a_retry",
    "failures.summary": "BY_FAILURE SUMMARY_BY in_order=SummaryRow.ranked percentile",
    "ids": "from_iso new_id now to_iso",
    "journal.observers": "RunLog",
    "journal.facilities": "JobClaims MemoryFile NotedThread Upkeep Views",
    "journal.ports": "Appending DecideAppend EventLog StreamHead",
    "journal.rows": "EventMapper LoggedRow PlainJSON Row StoredRow restore",
    "ledger.audit": (
        "FailureGroups Lags ShownMemory defined_profile follow_failures memory_shown threads_behind tool_names"
    ),
    "memory.diff": "Fate diff_memories said",
    "memory.fold": "fold_memory",
    "memory.rendering": "response_items",
    "memory.rule_1": "estimate_tokens",
    "replay.jobs": "Jobs",
    "replay.rebuild": "FileRebuildPlan",
    "replay.recorded": "RecordedExchange RecordedRun recorded_exchange",
    "threads.delivery": (
        "CATCH_UP_ATTEMPTS_MAX Delivered LEFT_IN_THREAD bring_up is_uncertain lacking retried sent_again taken_out"
    ),
    "threads.doubts": "Doubt DoubtedItem",
    "threads.late_copies": "open_doubts surplus",
    "threads.mirror": "MirrorHead MirrorHeads ThreadMirror",
    "threads.outbox": "Mend=DecideRepair Outbox=ThreadOutbox",
    "threads.thread": "Comparison Rendering ThreadItem ThreadState compare differences digest",
    "threads.verification": "SideBySide",
    "conversation.events": "events=",
}
"""Names that `threadledger.domain` offered before its packages had their own public names."""

if not TYPE_CHECKING:
    __getattr__ = lazy_face(__name__, _HOMES, _EARLIER)
