"""Threads read live by their ids: the real SDK against the simulator, which counts what is asked of it."""

from __future__ import annotations

from contextlib import closing

import pytest
from openai import OpenAI

from threadledger.adapters import import_threads, load_settings, thread_reader
from threadledger.domain.errors import ProviderRefused

from .importing import end, memory, said, states

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
MESSAGES = "GET /threads/{thread_id}/messages"


@pytest.fixture
def client(simulator):
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.fixture
def read_live(simulator):
    def read(ledger, *ids, key_from="threadledger_key", api_key="sk-test"):
        reader = thread_reader(load_settings(openai_base_url=simulator.base_url, openai_api_key=api_key))
        with closing(reader):
            found = import_threads(ledger, reader, enumerate(ids, 1), key_from, wait=lambda seconds: None)
            return [outcome.as_json() for outcome in found]

    return read


def thread_of(client, *texts, **more):
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    made = client.beta.threads.create(**more)
    for turn in turns:
        client.beta.threads.messages.create(made.id, **turn)
    return made.id


def test_a_thread_of_several_pages_is_read_whole_and_in_order(client, open_store, read_live):
    texts = [f"text {number}" for number in range(230)]
    thread_id = thread_of(client, *texts, metadata={"team": "x"})
    ledger = open_store()
    assert states(read_live(ledger, thread_id)) == [(1, thread_id, "imported", 230)]
    assert [text for _, text in said(ledger, thread_id)] == texts
    before = end(ledger)
    assert states(read_live(ledger, thread_id)) == [(1, thread_id, "unchanged", 0)]
    assert end(ledger) == before
    client.beta.threads.messages.create(thread_id, role="user", content="more")
    assert states(read_live(ledger, thread_id)) == [(1, thread_id, "extended", 1)]


def test_reading_writes_nothing_at_the_provider(client, simulator, open_store, read_live):
    ids = [thread_of(client, "hi"), client.conversations.create(items=[{"role": "user", "content": "hi"}]).id]
    asked = len(simulator.requests)
    assert {outcome["state"] for outcome in read_live(open_store(), *ids)} == {"imported"}
    assert {request.method for request in simulator.requests[asked:]} == {"GET"}


def test_tool_calls_are_read_from_the_runs_steps(client, simulator, open_store, read_live):
    assistant = client.beta.assistants.create(model="any-model")
    thread_id = thread_of(client, "weather?")
    simulator.answer(TOOL, "It is sunny.")
    run = client.beta.threads.runs.create(thread_id, assistant_id=assistant.id)
    for _ in range(3):
        run = client.beta.threads.runs.retrieve(run.id, thread_id=thread_id)
    (called,) = run.required_action.submit_tool_outputs.tool_calls
    outputs = [{"tool_call_id": called.id, "output": "sunny"}]
    client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread_id, tool_outputs=outputs)
    for _ in range(2):
        client.beta.threads.runs.retrieve(run.id, thread_id=thread_id)
    ledger = open_store()
    read_live(ledger, thread_id)
    assert [each["role"] for each in memory(ledger, thread_id)] == ["user", "assistant", "tool", "assistant"]
    assert memory(ledger, thread_id)[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bern"}'
    assert said(ledger, thread_id)[2:] == [("tool", "sunny"), ("assistant", "It is sunny.")]


def test_a_conversation_is_read_with_its_calls(client, open_store, read_live):
    items = [{"role": "user", "content": "hi"}, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "c", "output": "ok"}]  # fmt: skip
    made = client.conversations.create(items=items, metadata={"threadledger_key": "customer-42"})
    ledger = open_store()
    assert states(read_live(ledger, made.id)) == [(1, "customer-42", "imported", 3)]
    assert [each["role"] for each in memory(ledger, "customer-42")] == ["user", "assistant", "tool"]


def test_a_missing_thread_is_reported_and_the_others_go_on(client, open_store, read_live):
    first, last = thread_of(client, "a"), thread_of(client, "b")
    found = sorted(read_live(open_store(), first, "thread_gone", "conv_gone", last), key=lambda each: each["line"])
    assert [each["state"] for each in found] == ["imported", "failed", "failed", "imported"]
    assert "thread_gone cannot be read: thread_missing" in found[1]["reason"]
    assert "conv_gone cannot be read" in found[2]["reason"]


def test_a_thread_that_cannot_be_read_to_its_end_leaves_nothing(client, simulator, open_store, read_live):
    thread_id = thread_of(client, *(str(number) for number in range(120)))
    simulator.add_fault(MESSAGES, refuse={"status": 403}, after=1)
    ledger = open_store()
    (outcome,) = read_live(ledger, thread_id)
    assert (outcome["state"], end(ledger)) == ("failed", 0)


def test_a_provider_that_stumbles_is_asked_again(client, simulator, open_store, read_live):
    thread_id = thread_of(client, "hi")
    simulator.add_fault(MESSAGES, refuse={"status": 503}, times=2)
    assert states(read_live(open_store(), thread_id)) == [(1, thread_id, "imported", 1)]


def test_a_provider_without_threads_is_not_asked_for_each_and_conversations_go_on(
    client, simulator, open_store, read_live
):
    made = client.conversations.create(items=[{"role": "user", "content": "hi"}])
    simulator.retire("assistants")
    found = sorted(read_live(open_store(), "thread_x", "thread_y", made.id), key=lambda each: each["line"])
    assert [each["state"] for each in found] == ["failed", "failed", "imported"]
    assert "thread_y cannot be read: provider_gone" in found[1]["reason"]
    assert not [request for request in simulator.requests if "thread_y" in request.path]


def test_a_key_that_is_refused_ends_the_import_and_what_was_read_is_kept(client, simulator, open_store, read_live):
    first, second = thread_of(client, "a"), thread_of(client, "b")
    simulator.add_fault("GET /threads/{thread_id}", refuse={"status": 401}, after=1)
    ledger = open_store()
    with pytest.raises(ProviderRefused):
        read_live(ledger, first, second, "thread_x")
    assert said(ledger, first) == [("user", "a")]
    assert not [request for request in simulator.requests if "thread_x" in request.path]


def test_without_a_key_nobody_is_asked(simulator, open_store, read_live):
    with pytest.raises(ProviderRefused, match="OPENAI_API_KEY is not set"):
        read_live(open_store(), "thread_x", api_key=None)
    assert simulator.requests == []


def test_what_our_own_mirror_wrote_comes_back_as_it_was(open_ledger, open_store_on, tmp_path, read_live):
    ledger = open_ledger(backends=("assistants",), threads="assistants")
    ledger.conversation("customer-42").append("user", "before")
    ledger.conversation("customer-42").ask("hello")
    thread_id = ledger.state("customer-42").links["assistants"].thread_id
    other = open_store_on(f"sqlite:///{tmp_path / 'other.db'}")
    assert states(read_live(other, thread_id)) == [(1, "customer-42", "imported", 3)]
    assert said(other, "customer-42") == said(ledger, "customer-42")
    ids = [each.message_id for each in ledger.memory("customer-42").messages]
    assert [each.message_id for each in other.memory("customer-42").messages][:2] == ids[:2]
