"""Use the server as an Azure resource: `AzureOpenAI` with the server's root as its endpoint, over `/openai/...` paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from .chat_only import ChatOnly

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API


@pytest.fixture
def azure(open_api: Callable[..., Any]) -> Iterator[Any]:
    """Yield an Azure client of the server."""
    root = open_api().base_url.removesuffix("/v1")
    with openai.AzureOpenAI(
        azure_endpoint=root, api_version="2024-05-01-preview", api_key="any", max_retries=0
    ) as client:
        assert str(client.base_url) == f"{root}/openai/"
        yield client


def told(azure: Any, thread_id: str) -> list[tuple[str, str]]:
    """Return the roles and texts of a thread."""
    messages = azure.beta.threads.messages.list(thread_id, order="asc", limit=2)
    return [(each.role, "".join(part.text.value for part in each.content)) for each in messages]


def test_the_azure_client_makes_a_thread_and_polls_its_run(azure: Any) -> None:
    assistant = azure.beta.assistants.create(model="my-deployment", name="John")
    thread = azure.beta.threads.create(metadata={"customer": "42"})
    azure.beta.threads.messages.create(thread.id, role="user", content="Hello")
    run = azure.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert (run.status, run.model) == ("completed", "my-deployment")
    assert told(azure, thread.id) == [("user", "Hello"), ("assistant", "You said: Hello")]
    assert azure.beta.assistants.retrieve(assistant.id).name == "John"
    assert [each.id for each in azure.beta.threads.runs.list(thread.id)] == [run.id]
    assert azure.beta.threads.delete(thread.id).deleted
    with pytest.raises(openai.NotFoundError):
        azure.beta.threads.retrieve(thread.id)


def test_the_azure_client_streams_a_run_and_submits_outputs_within_a_stream(azure: Any, upstream: ChatOnly) -> None:
    upstream.calls_functions = True
    assistant = azure.beta.assistants.create(model="my-deployment", tools=[WEATHER])
    thread = azure.beta.threads.create(messages=[{"role": "user", "content": "How is the weather?"}])
    runs = azure.beta.threads.runs
    with runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        asked = stream.get_final_run()
    (call,) = asked.required_action.submit_tool_outputs.tool_calls
    outputs = [{"tool_call_id": call.id, "output": "sunny"}]
    with runs.submit_tool_outputs_stream(run_id=asked.id, thread_id=thread.id, tool_outputs=outputs) as stream:
        text = "".join(stream.text_deltas)
    assert text == "The function said: sunny"
    assert told(azure, thread.id)[-1] == ("assistant", text)


def test_the_azure_client_cancels_a_run(azure: Any, upstream: ChatOnly) -> None:
    upstream.calls_functions = True
    assistant = azure.beta.assistants.create(model="my-deployment", tools=[WEATHER])
    question = {"role": "user", "content": "How is the weather?"}
    run = azure.beta.threads.create_and_run_poll(assistant_id=assistant.id, thread={"messages": [question]})
    assert run.status == "requires_action"
    assert azure.beta.threads.runs.cancel(run.id, thread_id=run.thread_id).status == "cancelled"


def test_the_azure_client_completes_a_chat_at_the_path_of_its_deployment(azure: Any, upstream: ChatOnly) -> None:
    question = [{"role": "user", "content": "Hello"}]
    whole = azure.chat.completions.create(model="my-deployment", messages=question)
    assert (whole.model, whole.choices[0].message.content) == ("my-deployment", "You said: Hello")
    with azure.chat.completions.create(model="my-deployment", messages=question, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == "You said: Hello"
    assert [each["model"] for each in upstream.requests] == ["my-deployment"] * 2
