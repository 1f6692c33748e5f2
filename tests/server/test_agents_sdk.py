"""Run apps on OpenAI's Agents SDK against the server, over an upstream that has only Chat Completions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from .chat_only import ChatOnly

T = TypeVar("T")

UNTRACED = RunConfig(tracing_disabled=True)


@function_tool
def weather(place: str) -> str:
    """Return the weather of a place."""
    return f"rain in {place}"


class Person(BaseModel):
    name: str


@pytest.fixture
def during(open_api: Callable[..., Any], upstream: ChatOnly) -> Callable[[Callable[[AsyncOpenAI], Awaitable[T]]], T]:
    """Return a function that runs an app with a client of the server."""
    server = open_api()

    def run(app: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        async def connected() -> T:
            async with AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
                return await app(client)

        return asyncio.run(connected())

    return run


def agent(client: AsyncOpenAI, **options: Any) -> Agent[Any]:
    model = OpenAIResponsesModel("gpt-4o", client)
    return Agent("John", instructions="Be brief.", model=model, **options)


def shown(upstream: ChatOnly) -> list[Any]:
    """Return the texts that the model was shown last."""
    return [each["content"] for each in upstream.requests[-1]["messages"]]


def test_an_agent_answers(during: Any, upstream: ChatOnly) -> None:
    async def app(client: AsyncOpenAI) -> Any:
        return await Runner.run(agent(client), "Hello", run_config=UNTRACED)

    result = during(app)
    assert result.final_output == "You said: Hello"
    assert result.context_wrapper.usage.total_tokens > 0
    assert shown(upstream) == ["Be brief.", "Hello"]


def test_an_agent_remembers_in_a_conversation(during: Any, upstream: ChatOnly) -> None:
    async def app(client: AsyncOpenAI) -> Any:
        session = OpenAIConversationsSession(openai_client=client)
        john = agent(client, tools=[weather])
        upstream.calls_functions = True
        for text in ("How is the weather?", "And tomorrow?"):
            result = await Runner.run(john, text, session=session, run_config=UNTRACED)
            assert result.final_output == "The function said: rain in Lyon"
        items = await session.get_items()
        last = await session.pop_item()
        left = await session.get_items()
        await session.clear_session()
        return items, last, left, await session.get_items()

    items, last, left, cleared = during(app)
    kinds = [each.get("role", each["type"]) for each in items]
    assert kinds == ["user", "function_call", "function_call_output", "assistant"] * 2
    assert shown(upstream)[:3] == ["Be brief.", "How is the weather?", None]
    assert (last, left, cleared) == (items[-1], items[:-1], [])


def test_an_agent_continues_a_conversation_of_the_server(during: Any, upstream: ChatOnly) -> None:
    async def app(client: AsyncOpenAI) -> Any:
        conversation = await client.conversations.create()
        for text in ("One", "Two"):
            await Runner.run(agent(client), text, conversation_id=conversation.id, run_config=UNTRACED)
        return [item async for item in client.conversations.items.list(conversation.id, order="asc")]

    items = during(app)
    assert [each.content[0].text for each in items] == ["One", "You said: One", "Two", "You said: Two"]
    assert shown(upstream) == ["Be brief.", "One", "You said: One", "Two"]


def test_an_agent_continues_a_response(during: Any, upstream: ChatOnly) -> None:
    async def app(client: AsyncOpenAI) -> Any:
        upstream.calls_functions = True
        john = agent(client, tools=[weather])
        first = await Runner.run(john, "One", auto_previous_response_id=True, run_config=UNTRACED)
        return await Runner.run(john, "Two", previous_response_id=first.last_response_id, run_config=UNTRACED)

    assert during(app).final_output == "The function said: rain in Lyon"
    assert [each["role"] for each in upstream.requests[-2]["messages"]] == [
        "system", "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip


def test_an_agent_streams(during: Any, upstream: ChatOnly) -> None:
    upstream.calls_functions = True

    async def app(client: AsyncOpenAI) -> Any:
        result = Runner.run_streamed(agent(client, tools=[weather]), "How is the weather?", run_config=UNTRACED)
        events = [event async for event in result.stream_events()]
        return result.final_output, events

    said, events = during(app)
    raw = [each.data for each in events if each.type == "raw_response_event"]
    assert "".join(each.delta for each in raw if each.type == "response.output_text.delta") == said
    assert said == "The function said: rain in Lyon"
    names = [each.name for each in events if each.type == "run_item_stream_event"]
    assert names == ["tool_called", "tool_output", "message_output_created"]


def test_an_agent_has_a_structured_output(during: Any, upstream: ChatOnly) -> None:
    upstream.says_json = '{"name": "Ada"}'

    async def app(client: AsyncOpenAI) -> Any:
        settings = ModelSettings(temperature=0.1, max_tokens=100, metadata={"team": "a"}, store=True)
        john = agent(client, output_type=Person, model_settings=settings)
        return await Runner.run(john, "Hello", run_config=UNTRACED)

    assert during(app).final_output == Person(name="Ada")
    assert upstream.requests[-1]["response_format"]["type"] == "json_schema"
