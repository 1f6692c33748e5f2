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
    from .conversation.messages import JournaledMessage, Message, Role, Source, ToolCall, Usage
    from .conversation.parts import File, Image, Part, Text
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
    from .exchange.answer import Answer, Delta, NotShown, StartedOver, StreamPart, ToolUse
    from .exchange.backend import Backend, BackendRequest
    from .exchange.policy import Policy
    from .exchange.services import Services
    from .failures.failure import Cause, Failure, RecordedFailure
    from .failures.groups import FailureGroup, GroupState
    from .failures.recorded_health import BackendHealth
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
    "NotShown",
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
    "conversation.messages": "JournaledMessage Message Role Source ToolCall Usage",
    "conversation.parts": "File Image Part Text",
    "conversation.profiles": "Profile",
    "exchange.answer": "Answer Delta NotShown StartedOver StreamPart ToolUse",
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
    "failures.recorded_health": "BackendHealth",
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

if not TYPE_CHECKING:
    _face = lazy_face(__name__, _HOMES)

    def __getattr__(name: str) -> object:
        if name in __all__:
            return _face(name)
        from .earlier_names import earlier_name

        return earlier_name(name)
