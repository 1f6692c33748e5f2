"""What the Messages API is sent: any history is accepted, and nothing that was said is lost.

That every memory is accepted, the poison corpus included, is proved with the other backends in test_valid_view.py.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.adapters.anthropic import request_of
from threadledger.adapters.wire import ApiError, messages_api

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
FUNCTION = {"type": "function", "function": {"name": "weather", "description": "", "parameters": None}}


def user(content):
    return {"role": "user", "content": content}


def model(content=None, *calls):
    made = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": given}} for id_, name, given in calls
    ]
    return {"role": "assistant", "content": content} | ({"tool_calls": made} if made else {})


def result(call_id, content="42"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def text(said):
    return {"type": "text", "text": said}


def check(request):
    """Raise what the API refuses in a request with this history."""
    body = {"model": "claude", "max_tokens": 1} | request
    json.dumps(body, allow_nan=False).encode()
    messages_api.check_request(json.loads(json.dumps(body)))


def turns(*messages):
    request = request_of(messages)
    check(request)
    return request["messages"]


# What each kind of message becomes


def test_instructions_of_any_place_are_the_system_text():
    request = request_of(
        [{"role": "system", "content": "Be nice."}, user("Hi."), {"role": "developer", "content": "Be brief."}]
    )
    assert request == {"system": "Be nice.\n\nBe brief.", "messages": [user([text("Hi.")])]}


def test_messages_of_one_role_in_a_row_become_one_turn():
    assert turns(user("a"), user("b"), model("c"), model("d"), user("e")) == [
        user([text("a"), text("b")]),
        {"role": "assistant", "content": [text("c"), text("d")]},
        user([text("e")]),
    ]


def test_a_history_that_begins_or_ends_with_the_model_gets_a_turn_of_the_user_there():
    assert [turn["role"] for turn in turns(model("Hello!"))] == ["user", "assistant", "user"]


@pytest.mark.parametrize("blank", ["", " \n", None, [], [{"type": "text", "text": "  "}]])
def test_an_empty_message_is_left_out(blank):
    assert turns(user("a"), model(blank), user(blank), user("b")) == [user([text("a"), text("b")])]
    assert turns(user(blank)) == [user([text("[empty message]")])]


def test_calls_and_their_results_become_blocks_with_the_results_first():
    asked = model("Let me see.", ("c1", "weather", '{"city": "Bern"}'), ("c2", "time", ""))
    assert turns(user("?"), asked, result("c1", "sunny"), result("c2", ""), user("And?")) == [
        user([text("?")]),
        {
            "role": "assistant",
            "content": [
                text("Let me see."),
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
                {"type": "tool_use", "id": "c2", "name": "time", "input": {}},
            ],
        },
        user(
            [
                {"type": "tool_result", "tool_use_id": "c1", "content": [text("sunny")]},
                {"type": "tool_result", "tool_use_id": "c2"},
                text("And?"),
            ]
        ),
    ]


def test_a_call_without_a_result_gets_one_that_says_so_and_a_result_without_a_call_is_left_out():
    _, _, given = turns(user("?"), result("before"), model(None, ("c", "f", "{}")), user("And?"), result("c", "late"))
    assert given["content"] == [
        {"type": "tool_result", "tool_use_id": "c", "content": [text("[no result of this call was recorded]")]},
        text("And?"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"value": ', {"arguments": '{"value": '}),
        ("[1]", {"arguments": [1]}),
        ('{"a": NaN}', {"arguments": '{"a": NaN}'}),
        ('{"a": 1e999}', {"arguments": '{"a": 1e999}'}),
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
)
def test_arguments_are_an_object_whatever_the_model_wrote(arguments, sent):
    _, used, _ = turns(user("?"), model(None, ("c", "f", arguments)), result("c"))
    assert used["content"][0]["input"] == sent


def test_an_id_that_is_used_twice_and_a_name_that_the_api_refuses_are_replaced_in_the_call_and_its_result():
    calls = [("c 1", "a.b", "{}"), ("c 1", "", "{}")]
    _, first, results, again, _ = turns(
        user("?"),
        model(None, *calls),
        result("c 1", "x"),
        result("c 1", "y"),
        model(None, calls[0]),
        result("c 1", "z"),
    )
    used = first["content"] + again["content"]
    assert [(use["id"], use["name"]) for use in used] == [("c_1", "a_b"), ("c_1_2", "unknown"), ("c_1_3", "a_b")]
    assert [(each["tool_use_id"], each["content"][0]["text"]) for each in results["content"]] == [
        ("c_1", "x"),
        ("c_1_2", "y"),
    ]


def test_images_are_sent_by_their_data_or_by_their_url_and_other_parts_by_their_name():
    def image(url):
        return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}

    parts = [
        text("Look."),
        image(f"data:image/png;base64,{PIXEL}"),
        image("https://example.com/a.png"),
        image("data:image/bmp;base64,Qk0="),
        image("data:image/png;base64,###"),
        image("file-1"),
        {"type": "input_audio", "input_audio": {}},
    ]
    (turn,) = turns(user(parts))
    assert turn["content"] == [
        text("Look."),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        *[text("[image_url not shown]")] * 3,
        text("[input_audio not shown]"),
    ]


def test_a_model_cannot_have_sent_an_image():
    assert turns(user("?"), model([{"type": "image_url", "image_url": {"url": "https://e.com/a.png"}}]), user("!"))[
        1
    ] == {
        "role": "assistant",
        "content": [text("[image_url not shown]")],
    }


def test_offered_functions_have_a_schema_of_an_object():
    request = request_of([user("?")], [FUNCTION, {"type": "web_search"}])
    check(request)
    assert request["tools"] == [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}]


def test_tools_that_were_used_before_are_defined_and_cannot_be_called_if_none_are_offered():
    request = request_of([user("?"), model(None, ("c", "old", "{}")), result("c"), user("!")])
    check(request)
    assert request["tools"] == [{"name": "old", "input_schema": {"type": "object"}}]
    assert request["tool_choice"] == {"type": "none"}


# Any history

texts = st.sampled_from(["", " ", "hello", "\u2028", "a\x00b", "😀"]) | st.text(max_size=5)
ids = st.sampled_from(["c", "c", "c 1", "", "é", "call_1"])
arguments = st.sampled_from(["", "{}", '{"a": 1}', '{"a": ', "[1]", "1", '"x"', "null", '{"a": Infinity}']) | st.text(
    max_size=5
)
urls = st.sampled_from(
    ["", "file-1", "https://e.com/a.png", "http://", f"data:image/png;base64,{PIXEL}", "data:image/png;base64,"]
)
parts = st.one_of(
    st.builds(lambda said: {"type": "text", "text": said}, texts),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, urls),
    st.sampled_from(
        [{"type": "file", "file": {"file_id": "f"}}, {"type": "refusal", "refusal": "no"}, {"type": 7}, {}]
    ),
)
contents = texts | st.lists(parts, max_size=3) | st.none()
calls = st.builds(
    lambda id_, name, given: {"id": id_, "type": "function", "function": {"name": name, "arguments": given}},
    ids,
    st.sampled_from(["f", "a.b", "", "multi_tool_use.parallel", "x" * 80]),
    arguments,
)
messages = st.one_of(
    st.builds(
        lambda role, said: {"role": role, "content": said},
        st.sampled_from(["user", "system", "developer", "x"]),
        contents,
    ),
    st.builds(
        lambda said, made: {"role": "assistant", "content": said} | ({"tool_calls": made} if made else {}),
        contents,
        st.lists(calls, max_size=3)
        | st.sampled_from([[{"id": 1, "type": "custom", "custom": {"name": "n", "input": "x"}}]]),
    ),
    st.builds(lambda id_, said: {"role": "tool", "tool_call_id": id_, "content": said}, ids, contents),
)


@for_all(st.lists(messages, max_size=8))
def test_any_messages_are_accepted_even_if_calls_and_results_are_not_paired(history):
    check(request_of(history))


@for_all(
    st.lists(
        st.builds(lambda role, said: {"role": role, "content": said}, st.sampled_from(["user", "assistant"]), texts)
    )
)
def test_every_text_that_is_not_blank_is_sent_in_its_order(history):
    sent = [block["text"] for turn in turns(*history) for block in turn["content"]]
    said = [message["content"] for message in history if message["content"].strip()]
    fillers = {"[the conversation begins with your message]", "[continue]", "[empty message]"}
    assert [each for each in sent if each not in fillers] == said


PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"frequency_penalty": 1}, "frequency_penalty: Extra inputs are not permitted"),
        ({"messages": []}, "at least one message"),
        ({"messages": [model("hi"), user("?")]}, "first message must use"),
        ({"messages": [user("a"), user("b")]}, "roles must alternate"),
        ({"messages": [{"role": "system", "content": "a"}]}, 'Unexpected role "system"'),
        ({"messages": [user("a"), model("b")]}, "must end with a user message"),
        ({"messages": [user("")]}, "non-empty content"),
        ({"messages": [user(" ")]}, "non-whitespace text"),
        ({"messages": [user([text("")])]}, "must be non-empty"),
        ({"messages": [user([text("a") | {"x": 1}])]}, "Extra inputs are not permitted"),
        ({"messages": [user([{"type": "file"}])]}, "does not match any of the expected tags"),
        ({"messages": [user([{"type": "image", "source": {"type": "base64", "data": "#"}}])]}, "source"),
        (
            {"messages": [user([{"type": "image", "source": PNG | {"data": ""}}])]},
            "image.source.base64.data: data cannot be",
        ),
        ({"messages": [user([{"type": "document", "source": PNG}])]}, "document.source: Input should be a PDF"),
        ({"messages": [user([{"type": "document", "source": PDF | {"data": "A"}}])]}, "invalid base64 data"),
        ({"messages": [user([{"type": "document", "source": PDF, "name": "a"}])]}, "document.name: Extra inputs"),
        ({"tools": [{"name": "a.b", "input_schema": {"type": "object"}}]}, "should match pattern"),
        ({"tools": [{"name": "a"}]}, "input_schema"),
        ({"tools": [{"name": "a", "input_schema": {"type": "object"}}] * 2}, "must be unique"),
    ],
)
def test_the_check_refuses_what_the_api_refuses(change, refused):
    body = {"model": "claude", "max_tokens": 1, "messages": [user("hi")]} | change
    with pytest.raises(ApiError, match=refused):
        messages_api.check_request(body)


@pytest.mark.parametrize(
    "source",
    [
        PDF,
        {"type": "text", "media_type": "text/plain", "data": "a"},
        {"type": "url", "url": "https://a.example/a.pdf"},
        {"type": "content", "content": "a"},
        {"type": "content", "content": [text("a"), {"type": "image", "source": PNG}]},
    ],
)
def test_the_check_accepts_documents(source):
    document = {"type": "document", "source": source, "title": "a.pdf"}
    messages_api.check_request({"model": "claude", "max_tokens": 1, "messages": [user([document])]})


USE = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": "42"}


@pytest.mark.parametrize(
    ("used", "given", "refused"),
    [
        ([USE], [text("a")], "were found without `tool_result` blocks immediately after: c"),
        ([USE], [text("a"), RESULT], "were found without `tool_result` blocks immediately after: c"),
        ([text("a")], [RESULT], "unexpected `tool_use_id` found in `tool_result` blocks: c"),
        ([USE], [RESULT, RESULT], "must have a single result"),
        ([USE, USE], [RESULT], "ids must be unique"),
        ([USE | {"input": "{}"}], [RESULT], "valid dictionary"),
        ([USE | {"id": "c 1"}], [RESULT], "tool_use.id: String should match pattern"),
        ([USE | {"name": "a.b"}], [RESULT], "tool_use.name: String should match pattern"),
    ],
)
def test_the_check_refuses_calls_and_results_that_do_not_fit(used, given, refused):
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    body = {
        "model": "claude",
        "max_tokens": 1,
        "messages": [user("?"), {"role": "assistant", "content": used}, user(given)],
    }
    with pytest.raises(ApiError, match=refused):
        messages_api.check_request(body | {"tools": tools})
    fitting = body | {"messages": [user("?"), {"role": "assistant", "content": [USE]}, user([RESULT])]}
    messages_api.check_request(fitting | {"tools": tools})
    with pytest.raises(ApiError, match="must include `tools`"):
        messages_api.check_request(fitting)
