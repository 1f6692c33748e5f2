"""Summaries by owner and conversation have tokens and costs, those by model have ratings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from threadledger.adapters.prices import price
from threadledger.domain.conversation.decisions import rate
from threadledger.domain.ledger import Ledger

from .budgeting import ledger_of


@pytest.fixture
def ledger(any_db_url: str, simulator: Any) -> Iterator[Ledger]:
    with ledger_of(any_db_url, simulator.base_url, max_cost_per_owner_day=None) as opened:
        yield opened


def run(ledger: Ledger, key: str, model: str | None, usage: dict[str, int], actor: str | None = None) -> str:
    """Run a question of an app's own and return the id of its answer."""
    chat = ledger.conversation(key)
    chat.append("user", "Hi")
    with chat.run(backend="chat", model=model or "gpt-5.5", actor=actor) as own:
        own.complete("Hello", usage=usage)
    return chat.memory().messages[-1].message_id


def dollars(model: str, usage: dict[str, int]) -> float:
    found = price(model, usage["input_tokens"], usage["output_tokens"], None, usage.get("cached_tokens", 0))
    assert found is not None
    return found


SMALL = {"input_tokens": 1_234, "output_tokens": 56, "cached_tokens": 1_000}
LARGE = {"input_tokens": 400_000, "output_tokens": 1_000}
OTHER = {"input_tokens": 10, "output_tokens": 20}


def test_costs_are_summed_by_conversation_with_cached_tokens_and_the_dearest_is_first(ledger: Ledger) -> None:
    run(ledger, "small", "gpt-5.5", SMALL)
    run(ledger, "small", "gpt-4o-mini", OTHER)
    run(ledger, "large", "gpt-5.5", LARGE)
    rows = ledger.summary("conversation")
    assert [(row.value, row.runs, row.input_tokens, row.cached_tokens) for row in rows] == [
        ("large", 1, 400_000, 0),
        ("small", 2, 1_244, 1_000),
    ]
    assert rows[0].cost == pytest.approx(dollars("gpt-5.5", LARGE))
    assert rows[1].cost == pytest.approx(dollars("gpt-5.5", SMALL) + dollars("gpt-4o-mini", OTHER))
    assert {"cost", "cached_tokens", "unpriced_runs"} <= rows[0].as_json().keys()


def test_the_owner_of_a_run_is_that_of_its_conversation_now(ledger: Ledger) -> None:
    for key, owner in (("a", "anna"), ("b", "anna"), ("c", "ben"), ("d", "")):
        run(ledger, key, "gpt-5.5", SMALL)
        ledger.conversation(key).describe(owner=owner)
    assert {row.value: row.runs for row in ledger.summary("owner")} == {"anna": 2, "ben": 1, None: 1}
    ledger.conversation("c").describe(owner="anna")
    found = {row.value: row.cost for row in ledger.summary("owner")}
    assert found == {
        "anna": pytest.approx(3 * dollars("gpt-5.5", SMALL)),
        None: pytest.approx(dollars("gpt-5.5", SMALL)),
    }


def test_a_run_of_a_deleted_conversation_belongs_to_its_last_owner_whoever_has_its_key_now(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    run(ledger, "k", "gpt-5.5", SMALL)
    chat.describe(owner="ben")
    chat.describe(owner="anna")
    assert {row.value: row.runs for row in ledger.summary("owner")} == {"anna": 1}
    chat.delete()
    assert {row.value: row.runs for row in ledger.summary("owner")} == {"anna": 1}
    for _ in range(2):
        run(ledger, "k", "gpt-5.5", SMALL)
    assert {row.value: row.runs for row in ledger.summary("owner")} == {"anna": 1, None: 2}
    chat.delete()
    chat.describe(owner="ben")
    for _ in range(3):
        run(ledger, "k", "gpt-5.5", SMALL)
    found = {"anna": 1, None: 2, "ben": 3}
    assert {row.value: row.runs for row in ledger.summary("owner")} == found
    chat.describe(owner="")
    assert {row.value: row.runs for row in ledger.summary("owner")} == {"anna": 1, None: 5}
    chat.describe(owner="ben")
    ledger.rebuild_views()
    assert {row.value: row.runs for row in ledger.summary("owner")} == found
    assert {row.value: row.runs for row in ledger.summary("conversation")} == {"k": 6}
    assert list(ledger.check()) == []


def test_a_run_without_a_known_price_is_counted_as_such(ledger: Ledger) -> None:
    run(ledger, "k", "home-made", SMALL)
    (row,) = ledger.summary("conversation")
    assert (row.cost, row.unpriced_runs, row.input_tokens) == (None, 1, 1_234)
    run(ledger, "k", "gpt-5.5", SMALL)
    (row,) = ledger.summary("conversation")
    assert (row.cost, row.unpriced_runs) == (pytest.approx(dollars("gpt-5.5", SMALL)), 1)


def test_without_the_prices_tokens_are_shown_and_no_costs(ledger: Ledger) -> None:
    run(ledger, "k", "gpt-5.5", SMALL)
    ledger.journal.price = None
    (row,) = ledger.summary("conversation")
    assert (row.cost, row.input_tokens, row.cached_tokens) == (None, 1_234, 1_000)


def test_only_runs_of_the_period_and_of_the_actor_are_counted(ledger: Ledger) -> None:
    run(ledger, "k", "gpt-5.5", SMALL, "anna")
    run(ledger, "k", "gpt-5.5", SMALL)
    assert [row.runs for row in ledger.summary("conversation", actor="anna")] == [1]
    assert ledger.summary("conversation", since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert ledger.summary("owner", until=timedelta(hours=1)) == []


def test_the_newest_rating_by_each_actor_counts_for_the_model_that_said_the_message(ledger: Ledger) -> None:
    said = run(ledger, "k", "gpt-5.5", SMALL)
    other = run(ledger, "k", "gpt-4o-mini", OTHER)
    chat = ledger.conversation("k")
    question = chat.memory().messages[0].message_id
    for message, score, actor in ((said, -1, "anna"), (said, 1, "anna"), (said, 0, "ben"), (question, 5, "ben")):
        chat.rate(message, score, actor=actor)
    rows = {row.value: (row.ratings, row.mean_rating) for row in ledger.summary("model")}
    assert rows == {"gpt-5.5": (2, 0.5), "gpt-4o-mini": (0, None)}
    chat.rate(other, -1)
    chat.rate(said, -1, actor="ben")
    rows = {row.value: (row.ratings, row.mean_rating) for row in ledger.summary("model")}
    assert rows == {"gpt-5.5": (2, 0.0), "gpt-4o-mini": (1, -1.0)}
    assert [row.ratings for row in ledger.summary("backend")] == [None]
    ledger.rebuild_views()
    assert {row.value: (row.ratings, row.mean_rating) for row in ledger.summary("model")} == rows


def test_a_rating_that_cannot_be_stored_in_a_row_is_set_aside_and_the_others_count(ledger: Ledger) -> None:
    said = run(ledger, "k", "gpt-5.5", SMALL)
    ledger.journal.commit("k", lambda it: rate(it, said, 0, 1))
    ledger.conversation("k").rate(said, 1, actor="anna")
    assert [(row.ratings, row.mean_rating) for row in ledger.summary("model")] == [(1, 1.0)]
