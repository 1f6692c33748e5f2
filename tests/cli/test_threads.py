"""`threads` lists linked threads and what their last verification found, as a table and in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import threadledger


@pytest.fixture
def linked(db_url: str, simulator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger with two threads, the first of which was verified."""
    for name, value in {
        "THREADLEDGER_DB": db_url,
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "sk-test",
    }.items():
        monkeypatch.setenv(name, value)
    with threadledger.open() as ledger:
        for key in ("first", "second"):
            ledger.conversation(key).append("user", "Where is it?")


@pytest.mark.usefixtures("linked")
def test_threads_are_listed_with_the_outcome_of_their_verification(command: Callable[..., Any]) -> None:
    assert command("replay", "verify", "first").code == 0
    second, first = command("threads", "-o", "json").json
    keys = ["key", "backend", "thread_id", "endpoint", "linked_version", "lost", "version", "state"]
    assert list(first) == [*keys, "verified_version", "verified_at"]
    assert (first["key"], first["state"], second["key"], second["state"]) == ("first", "same", "second", None)
    assert command("threads", "--state", "same", "-o", "json").json == [first]
    table = command("threads").out
    assert first["thread_id"] in table and "same" in table and first["verified_at"][:10] in table
    page = command("threads", "--limit", "1", "--cursor", "-o", "json").json
    assert page["items"] == [second]
    assert command("threads", "--after", page["next_cursor"], "-o", "json").json == [first]
    assert command("threads", "--backend", "assistants").out == ""


@pytest.mark.usefixtures("linked")
def test_a_key_that_is_unknown_is_not_found(command: Callable[..., Any]) -> None:
    assert command("threads", "--key", "unknown").code == 6
