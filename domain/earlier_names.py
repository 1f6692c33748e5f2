"""Provide the names that `threadledger.domain` offered before its packages had their own public names."""

from .faces import lazy_face

_HOMES = {
    "alignment": "common_prefix",
    "conversation.conversation": "ActiveRuns Conversation RunPlan",
    "conversation.exchanges": "Exchanges RUN_TOPICS fold_exchanges recorded_failure",
    "conversation.keys": "CONVERSATION IMPORTED key_of stream_of",
    "conversation.messages": "restore_message",
    "conversation.parts": "Verbatim",
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
    "failures.health": "BackendEnd Cooling Health tells=concerns_backend",
    "failures.recorded_health": "cooling_after health_of=BackendHealth.of_each",
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

earlier_name = lazy_face(__name__.rpartition(".")[0], _HOMES)
"""Function that returns the value of one of these names, and raises an `AttributeError` for any other."""
