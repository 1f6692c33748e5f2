"""A fork begins as another conversation was, and has nothing more to do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from freezegun import freeze_time

import threadledger
from threadledger.domain.conversation import events, parse_message
from threadledger.domain.conversation.messages import Source
from threadledger.domain.errors import Conflict, ConversationNotFound, InvalidInput, InvalidKey
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SAID: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "This?"}, {"type": "image_url", "image_url": {"url": "http://x"}}],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "Sunny.", "name": "John"},
]


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    """A conversation `k` of four messages, and nobody to mirror to."""
    ledger = open_ledger(threads="none", backends=("chat",))
    with freeze_time(datetime(2026, 11, 1, tzinfo=UTC)):
        ledger.conversation("k").extend(SAID)
    return ledger


def test_it_holds_the_messages_that_were_in_memory_with_all_that_they_carry(ledger: Ledger) -> None:
    fork = ledger.fork("k", "new")
    old, new = ledger.memory("k"), fork.memory()
    assert [each.message for each in new.messages] == [each.message for each in old.messages]
    assert [each.written_at for each in new.messages] == [each.written_at for each in old.messages]
    assert {each.message_id for each in new.messages}.isdisjoint(each.message_id for each in old.messages)
    assert new.digest() == old.digest()


def test_it_begins_in_one_commit_that_names_its_parent(ledger: Ledger) -> None:
    began = ledger.fork("k", "new").events()
    first = began[0]
    assert isinstance(first, events.ConversationStarted)
    assert (first.parent_key, first.parent_version) == ("k", 5) == ledger.parent("new")
    assert len({event.timestamp for event in began}) == 1
    assert ledger.parent("k") is None


@pytest.mark.parametrize("version", range(1, 6))
def test_it_begins_as_the_other_one_was_at_any_version(ledger: Ledger, version: int) -> None:
    fork = ledger.fork("k", "new", at=version)
    assert fork.memory().digest() == ledger.memory("k", version).digest()
    assert ledger.parent("new") == ("k", version)


def test_it_begins_as_the_other_one_was_at_a_time(ledger: Ledger) -> None:
    ledger.conversation("k").append("user", "Later")
    fork = ledger.fork("k", "new", at=datetime(2026, 11, 2, tzinfo=UTC))
    assert len(fork.memory().messages) == 4


def test_where_a_message_came_from_is_kept_and_its_exchange_is_not(ledger: Ledger) -> None:
    def decide(conversation: Any) -> None:
        conversation.journal(
            parse_message({"role": "user", "content": "Old"}), source=Source.IMPORT, written_at="2020-01-01"
        )
        conversation.ask(parse_message({"role": "user", "content": "And?"}))

    ledger.journal.commit("k", decide)
    imported, asked = ledger.fork("k", "new").memory().messages[-2:]
    assert (imported.source, imported.written_at) == (Source.IMPORT, "2020-01-01")
    assert asked.exchange_id is None
    assert ledger.state("new").open_exchanges == {}


def test_what_is_said_afterwards_is_said_in_one_of_them(ledger: Ledger) -> None:
    before = vars(ledger.state("k")), ledger.memory("k").digest()
    ledger.fork("k", "new").append("user", "Here")
    assert (vars(ledger.state("k")), ledger.memory("k").digest()) == before
    ledger.conversation("k").append("user", "There")
    assert [ledger.memory(key).messages[-1].message.text for key in ("k", "new")] == ["There", "Here"]


def test_a_key_that_is_taken_is_a_conflict(ledger: Ledger) -> None:
    ledger.conversation("new").append("user", "Hello")
    for taken in ("new", "k"):
        with pytest.raises(Conflict, match=f"the conversation '{taken}' already exists"):
            ledger.fork("k", taken)
    assert len(ledger.memory("new").messages) == 1


def test_of_two_at_once_one_is_made(ledger: Ledger) -> None:
    def fork(_: int) -> bool:
        try:
            ledger.fork("k", "new")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(fork, range(4))) == [False, False, False, True]
    assert len(ledger.memory("new").messages) == 4


@pytest.mark.parametrize("at", [0, 6, -1, datetime(2001, 1, 1, tzinfo=UTC)])
def test_a_moment_that_was_not_is_refused(ledger: Ledger, at: int | datetime) -> None:
    with pytest.raises(InvalidInput):
        ledger.fork("k", "new", at=at)
    assert ledger.journal.load("new") is None


def test_what_is_not_there_cannot_be_forked_and_not_every_key_can_be_one(ledger: Ledger) -> None:
    with pytest.raises(ConversationNotFound):
        ledger.fork("nobody", "new")
    with pytest.raises(InvalidKey):
        ledger.fork("k", "x" * 201)


def test_nobody_is_asked_and_its_thread_is_written(
    open_ledger: Callable[..., Ledger], ledger: Ledger, simulator: Any, asked_routes: Callable[[], set[str]]
) -> None:
    mirrored = open_ledger(threads="conversations")
    mirrored.fork("k", "new")
    assert asked_routes() == {"POST /conversations", "POST /conversations/{conversation_id}/items"}
    assert [found.found.state for found in mirrored.replay.verify(["new"])] == [ThreadState.SAME]


@pytest.fixture
def asked_routes(simulator: Any) -> Callable[[], set[str]]:
    return lambda: {request.template for request in simulator.requests}


def test_a_fork_is_awaited(ledger: Ledger, db_url: str) -> None:
    async def main() -> int:
        async with threadledger.open_async(db_url, threads="none") as opened:
            fork = await opened.fork("k", "new", at=3)
            assert await opened.parent("new") == ("k", 3)
            return len((await fork.memory()).messages)

    assert asyncio.run(main()) == 2
