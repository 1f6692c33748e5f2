"""Test scripted outputs: every item of a response, whole and as a stream, and what the other APIs show of it."""

import pytest

from threadledger.adapters.simulator import Script, ScriptError, Simulator

from .helpers import FILE_CITATION, OUTPUTS, URL_CITATION, refused

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
MODEL = {"model": "any-model"}
ASKED = {**MODEL, "input": "x"}
HELLO = {**MODEL, "messages": [{"role": "user", "content": "x"}]}
TEXTS = {"text and calls": "I look.", "two messages": "I look.\nIt is 7."}


@pytest.fixture
def simulator():
    with Simulator(seed=7) as running:
        yield running


def without(item, *names):
    return {name: value for name, value in item.items() if name not in names}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_response_contains_the_items_that_are_scripted(client, simulator, name):
    simulator.answer({"output": OUTPUTS[name]})
    response = client.responses.create(**ASKED)
    [kept] = simulator.provider.responses.values()
    assert len({item["id"] for item in kept["output"]}) == len(OUTPUTS[name])
    for shown, scripted in zip(kept["output"], OUTPUTS[name], strict=True):
        wanted = {"type": "message", "content": scripted} if isinstance(scripted, str) else scripted
        assert shown["type"] == wanted["type"]
        for field in wanted.keys() - {"content", "arguments"}:
            assert shown[field] == wanted[field]
    assert [item.type for item in response.output] == [item["type"] for item in kept["output"]]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_stream_of_a_response_builds_the_same_items(client, simulator, name):
    simulator.answer({"output": OUTPUTS[name]})
    events = list(client.responses.create(**ASKED, stream=True))
    [kept] = simulator.provider.responses.values()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item.to_dict() for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.to_dict()["output"]
    added = [(event.item.id, event.output_index) for event in events if event.type == "response.output_item.added"]
    assert added == [(item["id"], index) for index, item in enumerate(kept["output"])]
    pieces = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert pieces == "".join(
        part["text"]
        for item in kept["output"]
        if item["type"] == "message"
        for part in item["content"]
        if "text" in part
    )


def kinds(client, **more):
    return [event.type.removeprefix("response.") for event in client.responses.create(**ASKED, stream=True, **more)]


def test_the_events_of_citations_and_refusals_are_in_the_order_of_the_description(client, simulator):
    simulator.answer({"output": OUTPUTS["citations"]}, {"output": OUTPUTS["refusal"]})
    events = list(client.responses.create(**ASKED, stream=True))
    told = [event.type.removeprefix("response.") for event in events]
    assert told[2:-1] == [
        "output_item.added", "content_part.added", *["output_text.delta"] * 2, *["output_text.annotation.added"] * 3,
        "output_text.done", "content_part.done", "output_item.done",
    ]  # fmt: skip
    annotations = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert [(event.annotation_index, event.annotation.type) for event in annotations] == [
        (0, "url_citation"),
        (1, "file_citation"),
        (2, "container_file_citation"),
    ]
    assert [len(event.logprobs) for event in events if event.type == "response.output_text.delta"] == [1, 1]
    assert kinds(client)[2:-1] == [
        "output_item.added", "content_part.added", *["refusal.delta"] * 3, "refusal.done", "content_part.done",
        "output_item.done",
    ]  # fmt: skip


def test_the_events_of_reasoning_and_searches_are_in_the_order_of_the_description(client, simulator):
    simulator.answer({"output": OUTPUTS["reasoning"][:1]}, {"output": OUTPUTS["web search"][:1]})
    one = ["reasoning_summary_part.added", *["reasoning_summary_text.delta"] * 2, "reasoning_summary_text.done"]
    two = ["reasoning_summary_part.added", *["reasoning_summary_text.delta"] * 2, "reasoning_summary_text.done"]
    assert kinds(client)[2:-1] == [
        "output_item.added", *one, "reasoning_summary_part.done", *two, "reasoning_summary_part.done",
        *["reasoning_text.delta"] * 3, "reasoning_text.done", "output_item.done",
    ]  # fmt: skip
    searched = ["web_search_call.in_progress", "web_search_call.searching", "web_search_call.completed"]
    assert kinds(client)[2:-1] == ["output_item.added", *searched, "output_item.done"]


def test_an_image_is_shown_in_parts_as_often_as_its_tool_says(client, simulator):
    simulator.answer(*[{"output": OUTPUTS["image"]}] * 2)
    assert "image_generation_call.partial_image" not in kinds(client)
    shown = kinds(client, tools=[{"type": "image_generation", "partial_images": 2}])
    assert shown.count("image_generation_call.partial_image") == 2


