"""Send the same requests to the simulator and to the server, and compare what they answer: they share the provider's protocol.

What is compared is the shape of an answer: its keys with the types of their values, and of a refusal the status, the type, the
parameter and the code.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from threadledger.adapters.wire.routes import ROUTES, Route

from .chat_only import ChatOnly
from .route_requests import FORM, encoded

Json = dict[str, Any]

FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
QUESTION = {"role": "user", "content": "How is the weather?"}
BY_OPERATION = {route.operation: route for route in ROUTES}
ASSISTANTS = {route.operation: route for route in ROUTES if route.api == "assistants"}
OF_FILES = {route.operation: route for route in ROUTES if route.api == "files"}
POLLS_MAX = 10_000


@dataclass
class Side:
    """One of the two providers, with the ids of its objects by the names that the table gives them."""

    base_url: str
    ids: dict[str, Any] = field(default_factory=dict)

    def ask(self, route: Route, given: Json, body: Any = None, query: str = "") -> tuple[int, str, Any]:
        """Send a request; return the status, the content type and the body of the answer."""
        url = urlsplit(self.base_url)
        path = re.sub(r"\{(\w+)\}", lambda found: str(self.put(given.get(found[1], f"${found[1]}"))), route.template)
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        try:
            raw_body, content_type = encoded(self.put(body or {}))
            payload = None if route.method == "GET" else raw_body
            headers = {
                "content-type": content_type,
                "authorization": "Bearer sk-test",
                "openai-beta": "assistants=v2",
            }
            connection.request(route.method, f"{url.path}{path}{self.put(query)}", payload, headers)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        kind = (answer.headers["content-type"] or "").partition(";")[0]
        if kind == "application/octet-stream":
            return answer.status, kind, raw.decode()
        return answer.status, kind, events_in(raw.decode()) if kind == "text/event-stream" else json.loads(raw)

    def put(self, value: Any) -> Any:
        """Return a value with ids in the place of `$name`."""
        if isinstance(value, str):
            return re.sub(r"\$(\w+)", lambda found: str(self.ids.get(found[1], found[0])), value)
        if isinstance(value, dict):
            return {name: self.put(each) for name, each in value.items()}
        return [self.put(each) for each in value] if isinstance(value, list) else value


def events_in(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream: names and data."""
    found = re.findall(r"event: (\S+)\ndata: (.*)", text)
    return [(name, json.loads(data) if data.startswith("{") else data) for name, data in found]


def shape(value: Any) -> Any:
    """Return the shape of a JSON value; a list has the distinct shapes of its elements."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        shapes: list[Any] = []
        for each in map(shape, value):
            if each not in shapes:
                shapes.append(each)
        return shapes
    if isinstance(value, bool) or value is None:
        return value if value is None else "boolean"
    return "number" if isinstance(value, int | float) else "string"


def shown(kind: str, status: int, answer: Any) -> Any:
    """Return what is compared of an answer."""
    if kind == "text/event-stream":
        names = [name for name, _ in answer]
        once = [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
        return once, {name: shape(data) for name, data in answer}
    if status != 200:
        error = answer["error"]
        return status, list(answer), sorted(error), error["type"], error["param"], error["code"]
    return status, kind, shape(answer)


@dataclass(frozen=True)
class Step:
    """One request of the table. `keep` names an id of the answer; `until` are the statuses of a run for which it is polled."""

    operation: str
    ids: Json = field(default_factory=dict)
    body: Any = None
    query: str = ""
    keep: dict[str, str] = field(default_factory=dict)
    until: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.operation} {self.ids or ''} {self.body or ''} {self.query} {self.until or ''}"

    def on(self, side: Side) -> Any:
        """Send it to one side, and return what is compared."""
        for _ in range(POLLS_MAX):
            status, kind, answer = side.ask(BY_OPERATION[self.operation], self.ids, self.body, self.query)
            if not self.until or answer.get("status") in self.until:
                break
        for name, path in self.keep.items():
            value = answer
            for part in path.split("."):
                value = value[int(part)] if isinstance(value, list) else value[part]
            side.ids[name] = value
        return shown(kind, status, answer)


RUN_PATH = {"thread_id": "$thread", "run_id": "$run"}
WAITING = {"thread_id": "$thread", "run_id": "$waiting"}
MESSAGE_PATH = {"thread_id": "$thread", "message_id": "$message"}
OUTPUTS = {"tool_outputs": [{"tool_call_id": "$call", "output": "sunny"}]}
OTHER = {"thread_id": "$other", "run_id": "$waiting"}
LISTS: dict[str, Json] = {
    "list_assistants": {},
    "list_messages": {"thread_id": "$thread"},
    "list_runs": {"thread_id": "$thread"},
    "list_run_steps": RUN_PATH,
}
CALL = {"tool_calls": [{"name": "weather", "arguments": {}}]}
"""The simulator's answer to a question with a function."""

