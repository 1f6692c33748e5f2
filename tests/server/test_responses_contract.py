"""Send the same requests for conversations and responses to the simulator and to the server, as `test_contract.py` does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.adapters.wire.routes import ROUTES

from .chat_only import ChatOnly
from .test_contract import CALL, Side, Step

Json = dict[str, Any]

MODEL = "gpt-4o"
HELLO = {"type": "message", "role": "user", "content": "How is the weather?"}
FUNCTION = {
    "type": "function",
    "name": "weather",
    "description": "Return the weather.",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    "strict": True,
}
RESULT = {"type": "function_call_output", "call_id": "$call", "output": "sunny"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Fine."}]}
PARTS = {
    "type": "message",
    "role": "user",
    "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
    ],
}
CONVERSATION = {"conversation_id": "$conversation"}
ITEM = {**CONVERSATION, "item_id": "$item"}
RESPONSE = {"response_id": "$response"}
BACKGROUND = {"response_id": "$background"}
ASKED = {"model": MODEL, "input": [HELLO]}
OPTIONS = {
    "instructions": "Answer in JSON.",
    "metadata": {"customer": "42"},
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 100,
    "parallel_tool_calls": False,
    "reasoning": {"effort": "low", "summary": None},
    "text": {"format": {"type": "json_object"}},
    "truncation": "auto",
    "user": "customer",
    "service_tier": "default",
}
ENDED = ("completed", "failed", "cancelled", "incomplete")

STORY = [
    Step("create_conversation"),
    Step(
        "create_conversation",
        body={"items": [HELLO, SAID, PARTS], "metadata": {"customer": "42"}},
        keep={"conversation": "id"},
    ),
    Step("retrieve_conversation", CONVERSATION),
    Step("modify_conversation", CONVERSATION, {"metadata": {"customer": "43"}}),
    Step("create_items", CONVERSATION, {"items": [HELLO]}, keep={"item": "data.0.id"}),
    Step("list_items", CONVERSATION),
    Step("list_items", CONVERSATION, query="?limit=1&order=asc", keep={"first": "data.0.id"}),
    Step("list_items", CONVERSATION, query="?limit=1&order=asc&after=$first"),
    Step("retrieve_item", ITEM),
    Step("delete_item", ITEM),
    Step("retrieve_item", ITEM),
    # Responses
    Step("create_response", body=ASKED, keep={"response": "id"}),
    Step("retrieve_response", RESPONSE),
    Step("list_input_items", RESPONSE),
    Step("create_response", body=ASKED | {"previous_response_id": "$response"}),
    Step("create_response", body=ASKED | {"conversation": "$conversation"}),
    Step("create_response", body=ASKED | {"conversation": {"id": "$conversation"}} | OPTIONS),
    Step("list_items", CONVERSATION, query="?order=asc"),
    Step("create_response", body=ASKED | {"stream": True}),
    Step("count_input_tokens", body=ASKED),
    Step("count_input_tokens", body=ASKED | {"previous_response_id": "$response"}),
    # Functions
    Step(
        "create_response",
        body=ASKED | {"tools": [FUNCTION]},
        keep={"calling": "id", "call": "output.0.call_id"},
    ),
    Step("create_response", body={"model": MODEL, "input": [RESULT], "previous_response_id": "$calling"}),
    Step("create_response", body=ASKED | {"tools": [FUNCTION], "stream": True}),
    # In the background
    Step("create_response", body=ASKED | {"background": True}, keep={"background": "id"}),
    Step("retrieve_response", BACKGROUND, until=ENDED),
    Step("cancel_response", BACKGROUND),
    Step("create_response", body=ASKED | {"background": True, "stream": True}),
    Step("cancel_response", RESPONSE),
    # The end
    Step("delete_response", RESPONSE),
    Step("retrieve_response", RESPONSE),
    Step("delete_conversation", CONVERSATION),
    Step("retrieve_conversation", CONVERSATION),
]

OF_OPEN_RESPONSES = frozenset({"presence_penalty", "frequency_penalty", "top_logprobs"})
"""Fields that Open Responses requires of a response, and the provider's have not."""

