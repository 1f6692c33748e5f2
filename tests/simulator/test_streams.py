"""Test simulated streams: events, endings, and the provider's state in the meantime."""

import openai
import pytest

from .helpers import refused

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "time", "arguments": {}}]}
HELLO = [{"role": "user", "content": "hello there"}]
CHAT, RESPONSES, RUNS = "POST /chat/completions", "POST /responses", "POST /threads/{thread_id}/runs"
BEGUN = ["response.created", "response.in_progress"]
QUEUED = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
SPOKEN = [
    "thread.run.step.created", "thread.run.step.in_progress", "thread.message.created", "thread.message.in_progress",
]  # fmt: skip


@pytest.fixture
def assistant(client):
    return client.beta.assistants.create(model="any-model")


@pytest.fixture
def thread(client):
    return client.beta.threads.create(messages=HELLO)


def chat(client, **fields):
    return client.chat.completions.create(model="any-model", messages=HELLO, stream=True, **fields)


def respond(client, **fields):
    return client.responses.create(model="any-model", input="hello there", stream=True, **fields)


def run(client, thread, assistant, **fields):
    return client.beta.threads.runs.create(thread.id, assistant_id=assistant.id, stream=True, **fields)


def types(events):
    """Return the names of the events, with consecutive deltas merged into one."""
    names = [getattr(event, "event", None) or event.type for event in events]
    return [name for at, name in enumerate(names) if not (at and name == names[at - 1] and name.endswith("delta"))]


def test_a_chat_completion_comes_in_parts_with_its_role_first_and_its_reason_last(client, simulator):
    chunks = list(chat(client))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas[1:-1]] == ["You ", "said: ", "hello ", "there"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert {chunk.id for chunk in chunks} == {simulator.provider.completions[0]["id"]}
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_in_a_chunk_of_its_own_where_it_is_asked_for(client):
    *chunks, last = chat(client, stream_options={"include_usage": True})
    assert (last.choices, last.usage.total_tokens) == ([], 6)
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)


def test_stream_options_without_a_stream_are_refused(client):
    for create, given in (
        (client.chat.completions.create, {"messages": HELLO}),
        (client.responses.create, {"input": "x"}),
    ):
        error = refused(create, model="any-model", extra_body={"stream_options": {}}, **given)
        assert (error.status_code, error.param) == (400, "stream_options")
        error = refused(
            create, model="any-model", stream=True, extra_body={"stream_options": {"nonsense": True}}, **given
        )
        assert error.param == "stream_options.nonsense"


def test_tool_calls_of_a_completion_come_by_their_index_with_their_arguments_in_parts(client, simulator):
    simulator.answer(TOOL)
    with client.chat.completions.stream(model="any-model", messages=HELLO) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [
        ("weather", '{"city": "Bern"}'),
        ("time", "{}"),
    ]
    assert message.content is None


def test_several_choices_are_streamed_each_by_its_index(client):
    said = {0: "", 1: ""}
    for chunk in chat(client, n=2):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == {0: "You said: hello there", 1: "You said: hello there"}


def test_a_long_text_comes_in_few_parts_and_joined_it_is_the_same(client, simulator):
    text = " ".join(f"word{n}\n" for n in range(1_000)) + " "
    simulator.answer(text)
    parts = [chunk.choices[0].delta.content or "" for chunk in chat(client)]
    assert "".join(parts) == text
    assert len(parts) < 80


@pytest.mark.parametrize("text", ["", "x", "  ", "naïve", "\n\n", "zwei Wörter"])
def test_any_text_comes_through_a_stream_as_it_is(client, simulator, text):
    simulator.answer(text, text)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chat(client)) == text
    assert list(respond(client))[-1].response.output_text == text


