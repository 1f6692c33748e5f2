"""Test every method of the openai SDK's resources, sync and async, against the simulator.

The SDK validates every response against its types. A method that is neither tested nor listed as unsupported fails the
last test, so a new method is noticed.
"""

from __future__ import annotations

import asyncio
import inspect
from functools import cached_property
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai._legacy_response import HttpxBinaryResponseContent
from openai.types import FileDeleted, FileObject, Model
from openai.types.beta import Assistant, AssistantDeleted, Thread, ThreadDeleted
from openai.types.beta.threads import Message, MessageDeleted, Run
from openai.types.beta.threads.runs import RunStep
from openai.types.chat import ChatCompletion, ChatCompletionDeleted, ChatCompletionStoreMessage, ParsedChatCompletion
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.conversations import Message as Item
from openai.types.responses import ParsedResponse, Response, ResponseInputMessageItem
from openai.types.responses.input_token_count_response import InputTokenCountResponse

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
HELLO = [{"role": "user", "content": "hello there"}]
RUN_OUTPUTS = "beta.threads.runs.submit_tool_outputs"
# Its type only allows the role `assistant`, although questions are listed as well.
TYPED_TOO_NARROWLY = {"chat.completions.messages.list"}
NOT_SERVED = {"responses.compact", "responses.connect", "models.delete"}
SURFACES = (
    "beta.assistants", "beta.threads", "beta.threads.messages", "beta.threads.runs", "beta.threads.runs.steps",
    "conversations", "conversations.items", "responses", "responses.input_items", "responses.input_tokens",
    "chat.completions", "chat.completions.messages", "models", "files",
)  # fmt: skip


class World:
    """Create one object of each kind, when a call first needs it; most calls need one or two."""

    def __init__(self, simulator: Any, client: OpenAI) -> None:
        self._simulator, self._client = simulator, client

    @cached_property
    def assistant(self) -> str:
        return self._client.beta.assistants.create(model="any-model").id

    @cached_property
    def thread(self) -> str:
        return self._client.beta.threads.create(messages=HELLO).id

    @cached_property
    def message(self) -> str:
        return self._client.beta.threads.messages.list(self.thread).data[0].id

    @cached_property
    def run(self) -> str:
        runs = self._client.beta.threads.runs
        return runs.create_and_poll(thread_id=self.thread, assistant_id=self.assistant).id

    @cached_property
    def step(self) -> str:
        return self._client.beta.threads.runs.steps.list(self.run, thread_id=self.thread).data[0].id

    @cached_property
    def busy(self) -> str:
        return self._client.beta.threads.create(messages=HELLO).id

    @cached_property
    def queued(self) -> str:
        return self._client.beta.threads.runs.create(self.busy, assistant_id=self.assistant).id

    @cached_property
    def waiting(self) -> str:
        return self._client.beta.threads.create(messages=HELLO).id

    @cached_property
    def _waiting_run(self) -> Run:
        self._simulator.answer(TOOL)
        runs = self._client.beta.threads.runs
        return runs.create_and_poll(thread_id=self.waiting, assistant_id=self.assistant)

    @property
    def pending(self) -> str:
        return self._waiting_run.id

    @property
    def outputs(self) -> list[Any]:
        """Return the tool outputs for the waiting run."""
        (call,) = self._waiting_run.required_action.submit_tool_outputs.tool_calls
        return [{"tool_call_id": call.id, "output": "sunny"}]

    @cached_property
    def conversation(self) -> str:
        return self._client.conversations.create(items=HELLO).id

    @cached_property
    def item(self) -> str:
        return self._client.conversations.items.list(self.conversation).data[0].id

    @cached_property
    def response(self) -> str:
        return self._client.responses.create(model="any-model", input="x").id

    @cached_property
    def background(self) -> str:
        return self._client.responses.create(model="any-model", input="x", background=True).id

    @cached_property
    def completion(self) -> str:
        return self._client.chat.completions.create(model="any-model", messages=HELLO, store=True).id

    @cached_property
    def file(self) -> str:
        return self._client.files.create(file=("a.pdf", b"%PDF"), purpose="user_data").id


@pytest.fixture
def world(simulator):
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client:
        yield World(simulator, client)


