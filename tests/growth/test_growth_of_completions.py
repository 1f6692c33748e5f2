"""Reading a stored chat completion, or a page of the list, costs the same however many there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from threadledger.domain.conversation import Conversation
from threadledger.domain.conversation.completions import model_label, pair_label
from threadledger.domain.conversation.events import CompletionStored
from threadledger.domain.conversation.listing import ListPage
from threadledger.domain.ids import now, to_iso
from threadledger.domain.journal import Journal

from .metering import Cost, costs_of_calls, growth

SMALL, LARGE = 60, 1_000
MIDDLE = "chatcmpl-30"


def newest(journal: Journal) -> Any:
    [(_, version)] = journal.addressed([MIDDLE])[MIDDLE]
    return [*journal.history("k", version - 1, version)]


def page(journal: Journal, *labels: str, newest_first: bool = False, after: str = "") -> Any:
    place = journal.views.completion_place("", after) if after else None
    return journal.views.completions("", ListPage(10, newest_first, place), labels)


CALLS: dict[str, Callable[[Journal], Any]] = {
    "retrieve": newest,
    "first page": page,
    "newest first": partial(page, newest_first=True),
    "page in the middle": partial(page, after=MIDDLE),
    "of a model": lambda journal: page(journal, model_label("gpt-4o")),
    "of a pair": lambda journal: page(journal, pair_label("odd", "1"), after=MIDDLE),
    "of a model and a pair": lambda journal: page(journal, pair_label("odd", "1"), model_label("gpt-4o")),
}


def store(number: int, conversation: Conversation) -> None:
    versions = {"request_version": 1, "completed_version": 1, "message_version": 1}
    ids = {"completion_id": f"chatcmpl-{number}", "exchange_id": "x", "run_id": "r", "message_id": "m"}
    made: dict[str, Any] = {"created_at": to_iso(now()), "model": "gpt-4o", "metadata": {"odd": str(number % 2)}}
    conversation.record(CompletionStored, **versions, **ids, **made)


def filled(size: int, journal: Journal) -> Journal:
    for number in range(size):
        journal.commit("k", partial(store, number), create=True)
    return journal


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Cost, int]]]:
    folder = tmp_path_factory.mktemp("completions")
    return [costs_of_calls(folder / f"{size}.db", partial(filled, size), CALLS) for size in (SMALL, LARGE)]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_costs_the_same_among_many_completions(name: str, measured: Any) -> None:
    small, large = (each[name] for each in measured)
    assert small[1] == large[1] >= 1
    assert growth(*small, *large) == {}
