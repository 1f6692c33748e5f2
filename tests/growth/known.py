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


CAUSE_SOUGHT = "the failed run is searched among the newest events, and in all if it is not there"
FOLD = "all exchanges of the conversation are folded, to find those of one run"
BOTH_MEMORIES = "the memories before and after are both read whole"
MEMORY_OF_EACH = "the whole memory is read for each exchange"
RUNS_OF_ALL = "the events about runs are searched in the whole conversation, also if its newest messages are shown"
SPREAD = "exchanges whose runs started in different hours have no counters: an index of them is read"
PLACES_COUNTED = "the conversations of a group are counted within the hour in progress"
RUNS_COUNTED = "all runs are counted for each answer"
DOCTOR = "it looks at the conversation of each unanswered failure"
KEYS_FOR_FEW = "all keys are read at once, although few are wanted"
SEGMENTS = "a lookup in the full-text index takes a statement for each of its segments, whose number merges bound"


def _known(reason: str, factors: Mapping[str, float], *scans: str) -> Known:
    return Known(reason, factors, frozenset(scans))


KNOWN: dict[tuple[str, str], Known] = {
    ("Chat.run(failed)", MESSAGES): _known(CAUSE_SOUGHT, {"steps": 11}),
    ("Ledger.run", MESSAGES): _known(FOLD, {"steps": 60, "calls": 43}),
    ("Chat.failures", MESSAGES): _known(FOLD, {"statements": 2.0, "steps": 78, "calls": 28}),
    ("Chat.rerun", MESSAGES): _known(FOLD, {"steps": 32, "calls": 14}),
    ("threadledger audit show", MESSAGES): _known(FOLD, {"steps": 23, "calls": 3.4}),
    ("Ledger.diff(newest)", MESSAGES): _known(BOTH_MEMORIES, {"statements": 1.6, "steps": 74, "calls": 98}),
    ("Replay.plan_rerun(failed)", MESSAGES): _known(MEMORY_OF_EACH, {"steps": 66, "calls": 40}),
    ("Replay.plan_rerun(run)", MESSAGES): _known(MEMORY_OF_EACH, {"steps": 68, "calls": 47}),
    ("threadledger replay rerun", MESSAGES): _known(MEMORY_OF_EACH, {"steps": 52, "calls": 25}),
    ("threadledger show --last", MESSAGES): _known(RUNS_OF_ALL, {"steps": 19}),
    ("Ledger.failure_groups", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("Ledger.mute_group", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("Ledger.reopen_group", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("Ledger.resolve_group", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("FailureGroups.all", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("FailureGroups.get", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("FailureGroups.orphans", CONVERSATIONS): _known(PLACES_COUNTED, {"steps": 1.3}),
    ("Ledger.summary(hour)", CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs"),
    ("threadledger audit summary", CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs"),
    ("threadledger audit groups", CONVERSATIONS): _known(PLACES_COUNTED, {}),
    ("Ledger.summary", CONVERSATIONS): _known(RUNS_COUNTED, {"steps": 4.8}, "view_audit_runs"),
    ("threadledger audit report", CONVERSATIONS): _known(RUNS_COUNTED, {"steps": 4.6, "calls": 3.1}, "view_audit_runs"),
    ("threadledger doctor", CONVERSATIONS): _known(DOCTOR, {"statements": 3.0, "steps": 1.9, "calls": 2.7}),
    ("Replay.plan_rebuild(limit)", CONVERSATIONS): _known(
        KEYS_FOR_FEW, {"statements": 3.0, "steps": 5.0, "calls": 5.0}
    ),
    ("Ledger.conversations(search of one)", CONVERSATIONS): _known(SEGMENTS, {"statements": 1.3}),
    ("Ledger.conversations(search of one)", MESSAGES): _known(SEGMENTS, {}),
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
