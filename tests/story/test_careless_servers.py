"""Servers that ignore the query of every list request, as compatible ones do: filters, order and pages are only hints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import openai
import pytest

import threadledger
from threadledger.adapters import Simulator
from threadledger.adapters.openai import Client, ThreadReader
from threadledger.adapters.openai.messages import text_in
from threadledger.adapters.simulator import provider as simulated
from threadledger.adapters.wire import pages
from threadledger.domain.effects import perform
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

ASKS = 50
KINDS = {
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
}
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(params=["oldest first", "newest first"])
def careless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the simulator ignore the query of every request: each list is whole, in an order of its own."""

    def whole(objects: Any, _query: Any) -> Any:
        listed = list(objects)
        return pages.envelope(listed if request.param == "oldest first" else listed[::-1])

    monkeypatch.setattr(pages, "page", whole)
    without_query(monkeypatch)


def without_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the simulator ignore the query of every request; lists have the default order and page."""
    known = simulated.SimulatedCall
    monkeypatch.setattr(simulated, "SimulatedCall", lambda *args: replace(known(*args), query={}) if args else known())


@EVERY
def test_each_question_has_its_own_answer_and_the_thread_is_the_same(
    careless: None, open_ledger: Callable[..., Any], kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    chat = ledger.conversation("k")
    expected = []
    for number in range(ASKS):
        assert chat.ask(f"Question {number}?").text == f"You said: Question {number}?"
        expected += [f"Question {number}?", f"You said: Question {number}?"]
    assert [each.message.text for each in chat.memory().messages] == expected
    (verified,) = ledger.replay.verify(keys=["k"])
    assert verified.found.state == "same"


@EVERY
def test_a_thread_that_another_app_wrote_to_is_compared_in_its_own_order(
    careless: None, open_ledger: Callable[..., Any], simulator: Simulator, kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    chat = ledger.conversation("k")
    chat.ask("Question 1?")
    (link,) = ledger.journal.require("k").state.links.values()
    with openai.OpenAI(base_url=simulator.base_url, api_key="sk-test") as client:
        if kind == "assistants":
            client.beta.threads.messages.create(link.thread_id, role="user", content="Hello from elsewhere.")
        else:
            client.conversations.items.create(
                link.thread_id, items=[{"type": "message", "role": "user", "content": "Hello from elsewhere."}]
            )
    (verified,) = ledger.replay.verify(keys=["k"])
    assert [(each.change, each.thread.content) for each in verified.differences] == [("extra", "Hello from elsewhere.")]


@EVERY
def test_a_thread_is_imported_in_the_order_in_which_it_was_said(
    careless: None, open_ledger: Callable[..., Any], simulator: Simulator, kind: str
) -> None:
    ledger = open_ledger(**KINDS[kind])
    for number in range(3):
        ledger.conversation("k").ask(f"Question {number}?")
    (link,) = ledger.journal.require("k").state.links.values()
    with closing(ThreadReader(Client(api_key="sk-test", base_url=simulator.base_url))) as reader:
        read = perform(reader.read(link.thread_id))
    entries = read["messages"] if kind == "assistants" else read["items"]
    said = [text_in(each["content"]) for each in entries]
    assert said == [text for n in range(3) for text in (f"Question {n}?", f"You said: Question {n}?")]


def test_a_recorded_run_has_the_messages_that_it_wrote(
    careless: None, open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger()
    with (
        openai.OpenAI(base_url=simulator.base_url, api_key="sk-test") as client,
        threadledger.record(client, ledger, key="k") as recorded,
    ):
        threads = recorded.beta.threads
        assistant, thread = recorded.beta.assistants.create(model="m"), threads.create()
        for number in range(4):
            threads.messages.create(thread.id, role="user", content=f"Question {number}?")
            threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    said = [each.message.text for each in ledger.memory("k").messages]
    assert said == [text for n in range(4) for text in (f"Question {n}?", f"You said: Question {n}?")]


def test_a_list_that_cannot_be_read_to_its_end_is_an_error_and_nothing_is_sent_again(
    open_ledger: Callable[..., Any], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(**KINDS["responses"])
    for number in range(11):
        ledger.conversation("k").ask(f"Question {number}?")
    without_query(monkeypatch)  # 20 of 22 items, newest first, and `has_more`, whatever is requested
    with pytest.raises(ProviderRefused, match="it cannot be read to its end") as refused:
        ledger.replay.verify(keys=["k"])
    assert diagnose(refused.value.failure) is Cause.PROVIDER_ERROR
