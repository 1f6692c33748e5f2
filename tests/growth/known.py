"""List what still grows, with its reason; an entry that is no longer true fails, so it is removed with its cause.

A factor is the cost of one result at the second size over that at the first one: 5,000 conversations over 1,000, or 2,000
messages over 10. A call that is in the table is not made at 100,000, where it may take minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .calls import CONVERSATIONS, MESSAGES


@dataclass(frozen=True)
class Known:
    """Describe the growth of one call."""

    reason: str
    factors: Mapping[str, float]
    """Factor by which the cost of one result grows, by measure."""
    scans: frozenset[str] = frozenset()
    """Large tables that are scanned without a LIMIT, without the version of a view."""


DIGEST = "the digest of the whole memory is computed for each run"
FOLD = "all exchanges of the conversation are folded, to find those of one run"
BOTH_MEMORIES = "the memories before and after are both read whole"
WHOLE_MEMORY = "the whole memory is read, to see whether the message is in it"
FROM_THE_BEGINNING = "the events of a conversation are read from its beginning, whatever the position"
MEMORY_OF_EACH = "the whole memory is read for each exchange"
RUNS_OF_ALL = "the events about runs are searched in the whole conversation, also if its newest messages are shown"
FAILURES_COUNTED = "all failures are counted for each answer"
RUNS_COUNTED = "all runs are counted for each answer"
LEDGER_COUNTED = "events and conversations are counted one by one"
EVENTS_COUNTED = "events are counted one by one"
JOBS_SOUGHT = "jobs are found among all streams"
DOCTOR = "it counts events, and looks for jobs and for open exchanges among all streams"
KEYS_FOR_FEW = "all keys are read at once, although few are wanted"
KEYS_AT_ONCE = "all keys are read at once and kept"
SEGMENTS = "a lookup in the full-text index takes a statement for each of its segments, whose number merges bound"


def _known(reason: str, factors: Mapping[str, float], *scans: str) -> Known:
    return Known(reason, factors, frozenset(scans))


KNOWN: dict[tuple[str, str], Known] = {
    ("Chat.run", MESSAGES): _known(DIGEST, {"steps": 27, "calls": 19}),
    ("Chat.run(failed)", MESSAGES): _known(DIGEST, {"steps": 28, "calls": 6.3}),
    ("Chat.exchange", MESSAGES): _known(DIGEST, {"steps": 30, "calls": 20}),
    ("AsyncChat.run", MESSAGES): _known(DIGEST, {"steps": 16}),
    ("AsyncChat.exchange", MESSAGES): _known(DIGEST, {"steps": 17}),
    ("Ledger.run", MESSAGES): _known(FOLD, {"steps": 60, "calls": 43}),
    ("Chat.failures", MESSAGES): _known(FOLD, {"statements": 2.0, "steps": 78, "calls": 28}),
    ("Chat.rerun", MESSAGES): _known(FOLD, {"steps": 32, "calls": 14}),
    ("threadledger audit show", MESSAGES): _known(FOLD, {"steps": 23, "calls": 3.4}),
    ("Ledger.diff(newest)", MESSAGES): _known(BOTH_MEMORIES, {"statements": 1.6, "steps": 74, "calls": 98}),
    ("Chat.retract", MESSAGES): _known(WHOLE_MEMORY, {"steps": 39, "calls": 37}),
    ("Ledger.events(key, after)", MESSAGES): _known(FROM_THE_BEGINNING, {"statements": 3.7, "steps": 80, "calls": 13}),
    ("Replay.plan_rerun(failed)", MESSAGES): _known(MEMORY_OF_EACH, {"steps": 66, "calls": 40}),
    ("Replay.plan_rerun(run)", MESSAGES): _known(MEMORY_OF_EACH, {"steps": 68, "calls": 47}),
    ("threadledger replay rerun", MESSAGES): _known(MEMORY_OF_EACH, {"steps": 20, "calls": 5.0}),
    ("threadledger show --last", MESSAGES): _known(RUNS_OF_ALL, {"steps": 19}),
    ("Ledger.failure_groups", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.3}, "view_audit_runs"),
    ("Ledger.mute_group", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.2}, "view_audit_runs"),
    ("Ledger.reopen_group", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.2}, "view_audit_runs"),
    ("Ledger.resolve_group", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.3}, "view_audit_runs"),
    ("FailureGroups.all", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.4, "calls": 1.5}, "view_audit_runs"),
    ("FailureGroups.get", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.4, "calls": 1.5}, "view_audit_runs"),
    ("FailureGroups.orphans", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 4.4, "calls": 1.5}, "view_audit_runs"),
    ("threadledger audit groups", CONVERSATIONS): _known(FAILURES_COUNTED, {"steps": 3.1}, "view_audit_runs"),
    ("Ledger.summary", CONVERSATIONS): _known(RUNS_COUNTED, {"steps": 4.8}, "view_audit_runs"),
    ("Ledger.summary(hour)", CONVERSATIONS): _known(RUNS_COUNTED, {"steps": 3.8}, "view_audit_runs"),
    ("threadledger audit summary", CONVERSATIONS): _known(RUNS_COUNTED, {"steps": 4.0}, "view_audit_runs"),
    ("threadledger audit report", CONVERSATIONS): _known(RUNS_COUNTED, {"steps": 4.6, "calls": 3.1}, "view_audit_runs"),
    ("Ledger.status", CONVERSATIONS): _known(LEDGER_COUNTED, {"steps": 4.8}, "events", "streams"),
    ("threads_behind", CONVERSATIONS): _known(LEDGER_COUNTED, {"steps": 1.9}, "events", "streams"),
    ("threadledger db status", CONVERSATIONS): _known(LEDGER_COUNTED, {"steps": 4.4}, "events", "streams"),
    ("Ledger.status", MESSAGES): _known(EVENTS_COUNTED, {}, "events"),
    ("threads_behind", MESSAGES): _known(EVENTS_COUNTED, {}, "events"),
    ("threadledger db status", MESSAGES): _known(EVENTS_COUNTED, {}, "events"),
    ("threadledger doctor", MESSAGES): _known(EVENTS_COUNTED, {}, "events"),
    ("Replay.job", CONVERSATIONS): _known(JOBS_SOUGHT, {"steps": 4.9}, "streams"),
    ("Replay.jobs", CONVERSATIONS): _known(JOBS_SOUGHT, {"steps": 4.9}, "streams"),
    ("Replay.results", CONVERSATIONS): _known(JOBS_SOUGHT, {"steps": 4.8}, "streams"),
    ("threadledger replay jobs", CONVERSATIONS): _known(JOBS_SOUGHT, {"steps": 4.5}, "streams"),
    ("threadledger doctor", CONVERSATIONS): _known(
        DOCTOR, {"statements": 3.0, "steps": 3.1, "calls": 2.1}, "events", "streams"
    ),
    ("Replay.plan_rebuild(limit)", CONVERSATIONS): _known(KEYS_FOR_FEW, {"steps": 5.0, "calls": 4.9}, "streams"),
    ("Replay.keys", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Replay.places", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Replay.plan_rebuild", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Replay.plan_rebuild(items)", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Replay.plan_rebuild_file", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Replay.plan_reconcile", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Replay.verify", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("threadledger replay rebuild", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("threadledger replay verify", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("threadledger replay reconcile", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("threadledger export", CONVERSATIONS): _known(KEYS_AT_ONCE, {}, "streams"),
    ("Ledger.conversations(search of one)", CONVERSATIONS): _known(SEGMENTS, {"statements": 1.3}),
}

SCANS_BY_NATURE: dict[str, frozenset[str]] = {
    "Ledger.check": frozenset(["events", "view_conversations_states"]),
    "Ledger.conversations": frozenset(["view_conversations_states"]),
    "Ledger.copy_to": frozenset(["events", "streams"]),
    "threadledger db check": frozenset(["events", "streams", "view_conversations_states"]),
    "threadledger db copy": frozenset(["events", "streams"]),
    "threadledger list": frozenset(["view_conversations_states"]),
}
"""Large tables that a call reads from end to end because that is its task: a check, a copy, a list without a limit."""