CALL_PLACE = "required_action.submit_tool_outputs.tool_calls.0.id"

STORY = [
    Step("create_assistant", body={"model": "gpt-4o"}, keep={"assistant": "id"}),
    Step(
        "create_assistant",
        body={
            "model": "gpt-4o",
            "name": "John",
            "description": "Helps.",
            "instructions": "Be kind.",
            "tools": [FUNCTION],
            "metadata": {"team": "a"},
            "temperature": 0.3,
            "top_p": 0.9,
            "response_format": {"type": "json_object"},
            "reasoning_effort": "low",
        },
        keep={"caller": "id"},
    ),
    Step("retrieve_assistant", {"assistant_id": "$caller"}),
    Step("list_assistants"),
    Step("list_assistants", query="?limit=1&order=asc"),
    Step("list_assistants", query="?limit=1&order=asc&after=$assistant"),
    Step("modify_assistant", {"assistant_id": "$caller"}, {"name": "Jane", "response_format": "auto"}),
    Step("create_thread"),
    Step("create_thread", body={"messages": [QUESTION], "metadata": {"customer": "42"}}, keep={"thread": "id"}),
    Step("retrieve_thread", {"thread_id": "$thread"}),
    Step("modify_thread", {"thread_id": "$thread"}, {"metadata": {"customer": "43"}}),
    Step("create_message", {"thread_id": "$thread"}, {**QUESTION, "metadata": {"a": "b"}}, keep={"message": "id"}),
    Step(
        "create_message",
        {"thread_id": "$thread"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Like this:"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            ],
        },
    ),
    Step("list_messages", {"thread_id": "$thread"}),
    Step("list_messages", {"thread_id": "$thread"}, query="?limit=1&order=asc&after=$message"),
    Step("retrieve_message", MESSAGE_PATH),
    Step("modify_message", MESSAGE_PATH, {"metadata": {"a": "c"}}),
    # A run that answers
    Step(
        "create_run",
        {"thread_id": "$thread"},
        {
            "assistant_id": "$assistant",
            "instructions": "Be brief.",
            "additional_instructions": "And kind.",
            "additional_messages": [QUESTION],
            "metadata": {"run": "1"},
            "temperature": 0.5,
            "max_prompt_tokens": 1000,
            "max_completion_tokens": 1000,
            "truncation_strategy": {"type": "last_messages", "last_messages": 5},
            "parallel_tool_calls": False,
            "tool_choice": "auto",
        },
        keep={"run": "id"},
    ),
    Step("retrieve_run", RUN_PATH, until=("completed",)),
    Step("modify_run", RUN_PATH, {"metadata": {"run": "2"}}),
    Step("list_runs", {"thread_id": "$thread"}),
    Step("list_messages", {"thread_id": "$thread"}, query="?run_id=$run", keep={"answer": "data.0.id"}),
    Step("list_run_steps", RUN_PATH, keep={"step": "data.0.id"}),
    Step("retrieve_run_step", RUN_PATH | {"step_id": "$step"}),
    Step("cancel_run", RUN_PATH),
    Step("submit_tool_outputs", RUN_PATH, {"tool_outputs": [{"tool_call_id": "call_1", "output": "late"}]}),
    # One that calls a function
    Step(
        "create_run",
        {"thread_id": "$thread"},
        {"assistant_id": "$caller", "additional_messages": [QUESTION]},
        keep={"waiting": "id"},
    ),
    Step("retrieve_run", WAITING, until=("requires_action",), keep={"call": CALL_PLACE}),
    Step("create_run", {"thread_id": "$thread"}, {"assistant_id": "$assistant"}),
    Step("create_message", {"thread_id": "$thread"}, QUESTION),
    Step("list_run_steps", WAITING),
    Step("submit_tool_outputs", WAITING, {"tool_outputs": [{"tool_call_id": "call_other", "output": "sunny"}]}),
    Step("submit_tool_outputs", WAITING, OUTPUTS),
    Step("retrieve_run", WAITING, until=("completed",)),
    Step("list_run_steps", WAITING, query="?order=asc"),
    Step(
        "create_run",
        {"thread_id": "$thread"},
        {"assistant_id": "$caller", "additional_messages": [QUESTION]},
        keep={"waiting": "id"},
    ),
    Step("retrieve_run", WAITING, until=("requires_action",)),
    Step("cancel_run", WAITING),
    Step("retrieve_run", WAITING, until=("cancelled",)),
    Step("list_run_steps", WAITING),
    # Streams
    Step(
        "create_run",
        {"thread_id": "$thread"},
        {"assistant_id": "$assistant", "stream": True, "additional_messages": [QUESTION]},
    ),
    Step("create_thread_and_run", body={"assistant_id": "$caller", "thread": {"messages": [QUESTION]}, "stream": True}),
    Step(
        "create_thread_and_run",
        body={"assistant_id": "$caller", "thread": {"messages": [QUESTION], "metadata": {"a": "b"}}},
        keep={"other": "thread_id", "waiting": "id"},
    ),
    Step("retrieve_run", WAITING | {"thread_id": "$other"}, until=("requires_action",), keep={"call": CALL_PLACE}),
    Step("submit_tool_outputs", WAITING | {"thread_id": "$other"}, OUTPUTS | {"stream": True}),
    # The end
    Step("delete_message", MESSAGE_PATH),
    Step("retrieve_message", MESSAGE_PATH),
    Step("delete_thread", {"thread_id": "$other"}),
    Step("retrieve_thread", {"thread_id": "$other"}),
    Step("delete_assistant", {"assistant_id": "$caller"}),
    Step("retrieve_assistant", {"assistant_id": "$caller"}),
]


