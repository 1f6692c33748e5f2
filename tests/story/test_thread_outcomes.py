"""Linked threads are listed with what their last verification found, on the story's ledger and simulator."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from threadledger.domain.errors import ConversationNotFound, InvalidInput
from threadledger.domain.ids import now
from threadledger.domain.journal.outcomes import OUTCOMES
from threadledger.domain.ledger import AsyncLedger
from threadledger.domain.threads import ThreadState

READ = "GET /conversations/{conversation_id}/items"
ADD = "POST /conversations/{conversation_id}/items"


@pytest.fixture
def ledger(open_ledger: Any) -> Any:
    found = open_ledger(backends=("chat",), threads="conversations", retries=0)
    found.conversation("k").append("user", "Where is it?")
    return found


def listed(ledger: Any, **filters: Any) -> list[tuple[str, str | None]]:
    return [(each.key, each.state) for each in ledger.threads(**filters)]


def thread_of(simulator: Any, ledger: Any, key: str = "k") -> Any:
    return simulator.provider.store.conversations[ledger.state(key).links["conversations"].thread_id]


def test_a_thread_that_was_never_read_back_has_no_outcome(ledger: Any) -> None:
    (thread,) = ledger.threads()
    link = ledger.state("k").links["conversations"]
    assert (thread.key, thread.backend, thread.thread_id) == ("k", "conversations", link.thread_id)
    assert (thread.endpoint, thread.linked_version, thread.lost) == (link.endpoint, link.version, None)
    assert thread.version == 1 + ledger.state("k").messages  # the events before the link are the start and the message
    assert (thread.state, thread.verified_version, thread.verified_at) == (None, None, None)


def test_a_verification_is_noted_with_its_version_and_time(ledger: Any) -> None:
    before, version = now(), ledger.state("k").version
    ledger.replay.verify(["k"])
    (thread,) = ledger.threads()
    assert (thread.state, thread.verified_version) == ("same", version)
    assert isinstance(thread.verified_at, datetime)
    assert before <= thread.verified_at <= now()
    assert ledger.state("k").version == version


def test_an_append_that_is_not_sent_makes_a_thread_behind_without_reading_it(ledger: Any, simulator: Any) -> None:
    ledger.replay.verify(["k"])
    simulator.add_fault(ADD, refuse={"status": 400}, times=9)
    ledger.conversation("k").append("user", "Hello?")
    before = len(simulator.requests)
    assert listed(ledger) == listed(ledger, state="behind") == [("k", "behind")]
    assert listed(ledger, state="same") == []
    assert len(simulator.requests) == before


def test_what_is_sent_after_a_verification_or_changes_no_message_leaves_a_thread_the_same(ledger: Any) -> None:
    ledger.replay.verify(["k"])
    chat = ledger.conversation("k")
    chat.append("user", "Hello?")
    chat.describe(title="Parcel")
    assert listed(ledger) == listed(ledger, state="same") == [("k", "same")]


def test_a_message_that_is_cut_from_memory_makes_a_thread_behind(ledger: Any) -> None:
    chat = ledger.conversation("k")
    message = chat.append("user", "A secret.")
    ledger.replay.verify(["k"])
    chat.retract(message.message_id)
    assert listed(ledger) == [("k", "behind")]


def test_a_thread_that_was_changed_is_drifted_until_it_is_repaired(ledger: Any, simulator: Any) -> None:
    ledger.conversation("k").append("user", "Hello?")
    items = thread_of(simulator, ledger).items
    items.pop(next(iter(items)))
    ledger.replay.verify(["k"])
    assert listed(ledger) == listed(ledger, state="drifted") == [("k", "drifted")]
    ledger.replay.plan_reconcile(["k"]).apply()
    assert listed(ledger) == [("k", "same")]


def test_a_plan_to_reconcile_notes_what_it_reads(ledger: Any, simulator: Any) -> None:
    thread_of(simulator, ledger).items.clear()
    assert ledger.replay.plan_reconcile(["k"]).items
    assert listed(ledger) == [("k", "behind")]


def test_a_thread_that_is_gone_is_gone_until_another_one_is_linked(ledger: Any, simulator: Any) -> None:
    ledger.replay.verify(["k"])
    del simulator.provider.store.conversations[ledger.state("k").links["conversations"].thread_id]
    ledger.replay.verify(["k"])
    assert listed(ledger, state="gone") == [("k", "gone")]
    for _ in range(2):  # the first one finds that the thread is lost, the second one is sent to a new thread
        ledger.conversation("k").append("user", "Hello?")
    assert listed(ledger) == [("k", None)]
    assert listed(ledger, state="gone") == []


def test_a_thread_that_is_lost_after_its_verification_is_gone(ledger: Any) -> None:
    ledger.replay.verify(["k"])
    link = ledger.state("k").links["conversations"]
    ledger.journal.commit("k", lambda it: it.lose_thread("conversations", link.thread_id, "thread_missing"))
    assert listed(ledger) == listed(ledger, state="gone") == [("k", "gone")]
    assert [each.lost for each in ledger.threads()] == ["thread_missing"]


def test_a_rebuild_notes_the_thread_that_it_wrote_and_read_back(ledger: Any) -> None:
    ledger.replay.plan_rebuild(["k"], fresh=True).apply()
    assert listed(ledger) == [("k", "same")]


def test_a_thread_that_is_read_because_its_content_is_uncertain_notes_what_was_found(
    ledger: Any, simulator: Any
) -> None:
    simulator.add_fault(ADD, refuse={"status": 500}, times=9)
    ledger.conversation("k").append("user", "Hello?")
    simulator.clear_faults()
    assert listed(ledger) == [("k", None)]
    ledger.conversation("k").append("user", "Hello again?")
    assert READ in [each.template for each in simulator.requests]
    assert listed(ledger) == [("k", "same")]


def test_a_verification_of_a_ledger_that_cannot_be_written_succeeds_and_is_not_noted(
    ledger: Any, open_ledger: Any, db_url: str
) -> None:
    read_only = f"{db_url.replace('sqlite:///', 'sqlite:///file:')}?mode=ro&uri=true"
    reader = open_ledger(db=read_only, backends=("chat",), threads="conversations")
    assert [each.found.state for each in reader.replay.verify(["k"])] == ["same"]
    assert listed(reader) == [("k", None)]


def test_threads_are_listed_in_pages_with_their_filters(ledger: Any) -> None:
    for key in ("b", "c"):
        ledger.conversation(key).append("user", "Where is it?")
    ledger.journal.commit("b", lambda it: it.link_thread("assistants", "thread_1", "http://here"))
    everything = [("c", "conversations"), ("b", "assistants"), ("b", "conversations"), ("k", "conversations")]
    pages, after = [], None
    while True:
        page = ledger.threads(limit=1, after=after)
        pages += [(each.key, each.backend) for each in page]
        if (after := page.cursor) is None:
            break
    assert pages == [(each.key, each.backend) for each in ledger.threads()] == everything
    assert [each.key for each in ledger.threads(backend="assistants")] == ["b"]
    assert [each.backend for each in ledger.threads(key="b")] == ["assistants", "conversations"]
    ledger.replay.verify(["k", "c"])
    first = ledger.threads(state="same", limit=1)
    assert [each.key for each in [*first, *ledger.threads(state="same", limit=1, after=first.cursor)]] == ["c", "k"]


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        ({"state": "lost"}, "a thread cannot be 'lost'"),
        ({"after": "x"}, "not a cursor"),
        ({"limit": "3"}, "limit has type str"),
        ({"backend": 3}, "backend has type int"),
    ],
)
def test_a_filter_that_is_not_valid_is_refused(ledger: Any, filters: Any, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        ledger.threads(**filters)


def test_the_threads_of_an_unknown_conversation_are_not_found(ledger: Any) -> None:
    with pytest.raises(ConversationNotFound):
        ledger.threads(key="unknown")


def test_every_state_of_a_thread_is_an_outcome() -> None:
    assert tuple(ThreadState) == OUTCOMES


def test_an_awaited_ledger_lists_the_same(ledger: Any) -> None:
    async def main() -> Any:
        return await AsyncLedger(ledger).threads(limit=1)

    assert asyncio.run(main()) == ledger.threads()
