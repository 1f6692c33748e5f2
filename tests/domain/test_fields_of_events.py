"""Check that docs/events.md lists every event, and every field of it with its default and its meaning."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from threadledger.domain.conversation.events import COMMON_FIELDS, EVENTS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
TYPES = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \| (.+) \|$", DOCUMENT, re.MULTILINE)
FIELDS = DOCUMENT.partition("\n## Fields\n")[2]
SECTIONS = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", FIELDS, re.DOTALL | re.MULTILINE))
SHARED = frozenset({"actor"})
"""Fields of every event: their meaning is said once."""


def default_of(field: FieldInfo) -> str:
    """The default as the document writes it, empty for a field that is always stored."""
    if field.default_factory is not NODEFAULT:
        return f"`{json.dumps(field.default_factory())}`"
    return "" if field.default is NODEFAULT else f"`{json.dumps(field.default)}`"


def test_every_event_has_a_meaning_and_leads_to_its_fields() -> None:
    assert [name for name, _, _ in TYPES] == list(EVENTS)
    assert [link for _, link, _ in TYPES] == [name.lower() for name in EVENTS]


@pytest.mark.parametrize("name", EVENTS)
def test_every_field_of_an_event_has_its_default_and_a_meaning(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| (\S.*) \|$", SECTIONS.get(name, ""), re.MULTILINE)
    stored = [each for each in fields(EVENTS[name]) if each.name not in COMMON_FIELDS | SHARED]
    assert [(field, default) for field, default, _ in rows] == [(each.name, default_of(each)) for each in stored]


def test_what_all_events_share_is_said_once() -> None:
    assert all(f"`{name}`" in FIELDS.partition("\n### ")[0] for name in SHARED)
