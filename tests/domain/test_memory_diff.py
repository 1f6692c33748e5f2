"""Two memories of one conversation, message by message."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.conversation import events
from threadledger.domain.errors import ConversationNotFound
from threadledger.domain.ledger import AsyncLedger
from threadledger.domain.memory import Memory, MemoryDiff, diff_memories, fold_memory
from threadledger.domain.memory.diff import Fate, said

Said = partial(events.MessageJournaled, role="user")


def told(diff: MemoryDiff) -> list[tuple[str, str, int | None, int | None]]:
    return [(each.change.value, each.message.message_id, each.place_before, each.place_after) for each in diff.entries]


def message(number: int, text: str = "") -> Any:
    return partial(Said, message_id=f"m{number}", content=text or f"text {number}")


def between(log: Callable[..., Any], before: int, after: int, *facts: Any) -> MemoryDiff:
    history = log(*facts)
    older, newer = sorted((before, after))
    return diff_memories(
        "k",
        fold_memory(history, before),
        fold_memory(history, after),
        [e for e in history if older < e.originator_version <= newer],
    )


def test_what_was_journaled_since_came(log):
    diff = between(log, 1, 3, message(1), message(2), message(3))
    assert told(diff) == [("same", "m1", 1, 1), ("came", "m2", None, 2), ("came", "m3", None, 3)]
    assert [each.reason for each in diff.changes] == ["journaled at version 2", "journaled at version 3"]


def test_what_was_retracted_went_from_where_it_stood_and_says_why(log):
    retracted = partial(events.MessageRetracted, message_id="m2", reason="wrong person")
    diff = between(log, 3, 4, message(1), message(2), message(3), retracted)
    assert told(diff) == [("same", "m1", 1, 1), ("went", "m2", 2, None), ("same", "m3", 3, 2)]
    assert diff.changes[0].reason == "retracted at version 4: wrong person"


def test_what_was_cleared_went_and_what_came_after_it_did_not(log):
    cleared = partial(events.MemoryCleared, up_to_version=2)
    diff = between(log, 2, 4, message(1), message(2), cleared, message(3))
    assert told(diff) == [("went", "m1", 1, None), ("went", "m2", 2, None), ("came", "m3", None, 1)]
    assert diff.changes[1].reason == "memory was cleared at version 3"


def test_what_a_rerun_superseded_went_with_the_run_that_answers_in_its_place(log):
    accepted = partial(events.RerunAccepted, exchange_id="x", run_id="r2", message_id="m2", superseded_message_id="m1")
    diff = between(log, 1, 3, message(1), message(2), accepted)
    assert told(diff) == [("went", "m1", 1, None), ("came", "m2", None, 1)]
    assert diff.changes[0].reason == "superseded at version 3: run r2 answers in its place"


def test_what_came_and_went_in_between_is_in_neither(log):
    retracted = partial(events.MessageRetracted, message_id="m2")
    assert between(log, 1, 3, message(1), message(2), retracted).same


def test_backwards_what_came_went(log):
    diff = between(log, 3, 1, message(1), message(2), message(3))
    assert told(diff) == [("same", "m1", 1, 1), ("went", "m2", 2, None), ("went", "m3", 3, None)]
    assert diff.changes[0].reason == "journaled at version 2"


def test_two_equal_texts_are_two_messages(log):
    diff = between(log, 1, 2, message(1, "Yes."), message(2, "Yes."))
    assert told(diff) == [("same", "m1", 1, 1), ("came", "m2", None, 2)]


def memories(log: Callable[..., Any], *orders: tuple[list[int], str]) -> list[Memory]:
    found = []
    for numbers, text in orders:
        kept = fold_memory(log(*(message(number, text) for number in numbers)))
        found.append(kept)
    return found


def test_a_message_that_stands_on_another_side_of_the_others_moved(log):
    before, after = memories(log, ([1, 2, 3], ""), ([2, 3, 1], ""))
    assert told(diff_memories("k", before, after)) == [
        ("same", "m2", 2, 1),
        ("same", "m3", 3, 2),
        ("moved", "m1", 1, 3),
    ]


def test_a_message_with_other_words_is_different_and_says_what_it_was(log):
    before, after = memories(log, ([1], "Hello."), ([1], "Hello!"))
    (changed,) = diff_memories("k", before, after).changes
    assert (changed.change, changed.as_json()["before"], changed.as_json()["after"]) == (
        Fate.DIFFERENT,
        "Hello.",
        "Hello!",
    )


def test_what_a_message_says_is_its_text_its_parts_by_kind_and_its_calls(memory_of):
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
    messages = memory_of(
        {"role": "user", "content": parts}, {"role": "assistant", "content": None, "tool_calls": [call]}
    ).messages
    assert [said(each) for each in messages] == ["Look:\n[image_url]", 'weather({"city": "Bern"})']


@for_all(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True))
def test_the_entries_hold_every_message_of_either_memory_once_and_in_order(older, newer):
    from .conftest import _log

    before, after = (fold_memory(_log(*(message(number) for number in numbers))) for numbers in (older, newer))
    diff = diff_memories("k", before, after)
    ids = [each.message.message_id for each in diff.entries]
    assert sorted(ids) == sorted({f"m{number}" for number in (*older, *newer)})
    assert [each.message.message_id for each in diff.entries if each.place_after] == [f"m{n}" for n in newer]
    assert [each.place_after for each in diff.entries if each.place_after] == list(range(1, len(newer) + 1))
    assert diff.same is (older == newer)
    for each in diff.entries:
        where = [
            each.place_before and f"m{older[each.place_before - 1]}",
            each.place_after and f"m{newer[each.place_after - 1]}",
        ]
        assert {place for place in where if place} == {each.message.message_id}


# In a ledger


@pytest.fixture
def chat(open_ledger):
    ledger = open_ledger(threads="none")
    chat = ledger.conversation("k")
    ids = [chat.append("user", f"text {number}").message_id for number in range(4)]
    chat.retract(ids[1])
    return ledger


def test_a_ledger_compares_two_versions_from_the_beginning_and_until_now(chat):
    assert [each.change.value for each in chat.diff("k", 3, 6).changes] == ["went", "came", "came"]
    assert [each.place_after for each in chat.diff("k", None, 3).changes] == [1, 2]
    assert chat.diff("k", 6).same
    assert (chat.diff("k", 3).before, chat.diff("k", 3).after) == (3, 6)


def test_a_ledger_compares_two_times(chat):
    at = chat.memory("k", 3).messages[-1].at
    assert chat.diff("k", at).entries == chat.diff("k", 3).entries


def test_a_conversation_that_has_not_begun_is_not_an_empty_one(chat):
    with pytest.raises(ConversationNotFound):
        chat.diff("other", 1, 2)


def test_an_asynchronous_ledger_tells_the_same(chat):
    import asyncio

    async def compared() -> MemoryDiff:
        async with AsyncLedger(chat) as ledger:
            return await ledger.diff("k", 3, 6)

    expected = chat.diff("k", 3, 6)
    assert asyncio.run(compared()) == expected