MISSING = {
    "assistant_id": "asst_0123",
    "thread_id": "thread_0123",
    "message_id": "msg_0123",
    "run_id": "run_0123",
    "step_id": "step_0123",
}
IDS = {
    "assistant_id": "$caller",
    "thread_id": "$thread",
    "message_id": "$message",
    "run_id": "$run",
    "step_id": "$step",
}
THREAD = {"thread_id": "$thread"}
OBJECTS = [
    Step("create_assistant", body={"model": "gpt-4o"}, keep={"assistant": "id"}),
    Step("create_assistant", body={"model": "gpt-4o", "tools": [FUNCTION]}, keep={"caller": "id"}),
    Step("create_thread", body={"messages": [QUESTION]}, keep={"thread": "id"}),
    Step("list_messages", THREAD, keep={"message": "data.0.id"}),
    Step("create_run", THREAD, {"assistant_id": "$assistant"}, keep={"run": "id"}),
    Step("retrieve_run", RUN_PATH, until=("completed",)),
    Step("list_run_steps", RUN_PATH, keep={"step": "data.0.id"}),
    Step(
        "create_thread_and_run",
        body={"assistant_id": "$caller", "thread": {"messages": [QUESTION]}},
        keep={"other": "thread_id", "waiting": "id"},
    ),
    Step(
        "retrieve_run",
        {"thread_id": "$other", "run_id": "$waiting"},
        until=("requires_action",),
        keep={"call": CALL_PLACE},
    ),
]
BODIES = {
    "create_run": {"assistant_id": "$assistant"},
    "create_message": QUESTION,
    "submit_tool_outputs": OUTPUTS,
}