# The method, and its result: a type, [a type] for a page of it, or the last event of a stream.
CALLS: dict[str, tuple[Any, Any]] = {
    "beta.assistants.create": (lambda c, w: c(model="any-model"), Assistant),
    "beta.assistants.retrieve": (lambda c, w: c(w.assistant), Assistant),
    "beta.assistants.update": (lambda c, w: c(w.assistant, name="John"), Assistant),
    "beta.assistants.list": (lambda c, w: w.assistant and c(), [Assistant]),
    "beta.assistants.delete": (lambda c, w: c(w.assistant), AssistantDeleted),
    "beta.threads.create": (lambda c, w: c(messages=HELLO), Thread),
    "beta.threads.retrieve": (lambda c, w: c(w.thread), Thread),
    "beta.threads.update": (lambda c, w: c(w.thread, metadata={"k": "v"}), Thread),
    "beta.threads.delete": (lambda c, w: c(w.thread), ThreadDeleted),
    "beta.threads.create_and_run": (lambda c, w: c(assistant_id=w.assistant, thread={"messages": HELLO}), Run),
    "beta.threads.create_and_run stream": (
        lambda c, w: c(assistant_id=w.assistant, thread={"messages": HELLO}, stream=True),
        "thread.run.completed",
    ),
    "beta.threads.create_and_run_poll": (lambda c, w: c(assistant_id=w.assistant, thread={"messages": HELLO}), Run),
    "beta.threads.create_and_run_stream": (
        lambda c, w: c(assistant_id=w.assistant, thread={"messages": HELLO}),
        "thread.run.completed",
    ),
    "beta.threads.messages.create": (lambda c, w: c(w.thread, role="user", content="hi"), Message),
    "beta.threads.messages.retrieve": (lambda c, w: c(w.message, thread_id=w.thread), Message),
    "beta.threads.messages.update": (lambda c, w: c(w.message, thread_id=w.thread, metadata={"k": "v"}), Message),
    "beta.threads.messages.list": (lambda c, w: c(w.thread), [Message]),
    "beta.threads.messages.delete": (lambda c, w: c(w.message, thread_id=w.thread), MessageDeleted),
    "beta.threads.runs.create": (lambda c, w: c(w.thread, assistant_id=w.assistant), Run),
    "beta.threads.runs.create stream": (
        lambda c, w: c(w.thread, assistant_id=w.assistant, stream=True),
        "thread.run.completed",
    ),
    "beta.threads.runs.retrieve": (lambda c, w: c(w.run, thread_id=w.thread), Run),
    "beta.threads.runs.update": (lambda c, w: c(w.run, thread_id=w.thread, metadata={"k": "v"}), Run),
    "beta.threads.runs.list": (lambda c, w: w.run and c(w.thread), [Run]),
    "beta.threads.runs.cancel": (lambda c, w: c(w.queued, thread_id=w.busy), Run),
    "beta.threads.runs.poll": (lambda c, w: c(w.queued, thread_id=w.busy), Run),
    "beta.threads.runs.create_and_poll": (lambda c, w: c(thread_id=w.thread, assistant_id=w.assistant), Run),
    "beta.threads.runs.create_and_stream": (
        lambda c, w: c(thread_id=w.thread, assistant_id=w.assistant),
        "thread.run.completed",
    ),
    "beta.threads.runs.stream": (lambda c, w: c(thread_id=w.thread, assistant_id=w.assistant), "thread.run.completed"),
    RUN_OUTPUTS: (lambda c, w: c(w.pending, thread_id=w.waiting, tool_outputs=w.outputs), Run),
    f"{RUN_OUTPUTS} stream": (
        lambda c, w: c(w.pending, thread_id=w.waiting, tool_outputs=w.outputs, stream=True),
        "thread.run.completed",
    ),
    f"{RUN_OUTPUTS}_and_poll": (
        lambda c, w: c(run_id=w.pending, thread_id=w.waiting, tool_outputs=w.outputs),
        Run,
    ),
    f"{RUN_OUTPUTS}_stream": (
        lambda c, w: c(run_id=w.pending, thread_id=w.waiting, tool_outputs=w.outputs),
        "thread.run.completed",
    ),
    "beta.threads.runs.steps.list": (lambda c, w: c(w.run, thread_id=w.thread), [RunStep]),
    "beta.threads.runs.steps.retrieve": (lambda c, w: c(w.step, thread_id=w.thread, run_id=w.run), RunStep),
    "conversations.create": (lambda c, w: c(items=HELLO), Conversation),
    "conversations.retrieve": (lambda c, w: c(w.conversation), Conversation),
    "conversations.update": (lambda c, w: c(w.conversation, metadata={"k": "v"}), Conversation),
    "conversations.delete": (lambda c, w: c(w.conversation), ConversationDeletedResource),
    "conversations.items.create": (lambda c, w: c(w.conversation, items=HELLO), [Item]),
    "conversations.items.list": (lambda c, w: c(w.conversation), [Item]),
    "conversations.items.retrieve": (lambda c, w: c(w.item, conversation_id=w.conversation), Item),
    "conversations.items.delete": (lambda c, w: c(w.item, conversation_id=w.conversation), Conversation),
    "responses.create": (lambda c, w: c(model="any-model", input="x"), Response),
    "responses.create stream": (lambda c, w: c(model="any-model", input="x", stream=True), "response.completed"),
    "responses.create background": (lambda c, w: c(model="any-model", input="x", background=True), Response),
    "responses.retrieve": (lambda c, w: c(w.response), Response),
    "responses.cancel": (lambda c, w: c(w.background), Response),
    "responses.delete": (lambda c, w: c(w.response), type(None)),
    "responses.parse": (lambda c, w: c(model="any-model", input="x"), ParsedResponse),
    "responses.stream": (lambda c, w: c(model="any-model", input="x"), "response.completed"),
    "responses.input_items.list": (lambda c, w: c(w.response), [ResponseInputMessageItem]),
    "responses.input_tokens.count": (lambda c, w: c(model="any-model", input="x"), InputTokenCountResponse),
    "chat.completions.create": (lambda c, w: c(model="any-model", messages=HELLO), ChatCompletion),
    "chat.completions.create stream": (
        lambda c, w: c(model="any-model", messages=HELLO, stream=True),
        "chat.completion.chunk",
    ),
    "chat.completions.parse": (lambda c, w: c(model="any-model", messages=HELLO), ParsedChatCompletion),
    "chat.completions.stream": (lambda c, w: c(model="any-model", messages=HELLO), "content.done"),
    "chat.completions.retrieve": (lambda c, w: c(w.completion), ChatCompletion),
    "chat.completions.update": (lambda c, w: c(w.completion, metadata={"k": "v"}), ChatCompletion),
    "chat.completions.list": (lambda c, w: w.completion and c(), [ChatCompletion]),
    "chat.completions.delete": (lambda c, w: c(w.completion), ChatCompletionDeleted),
    "chat.completions.messages.list": (lambda c, w: c(w.completion), [ChatCompletionStoreMessage]),
    "files.create": (lambda c, w: c(file=("a.pdf", b"%PDF"), purpose="user_data"), FileObject),
    "files.retrieve": (lambda c, w: c(w.file), FileObject),
    "files.list": (lambda c, w: w.file and c(), [FileObject]),
    "files.delete": (lambda c, w: c(w.file), FileDeleted),
    "files.content": (lambda c, w: c(w.file), HttpxBinaryResponseContent),
    "files.retrieve_content": (lambda c, w: c(w.file), str),
    "files.wait_for_processing": (lambda c, w: c(w.file), FileObject),
    "models.list": (lambda c, w: c(), [Model]),
    "models.retrieve": (lambda c, w: c("gpt-5.5"), Model),
}


