"""Test the simulated Conversations API: conversations and their items."""

import openai
import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def texts(items):
    return [item.content[0].text for item in items]


def user(text):
    return {"role": "user", "content": text}


def test_a_conversation_keeps_its_metadata_and_can_change_it(client):
    made = client.conversations.create(metadata={"key": "42"})
    assert made.id.startswith("conv_")
    assert client.conversations.update(made.id, metadata={"key": "43"}).metadata == {"key": "43"}
    assert client.conversations.retrieve(made.id).metadata == {"key": "43"}


def test_updating_a_conversation_without_metadata_is_refused(client):
    made = client.conversations.create()
    error = refused(client.conversations.update, made.id, metadata=openai.omit)
    assert (error.param, error.code) == ("metadata", "missing_required_parameter")


def test_a_deleted_conversation_is_not_found_any_more(client):
    made = client.conversations.create()
    deleted = client.conversations.delete(made.id)
    assert (deleted.deleted, deleted.object) == (True, "conversation.deleted")
    error = refused(client.conversations.items.list, made.id)
    assert (error.status_code, error.body["message"]) == (404, f"Conversation with id '{made.id}' not found.")


def test_message_content_becomes_parts_that_depend_on_the_role(client):
    made = client.conversations.create()
    roles = ("user", "system", "developer", "assistant")
    created = client.conversations.items.create(made.id, items=[{"role": role, "content": role} for role in roles])
    assert [(item.role, item.content[0].type, item.content[0].text, item.status) for item in created.data] == [
        ("user", "input_text", "user", "completed"),
        ("system", "input_text", "system", "completed"),
        ("developer", "input_text", "developer", "completed"),
        ("assistant", "output_text", "assistant", "completed"),
    ]
    assert created.data[3].content[0].annotations == []
    assert all(item.id.startswith("msg_") for item in created.data)
    assert (created.first_id, created.last_id) == (created.data[0].id, created.data[3].id)


def test_a_call_and_its_output_keep_the_call_id_they_were_given(client):
    made = client.conversations.create(
        items=[
            {"type": "function_call", "call_id": "mine-1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "mine-1", "output": "sunny"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        ]
    )
    call, output, reasoning = client.conversations.items.list(made.id, order="asc").data
    assert (call.id[:3], call.call_id, call.name, call.arguments) == ("fc_", "mine-1", "weather", "{}")
    assert (output.id[:4], output.call_id, output.output) == ("fco_", "mine-1", "sunny")
    assert (reasoning.id, reasoning.summary[0].text) == ("rs_1", "hm")


def test_an_assistant_message_may_carry_output_text_parts_and_a_phase(client):
    item = {"role": "assistant", "content": [{"type": "output_text", "text": "hi"}], "phase": "final_answer"}
    made = client.conversations.create(items=[item])
    [kept] = client.conversations.items.list(made.id).data
    assert (kept.content[0].text, kept.phase) == ("hi", "final_answer")


def test_items_are_listed_newest_first_unless_asked_otherwise(client):
    made = client.conversations.create(items=[user("a"), user("b"), user("c")])
    assert texts(client.conversations.items.list(made.id)) == ["c", "b", "a"]
    assert texts(client.conversations.items.list(made.id, order="asc", limit=1)) == ["a", "b", "c"]
    first = client.conversations.items.list(made.id, order="asc", limit=2)
    assert (first.has_more, first.last_id) == (True, first.data[-1].id)
    rest = client.conversations.items.list(made.id, order="asc", after=first.data[-1].id)
    assert (texts(rest), rest.has_more) == (["c"], False)


def test_an_item_can_be_read_and_deleted(client, simulator):
    made = client.conversations.create(items=[user("a"), user("b")])
    item = simulator.provider.items[made.id][0]
    assert client.conversations.items.retrieve(item["id"], conversation_id=made.id).id == item["id"]
    assert client.conversations.items.delete(item["id"], conversation_id=made.id).id == made.id
    assert texts(client.conversations.items.list(made.id)) == ["b"]
    error = refused(client.conversations.items.retrieve, item["id"], conversation_id=made.id)
    assert (error.status_code, error.body["message"]) == (404, f"Item with id '{item['id']}' not found.")


def test_twenty_items_are_taken_and_twenty_one_are_not(client, simulator):
    made = client.conversations.create()
    client.conversations.items.create(made.id, items=[user("x")] * 20)
    error = refused(client.conversations.items.create, made.id, items=[user("x")] * 21)
    assert (error.status_code, error.param, error.code) == (400, "items", "array_above_max_length")
    assert len(simulator.provider.items[made.id]) == 20


@pytest.mark.parametrize(
    ("item", "param", "words"),
    [
        (
            {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]},
            "items[0].content[0]",
            "Invalid value: 'input_text'. Supported values are: 'output_text' and 'refusal'.",
        ),
        ({"role": "tool", "content": "x"}, "items[0].role", "Supported values are: 'assistant', 'system'"),
        ({"role": "user", "content": 7}, "items[0].content", "Invalid type"),
        ({"role": "user"}, "items[0].content", "Missing required parameter"),
        ({"role": "user", "content": "x", "phase": "?", "type": "riddle"}, "items[0].type", "Invalid value: 'riddle'"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "items[0].call_id", "Missing required parameter"),
        ({"type": "function_call_output", "call_id": "c" * 65, "output": ""}, "items[0].call_id", "string too long"),
        ({"type": "function_call_output", "call_id": "c"}, "items[0].output", "Missing required parameter"),
        ({"type": "reasoning", "summary": []}, "items[0].id", "Missing required parameter"),
        ({}, "items[0].type", "Invalid value: 'None'"),
    ],
)
def test_an_item_a_conversation_cannot_hold_is_refused(client, simulator, item, param, words):
    made = client.conversations.create()
    error = refused(client.conversations.items.create, made.id, items=[item])
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.body["message"]
    assert simulator.provider.items[made.id] == []


def test_one_bad_item_keeps_the_whole_call_out(client, simulator):
    made = client.conversations.create()
    refused(client.conversations.items.create, made.id, items=[user("fine"), {"role": "tool", "content": "x"}])
    assert simulator.provider.items[made.id] == []


def test_conversations_cannot_be_listed(client):
    error = refused(client.get, "/conversations", cast_to=object)
    assert (error.status_code, error.body["message"]) == (404, "Invalid URL (GET /v1/conversations)")
