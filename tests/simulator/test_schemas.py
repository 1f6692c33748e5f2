"""Validate every response and every stream event against OpenAI's OpenAPI description, if it is available."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.described import DESCRIPTION, Schemas
from threadledger.adapters.wire.routes import ROUTES

from . import test_inputs
from .helpers import OUTPUTS

pytestmark = pytest.mark.skipif(not DESCRIPTION.exists(), reason="OpenAI's OpenAPI description is not here")
HELLO = [{"role": "user", "content": "hello there"}]
ASKED = {"model": "any-model", "messages": HELLO, "store": True}
ASKED_RESPONSE = {"model": "any-model", "input": "x y", "stream": True}
TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
# Its schema only allows the role of an answer, although questions are listed as well.
TOO_NARROW = "GET /chat/completions/{completion}/messages .data[0].role: 'user' is none of ['assistant']"
RUN = "/threads/{thread}/runs/{run}"
RESPONSE = "/responses/{response}"
# In this order: the route, the request body, and the names under which ids of the response are kept for later.
TOUR: list[tuple[str, str, Any, dict[str, str]]] = [
    ("POST", "/assistants", {"model": "any-model"}, {"assistant": "id"}),
    ("GET", "/assistants", None, {}),
    ("GET", "/assistants/{assistant}", None, {}),
    ("POST", "/assistants/{assistant}", {"name": "John", "tools": [{"type": "file_search"}]}, {}),
    ("POST", "/threads", {"messages": HELLO}, {"thread": "id"}),
    ("GET", "/threads/{thread}", None, {}),
    ("POST", "/threads/{thread}", {"metadata": {"k": "v"}}, {}),
    ("POST", "/threads/{thread}/messages", HELLO[0], {"message": "id"}),
    ("GET", "/threads/{thread}/messages", None, {}),
    ("GET", "/threads/{thread}/messages/{message}", None, {}),
    ("POST", "/threads/{thread}/messages/{message}", {"metadata": {}}, {}),
    ("POST", "/threads/{thread}/runs", {"assistant_id": "{assistant}"}, {"run": "id"}),
    ("POST", RUN, {"metadata": {}}, {}),
    ("GET", RUN, None, {}),
    ("GET", RUN, None, {"call": "required_action.submit_tool_outputs.tool_calls.0.id"}),
    ("GET", RUN + "/steps", None, {"step": "data.0.id"}),
    ("GET", RUN + "/steps/{step}", None, {}),
    ("POST", RUN + "/submit_tool_outputs", {"tool_outputs": [{"tool_call_id": "{call}", "output": "sunny"}]}, {}),
    ("GET", RUN, None, {}),
    ("GET", RUN, None, {}),
    ("GET", RUN + "/steps", None, {}),
    ("POST", "/threads/runs", {"assistant_id": "{assistant}", "thread": {}}, {"thread2": "thread_id", "run2": "id"}),
    ("POST", "/threads/{thread2}/runs/{run2}/cancel", None, {}),
    ("GET", "/threads/{thread2}/runs", None, {}),
    ("DELETE", "/threads/{thread}/messages/{message}", None, {}),
    ("DELETE", "/threads/{thread}", None, {}),
    ("DELETE", "/assistants/{assistant}", None, {}),
    ("POST", "/conversations", {"items": HELLO}, {"conversation": "id"}),
    ("GET", "/conversations/{conversation}", None, {}),
    ("POST", "/conversations/{conversation}", {"metadata": {"k": "v"}}, {}),
    ("POST", "/conversations/{conversation}/items", {"items": HELLO}, {"item": "data.0.id"}),
    ("GET", "/conversations/{conversation}/items", None, {}),
    ("GET", "/conversations/{conversation}/items/{item}", None, {}),
    ("DELETE", "/conversations/{conversation}/items/{item}", None, {}),
    ("POST", "/responses", {"model": "any-model", "input": "x", "conversation": "{conversation}"}, {"response": "id"}),
    ("GET", RESPONSE, None, {}),
    ("GET", RESPONSE + "/input_items", None, {}),
    ("DELETE", RESPONSE, None, {}),
    ("POST", "/responses", {"model": "any-model", "input": "x", "background": True}, {"response": "id"}),
    ("POST", RESPONSE + "/cancel", None, {}),
    ("POST", "/responses/input_tokens", {"model": "any-model", "input": "x"}, {}),
    ("DELETE", "/conversations/{conversation}", None, {}),
    ("POST", "/chat/completions", ASKED, {"completion": "id"}),
    ("GET", "/chat/completions", None, {}),
    ("GET", "/chat/completions/{completion}", None, {}),
    ("GET", "/chat/completions/{completion}/messages", None, {}),
    ("POST", "/chat/completions/{completion}", {"metadata": {"k": "v"}}, {}),
    ("DELETE", "/chat/completions/{completion}", None, {}),
    ("GET", "/models", None, {"model": "data.0.id"}),
    ("GET", "/models/{model}", None, {}),
]  # fmt: skip


@pytest.fixture
def speak(simulator):
    """Send one plain request, check that its status is 200, and return the text of its response."""
    address = urlsplit(simulator.base_url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    headers = {"authorization": "Bearer sk-test", "openai-beta": "assistants=v2"}

    def ask(method: str, path: str, body: Any = None) -> str:
        connection.request(method, f"/v1{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, f"{method} {path}: {text}"
        return text

    yield ask
    connection.close()


@pytest.fixture(scope="module")
def described():
    return json.loads(DESCRIPTION.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schemas(described):
    return Schemas(described)


def picked(value: Any, path: str) -> str:
    for part in path.split("."):
        value = value[int(part) if part.isdigit() else part]
    return value


def schema_of(described: Any, method: str, template: str, kind: str) -> Any:
    """Return the schema of a path; names of path parameters are ignored."""
    shape = re.sub(r"\{[^}]*\}", "{}", template)
    for path, methods in described["paths"].items():
        if re.sub(r"\{[^}]*\}", "{}", path) == shape:
            return methods[method.lower()]["responses"]["200"].get("content", {}).get(kind, {}).get("schema", {})
    raise AssertionError(template)


def test_every_answer_is_as_it_is_described(speak, simulator, described, schemas):
    ids: dict[str, str] = {}
    found: list[str] = []
    simulator.answer(TOOL)
    for method, template, body, kept in TOUR:
        sent = json.loads(filled(json.dumps(body), ids))
        answer = json.loads(speak(method, filled(template, ids), sent))
        schema = schema_of(described, method, template, "application/json")
        found += [f"{method} {template} {fault}" for fault in schemas.faults(answer, schema)]
        ids |= {name: picked(answer, where) for name, where in kept.items()}
    assert found == [TOO_NARROW]


def filled(text: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: ids[name[1]], text)


def test_the_tour_misses_no_route():
    shapes = {f"{method} {re.sub(r'{[^}]*}', '{}', template)}" for method, template, _, _ in TOUR}
    # Anthropic's, and OpenAI's files and vector stores, which our part of the description does not have: the SDK validates
    # those. Vector stores are the server's alone.
    ours = [route for route in ROUTES if route.api not in ("messages", "files", "vector_stores")]
    assert {re.sub(r"\{[^}]*\}", "{}", route.name) for route in ours} == shapes


def events(text: str) -> list[tuple[str | None, Any]]:
    """Return the events of a stream as sent on the wire: name and JSON."""
    told = []
    for block in filter(None, text.split("\n\n")):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        if lines["data"] != "[DONE]":
            told.append((lines.get("event"), json.loads(lines["data"])))
    return told


@pytest.mark.parametrize("outcome", ["text", "tools", "fail", "incomplete", "end", "background"])
def test_every_event_of_a_response_is_as_it_is_described(speak, simulator, described, schemas, outcome):
    simulator.answer(*[TOOL] if outcome == "tools" else [])
    if outcome in ("fail", "incomplete", "end"):
        action = {"fail": True, "incomplete": "max_output_tokens", "end": "cancelled"}[outcome]
        simulator.add_fault("POST /responses", **{outcome: action})
    told = events(speak("POST", "/responses", ASKED_RESPONSE | {"background": outcome == "background"}))
    check_events(told, described, schemas)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_item_that_a_script_can_contain_is_as_it_is_described(speak, simulator, described, schemas, name):
    simulator.answer(*[{"output": OUTPUTS[name]}] * 4)
    conversation = json.loads(speak("POST", "/conversations", {}))["id"]
    asked = {"model": "any-model", "input": "x", "conversation": conversation}
    response = json.loads(speak("POST", "/responses", asked))
    assert schemas.faults(response, {"$ref": "#/Response"}) == []
    items = json.loads(speak("GET", f"/conversations/{conversation}/items"))
    assert len(items["data"]) == len(OUTPUTS[name]) + 1
    assert schemas.faults(items, {"$ref": "#/ConversationItemList"}) == []
    tools = [{"type": "image_generation", "partial_images": 2}]
    check_events(events(speak("POST", "/responses", ASKED_RESPONSE | {"tools": tools})), described, schemas)
    completion = json.loads(speak("POST", "/chat/completions", ASKED))
    assert schemas.faults(completion, {"$ref": "#/CreateChatCompletionResponse"}) == []
    for _, chunk in events(speak("POST", "/chat/completions", ASKED | {"stream": True})):
        assert schemas.faults(chunk, {"$ref": "#/CreateChatCompletionStreamResponse"}) == []


@pytest.mark.parametrize("name", test_inputs.ITEMS_ACCEPTED)
def test_every_item_that_is_accepted_is_in_the_description(schemas, name):
    given = test_inputs.ITEMS_ACCEPTED[name]
    found = [fault for item in given for fault in schemas.faults(item, {"$ref": "#/InputItem"})]
    # The description requires a field that it does not define and the SDK does not send.
    assert [fault for fault in found if not fault.endswith("lacks request_id")] == []


@pytest.mark.parametrize("name", test_inputs.CHAT_ACCEPTED)
def test_every_part_that_is_accepted_is_in_the_description(schemas, name):
    role, part = test_inputs.CHAT_ACCEPTED[name]
    message = {"role": role, "content": [part], "tool_call_id": "c"}
    assert schemas.faults({"model": "m", "messages": [message]}, {"$ref": "#/CreateChatCompletionRequest"}) == []


def check_events(told: Any, described: Any, schemas: Schemas) -> None:
    by_type = {part["$ref"]: part for part in described["components"]["schemas"]["ResponseStreamEvent"]["anyOf"]}
    for name, event in told:
        assert name == event["type"]
        # Only use the schema of the event's own type, so that a similar event is not accepted.
        own = [part for part in by_type.values() if type_of(described, part) == name]
        assert len(own) == 1, name
        assert schemas.faults(event, own[0]) == []


def type_of(described: Any, part: Any) -> str:
    schema = described["components"]["schemas"][part["$ref"].rpartition("/")[2]]
    return schema["properties"]["type"]["enum"][0]


@pytest.mark.parametrize("answer", ["You said", TOOL])
def test_every_chunk_of_a_completion_is_as_it_is_described(speak, simulator, described, schemas, answer):
    simulator.answer(answer)
    schema = schema_of(described, "POST", "/chat/completions", "text/event-stream")
    told = events(
        speak("POST", "/chat/completions", ASKED | {"stream": True, "stream_options": {"include_usage": True}})
    )
    assert len(told) > 4
    for _, chunk in told:
        assert schemas.faults(chunk, schema) == []


@pytest.mark.parametrize("outcome", ["text", "tools", "fail", "incomplete", "end"])
def test_every_object_in_the_stream_of_a_run_is_as_it_is_described(speak, simulator, schemas, outcome):
    simulator.answer(*[TOOL] if outcome == "tools" else [])
    if outcome in ("fail", "incomplete", "end"):
        action = {"fail": True, "incomplete": "max_completion_tokens", "end": "expired"}[outcome]
        simulator.add_fault("POST /threads/runs", **{outcome: action})
    assistant = json.loads(speak("POST", "/assistants", {"model": "any-model"}))["id"]
    body = {"assistant_id": assistant, "thread": {"messages": HELLO}, "stream": True}
    told = events(speak("POST", "/threads/runs", body))
    for name, value in told:
        if not name.endswith(".delta"):  # the description has no separate schema for these
            named = {"thread.run": "RunObject", "thread.run.step": "RunStepObject", "thread.message": "MessageObject"}
            schema = named.get(name.rpartition(".")[0], "ThreadObject")
            assert schemas.faults(value, {"$ref": f"#/{schema}"}) == [], name
