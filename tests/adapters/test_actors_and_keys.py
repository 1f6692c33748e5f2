"""Test who is recorded as the cause of an event, and that keys and expected versions make repeats harmless, on each database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain.conversation import events
from threadledger.domain.errors import (
    ConversationBusy,
    ConversationChanged,
    ExchangeAnswered,
    IdempotencyConflict,
    InvalidInput,
)
from threadledger.domain.ledger import AsyncLedger, Ledger

TWO = [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}]


@pytest.fixture
def ledger(open_any_store: Callable[[], Ledger]) -> Ledger:
    return open_any_store()


def actors(ledger: Ledger, key: str = "k") -> list[str | None]:
    return [event.actor for event in ledger.conversation(key).events()]


def texts(ledger: Ledger, key: str = "k") -> list[str]:
    return [each.message.text for each in ledger.conversation(key).memory().messages]


# Actors


def test_a_call_names_who_caused_its_events(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Hello.", actor="ann")
    chat.extend(TWO, actor="bob")
    with chat.run("mine", "llama", actor="carl") as run:
        run.complete("Hi.")
    chat.retract(chat.memory().messages[0].message_id, actor="dora")
    chat.clear(actor="eve")
    chat.append("user", "Nobody.")
    assert actors(ledger) == ["ann", "ann", "bob", "bob", *["carl"] * 3, "dora", "eve", None]
    logged = list(ledger.events(key="k"))
    assert [each.actor for each in logged] == actors(ledger)
    assert logged[1].as_json()["data"]["actor"] == "ann"
    assert "actor" not in logged[-1].as_json()["data"]


def test_a_ledger_of_an_actor_writes_in_its_name_and_is_cheap(ledger: Ledger) -> None:
    acting = ledger.as_actor("ann")
    acting.conversation("k").append("user", "Hello.")
    acting.conversation("k").append("user", "Mine.", actor="bob")
    acting.fork("k", "copy")
    ledger.conversation("k").append("user", "Nobody's.")
    assert actors(ledger) == ["ann", "ann", "bob", None]
    assert actors(ledger, "copy") == ["ann", "ann", "ann"]
    assert acting.services is ledger.services
    with acting:
        pass
    del acting
    assert texts(ledger) == ["Hello.", "Mine.", "Nobody's."]  # the database is still open


def test_an_awaited_ledger_of_an_actor_does_the_same(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with AsyncLedger(ledger) as awaited:
            async with awaited.as_actor("ann") as acting:
                chat = acting.conversation("k")
            await chat.append("user", "Hello.")
            await chat.append("user", "Mine.", actor="bob")
            await chat.extend(TWO, actor="carl")
            async with chat.run("mine", "llama", actor="dora") as run:
                await run.complete("Hi.")
            assert [event.actor for event in await chat.events()] == [*["ann"] * 2, "bob", *["carl"] * 2, *["dora"] * 3]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", " ", "a" * 201, "key:ops", "cli:root", "a\0b", "\ud800", 7, None])
def test_a_name_that_is_reserved_or_cannot_be_stored_is_refused(ledger: Ledger, name: Any) -> None:
    with pytest.raises(InvalidInput):
        ledger.as_actor(name)
    assert list(ledger.events()) == []


def test_runs_of_several_actors_belong_to_one_exchange(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Hello.")
    with chat.exchange() as exchange:
        with pytest.raises(ValueError, match="broken"), chat.run("mine", "llama", actor="ann"):
            raise ValueError("broken")
        with chat.run("other", "llama", actor="bob") as run:
            run.complete("Hi.")
    assert len(exchange.run_ids) == 2
    assert any(isinstance(event, events.FallbackUsed) and event.actor == "bob" for event in chat.events())


# Expected versions


def test_an_append_that_expects_another_version_writes_nothing(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    first = chat.append("user", "One.", expected_version=0)
    second = chat.append("user", "Two.", expected_version=first.version)
    for version in (0, first.version, second.version + 1):
        with pytest.raises(ConversationChanged, match=f"'k' has version 3, not {version}: nothing was written"):
            chat.append("user", "Three.", expected_version=version)
        with pytest.raises(ConversationChanged):
            chat.extend(TWO, expected_version=version)
    assert [each.version for each in chat.extend(TWO, expected_version=3)] == [4, 5]
    assert texts(ledger) == ["One.", "Two.", "One.", "Two."]
    with pytest.raises(ConversationChanged, match="has version 0, not 1"):
        ledger.conversation("other").append("user", "One.", expected_version=1)
    assert ledger.journal.load("other") is None


@pytest.mark.parametrize("version", [-1, 1.0, "1", True])
def test_an_expected_version_is_a_whole_number(ledger: Ledger, version: Any) -> None:
    with pytest.raises(InvalidInput, match="is no version: give a whole number"):
        ledger.conversation("k").append("user", "One.", expected_version=version)


def test_a_repeated_key_returns_its_message_whatever_version_is_expected(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    first = chat.append("user", "One.", idempotency_key="one", expected_version=0)
    assert chat.append("user", "One.", idempotency_key="one", expected_version=0).message_id == first.message_id
    both = chat.extend(TWO, idempotency_key="two", expected_version=2)
    again = chat.extend(TWO, idempotency_key="two", expected_version=2)
    assert [each.message_id for each in again] == [each.message_id for each in both]


def test_of_writers_that_expect_the_same_version_one_succeeds(open_any_store: Callable[[], Ledger]) -> None:
    stores = [open_any_store() for _ in range(3)]
    stores[0].conversation("k").append("user", "One.")
    ends = in_threads(
        [lambda store=store: store.conversation("k").append("user", "Two.", expected_version=2) for store in stores]
    )
    assert sorted(type(each).__name__ for each in ends) == [
        "ConversationChanged",
        "ConversationChanged",
        "JournaledMessage",
    ]


# Keys of whole lists


def test_a_key_stands_for_a_whole_list(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    first = chat.extend(TWO, idempotency_key="two")
    again = chat.extend(TWO, idempotency_key="two")
    assert [(each.message_id, each.version) for each in again] == [(each.message_id, each.version) for each in first]
    assert texts(ledger) == ["One.", "Two."]
    stored = [each for each in chat.events() if isinstance(each, events.MessageJournaled)]
    assert [(each.idempotency_key, each.batch) for each in stored] == [("two", 2), (None, 1)]


@pytest.mark.parametrize(
    "other",
    [
        TWO[:1],
        [*TWO, TWO[0]],
        [TWO[0], {"role": "assistant", "content": "Three."}],
        TWO[::-1],
    ],
    ids=["shorter", "longer", "another message", "another order"],
)
def test_another_list_under_the_key_is_refused(ledger: Ledger, other: Any) -> None:
    chat = ledger.conversation("k")
    chat.extend(TWO, idempotency_key="two")
    with pytest.raises(IdempotencyConflict, match="belongs to other messages of 'k': nothing was written"):
        chat.extend(other, idempotency_key="two")
    assert texts(ledger) == ["One.", "Two."]


def test_a_key_of_a_list_is_none_of_its_first_message(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.extend(TWO, idempotency_key="two")
    with pytest.raises(IdempotencyConflict):
        chat.append("user", "One.", idempotency_key="two")
    chat.append("user", "One.", idempotency_key="one")
    with pytest.raises(IdempotencyConflict):
        chat.extend(TWO, idempotency_key="one")
    assert chat.extend(TWO[:1], idempotency_key="one")[0].version == 4  # a list of one message is that message
    keys = ledger.journal.fingerprints(["k"])["k"]
    assert len(set(keys.values())) == 2


def test_the_same_key_at_the_same_moment_is_one_list(open_any_store: Callable[[], Ledger]) -> None:
    stores = [open_any_store() for _ in range(4)]
    ends = in_threads(
        [lambda store=store: store.conversation("k").extend(TWO, idempotency_key="two") for store in stores]
    )
    assert len({tuple(each.message_id for each in end) for end in ends}) == 1
    assert texts(stores[0]) == ["One.", "Two."]


def test_a_copy_and_a_check_of_the_database_know_the_keys(ledger: Ledger, tmp_path: Any, open_store_on: Any) -> None:
    chat = ledger.conversation("k")
    chat.extend(TWO, idempotency_key="two", actor="ann")
    with chat.run("mine", "llama", idempotency_key="run") as run:
        run.complete("Hi.")
    assert list(ledger.check()) == []
    ledger.back_up(tmp_path / "copy.db")
    copy = open_store_on(f"sqlite:///{tmp_path / 'copy.db'}")
    assert list(copy.check()) == []
    assert [each.version for each in copy.conversation("k").extend(TWO, idempotency_key="two")] == [2, 3]
    with pytest.raises(ExchangeAnswered), copy.conversation("k").run("mine", "llama", idempotency_key="run"):
        pass


# Keys of an app's own runs


def test_a_run_whose_exchange_was_answered_is_refused_with_the_answer(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Hello.")
    with chat.run("mine", "llama", idempotency_key="q") as run:
        run.complete("Hi.", usage={"input_tokens": 3, "output_tokens": 1})
    chat.append("user", "Later.")
    refused = pytest.raises(ExchangeAnswered, match="idempotency key 'q' has already answered")
    with refused as raised, chat.run("mine", "llama", idempotency_key="q"):
        raise AssertionError("the model must not be called again")
    answer = raised.value.answer
    assert answer is not None
    assert (answer.text, answer.run_id, answer.usage.input_tokens) == ("Hi.", run.run_id, 3)
    assert texts(ledger) == ["Hello.", "Hi.", "Later."]


def test_an_answer_that_the_app_journals_itself_is_known_too(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    with chat.run("mine", "llama", journal=False, idempotency_key="q") as run:
        run.complete("Hi.")
    with pytest.raises(ExchangeAnswered) as raised, chat.run("mine", "llama", idempotency_key="q"):
        pass
    assert raised.value.answer is None


def test_a_run_that_is_open_is_busy_and_one_that_failed_is_run_again(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Hello.")
    with pytest.raises(ValueError, match="broken"), chat.run("mine", "llama", idempotency_key="q") as first:
        with pytest.raises(ConversationBusy), chat.run("mine", "llama", idempotency_key="q"):
            pass
        raise ValueError("broken")
    with chat.run("mine", "llama", idempotency_key="q") as second:
        second.complete("Hi.")
    assert second.exchange_id == first.exchange_id
    starts = [each for each in chat.events() if isinstance(each, events.RunStarted)]
    assert [(each.idempotency_key, each.attempt) for each in starts] == [("q", 1), (None, 2)]
    with pytest.raises(ExchangeAnswered), chat.run("mine", "llama", idempotency_key="q"):
        pass
    assert texts(ledger) == ["Hello.", "Hi."]


def test_a_key_of_a_message_is_none_of_a_run(ledger: Ledger) -> None:
    chat = ledger.conversation("k")
    chat.append("user", "Hello.", idempotency_key="q")
    with pytest.raises(IdempotencyConflict, match="belongs to a message"), chat.run("mine", "m", idempotency_key="q"):
        pass
    with chat.run("mine", "m", idempotency_key="r") as run:
        run.complete("Hi.")
    with pytest.raises(IdempotencyConflict):
        chat.append("user", "Hello.", idempotency_key="r")
    for key in ("", "import:1", 5):
        given: Any = key
        with pytest.raises(InvalidInput), chat.run("mine", "m", idempotency_key=given):
            pass


def test_of_processes_that_start_a_run_with_the_same_key_one_runs(open_any_store: Callable[[], Ledger]) -> None:
    stores = [open_any_store() for _ in range(4)]
    stores[0].conversation("k").append("user", "Hello.")
    others_are_refused = threading.Barrier(1 + 3)

    def run(store: Ledger) -> str:
        try:
            with store.conversation("k").run("mine", "llama", idempotency_key="q") as run:
                others_are_refused.wait(30)
                run.complete("Hi.")
                return "answered"
        except ConversationBusy:
            others_are_refused.wait(30)
            return "busy"

    assert sorted(in_threads([lambda store=store: run(store) for store in stores])) == ["answered", *["busy"] * 3]
    assert texts(stores[0]) == ["Hello.", "Hi."]


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """Return what the calls return or raise, made at the same time."""
    ends: list[Any] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def call(number: int) -> None:
        ready.wait(30)
        try:
            ends[number] = calls[number]()
        except Exception as error:  # noqa: BLE001 - compared by the test
            ends[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    return ends