def missing_objects() -> list[Step]:
    """Return a request for each id in each path, with an id that does not exist and real ones in the other places."""
    found: list[Step] = []
    for operation, route in ASSISTANTS.items():
        for name in re.findall(r"{(\w+)}", route.template):
            ids = {each: IDS[each] for each in re.findall(r"{(\w+)}", route.template)} | {name: MISSING[name]}
            found.append(Step(operation, ids, BODIES.get(operation)))
    return found


LONG = "x" * 513
REFUSED = [
    *missing_objects(),
    Step("create_run", THREAD, {"assistant_id": "asst_0123"}),
    Step("create_thread_and_run", body={"assistant_id": "asst_0123"}),
    Step("create_run", THREAD, {}),
    Step("create_run", THREAD, {"assistant_id": 7}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "temperature": 3}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "top_p": "high"}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "max_prompt_tokens": 1}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "stream": "yes"}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "metadata": {"a": 1}}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "metadata": {"a": LONG}}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "tools": [{"type": "function"}]}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "tool_choice": "sometimes"}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "response_format": {"type": "odd"}}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "truncation_strategy": {"type": "odd"}}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "additional_messages": [{"role": "user"}]}),
    Step("create_run", THREAD, {"assistant_id": "$assistant", "parallel_tool_calls": 1}),
    Step("create_assistant", body={}),
    Step("create_assistant", body={"model": 7}),
    Step("create_assistant", body={"model": "gpt-4o", "name": "x" * 257}),
    Step("create_assistant", body={"model": "gpt-4o", "description": LONG}),
    Step("create_assistant", body={"model": "gpt-4o", "instructions": "x" * 256_001}),
    Step("create_assistant", body={"model": "gpt-4o", "tools": [FUNCTION] * 129}),
    Step("create_assistant", body={"model": "gpt-4o", "temperature": -1}),
    Step("create_assistant", body={"model": "gpt-4o", "metadata": {str(n): "" for n in range(17)}}),
    Step("create_assistant", body={"model": "gpt-4o", "metadata": {"k" * 65: "v"}}),
    Step("create_thread", body={"messages": "Hello"}),
    Step("create_thread", body={"messages": [{"role": "system", "content": "Hello"}]}),
    Step("create_thread", body={"messages": [{"role": "user", "content": ""}]}),
    Step("create_thread", body={"metadata": "a"}),
    Step("create_message", THREAD, {"role": "user"}),
    Step("create_message", THREAD, {"content": "Hello"}),
    Step("create_message", THREAD, {"role": "user", "content": 7}),
    Step("create_message", THREAD, {"role": "user", "content": []}),
    Step("create_message", THREAD, {"role": "user", "content": [{"type": "odd"}]}),
    Step("create_message", THREAD, {"role": "user", "content": [{"type": "text"}]}),
    Step("create_message", THREAD, {"role": "user", "content": "x" * 256_001}),
    Step("modify_message", MESSAGE_PATH, {"metadata": {"a": 7}}),
    Step("modify_thread", THREAD, {"metadata": []}),
    Step("submit_tool_outputs", OTHER, {}),
    Step("submit_tool_outputs", OTHER, {"tool_outputs": []}),
    Step("submit_tool_outputs", OTHER, {"tool_outputs": [{"tool_call_id": "$call", "output": 7}]}),
    Step("submit_tool_outputs", OTHER, {"tool_outputs": [{"tool_call_id": "call_other", "output": "sunny"}]}),
    Step("submit_tool_outputs", RUN_PATH, OUTPUTS),
    Step("cancel_run", RUN_PATH),
    Step("create_run", {"thread_id": "$other"}, {"assistant_id": "$assistant"}),
    Step("create_message", {"thread_id": "$other"}, QUESTION),
    *(Step(operation, ids, query="?limit=many") for operation, ids in LISTS.items()),
    *(Step(operation, ids, query="?order=newest") for operation, ids in LISTS.items()),
    *(Step(operation, ids, query="?after=no_0123") for operation, ids in LISTS.items()),
    *(Step(operation, ids, query="?before=no_0123") for operation, ids in LISTS.items()),
]
"""Requests that both refuse."""

