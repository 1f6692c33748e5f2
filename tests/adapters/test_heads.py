"""Names, plans and lists of all conversations come from their heads, page by page, and never from the log."""

from __future__ import annotations

from typing import Any

import pytest

from threadledger.adapters.sql import recorder
from threadledger.domain.conversation import Conversation, text_message
from threadledger.domain.journal import journal as journals
from threadledger.domain.replay.rebuild import Rebuilder, RebuildOutline


@pytest.fixture
def ledger(open_any_store: Any) -> Any:
    ledger = open_any_store()
    for key in ("b", "c", "a", "empty"):
        conversation = Conversation.start(key)
        if key != "empty":
            conversation.journal(text_message("user", "hi"))
        if key == "c":
            conversation.link_thread("tapes", "t", "here")
        ledger.journal.store(conversation)
    return ledger


@pytest.fixture
def statements(ledger: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The statements of the queries from now on, with their values."""
    database = ledger.journal.recorder._database
    seen: list[tuple[str, Any]] = []
    query = database.query

    def seeing(statement: str, values: Any = ()) -> Any:
        seen.append((statement, values))
        return query(statement, values)

    monkeypatch.setattr(database, "query", seeing)
    return seen


def test_keys_and_versions_read_names_alone_a_page_per_query(
    ledger: Any, statements: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PAGE_STREAMS", 2)
    assert ledger.journal.keys() == ["a", "b", "c", "empty"]
    assert sorted(ledger.journal.versions()) == [("a", 2), ("b", 2), ("c", 3), ("empty", 1)]
    assert [[*ledger.journal.versions(limit=limit)] for limit in (0, 2)] == [[], [("a", 2), ("b", 2)]]
    del statements[-2:]
    assert list(ledger.journal.keys_in_order()) == ["b", "c", "a", "empty"]
    assert len(statements) == 3 * (4 // 2 + 1)
    assert not any("state" in statement or "events" in statement for statement, _ in statements)


def test_the_heads_of_a_prefix_are_searched_by_the_index_on_names(ledger: Any, statements: list[Any]) -> None:
    assert [head.stream for head in ledger.journal.heads("conversation:")] == [
        "conversation:b",
        "conversation:c",
        "conversation:a",
        "conversation:empty",
    ]
    assert ledger.journal.heads("job:") == []
    database = ledger.journal.recorder._database
    if database.kind.name == "sqlite":
        for statement, values in list(statements):
            plan = [row[3] for row in database.query(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert "SEARCH streams" in plan[0]


def test_a_state_that_names_another_conversation_is_damaged_and_folded_from_the_events(ledger: Any) -> None:
    database = ledger.journal.recorder._database
    database.execute(
        "UPDATE streams SET snapshot = replace(snapshot, ?, ?) WHERE name = ?", ('"b"', '"x"', "conversation:b")
    )
    assert (ledger.state("b").key, ledger.state("b").version) == ("b", 2)
    assert ledger.conversation("b").append("user", "ho").version == 3


def test_a_prefix_ends_where_it_ends(ledger: Any) -> None:
    for key in ("conv", "\U0010ffff", "zz"):
        ledger.journal.store(Conversation.start(key))
    assert len(ledger.journal.heads("conversation:")) == 7
    assert [head.stream for head in ledger.journal.heads("conversation:z")] == ["conversation:zz"]


def test_states_are_read_by_one_query_for_a_page_of_keys_and_in_their_order(
    ledger: Any, statements: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "PAGE_STATES", 2)
    found = [(key, state.messages) for key, state in ledger.journal.states_of(["c", "nobody", "a", "b"])]
    assert found == [("c", 1), ("a", 1), ("b", 1)]
    assert len(statements) == 2


class Mirror:
    """A kind of thread that is read and written ten entries at a time."""

    page = batch = 10


class Verifier:
    def reach(self, to: str) -> Mirror:
        return Mirror()


def test_the_sums_of_a_rebuild_come_from_the_heads_and_read_no_event(ledger: Any, statements: list[Any]) -> None:
    rebuilder = Rebuilder(ledger.journal, None, Verifier())  # type: ignore[arg-type]  # of a verifier, it uses only `reach`
    found = rebuilder.outline(ledger.journal.keys(), "tapes")
    assert found == RebuildOutline(threads=3, empty=1, messages=3, linked=1, requests=3 + 3 + 4)
    assert not any("FROM events" in statement for statement, _ in statements)
