"""Reading an assistant, or a page of the list, costs the same however many there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from threadledger.domain.conversation import Profile
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ledger import AssistantRecord, AssistantStore

from .metering import Cost, costs_of_calls, growth

SMALL, LARGE = 60, 1_000
PROFILE = Profile("John", "Be kind.", None, json.dumps([{"type": "function", "function": {"name": "weather"}}]))

CALLS: dict[str, Callable[[AssistantStore], Any]] = {
    "get": lambda store: [store.get("one", "asst_10")],
    "first page": lambda store: store.page("one", ListPage(20))[0],
    "page in the middle": lambda store: store.page("one", ListPage(20, after=store.place("one", "asst_30")))[0],
    "page before": lambda store: store.page("one", ListPage(20, before=store.place("one", "asst_30")))[0],
    "oldest first": lambda store: store.page("one", ListPage(20, newest_first=False))[0],
    "modify": lambda store: [
        store.modify("one", "asst_10", lambda each: replace(each, metadata={"n": str(each.version)}))
    ],
}


def filled(size: int, journal: Any) -> AssistantStore:
    store = AssistantStore(journal)
    for number in range(size):
        store.create(AssistantRecord(f"asst_{number}", "gpt-4o", PROFILE, "one"))
    return store


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Cost, int]]]:
    folder = tmp_path_factory.mktemp("assistants")
    return [costs_of_calls(folder / f"{size}.db", partial(filled, size), CALLS) for size in (SMALL, LARGE)]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_costs_the_same_among_many_assistants(name: str, measured: Any) -> None:
    small, large = (each[name] for each in measured)
    assert small[1] == large[1] >= 1
    assert growth(*small, *large) == {}


@pytest.mark.parametrize(("name", "statements"), [("get", 4), ("first page", 6), ("page in the middle", 9)])
def test_a_call_takes_few_statements(name: str, statements: int, measured: Any) -> None:
    assert measured[1][name][0].statements <= statements
