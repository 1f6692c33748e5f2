"""Files that an earlier version imported: importing them again changes nothing, and what it left out is kept from now on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.conversation import events
from threadledger.domain.conversation.messages import Message, Source, message_in
from threadledger.domain.journal import fingerprint_of

from .importing import end, imported

TESTS = Path(__file__).parents[1]
FILES = {path.name: path for folder in ("imports", "items") for path in (TESTS / "cases" / folder).iterdir()}
STORED: dict[str, dict[str, list[dict[str, Any]]]] = {}
"""What schema 6 stored before answers were kept whole, by file and conversation."""
for line in (TESTS / "golden" / "imported-6.jsonl").read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    STORED.setdefault(row["file"], {}).setdefault(row["key"], []).append(row["state"])
EVERY = pytest.mark.parametrize("name", STORED)


def opened(name: str, folder: Path) -> Path:
    """The file as it is imported: databases are stored as the statements that make them."""
    if not name.endswith(".sql"):
        return FILES[name]
    path = folder / "sessions.db"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.executescript(FILES[name].read_text(encoding="utf-8"))
    database.close()
    return path


def stored_before(ledger: Any, name: str) -> None:
    """Journal what the earlier version stored."""
    for key, states in STORED[name].items():

        def decide(conversation: Any, states: Any = states) -> None:
            for state in states:
                conversation.journal(
                    message_in(state),
                    source=Source.IMPORT,
                    message_id=state["message_id"],
                    idempotency_key=state["idempotency_key"],
                    written_at=state.get("written_at"),
                    origin=state.get("origin"),
                )

        ledger.journal.commit(key, decide, create=True)


@EVERY
@pytest.mark.parametrize("by", ["fingerprint", "message"])
def test_importing_a_file_again_that_an_earlier_version_imported_changes_nothing(
    open_store: Callable[[], Any], tmp_path: Path, name: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_store()
    if by == "message":
        monkeypatch.setattr(type(ledger.journal), "fingerprints", lambda _, keys: {key: {} for key in keys})
    stored_before(ledger, name)
    before = end(ledger)
    outcomes = imported(ledger, opened(name, tmp_path))
    found = {each["key"]: each["state"] for each in outcomes if each["key"] in STORED[name]}
    assert found == dict.fromkeys(STORED[name], "unchanged")
    others = sum(each["state"] == "imported" for each in outcomes)
    assert end(ledger) == before + others  # conversations without a message


@EVERY
def test_a_file_is_imported_as_before_but_for_what_is_kept_besides(
    open_store: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    ledger = open_store()
    imported(ledger, opened(name, tmp_path))
    for key, states in STORED[name].items():
        new = [each for each in ledger.journal.history(key) if isinstance(each, events.MessageJournaled)]
        assert [each.idempotency_key for each in new] == [state["idempotency_key"] for state in states]
        kept = [ledger.journal.keep(message_in(state)) for state in states]  # attachments are blobs now
        assert [fingerprint_of(message_of(each)) for each in new] == [fingerprint_of(each) for each in kept]
    before = end(ledger)
    assert {each["state"] for each in imported(ledger, opened(name, tmp_path))} <= {"unchanged", "failed"}
    assert end(ledger) == before


def message_of(event: events.MessageJournaled) -> Message:
    return message_in(events.payload_of(event))


KEPT = {
    "agents_items.sql": ["reasoning", "web_search_call", "image_generation_call", "reasoning"],
    "threads_items.json": ["reasoning", "web_search_call", "image_generation_call", "reasoning"],
    "threads_steps.json": ["code_interpreter"],
    "chatgpt_thoughts.json": ["thoughts", "reasoning_recap"],
    "jsonl_reasoning.jsonl": ["thinking", "server_tool_use", "redacted_thinking", "reasoning"],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_an_import_leaves_out_or_says_in_words_is_kept_with_the_next_message(
    open_store: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    ledger = open_store()
    outcomes = imported(ledger, opened(name, tmp_path))
    assert all(not kind.startswith("native:") for each in outcomes for kind in each["left_out"])
    items = [
        item
        for key in STORED[name]
        for each in ledger.memory(key).messages
        for item in each.message.native().get("items", ())
    ]
    kinds = [item["type"] for item in items]
    assert kinds == KEPT[name]
    assert len(json.dumps(items)) < 8_000  # long texts are blobs
