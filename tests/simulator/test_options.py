"""Test the options of requests: which values each API accepts, and the answers that they ask for."""

import pytest

from threadledger.adapters.simulator import Simulator

from .helpers import refused

MODEL = {"model": "any-model"}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
TOOLS = [{"type": "function", **FUNCTION, "strict": False}, {"type": "code_interpreter", "container": {"type": "auto"}}]
CITY = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}  # fmt: skip
OPEN = {"type": "object", "properties": {"city": {"type": "string"}}}
STRICT = {"name": "place", "schema": CITY, "strict": True}
HELLO = [{"role": "user", "content": "as json"}]


@pytest.fixture(scope="module")
def simulator():
    with Simulator(seed=7) as running:
        yield running


CHAT = [
    {"temperature": 2, "top_p": 0, "seed": -1, "stop": ["a", "b"], "n": 2, "presence_penalty": -2},
    {"max_completion_tokens": 1, "reasoning_effort": "minimal", "verbosity": "low", "metadata": {"k": "v" * 512}},
    {"max_tokens": 1, "logprobs": True, "top_logprobs": 20, "logit_bias": {"7": -100}},
    {"tools": CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    {"tools": CHAT_TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": STRICT}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": OPEN}}},
    {"temperature": None, "response_format": {"type": "text"}, "tools": None},
]
CHAT_REFUSED = [
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"top_p": -0.5}, "top_p", "decimal_below_min_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
    ({"max_tokens": 5.5}, "max_tokens", "invalid_type"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid_parameter_combination"),
    ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
    ({"stop": list("abcde")}, "stop", "array_above_max_length"),
    ({"stop": 7}, "stop", "invalid_type"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
    ({"verbosity": "chatty"}, "verbosity", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", None),
    ({"tool_choice": "auto"}, "tool_choice", None),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", None),
    ({"tools": CHAT_TOOLS, "tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
    ({"tools": CHAT_TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
    ({"tools": CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "invalid_value"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}, "response_format.json_schema.name",
     "invalid_value"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": OPEN, "strict": True}}},
     "response_format", "invalid_json_schema"),
    ({"modalities": ["text", "audio"]}, "audio", "missing_required_parameter"),
    ({"metadata": {str(i): "v" for i in range(17)}}, "metadata", "object_above_max_properties"),
    ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
]  # fmt: skip
RESPONSE = [
    {"temperature": 0.5, "top_p": 1, "max_output_tokens": 16, "max_tool_calls": 1, "truncation": "auto"},
    {"reasoning": {"effort": "xhigh", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    {"text": {"format": {"type": "json_schema", **STRICT}, "verbosity": "low"}},
    {"text": {"format": {"type": "json_object"}}},
    {"tools": TOOLS, "tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": False},
    {"tools": TOOLS, "tool_choice": {"type": "code_interpreter"}},
    {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}},
    {"metadata": {"k": "v"}, "safety_identifier": "u", "prompt_cache_key": "p", "service_tier": "flex"},
]
RESPONSE_REFUSED = [
    ({"temperature": -1}, "temperature", "decimal_below_min_value"),
    ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
    ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
    ({"reasoning": {"depth": 3}}, "reasoning.depth", "unknown_parameter"),
    ({"include": ["everything"]}, "include[0]", "invalid_value"),
    ({"truncation": "never"}, "truncation", "invalid_value"),
    ({"text": {"form": {}}}, "text.form", "unknown_parameter"),
    ({"text": {"format": {"type": "json_schema", "name": "p"}}}, "text.format.schema", "missing_required_parameter"),
    ({"text": {"format": {"type": "json_schema", "name": "p", "schema": OPEN, "strict": True}}}, "text.format.schema",
     "invalid_json_schema"),
    ({"tools": [{"type": "crystal_ball"}]}, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "function", "parameters": {}}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [{"type": "function", "name": "f", "parameters": OPEN, "strict": True}]}, "tools", "invalid_json_schema"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice", "invalid_value"),
    ({"metadata": {"k" * 65: "v"}}, "metadata", "string_above_max_length"),
    ({"safety_identifier": "u" * 65}, "safety_identifier", "string_above_max_length"),
]  # fmt: skip


@pytest.mark.parametrize("given", CHAT)
def test_a_completion_takes_these_options(client, given):
    assert client.chat.completions.create(**MODEL, messages=HELLO, **given).choices


@pytest.mark.parametrize(("given", "param", "code"), CHAT_REFUSED)
def test_a_completion_does_not_take_these_options(client, given, param, code):
    error = refused(client.chat.completions.create, **MODEL, messages=HELLO, **given)
    assert (error.status_code, error.param, error.code) == (400, param, code)


@pytest.mark.parametrize("given", RESPONSE)
def test_a_response_takes_these_options_and_shows_them(client, given):
    made = client.responses.create(**MODEL, input="as json", **given).to_dict()
    shown = {name: value for name, value in given.items() if name not in ("include",)}
    assert {name: made[name] for name in shown} == shown


@pytest.mark.parametrize(("given", "param", "code"), RESPONSE_REFUSED)
def test_a_response_does_not_take_these_options(client, given, param, code):
    error = refused(client.responses.create, **MODEL, input="x", **given)
    assert (error.status_code, error.param, error.code) == (400, param, code)


def test_a_json_object_is_refused_where_nothing_says_json(client):
    error = refused(
        client.chat.completions.create,
        **MODEL,
        messages=[{"role": "user", "content": "x"}],
        response_format={"type": "json_object"},
    )
    assert "must contain the word 'json'" in error.body["message"]
    error = refused(client.responses.create, **MODEL, input="x", text={"format": {"type": "json_object"}})
    assert "must contain the word 'json'" in error.body["message"]
    said = client.responses.create(
        **MODEL, input="x", instructions="Answer in JSON.", text={"format": {"type": "json_object"}}
    )
    assert said.status == "completed"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"max_completion_tokens": 255}, "max_completion_tokens", "integer_below_min_value"),
        ({"truncation_strategy": {"type": "last_messages", "last_messages": 0}}, "truncation_strategy.last_messages",
         "integer_below_min_value"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ],
)  # fmt: skip
def test_a_run_does_not_take_these_options(client, given, param, code):
    assistant = client.beta.assistants.create(**MODEL, response_format="auto", temperature=0.2)
    thread = client.beta.threads.create(messages=HELLO)
    error = refused(client.beta.threads.runs.create, thread.id, assistant_id=assistant.id, **given)
    assert (error.status_code, error.param, error.code) == (400, param, code)
    if "temperature" in given:
        assert refused(client.beta.assistants.create, **MODEL, **given).param == param
