"""Test the simulated Chat Completions and models APIs."""

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.simulator import Simulator

from .helpers import refused


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
USER = {"role": "user", "content": "hello there"}


def ask(client, *messages, **fields):
    return client.chat.completions.create(model="any-model", messages=list(messages), **fields)


def test_a_completion_answers_and_its_totals_add_up(client, simulator):
    done = ask(client, {"role": "system", "content": "Be kind."}, USER)
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("You said: hello there", "stop")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (4, 4, 8)
    assert simulator.provider.completions[0]["id"] == done.id


def test_content_parts_are_read_like_text(client):
    assert ask(client, {"role": "user", "content": [{"type": "text", "text": "hi"}]}).choices[0].message.content == (
        "You said: hi"
    )


def test_a_scripted_tool_call_ends_the_completion_with_tool_calls(client, simulator):
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]})
    choice = ask(client, USER).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Bern"}'


def test_tool_calls_with_their_results_are_taken(client):
    assert ask(client, USER, CALLING, RESULT).choices[0].message.content == "You said: hello there"


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        ([], "messages", "Invalid 'messages': empty array"),
        ([{"role": "robot", "content": "x"}], "messages[0].role", "Invalid value: 'robot'"),
        ([{"role": "user"}], "messages.[0].content", "expected a string, got null"),
        ([USER, {"role": "tool", "content": "x"}], "messages.[1].tool_call_id", "Missing parameter 'tool_call_id'"),
        ([USER, RESULT], "messages.[1].role", "must be a response to a preceeding message with 'tool_calls'"),
        ([USER, CALLING], "messages", "The following tool_call_ids did not have response messages: call_1"),
        ([USER, CALLING, USER, RESULT], "messages", "must be followed by tool messages"),
        ([USER, {"role": "assistant", "tool_calls": [{"id": "c"}]}], "messages[1].tool_calls[0].function", "type"),
    ],
)
def test_messages_that_do_not_fit_together_are_refused(client, messages, param, words):
    error = refused(ask, client, *messages)
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.body["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"stream": "yes"}}, "stream"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"n": 129}, "n"),
        ({"n": 0}, "n"),
    ],
)
def test_fields_that_cannot_be_served_are_refused(client, fields, param):
    error = refused(ask, client, USER, **fields)
    assert (error.status_code, error.param) == (400, param)


def test_a_completion_without_a_model_is_refused(client):
    error = refused(client.post, "/chat/completions", body={"messages": [USER]}, cast_to=object)
    assert error.body["message"] == "you must provide a model parameter"


def test_several_choices_may_be_asked_for(client):
    assert [choice.index for choice in ask(client, USER, n=3).choices] == [0, 1, 2]


def test_a_failed_completion_is_a_500_with_its_code(client, simulator):
    simulator.add_fault("POST /chat/completions", fail={"code": "overloaded", "message": "Too busy."})
    error = refused(ask, client, USER)
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code, error.body["message"]) == (500, "overloaded", "Too busy.")
    assert ask(client, USER).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
def test_an_incomplete_completion_shows_it_in_its_finish_reason(client, simulator, reason, finish):
    simulator.add_fault("POST /chat/completions", incomplete=reason)
    assert ask(client, USER).choices[0].finish_reason == finish


def test_any_model_is_accepted_but_a_retired_one(client, simulator):
    simulator.retire_model("gpt-old")
    for call in (
        lambda: client.models.retrieve("gpt-old"),
        lambda: client.chat.completions.create(model="gpt-old", messages=[USER]),
        lambda: client.responses.create(model="gpt-old", input="x"),
    ):
        error = refused(call)
        assert (error.status_code, error.code) == (404, "model_not_found")
        assert "`gpt-old`" in error.body["message"]
    assert client.models.retrieve("gpt-new").id == "gpt-new"


def test_models_show_when_they_will_shut_down(client):
    models = client.models.list().data
    assert any(model.shutdown_date for model in models)
    assert any(model.shutdown_date is None for model in models)


def test_where_the_models_are_given_there_are_no_others():
    with (
        Simulator(models={"gpt-a": None, "gpt-b": "2027-01-14"}) as simulator,
        OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client,
    ):
        assert [(model.id, model.shutdown_date) for model in client.models.list()] == [
            ("gpt-a", None),
            ("gpt-b", "2027-01-14"),
        ]
        assert refused(client.models.retrieve, "gpt-c").code == "model_not_found"


def test_only_what_was_to_be_stored_can_be_read_again(client):
    stored, other = ask(client, USER, store=True, metadata={"k": "v"}), ask(client, USER)
    assert client.chat.completions.retrieve(stored.id).metadata == {"k": "v"}
    assert [made.id for made in client.chat.completions.list()] == [stored.id]
    assert refused(client.chat.completions.retrieve, other.id).status_code == 404
    client.chat.completions.delete(stored.id)
    assert client.chat.completions.list().data == []