TEXT = {"type": "text", "text": "Hello"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
ODD = {"odd": 1}
UNKNOWN: dict[str, tuple[str, Json, Json]] = {
    "odd": ("create_assistant", {}, {"model": "gpt-4o"} | ODD),
    "tools[0].odd": ("create_assistant", {}, {"model": "gpt-4o", "tools": [FUNCTION | ODD]}),
    "tools[0].function.odd": (
        "create_assistant",
        {},
        {"model": "gpt-4o", "tools": [{"type": "function", "function": {"name": "weather"} | ODD}]},
    ),
    "response_format.odd": ("create_assistant", {}, {"model": "gpt-4o", "response_format": {"type": "text"} | ODD}),
    "messages[0].odd": ("create_thread", {}, {"messages": [QUESTION | ODD]}),
    "thread.odd": ("create_thread_and_run", {}, {"assistant_id": "$assistant", "thread": ODD}),
    "thread.messages[0].odd": (
        "create_thread_and_run",
        {},
        {"assistant_id": "$assistant", "thread": {"messages": [QUESTION | ODD]}},
    ),
    "content[0].odd": ("create_message", THREAD, {"role": "user", "content": [TEXT | ODD]}),
    "content[0].image_url.odd": (
        "create_message",
        THREAD,
        {"role": "user", "content": [{"type": "image_url", "image_url": IMAGE["image_url"] | ODD}]},
    ),
    "tool_outputs[0].odd": (
        "submit_tool_outputs",
        OTHER,
        {"tool_outputs": [{"tool_call_id": "$call", "output": "sunny"} | ODD]},
    ),
    "additional_messages[0].odd": (
        "create_run",
        THREAD,
        {"assistant_id": "$assistant", "additional_messages": [QUESTION | ODD]},
    ),
    "truncation_strategy.odd": (
        "create_run",
        THREAD,
        {"assistant_id": "$assistant", "truncation_strategy": {"type": "auto"} | ODD},
    ),
}


@pytest.fixture
def sides(simulator: Any, upstream: ChatOnly, open_api: Callable[..., Any]) -> tuple[Side, Side]:
    """Return the simulator and the server, whose models call the function of an assistant that has one."""
    upstream.calls_functions = True
    return Side(simulator.base_url), Side(open_api(retries=0).base_url)


def test_the_table_has_every_operation() -> None:
    assert {step.operation for step in STORY} == ASSISTANTS.keys()


@pytest.fixture
def answering(simulator: Any, sides: tuple[Side, Side]) -> tuple[Side, Side]:
    """Return both with an assistant, a thread, an ended run with a step, and one that waits for the call of its function."""
    simulator.answer("Fine.", CALL)
    for side in sides:
        for step in OBJECTS:
            assert step.on(side)[0] == 200, step
    return sides


def test_every_operation_has_the_same_answers_from_both(simulator: Any, sides: tuple[Side, Side]) -> None:
    simulator.answer("Fine.", CALL, "Sunny.", CALL, "Fine.", CALL, CALL, "Sunny.")
    provider, server = sides
    pairs = {f"{number}. {step}": (step.on(provider), step.on(server)) for number, step in enumerate(STORY)}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    # The provider's run is `cancelling` at first; the server's has ended, and says what it used.
    cancelled = [name for name in differing if name.partition(" ")[2] == str(Step("cancel_run", WAITING))]
    was, now = (dict(each[2]) for each in differing.pop(*cancelled))
    assert was | {"cancelled_at": "number", "expires_at": None, "usage": now["usage"]} == now
    assert differing == {}


def test_both_refuse_the_same_requests_in_the_same_way(answering: tuple[Side, Side]) -> None:
    provider, server = answering
    pairs = {str(step): (step.on(provider), step.on(server)) for step in REFUSED}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}
    assert {pair[0][0] for pair in pairs.values()} == {400, 404}