def test_a_response_tells_its_items_and_parts_in_the_documented_order(client):
    events = list(respond(client))
    assert types(events) == [
        *BEGUN,
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "You said: hello there"
    assert (events[0].response.status, events[0].response.output, events[0].response.usage) == ("in_progress", [], None)
    assert (events[-1].response.status, events[-1].response.usage.total_tokens) == ("completed", 6)


def test_function_calls_of_a_response_come_with_their_arguments_in_parts(client, simulator):
    simulator.answer(TOOL)
    events = list(respond(client))
    call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert types(events) == [*BEGUN, *call, *call, "response.completed"]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [(e.name, e.arguments, e.output_index) for e in done] == [
        ("weather", '{"city": "Bern"}', 0),
        ("time", "{}", 1),
    ]


def test_a_streamed_response_that_completes_joins_its_conversation(client, simulator):
    conversation = client.conversations.create()
    list(respond(client, conversation=conversation.id))
    assert [item["role"] for item in simulator.provider.items[conversation.id]] == ["user", "assistant"]


def test_a_run_tells_its_states_its_step_and_its_message(client, simulator, thread, assistant):
    events = list(run(client, thread, assistant))
    assert types(events) == [
        *QUEUED,
        *SPOKEN,
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
    ]
    said = [e.data.delta.content[0].text.value for e in events if e.event == "thread.message.delta"]
    assert "".join(said) == "You said: hello there"
    assert simulator.provider.messages[thread.id][-1]["status"] == "completed"


def test_a_streamed_run_leaves_what_one_that_is_polled_leaves(client, simulator, thread, assistant):
    other = client.beta.threads.create(messages=HELLO)
    streamed = list(run(client, thread, assistant))[-1].data
    polled = client.beta.threads.runs.create_and_poll(thread_id=other.id, assistant_id=assistant.id)
    own = {"id", "thread_id", "created_at", "started_at", "completed_at"}
    assert streamed.model_dump(exclude=own) == polled.model_dump(exclude=own)
    texts = [[m["content"] for m in simulator.provider.messages[key]] for key in (thread.id, other.id)]
    assert texts[0] == texts[1]


def test_a_run_waits_for_its_tools_and_goes_on_in_a_second_stream(client, simulator, thread, assistant):
    simulator.answer(TOOL)
    events = list(run(client, thread, assistant))
    step = ["thread.run.step.created", "thread.run.step.in_progress", "thread.run.step.delta"]
    assert types(events) == [*QUEUED, *step, "thread.run.requires_action"]
    calls = events[-1].data.required_action.submit_tool_outputs.tool_calls
    assert [call.function.arguments for call in calls] == ['{"city": "Bern"}', "{}"]
    with client.beta.threads.runs.submit_tool_outputs_stream(
        run_id=events[-1].data.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "sunny"} for call in calls],
    ) as stream:
        assert types(stream)[:3] == ["thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"]
        assert stream.get_final_run().status == "completed"
        assert stream.get_final_messages()[0].content[0].text.value == "You said: hello there"


def test_a_thread_and_its_run_can_be_made_in_one_stream(client, assistant):
    events = list(
        client.beta.threads.create_and_run(assistant_id=assistant.id, thread={"messages": HELLO}, stream=True)
    )
    assert types(events)[:2] == ["thread.created", "thread.run.created"]
    assert events[0].data.id == events[-1].data.thread_id


@pytest.mark.parametrize("fields", [{"assistant_id": "asst_x"}, {"nonsense": 1}, {"thread": {"messages": [{}]}}])
def test_a_run_that_is_refused_leaves_no_thread(client, simulator, assistant, fields):
    refused(client.post, "/threads/runs", body={"assistant_id": assistant.id, **fields}, cast_to=object,
            options={"headers": {"OpenAI-Beta": "assistants=v2"}})  # fmt: skip
    assert simulator.provider.threads == {}


def test_what_is_refused_is_refused_before_the_stream_begins(client, thread):
    assert refused(respond, client, conversation="conv_x").status_code == 404
    assert refused(client.chat.completions.create, model="any-model", messages=[], stream=True).status_code == 400
    error = refused(client.beta.threads.runs.create, thread.id, assistant_id="asst_x", stream=True)
    assert error.status_code == 404


def test_a_failure_comes_within_the_stream(client, simulator, thread, assistant):
    for place in (CHAT, RESPONSES, RUNS):
        simulator.add_fault(place, fail={"code": "rate_limit_exceeded", "message": "Too much."})
    with pytest.raises(openai.APIError, match="Too much") as caught:
        list(chat(client))
    assert not isinstance(caught.value, openai.APIStatusError)
    last = list(respond(client))[-1]
    assert (last.type, last.response.error.code) == ("response.failed", "rate_limit_exceeded")
    events = list(run(client, thread, assistant))
    assert types(events) == [*QUEUED, "thread.run.failed"]
    assert events[-1].data.last_error.message == "Too much."


def test_an_incomplete_answer_is_half_an_answer(client, simulator, thread, assistant):
    for place in (CHAT, RESPONSES):
        simulator.add_fault(place, incomplete="content_filter")
    simulator.add_fault(RUNS, incomplete="max_completion_tokens")
    chunks = list(chat(client))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said:"
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    events = list(respond(client))
    assert (events[-1].type, events[-1].response.output_text) == ("response.incomplete", "You said:")
    events = list(run(client, thread, assistant))
    assert types(events)[-3:] == ["thread.message.incomplete", "thread.run.step.completed", "thread.run.incomplete"]
    assert events[-3].data.incomplete_details.reason == "max_tokens"


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_run_may_end_otherwise_within_its_stream(client, simulator, thread, assistant, end):
    simulator.add_fault(RUNS, end=end)
    assert types(run(client, thread, assistant)) == [*QUEUED, f"thread.run.{end}"]


def test_a_cancelled_response_has_no_last_event(client, simulator):
    simulator.add_fault(RESPONSES, end="cancelled")
    events = list(respond(client))
    assert types(events) == BEGUN
    assert client.responses.retrieve(events[0].response.id).status == "cancelled"


def test_a_run_can_fail_after_its_tools_were_answered(client, simulator, thread, assistant):
    simulator.answer(TOOL)
    simulator.add_fault("POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs", fail=True)
    waiting = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    calls = waiting.required_action.submit_tool_outputs.tool_calls
    ended = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=waiting.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "sunny"} for call in calls],
    )
    assert (ended.status, ended.last_error.code) == ("failed", "server_error")
