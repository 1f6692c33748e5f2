"""Listing the messages of one run costs the same however many messages its thread has."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.server import Served, open_server
from threadledger.adapters.server.calls import ServedCall
from threadledger.adapters.server.runner import Runner
from threadledger.adapters.server.threads import list_messages
from threadledger.domain.conversation import Conversation
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.ledger import Ledger

from .metering import Cost, Meter, growth

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

SMALL, LARGE = 1_100, 2_200
"""Numbers of messages; they are more than the 1,000 events that are read at a time."""

QUERIES: dict[str, dict[str, str]] = {
    "newest first": {},
    "oldest first": {"order": "asc"},
    "a page": {"order": "asc", "limit": "1"},
}


def say(count: int, conversation: Conversation) -> None:
    for number in range(count):
        conversation.journal(Message(Role.USER, f"Message {number}"))


def costs(folder: Path, size: int, provider: Any) -> dict[str, tuple[Cost, int]]:
    meter, given = Meter(), {"db": f"sqlite:///{folder / f'{size}.db'}", "openai_api_key": "sk-test"}
    settings = load_settings(**given, openai_base_url=provider.base_url, backends=("chat",), threads="none")
    with (
        open_ledger(settings) as ledger,
        open_server(ledger, settings, port=0) as server,
        OpenAI(base_url=server.base_url, api_key="any") as client,
    ):
        thread_id, run_ids = runs_among(client, ledger, size)
    with meter.installed(), open_ledger(settings) as ledger:
        served = Served(ledger, settings.serve, Runner(ledger))

        def listed(run_id: str, query: dict[str, str]) -> Any:
            call = ServedCall(ids={"thread_id": thread_id}, query={"run_id": run_id, **query})
            return list_messages(served, call)["data"]

        assert [each["run_id"] for run_id in run_ids for each in listed(run_id, {})] == run_ids
        found = {}
        for name, query in QUERIES.items():
            cost, result = meter.measure(lambda query=query: [listed(run_id, query) for run_id in run_ids])
            found[name] = cost, sum(map(len, result))
        return found


def runs_among(client: OpenAI, ledger: Ledger, size: int) -> tuple[str, list[str]]:
    """Return a thread with two runs, and with all of its messages between them."""
    threads = client.beta.threads
    assistant = client.beta.assistants.create(model="gpt-5.5")
    thread = threads.create(messages=[{"role": "user", "content": "Where is my parcel?"}])
    run_ids = []
    for part in (size, 0):
        run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=10)
        run_ids.append(run.id)
        ledger.journal.commit(thread.id, partial(say, part))
    return thread.id, run_ids


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs")
    with Simulator() as provider:
        return costs(folder, SMALL, provider), costs(folder, LARGE, provider)


@pytest.mark.parametrize("name", QUERIES)
def test_the_messages_of_a_run_cost_the_same_in_a_long_thread(name: str, measured: Any) -> None:
    small, large = (each[name] for each in measured)
    assert small[1] == large[1] == 2
    assert growth(*small, *large) == {}