UPLOAD = {FORM: ["notes.txt", "The parcel is in Lyon."], "purpose": "assistants"}
FILE = {"file_id": "$file"}
STORY_OF_FILES = [
    Step("create_file", body=UPLOAD, keep={"file": "id"}),
    Step("create_file", body={**UPLOAD, "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}),
    Step("retrieve_file", FILE),
    Step("retrieve_file_content", FILE),
    Step("list_files"),
    Step("list_files", query="?limit=1&order=asc&purpose=assistants"),
    Step("list_files", query="?after=$file"),
    Step("create_file", body={"purpose": "assistants"}),
    Step("create_file", body={**UPLOAD, "purpose": "odd"}),
    Step("create_file", body={FORM: UPLOAD[FORM]}),
    Step("create_file", body={**UPLOAD, "expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}),
    Step("list_files", query="?after=file-0123"),
    Step("list_files", query="?limit=many"),
    Step("delete_file", FILE),
    *(Step(operation, FILE) for operation in ("retrieve_file", "retrieve_file_content", "delete_file")),
]


def test_files_have_the_same_answers_from_both(sides: tuple[Side, Side]) -> None:
    provider, server = sides
    assert {step.operation for step in STORY_OF_FILES} == OF_FILES.keys()
    pairs = {f"{number}. {step}": (step.on(provider), step.on(server)) for number, step in enumerate(STORY_OF_FILES)}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}


def test_a_run_that_fails_is_the_same_object_and_the_same_stream_from_both(
    answering: tuple[Side, Side], simulator: Any, upstream: ChatOnly
) -> None:
    provider, server = answering
    upstream.fail(500, 500)
    simulator.add_fault("POST /threads/{thread_id}/runs", fail={"code": "server_error"}, times=2)
    steps = [
        Step("create_run", THREAD, {"assistant_id": "$assistant"}, keep={"run": "id"}),
        Step("retrieve_run", RUN_PATH, until=("failed",)),
        Step("list_run_steps", RUN_PATH),
        Step("create_run", THREAD, {"assistant_id": "$assistant", "stream": True}),
    ]
    for step in steps:
        assert step.on(provider) == step.on(server), step


@pytest.mark.parametrize("place", UNKNOWN)
def test_an_unknown_field_is_refused_by_the_simulator_and_ignored_by_the_server(
    answering: tuple[Side, Side], lines: Any, place: str
) -> None:
    provider, server = answering
    operation, ids, body = UNKNOWN[place]
    for side in answering:
        assert Step("create_thread", body={"messages": [QUESTION]}, keep={"thread": "id"}).on(side)[0] == 200
    step = Step(operation, ids, body)
    refused = step.on(provider)
    assert refused[0] == 400
    assert refused[3:] == ("invalid_request_error", place, "unknown_parameter")
    accepted = step.on(server)
    assert accepted[0] == 200
    assert "odd" not in json.dumps(accepted)
    step.on(server)  # again: it is not logged again
    name = re.sub(r"\[\d+\]", "[]", place)
    assert [each.getMessage() for each in lines.of("is not known")] == [
        f"{BY_OPERATION[operation].name}: the field '{name}' is not known and is ignored"
    ]
