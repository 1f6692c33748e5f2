"""Kill an import (SIGKILL) at random moments, then import the file again: nothing is missing, or stored twice or in part.

`make soak` kills it 50 times on each kind of database.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from .importing import imported, said
from .writing import assert_sound, open_at, writers

pytestmark = pytest.mark.crash

KILLS = 50 if "THREADLEDGER_SOAK" in os.environ else 4
SEED = 20_240_229
CONVERSATIONS = 100
LINES = CONVERSATIONS * 2
"""Number of lines that an import prints: one for each conversation that it reads, and one for each that it has stored."""

ROLES = ("user", "assistant")


def written(path: Path, rng: random.Random) -> dict[str, list[tuple[str, str]]]:
    """Write a file of conversations; return what is said in each, by key."""
    conversations = {
        f"{path.stem} {number}": [(ROLES[place % 2], f"{number}/{place} é") for place in range(rng.randint(1, 6))]
        for number in range(CONVERSATIONS)
    }
    lines = [
        json.dumps({"id": key, "messages": [{"role": role, "content": text} for role, text in messages]})
        for key, messages in conversations.items()
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return conversations


def test_an_import_that_is_killed_and_run_again_stores_each_conversation_once(any_db_url: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    conversations: dict[str, list[tuple[str, str]]] = {}
    stored_in_part = 0
    with writers(str(Path(__file__).with_name("killed_import.py"))) as running:
        for number in range(KILLS):
            file = tmp_path / f"{number}.jsonl"
            of_file = written(file, rng)
            conversations |= of_file
            running.start(any_db_url, [str(file)])
            lines = running.acknowledged(rng.randint(0, LINES)) + running.kill()
            acknowledged = {key for state, key in (line.split(" ", 1) for line in lines) if state == "imported"}
            with open_at(any_db_url) as ledger:
                stored = of_file.keys() & set(ledger.journal.keys())
                assert acknowledged <= stored
                outcomes = {each["key"]: (each["state"], each["messages"]) for each in imported(ledger, file)}
            assert outcomes == {
                key: ("unchanged", 0) if key in stored else ("imported", len(messages))
                for key, messages in of_file.items()
            }
            stored_in_part += 0 < len(stored) < CONVERSATIONS
    assert stored_in_part, "no import was killed between its first and its last batch"
    events = assert_sound(any_db_url)
    assert len(events) == sum(1 + len(messages) for messages in conversations.values())
    with open_at(any_db_url) as ledger:
        assert list(ledger.check()) == []
        stored_keys = ledger.journal.keys()
        assert {key: said(ledger, key) for key in stored_keys} == conversations
