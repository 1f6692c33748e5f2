"""Whatever agents do: each message is journaled once, and the session is as it would be without a ledger."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2
import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SessionSettings,
    function_tool,
    handoff,
    output_guardrail,
)
from agents.extensions import handoff_filters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import threadledger
from threadledger.contrib.agents import Session, recorded_model
from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

from .both_sessions import BothSessions

TEXTS = ("yes", "no")
"""Few texts, so that most are equal to another one."""

NUMBERS = count(1)


@dataclass
class Upstream:
    """Answer calls of models in this process with steps: a text, a number of tool calls, or an HTTP status of 400 or above."""

    steps: list[Any] = field(default_factory=list)
    answered: int = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        step = self.steps.pop(0) if self.steps else "no"
        if isinstance(step, int) and step >= 400:
            return httpx2.Response(
                step, json={"error": {"message": "no"}}, headers={"x-request-id": f"req_{next(NUMBERS)}"}
            )
        self.answered += 1
        is_chat = request.url.path.endswith("/chat/completions")
        return httpx2.Response(200, json=_completion(step) if is_chat else _response(step))


def _calls(step: Any) -> list[dict[str, str]]:
    name = "transfer_to_bob" if step == "Bob" else "look_up"
    number = 1 if step == "Bob" else step
    return [{"id": f"call_{next(NUMBERS)}", "name": name, "arguments": "{}"} for _ in range(number)]


def _completion(step: Any) -> dict[str, Any]:
    calls = [
        {"id": each["id"], "type": "function", "function": {"name": each["name"], "arguments": each["arguments"]}}
        for each in (_calls(step) if _has_calls(step) else ())
    ]
    message = {"role": "assistant", "content": None if calls else step} | ({"tool_calls": calls} if calls else {})
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def _response(step: Any) -> dict[str, Any]:
    reasoning = {"type": "reasoning", "id": f"rs_{next(NUMBERS)}", "summary": []}
    if _has_calls(step):
        items = [
            {"type": "function_call", "call_id": each.pop("id"), "id": f"fc_{next(NUMBERS)}"} | each
            for each in _calls(step)
        ]
        output = [reasoning, *items]
    else:
        said = {"type": "output_text", "text": step, "annotations": []}
        message = {
            "type": "message",
            "id": f"msg_{next(NUMBERS)}",
            "role": "assistant",
            "status": "completed",
            "content": [said],
        }
        output = [reasoning, message]
    body = {"id": f"resp_{next(NUMBERS)}", "object": "response", "created_at": 1, "status": "completed", "model": "m"}
    return body | {"output": output, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


def _has_calls(step: Any) -> bool:
    return step == "Bob" or isinstance(step, int)


@function_tool
def look_up() -> str:
    """Look it up."""
    return "yes"


@output_guardrail
async def refuse_all(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(None, tripwire_triggered=True)


asking = st.tuples(
    st.just("ask"),
    st.sampled_from(TEXTS),
    st.lists(st.integers(1, 2), max_size=2),
    st.sampled_from([*TEXTS, *TEXTS, "Bob", 400, 500]),
    st.sampled_from(["", "", "", "limit", "trim", "guard", "stop", "filter"]),
)
steps = st.lists(
    st.one_of(
        *[asking] * 5,
        st.tuples(st.just("pop")),
        st.tuples(st.just("clear")),
        st.tuples(st.just("add"), st.sampled_from(TEXTS)),
        st.tuples(st.just("look")),
    ),
    min_size=1,
    max_size=8,
)


@dataclass
class Play:
    """Play steps with agents, and count what has to be in the log."""

    ledger: Ledger
    key: str
    by_model: bool
    is_chat: bool
    upstream: Upstream
    client: Any
    both: BothSessions
    added: Counter[str] = field(default_factory=Counter)

    def agent(self, **options: Any) -> Any:
        kind = OpenAIChatCompletionsModel if self.is_chat else OpenAIResponsesModel
        model: Any = kind("m", self.client)
        recorded = recorded_model(model, self.both.ours) if self.by_model else model
        return Agent(name="Ann", model=recorded, **{"tools": [look_up], **options})

    async def ask(self, text: str, calls: list[int], end: Any, how: str) -> None:
        bob = handoff(self._bob(), input_filter=handoff_filters.remove_all_tools)
        options: dict[str, Any] = {"handoffs": [bob]}
        config: dict[str, Any] = {}
        match how:
            case "limit":
                config["session_settings"] = SessionSettings(limit=2)
            case "trim":
                config["session_input_callback"] = lambda history, new: history[:1] + new
            case "filter":
                config["call_model_input_filter"] = _with_reminder
            case "guard":
                options["output_guardrails"] = [refuse_all]
            case "stop":
                options["tool_use_behavior"] = "stop_on_first_tool"
        ends = ["Bob", "yes"] if end == "Bob" else [end]
        self.upstream.steps[:] = [*calls, *ends]
        self.added["user"] += 1
        with suppress(
            openai.APIStatusError, OutputGuardrailTripwireTriggered
        ):  # what a failed run left is compared too
            await Runner.run(self.agent(**options), text, session=self.both, run_config=RunConfig(**config))

    def _bob(self) -> Any:
        return self.agent().clone(name="Bob", handoffs=[])

    async def play(self, steps: list[Any]) -> None:
        for name, *rest in steps:
            match name:
                case "ask":
                    await self.ask(*rest)
                case "pop":
                    await self.both.pop_item()
                case "clear":
                    await self.both.clear_session()
                case "add":
                    self.added["user"] += 1
                    self.added["assistant"] += 1
                    said = {"role": "assistant", "content": rest[0]}
                    await self.both.add_items([{"role": "user", "content": rest[0]}, said])
            await self.both.get_items()
        self.check()

    def check(self) -> None:
        events = list(self.ledger.conversation(self.key).events())
        messages = [each for each in events if isinstance(each, e.MessageJournaled)]
        answers = [each for each in messages if each.role == "assistant" and each.run_id is not None]
        assert len(answers) == self.upstream.answered == len({each.run_id for each in answers})
        asides = sum(each.parent_version is not None for each in messages)
        assert sum(each.role == "user" for each in messages) - asides == self.added["user"]
        by_session = [each for each in messages if each.role == "assistant" and each.run_id is None]
        remade = sum(
            each.reason == "an item was removed from the session"
            for each in events
            if isinstance(each, e.MessageRetracted)
        )
        assert self.added["assistant"] <= len(by_session) <= self.added["assistant"] + remade
        results = [each.tool_call_id for each in messages if each.role == "tool"]
        called = [call["id"] for each in answers for call in each.tool_calls]
        assert set(results) <= set(called)
        assert len(results) == len(set(results))
        started = [each for each in events if isinstance(each, e.RunStarted)]
        ended = [each for each in events if isinstance(each, e.RunCompleted | e.RunFailed)]
        assert len(started) == len(ended)


def _with_reminder(data: Any) -> Any:
    data.model_data.input.append({"role": "user", "content": "reminder"})
    return data.model_data


@pytest.mark.parametrize("by_model", [True, False], ids=["recorded model", "recorded client"])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(is_chat=st.booleans(), steps=steps)
def test_each_message_is_journaled_once_and_the_session_is_as_without_a_ledger(
    ledger: Ledger, by_model: bool, is_chat: bool, steps: Any
) -> None:
    async def story() -> None:
        upstream, key = Upstream(), f"any-{next(NUMBERS)}"
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(upstream))
        async with openai.AsyncOpenAI(api_key="sk-test", max_retries=0, http_client=http) as client:
            used = client if by_model else threadledger.record(client, ledger, key=key)
            both = BothSessions(Session(key, ledger))
            await Play(ledger, key, by_model, is_chat, upstream, used, both).play(steps)
            both.close()

    asyncio.run(story())
