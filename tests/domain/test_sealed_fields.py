"""Check that docs/events.md says for every field of every event whether it stays clear when events are encrypted."""

from __future__ import annotations

import re
from pathlib import Path

from threadledger.domain.conversation.events import COMMON_FIELDS, EVENTS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
ROWS = re.findall(
    r"^\| `(\w+)` \| (.*?) \| (.*?) ?\|$", DOCUMENT.partition("## What may be encrypted later")[2], re.MULTILINE
)
TABLE = {event: (re.findall(r"`(\w+)`", clear), re.findall(r"`(\w+)`", sealed)) for event, clear, sealed in ROWS}

SAID = frozenset(
    {
        *("content", "tool_calls", "native", "origin", "metadata", "extra", "partial_text", "message", "details"),
        *("shadow_messages", "reason", "note", "comment", "title", "tags", "instructions", "tools", "settings"),
        *("memory_hash", "path_hash", "digest", "filename"),
    }
)
"""Fields that can hold what people said, or a hash of it, wherever they occur."""


def test_each_field_of_each_event_is_either_clear_or_to_be_sealed() -> None:
    stored = {name: sorted(set(event.__struct_fields__) - COMMON_FIELDS) for name, event in EVENTS.items()}
    assert {name: sorted(clear + sealed) for name, (clear, sealed) in TABLE.items()} == stored


def test_what_people_said_is_sealed_everywhere() -> None:
    assert {name: SAID.intersection(clear) for name, (clear, _) in TABLE.items() if SAID.intersection(clear)} == {}


def test_what_an_event_is_found_and_folded_by_stays_clear() -> None:
    found = frozenset({"message_id", "run_id", "exchange_id", "role", "source", "blobs", "usage", "actor", "key"})
    assert {name: found.intersection(sealed) for name, (_, sealed) in TABLE.items() if found.intersection(sealed)} == {}
