"""Test the simulated Assistants API: assistants, threads and messages."""

import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def texts(messages):
    return [message.content[0].text.value for message in messages]


def test_an_assistant_keeps_what_it_was_made_of(client):
    made = client.beta.assistants.create(
        model="any-model",
        name="John",
        instructions="Be kind.",
        tools=[{"type": "code_interpreter"}, {"type": "function", "function": {"name": "web_search"}}],
        metadata={"profile": "john"},
    )
    read = client.beta.assistants.retrieve(made.id)
    assert made.id.startswith("asst_")
    assert (read.name, read.instructions, read.model, read.metadata) == (
        "John",
        "Be kind.",
        "any-model",
        {"profile": "john"},
    )
    assert [tool.type for tool in read.tools] == ["code_interpreter", "function"]


def test_modifying_an_assistant_leaves_the_other_fields(client):
    made = client.beta.assistants.create(model="any-model", name="John", instructions="Be kind.")
    changed = client.beta.assistants.update(made.id, instructions="Be brief.")
    assert (changed.name, changed.instructions) == ("John", "Be brief.")


def test_a_deleted_assistant_is_not_found_any_more(client):
    made = client.beta.assistants.create(model="any-model")
    assert client.beta.assistants.delete(made.id).deleted
    error = refused(client.beta.assistants.retrieve, made.id)
    assert error.status_code == 404
    assert error.body["message"] == f"No assistant found with id '{made.id}'."


def test_assistants_are_listed_in_pages_in_either_direction(client):
    ids = [client.beta.assistants.create(model="any-model").id for _ in range(5)]
    first = client.beta.assistants.list(limit=2, order="asc")
    assert ([a.id for a in first.data], first.has_more) == (ids[:2], True)
    assert [a.id for a in client.beta.assistants.list(limit=2, order="asc")] == ids
    assert [a.id for a in client.beta.assistants.list(limit=2)] == ids[::-1]
    assert [a.id for a in client.beta.assistants.list(order="asc", limit=2, before=ids[3]).data] == ids[1:3]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"name": "n" * 257}, "name", "string_above_max_length"),
        ({"instructions": "i" * 256_001}, "instructions", "string_above_max_length"),
        ({"tools": [{"type": "code_interpreter"}] * 129}, "tools", "array_above_max_length"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
        ({"name": 7}, "name", "invalid_type"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k" * 65: "x"}}, "metadata", "string_above_max_length"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
        ({"extra_body": {"nonsense": 1}}, "nonsense", "unknown_parameter"),
    ],
)
def test_an_assistant_past_a_limit_is_refused_with_the_field_named(client, simulator, fields, param, code):
    error = refused(client.beta.assistants.create, model="any-model", **fields)
    assert (error.status_code, error.type, error.param, error.code) == (400, "invalid_request_error", param, code)
    assert simulator.provider.assistants == {}


def test_an_assistant_at_its_limits_is_taken(client):
    made = client.beta.assistants.create(
        model="any-model", name="n" * 256, instructions="i" * 256_000, tools=[{"type": "code_interpreter"}] * 128
    )
    assert len(made.tools) == 128


def test_a_thread_may_begin_with_messages(client, simulator):
    thread = client.beta.threads.create(
        messages=[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}], metadata={"key": "42"}
    )
    assert texts(client.beta.threads.messages.list(thread.id, order="asc")) == ["hello", "hi"]
    assert simulator.provider.threads[thread.id]["metadata"] == {"key": "42"}


def test_metadata_of_a_thread_and_of_a_message_can_be_changed(client):
    thread = client.beta.threads.create()
    message = client.beta.threads.messages.create(thread.id, role="user", content="hello", metadata={"event": "1"})
    assert client.beta.threads.update(thread.id, metadata={"at": "7"}).metadata == {"at": "7"}
    changed = client.beta.threads.messages.update(message.id, thread_id=thread.id, metadata={"event": "2"})
    assert changed.metadata == {"event": "2"}
    assert client.beta.threads.messages.retrieve(message.id, thread_id=thread.id).metadata == {"event": "2"}


