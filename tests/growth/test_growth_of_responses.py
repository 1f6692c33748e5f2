"""Responses and items of a conversation cost the same however long it is, apart from the messages that a model is shown."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.server import Served, open_server, responses
from threadledger.adapters.server import conversations as items
from threadledger.adapters.server.calls import ServedCall
from threadledger.adapters.server.runner import Runner
from threadledger.domain.conversation import Conversation
from threadledger.domain.conversation.messages import Message, Role

from .metering import Cost, Meter, growth

SMALL, LARGE = 1_100, 2_200
"""Numbers of messages; they are more than the 1,000 events that are read at a time."""

CREATED_TIMES = 5
SHOWN = 20
"""Number of messages that a model is shown."""

CREATED = "create, in a conversation of which the model is shown a window"


def say(count: int, conversation: Conversation) -> None:
    for number in range(count):
        conversation.journal(Message(Role.USER, f"Message {number}"))


def costs(folder: Path, size: int, provider: Any) -> dict[str, tuple[Cost, int]]:
    meter = Meter()
    settings = load_settings(
        db=f"sqlite:///{folder / f'{size}.db'}",
        openai_api_key="sk-test",
        openai_base_url=provider.base_url,
        backends=("chat",),
        threads="none",
        memory_last=SHOWN,
    )
    with (
        meter.installed(),
        open_ledger(settings) as ledger,
        open_server(ledger, settings, port=0) as server,
        OpenAI(base_url=server.base_url, api_key="any") as client,
    ):
        conversation = client.conversations.create().id
        asked: Any = {"model": "gpt-5.5", "input": "Where is my parcel?", "conversation": conversation}
        first = client.responses.create(**asked)
        ledger.journal.commit(conversation, partial(say, size))
        last = client.responses.create(**asked)
        made = [meter.measure(lambda: client.responses.create(**asked))[0].statements for _ in range(CREATED_TIMES)]
    found = {CREATED: (Cost(min(made), 0, 0), 1)}  # the server's upkeep executes some too
    with meter.installed(), open_ledger(settings) as ledger:
        served = Served(ledger, settings.serve, Runner(ledger))
        ids = {"conversation_id": conversation, "item_id": first.output[0].id}

        def handled(handler: Any, names: dict[str, str], **query: str) -> Any:
            return handler(served, ServedCall(ids=names, query=query))

        one = {"response_id": first.id}
        reads = {
            "retrieve": lambda: [handled(responses.retrieve, {"response_id": each.id}) for each in (first, last)],
            "input items": lambda: handled(responses.list_input_items, one)["data"],
            "newest items": lambda: handled(items.list_items, ids)["data"],
            "oldest items": lambda: handled(items.list_items, ids, order="asc")["data"],
            "items after one": lambda: handled(items.list_items, ids, order="asc", after=first.output[0].id)["data"],
            "items before one": lambda: handled(items.list_items, ids, before=last.output[0].id)["data"],
            "an item": lambda: [handled(items.retrieve_item, ids)],
        }
        for name, read in reads.items():
            read()
            cost, result = meter.measure(read)
            found[name] = cost, len(result)
        return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("responses")
    with Simulator() as provider:
        return costs(folder, SMALL, provider), costs(folder, LARGE, provider)


def test_responses_and_items_cost_the_same_in_a_long_conversation(measured: Any) -> None:
    small, large = measured
    assert {name: rows for name, (_, rows) in small.items()} == {name: rows for name, (_, rows) in large.items()}
    assert {name: found for name in small if (found := growth(*small[name], *large[name]))} == {}


def test_a_response_executes_few_statements(measured: Any) -> None:
    cost, _ = measured[0][CREATED]
    assert cost.statements <= 60, cost