def test_a_completion_shows_text_refusal_citations_calls_and_probabilities(client, simulator):
    simulator.answer({"output": OUTPUTS["citations"]}, {"output": OUTPUTS["refusal"]})
    simulator.answer({"output": OUTPUTS["text and calls"]}, {"output": OUTPUTS["two messages"]})
    [cited] = client.chat.completions.create(**HELLO).choices
    [annotation] = cited.message.annotations
    assert annotation.url_citation.to_dict() == without(URL_CITATION, "type")
    assert [each.logprob for each in cited.logprobs.content] == [-0.5, -0.5]
    [refusing] = client.chat.completions.create(**HELLO).choices
    assert (refusing.message.content, refusing.message.refusal) == (None, "I cannot help.")
    [calling] = client.chat.completions.create(**HELLO).choices
    assert (calling.message.content, calling.finish_reason) == ("I look.", "tool_calls")
    assert calling.message.tool_calls[0].function.arguments == '{"city": "Bern"}'
    assert client.chat.completions.create(**HELLO).choices[0].message.content == "I look.\nIt is 7."


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_stream_of_a_completion_builds_the_same_message(client, simulator, name):
    simulator.answer(*[{"output": OUTPUTS[name]}] * 2)
    whole = client.chat.completions.create(**HELLO).choices[0].message
    with client.chat.completions.stream(**HELLO) as stream:
        built = stream.get_final_completion().choices[0].message
    assert (built.content or None, built.refusal) == (whole.content, whole.refusal)
    assert [call.function.name for call in built.tool_calls or []] == [
        call.function.name for call in whole.tool_calls or []
    ]


def test_a_completion_has_sound_with_its_transcript(client, simulator):
    simulator.answer(*[{"audio": {"data": "UklGRg==", "transcript": "Hello there."}}] * 2)
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    message = client.chat.completions.create(**HELLO, **spoken).choices[0].message
    assert (message.content, message.audio.data, message.audio.transcript) == (None, "UklGRg==", "Hello there.")
    deltas = [
        chunk.choices[0].delta.to_dict().get("audio", {})
        for chunk in client.chat.completions.create(**HELLO, **spoken, stream=True)
    ]
    assert "".join(each.get("transcript", "") for each in deltas) == "Hello there."
    assert "".join(each.get("data", "") for each in deltas) == "UklGRg=="
    assert [each["id"][:6] for each in deltas if "id" in each] == ["audio_"]


def test_usage_can_be_scripted(client, simulator):
    usage = {"input_tokens": 100, "cached_tokens": 60, "reasoning_tokens": 7}
    simulator.answer(*[{"output": ["one two"], "usage": usage}] * 2)
    shown = client.responses.create(**ASKED).usage
    assert (shown.input_tokens, shown.output_tokens, shown.total_tokens) == (100, 9, 109)
    assert (shown.input_tokens_details.cached_tokens, shown.output_tokens_details.reasoning_tokens) == (60, 7)
    shown = client.chat.completions.create(**HELLO).usage
    assert (shown.prompt_tokens, shown.completion_tokens, shown.total_tokens) == (100, 9, 109)
    assert (shown.prompt_tokens_details.cached_tokens, shown.completion_tokens_details.reasoning_tokens) == (60, 7)


def test_a_run_writes_a_message_with_citations_of_files_or_a_refusal(client, simulator):
    assistant = client.beta.assistants.create(**MODEL)
    simulator.answer({"output": OUTPUTS["file search"]}, {"output": OUTPUTS["refusal"]})
    written = []
    for _ in range(2):
        run = client.beta.threads.create_and_run_poll(assistant_id=assistant.id, thread={"messages": HELLO["messages"]})
        written.append(client.beta.threads.messages.list(run.thread_id).data[0].content[0])
    cited, refusing = written
    assert (cited.text.value, cited.text.annotations[0].file_citation.file_id) == (
        "Hello there.",
        FILE_CITATION["file_id"],
    )
    assert refusing.refusal == "I cannot help."


def test_items_of_an_answer_join_the_conversation_and_can_be_sent_again(client, simulator):
    conversation = client.conversations.create()
    simulator.answer({"output": [*OUTPUTS["reasoning"], *OUTPUTS["code"]]})
    response = client.responses.create(**ASKED, conversation=conversation.id)
    kept = [item.id for item in client.conversations.items.list(conversation.id, order="asc")][1:]
    assert kept == [item.id for item in response.output]
    assert client.responses.create(**ASKED, conversation=conversation.id).output_text == "You said: x"
    sent = [item.to_dict() for item in response.output]
    assert (
        client.responses.create(**MODEL, input=[*sent, {"role": "user", "content": "y"}]).output_text == "You said: y"
    )


