"""List what still grows, with its reason; an entry that is no longer true fails, so it is removed with its cause.

A factor is the cost of one result at the second size over that at the first one: 5,000 conversations over 1,000, or 2,000
messages over 10. A call that is in the table is not made on the largest ledgers, where it may take minutes.
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


RUNS_OF_ALL = "the events about runs are searched in the whole conversation, also if its newest messages are shown"
SPREAD = "exchanges whose runs started in different hours have no counters: an index of them is read"
UNANSWERED = "the exchanges without an answer are counted, by an index that has no others"
DOCTOR = "it looks at the conversations of the newest 1,000 failed runs without an answer"
HALVED = "the position of a time is found by halving the log"
OTHERS = "a search with an owner passes over the matches in conversations of others"
VARIANTS = "all messages are read to find those that follow the same one, after the first branch"
UNLINKED = (
    "conversations without a thread are passed over, and here none has one; among linked ones a page reads its items"
)
SEGMENTS = "a lookup in the full-text index takes a statement for each of its segments, whose number merges bound"


def _known(reason: str, factors: Mapping[str, float], *scans: str) -> Known:
    return Known(reason, factors, frozenset(scans))


KNOWN: dict[tuple[str, str], Known] = {
    ("threadledger show --last", MESSAGES): _known(RUNS_OF_ALL, {"steps": 19}),
    ("Ledger.summary(hour)", CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs"),
    ("Ledger.summary(by actor)", CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs"),
    **{
        (name, CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs")
        for name in (
            *("Ledger.diff_profiles", "Ledger.profiles", "Ledger.profiles(limit)"),
            *("threadledger profile list", "threadledger profile diff"),
        )
    },
    ("threadledger audit summary", CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs"),
    ("Ledger.summary", CONVERSATIONS): _known(SPREAD, {}, "view_audit_runs"),
    ("threadledger audit report", CONVERSATIONS): _known(UNANSWERED, {"steps": 4.6}, "view_audit_runs"),
    ("threadledger doctor", CONVERSATIONS): _known(DOCTOR, {}),
    ("Ledger.conversations(since, limit)", MESSAGES): _known(HALVED, {"steps": 2.1}),
    ("Chat.variants", MESSAGES): _known(VARIANTS, {"steps": 5, "calls": 5}),
    ("Ledger.search(owner, limit)", MESSAGES): _known(OTHERS, {"steps": 4.9}),
    ("Ledger.conversations(search of one)", CONVERSATIONS): _known(SEGMENTS, {}),
    ("Ledger.conversations(search of one)", MESSAGES): _known(SEGMENTS, {}),
    ("Ledger.threads", CONVERSATIONS): _known(UNLINKED, {"steps": 2.0}),
    ("Ledger.threads(limit)", CONVERSATIONS): _known(UNLINKED, {"steps": 19}),
    ("threadledger threads", CONVERSATIONS): _known(UNLINKED, {"steps": 9}),
}

SCANS_BY_NATURE: dict[str, frozenset[str]] = {
    "Ledger.check": frozenset(["addresses", "events", "view_conversations_states"]),
    "Ledger.conversations": frozenset(["view_conversations_states"]),
    "Ledger.copy_to": frozenset(["addresses", "events", "streams"]),
    "threadledger db check": frozenset(["addresses", "events", "streams", "view_conversations_states"]),
    "threadledger db copy": frozenset(["addresses", "events", "streams"]),
    "threadledger list": frozenset(["view_conversations_states"]),
}
"""Large tables that a call reads from end to end because that is its task: a check, a copy, a list without a limit."""