BY_OPERATION = {route.operation: route for route in ROUTES if route.api in ("conversations", "responses")}
OBJECTS = [
    Step("create_conversation", body={"items": [HELLO, HELLO]}, keep={"conversation": "id"}),
    Step("list_items", CONVERSATION, keep={"item": "data.0.id"}),
    Step("create_response", body=ASKED, keep={"response": "id"}),
]
MISSING = {"conversation_id": "conv_0123", "item_id": "msg_0123", "response_id": "resp_0123"}
IDS = {"conversation_id": "$conversation", "item_id": "$item", "response_id": "$response"}
BODIES: Json = {"modify_conversation": {"metadata": {}}, "create_items": {"items": [HELLO]}}
LISTS: dict[str, Json] = {"list_items": CONVERSATION, "list_input_items": RESPONSE}


def missing_objects() -> list[Step]:
    """Return a request for each id in each path, with an id that does not exist and real ones in the other places."""
    found: list[Step] = []
    for operation, route in BY_OPERATION.items():
        names = re.findall(r"{(\w+)}", route.template)
        for name in names:
            ids = {each: IDS[each] for each in names} | {name: MISSING[name]}
            found.append(Step(operation, ids, BODIES.get(operation)))
    return found


REFUSED = [
    *missing_objects(),
    Step("create_response", body=ASKED | {"conversation": "conv_0123"}),
    Step("create_response", body=ASKED | {"previous_response_id": "resp_0123"}),
    Step("create_response", body=ASKED | {"conversation": "$conversation", "previous_response_id": "$response"}),
    Step("create_response", body=ASKED | {"conversation": 7}),
    Step("create_response", body=ASKED | {"previous_response_id": 7}),
    Step("create_response", body=ASKED | {"background": True, "store": False}),
    Step("create_response", body=ASKED | {"background": "yes"}),
    Step("create_response", body=ASKED | {"stream": "yes"}),
    Step("create_response", body=ASKED | {"temperature": 3}),
    Step("create_response", body=ASKED | {"top_p": "high"}),
    Step("create_response", body=ASKED | {"max_output_tokens": 1}),
    Step("create_response", body=ASKED | {"max_output_tokens": "many"}),
    Step("create_response", body=ASKED | {"metadata": {"a": 1}}),
    Step("create_response", body=ASKED | {"metadata": {"a": "x" * 513}}),
    Step("create_response", body=ASKED | {"tools": [{"type": "function"}]}),
    Step("create_response", body=ASKED | {"tools": "weather"}),
    Step("create_response", body=ASKED | {"tools": [FUNCTION | {"description": 7}]}),
    Step("create_response", body=ASKED | {"tools": [FUNCTION | {"strict": "yes"}]}),
    Step("create_response", body=ASKED | {"tools": [FUNCTION | {"parameters": "none"}]}),
    Step("create_response", body=ASKED | {"tool_choice": "sometimes"}),
    Step("create_response", body=ASKED | {"tool_choice": 7}),
    Step("create_response", body=ASKED | {"tool_choice": {"type": "function"}}),
    Step("create_response", body=ASKED | {"truncation": "odd"}),
    Step("create_response", body=ASKED | {"service_tier": 7}),
    Step("create_response", body=ASKED | {"max_tool_calls": "many"}),
    Step("create_response", body=ASKED | {"reasoning": {"effort": "odd"}}),
    Step("create_response", body=ASKED | {"text": {"format": {"type": "odd"}}}),
    Step("create_response", body=ASKED | {"text": {"format": {"type": "json_schema"}}}),
    Step("create_response", body=ASKED | {"text": {"verbosity": "odd"}}),
    Step("create_response", body=ASKED | {"parallel_tool_calls": 1}),
    Step("create_response", body=ASKED | {"include": ["odd"]}),
    Step("create_response", body=ASKED | {"top_logprobs": 21}),
    Step("create_response", body=ASKED | {"instructions": 7}),
    Step("create_response", body=ASKED | {"model": 7}),
    Step("create_response", body={"model": MODEL, "input": 7}),
    Step("create_response", body={"model": MODEL, "input": [7]}),
    Step("create_response", body={"model": MODEL, "input": [{"type": "odd"}]}),
    Step("create_response", body={"model": MODEL, "input": [{"role": "odd", "content": "Hello"}]}),
    Step("create_response", body={"model": MODEL, "input": [{"role": "user"}]}),
    Step("create_response", body={"model": MODEL, "input": [{"role": "user", "content": 7}]}),
    Step("create_response", body={"model": MODEL, "input": [{"role": "user", "content": [{"type": "odd"}]}]}),
    Step("create_response", body={"model": MODEL, "input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
    Step(
        "create_response",
        body={"model": MODEL, "input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    ),
    Step("create_response", body={"model": MODEL, "input": [RESULT | {"call_id": "call_0"}]}),
    Step("create_response", body={"model": MODEL, "input": [{"type": "function_call_output", "output": "a"}]}),
    Step("create_response", body={"model": MODEL, "input": [{"type": "function_call_output", "call_id": "a"}]}),
    Step("create_response", body={"model": MODEL, "input": [{"type": "function_call", "call_id": "a"}]}),
    Step("create_conversation", body={"items": "Hello"}),
    Step("create_conversation", body={"items": [HELLO] * 21}),
    Step("create_conversation", body={"metadata": "a"}),
    Step("create_conversation", body={"metadata": {"a": 1}}),
    Step("modify_conversation", CONVERSATION, {}),
    Step("modify_conversation", CONVERSATION, {"metadata": []}),
    Step("create_items", CONVERSATION, {}),
    Step("create_items", CONVERSATION, {"items": [{"role": "user"}]}),
    Step("create_items", CONVERSATION, {"items": [HELLO] * 21}),
    Step("count_input_tokens", body={"input": 7}),
    Step("cancel_response", RESPONSE),
    *(Step(operation, ids, query="?limit=many") for operation, ids in LISTS.items()),
    *(Step(operation, ids, query="?order=newest") for operation, ids in LISTS.items()),
    *(Step(operation, ids, query="?after=msg_0123") for operation, ids in LISTS.items()),
]
"""Requests that both refuse."""


@pytest.fixture
def sides(simulator: Any, upstream: ChatOnly, open_api: Callable[..., Any]) -> tuple[Side, Side]:
    """Return the simulator and the server, whose models call the function of a request that has one."""
    upstream.calls_functions = True
    return Side(simulator.base_url), Side(open_api(retries=0).base_url)


def test_the_table_has_every_operation() -> None:
    assert {step.operation for step in STORY} == BY_OPERATION.keys()


def test_every_operation_has_the_same_answers_from_both(simulator: Any, sides: tuple[Side, Side]) -> None:
    simulator.answer(*["Fine."] * 5, CALL, "Sunny.", CALL, "Fine.", "Fine.")
    provider, server = sides
    pairs = {f"{number}. {step}": (step.on(provider), step.on(server)) for number, step in enumerate(STORY)}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != without_own_fields(pair[1])}
    assert differing == {}


def without_own_fields(value: Any) -> Any:
    """Return the shapes of responses without the fields that only the server has."""
    if isinstance(value, dict):
        return {name: without_own_fields(each) for name, each in value.items() if name not in OF_OPEN_RESPONSES}
    return type(value)(map(without_own_fields, value)) if isinstance(value, list | tuple) else value


def test_both_refuse_the_same_requests_in_the_same_way(sides: tuple[Side, Side]) -> None:
    provider, server = sides
    for side in sides:
        for step in OBJECTS:
            assert step.on(side)[0] == 200, step
    pairs = {str(step): (step.on(provider), step.on(server)) for step in REFUSED}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}
    assert {name: pair[0] for name, pair in pairs.items() if pair[0][0] not in (400, 404)} == {}