def test_outputs_are_kept_in_a_state_file(tmp_path):
    from openai import OpenAI

    with Simulator(seed=7, state=tmp_path / "state.db") as first:
        for name in OUTPUTS:
            first.answer({"output": OUTPUTS[name], "usage": {"cached_tokens": 3}})
        first.answer({"audio": {"data": "UklGRg==", "transcript": "x"}})
        left = first.provider.store.answers.left
    with Simulator(state=tmp_path / "state.db") as second, OpenAI(base_url=second.base_url, api_key="k") as client:
        assert second.provider.store.answers.left == left
        assert client.responses.create(**ASKED).usage.input_tokens_details.cached_tokens == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"output": [{"type": "riddle"}]}, "answers[0].output[0].type: Invalid value: 'riddle'"),
        ({"output": [{"type": "function_call", "name": "f"}]}, "answers[0].output[0].arguments: Missing"),
        ({"output": [{"type": "message"}]}, "answers[0].output[0].content: Missing required parameter"),
        ({"output": [{"type": "message", "content": []}]}, "answers[0].output[0].content: Invalid"),
        ({"output": [{"type": "message", "content": [{"type": "input_text"}]}]}, "output[0].content[0].type: Invalid"),
        ({"output": [{"type": "image_generation_call"}]}, "answers[0].output[0].result: Missing"),
        ({"output": [7]}, "answers[0].output[0]: Invalid type"),
        ({"output": ["x"], "usage": {"tokens": 1}}, "answers[0].usage.tokens: unknown key"),
        ({"output": ["x"], "tool_calls": []}, "answers[0].tool_calls: write the calls as items of output"),
        ({"audio": {"transcript": "x"}}, "answers[0].audio.data: is missing"),
        ({"sound": 1}, "answers[0].sound: unknown key; known keys are tool_calls, output, audio, usage"),
    ],
)
def test_a_script_with_an_output_that_no_response_has_is_refused(answer, words):
    with pytest.raises(ScriptError) as caught:
        Script.parse({"answers": [answer]})
    assert words in str(caught.value)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 18},
        "height": {"type": "number", "exclusiveMinimum": 0},
        "score": {"type": "number", "maximum": -1},
        "stars": {"type": "integer", "multipleOf": 5, "exclusiveMinimum": 5},
        "happy": {"type": "boolean"},
        "kind": {"enum": ["adult", "child"]},
        "version": {"const": 2},
        "born": {"type": "string", "format": "date"},
        "code": {"type": "string", "minLength": 3},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "friend": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "home": {"$ref": "#/$defs/place"},
        "nick": {"type": ["string", "null"]},
    },
    "$defs": {
        "place": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}  # fmt: skip
PERSON["required"] = list(PERSON["properties"])
EXPECTED = {
    "name": "", "age": 18, "height": 1.0, "score": -1.0, "stars": 10, "happy": False, "kind": "adult", "version": 2,
    "born": "2026-01-01", "code": "xxx", "tags": ["", ""], "friend": None, "home": {"city": ""}, "nick": "",
}  # fmt: skip


def test_an_answer_in_a_schema_is_the_smallest_value_that_fits(client):
    import json

    schema = {"name": "person", "schema": PERSON, "strict": True}
    said = client.responses.create(**ASKED, text={"format": {"type": "json_schema", **schema}})
    assert json.loads(said.output_text) == EXPECTED
    wanted = {"type": "json_schema", "json_schema": schema}
    said = client.chat.completions.create(**HELLO, response_format=wanted)
    assert json.loads(said.choices[0].message.content) == EXPECTED
    assistant = client.beta.assistants.create(**MODEL, response_format=wanted)
    run = client.beta.threads.create_and_run_poll(assistant_id=assistant.id, thread={"messages": HELLO["messages"]})
    [written, _] = client.beta.threads.messages.list(run.thread_id).data
    assert json.loads(written.content[0].text.value) == EXPECTED


def test_an_answer_in_json_is_an_empty_object_and_a_scripted_one_is_given_as_it_is(client, simulator):
    wanted = {"format": {"type": "json_object"}}
    assert client.responses.create(**MODEL, input="as JSON", text=wanted).output_text == "{}"
    simulator.answer("no JSON at all")
    assert client.responses.create(**MODEL, input="as JSON", text=wanted).output_text == "no JSON at all"


def test_a_schema_that_contains_itself_without_an_end_is_refused(client):
    endless = {
        "type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": False
    }  # fmt: skip
    error = refused(
        client.responses.create,
        **ASKED,
        text={"format": {"type": "json_schema", "name": "n", "schema": endless, "strict": True}},
    )
    assert (error.status_code, error.code) == (400, "invalid_json_schema")


def test_the_sdk_parses_an_answer_into_a_class(client):
    from pydantic import BaseModel

    class Step(BaseModel):
        explanation: str
        output: float

    class Solution(BaseModel):
        steps: list[Step]
        answer: int

    parsed = client.responses.parse(**ASKED, text_format=Solution).output_parsed
    assert parsed == Solution(steps=[], answer=0)
    said = client.chat.completions.parse(**HELLO, response_format=Solution).choices[0].message
    assert said.parsed == Solution(steps=[], answer=0)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 0),
        ({"type": "integer", "minimum": 2.5}, 3),
        ({"type": "integer", "maximum": -2.5}, -3),
        ({"type": "integer", "exclusiveMaximum": -4}, -5),
        ({"type": "integer", "exclusiveMinimum": 0}, 1),
        ({"type": "integer", "multipleOf": 4, "maximum": -1}, -4),
        ({"type": "number", "minimum": 0.5}, 0.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, 0.25),
        ({"type": "number", "multipleOf": 0.5, "exclusiveMinimum": 1}, 1.5),
        ({"type": "null"}, None),
        ({"type": "array"}, []),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {}),
        ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}]}, {"a": 1}),
        ({"oneOf": [{"type": "boolean"}]}, False),
    ],
)
def test_the_smallest_value_of_a_schema(schema, value):
    from threadledger.adapters.simulator.sample import smallest

    assert smallest(schema) == value
