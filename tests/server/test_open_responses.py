"""Validate what the server answers to `POST /responses` against the schemas of Open Responses (`open_responses/README.md`).

The scenarios are those of its acceptance tests, over an upstream that has only Chat Completions. Each one is sent twice, plainly
and as a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from .chat_only import ChatOnly
from .speaking import Answered, say

Json = dict[str, Any]

MODEL = "gpt-4o"
HELLO = {"type": "message", "role": "user", "content": "Hello"}
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Return the weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    "strict": False,
}
PERSON = {
    "type": "json_schema",
    "name": "person",
    "schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    "strict": True,
}
OPENAI_NAMES = {f"response.reasoning.{each}": f"response.reasoning_text.{each}" for each in ("delta", "done")}
"""Names of events in Open Responses and at OpenAI, where they differ; the server sends the latter, which all clients know."""

ENDS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


# The schemas


@cache
def description() -> Json:
    """Return the schemas, with one correction: the description allows no other schema of an answer than null."""
    path = Path(__file__).parent / "open_responses" / "schemas.json"
    schemas: Json = json.loads(path.read_text(encoding="utf-8"))["schemas"]
    schemas["JsonSchemaResponseFormat"]["properties"]["schema"] = {"anyOf": [{"type": "object"}, {"type": "null"}]}
    return schemas


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": description()}})


@cache
def names_of_events() -> dict[str, str]:
    """Return the names of the schemas of events by the types of the events."""
    found = {name: schema for name, schema in description().items() if name.endswith("StreamingEvent")}
    names = {schema["properties"]["type"]["enum"][0]: name for name, schema in found.items()}
    return names | {OPENAI_NAMES[name]: names[name] for name in OPENAI_NAMES}


def wrong(name: str, value: Any) -> list[str]:
    """Return where a value differs from a schema, and how."""
    return [f"{name} {each.json_path}: {each.message[:300]}" for each in validator(name).iter_errors(value)]


# What the server answers


@dataclass(frozen=True)
class Event:
    """An event of a stream: its name, and its data."""

    name: str
    data: Json


@dataclass
class Asking:
    """Send requests to a server, and validate them and what is answered."""

    server: Any
    upstream: ChatOnly

    def sent(self, body: Json, status: int = 200) -> Answered:
        request = {"model": MODEL, **body}
        assert wrong("CreateResponseBody", request) == []
        answered = say(self.server, "POST", "/v1/responses", request)
        assert answered.status == status, answered.raw
        return answered

    def plain(self, body: Json) -> Json:
        """Return a response."""
        return self.valid(self.sent(body).json)

    def stream(self, body: Json) -> Json:
        """Return the response with which a stream ends."""
        events = events_in(self.sent(body | {"stream": True}))
        assert [each for event in events for each in wrong_event(event)] == []
        assert in_order(events)
        final = self.valid(events[-1].data["response"])
        assert events[-1].name == ENDS[final["status"]]
        assert put_together(events) == final["output"]
        return final

    def valid(self, response: Json) -> Json:
        """Return a response that is valid, and is the same when it is retrieved."""
        assert wrong("ResponseResource", response) == []
        retrieved = say(self.server, "GET", f"/v1/responses/{response['id']}").json
        assert retrieved == response
        return response


def events_in(answered: Answered) -> list[Event]:
    """Return the events of a stream, which ends with [DONE]."""
    assert answered.headers["content-type"].startswith("text/event-stream")
    frames = answered.raw.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [event_of(frame) for frame in frames[:-2]]


def event_of(frame: str) -> Event:
    name, data = (line.partition(": ")[2] for line in frame.split("\n"))
    return Event(name, json.loads(data))


def wrong_event(event: Event) -> Iterator[str]:
    """Yield what is wrong with an event, by the schema of its type."""
    kind = event.data.get("type")
    if kind != event.name:
        yield f"the event {event.name} has the type {kind}"
    elif kind not in names_of_events():
        yield f"there is no event {kind}"
    else:
        names = {own: name for name, own in OPENAI_NAMES.items()}
        yield from wrong(names_of_events()[kind], event.data | {"type": names.get(kind, kind)})


def in_order(events: list[Event]) -> bool:
    """Return whether the events have increasing numbers, begin with the response, and one of them alone ends it."""
    numbers = [each.data["sequence_number"] for each in events]
    names = [each.name for each in events]
    ends = [name for name in names if name in {*ENDS.values()}]
    return numbers == sorted({*numbers}) and names[0] == "response.created" and ends == names[-1:]


def put_together(events: list[Event]) -> list[Json]:
    """Return the output that the events of a stream give to a client that has read nothing but what was added."""
    output: list[Json] = []
    for data in (each.data for each in events):
        match data:
            case {"type": "response.output_item.added", "item": item, "output_index": index}:
                assert index == len(output)
                output.append(deepcopy(item))
            case {"type": "response.content_part.added", "part": part, "content_index": index}:
                assert index == len(output[data["output_index"]]["content"])
                output[data["output_index"]]["content"].append(deepcopy(part))
            case {"type": "response.output_text.delta", "delta": delta}:
                output[data["output_index"]]["content"][data["content_index"]]["text"] += delta
            case {"type": "response.reasoning_text.delta", "delta": delta, "content_index": index}:
                content = output[data["output_index"]].setdefault("content", [])
                if index == len(content):
                    content.append({"type": "reasoning_text", "text": ""})
                content[index]["text"] += delta
            case {"type": "response.reasoning_text.done", "text": text, "content_index": index}:
                assert output[data["output_index"]]["content"][index]["text"] == text
            case {"type": "response.function_call_arguments.delta", "delta": delta}:
                output[data["output_index"]]["arguments"] += delta
            case {"type": "response.output_text.done", "text": text}:
                assert output[data["output_index"]]["content"][data["content_index"]]["text"] == text
            case {"type": "response.function_call_arguments.done", "arguments": arguments}:
                assert output[data["output_index"]]["arguments"] == arguments
            case {"type": "response.content_part.done", "part": part}:
                assert output[data["output_index"]]["content"][data["content_index"]] == part
            case {"type": "response.output_item.done", "item": item}:
                output[data["output_index"]]["status"] = item["status"]
                assert output[data["output_index"]] == item
            case _:
                pass
        if "item_id" in data:
            assert output[data["output_index"]]["id"] == data["item_id"]
    return output


def text_of(response: Json) -> str:
    """Return the text of a response that has no other output."""
    assert response["status"] == "completed"
    ((part,),) = (item["content"] for item in response["output"])
    return str(part["text"])


@pytest.fixture
def asking(open_api: Callable[..., Any], upstream: ChatOnly) -> Asking:
    return Asking(open_api(retries=0), upstream)


@pytest.fixture(params=["plain", "stream"])
def ask(request: pytest.FixtureRequest, asking: Asking) -> Callable[[Json], Json]:
    """Return a function that sends a request and returns the whole response, which was validated."""
    return asking.plain if request.param == "plain" else asking.stream


Ask = Callable[[Json], Json]
"""Send a request, and return the response."""


# The scenarios


def test_a_text(ask: Ask) -> None:
    assert text_of(ask({"input": [HELLO]})) == "You said: Hello"
    assert text_of(ask({"input": "Hello"})) == "You said: Hello"


def test_a_system_prompt(ask: Ask, upstream: ChatOnly) -> None:
    system = {"type": "message", "role": "system", "content": "Talk like a pirate."}
    said = ask({"input": [system, HELLO], "instructions": "Be brief."})
    assert (text_of(said), said["instructions"]) == ("You said: Hello", "Be brief.")
    assert [each["role"] for each in upstream.requests[-1]["messages"]] == ["system", "system", "user"]


def test_a_tool_call_and_its_result(ask: Ask, upstream: ChatOnly) -> None:
    upstream.calls_functions = True
    given = {"tools": [WEATHER], "tool_choice": "auto"}
    called = ask({"input": [HELLO], **given})
    (call,) = called["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", upstream.arguments)
    assert called["tools"] == [WEATHER]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    assert text_of(ask({"input": [HELLO, call, result], **given})) == "The function said: sunny"
    assert (
        text_of(ask({"input": [result], "previous_response_id": called["id"], **given})) == "The function said: sunny"
    )


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
    ],
    ids=str,
)
def test_a_choice_of_tools(ask: Ask, choice: Any) -> None:
    assert ask({"input": [HELLO], "tools": [WEATHER], "tool_choice": choice})["tool_choice"] == choice


def test_an_image(ask: Ask, upstream: ChatOnly) -> None:
    content = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PICTURE}]
    assert (
        text_of(ask({"input": [{"type": "message", "role": "user", "content": content}]})) == "You said: What is this?"
    )
    shown = upstream.requests[-1]["messages"][-1]["content"]
    assert next(each for each in shown if each["type"] == "image_url")["image_url"]["url"] == PICTURE


def test_several_turns_by_input(ask: Ask, upstream: ChatOnly) -> None:
    history = [HELLO, {"type": "message", "role": "assistant", "content": "Hello! And you are?"}]
    assert (
        text_of(ask({"input": [*history, {"type": "message", "role": "user", "content": "John"}]})) == "You said: John"
    )
    assert [each["role"] for each in upstream.requests[-1]["messages"]] == ["user", "assistant", "user"]


def test_several_turns_by_the_previous_response(ask: Ask, upstream: ChatOnly) -> None:
    first = ask({"input": [HELLO]})
    second = ask({"input": "Who am I?", "previous_response_id": first["id"]})
    assert second["previous_response_id"] == first["id"]
    assert [each["content"] for each in upstream.requests[-1]["messages"]] == ["Hello", "You said: Hello", "Who am I?"]


def test_what_was_used(ask: Ask) -> None:
    usage = ask({"input": [HELLO]})["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (1, 3, 4)


def test_a_structured_output(ask: Ask, upstream: ChatOnly) -> None:
    upstream.says_json = '{"name": "John"}'
    said = ask({"input": [HELLO], "text": {"format": PERSON, "verbosity": "low"}})
    assert json.loads(text_of(said)) == {"name": "John"}
    assert said["text"] == {"format": {"description": None, **PERSON}, "verbosity": "low"}
    assert upstream.requests[-1]["response_format"]["json_schema"]["schema"] == PERSON["schema"]


def test_what_the_model_thought(ask: Ask, upstream: ChatOnly) -> None:
    upstream.thinks = "Let me think."
    output = ask({"input": [HELLO]})["output"]
    (thought,) = [each for each in output if each["type"] == "reasoning"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    (message,) = [each for each in output if each["type"] == "message"]
    assert message["content"][0]["text"] == "You said: Hello"


def test_the_options_of_a_request(ask: Ask) -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.5,
        "max_output_tokens": 100,
        "max_tool_calls": 1,
        "parallel_tool_calls": False,
        "top_logprobs": 0,
        "truncation": "auto",
        "service_tier": "default",
        "safety_identifier": "customer",
        "prompt_cache_key": "key",
        "metadata": {"customer": "42"},
        "reasoning": {"effort": "low", "summary": None},
    }
    said = ask({"input": [HELLO], **options})
    assert {name: said[name] for name in options} == options


def test_an_answer_that_was_cut_off(ask: Ask, upstream: ChatOnly) -> None:
    upstream.reason = "length"
    said = ask({"input": [HELLO], "max_output_tokens": 16})
    assert (said["status"], said["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_a_response_in_the_background(asking: Asking) -> None:
    assert asking.stream({"input": [HELLO], "background": True})["background"] is True
    with asking.upstream.held():
        begun = asking.sent({"input": [HELLO], "background": True}).json
        assert (begun["status"], wrong("ResponseResource", begun)) == ("queued", [])


# Errors


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": [HELLO], "previous_response_id": "resp_0123"}, 400),
        ({"input": [{"type": "function_call_output", "call_id": "call_0", "output": "sunny"}]}, 400),
        ({"input": [HELLO], "background": True, "store": False}, 400),
    ],
    ids=str,
)
def test_a_refused_request(asking: Asking, body: Json, status: int) -> None:
    for sent in (body, body | {"stream": True}):
        assert wrong("ErrorPayload", asking.sent(sent, status).error) == []
    assert asking.upstream.requests == []


def test_an_upstream_that_fails(asking: Asking) -> None:
    asking.upstream.fail(500, 500)
    assert wrong("ErrorPayload", asking.sent({"input": [HELLO]}, 500).error) == []
    failed = asking.stream({"input": [HELLO]})
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["error"]["message"].startswith("failed with 500 (HTTP 500, cause provider_error, run ")


@pytest.mark.parametrize("retries", [0, 1])
def test_an_upstream_that_breaks_off(open_api: Callable[..., Any], upstream: ChatOnly, retries: int) -> None:
    upstream.breaks_off = True
    events = events_in(Asking(open_api(retries=retries), upstream).sent({"input": [HELLO], "stream": True}))
    assert [each for event in events for each in wrong_event(event)] == []
    assert in_order(events)
    final = events[-1].data["response"]
    assert (events[-1].name, final["output"], final["usage"]) == ("response.failed", [], None)


def test_a_server_that_fails_within_a_stream(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any) -> Any:
        raise KeyError("planted")

    monkeypatch.setattr("threadledger.adapters.server.responses.ResponseWriter.end", fail)
    answered = asking.sent({"input": [HELLO], "stream": True})
    events = [event_of(frame) for frame in answered.raw.decode().split("\n\n")[:-1]]
    assert [each for event in events for each in wrong_event(event)] == []
    numbers = [each.data["sequence_number"] for each in events]
    assert (events[-1].name, numbers) == ("error", sorted({*numbers}))
    assert "planted" not in answered.raw.decode()


def test_every_event_and_response_is_validated() -> None:
    assert wrong("ResponseResource", {"id": 7})
    assert [*wrong_event(Event("response.odd", {"type": "response.odd"}))] == ["there is no event response.odd"]
    assert [*wrong_event(Event("response.created", {"type": "response.created", "sequence_number": 0}))]
    assert [*wrong_event(Event("error", {"type": "response.created"}))]
    assert len(names_of_events()) == 24 + len(OPENAI_NAMES)
