"""Test the simulated Responses API: answers, context, and the items stored in a conversation."""

import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused

TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def kept(simulator, conversation):
    items = simulator.provider.items[conversation.id]
    return [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in items]


def test_a_response_echoes_where_nothing_is_scripted(client):
    response = client.responses.create(model="any-model", input="hello there", instructions="Be kind.")
    assert (response.status, response.output_text) == ("completed", "You said: hello there")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (4, 4, 8)


def test_scripted_answers_are_given_in_order(client, simulator):
    simulator.answer("one", "two")
    said = [client.responses.create(model="any-model", input="x").output_text for _ in range(3)]
    assert said == ["one", "two", "You said: x"]


def test_input_and_output_join_the_conversation_of_a_completed_response(client, simulator):
    conversation = client.conversations.create(items=[{"role": "user", "content": "earlier"}])
    response = client.responses.create(model="any-model", input="now", conversation={"id": conversation.id})
    assert response.conversation.id == conversation.id
    assert kept(simulator, conversation) == ["earlier", "now", "You said: now"]
    assert simulator.provider.items[conversation.id][2]["id"] == response.output[0].id


def test_a_failed_response_leaves_nothing_in_the_conversation(client, simulator):
    conversation = client.conversations.create()
    simulator.add_fault("POST /responses", fail=True)
    response = client.responses.create(model="any-model", input="now", conversation=conversation.id)
    assert (response.status, response.error.code, response.error.message) == (
        "failed",
        "server_error",
        "Sorry, something went wrong.",
    )
    assert (response.output, kept(simulator, conversation)) == ([], [])


def test_an_incomplete_response_says_why_and_leaves_nothing_in_the_conversation(client, simulator):
    conversation = client.conversations.create()
    simulator.add_fault("POST /responses", incomplete="max_output_tokens")
    response = client.responses.create(model="any-model", input="one two three", conversation=conversation.id)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.output_text, response.output[0].status) == ("You said:", "incomplete")
    assert kept(simulator, conversation) == []


def test_a_response_can_be_made_to_end_cancelled(client, simulator):
    simulator.add_fault("POST /responses", end="cancelled")
    assert client.responses.create(model="any-model", input="x").status == "cancelled"


def test_a_response_can_be_read_and_deleted(client):
    made = client.responses.create(model="any-model", input="x", metadata={"run": "1"})
    assert client.responses.retrieve(made.id).metadata == {"run": "1"}
    assert client.responses.input_items.list(made.id).data[0].content[0].text == "x"
    client.responses.delete(made.id)
    error = refused(client.responses.retrieve, made.id)
    assert (error.status_code, error.body["message"]) == (404, f"Response with id '{made.id}' not found.")


def test_a_response_that_is_not_stored_cannot_be_read(client, simulator):
    made = client.responses.create(model="any-model", input="x", store=False)
    assert refused(client.responses.retrieve, made.id).status_code == 404
    assert simulator.provider.responses == {}


def test_a_chain_of_responses_is_context_but_instructions_are_not_handed_on(client):
    first = client.responses.create(model="any-model", input="one two", instructions="Be kind.")
    second = client.responses.create(model="any-model", input="three", previous_response_id=first.id)
    assert second.instructions is None
    assert second.usage.input_tokens == 7  # one two, You said: one two, three


def test_an_unknown_previous_response_is_refused(client):
    error = refused(client.responses.create, model="any-model", input="x", previous_response_id="resp_x")
    assert (error.status_code, error.param, error.code) == (
        400,
        "previous_response_id",
        "previous_response_not_found",
    )


def test_a_conversation_and_a_previous_response_exclude_each_other(client):
    conversation, first = client.conversations.create(), client.responses.create(model="any-model", input="x")
    both = {"conversation": conversation.id, "previous_response_id": first.id}
    error = refused(client.responses.create, model="any-model", input="x", **both)
    assert (error.status_code, error.code) == (400, "mutually_exclusive_parameters")


def test_a_tool_call_is_answered_in_the_next_response(client, simulator):
    simulator.answer(TOOL, "It is sunny.")
    conversation = client.conversations.create()
    [call] = client.responses.create(model="any-model", input="weather?", conversation=conversation.id).output
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city": "Bern"}')
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    response = client.responses.create(model="any-model", input=[output], conversation=conversation.id)
    assert response.output_text == "It is sunny."
    assert kept(simulator, conversation) == ["weather?", "function_call", "function_call_output", "It is sunny."]


def test_an_unanswered_tool_call_makes_every_later_response_fail(client, simulator):
    simulator.answer(TOOL)
    conversation = client.conversations.create()
    [call] = client.responses.create(model="any-model", input="weather?", conversation=conversation.id).output
    for _ in range(2):
        error = refused(client.responses.create, model="any-model", input="well?", conversation=conversation.id)
        assert (error.status_code, error.param) == (400, "input")
        assert error.body["message"] == f"No tool output found for function call {call.call_id}."
    assert kept(simulator, conversation) == ["weather?", "function_call"]


def test_a_tool_output_without_its_call_is_refused(client):
    output = {"type": "function_call_output", "call_id": "call_x", "output": "sunny"}
    error = refused(client.responses.create, model="any-model", input=[output])
    assert error.body["message"] == "No tool call found for function call output with call_id call_x."


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "any-model"}, 400, "input"),
        ({"input": "x"}, 400, "model"),
        ({"model": "any-model", "input": 7}, 400, "input"),
        ({"model": "any-model", "input": [{"role": "tool", "content": "x"}]}, 400, "input[0].role"),
        ({"model": "any-model", "input": "x", "conversation": "conv_gone"}, 404, None),
        ({"model": "any-model", "input": "x", "nonsense": 1}, 400, "nonsense"),
        ({"model": "any-model", "input": "x", "stream": "yes"}, 400, "stream"),
        ({"model": "any-model", "input": "x", "background": 1}, 400, "background"),
        ({"model": "any-model", "input": "x", "tools": [{}]}, 400, "tools[0].type"),
        ({"model": "any-model", "input": "x", "metadata": {"k": "v" * 513}}, 400, "metadata.k"),
    ],
)
def test_a_request_the_provider_cannot_serve_is_refused(client, simulator, fields, status, param):
    error = refused(client.post, "/responses", body=fields, cast_to=object)
    assert (error.status_code, error.param) == (status, param)
    assert simulator.provider.responses == {}


def test_an_empty_input_is_enough_where_there_is_a_conversation(client):
    conversation = client.conversations.create(items=[{"role": "user", "content": "hello"}])
    assert client.responses.create(model="any-model", conversation=conversation.id).output_text == "You said: hello"


def test_a_lost_conversation_is_not_found(client, simulator):
    conversation = client.conversations.create()
    simulator.lose(conversation.id)
    error = refused(client.responses.create, model="any-model", input="x", conversation=conversation.id)
    assert error.body["message"] == f"Conversation with id '{conversation.id}' not found."