def method(client: Any, name: str) -> Any:
    found = client
    for part in name.partition(" ")[0].split("."):
        found = getattr(found, part)
    return found


def last_event(events: list[Any]) -> str:
    kinds = [getattr(e, "event", None) or getattr(e, "type", None) or getattr(e, "object", None) for e in events]
    # Assistants streams end with `done`, which the SDK does not pass on.
    return kinds[-1]


def check(value: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert value.data, "an empty page"
        assert {type(each) for each in value.data} == set(expected)
    elif isinstance(expected, str):
        assert last_event(value) == expected
    else:
        assert isinstance(value, expected)


@pytest.mark.parametrize("name", CALLS)
def test_the_sdk_is_answered(simulator, world, name):
    call, expected = CALLS[name]
    with OpenAI(
        base_url=simulator.base_url,
        api_key="sk-test",
        max_retries=0,
        _strict_response_validation=name not in TYPED_TOO_NARROWLY,
    ) as client:
        value = call(method(client, name), world)
        if isinstance(expected, str):
            with value as stream:
                value = list(stream)
        check(value, expected)


@pytest.mark.parametrize("name", CALLS)
def test_the_async_sdk_is_answered(simulator, world, name):
    call, expected = CALLS[name]

    async def ask() -> Any:
        async with AsyncOpenAI(
            base_url=simulator.base_url,
            api_key="sk-test",
            max_retries=0,
            _strict_response_validation=name not in TYPED_TOO_NARROWLY,
        ) as client:
            value = call(method(client, name), world)
            if inspect.isawaitable(value):
                value = await value
            if isinstance(expected, str):
                async with value as stream:
                    value = [event async for event in stream]
            return value

    check(asyncio.run(ask()), expected)


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI])
def test_no_method_of_the_sdk_is_left_out(kind):
    client = kind(base_url="http://127.0.0.1:9/v1", api_key="sk-test")
    there = {
        f"{surface}.{name}"
        for surface in SURFACES
        for name, _ in inspect.getmembers_static(type(method(client, surface)), inspect.isfunction)
        if not name.startswith("_")
    }
    assert there - {name.partition(" ")[0] for name in CALLS} == NOT_SERVED


@pytest.mark.parametrize("path", ["/responses/compact", "/responses/resp_x/nowhere"])
def test_what_is_not_served_is_refused_by_its_address(simulator, path):
    with (
        OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as client,
        pytest.raises(openai.NotFoundError, match="Invalid URL"),
    ):
        client.post(path, body={}, cast_to=object)
