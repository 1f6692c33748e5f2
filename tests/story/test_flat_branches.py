"""Test that branches cost nothing: a window, an edit and a new answer read the same in a long conversation with many of them.

Counted are the rows of events, the reads of heads and the appends; not time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ledger import Ledger

from ..conftest import SOAK

SHORT, LONG = 100, 100_000 if SOAK else 2_000
FEW, MANY = 30, 10_000 if SOAK else 150
WINDOW = 20
STEPS = 6


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger(backends=("chat",), threads="none", retries=0, memory_last=WINDOW)


def filled(ledger: Ledger, name: str, length: int) -> Any:
    """Return a new conversation with this number of messages."""
    chat = ledger.conversation(name)
    chat.extend(
        {"role": ("user", "assistant")[number % 2], "content": f"text {number % 10}"} for number in range(length)
    )
    return chat


def message(chat: Any, share: float) -> str:
    """Return a question at a share of the conversation."""
    events = chat.events()
    said = [event for event in events if type(event).__name__ == "MessageJournaled" and event.role == "user"]
    return said[int((len(said) - 1) * share)].message_id


def failing(chat: Any, simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=1)
    with pytest.raises(AllBackendsFailed):
        chat.regenerate(message(chat, 0.5))


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "edit of the newest question": lambda chat, _: chat.edit(message(chat, 1), "another"),
    "edit in the middle": lambda chat, _: chat.edit(message(chat, 0.5), "another"),
    "edit of the first message": lambda chat, _: chat.edit(message(chat, 0), "another"),
    "regenerate the newest": lambda chat, _: chat.regenerate(),
    "regenerate in the middle": lambda chat, _: chat.regenerate(message(chat, 0.5)),
    "a branch selected again": lambda chat, _: (
        chat.edit(message(chat, 1), "x"),
        chat.select_branch(message(chat, 0.9)),
    ),
    "retract": lambda chat, _: chat.retract(message(chat, 1)),
    "pin": lambda chat, _: chat.pin(message(chat, 0.1)),
    "pin and edit": lambda chat, _: (chat.pin(message(chat, 0.1)), chat.edit(message(chat, 0.5), "another")),
    "a run that fails": failing,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_last_messages_are_read_by_few_rows_after_any_change(
    change: str, ledger: Ledger, simulator: Any, read: Counter[str]
) -> None:
    for length in (SHORT, LONG):
        chat = filled(ledger, f"of {length}", length)
        CHANGES[change](chat, simulator)
        read.clear()
        shown = chat.memory(last=WINDOW).messages
        assert read["rows"] <= 25 + change.count("pin"), (length, dict(read))
        assert len(shown) <= WINDOW + 1


def edit_and_answer(chat: Any, at: str) -> None:
    chat.edit(at, "another")
    chat.regenerate()


WORK: dict[str, Callable[[Any, str], Any]] = {
    "edit": lambda chat, at: chat.edit(at, "another"),
    "regenerate": lambda chat, at: chat.regenerate(at),
    "edit, then regenerate": edit_and_answer,
    "append": lambda chat, _: chat.append("user", "more"),
    "ask": lambda chat, _: chat.ask("more?"),
    "pin": lambda chat, at: chat.pin(at),
    "rate": lambda chat, at: chat.rate(at, 1),
    "retract": lambda chat, at: chat.retract(at),
    "last": lambda chat, _: chat.memory(last=WINDOW),
}


def test_work_on_a_long_conversation_reads_what_it_reads_on_a_short_one(ledger: Ledger, read: Counter[str]) -> None:
    costs: list[dict[str, Counter[str]]] = []
    for length in (SHORT, LONG):
        chat = filled(ledger, f"of {length}", length)
        chat.ask("and now?")
        costs.append(cost_of_each(WORK, chat, read))
    assert_flat(*costs)


def cost_of_each(works: Iterable[str], chat: Any, read: Counter[str]) -> dict[str, Counter[str]]:
    """Do one work after the other, each at a new question, and return what each read."""
    costs = {}
    for work in works:
        chat.ask("and then?")
        newest = message(chat, 1)
        read.clear()
        WORK[work](chat, newest)
        costs[work] = read.copy()
    return costs


def assert_flat(few: dict[str, Counter[str]], many: dict[str, Counter[str]]) -> None:
    """Compare what was read; a message is found by the time of its id in as many steps as its place has binary digits."""
    for work, before in few.items():
        after = many[work]
        assert {name for name in before | after if after[name] > before[name] + STEPS} == set(), (work, before, after)


AGAIN: dict[str, Callable[[Any, str], Any]] = {
    "edited": lambda chat, middle: chat.edit(middle, "another"),
    "regenerated": lambda chat, _: chat.regenerate(),
}


@pytest.mark.parametrize("again", AGAIN)
def test_what_a_conversation_with_many_branches_costs_is_what_one_with_few_costs(
    again: str, ledger: Ledger, read: Counter[str]
) -> None:
    costs, sizes = [], []
    for times in (FEW, MANY):
        chat = filled(ledger, f"{times} times", 60)
        chat.ask("and now?")
        middle = message(chat, 0.5)
        for _ in range(times):
            AGAIN[again](chat, middle)
        sizes.append(len(ledger.journal.require(chat.key).state.as_json()))
        costs.append(cost_of_each(["append", "ask", "edit", "regenerate", "last"], chat, read))
    assert_flat(*costs)
    assert sizes[1] - sizes[0] < 50