def test_a_deleted_thread_takes_its_messages_along(client, simulator):
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "hello"}])
    assert client.beta.threads.delete(thread.id).deleted
    assert refused(client.beta.threads.messages.list, thread.id).status_code == 404
    assert simulator.provider.messages == {}


def test_an_unknown_thread_is_named_in_the_refusal(client):
    error = refused(client.beta.threads.retrieve, "thread_x")
    assert (error.status_code, error.code) == (404, None)
    assert error.body["message"] == "No thread found with id 'thread_x'."


def test_an_id_of_another_kind_is_refused_before_it_is_looked_up(client):
    error = refused(client.beta.threads.retrieve, "undefined")
    assert error.status_code == 400
    assert error.body["message"] == "Invalid 'thread_id': 'undefined'. Expected an ID that begins with 'thread'."


def test_messages_keep_the_order_they_were_written_in(client):
    thread = client.beta.threads.create()
    for number in range(25):
        client.beta.threads.messages.create(thread.id, role="user", content=str(number))
    expected = [str(number) for number in range(25)]
    assert texts(client.beta.threads.messages.list(thread.id, order="asc", limit=10)) == expected
    assert texts(client.beta.threads.messages.list(thread.id)) == expected[::-1]


def test_a_message_takes_text_and_image_parts(client):
    thread = client.beta.threads.create()
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    message = client.beta.threads.messages.create(thread.id, role="user", content=parts)
    assert [part.type for part in message.content] == ["text", "image_url"]


def test_a_message_can_be_deleted(client, simulator):
    thread = client.beta.threads.create()
    message = client.beta.threads.messages.create(thread.id, role="user", content="hello")
    assert client.beta.threads.messages.delete(message.id, thread_id=thread.id).deleted
    assert simulator.provider.messages[thread.id] == []
    assert refused(client.beta.threads.messages.delete, message.id, thread_id=thread.id).status_code == 404


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "system", "content": "be kind"}, "role"),
        ({"role": "user", "content": "x" * 256_001}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user", "content": ""}, "content"),
        ({"role": "user", "content": [{"type": "input_text", "text": "x"}]}, "content[0].type"),
        ({"role": "user", "content": None}, "content"),
    ],
)
def test_a_message_a_thread_cannot_hold_is_refused(client, simulator, message, param):
    thread = client.beta.threads.create()
    error = refused(client.beta.threads.messages.create, thread.id, **message)
    assert (error.status_code, error.param) == (400, param)
    assert simulator.provider.messages[thread.id] == []


def test_a_thread_with_one_bad_message_is_not_made(client, simulator):
    messages = [{"role": "user", "content": "fine"}, {"role": "tool", "content": "x"}]
    error = refused(client.beta.threads.create, messages=messages)
    assert error.param == "messages[1].role"
    assert simulator.provider.threads == {}


@pytest.mark.parametrize("query", [{"limit": 101}, {"limit": 0}, {"order": "up"}, {"after": "msg_none"}])
def test_a_page_that_cannot_be_is_refused(client, query):
    thread = client.beta.threads.create()
    assert refused(client.beta.threads.messages.list, thread.id, **query).status_code == 400


def test_after_the_shutdown_every_address_is_gone_and_no_id_is_named(client, simulator):
    thread = client.beta.threads.create()
    simulator.retire("assistants")
    for error in (
        refused(client.beta.threads.create),
        refused(client.beta.threads.retrieve, thread.id),
        refused(client.beta.threads.messages.create, thread.id, role="user", content="x"),
        refused(client.beta.assistants.list),
        refused(client.beta.threads.create_and_run, assistant_id="asst_x"),
    ):
        assert error.status_code == 404
        assert "_" not in error.body["message"]
    assert client.conversations.create().id.startswith("conv_")


def test_a_lost_thread_is_not_found_but_others_are(client, simulator):
    lost, kept = client.beta.threads.create(), client.beta.threads.create()
    simulator.lose(lost.id)
    assert refused(client.beta.threads.retrieve, lost.id).status_code == 404
    assert client.beta.threads.retrieve(kept.id).id == kept.id
    with pytest.raises(KeyError):
        simulator.lose("thread_never")
